//! The memory that a client lets a model reach: a software IOMMU that faults.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FileType;
use rustix::mm::{MapFlags, ProtFlags};
use uniddrv::sigbus;
use vm_memory::volatile_memory::Error as VolatileError;
use vm_memory::{AtomicAccess, Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// The most regions that a client may map at once.
pub const REGIONS: usize = 512;

/// Regions start and end at multiples of this many bytes.
pub const GRANULE: u64 = 4096;

/// What the device wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read from memory.
    Read,
    /// Write to memory.
    Write,
}

/// An access outside of what the client has mapped, or a write to what it has mapped for
/// reading. Nothing was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DMA fault: {access:?} of {len} bytes at {iova:#x}, which is not mapped for that")]
pub struct DmaFault {
    /// The I/O virtual address.
    pub iova: u64,
    /// Bytes.
    pub len: usize,
    /// Which way.
    pub access: Access,
}

/// A mapping that cannot be made or taken away.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The region is empty, ends beyond 64 bits or is not aligned.
    #[error("{len:#x} bytes at {iova:#x} are no region: both have to be multiples of 4096")]
    Shape {
        /// The I/O virtual address.
        iova: u64,
        /// Bytes.
        len: u64,
    },
    /// Part of it is mapped already.
    #[error("{len:#x} bytes at {iova:#x} overlap what is mapped")]
    Overlap {
        /// The I/O virtual address.
        iova: u64,
        /// Bytes.
        len: u64,
    },
    /// No such region is mapped.
    #[error("no region of {len:#x} bytes at {iova:#x} is mapped")]
    Unknown {
        /// The I/O virtual address.
        iova: u64,
        /// Bytes.
        len: u64,
    },
    /// Too many regions.
    #[error("{REGIONS} regions are mapped, the most that a client may have")]
    TooMany,
    /// The file does not hold what it is said to hold.
    #[error("the file has {size:#x} bytes, {len:#x} at {offset:#x} were to be mapped")]
    File {
        /// Where it was to start in the file.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Bytes in the file; 0 where it is no ordinary file.
        size: u64,
    },
    /// The system refused.
    #[error("mapping {len:#x} bytes failed: {error}")]
    Io {
        /// Bytes.
        len: u64,
        /// What it said.
        #[source]
        error: io::Error,
    },
}

/// A mapped part of a client's file.
#[derive(Debug)]
struct Region {
    // Dropped before what it guards is unmapped.
    _guard: sigbus::Guard,
    mapping: MmapRegion,
    // False once the client took it back; who still holds it must not touch it then.
    live: AtomicBool,
}

#[derive(Debug)]
struct Entry {
    iova: u64,
    len: u64,
    writable: bool,
    region: Arc<Region>,
}

/// What a client has mapped.
#[derive(Debug, Default)]
pub struct ClientMemory {
    // By address, without overlap.
    entries: Vec<Entry>,
    last: Cell<usize>,
    faults: Cell<u64>,
}

/// Memory of a client that was looked up once, such as a queue. Holds the region, but touches
/// nothing once the client has unmapped it.
#[derive(Clone, Debug)]
pub struct Pinned {
    region: Arc<Region>,
    offset: usize,
    len: usize,
}

/// An integer that [`Pinned`] loads and stores as one access.
pub trait Word: AtomicAccess + Copy {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

impl ClientMemory {
    /// Maps `len` bytes at `offset` of the file `fd` at the address `iova` of the device.
    ///
    /// The file is believed nothing: its size is checked now, and one that is truncated later
    /// reads as ones from then on. Where `writable` is false, the device's writes fault.
    ///
    /// # Errors
    /// When it is not a region, overlaps another one, is not there in the file, or the system
    /// refuses.
    pub fn map(
        &mut self,
        iova: u64,
        len: u64,
        fd: BorrowedFd<'_>,
        offset: u64,
        writable: bool,
    ) -> Result<(), MapError> {
        let aligned = [iova, len, offset].iter().all(|value| value.is_multiple_of(GRANULE));
        let Some(last) = iova.checked_add(len.wrapping_sub(1)) else {
            return Err(MapError::Shape { iova, len });
        };
        if !aligned || len == 0 || isize::try_from(len).is_err() {
            return Err(MapError::Shape { iova, len });
        }
        let place = self.entries.partition_point(|entry| entry.iova < iova);
        let before = place.checked_sub(1).and_then(|index| self.entries.get(index));
        let after = self.entries.get(place);
        if before.is_some_and(|entry| entry.iova + (entry.len - 1) >= iova)
            || after.is_some_and(|entry| entry.iova <= last)
        {
            return Err(MapError::Overlap { iova, len });
        }
        if self.entries.len() >= REGIONS {
            return Err(MapError::TooMany);
        }
        let region = Arc::new(Region::new(fd, offset, len, writable)?);
        self.entries.insert(place, Entry { iova, len, writable, region });
        Ok(())
    }

