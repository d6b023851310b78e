//! Memory that a device may reach: where it lies for the device, and who owns it when.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::arena::{Arena, ArenaError, HUGE_PAGE};
use crate::iova::Addresses;
use crate::transport::{NoDevice, Transport, TransportError};

/// Buffers start at multiples of this many bytes, for the CPU and for the device, and take
/// whole multiples of it: the smallest page that NVMe and most devices know.
pub const PAGE: usize = 4096;

/// DMA memory that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// The memory itself is missing.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The transport cannot map it.
    #[error("cannot map {len} bytes for DMA: {error}")]
    Map {
        /// Bytes.
        len: usize,
        /// What the transport said.
        #[source]
        error: TransportError,
    },
    /// No I/O virtual address is left for it.
    #[error("no {len} bytes of free I/O virtual address space below {limit:#x}")]
    NoAddress {
        /// Bytes.
        len: usize,
        /// The highest address that the device reaches.
        limit: u64,
    },
    /// The arena that the device was given has no room for it.
    #[error("no {len} bytes are left in the arena of this device")]
    Full {
        /// Bytes.
        len: usize,
    },
    /// A buffer of no bytes, or of more than any memory holds.
    #[error("{0} bytes are no size of a DMA buffer")]
    Size(usize),
}

/// The I/O virtual address space of one device and the arenas mapped in it.
pub struct DmaSpace {
    transport: Arc<dyn Transport>,
    state: Mutex<SpaceState>,
}

struct SpaceState {
    addresses: Addresses,
    // Arenas that buffers are cut from. Weak: an arena lives as long as a buffer of it.
    arenas: Vec<Weak<DmaMemory>>,
    // The youngest is kept, so that a buffer freed and taken again maps nothing anew; not once
    // the device was let go, for it keeps the space in turn.
    current: Option<Arc<DmaMemory>>,
    released: bool,
    // Whether nothing but the arena that is there can be had.
    fixed: bool,
}

/// An arena mapped for one device. Unmapped when the last buffer in it is dropped.
pub struct DmaMemory {
    space: Arc<DmaSpace>,
    arena: Arc<Arena>,
    iova: u64,
}

/// A buffer in DMA memory: at least 4 KiB aligned and contiguous for the CPU and the device.
///
/// It moves: whoever has the `DmaBuf` may touch the bytes. A driver takes it with a request
/// and gives it back with the completion, so the type says who owns it. A device that writes
/// into a buffer after it said it was done can still change its bytes (the IOMMU knows nothing
/// of ownership): copy what must not change before checking it.
pub struct DmaBuf {
    base: NonNull<u8>,
    iova: u64,
    len: usize,
    memory: Arc<DmaMemory>,
}

// SAFETY: a `DmaBuf` owns its bytes exclusively (the allocator hands an extent out once) and
// keeps the arena that they lie in; any thread may hold it.
unsafe impl Send for DmaBuf {}
// SAFETY: `&DmaBuf` only allows reading.
unsafe impl Sync for DmaBuf {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is complete before anything that can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DmaSpace {
    /// The address space that `transport` offers.
    pub fn new(transport: Arc<dyn Transport>) -> Arc<Self> {
        let state = SpaceState {
            addresses: Addresses::default(),
            arenas: Vec::new(),
            current: None,
            released: false,
            fixed: false,
        };
        Arc::new(Self { transport, state: Mutex::new(state) })
    }

    /// The address space of a device that somebody else holds, who mapped `arena` at `iova` and
    /// maps nothing more: all buffers are cut from there.
    pub fn of_arena(transport: Arc<dyn Transport>, arena: Arc<Arena>, iova: u64) -> Arc<Self> {
        let space = Self::new(transport);
        let memory = Arc::new(DmaMemory { space: space.clone(), arena, iova });
        let mut state = lock(&space.state);
        state.arenas.push(Arc::downgrade(&memory));
        state.current = Some(memory);
        state.fixed = true;
        drop(state);
        space
    }

    /// Buffers of `arena` for one who reaches no device himself: their addresses are their
    /// offsets in the arena.
    pub fn of_offsets(arena: Arc<Arena>) -> Arc<Self> {
        Self::of_arena(Arc::new(NoDevice), arena, 0)
    }

    /// The memory that buffers are cut from at present.
    pub fn current(&self) -> Option<Arc<DmaMemory>> {
        lock(&self.state).current.clone()
    }

