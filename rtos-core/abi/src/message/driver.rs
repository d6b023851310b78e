//! Between the core and a driver process, on its control socket.

use serde::{Deserialize, Serialize};

use super::client::{Rights, Target};

/// How a driver is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Beginning {
    /// Bring the device up; the ledger is new.
    Fresh,
    /// Adopt the running device; reset it only if that cannot be.
    Adopt,
    /// Reset the device, and issue again what the ledger holds.
    Reset,
    /// Reset the device; the ledger is new because the old one did not check out. Client queues
    /// are renewed: their clients submit again what they have not seen completed.
    Renew,
}

/// From the core to a driver process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToDriver {
    /// The first message: what the process is to serve with. It maps everything, and waits for
    /// [`Begin`](Self::Begin). File descriptors: the ledger, the driver's arena, then one for
    /// each window.
    Prepare {
        /// [`VERSION`](super::VERSION).
        version: u16,
        /// The device's address, for messages.
        address: String,
        /// Where the driver's arena is in the device's address space.
        arena_iova: u64,
        /// Bytes of the driver's arena.
        arena_len: u64,
        /// What is mapped of the device's BARs.
        windows: Vec<BarWindow>,
        /// How it is to be driven.
        settings: Settings,
    },
    /// Take the device.
    Begin(Beginning),
    /// A client's queues. Sent to a waiting successor too. File descriptors: for each queue its
    /// memory and its wake-up socket.
    Attach(Client),
    /// Take nothing more from a client, wait for what it has in flight, and forget it. Answered
    /// by [`FromDriver::Detached`].
    Detach {
        /// The client's number at this driver.
        client: u32,
    },
    /// Stop at a clean point, leave the device running, and end: a successor takes over.
    Quiesce,
    /// Shut the device down and end.
    Stop,
    /// Something may have changed: look at the control socket, the rings, and the ledger.
    Wake,
}

/// A part of a BAR that a driver process maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarWindow {
    /// Which BAR.
    pub bar: u8,
    /// Where in the BAR it starts, in bytes.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Where in the file descriptor it starts.
    pub offset: u64,
}

/// How a device is to be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The most requests in flight at the device.
    pub depth: u32,
    /// Milliseconds that a command may take.
    pub timeout_ms: u64,
    /// Whether to sleep when there is nothing to do.
    pub sleep: bool,
    /// Microseconds without work before it does.
    pub spin_us: u64,
}

/// A client, as a driver sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its number at this driver.
    pub client: u32,
    /// The target, by the driver's own number for it.
    pub target: u32,
    /// What it may do.
    pub rights: Rights,
    /// Where its arena is in the device's address space.
    pub arena_iova: u64,
    /// Bytes of its arena.
    pub arena_len: u64,
    /// Entries of a ring.
    pub depth: u32,
    /// Its queues, by their numbers in the ledger.
    pub queues: Vec<u8>,
    /// Limits.
    pub limits: Limits,
    /// Whether this is the client's first driver: its queues in the ledger start from 0.
    pub new: bool,
}

/// What a client may use at most; 0 means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests a second.
    pub iops: u64,
    /// Bytes a second.
    pub bytes_per_second: u64,
    /// Its share beside other clients'; 0 counts as 1.
    pub weight: u32,
}

/// From a driver process to the core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromDriver {
    /// Everything is mapped; [`ToDriver::Begin`] may come.
    Ready,
    /// The device is up, or was adopted.
    Up {
        /// Whether without a reset.
        adopted: bool,
        /// Why there was one, if it was to be adopted.
        reason: Option<String>,
        /// What can be opened.
        targets: Vec<Target>,
        /// Kind and structures, for [`FromCore::Identity`](super::FromCore::Identity); empty
        /// after an adoption: they are as they were.
        kind: String,
        /// See `kind`.
        identity: Vec<u8>,
    },
    /// Answers [`ToDriver::Attach`], once the driver runs.
    Attached {
        /// The client's number.
        client: u32,
    },
    /// Answers [`ToDriver::Detach`]: nothing of the client's is in flight.
    Detached {
        /// The client's number.
        client: u32,
    },
    /// A client wrote what cannot be into its rings: end it.
    Hostile {
        /// The client's number.
        client: u32,
        /// What.
        text: String,
    },
    /// A request was failed after it was worked on at three deaths in a row.
    Poisoned {
        /// The client's number.
        client: u32,
        /// Which.
        text: String,
    },
    /// The ledger does not check out: a successor with a new one has to reset the device.
    Unreadable {
        /// What was found.
        text: String,
    },
    /// Answers [`ToDriver::Quiesce`]; the process ends next.
    Quiesced,
    /// The device did not come up, or is gone; the process ends next.
    Failed {
        /// Whether the device is gone for good.
        gone: bool,
        /// Why.
        text: String,
    },
    /// It was asleep and is awake: watch its heartbeat.
    Awake,
    /// Something to be told.
    Log {
        /// 1 error, 2 warning, 3 information, 4 debugging.
        level: u8,
        /// What.
        text: String,
    },
}

/// The most bytes of a text for people in a message of a driver process.
pub const MAX_TEXT: usize = 2048;

impl FromDriver {
    fn text_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Hostile { text, .. }
            | Self::Poisoned { text, .. }
            | Self::Unreadable { text }
            | Self::Failed { text, .. }
            | Self::Log { text, .. } => Some(text),
            Self::Up { reason, .. } => reason.as_mut(),
            _ => None,
        }
    }

    /// Cuts what is for people to read to [`MAX_TEXT`] bytes. Whether it was longer, which a
    /// message that comes from a driver process never is.
    pub fn cut_text(&mut self) -> bool {
        let Some(text) = self.text_mut().filter(|text| text.len() > MAX_TEXT) else { return false };
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        true
    }
}
