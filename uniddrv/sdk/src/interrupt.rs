//! Interrupts as eventfds.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// How a device signals. The order is VFIO's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum InterruptKind {
    /// A pin of the bus, shared and level-triggered.
    Intx = 0,
    /// Message-signalled, PCI Local Bus 3.0 §6.8.1.
    Msi = 1,
    /// Message-signalled with a table, PCI Local Bus 3.0 §6.8.2.
    Msix = 2,
    /// An error was reported (AER); VFIO only.
    Error = 3,
    /// The host wants the device back; VFIO only.
    Request = 4,
}

/// One interrupt: an eventfd that the device (or the kernel for it) signals.
#[derive(Debug)]
pub struct Interrupt {
    fd: OwnedFd,
}

impl Interrupt {
    /// A new eventfd, not connected to a device yet.
    ///
    /// # Errors
    /// EMFILE or ENOMEM.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    /// Waits until it is signalled, `timeout` at most, and clears it. Whether it was signalled.
    ///
    /// # Errors
    /// What `poll` or `read` return; being interrupted by a signal counts as not signalled.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(false),
            Ok(_) => self.clear(),
            Err(error) => Err(error.into()),
        }
    }

    /// Clears it without waiting. Whether it was signalled.
    ///
    /// # Errors
    /// What `read` returns.
    pub fn clear(&self) -> io::Result<bool> {
        match rustix::io::read(&self.fd, &mut [0u8; 8]) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_seen_once() {
        let interrupt = Interrupt::new().unwrap();
        assert!(!interrupt.wait(Duration::from_millis(1)).unwrap());
        rustix::io::write(&interrupt, &1u64.to_ne_bytes()).unwrap();
        assert!(interrupt.wait(Duration::from_secs(1)).unwrap());
        assert!(!interrupt.clear().unwrap());
    }
}