    /// From now on, only addresses that fit in `bits` bits are used.
    pub fn limit_address_bits(&self, bits: u32) {
        lock(&self.state).addresses.limit_bits(bits);
    }

    /// Maps `arena` at an address of its own choice.
    ///
    /// # Errors
    /// When no address is left or the transport refuses.
    pub fn map(self: &Arc<Self>, arena: Arc<Arena>) -> Result<Arc<DmaMemory>, DmaError> {
        let len = arena.len();
        let limits = self.transport.dma_limits();
        let iova = lock(&self.state).addresses.take(len, &limits)?;
        if let Err(error) = self.transport.map_dma(&arena, iova) {
            lock(&self.state).addresses.give_back(iova);
            return Err(DmaError::Map { len, error });
        }
        Ok(Arc::new(DmaMemory { space: self.clone(), arena, iova }))
    }

    /// A zeroed buffer of `len` bytes, from an arena that is mapped already where one has room.
    ///
    /// # Errors
    /// For a length of 0, and when memory or addresses run out.
    pub fn buffer(self: &Arc<Self>, len: usize) -> Result<DmaBuf, DmaError> {
        if len == 0 || len > isize::MAX as usize - HUGE_PAGE {
            return Err(DmaError::Size(len));
        }
        let arenas: Vec<_> = {
            let mut state = lock(&self.state);
            state.arenas.retain(|arena| arena.strong_count() > 0);
            state.arenas.iter().filter_map(Weak::upgrade).collect()
        };
        let mut buffer = if let Some(buffer) = arenas.iter().find_map(|memory| memory.buffer(len)) {
            buffer
        } else if lock(&self.state).fixed {
            return Err(DmaError::Full { len });
        } else {
            let memory = self.map(Arc::new(Arena::new(len)?))?;
            let buffer = memory.buffer(len).ok_or(DmaError::Size(len))?;
            let mut state = lock(&self.state);
            state.arenas.push(Arc::downgrade(&memory));
            // The former one is dropped outside the lock: its `drop` takes it.
            let former = if state.released { Some(memory) } else { state.current.replace(memory) };
            drop(state);
            drop(former);
            buffer
        };
        buffer.as_mut_slice().fill(0);
        Ok(buffer)
    }

    /// Lets go of the arena that is kept for later buffers. An address space and its arenas
    /// hold each other; this is how a device that is dropped ends that.
    pub(crate) fn release(&self) {
        let mut state = lock(&self.state);
        state.released = true;
        let former = state.current.take();
        drop(state);
        drop(former);
    }
}

impl DmaMemory {
    /// A buffer of `len` bytes, not cleared; nothing where there is no room for it.
    pub fn buffer(self: &Arc<Self>, len: usize) -> Option<DmaBuf> {
        let size = len.max(1).checked_next_multiple_of(PAGE)?;
        let start = self.arena.take(size)?;
        // SAFETY: `start` lies in the arena, which is one mapped object.
        let base = unsafe { self.arena.base().add(start) };
        Some(DmaBuf { base, iova: self.iova + start as u64, len, memory: self.clone() })
    }

    /// The buffer of `len` bytes at `offset` of the arena, a multiple of 4,096, with what it holds:
    /// for one who knows what is there. Nothing where it is taken or outside.
    pub fn buffer_at(self: &Arc<Self>, offset: usize, len: usize) -> Option<DmaBuf> {
        let size = len.max(1).checked_next_multiple_of(PAGE)?;
        if !offset.is_multiple_of(PAGE) || !self.arena.take_at(offset, size) {
            return None;
        }
        // SAFETY: `take_at` saw that the extent lies in the arena, which is one mapped object.
        let base = unsafe { self.arena.base().add(offset) };
        Some(DmaBuf { base, iova: self.iova + offset as u64, len, memory: self.clone() })
    }

    /// The address of the arena's first byte for the device.
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// The arena.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }
}

impl Drop for DmaMemory {
    fn drop(&mut self) {
        if lock(&self.space.state).fixed {
            return;
        }
        let len = self.arena.len() as u64;
        match self.space.transport.unmap_dma(self.iova, len) {
            Ok(()) => {
                lock(&self.space.state).addresses.give_back(self.iova);
            }
            // The address stays taken: the device may still reach what was mapped there.
            Err(error) => tracing::debug!(%error, iova = self.iova, "DMA memory stays mapped"),
        }
    }
}

impl DmaBuf {
    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address of its first byte for the device; a multiple of 4,096.
    #[inline]
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Whether it was cut from `memory`.
    #[inline]
    pub fn is_of(&self, memory: &Arc<DmaMemory>) -> bool {
        Arc::ptr_eq(&self.memory, memory)
    }

