//! The sandbox that a driver's program is executed in. It does not trust that program: all of it
//! stands before the program's first instruction, and survives its execution.
//!
//! [`Spawner::spawn`] starts this program anew as a *launcher*, under the name [`LAUNCHER`], as
//! the first process of new namespaces. It takes everything away from itself, layer by layer
//! ([`Layer`]), reports what could not be had, and executes the driver's program in its place.
//! `main` of every program that has a [`Spawner`] calls [`launch_if_asked`] first.
//!
//! How a sandboxed process ends is not quite as usual, since it is the first process of its PID
//! namespace: such a one ignores signals that it sends itself and has no handler for. `abort`,
//! and so a panic where panics abort, ends it with SIGSEGV (after SIGABRT had no effect, the C
//! library executes HLT, which is not for user space), or with SIGILL (UD2). A fault of the CPU,
//! a forbidden system call (SIGSYS), and SIGKILL or SIGSTOP from outside work as everywhere.

mod child;
mod filter;
mod launcher;
mod layer;
mod orders;
mod root;
mod spawner;

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

pub use child::Child;
pub use launcher::launch_if_asked;
pub use layer::{Layer, Missing};
pub use spawner::{SpawnError, Spawner};

/// The name that this program is executed under when it is to be a launcher.
pub const LAUNCHER: &str = "uniddrv-sandbox";

/// What a driver process gets, and nothing beyond it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Whose process it is.
    pub identity: Identity,
    /// The CPU that it runs on; any where there is none given.
    pub cpu: Option<usize>,
    /// How it is scheduled.
    pub scheduling: Scheduling,
    /// Bytes of memory of its own. What is shared with it does not count.
    pub memory: u64,
    /// Bytes that it may lock, of its own memory and of what is shared with it.
    pub locked: u64,
    /// How many file descriptors it may have; their numbers are below.
    pub files: u32,
    /// What it may map of the devices whose file descriptors it inherits.
    pub windows: Vec<Window>,
    /// Whether it runs even where a layer of the sandbox cannot be had.
    pub partial: bool,
}

impl Default for Confinement {
    /// The identity that suits the calling process, 256 MiB of memory, 64 file descriptors, and
    /// all layers.
    fn default() -> Self {
        Self {
            identity: Identity::suited(),
            cpu: None,
            scheduling: Scheduling::Ordinary,
            memory: 256 << 20,
            locked: 0,
            files: 64,
            windows: Vec::new(),
            partial: false,
        }
    }
}

/// Whose process a driver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The calling process's own user; all that an unprivileged one can give.
    Own,
    /// Another user and group of this machine, best one that owns nothing and runs nothing else.
    Host {
        /// The user's number.
        uid: u32,
        /// The group's number.
        gid: u32,
    },
}

impl Identity {
    /// The user `nobody`, as whom a driver finds itself in its user namespace.
    const NOBODY: u32 = 65534;
    /// Whom drivers run as on this machine: a number that distributions keep for no one. Much else
    /// runs as `nobody`, and could signal drivers.
    const DRIVERS: u32 = 65533;

    /// For root the user 65533, who is nobody else; for others their own.
    pub fn suited() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Host { uid: Self::DRIVERS, gid: Self::DRIVERS }
        } else {
            Self::Own
        }
    }
}

/// How a driver process is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// As any other process.
    Ordinary,
    /// Under SCHED_FIFO with this priority, 1 to 99.
    Fifo(u8),
}

/// What may be mapped of a device: this and nothing else of its file descriptor, which cannot be
/// read, written or duplicated either.
///
/// The rule goes by number, so that file descriptor has to be inherited under it. One that comes
/// in a message later could be mapped whole. And it should stay open: once it is closed, another
/// may come under that number, which the rule then holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The number of the file descriptor in the driver process.
    pub number: RawFd,
    /// Where the window starts in it, in bytes.
    pub offset: u64,
    /// Bytes. Less may be mapped, from the same start.
    pub len: u64,
}
