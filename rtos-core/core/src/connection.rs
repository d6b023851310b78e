//! A client's connection: who is there, and what it waits for.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use uniddrv::Arena;
use uniddrv::control::{Control, ControlError};
use uniddrv::peer::Peer;
use uniddrv_abi::message::{FromCore, Refusal, ToCore};

use crate::device::DeviceId;
use crate::ids::{ClientId, Source};
use crate::supervise::Snapshot;

/// The most characters of what a client calls itself.
const PROGRAM: usize = 64;

/// Messages of a client that are read in a second. Others wait in its socket.
const MESSAGES: u32 = 10_000;
const SECOND: Duration = Duration::from_secs(1);

/// A client's connection.
pub(crate) struct Connection {
    pub(crate) id: ClientId,
    pub(crate) peer: Peer,
    /// What it calls itself.
    pub(crate) program: String,
    /// Whether it has said hello.
    pub(crate) greeted: bool,
    /// When it is closed unless it has.
    pub(crate) deadline: Option<Instant>,
    /// Whether it waits for an answer. What it says meanwhile waits in its socket.
    pub(crate) waits: bool,
    /// Whether messages may wait that the event loop will not be told of again.
    pub(crate) unread: bool,
    /// The arena that it was given with the first name that it opened.
    pub(crate) arena: Option<Arc<Arena>>,
    /// What it has open, and where.
    pub(crate) handles: BTreeMap<u32, DeviceId>,
    /// What it was told when it asked for the status last.
    pub(crate) snapshots: BTreeMap<DeviceId, Snapshot>,
    control: Control,
    second: Instant,
    messages: u32,
    /// Until when it is not listened to, as it has said too much.
    quiet: Option<Instant>,
}

/// What a look at a connection found.
pub(crate) enum Said {
    /// Nothing.
    Nothing,
    /// A message.
    Message(ToCore),
    /// The connection has ended.
    Ended,
    /// It is to be ended for what came.
    Wrong(String),
}

impl Connection {
    /// Watches over a connection.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC.
    pub(crate) fn new(
        id: ClientId,
        socket: OwnedFd,
        peer: Peer,
        (now, deadline): (Instant, Instant),
        registry: &Registry,
    ) -> std::io::Result<Self> {
        let fd = socket.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&fd), Source::Client(id).token(), Interest::READABLE)?;
        Ok(Self {
            id,
            peer,
            program: String::new(),
            greeted: false,
            deadline: Some(deadline),
            waits: false,
            // It may have spoken before it was watched.
            unread: true,
            arena: None,
            handles: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            control: Control::new(socket),
            second: now,
            messages: 0,
            quiet: None,
        })
    }

    /// Whether it is to be listened to.
    pub(crate) fn is_heard(&self) -> bool {
        self.unread && !self.waits && self.quiet.is_none()
    }

    /// Whether it is not listened to for a while.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.is_some()
    }

    /// When there is something to do about it by itself.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.quiet).min()
    }

    /// Listens to it again, if it was not, and it is time.
    pub(crate) fn forgive(&mut self, now: Instant) {
        self.quiet.take_if(|until| *until <= now);
    }

    /// Reads what it says next.
    pub(crate) fn listen(&mut self, now: Instant) -> Said {
        if now - self.second >= SECOND {
            (self.second, self.messages) = (now, 0);
        }
        if self.messages >= MESSAGES {
            self.quiet = Some(self.second + SECOND);
            return Said::Nothing;
        }
        self.messages += 1;
        match self.control.receive::<ToCore>() {
            Ok(None) => Said::Nothing,
            Ok(Some((message, fds))) if fds.is_empty() => Said::Message(message),
            Ok(Some((_, fds))) => {
                Said::Wrong(format!("{} file descriptors came with a message", fds.len()))
            }
            Err(ControlError::Closed) => Said::Ended,
            Err(error) => Said::Wrong(error.to_string()),
        }
    }

    /// Tells it something. Whether it could be told: one that does not read is not waited for.
    pub(crate) fn tell(&self, message: &FromCore, fds: &[BorrowedFd<'_>]) -> bool {
        match self.control.send(message, fds) {
            Ok(()) => true,
            Err(ControlError::Closed) => false,
            Err(error) => {
                // Whoever does so on purpose does so often.
                tracing::debug!(client = %self.id, "closing a client's connection: {error}");
                false
            }
        }
    }

    /// Refuses something.
    pub(crate) fn refuse(&self, code: Refusal, text: impl Into<String>) -> bool {
        self.tell(&FromCore::Refused { code, text: text.into() }, &[])
    }

    /// Remembers what it calls itself.
    pub(crate) fn greet(&mut self, program: &str) {
        let clean = program.chars().filter(|c| !c.is_control());
        self.program = clean.take(PROGRAM).collect();
        self.greeted = true;
        self.deadline = None;
    }
}
