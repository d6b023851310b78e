//! Packets: buffers of one size that move between programs, drivers and the pool that they are of.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use crate::dma::{DmaBuf, DmaError, DmaSpace};

/// Packets start at multiples of this many bytes, and have room for whole multiples of it.
const LINE: usize = 64;

/// Packets of one size in DMA memory, and those of them that nobody has.
///
/// A pool is one thread's: taking from it and giving back to it cost no lock and no atomic
/// operation. A packet that is dropped instead finds its way back too, over a lock.
pub struct PacketPool {
    shared: Arc<Shared>,
    free: Vec<Packet>,
}

/// What packets and their pool have in common.
struct Shared {
    memory: DmaBuf,
    /// Bytes of each packet.
    room: usize,
    /// Numbers of packets that were dropped. There is room for all of them.
    dropped: Mutex<Vec<usize>>,
}

/// Bytes of a frame, at one address for the CPU and at one for the device.
///
/// It moves: whoever has it may touch the bytes; a port that sends or receives has it meanwhile.
/// A device that writes after it said that it was done can still change them: what must not
/// change is copied before it is checked.
pub struct Packet {
    base: NonNull<u8>,
    shared: Arc<Shared>,
    iova: u64,
    /// The address of the `DmaSpace` that `iova` is of, which `shared` keeps.
    space: usize,
    len: u32,
    room: u32,
    /// What the frame's checksums are, or are to be.
    pub checksums: Checksums,
    /// The frame goes on in the packet that follows.
    pub more: bool,
}

/// Checksums of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksums {
    /// Received: the device has not looked at them. To be sent: they are in the frame already.
    #[default]
    Unknown,
    /// Received: they are right.
    Good,
    /// Received: one is wrong.
    Bad,
    /// To be sent: the device calculates them.
    Insert(Insert),
}

/// Which checksums a device puts into a frame. The checksum field of TCP or UDP holds the sum of
/// the pseudo header. RFC 9293 §3.1, RFC 768.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insert {
    /// Where the IP header starts.
    pub ip: u8,
    /// It is IPv4, and its own checksum is to be calculated too.
    pub ipv4: bool,
    /// Where the header of TCP or UDP starts.
    pub l4: u8,
    /// It is TCP.
    pub tcp: bool,
}

impl Insert {
    /// Where the checksum field of TCP or UDP is.
    pub const fn field(self) -> u8 {
        self.l4.saturating_add(if self.tcp { 16 } else { 6 })
    }
}

// SAFETY: a packet owns its bytes exclusively (a number is in one packet, or in one list of free
// ones) and keeps the memory that they lie in; any thread may hold it.
unsafe impl Send for Packet {}
// SAFETY: `&Packet` only allows reading.
unsafe impl Sync for Packet {}

impl PacketPool {
    /// `count` packets with room for `room` bytes each.
    ///
    /// # Errors
    /// For no packets, packets without room or of 4 GiB, and when memory or addresses run out.
    pub fn new(space: &Arc<DmaSpace>, count: usize, room: usize) -> Result<Self, DmaError> {
        let wrong = DmaError::Size(room);
        let rounded = room.checked_next_multiple_of(LINE);
        let Some(room) = rounded.filter(|&room| (1..=u32::MAX as usize).contains(&room)) else {
            return Err(wrong);
        };
        let memory = space.buffer(room.checked_mul(count).ok_or(wrong)?)?;
        let shared =
            Arc::new(Shared { memory, room, dropped: Mutex::new(Vec::with_capacity(count)) });
        // Those that were given back last, whose lines may be in a cache, are taken first.
        let free = (0..count).rev().map(|number| Packet::new(&shared, number)).collect();
        Ok(Self { shared, free })
    }

    /// An empty packet; nothing where others have them all.
    #[inline]
    pub fn take(&mut self) -> Option<Packet> {
        if self.free.is_empty() {
            self.collect();
        }
        self.free.pop()
    }

    /// Takes a packet back. One of another pool goes there.
    #[inline]
    pub fn give(&mut self, mut packet: Packet) {
        if Arc::ptr_eq(&packet.shared, &self.shared) {
            packet.clear();
            self.free.push(packet);
        }
    }

    /// Whether the device of `space` reaches its packets.
    pub fn is_of(&self, space: &Arc<DmaSpace>) -> bool {
        self.shared.memory.space() == Arc::as_ptr(space) as usize
    }

    /// How many packets nobody has.
    pub fn free(&mut self) -> usize {
        self.collect();
        self.free.len()
    }

