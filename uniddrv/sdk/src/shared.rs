//! Shared memory as words: what [`uniddrv_abi`]'s rings and ledger lie in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate};
use uniddrv_abi::Words;

use crate::mapping::Mapping;

/// 64-bit words in memory that other processes have mapped too. Clones share the mapping.
#[derive(Clone, Debug)]
pub struct SharedWords {
    base: NonNull<AtomicU64>,
    count: usize,
    // Keeps what `base` points into.
    _mapping: Arc<Mapping>,
}

// SAFETY: the words are only reached by atomic accesses, from whatever thread, and the mapping
// that they lie in is kept beside the pointer.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps all of a memfd that was made by [`create`], present at once.
    ///
    /// # Errors
    /// EINVAL for a file that could become shorter while it is mapped or is shorter than `bytes`
    /// (0 for any length), and what `mmap` returns.
    pub fn map(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let len = sealed_len(fd)?;
        if len < bytes.max(8) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mapping = Arc::new(Mapping::populated(fd, 0, len)?);
        Ok(Self { base: mapping.base().cast(), count: len / 8, _mapping: mapping })
    }
}

/// A memfd of at least `bytes` bytes in whole pages, zeroed, that can neither shrink nor grow.
///
/// # Errors
/// EMFILE, ENOMEM.
pub fn create(name: &str, bytes: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create(name, flags)?;
    let len = bytes.max(1).next_multiple_of(4096) as u64;
    ftruncate(&fd, len)?;
    // Whoever maps it does not find out by SIGBUS that there is no memory.
    rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, len)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// The length of a memfd that cannot become shorter; EINVAL for any other file.
pub(crate) fn sealed_len(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let seals = fcntl_get_seals(fd).map_err(|_| invalid())?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
        return Err(invalid());
    }
    usize::try_from(fstat(fd.as_fd())?.st_size).map_err(|_| invalid())
}

impl Words for SharedWords {
    #[inline]
    fn count(&self) -> usize {
        self.count
    }

    #[inline]
    fn load(&self, index: usize, order: Ordering) -> u64 {
        assert!(index < self.count);
        // SAFETY: the word lies in the mapping, which is kept; it is aligned, since mappings are;
        // other processes reach it by atomic accesses of the same size or, if hostile, by any,
        // which for the machine is the same.
        unsafe { self.base.add(index).as_ref() }.load(order)
    }

    #[inline]
    fn store(&self, index: usize, value: u64, order: Ordering) {
        #[cfg(test)]
        mortal::store();
        assert!(index < self.count);
        // SAFETY: as for `load`.
        unsafe { self.base.add(index).as_ref() }.store(value, order);
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// Deaths between any two stores, for tests of what they leave behind.
#[cfg(test)]
pub(crate) mod mortal {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// What unwinds when a thread dies.
    pub(crate) struct Died;

    /// Has this thread die instead of its next store but `stores`; nothing: never.
    pub(crate) fn arm(stores: Option<u64>) {
        LEFT.set(stores);
    }

    /// Runs what is not to be the death of this thread.
    pub(crate) fn pause<R>(run: impl FnOnce() -> R) -> R {
        let left = LEFT.take();
        let result = run();
        LEFT.set(left);
        result
    }

    /// A store, or something else that a process may die before.
    pub(crate) fn store() {
        match LEFT.get() {
            Some(0) => {
                LEFT.set(None);
                std::panic::resume_unwind(Box::new(Died));
            }
            Some(left) => LEFT.set(Some(left - 1)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_see_the_same_words() {
        let fd = create("words", 100).unwrap();
        let one = SharedWords::map(fd.as_fd(), 100).unwrap();
        let other = SharedWords::map(fd.as_fd(), 0).unwrap();
        assert_eq!(one.count(), 512);
        one.store(511, 7, Ordering::Release);
        assert_eq!(other.load(511, Ordering::Acquire), 7);
    }

    #[test]
    fn what_could_shrink_is_refused() {
        let fd = rustix::fs::memfd_create("words", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, 4096).unwrap();
        assert!(SharedWords::map(fd.as_fd(), 4096).is_err());
        let pipe = std::io::pipe().unwrap().0;
        assert!(SharedWords::map(pipe.as_fd(), 0).is_err());
        let fd = create("words", 4096).unwrap();
        assert!(SharedWords::map(fd.as_fd(), 4097).is_err());
    }
}
