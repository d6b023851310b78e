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
}

impl Source {
    /// As a token.
    pub(crate) const fn token(self) -> Token {
        Token(match self {
            Self::Listener => 0,
            Self::Mailbox => 4,
            Self::Signals => 8,
            Self::Client(client) => (client.0 as usize) << 2 | 1,
            Self::Control(process) => (process.0 as usize) << 2 | 2,
            Self::End(process) => (process.0 as usize) << 2 | 3,
        })
    }

    /// From a token that [`token`](Self::token) made.
    pub(crate) const fn from_token(token: Token) -> Self {
        let number = token.0 >> 2;
        match (token.0 & 3, number) {
            (0, 0) => Self::Listener,
            (0, 1) => Self::Mailbox,
            (0, _) => Self::Signals,
            (1, _) => Self::Client(ClientId(number as u32)),
            (2, _) => Self::Control(DriverId(number as u64)),
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
        ] {
            assert_eq!(Source::from_token(source.token()), source);
        }
    }
}