    /// How many bytes a packet has room for.
    pub fn room(&self) -> usize {
        self.shared.room
    }

    #[cold]
    fn collect(&mut self) {
        let mut dropped = self.shared.dropped();
        self.free.extend(dropped.drain(..).map(|number| Packet::new(&self.shared, number)));
    }
}

impl Shared {
    fn dropped(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Packet {
    /// The packet `number`, which nobody has.
    fn new(shared: &Arc<Shared>, number: usize) -> Self {
        let offset = number * shared.room;
        debug_assert!(offset + shared.room <= shared.memory.len());
        Self {
            // SAFETY: the offset lies in the buffer: numbers are below the pool's count, and the
            // buffer has `count` times `room` bytes.
            base: unsafe { shared.memory.base().add(offset) },
            iova: shared.memory.iova() + offset as u64,
            space: shared.memory.space(),
            len: 0,
            room: shared.room as u32,
            checksums: Checksums::Unknown,
            more: false,
            shared: shared.clone(),
        }
    }

    fn clear(&mut self) {
        (self.len, self.checksums, self.more) = (0, Checksums::Unknown, false);
    }

    /// Whether the device of `space` reaches it.
    #[inline]
    pub fn is_of(&self, space: &Arc<DmaSpace>) -> bool {
        self.space == Arc::as_ptr(space) as usize
    }

    /// How many bytes it holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it holds none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes it has room for.
    #[inline]
    pub fn room(&self) -> usize {
        self.room as usize
    }

    /// From now on it holds `len` bytes, or as many as it has room for: what was there, or
    /// whatever the memory held before.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.room as usize) as u32;
    }

    /// Holds a copy of `bytes`. Whether they fit; it is unchanged if not.
    #[inline]
    pub fn copy_from(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room() {
            return false;
        }
        self.set_len(bytes.len());
        self.as_mut_slice().copy_from_slice(bytes);
        true
    }

    /// The address of its first byte for the device.
    #[inline]
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Its bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the bytes are this packet's alone in this process, initialised (a memfd is
        // zeroed), within its room, and kept by `shared`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len as usize) }
    }

    /// Its bytes, to be written.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as for `as_slice`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len as usize) }
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        let offset = (self.iova - self.shared.memory.iova()) as usize;
        self.shared.dropped().push(offset / self.shared.room);
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packet({} bytes at {:#x})", self.len, self.iova)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::fake::Fake;

    fn pool(count: usize, room: usize) -> PacketPool {
        PacketPool::new(&DmaSpace::new(Arc::new(Fake::default())), count, room).unwrap()
    }

    #[test]
    fn packets_do_not_overlap_and_come_back() {
        let mut pool = pool(100, 2000);
        assert_eq!(pool.room(), 2048);
        let mut packets: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(packets.len(), 100);
        for (number, packet) in (0..).zip(&mut packets) {
            assert!(packet.copy_from(&[number; 2048]) && !packet.copy_from(&[0; 2049]));
        }
        for (number, packet) in (0..).zip(&packets) {
            assert!(packet.as_slice() == [number; 2048]);
        }
        let addresses: std::collections::BTreeSet<_> = packets.iter().map(Packet::iova).collect();
        assert_eq!(addresses.len(), 100);
        // Half are given back, and half are dropped.
        for (number, packet) in packets.into_iter().enumerate() {
            if number % 2 == 0 { pool.give(packet) } else { drop(packet) }
        }
        assert_eq!(pool.free(), 100);
        let again: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(
            again.iter().map(Packet::iova).collect::<std::collections::BTreeSet<_>>(),
            addresses
        );
        assert!(again.iter().all(Packet::is_empty));
    }

    #[test]
    fn a_packet_of_another_pool_goes_home() {
        let (mut one, mut other) = (pool(1, 64), pool(1, 64));
        let packet = one.take().unwrap();
        assert!(one.take().is_none());
        other.give(packet);
        assert_eq!((one.free(), other.free()), (1, 1));
    }

    #[test]
    fn packets_outlive_their_pool() {
        let mut pool = pool(2, 64);
        let mut packet = pool.take().unwrap();
        drop(pool);
        packet.set_len(1000);
        assert_eq!(packet.len(), 64);
        packet.as_mut_slice().fill(1);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let space = DmaSpace::new(Arc::new(Fake::default()));
        for (count, room) in [(0, 64), (1, 0), (1, usize::MAX), (usize::MAX, 64), (1, 1 << 32)] {
            assert!(PacketPool::new(&space, count, room).is_err(), "{count} of {room}");
        }
    }
}
