//! A mapped device or peer that goes away must not take this process along.
//!
//! Linux sends SIGBUS to whoever touches a mapped page that is no longer there: the BAR of a
//! removed device, a file that a peer truncated. For guarded ranges the handler puts a page of
//! ones in its place, so that the access completes and reads as it does from a removed PCI
//! device (PCI Express Base 4.0 §2.3.2): the driver's own check for removal takes over.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

const SLOTS: usize = 1024;
const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;

struct Slot {
    start: AtomicUsize,
    len: AtomicUsize,
}

static GUARDED: [Slot; SLOTS] =
    [const { Slot { start: AtomicUsize::new(0), len: AtomicUsize::new(0) } }; SLOTS];
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// A guarded range of addresses; no longer guarded once dropped.
#[derive(Debug)]
pub struct Guard(usize);

/// Guards `len` bytes of mapped memory at the address `start` from SIGBUS.
///
/// A page of it that goes away is replaced by ones. Drop the guard before unmapping.
///
/// # Errors
/// ENOSPC when 1,024 ranges are guarded already, EINVAL for an empty range.
pub fn guard(start: usize, len: usize) -> io::Result<Guard> {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(install);
    if start == 0 || len == 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (index, slot) in GUARDED.iter().enumerate() {
        // The length is what makes a slot count: it is set last and cleared first.
        if slot.start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            slot.len.store(len, Ordering::Release);
            return Ok(Guard(index));
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENOSPC))
}

impl Drop for Guard {
    fn drop(&mut self) {
        GUARDED[self.0].len.store(0, Ordering::Release);
        GUARDED[self.0].start.store(0, Ordering::Release);
    }
}

fn install() {
    // SAFETY: both structures are valid for the call and zero is a valid value of their type;
    // `handle` has the signature that SA_SIGINFO asks for and is async-signal-safe: it uses
    // atomics, `mmap`, `sigaction` and plain stores only. The former action is leaked, so that
    // the handler may read it for ever.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        let previous = Box::into_raw(Box::new(std::mem::zeroed::<libc::sigaction>()));
        if libc::sigaction(libc::SIGBUS, &raw const action, previous) == 0 {
            PREVIOUS.store(previous, Ordering::Release);
        }
    }
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler; for SIGBUS its
    // address field is the one that is filled.
    let address = unsafe { (*info).si_addr() } as usize;
    let guarded = GUARDED.iter().find_map(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        let len = slot.len.load(Ordering::Acquire);
        (len != 0 && address >= start && address - start < len).then_some((start, len))
    });
    if let Some((start, len)) = guarded {
        // In huge pages, only a whole one can be replaced, and only if all of it is guarded.
        let huge = address & !(HUGE_PAGE - 1);
        let inside = huge >= start && huge - start <= len.saturating_sub(HUGE_PAGE);
        if replace(address, PAGE) || (inside && len >= HUGE_PAGE && replace(address, HUGE_PAGE)) {
            return;
        }
    }
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: `previous` is null or a leaked box that `install` filled. A handler found there
    // was installed for this signal with the signature that its flags tell. Else the default
    // action is restored: the access is repeated and ends the process as it would have.
    unsafe {
        if !previous.is_null() {
            let action = (*previous).sa_sigaction;
            if action != libc::SIG_DFL && action != libc::SIG_IGN {
                if (*previous).sa_flags & libc::SA_SIGINFO != 0 {
                    let call: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(action);
                    return call(signal, info, context);
                }
                let call: extern "C" fn(i32) = std::mem::transmute(action);
                return call(signal);
            }
        }
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}

/// Puts an anonymous page of ones over the page of `size` bytes around `address`.
fn replace(address: usize, size: usize) -> bool {
    let page = (address & !(size - 1)) as *mut libc::c_void;
    // SAFETY: the page lies in a guarded mapping, whose owner keeps it mapped while the guard
    // lives and reaches it by volatile accesses only; its contents are gone already (that is
    // what SIGBUS says), so nothing that Rust relies on changes. Filling it touches just the
    // new page.
    unsafe {
        let new = libc::mmap(
            page,
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
        if new == libc::MAP_FAILED {
            return false;
        }
        std::ptr::write_bytes(page.cast::<u8>(), 0xff, size);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use crate::mapping::Mapping;
    use crate::window::Window;

    #[test]
    fn a_truncated_peer_reads_as_ones() {
        let fd = memfd_create("peer", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, 8192).unwrap();
        let mapping = Mapping::of_device(fd.as_fd(), 0, 8192).unwrap();
        let window = Window::mapped(std::sync::Arc::new(mapping), 0, 8192).unwrap();
        window.write32(4096, 7);
        assert_eq!(window.read32(4096), 7);
        ftruncate(&fd, 0).unwrap();
        assert_eq!(window.read32(4096), u32::MAX);
        window.write32(0, 1);
    }
}
