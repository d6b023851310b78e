//! All clients' connections, and how many there may be.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use uniddrv::control::Control;
use uniddrv::peer::Peer;
use uniddrv_abi::message::{FromCore, Refusal};

use crate::connection::Connection;
use crate::ids::ClientId;
use crate::voice::Voice;

/// The most connections.
const MOST: usize = 1024;
/// The most connections of a user who may not give orders.
const MOST_OF_USER: usize = 64;
/// How long a client may take to say hello.
const HELLO: Duration = Duration::from_secs(5);
/// File descriptors that are kept for the core itself.
const KEPT: usize = 128;

/// All connections.
pub(crate) struct Clients {
    connections: HashMap<ClientId, Connection>,
    next: u32,
    /// File descriptors that clients may take.
    files: usize,
    /// What is said about them.
    pub(crate) voice: Voice,
}

impl Clients {
    /// No connections. The limit of file descriptors is raised as far as it may be.
    pub(crate) fn new() -> Self {
        Self {
            connections: HashMap::new(),
            next: 0,
            files: raise_files().saturating_sub(KEPT),
            voice: Voice::new(Instant::now()),
        }
    }

    /// A client has come: it is let in, or told why not.
    pub(crate) fn admit(
        &mut self,
        socket: OwnedFd,
        peer: Peer,
        rules: bool,
        used: usize,
        registry: &Registry,
        now: Instant,
    ) -> Option<ClientId> {
        let of_user = self.connections.values().filter(|one| one.peer.uid == peer.uid).count();
        let reason = if self.connections.len() >= MOST {
            Some(format!("there are {MOST} connections, and no more are let in"))
        } else if !rules && of_user >= MOST_OF_USER {
            Some(format!("user {} has {of_user} connections, and gets no more", peer.uid))
        } else if used + 1 > self.files {
            Some("the core has no file descriptors left; raise its limit (LimitNOFILE=)".into())
        } else {
            None
        };
        if let Some(text) = reason {
            if self.voice.speaks(now) {
                tracing::warn!(uid = peer.uid, pid = peer.process, "turned a client away: {text}");
            }
            let message = FromCore::Refused { code: Refusal::Limit, text };
            let _ = Control::new(socket).send(&message, &[]);
            return None;
        }
        let id = self.free_id();
        match Connection::new(id, socket, peer, (now, now + HELLO), registry) {
            Ok(connection) => {
                self.connections.insert(id, connection);
                Some(id)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot watch over a client's connection");
                None
            }
        }
    }

    fn free_id(&mut self) -> ClientId {
        loop {
            self.next = self.next.wrapping_add(1);
            let id = ClientId(self.next);
            if !self.connections.contains_key(&id) {
                return id;
            }
        }
    }

    /// Whether `more` file descriptors may be taken beside the `used` ones.
    pub(crate) fn may_take(&self, used: usize, more: usize) -> bool {
        used + self.connections.len() + more <= self.files
    }

    pub(crate) fn get(&self, id: ClientId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ClientId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: ClientId) -> Option<Connection> {
        self.connections.remove(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.connections.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.connections.values_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Those of which messages may wait that the event loop will not be told of again.
    pub(crate) fn unread(&self) -> Vec<ClientId> {
        let unread = self.connections.values().filter(|one| one.is_heard());
        unread.map(|one| one.id).collect()
    }

    /// Those that are to be closed since they have not said hello.
    pub(crate) fn silent(&self, now: Instant) -> Vec<ClientId> {
        let silent = |one: &&Connection| one.deadline.is_some_and(|deadline| deadline <= now);
        self.connections.values().filter(silent).map(|one| one.id).collect()
    }

    /// When the first of those, or of those that are not listened to for a while, has its time.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.connections.values().filter_map(Connection::next_deadline).min()
    }
}

/// Tells a client that has `message` coming with file descriptors.
pub(crate) fn borrowed<F: AsFd>(files: &[F]) -> Vec<std::os::fd::BorrowedFd<'_>> {
    files.iter().map(AsFd::as_fd).collect()
}

/// Raises the limit of open files as far as it may be: how many there can be.
fn raise_files() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
