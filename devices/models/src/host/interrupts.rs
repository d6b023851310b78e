//! The eventfds of a client.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use uniddrv::InterruptKind;

/// The most vectors of one kind. PCI Local Bus 3.0 §6.8.2.
const VECTORS: u32 = 2048;

/// The interrupts that a client has connected.
#[derive(Debug, Default)]
pub struct Interrupts {
    msix: Vec<Option<OwnedFd>>,
    msi: Vec<Option<OwnedFd>>,
    intx: Vec<Option<OwnedFd>>,
    signalled: Cell<u64>,
}

impl Interrupts {
    /// Signals `fd` for `vector` of `kind` from now on, or nothing.
    ///
    /// The fd is made non-blocking: it is a claim of the client that it is an eventfd, and a
    /// full one must not hold up the model.
    ///
    /// # Errors
    /// EINVAL for a kind or a vector that no device has, and what `fcntl` returns.
    pub fn connect(
        &mut self,
        kind: InterruptKind,
        vector: u32,
        fd: Option<OwnedFd>,
    ) -> io::Result<()> {
        let vectors = self.vectors(kind).ok_or(io::ErrorKind::InvalidInput)?;
        if vector >= VECTORS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Some(fd) = &fd {
            let flags = rustix::fs::fcntl_getfl(fd)?;
            rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
        }
        let index = vector as usize;
        if vectors.len() <= index {
            vectors.resize_with(index + 1, || None);
        }
        vectors[index] = fd;
        Ok(())
    }

    /// Disconnects all of `kind`.
    pub fn disconnect(&mut self, kind: InterruptKind) {
        if let Some(vectors) = self.vectors(kind) {
            vectors.clear();
        }
    }

    /// Disconnects all.
    pub fn clear(&mut self) {
        self.msix.clear();
        self.msi.clear();
        self.intx.clear();
    }

    /// Signals `vector` by the best kind that is connected: MSI-X, MSI, or the pin, which all
    /// vectors share.
    pub fn signal(&self, vector: u16) {
        let (vectors, index) = if !self.msix.is_empty() {
            (&self.msix, vector as usize)
        } else if !self.msi.is_empty() {
            (&self.msi, vector as usize % self.msi.len())
        } else {
            (&self.intx, 0)
        };
        if let Some(Some(fd)) = vectors.get(index) {
            self.signalled.set(self.signalled.get() + 1);
            if let Err(error) = rustix::io::write(fd, &1u64.to_ne_bytes()) {
                tracing::debug!(%error, vector, "an interrupt could not be signalled");
            }
        }
    }

    /// Whether MSI-X is connected. (Its table masks vectors, a device's own mask registers
    /// are for the others.)
    #[inline]
    pub fn by_table(&self) -> bool {
        !self.msix.is_empty()
    }

    /// How many were signalled so far.
    pub fn signalled(&self) -> u64 {
        self.signalled.get()
    }

    fn vectors(&mut self, kind: InterruptKind) -> Option<&mut Vec<Option<OwnedFd>>> {
        match kind {
            InterruptKind::Msix => Some(&mut self.msix),
            InterruptKind::Msi => Some(&mut self.msi),
            InterruptKind::Intx => Some(&mut self.intx),
            InterruptKind::Error | InterruptKind::Request => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use uniddrv::Interrupt;

    use super::*;

    fn clone(interrupt: &Interrupt) -> OwnedFd {
        interrupt.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn the_best_connected_kind_is_signalled() {
        let mut interrupts = Interrupts::default();
        interrupts.signal(0);
        assert_eq!(interrupts.signalled(), 0);
        let (pin, vector) = (Interrupt::new().unwrap(), Interrupt::new().unwrap());
        interrupts.connect(InterruptKind::Intx, 0, Some(clone(&pin))).unwrap();
        interrupts.signal(7);
        assert!(pin.wait(Duration::from_secs(1)).unwrap());
        interrupts.connect(InterruptKind::Msix, 3, Some(clone(&vector))).unwrap();
        interrupts.signal(2);
        interrupts.signal(3);
        interrupts.signal(4);
        assert!(vector.clear().unwrap());
        assert!(!pin.clear().unwrap());
        assert_eq!(interrupts.signalled(), 2);
        interrupts.disconnect(InterruptKind::Msix);
        assert!(!interrupts.by_table());
    }

    #[test]
    fn impossible_vectors_are_errors() {
        let mut interrupts = Interrupts::default();
        assert!(interrupts.connect(InterruptKind::Msix, 2048, None).is_err());
        assert!(interrupts.connect(InterruptKind::Error, 0, None).is_err());
    }

    #[test]
    fn a_full_eventfd_does_not_block() {
        let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let mut interrupts = Interrupts::default();
        interrupts.connect(InterruptKind::Msi, 0, Some(fd)).unwrap();
        interrupts.signal(0);
    }
}