    /// Takes away what was mapped as one at `iova`.
    ///
    /// # Errors
    /// When no region has just this address and length.
    pub fn unmap(&mut self, iova: u64, len: u64) -> Result<(), MapError> {
        let same = |entry: &Entry| (entry.iova, entry.len) == (iova, len);
        let Some(place) = self.entries.iter().position(same) else {
            return Err(MapError::Unknown { iova, len });
        };
        self.entries.remove(place).region.live.store(false, Ordering::Release);
        Ok(())
    }

    /// Takes everything away.
    pub fn clear(&mut self) {
        for entry in self.entries.drain(..) {
            entry.region.live.store(false, Ordering::Release);
        }
    }

    /// How many regions are mapped.
    pub fn regions(&self) -> usize {
        self.entries.len()
    }

    /// Address and length of each region.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.entries.iter().map(|entry| (entry.iova, entry.len))
    }

    /// How many accesses have faulted.
    pub fn faults(&self) -> u64 {
        self.faults.get()
    }

    /// The memory at `iova`: `len` bytes, or fewer where a region ends before that. The rest
    /// may go on in the next region; ask again for it.
    ///
    /// # Errors
    /// When the first byte is not mapped for this access.
    #[inline]
    pub fn slice(
        &self,
        iova: u64,
        len: usize,
        access: Access,
    ) -> Result<VolatileSlice<'_>, DmaFault> {
        let (entry, offset) =
            self.find(iova, access).ok_or_else(|| self.fault(iova, len, access))?;
        let len = len.min((entry.len - offset) as usize);
        entry
            .region
            .mapping
            .get_slice(offset as usize, len)
            .map_err(|_| self.fault(iova, len, access))
    }

    /// Whether all of `len` bytes at `iova` are mapped for this access.
    ///
    /// # Errors
    /// The first piece that is not.
    #[inline]
    pub fn check(&self, iova: u64, len: usize, access: Access) -> Result<(), DmaFault> {
        match self.find(iova, access) {
            Some((entry, offset)) if len as u64 <= entry.len - offset => Ok(()),
            _ => self.check_pieces(iova, len, access),
        }
    }

    #[cold]
    fn check_pieces(&self, mut iova: u64, mut len: usize, access: Access) -> Result<(), DmaFault> {
        while len > 0 {
            let piece = self.slice(iova, len, access)?.len();
            len -= piece;
            iova = iova.wrapping_add(piece as u64);
        }
        Ok(())
    }

    /// Copies from the client.
    ///
    /// # Errors
    /// At the first byte that is not mapped; what `data` holds then is of no use.
    pub fn read(&self, mut iova: u64, mut data: &mut [u8]) -> Result<(), DmaFault> {
        while !data.is_empty() {
            let done = self.slice(iova, data.len(), Access::Read)?.copy_to(data);
            data = data.get_mut(done..).unwrap_or_default();
            iova = iova.wrapping_add(done as u64);
        }
        Ok(())
    }

    /// Copies to the client.
    ///
    /// # Errors
    /// At the first byte that is not mapped for writing. What comes before it was written.
    pub fn write(&self, mut iova: u64, mut data: &[u8]) -> Result<(), DmaFault> {
        while !data.is_empty() {
            let slice = self.slice(iova, data.len(), Access::Write)?;
            slice.copy_from(data);
            iova = iova.wrapping_add(slice.len() as u64);
            data = data.get(slice.len()..).unwrap_or_default();
        }
        Ok(())
    }

    /// Looks up `len` bytes at `iova` once for all later accesses. Nothing where they are
    /// mapped but lie in more than one region.
    ///
    /// # Errors
    /// When they are not all mapped for this access.
    pub fn pin(&self, iova: u64, len: usize, access: Access) -> Result<Option<Pinned>, DmaFault> {
        self.check(iova, len, access)?;
        let Some((entry, offset)) = self.find(iova, access) else {
            return Err(self.fault(iova, len, access));
        };
        if entry.len - offset < len as u64 {
            return Ok(None);
        }
        Ok(Some(Pinned { region: entry.region.clone(), offset: offset as usize, len }))
    }

    #[inline]
    fn find(&self, iova: u64, access: Access) -> Option<(&Entry, u64)> {
        let hit = |entry: &&Entry| {
            iova.wrapping_sub(entry.iova) < entry.len && (entry.writable || access == Access::Read)
        };
        // Nearly always the same region as the last time.
        let mut entry = self.entries.get(self.last.get()).filter(hit);
        if entry.is_none() {
            let index = self.search(iova)?;
            entry = self.entries.get(index).filter(hit);
            self.last.set(index);
        }
        let entry = entry?;
        Some((entry, iova.wrapping_sub(entry.iova)))
    }

    #[cold]
    fn search(&self, iova: u64) -> Option<usize> {
        self.entries.partition_point(|entry| entry.iova <= iova).checked_sub(1)
    }

    #[cold]
    fn fault(&self, iova: u64, len: usize, access: Access) -> DmaFault {
        self.faults.set(self.faults.get() + 1);
        DmaFault { iova, len, access }
    }
}

