//! Memory shared through a file descriptor, mapped into this process; and advice on memory.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};

use crate::sigbus;

/// Bytes of a huge page.
pub const HUGE_PAGE: usize = 2 << 20;

/// A shared mapping of part of a file, a memfd or a device. Unmapped when dropped.
///
/// The other side may write at any time, so nothing hands out a reference into it: the
/// accessors of [`Window`](crate::Window), [`DmaBuf`](crate::DmaBuf) and
/// [`DmaRing`](crate::DmaRing) go through volatile accesses or own what they lend.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    guard: Option<sigbus::Guard>,
    /// What this is a part of, and lies in.
    whole: Option<Arc<Mapping>>,
}

// SAFETY: a mapping is plain memory of the process, valid on every thread until `drop`, which
// takes it by value; `Mapping` itself gives no access to it.
unsafe impl Send for Mapping {}
// SAFETY: as above; sharing `&Mapping` shares an address and a length, both immutable.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes at `offset` of `fd` for reading and writing, present at once.
    ///
    /// # Errors
    /// What `mmap` returns: ENOMEM where the memory (or huge pages) is not there, EINVAL for
    /// an offset that is no multiple of the page size.
    pub fn populated(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        Self::map(fd, offset, len, MapFlags::SHARED | MapFlags::POPULATE)
    }

    /// Maps `len` bytes at `offset` of `fd` for reading and writing, each page present once it is
    /// touched.
    ///
    /// # Errors
    /// As [`populated`](Self::populated).
    pub fn on_touch(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        Self::map(fd, offset, len, MapFlags::SHARED)
    }

    /// Maps `len` bytes at `offset` of `fd`, a device or the file of a peer, which may become
    /// shorter at any time: a page that goes away then reads as all ones, as a removed device
    /// does, instead of ending the process with SIGBUS.
    ///
    /// # Errors
    /// What `mmap` returns, and ENOSPC where more mappings are guarded than there is room for.
    pub fn of_device(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let mut mapping = Self::map(fd, offset, len, MapFlags::SHARED)?;
        mapping.guard = Some(sigbus::guard(mapping.base.as_ptr() as usize, len)?);
        Ok(mapping)
    }

    fn map(fd: BorrowedFd<'_>, offset: u64, len: usize, flags: MapFlags) -> io::Result<Self> {
        // SAFETY: without MAP_FIXED the kernel picks an address that overlaps nothing, so no
        // memory that Rust knows of changes; `mmap` checks all other arguments itself.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                fd,
                offset,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, len, guard: None, whole: None })
    }

    /// The bytes `range` of this mapping, as one of their own; nothing where they do not lie in it
    /// or are none.
    pub fn part(self: &Arc<Self>, range: Range<usize>) -> Option<Self> {
        if range.is_empty() || range.end > self.len {
            return None;
        }
        // SAFETY: `range` was found to lie in the mapping, which is one object and is kept by
        // `whole`.
        let base = unsafe { self.base.add(range.start) };
        Some(Self { base, len: range.len(), guard: None, whole: Some(self.clone()) })
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "mmap refuses a length of 0")]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.whole.is_some() {
            return;
        }
        // The guard goes first: once unmapped, the range may become somebody else's.
        self.guard = None;
        // SAFETY: `base` and `len` are what `mmap` returned and was given, since this is no part of
        // another mapping; a part keeps the whole; whoever keeps a
        // pointer into the mapping also keeps it alive (an `Arc<Mapping>` beside the pointer).
        if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) } {
            tracing::error!(%error, "munmap of {} bytes failed", self.len);
        }
    }
}

/// Asks Linux to put huge pages behind the `len` bytes from `address` on, which should be
/// aligned to [`HUGE_PAGE`]. That holds for pages that are touched later; no byte changes.
///
/// # Errors
/// EINVAL where the kernel has no transparent huge pages or `address` is not aligned to a page,
/// ENOMEM where part of the range is not mapped.
pub fn prefer_huge_pages(address: usize, len: usize) -> io::Result<()> {
    let start = std::ptr::without_provenance_mut(address);
    // SAFETY: this advice changes how memory is kept, never what it holds, where it lies or who
    // may access it, so it is harmless whatever the range; the kernel checks that itself.
    unsafe { rustix::mm::madvise(start, len, rustix::mm::Advice::LinuxHugepage) }?;
    Ok(())
}

/// Tells the CPU that the cache line at `address` will be needed soon. Does nothing where there
/// is no memory at `address`.
#[inline]
pub fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: PREFETCHT0 is a hint: it never faults and reads nothing into a register,
        // whatever the address (Intel SDM Vol. 2B, PREFETCHh); every x86-64 CPU has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_changes_nothing() {
        let memory = vec![7_u8; 3 * HUGE_PAGE];
        let address = (memory.as_ptr() as usize).next_multiple_of(HUGE_PAGE);
        // A kernel may be without huge pages.
        if let Err(error) = prefer_huge_pages(address, HUGE_PAGE) {
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
        prefetch(address);
        assert!(memory.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn a_part_outlives_the_handle_of_its_whole() {
        let arena = crate::Arena::new(1).unwrap();
        let whole = Arc::new(Mapping::populated(arena.fd(), 0, 8192).unwrap());
        for outside in [0..8193, 8192..8193, 5..5, usize::MAX - 1..usize::MAX] {
            assert!(whole.part(outside).is_none());
        }
        let window = |mapping| crate::Window::mapped(Arc::new(mapping), 0, 4096).unwrap();
        let second = window(whole.part(4096..8192).unwrap());
        let again = crate::Window::mapped(whole, 4096, 4096).unwrap();
        second.write32(4092, 7);
        assert_eq!(again.read32(4092), 7);
        drop(again);
        assert_eq!(second.read32(4092), 7);
    }

    #[test]
    fn advice_on_what_is_not_there_is_harmless() {
        assert!(prefer_huge_pages(1, 4096).is_err());
        // The last page of the user's half is never mapped.
        assert!(prefer_huge_pages(0x7fff_ffff_e000, usize::MAX).is_err());
        for address in [0, 1, 1 << 47, usize::MAX] {
            prefetch(address);
        }
    }
}
