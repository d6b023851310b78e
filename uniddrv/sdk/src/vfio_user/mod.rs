//! Devices through a vfio-user server: a software device in another process.
//!
//! | module | what it holds |
//! |---|---|
//! | [`protocol`] | the messages |
//! | [`capabilities`] | what the ends tell each other they can do |
//! | [`region`] | what a server says about a BAR, checked |
//! | [`channel`] | whole messages and fds over a socket, never past a deadline |
//! | [`client`] | the transport |
//!
//! The server is a peer, not a friend: each reply is a claim that is checked, each exchange has
//! a deadline, and a server that breaks the protocol is given up for good.

pub mod capabilities;
pub mod channel;
pub mod client;
pub mod protocol;
pub mod region;

use std::path::Path;
use std::sync::Arc;

pub use client::{Client, Timeouts};

use crate::transport::{Transport, TransportError};

/// Connects to the server behind the socket `path`.
///
/// # Errors
/// When there is no such socket, nobody serves it, or who does breaks the protocol or does not
/// answer within 5 seconds.
pub fn connect(path: &Path) -> Result<Arc<dyn Transport>, TransportError> {
    Ok(Arc::new(Client::connect(path, Timeouts::default())?))
}
