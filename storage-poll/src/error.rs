//! What can go wrong.

use std::time::Duration;

use uniddrv::block::BlockError;
use uniddrv::{DmaError, TransportError};
use uniddrv_spec::nvme::status::Status;

/// A command that was on its way and did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The controller completed it with an error status.
    #[error("the controller reports: {0}")]
    Status(Status),
    /// It took too long and was aborted; whether it was carried out is unknown.
    #[error("aborted: it took too long")]
    Aborted,
    /// The controller was reset before it completed; whether it was carried out is unknown.
    #[error("the controller was reset before it completed")]
    Reset,
    /// The controller is gone; whether the command was carried out is unknown.
    #[error("the controller is gone")]
    Gone,
}

impl From<CommandError> for BlockError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Status(status) if status.code() == Status::LBA_OUT_OF_RANGE => {
                Self::OutOfRange
            }
            CommandError::Status(status) => Self::Device(status.bits()),
            CommandError::Aborted => Self::Aborted,
            CommandError::Reset => Self::Reset,
            CommandError::Gone => Self::Gone,
        }
    }
}

/// A request to the controller itself that failed.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The controller completed the command with an error status.
    #[error("{address}: {command}: {status}")]
    Status {
        /// Which device.
        address: String,
        /// What was asked.
        command: &'static str,
        /// What came back.
        status: Status,
    },
    /// The controller did not answer in time; it was reset.
    #[error("{address}: {command}: no answer within {limit:?}")]
    Timeout {
        /// Which device.
        address: String,
        /// What was asked.
        command: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The controller reports that it failed; it was reset.
    #[error("{address}: {claim}")]
    Fatal {
        /// Which device.
        address: String,
        /// What it was doing.
        claim: String,
    },
    /// The controller is gone.
    #[error("{address}: the controller is gone: {reason}")]
    Gone {
        /// Which device.
        address: String,
        /// How it was lost.
        reason: String,
    },
    /// What it said about itself cannot be.
    #[error("{address}: {claim}")]
    Malformed {
        /// Which device.
        address: String,
        /// What it said, and what would have been right.
        claim: String,
    },
    /// The controller does not offer this, or the argument is none that it takes.
    #[error("{address}: {reason}")]
    Unsupported {
        /// Which device.
        address: String,
        /// What is not offered.
        reason: String,
    },
    /// Memory is missing.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}
