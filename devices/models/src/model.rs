//! The trait of a software device.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use uniddrv::InterruptKind;

use crate::config_space::{ConfigEffect, ConfigSpace};
use crate::host::Host;

/// A BAR of a model; `size` 0 where the model does not have it.
#[derive(Clone, Debug, Default)]
pub struct ModelBar<'a> {
    /// Length in bytes.
    pub size: u64,
    /// The part that a client may map instead of having its accesses trapped.
    pub shared: Option<SharedPart<'a>>,
}

/// A page-aligned part of a BAR that lies in a memfd, where client and model meet.
#[derive(Clone, Debug)]
pub struct SharedPart<'a> {
    /// Where it lies in the BAR.
    pub range: Range<u64>,
    /// A memfd laid out as the BAR is: its byte `range.start` is the first byte of `range`, and
    /// what lies before may be a hole. (A region of vfio-user has one file offset, that of the
    /// BAR's first byte.)
    pub file: BorrowedFd<'a>,
}

/// A software device: one PCI function.
///
/// Whoever serves it (inline or over vfio-user) checks that accesses lie in the BAR and are 1,
/// 2, 4 or 8 bytes long. All else that a client says is the model's to check.
pub trait Model: Send {
    /// PCI configuration space.
    fn config(&mut self) -> &mut ConfigSpace;

    /// BAR `index`, 0 to 5.
    fn bar(&self, index: u8) -> ModelBar<'_>;

    /// Reads `data.len()` bytes at `offset` of BAR `bar`.
    fn read_bar(&mut self, host: &mut Host, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes `data` at `offset` of BAR `bar`. What follows from it happens at the next
    /// [`poll`](Self::poll), or at once.
    fn write_bar(&mut self, host: &mut Host, bar: u8, offset: u64, data: &[u8]);

    /// How many interrupts of this kind there are; 0 where none.
    fn interrupts(&self, kind: InterruptKind) -> u32;

    /// Resets the function, configuration space included.
    fn reset(&mut self, host: &mut Host);

    /// The client has left: new memory takes the place of what it may still have mapped, so that
    /// it cannot reach into what the next one does. A reset came before.
    ///
    /// # Errors
    /// When there is no such memory: the model must not have another client then.
    fn revoke(&mut self) -> io::Result<()>;

    /// Does what there is to do, without waiting, and a bounded amount of it. Whether there
    /// was work.
    fn poll(&mut self, host: &mut Host) -> bool;

    /// False once it has disappeared: reads are all ones then, and writes go nowhere.
    fn present(&self) -> bool;

    /// Reads `data.len()` bytes at `offset` of configuration space; all ones outside of it and
    /// from a device that has disappeared.
    fn read_config(&mut self, offset: u32, data: &mut [u8]) {
        if self.present() {
            self.config().read(offset, data);
        } else {
            data.fill(0xff);
        }
    }

    /// Writes `data` at `offset` of configuration space and does what follows from it.
    fn write_config(&mut self, host: &mut Host, offset: u32, data: &[u8]) {
        if self.present() && self.config().write(offset, data) == ConfigEffect::FunctionReset {
            self.reset(host);
        }
    }
}