impl Region {
    fn new(fd: BorrowedFd<'_>, offset: u64, len: u64, writable: bool) -> Result<Self, MapError> {
        let io = |error| MapError::Io { len, error };
        let stat = rustix::fs::fstat(fd).map_err(|error| io(error.into()))?;
        let ordinary = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let size = if ordinary { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(MapError::File { offset, len, size });
        }
        // A region that the device may only read is private: a write to it, were there a
        // defect, would change no byte of the client and not end the process either.
        let mut flags = MapFlags::NORESERVE;
        flags |= if writable { MapFlags::SHARED } else { MapFlags::PRIVATE };
        // What is in memory anyway is mapped at once, so that no I/O has to wait for it. A
        // sparse file is not: the client would decide how much memory this process takes.
        let present = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        if writable && present >= size {
            flags |= MapFlags::POPULATE;
        }
        let file = File::from(fd.try_clone_to_owned().map_err(io)?);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let mapping = MmapRegion::build(
            Some(FileOffset::new(file, offset)),
            len as usize,
            protection.bits().cast_signed(),
            flags.bits().cast_signed(),
        )
        .map_err(|error| io(io::Error::other(error)))?;
        let guard = sigbus::guard(mapping.as_ptr() as usize, len as usize).map_err(io)?;
        Ok(Self { _guard: guard, mapping, live: AtomicBool::new(true) })
    }
}

