//! Control messages: one a datagram of a SOCK_SEQPACKET socket, with the file descriptors that
//! belong to it.
//!
//! A message is the [`postcard`] form of one of the enums below: a discriminant, then its fields.
//! Discriminants are pinned by tests; new ones go to the end. The first message of a connection
//! to the core is [`ToCore::Hello`], with the [`VERSION`] that all later ones are of.

mod client;
mod device;
mod driver;

pub use client::*;
pub use device::*;
pub use driver::*;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of all messages.
pub const VERSION: u16 = 1;
/// The most bytes of a message.
pub const MAX_MESSAGE: usize = 128 << 10;
/// The most file descriptors that come with a message.
pub const MAX_FDS: usize = 64;

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It is too long to be sent or received.
    #[error("a message of {0} bytes; {MAX_MESSAGE} are possible")]
    TooLong(usize),
    /// It is cut short, of an unknown kind, or has something behind it.
    #[error("no message of this protocol: {0}")]
    Malformed(String),
}

/// A message as bytes.
///
/// # Errors
/// When it is longer than [`MAX_MESSAGE`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, MessageError> {
    let bytes = postcard::to_allocvec(message)
        .map_err(|error| MessageError::Malformed(error.to_string()))?;
    if bytes.len() > MAX_MESSAGE {
        return Err(MessageError::TooLong(bytes.len()));
    }
    Ok(bytes)
}

/// The message that `bytes` are.
///
/// # Errors
/// When they are none, or none alone.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MessageError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(MessageError::TooLong(bytes.len()));
    }
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(MessageError::Malformed(format!("{} bytes behind it", rest.len()))),
        Err(error) => Err(MessageError::Malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
