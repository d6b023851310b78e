//! Numbers of what the event loop knows, and the tokens that it waits for them by.

use std::fmt;

use mio::Token;

use crate::device::DriverId;

/// A connection of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientId(pub(crate) u32);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What has become ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The socket that clients connect to.
    Listener,
    /// Another thread has left something in the mailbox.
    Mailbox,
    /// A signal came.
    Signals,
    /// A client's connection.
    Client(ClientId),
    /// A driver process's control socket.
    Control(DriverId),
    /// The end of a driver process.
    End(DriverId),
    /// A client has woken the driver by a queue of what it has open under this handle.
    Wake(u32),
}

impl Source {
    /// As a token.
    pub(crate) const fn token(self) -> Token {
        Token(match self {
            Self::Listener => 0,
            Self::Mailbox => 8,
            Self::Signals => 16,
            Self::Client(client) => (client.0 as usize) << 3 | 1,
            Self::Control(process) => (process.0 as usize) << 3 | 2,
            Self::End(process) => (process.0 as usize) << 3 | 3,
            Self::Wake(handle) => (handle as usize) << 3 | 4,
        })
    }

    /// From a token that [`token`](Self::token) made.
    pub(crate) const fn from_token(token: Token) -> Self {
        let number = token.0 >> 3;
        match (token.0 & 7, number) {
            (0, 0) => Self::Listener,
            (0, 1) => Self::Mailbox,
            (0, _) => Self::Signals,
            (1, _) => Self::Client(ClientId(number as u32)),
            (2, _) => Self::Control(DriverId(number as u64)),
            (4, _) => Self::Wake(number as u32),
            _ => Self::End(DriverId(number as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_tell_what_is_ready() {
        for source in [
            Source::Listener,
            Source::Mailbox,
            Source::Signals,
            Source::Client(ClientId(0)),
            Source::Client(ClientId(u32::MAX)),
            Source::Control(DriverId(0)),
            Source::End(DriverId(1 << 40)),
            Source::Wake(1),
            Source::Wake(u32::MAX),
        ] {
            assert_eq!(Source::from_token(source.token()), source);
        }
    }
}
