//! What a driver is: a type that turns a device into a service, and knows nothing of processes.

use crate::address::Address;
use crate::device::{BarError, Device, Identity};
use crate::dma::DmaError;
use crate::transport::TransportError;

/// A driver. The same type is attached to a model in a test, embedded in a program, or served
/// by the core as a process of its own.
pub trait Driver: Sized {
    /// The devices that it drives.
    const MATCHES: &'static [Match];

    /// Takes a device and brings it up.
    ///
    /// # Errors
    /// When it is not one that this driver drives, or does not come up in time. The device is
    /// let go then.
    fn attach(device: Device) -> Result<Self, AttachError>;

    /// Does what there is to do, without waiting.
    fn poll(&mut self) -> Progress;
}

/// Whether a poll found work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There was work; poll again soon.
    Busy,
    /// There was none.
    Idle,
}

/// Which devices a driver is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// A vendor and a device ID.
    Device {
        /// Vendor ID.
        vendor: u16,
        /// Device ID.
        device: u16,
    },
    /// A class code of three bytes: base class, sub-class, programming interface.
    Class(u32),
}

impl Match {
    /// The devices with this vendor and device ID.
    pub const fn device(vendor: u16, device: u16) -> Self {
        Self::Device { vendor, device }
    }

    /// The devices with this class code.
    pub const fn class(class: u32) -> Self {
        Self::Class(class)
    }

    /// Whether `identity` is meant.
    pub fn includes(&self, identity: &Identity) -> bool {
        match *self {
            Self::Device { vendor, device } => {
                (vendor, device) == (identity.vendor, identity.device)
            }
            Self::Class(class) => class == identity.class,
        }
    }
}

/// A device that did not come up.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// It is a device of another kind.
    #[error(
        "{address} is no device for this driver: vendor {:04x}, device {:04x}, class {:06x}",
        identity.vendor, identity.device, identity.class
    )]
    NotMine {
        /// Which device.
        address: Address,
        /// What it says it is.
        identity: Identity,
    },
    /// A register or structure of it says what cannot be.
    #[error("{address}: {claim}")]
    Device {
        /// Which device.
        address: Address,
        /// What it said, and what would have been right.
        claim: String,
    },
    /// It did not get there in time.
    #[error("{address}: {what} took longer than {limit:?}")]
    Timeout {
        /// Which device.
        address: Address,
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: std::time::Duration,
    },
    /// A BAR of it is missing or too small.
    #[error(transparent)]
    Bar(#[from] BarError),
    /// Memory for it is missing.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// Its transport failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl Device {
    /// Checks that the device is one of `matches`.
    ///
    /// # Errors
    /// When it is another, or cannot be asked.
    pub fn expect_one_of(&self, matches: &[Match]) -> Result<Identity, AttachError> {
        let identity = self.identity()?;
        if matches.iter().any(|one| one.includes(&identity)) {
            return Ok(identity);
        }
        Err(AttachError::NotMine { address: self.address().clone(), identity })
    }
}
