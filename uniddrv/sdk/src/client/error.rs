//! What goes wrong between a client and the core.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use uniddrv_abi::message::{Refusal, VERSION};

/// A request to the core that failed.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// Nobody listens there.
    #[error(
        "no core runs at {}: start one with `uniddrv core`, or name its socket in UNIDDRV_CORE \
         ({error})",
        path.display()
    )]
    NotRunning {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The system does not let this user reach it.
    #[error(
        "this user may not connect to the core at {}: its configuration says who may ({error})",
        path.display()
    )]
    Forbidden {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Whoever listens there is neither root nor this user.
    #[error(
        "the core at {} is run by user {uid}, who is not to be trusted with this user's data: \
         where that is meant, name the socket in UNIDDRV_CORE",
        path.display()
    )]
    Stranger {
        /// Its socket.
        path: PathBuf,
        /// Who runs it.
        uid: u32,
    },
    /// The core refused.
    #[error("{action}: {text}")]
    Refused {
        /// What was tried.
        action: String,
        /// Why.
        code: Refusal,
        /// In the core's words.
        text: String,
    },
    /// The core speaks another version of the protocol.
    #[error(
        "the core speaks version {theirs} of the protocol and this program version {VERSION}: \
         run both from the same release of uniddrv"
    )]
    Version {
        /// The core's.
        theirs: u16,
    },
    /// No answer came in time.
    #[error(
        "{action}: the core did not answer within {limit:?}: it is stopped or very busy; its log \
         may say more"
    )]
    TimedOut {
        /// What was tried.
        action: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The core has ended, or ended this connection.
    #[error("{action}: the connection to the core has ended: {reason}")]
    Ended {
        /// What was tried.
        action: String,
        /// How.
        reason: String,
    },
    /// The core said what cannot be.
    #[error("{action}: the core broke the protocol: {claim}")]
    Protocol {
        /// What was tried.
        action: String,
        /// What it said.
        claim: String,
    },
    /// What is asked for cannot be.
    #[error("{0}")]
    Options(String),
    /// The system refused.
    #[error("{action}: {error}")]
    Io {
        /// What was tried.
        action: String,
        /// What it said.
        #[source]
        error: io::Error,
    },
}

impl CoreError {
    /// Why the core refused, if it did.
    pub fn code(&self) -> Option<Refusal> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Version { .. } => Some(Refusal::Version),
            _ => None,
        }
    }

    /// What the system said while trying `action`.
    pub(super) fn io(action: &str, error: impl Into<io::Error>) -> Self {
        Self::Io { action: action.into(), error: error.into() }
    }

    /// What cannot be, said by the core while trying `action`.
    pub(super) fn protocol(action: &str, claim: impl Into<String>) -> Self {
        Self::Protocol { action: action.into(), claim: claim.into() }
    }
}
