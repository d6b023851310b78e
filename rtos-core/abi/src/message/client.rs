//! Between a client and the core.

use serde::{Deserialize, Serialize};

/// What a client may do with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rights {
    /// Read.
    Read,
    /// Read and write.
    Write,
}

/// From a client to the core. Each is answered by one [`FromCore`], in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToCore {
    /// The first message.
    Hello {
        /// [`VERSION`](super::VERSION).
        version: u16,
        /// What the client calls itself, for listings.
        program: String,
    },
    /// Opens a name. Answered by [`FromCore::Opened`].
    Open {
        /// `nvme:0/ns1`.
        name: String,
        /// What is to be done with it.
        rights: Rights,
        /// Queues, 1 to 16.
        queues: u8,
        /// Entries of a ring: a power of two.
        depth: u32,
        /// Bytes of the connection's arena; the first name that is opened makes it, later ones
        /// have to fit.
        arena: u64,
    },
    /// Closes what [`FromCore::Opened`] opened.
    Close {
        /// Its handle.
        handle: u32,
    },
    /// Asks for the names that begin with `prefix`.
    List {
        /// Empty for all.
        prefix: String,
    },
    /// Asks what goes on: all drivers, or those whose names begin with `prefix`.
    Status {
        /// Empty for all.
        prefix: String,
    },
    /// Asks for what the device says of itself, as the driver read it.
    Identify {
        /// `nvme:0` or a name below it.
        name: String,
    },
    /// Replaces the driver of a name by a new process, without a reset.
    Restart {
        /// `nvme:0`.
        name: String,
    },
    /// As `Restart`, with a new program.
    Upgrade {
        /// `nvme:0`.
        name: String,
        /// The file of the program; nothing: the same file, read anew.
        program: Option<String>,
    },
    /// Ends what clients hold of a name.
    Revoke {
        /// `nvme:0/ns1`.
        name: String,
        /// Only this client's.
        client: Option<u32>,
    },
    /// Gives a device to the core.
    Add {
        /// Its address.
        address: String,
        /// Its driver; nothing: by what the device is.
        driver: Option<String>,
    },
    /// Takes a device from the core. Answered once its driver has ended.
    Remove {
        /// Its address.
        address: String,
    },
    /// Harms the driver of a name, for tests of recovery.
    Kill {
        /// `nvme:0`.
        name: String,
        /// How.
        how: Harm,
    },
    /// Asks the core to end.
    Stop,
}

/// How a driver is harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Harm {
    /// SIGKILL.
    Kill,
    /// SIGSEGV.
    Fault,
    /// SIGABRT.
    Abort,
    /// SIGSTOP: it hangs.
    Hang,
    /// The ledger's injection is armed: the step, and after how many passes. For driver programs
    /// that have steps.
    Arm {
        /// The step.
        step: u64,
        /// Passes.
        count: u64,
    },
    /// As `Kill`, and the ledger is made unreadable: the successor has to reset the device.
    Scramble,
}

/// From the core to a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromCore {
    /// Answers [`ToCore::Hello`].
    Welcome {
        /// [`VERSION`](super::VERSION).
        version: u16,
        /// The number that listings know the client by.
        client: u32,
    },
    /// It was done.
    Done,
    /// It was not done.
    Refused {
        /// Why.
        code: Refusal,
        /// In words, with what can be done.
        text: String,
    },
    /// Answers [`ToCore::Open`]. File descriptors: the arena, then for each queue its memory and
    /// a socket to wake and be woken by.
    Opened {
        /// To close it by.
        handle: u32,
        /// What the device is like.
        target: Target,
        /// Bytes of the arena.
        arena: u64,
        /// Entries of a ring.
        depth: u32,
        /// The most requests in flight over all queues.
        in_flight: u32,
        /// How many queues.
        queues: u8,
    },
    /// Answers [`ToCore::List`].
    Names(Vec<Name>),
    /// Answers [`ToCore::Status`].
    Status(Vec<DriverStatus>),
    /// Answers [`ToCore::Identify`].
    Identity {
        /// Of which kind: `nvme`.
        kind: String,
        /// The structures, by kind: for NVMe, Identify Controller and one Identify Namespace for
        /// each namespace, 4,096 bytes each.
        bytes: Vec<u8>,
    },
    /// Not an answer: a name that the client holds was taken from it.
    Closed {
        /// Its handle.
        handle: u32,
        /// Why.
        text: String,
    },
}

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The message was not one, or came out of order.
    Protocol,
    /// Nobody has such a name or device.
    NotFound,
    /// The configuration does not allow it.
    Denied,
    /// A limit is reached: of clients, queues or memory.
    Limit,
    /// The device or driver is not up.
    NotReady,
    /// It was tried and failed.
    Failed,
    /// The version is another.
    Version,
}

