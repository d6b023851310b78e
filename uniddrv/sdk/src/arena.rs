//! Memory that can be shared with devices and other processes.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use crate::mapping::Mapping;
use crate::shared::sealed_len;

/// The size of a huge page, and the granule of arenas, in bytes.
pub const HUGE_PAGE: usize = 2 << 20;

/// A memfd of a fixed size, present in memory and sealed: it can neither shrink nor grow.
///
/// In 2 MiB huge pages where the system has enough of them free, else in ordinary pages.
#[derive(Debug)]
pub struct Arena {
    fd: OwnedFd,
    mapping: Mapping,
    huge: bool,
    /// Start and length in bytes of the extents that no buffer has, by start. It belongs to the
    /// arena, not to a mapping of it: however often that is mapped, a byte has one owner.
    free: Mutex<BTreeMap<usize, usize>>,
}

/// An arena that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an arena of {len} bytes: {action}: {error}")]
pub struct ArenaError {
    len: usize,
    action: &'static str,
    #[source]
    error: io::Error,
}

impl Arena {
    /// An arena of at least `len` bytes, rounded up to whole 2 MiB, zeroed.
    ///
    /// # Errors
    /// When the system has no memory (ENOMEM), no room for it, or no fd left (EMFILE).
    pub fn new(len: usize) -> Result<Self, ArenaError> {
        let error = |action, error: io::Error| ArenaError { len, action, error };
        let size = len
            .max(1)
            .checked_next_multiple_of(HUGE_PAGE)
            .filter(|&size| isize::try_from(size).is_ok())
            .ok_or_else(|| error("round up", io::ErrorKind::OutOfMemory.into()))?;
        Self::with_pages(size, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, true)
            .or_else(|_| {
                if size as u64 > available_memory() {
                    return Err(("reserve memory", io::ErrorKind::OutOfMemory.into()));
                }
                Self::with_pages(size, MemfdFlags::empty(), false)
            })
            .map_err(|(action, e)| error(action, e))
    }

    fn with_pages(
        size: usize,
        pages: MemfdFlags,
        huge: bool,
    ) -> Result<Self, (&'static str, io::Error)> {
        let fd =
            memfd_create("uniddrv-arena", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | pages)
                .map_err(|e| ("memfd_create", e.into()))?;
        ftruncate(&fd, size as u64).map_err(|e| ("ftruncate", e.into()))?;
        // MAP_POPULATE says nothing when memory runs out half way; fallocate does. Without it
        // the first touch would end the process.
        rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, size as u64)
            .map_err(|e| ("fallocate", e.into()))?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(|e| ("seal", e.into()))?;
        let mapping = Mapping::populated(fd.as_fd(), 0, size).map_err(|e| ("mmap", e))?;
        let free = Mutex::new(BTreeMap::from([(0, size)]));
        Ok(Self { fd, mapping, huge, free })
    }

    /// The arena behind `fd`, which another process made as one and handed over. Which of its
    /// bytes are in use is this process's own to say.
    ///
    /// # Errors
    /// When it could still become shorter, or cannot be mapped.
    pub fn received(fd: OwnedFd) -> Result<Self, ArenaError> {
        Self::mapped_by(Mapping::populated, fd)
    }

    /// As [`received`](Self::received), each page mapped once it is touched: a process has that
    /// much less to give up at its end. The memory itself is there already.
    ///
    /// # Errors
    /// As [`received`](Self::received).
    pub fn received_on_touch(fd: OwnedFd) -> Result<Self, ArenaError> {
        Self::mapped_by(Mapping::on_touch, fd)
    }

    fn mapped_by(
        map: impl FnOnce(BorrowedFd<'_>, u64, usize) -> io::Result<Mapping>,
        fd: OwnedFd,
    ) -> Result<Self, ArenaError> {
        let error = |action, error| ArenaError { len: 0, action, error };
        let len = sealed_len(fd.as_fd()).map_err(|e| error("look at what was received", e))?;
        let mapping = map(fd.as_fd(), 0, len).map_err(|e| error("mmap", e))?;
        let free = Mutex::new(BTreeMap::from([(0, len)]));
        Ok(Self { fd, mapping, huge: false, free })
    }

    /// Length in bytes, a multiple of 2 MiB.
    #[expect(clippy::len_without_is_empty, reason = "an arena is never empty")]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Whether it lies in huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// Its file descriptor, to hand to a peer or the kernel.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Takes `size` bytes that nobody has. Where they start.
    pub(crate) fn take(&self, size: usize) -> Option<usize> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (&start, &extent) = free.iter().find(|&(_, &extent)| extent >= size)?;
        free.remove(&start);
        if extent > size {
            free.insert(start + size, extent - size);
        }
        Some(start)
    }

    /// Takes the `size` bytes at `start`, if nobody has them.
    pub(crate) fn take_at(&self, start: usize, size: usize) -> bool {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((&extent, &len)) = free.range(..=start).next_back() else { return false };
        let before = start - extent;
        if size == 0 || len.checked_sub(before).is_none_or(|rest| rest < size) {
            return false;
        }
        free.remove(&extent);
        if before > 0 {
            free.insert(extent, before);
        }
        if len > before + size {
            free.insert(start + size, len - before - size);
        }
        true
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, mut start: usize, mut size: usize) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((&before, &len)) = free.range(..start).next_back()
            && before + len == start
        {
            free.remove(&before);
            start = before;
            size += len;
        }
        if let Some(len) = free.remove(&(start + size)) {
            size += len;
        }
        free.insert(start, size);
    }

    /// The address at which this process has it mapped, for as long as it lives.
    pub fn base(&self) -> std::ptr::NonNull<u8> {
        self.mapping.base()
    }
}

/// What the system could hand out without swapping, in bytes: populating more than that would
/// not fail but bring the out-of-memory killer.
fn available_memory() -> u64 {
    let kibibytes = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kibibytes.map_or(u64::MAX, |kibibytes| kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_is_sealed_and_rounded_up() {
        let arena = Arena::new(1).unwrap();
        assert_eq!(arena.len(), HUGE_PAGE);
        assert!(ftruncate(arena.fd(), 0).is_err());
        assert!(ftruncate(arena.fd(), 4 * HUGE_PAGE as u64).is_err());
    }

    #[test]
    fn an_arena_is_received_and_its_extents_are_taken_by_place() {
        let made = Arena::new(1).unwrap();
        let arena = Arena::received(made.fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(arena.len(), made.len());
        assert!(arena.take_at(8192, 4096));
        assert!(!arena.take_at(8192, 4096) && !arena.take_at(4096, 8192));
        assert!(!arena.take_at(arena.len() - 4096, 8192) && !arena.take_at(usize::MAX, 1));
        assert!(arena.take_at(12288, arena.len() - 12288));
        assert_eq!(arena.take(8192), Some(0));
        assert_eq!(arena.take(1), None);
        arena.give_back(8192, 4096);
        assert!(arena.take_at(8192, 4096));
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        for len in [usize::MAX, isize::MAX as usize, 1 << 50] {
            assert!(Arena::new(len).is_err());
        }
    }
}
