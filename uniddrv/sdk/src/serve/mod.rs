//! Drivers as processes of their own: what a driver implements so that the core can run it, and
//! its successor can take over from it.

mod client;
#[expect(unsafe_code)]
mod crash;
mod log;
mod runtime;
pub mod table;
mod transport;

pub use runtime::main;
pub use table::{Table, Work};
pub use transport::Held;

use std::os::fd::RawFd;

use uniddrv_abi::ledger::{Ledger, LedgerError};
use uniddrv_abi::message::{Settings, Target};

use crate::device::Device;
use crate::driver::{AttachError, Match, Progress};
use crate::shared::SharedWords;

/// The file descriptor under which a driver process inherits its control socket.
pub const CONTROL: RawFd = 3;
/// The file descriptor under which a driver process inherits the socket of its device.
pub const DEVICE: RawFd = 4;
/// The file descriptor under which a driver process inherits the file of its first window, and the
/// following ones those of the others: where the core does not hand them over in its first message.
pub const FIRST_WINDOW: RawFd = 5;

/// Makes a [`BlockDriver`] a program that the core runs: expands to its `main`.
///
/// ```ignore
/// uniddrv::driver_program!(storage_poll::served::Nvme);
/// ```
#[macro_export]
macro_rules! driver_program {
    ($driver:ty) => {
        fn main() -> ::std::process::ExitCode {
            $crate::serve::main::<$driver>()
        }
    };
}

/// The ledger of a driver process.
pub type DriverLedger = Ledger<SharedWords>;

/// A driver of block devices that the core can run as a process.
///
/// Each of the three ways to begin leaves the device running and the ledger in
/// [`Phase::Running`](uniddrv_abi::ledger::Phase::Running).
pub trait BlockDriver: Sized {
    /// What happens at each [`Step`]: [`Undisturbed`], but in tests of recovery.
    type Steps: Steps;

    /// The devices that it drives.
    const MATCHES: &'static [Match];

    /// Brings up a device that nobody has used yet, whose ledger is new.
    ///
    /// # Errors
    /// When it does not come up.
    fn attach(
        device: Device,
        ledger: &DriverLedger,
        settings: &Settings,
    ) -> Result<Self, AttachError>;

    /// Takes over a device that runs, from a predecessor that died at any instruction. Requests
    /// that `table` has as submitted and that the device may not have seen are put back
    /// ([`Table::submit_again`]).
    ///
    /// # Errors
    /// With the device, when only a reset helps: then [`recover`](Self::recover) follows.
    fn adopt(
        device: Device,
        ledger: &DriverLedger,
        settings: &Settings,
        table: &mut Table<Self::Steps>,
    ) -> Result<Self, (AdoptError, Device)>;

    /// Stops a device in whatever state it is, takes what it has completed, brings it up, and
    /// puts back ([`Table::submit_again`]) whatever `table` still has as submitted.
    ///
    /// # Errors
    /// When it does not come up.
    fn recover(
        device: Device,
        ledger: &DriverLedger,
        settings: &Settings,
        table: &mut Table<Self::Steps>,
    ) -> Result<Self, AttachError>;

    /// What can be opened.
    fn targets(&self) -> Vec<Target>;

    /// What kind of device it is, and what it says of itself, for
    /// [`FromCore::Identity`](uniddrv_abi::message::FromCore::Identity).
    fn identity(&self) -> (&'static str, Vec<u8>);

    /// Takes requests from `table` and gives it what has ended, without waiting.
    fn poll(&mut self, table: &mut Table<Self::Steps>) -> Progress;

    /// Why the device cannot be used any more, once it cannot.
    fn gone(&self) -> Option<String>;

    /// Shuts the device down properly.
    fn shut_down(self);
}

/// A device that cannot be adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// What the ledger says of the device cannot be.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The device is not in a state to go on from.
    #[error("{0}")]
    Device(String),
}

/// A place in the handling of requests at which a test can have the driver end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Step {
    /// A request is in a slot; the position is not given back.
    SlotTaken = 1,
    /// The ledger's consumer index is ahead of the ring's.
    ConsumerRecorded,
    /// The position was given back to the client.
    ConsumerPublished,
    /// The ledger says where the device will have it; the device's queue does not hold it.
    SubmissionRecorded,
    /// The device's queue holds it; the ledger's tail does not.
    EntryWritten,
    /// The ledger's tail holds it; the doorbell was not rung.
    TailRecorded,
    /// The doorbell was rung.
    DoorbellRung,
    /// A completion was read from the device; nothing is recorded.
    CompletionRead,
    /// The slot says done; nothing is posted.
    DoneRecorded,
    /// The completion entry is written; the ledger's producer index is not.
    CompletionWritten,
    /// The ledger's producer index is ahead of the ring's.
    ProducerRecorded,
    /// The client can see the completion.
    ProducerPublished,
    /// The ledger has the head of the device's completion queue; the slots are not free.
    HeadRecorded,
    /// The slots are free; the device was not told.
    SlotsFreed,
    /// The device was told.
    HeadRung,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 15] = [
        Self::SlotTaken,
        Self::ConsumerRecorded,
        Self::ConsumerPublished,
        Self::SubmissionRecorded,
        Self::EntryWritten,
        Self::TailRecorded,
        Self::DoorbellRung,
        Self::CompletionRead,
        Self::DoneRecorded,
        Self::CompletionWritten,
        Self::ProducerRecorded,
        Self::ProducerPublished,
        Self::HeadRecorded,
        Self::SlotsFreed,
        Self::HeadRung,
    ];
}

/// What happens at a step: nothing in a driver program, an end in a test's.
pub trait Steps: 'static {
    /// The driver has come to `step`.
    fn at(ledger: &DriverLedger, step: Step);
}

/// Nothing happens at any step.
#[derive(Debug)]
pub enum Undisturbed {}

impl Steps for Undisturbed {
    #[inline(always)]
    fn at(_: &DriverLedger, _: Step) {}
}
