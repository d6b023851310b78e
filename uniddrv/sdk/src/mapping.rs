//! Memory shared through a file descriptor, mapped into this process.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags};

use crate::sigbus;

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
        Ok(Self { base, len, guard: None })
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
        // The guard goes first: once unmapped, the range may become somebody else's.
        self.guard = None;
        // SAFETY: `base` and `len` are what `mmap` returned and was given; whoever keeps a
        // pointer into the mapping also keeps it alive (an `Arc<Mapping>` beside the pointer).
        if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) } {
            tracing::error!(%error, "munmap of {} bytes failed", self.len);
        }
    }
}