impl Pinned {
    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "empty memory is not pinned")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the client still has it mapped.
    #[inline]
    pub fn is_live(&self) -> bool {
        self.region.live.load(Ordering::Acquire)
    }

    /// Its memory; nothing once the client has unmapped it.
    #[inline]
    pub fn slice(&self) -> Option<VolatileSlice<'_>> {
        if !self.is_live() {
            return None;
        }
        self.region.mapping.get_slice(self.offset, self.len).ok()
    }

    /// `len` bytes of `fd` from its start, which this process has made itself, for sharing
    /// with a client.
    ///
    /// # Errors
    /// What mapping them returns.
    pub fn own(fd: BorrowedFd<'_>, len: usize) -> Result<Self, MapError> {
        let region = Arc::new(Region::new(fd.as_fd(), 0, len as u64, true)?);
        Ok(Self { region, offset: 0, len })
    }

    /// Loads the word at byte `offset`; nothing where there is none or it was unmapped.
    #[inline]
    pub fn load<T: Word>(&self, offset: usize) -> Option<T> {
        self.slice()?.load(offset, Ordering::Acquire).ok()
    }

    /// Stores the word at byte `offset`, after all that was stored before.
    ///
    /// # Errors
    /// When there is no such word, aligned, or it was unmapped.
    #[inline]
    pub fn store<T: Word>(&self, offset: usize, value: T) -> Result<(), VolatileError> {
        self.slice().ok_or(VolatileError::OutOfBounds { addr: offset })?.store(
            value,
            offset,
            Ordering::Release,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn file(len: u64) -> OwnedFd {
        let fd = memfd_create("client", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len).unwrap();
        fd
    }

    #[test]
    fn what_is_mapped_is_reached_and_nothing_else() {
        let fd = file(0x4000);
        let mut memory = ClientMemory::default();
        memory.map(0x1_0000, 0x2000, fd.as_fd(), 0x1000, true).unwrap();
        memory.map(0x1_2000, 0x1000, fd.as_fd(), 0, false).unwrap();
        memory.write(0x1_0000, &[7; 0x2000]).unwrap();
        let mut data = [0; 0x3000];
        memory.read(0x1_0000, &mut data).unwrap();
        assert!(data[..0x2000].iter().all(|&byte| byte == 7));
        assert!(data[0x2000..].iter().all(|&byte| byte == 0));
        assert_eq!(memory.faults(), 0);
        for (iova, len) in [(0xffff, 1), (0x1_2fff, 2), (u64::MAX, 8), (0, 1)] {
            assert!(memory.read(iova, &mut data[..len]).is_err(), "{iova:#x}");
        }
        let fault = memory.write(0x1_1fff, &[1, 2]).unwrap_err();
        assert_eq!(fault, DmaFault { iova: 0x1_2000, len: 1, access: Access::Write });
        assert_eq!(memory.faults(), 5);
        assert!(memory.check(0x1_1000, 0x2000, Access::Read).is_ok());
        assert!(memory.check(0x1_1000, 0x2000, Access::Write).is_err());
    }

    #[test]
    fn impossible_mappings_are_errors() {
        let fd = file(0x4000);
        let mut memory = ClientMemory::default();
        memory.map(0x1_0000, 0x2000, fd.as_fd(), 0, true).unwrap();
        let mut try_map = |iova, len, offset| memory.map(iova, len, fd.as_fd(), offset, true);
        assert!(matches!(try_map(0, 0, 0), Err(MapError::Shape { .. })));
        assert!(matches!(try_map(1, 0x1000, 0), Err(MapError::Shape { .. })));
        assert!(matches!(try_map(0, 0x1000, 1), Err(MapError::Shape { .. })));
        assert!(matches!(try_map(0, !0xfff, 0), Err(MapError::Shape { .. })));
        assert!(matches!(try_map(!0xfff, 0x2000, 0), Err(MapError::Shape { .. })));
        assert!(matches!(try_map(0x1_1000, 0x1000, 0), Err(MapError::Overlap { .. })));
        assert!(matches!(try_map(0xf000, 0x2000, 0), Err(MapError::Overlap { .. })));
        assert!(matches!(try_map(0, 0x1000, 0x4000), Err(MapError::File { .. })));
        assert!(matches!(try_map(0, 0x1000, !0xfff), Err(MapError::File { .. })));
        assert!(try_map(!0xfff, 0x1000, 0).is_ok());
        assert!(matches!(memory.unmap(0x1_0000, 0x1000), Err(MapError::Unknown { .. })));
        let other = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        assert!(matches!(
            memory.map(0, 0x1000, other.as_fd(), 0, true),
            Err(MapError::File { .. })
        ));
        memory.clear();
        assert_eq!(memory.regions(), 0);
    }

    #[test]
    fn pinned_memory_goes_with_its_region() {
        let fd = file(0x2000);
        let mut memory = ClientMemory::default();
        memory.map(0x1000, 0x1000, fd.as_fd(), 0, true).unwrap();
        memory.map(0x2000, 0x1000, fd.as_fd(), 0x1000, true).unwrap();
        let pinned = memory.pin(0x1800, 64, Access::Write).unwrap().unwrap();
        pinned.store(8, 5u32).unwrap();
        assert_eq!(pinned.load::<u32>(8), Some(5));
        assert_eq!(pinned.load::<u32>(64), None);
        assert_eq!(pinned.load::<u32>(6), None);
        assert!(memory.pin(0x1fff, 2, Access::Write).unwrap().is_none());
        assert!(memory.pin(0x2fff, 2, Access::Write).is_err());
        memory.unmap(0x1000, 0x1000).unwrap();
        assert_eq!(pinned.load::<u32>(8), None);
        assert!(pinned.store(8, 5u32).is_err());
    }

    #[test]
    fn a_truncated_file_reads_as_ones() {
        let fd = file(0x1000);
        let mut memory = ClientMemory::default();
        memory.map(0, 0x1000, fd.as_fd(), 0, true).unwrap();
        ftruncate(&fd, 0).unwrap();
        let mut data = [0; 8];
        memory.read(0, &mut data).unwrap();
        assert_eq!(data, [0xff; 8]);
    }

    #[test]
    fn there_is_a_limit_of_regions() {
        let fd = file(0x1000);
        let mut memory = ClientMemory::default();
        for index in 0..REGIONS as u64 {
            memory.map(index << 12, 0x1000, fd.as_fd(), 0, true).unwrap();
        }
        let more = memory.map(1 << 40, 0x1000, fd.as_fd(), 0, true);
        assert!(matches!(more, Err(MapError::TooMany)));
    }
}