    /// The address of the `DmaSpace` that it is of, which it keeps.
    pub(crate) fn space(&self) -> usize {
        Arc::as_ptr(&self.memory.space) as usize
    }

    /// Its bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the extent is ours alone in this process, initialised (a memfd is zeroed)
        // and kept by `memory`; no driver holds it, for then it would have the `DmaBuf`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// Its bytes, to be written.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as for `as_slice`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// The first byte, for the queue and ring types of this crate.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        let size = self.len.max(1).next_multiple_of(PAGE);
        self.memory.arena.give_back((self.iova - self.memory.iova) as usize, size);
    }
}

impl std::fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DmaBuf({} bytes at {:#x})", self.len, self.iova)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::fake::Fake;

    #[test]
    fn buffers_do_not_overlap_and_come_back() {
        let space = DmaSpace::new(Arc::new(Fake::default()));
        let mut buffers: Vec<_> = (1..=64).map(|n| space.buffer(n * 900).unwrap()).collect();
        for (index, buffer) in buffers.iter_mut().enumerate() {
            assert_eq!(buffer.iova() % PAGE as u64, 0);
            assert!(buffer.as_slice().iter().all(|&byte| byte == 0));
            buffer.as_mut_slice().fill(index as u8);
        }
        for (index, buffer) in buffers.iter().enumerate() {
            assert!(buffer.as_slice().iter().all(|&byte| byte == index as u8));
        }
        let first = buffers[0].iova();
        buffers.clear();
        assert_eq!(space.buffer(HUGE_PAGE).unwrap().iova(), first);
    }

    #[test]
    fn the_last_buffer_unmaps_its_arena() {
        let fake = Arc::new(Fake::default());
        let space = DmaSpace::new(fake.clone());
        let one = space.buffer(4096).unwrap();
        let other = space.buffer(3 * HUGE_PAGE).unwrap();
        assert_eq!(fake.mapped().len(), 2);
        drop(one);
        drop(other);
        space.release();
        assert_eq!(fake.mapped().len(), 0);
    }

    #[test]
    fn an_arena_that_is_mapped_twice_hands_out_each_byte_once() {
        let space = DmaSpace::new(Arc::new(Fake::default()));
        let arena = Arc::new(Arena::new(1).unwrap());
        let first = space.map(arena.clone()).unwrap();
        let second = space.map(arena).unwrap();
        let mut one = first.buffer(4096).unwrap();
        let mut other = second.buffer(4096).unwrap();
        one.as_mut_slice().fill(1);
        other.as_mut_slice().fill(2);
        assert!(one.as_slice().iter().all(|&byte| byte == 1));
        assert!(first.buffer(HUGE_PAGE).is_none());
    }

    #[test]
    fn nothing_is_kept_for_a_device_that_was_let_go() {
        let fake = Arc::new(Fake::default());
        let space = DmaSpace::new(fake.clone());
        space.release();
        drop(space.buffer(4096).unwrap());
        assert_eq!(fake.mapped().len(), 0);
    }

    #[test]
    fn addresses_stay_inside_the_limits() {
        let fake = Arc::new(Fake::with_ranges(vec![0..=0x3f_ffff, 0x60_0000..=0xff_ffff]));
        let space = DmaSpace::new(fake);
        let first = space.buffer(HUGE_PAGE).unwrap();
        assert_eq!(first.iova(), 0x20_0000);
        let second = space.buffer(HUGE_PAGE).unwrap();
        assert_eq!(second.iova(), 0x60_0000);
        space.limit_address_bits(23);
        assert!(matches!(space.buffer(HUGE_PAGE), Err(DmaError::NoAddress { .. })));
        assert!(matches!(space.buffer(0), Err(DmaError::Size(0))));
        assert!(space.buffer(usize::MAX).is_err());
    }

    #[test]
    fn a_refused_mapping_leaves_the_address_free() {
        let fake = Arc::new(Fake::default());
        let space = DmaSpace::new(fake.clone());
        fake.refuse(true);
        assert!(matches!(space.buffer(1), Err(DmaError::Map { .. })));
        fake.refuse(false);
        assert_eq!(space.buffer(1).unwrap().iova(), HUGE_PAGE as u64);
    }
}
