//! Between a driver process and the worker of its device in the core, on its device socket: what
//! the driver does not reach itself. One question at a time; each is answered.

use serde::{Deserialize, Serialize};

/// From a driver process to the worker of its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDevice {
    /// Read `len` (1, 2, 4) bytes of configuration space.
    ReadConfig {
        /// Where.
        offset: u32,
        /// Bytes.
        len: u8,
    },
    /// Write configuration space. Only what a driver may: the Command register.
    WriteConfig {
        /// Where.
        offset: u32,
        /// What: 1, 2 or 4 bytes.
        data: Vec<u8>,
    },
    /// Asks what BAR `bar` is like.
    Bar {
        /// Which.
        bar: u8,
    },
    /// Read `len` (1, 2, 4, 8) bytes of a BAR.
    ReadBar {
        /// Which.
        bar: u8,
        /// Where.
        offset: u64,
        /// Bytes.
        len: u8,
    },
    /// Write a BAR. Not the MSI-X table.
    WriteBar {
        /// Which.
        bar: u8,
        /// Where.
        offset: u64,
        /// What: 1, 2, 4 or 8 bytes.
        data: Vec<u8>,
    },
    /// Reset the function.
    Reset,
    /// Asks whether the device is gone, and why.
    Lost,
}

/// From the worker of a device to its driver process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDevice {
    /// It was done.
    Done,
    /// What was read.
    Data(Vec<u8>),
    /// Size in bytes; 0 where there is none.
    Bar {
        /// Bytes.
        size: u64,
    },
    /// Why the device is gone; nothing while it is there.
    Lost(Option<String>),
    /// It was not done.
    Refused {
        /// Whether the device is gone.
        gone: bool,
        /// Why.
        text: String,
    },
}
