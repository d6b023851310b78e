//! The interrupts of a VFIO device.

use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use vfio_bindings::bindings::vfio::VFIO_IRQ_INFO_EVENTFD;

use super::ioctl::{self, MAX_IRQS};
use crate::interrupt::InterruptKind;
use crate::transport::TransportError;

const KINDS: usize = 5;

/// How many interrupts of each kind there are, and which are connected.
#[derive(Default)]
pub(super) struct Interrupts {
    counts: [u32; KINDS],
    connected: Mutex<[bool; KINDS]>,
}

impl Interrupts {
    /// Asks the device. `known` is how many kinds it says it has.
    pub(super) fn query(device: BorrowedFd<'_>, known: u32) -> Result<Self, TransportError> {
        let mut counts = [0; KINDS];
        for (index, count) in counts.iter_mut().enumerate().take(known as usize) {
            match ioctl::irq_info(device, index as u32) {
                Ok(info) if info.flags & VFIO_IRQ_INFO_EVENTFD != 0 => {
                    *count = info.count.min(MAX_IRQS as u32);
                }
                Ok(_) => {}
                // A kind that this device does not have, such as errors of a conventional one.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => {
                    let action = format!("VFIO_DEVICE_GET_IRQ_INFO of kind {index}");
                    return Err(TransportError::io(action, error));
                }
            }
        }
        Ok(Self { counts, connected: Mutex::default() })
    }

    pub(super) fn count(&self, kind: InterruptKind) -> u32 {
        self.counts[kind as usize]
    }

    /// Connects the interrupts of `kind` from 0 to `fds`; none at all disconnects them.
    ///
    /// What was connected is disconnected first: Linux lets nobody add MSI vectors to those
    /// that are enabled. This also arms INTx again, which Linux masks whenever it fires.
    pub(super) fn set(
        &self,
        device: BorrowedFd<'_>,
        kind: InterruptKind,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), TransportError> {
        let index = kind as u32;
        let action = |what| format!("VFIO_DEVICE_SET_IRQS to {what} {kind:?}");
        if fds.len() > self.count(kind) as usize {
            return Err(TransportError::Unsupported(format!(
                "{} interrupts ({kind:?}) asked for, the device has {}",
                fds.len(),
                self.count(kind)
            )));
        }
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        let connected = &mut connected[kind as usize];
        if std::mem::take(connected) {
            ioctl::set_irqs(device, index, &[])
                .map_err(|error| TransportError::io(action("disconnect"), error))?;
        }
        if !fds.is_empty() {
            ioctl::set_irqs(device, index, fds)
                .map_err(|error| TransportError::io(action("connect"), error))?;
            *connected = true;
        }
        Ok(())
    }
}