/// What can be opened: a block device behind a driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its path below the driver's name: `ns1`.
    pub path: String,
    /// What the driver calls it: a namespace identifier.
    pub id: u32,
    /// Bytes in a block.
    pub block_size: u32,
    /// How many blocks.
    pub blocks: u64,
    /// The most bytes that one read or write moves.
    pub max_transfer: u32,
    /// Whether written data can be lost with the power until a flush.
    pub volatile_write_cache: bool,
}

/// A name, as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// `nvme:0/ns1`.
    pub name: String,
    /// The address of the device.
    pub address: String,
    /// What can be opened there; nothing for the driver's own name.
    pub target: Option<Target>,
    /// Who holds it.
    pub holders: Vec<Holder>,
}

/// Who holds a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The client's number.
    pub client: u32,
    /// Its process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// What it calls itself.
    pub program: String,
    /// What it may do.
    pub rights: Rights,
    /// Its queues.
    pub queues: u8,
    /// Requests that have ended.
    pub ios: u64,
}

/// What goes on at a driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriverStatus {
    /// `nvme:0`.
    pub name: String,
    /// The device's address.
    pub address: String,
    /// The driver's program.
    pub driver: String,
    /// `running`, `adopting`, `resetting`, `starting`, `waiting`, `stopped`.
    pub state: String,
    /// Its process; 0 where there is none.
    pub pid: i32,
    /// The CPU that it has; nothing: any.
    pub cpu: Option<u32>,
    /// Whether a successor is ready.
    pub warm: bool,
    /// Whether it sleeps.
    pub asleep: bool,
    /// Requests in flight.
    pub in_flight: u64,
    /// Requests that ended, since the core has the device.
    pub ios: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Since when these are counted, in nanoseconds.
    pub elapsed_ns: u64,
    /// Requests a second, bytes a second and latency percentiles over the last interval between
    /// two questions of the same client, or since the start.
    pub iops: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Latency in the driver and the device, nanoseconds: median, 99th and 99.9th percentile,
    /// maximum.
    pub latency_ns: [u64; 4],
    /// Processes that were replaced, for whatever reason.
    pub restarts: u64,
    /// Of these without a reset of the device.
    pub adoptions: u64,
    /// Resets of the device.
    pub resets: u64,
    /// The last deaths, the youngest last.
    pub deaths: Vec<Death>,
    /// Who holds its names.
    pub holders: Vec<Holder>,
}

/// A driver process that ended, and how it was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// When: seconds since 1970.
    pub time: u64,
    /// Its process.
    pub pid: i32,
    /// `killed by SIGKILL`, `hung`, `exited with 3`, `restart`.
    pub cause: String,
    /// The panic's message and place, or what else it said.
    pub last_words: Option<String>,
    /// The request that was being worked on.
    pub request: Option<String>,
    /// `adopted`, `reset`, `stopped`; `none` where the successor died, too.
    pub recovery: String,
    /// Nanoseconds from the death (or the last sign of life) to its detection.
    pub detection_ns: u64,
    /// From there until the successor had the word.
    pub hand_over_ns: u64,
    /// From there until it had adopted or reset the device.
    pub adoption_ns: u64,
    /// From there to the first completion.
    pub first_completion_ns: u64,
}
