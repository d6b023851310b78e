//! Devices that the core holds: who may have one, what its driver reaches of it, and the thread
//! that does whatever may take long.
//!
//! | file | what it knows |
//! |---|---|
//! | `assign` | which driver a device belongs to; an IOMMU group is never split |
//! | `worker` | the handle of a device's thread: commands that never wait, and the events they bring |
//! | `work` | the thread itself |
//! | `opener` | how a device is opened, and opened again |
//! | `model` | a model as a process of its own |
//! | `attached` | a device that is open, and what was found out about it |
//! | `domain` | which memory the device reaches, and where |
//! | `policy` | which registers a driver process may map |
//! | `trapped` | what a driver process asks for instead, and what of it is refused |
//! | `seats` | the driver processes that are connected; one of them drives |
//!
//! Everything about a device happens on its own thread, in the order in which it was asked for.
//! So a command of the core that was given before a driver process wrote a message is carried
//! out before that message is read, and one that was given before a driver's end was known
//! comes before whatever that driver still left in its socket.

mod assign;
mod attached;
mod domain;
mod model;
mod opener;
mod policy;
mod seats;
mod trapped;
mod work;
mod worker;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use uniddrv::device::Identity;
use uniddrv::vfio_user::Timeouts;
use uniddrv::{Arena, TransportKind};
use uniddrv_abi::message::BarWindow;

pub use assign::{AssignError, Assignments};
pub use worker::Worker;

/// The core's number for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u32);

/// The core's number for a driver process. Not used again while its device is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DriverId(pub u64);

/// The core's number for an arena of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// How a device is held.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of the driver's arena.
    pub arena: usize,
    /// How long the server of a software device may take.
    pub timeouts: Timeouts,
    /// The folder for the sockets of models. It exists.
    pub runtime: PathBuf,
    /// The program that serves models: it has the subcommand `model` of `uniddrv`.
    pub program: PathBuf,
    /// The CPU that a model runs on; any where there is none.
    pub model_cpu: Option<u32>,
}

impl Settings {
    /// The driver's arena is of `arena` bytes, sockets are in `runtime`, and this program serves
    /// models.
    pub fn new(arena: usize, runtime: PathBuf) -> Self {
        Self {
            arena,
            timeouts: Timeouts::default(),
            runtime,
            // Also right when the file was replaced meanwhile.
            program: PathBuf::from("/proc/self/exe"),
            model_cpu: None,
        }
    }
}

/// What a worker tells the core.
#[derive(Debug)]
pub enum Event {
    /// Answers `open`: the device is held, its memory decoding on and its bus mastering off.
    Opened(Box<Opened>),
    /// Answers `open` and `reopen`: it is not held.
    Failed {
        /// Why.
        text: String,
        /// Whether trying again has no point: a reopening whose time is over, or a device that
        /// is another one now.
        gone: bool,
    },
    /// Answers `map`: the device reaches the arena at `iova`.
    Mapped {
        /// Which arena.
        token: Token,
        /// Where.
        iova: u64,
    },
    /// Answers `map`: it does not.
    MapFailed {
        /// Which arena.
        token: Token,
        /// Why.
        text: String,
    },
    /// Answers `unmap`. Also comes for each arena that is mapped when the device is closed.
    Unmapped {
        /// Which arena.
        token: Token,
        /// Why the device may reach it still; the worker keeps the memory then until a fence, a
        /// reopening or the end.
        kept: Option<String>,
    },
    /// Answers `fence`. After an error the device is in an unknown state: close it.
    Fenced(Result<(), String>),
    /// Answers `reset`.
    WasReset(Result<(), String>),
    /// The device is gone: its server hung up, Linux wants it back, or it answers no longer.
    /// Told once. Driver processes are told when they ask.
    Lost {
        /// How it was noticed.
        reason: String,
    },
    /// Answers `reopen`: it is back, reset, and reaches the driver's arena and those of all
    /// clients where it did before. Its windows are new ones: driver processes from before
    /// were disconnected and have to end.
    Reopened(Box<Opened>),
    /// The device is let go, and the worker's thread ends: always the last event.
    Closed,
    /// A driver process asked for what it does not get. At most 100 times a connection.
    Refused {
        /// Which one.
        driver: DriverId,
        /// What, and why not.
        text: String,
    },
    /// A driver process is connected no longer.
    Unserved {
        /// Which one.
        driver: DriverId,
        /// What it did; nothing where it closed its end itself.
        reason: Option<String>,
    },
}

/// A device that is held.
#[derive(Debug)]
pub struct Opened {
    /// What it is.
    pub identity: Identity,
    /// How it is reached.
    pub transport: TransportKind,
    /// Bytes of its BARs, 0 for one that it does not have.
    pub bars: [u64; 6],
    /// The driver's arena.
    pub arena: Arc<Arena>,
    /// Where the device reaches it.
    pub arena_iova: u64,
    /// What a driver process may map, with the file to map it from. A real device that is to go
    /// is not gone before these files are closed: drop them when it is lost or closed.
    pub windows: Vec<(BarWindow, OwnedFd)>,
    /// How many interrupts it has.
    pub interrupts: Interrupts,
}

/// How many interrupts of each kind a device has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupts {
    /// Pins: 0 or 1.
    pub intx: u32,
    /// Message-signalled.
    pub msi: u32,
    /// Message-signalled with a table.
    pub msix: u32,
}
