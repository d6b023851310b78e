//! Rings and tables that the CPU and a device share for as long as they live.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use zerocopy::{FromBytes, IntoBytes};

use crate::dma::DmaBuf;

/// `entries` values of `T` in DMA memory that the device may read and write at any time.
///
/// Entries are copied in and out volatile; no reference into the ring exists.
pub struct DmaRing<T> {
    base: NonNull<T>,
    entries: usize,
    buffer: DmaBuf,
    marker: PhantomData<T>,
}

// SAFETY: the ring owns its buffer and all accesses are volatile copies of plain data.
unsafe impl<T: Send> Send for DmaRing<T> {}

/// A ring that does not fit its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{entries} entries of {size} bytes do not fit into a buffer of {available} bytes")]
pub struct RingError {
    entries: usize,
    size: usize,
    available: usize,
}

impl<T: FromBytes + IntoBytes + Copy> DmaRing<T> {
    /// A ring of `entries` entries at the start of `buffer`, with the bytes that it holds.
    ///
    /// # Errors
    /// When the buffer is too short, or an entry has no size or is aligned to over 4 KiB.
    pub fn new(buffer: DmaBuf, entries: usize) -> Result<Self, RingError> {
        let (size, available) = (size_of::<T>(), buffer.len());
        let fits = entries.checked_mul(size).is_some_and(|bytes| bytes <= available);
        if !fits || entries == 0 || size == 0 || align_of::<T>() > crate::dma::PAGE {
            return Err(RingError { entries, size, available });
        }
        Ok(Self { base: buffer.base().cast(), entries, buffer, marker: PhantomData })
    }

    /// The address of the first entry for the device.
    pub fn iova(&self) -> u64 {
        self.buffer.iova()
    }

    /// How many entries it has.
    #[expect(clippy::len_without_is_empty, reason = "a ring is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Writes the entry `index`.
    ///
    /// # Panics
    /// When there is no such entry.
    #[inline]
    pub fn write(&self, index: usize, value: T) {
        assert!(index < self.entries);
        // SAFETY: the entry lies in the buffer (`new` and the check above), aligned because
        // buffers are page-aligned; the memory is shared with the device, hence volatile.
        unsafe { self.base.add(index).write_volatile(value) }
    }

    /// Copies the entry `index` out. The device may be writing it: what it means is up to a
    /// flag read before with [`word`](Self::word), with `observe_device` between the two.
    ///
    /// # Panics
    /// When there is no such entry.
    #[inline]
    pub fn read(&self, index: usize) -> T {
        assert!(index < self.entries);
        // SAFETY: as for `write`; any bytes are a valid `T` (`FromBytes`).
        unsafe { self.base.add(index).read_volatile() }
    }

    /// Reads the 32-bit little-endian word at byte `offset` of entry `index`, as one access.
    ///
    /// # Panics
    /// When there is no such word.
    #[inline]
    pub fn word(&self, index: usize, offset: usize) -> u32 {
        assert!(index < self.entries && offset.is_multiple_of(4) && offset + 4 <= size_of::<T>());
        assert!(align_of::<T>() >= 4);
        // SAFETY: as for `read`; the word lies in the entry and is aligned.
        let word =
            unsafe { self.base.add(index).cast::<u8>().add(offset).cast::<u32>().read_volatile() };
        u32::from_le(word)
    }

    /// Writes zeroes to all entries.
    pub fn clear(&self) {
        for index in 0..self.entries {
            self.write(index, T::new_zeroed());
        }
    }
}

/// 32-bit little-endian words in DMA memory that several threads and the device share, such as
/// shadow doorbells: each access is one atomic load or store.
pub struct DmaWords {
    base: NonNull<AtomicU32>,
    entries: usize,
    buffer: DmaBuf,
}

// SAFETY: the words are only accessed atomically, from whatever thread, and the buffer that
// they lie in is owned.
unsafe impl Send for DmaWords {}
// SAFETY: as above.
unsafe impl Sync for DmaWords {}

impl DmaWords {
    /// All whole words of `buffer`, with what they hold.
    pub fn new(buffer: DmaBuf) -> Self {
        Self { base: buffer.base().cast(), entries: buffer.len() / size_of::<u32>(), buffer }
    }

    /// The address of the first word for the device.
    pub fn iova(&self) -> u64 {
        self.buffer.iova()
    }

    /// How many words there are.
    #[expect(clippy::len_without_is_empty, reason = "there is no use for none")]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Reads the word `index`.
    ///
    /// # Panics
    /// When there is no such word.
    #[inline]
    pub fn load(&self, index: usize) -> u32 {
        u32::from_le(self.word(index).load(Ordering::Relaxed))
    }

    /// Writes the word `index`.
    ///
    /// # Panics
    /// When there is no such word.
    #[inline]
    pub fn store(&self, index: usize, value: u32) {
        self.word(index).store(value.to_le(), Ordering::Relaxed);
    }

    #[inline]
    fn word(&self, index: usize) -> &AtomicU32 {
        assert!(index < self.entries);
        // SAFETY: the word lies in the buffer, page-aligned and kept by `self`; an atomic may
        // be shared with anything, also with a device that writes it.
        unsafe { self.base.add(index).as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::dma::DmaSpace;
    use crate::transport::fake::Fake;

    #[test]
    fn entries_are_written_and_read_back() {
        let space = DmaSpace::new(Arc::new(Fake::default()));
        let ring = DmaRing::<u64>::new(space.buffer(4096).unwrap(), 512).unwrap();
        for index in 0..512 {
            ring.write(index, index as u64 | 7 << 32);
        }
        assert_eq!(ring.read(511), 511 | 7 << 32);
        assert_eq!(ring.word(511, 4), 7);
        ring.clear();
        assert_eq!(ring.read(511), 0);
    }

    #[test]
    fn words_are_stored_and_loaded() {
        let space = DmaSpace::new(Arc::new(Fake::default()));
        let words = DmaWords::new(space.buffer(4096).unwrap());
        assert_eq!(words.len(), 1024);
        words.store(1023, 7);
        assert_eq!((words.load(1022), words.load(1023)), (0, 7));
    }

    #[test]
    fn a_ring_must_fit() {
        let space = DmaSpace::new(Arc::new(Fake::default()));
        for entries in [0, 513, usize::MAX] {
            assert!(DmaRing::<u64>::new(space.buffer(4096).unwrap(), entries).is_err());
        }
    }
}
