//! Clients come, speak, are answered, and go.

use std::collections::HashSet;

use uniddrv_abi::message::{FromCore, Refusal};

use super::EventLoop;
use crate::connection::Said;
use crate::device::DeviceId;
use crate::ids::ClientId;
use crate::requests::Reply;
use crate::socket::SocketError;

/// Messages of one client that are read in one turn.
const TURN: usize = 16;
/// Clients that are let in in one turn.
const GUESTS: usize = 64;

impl EventLoop {
    /// Lets clients in that wait outside.
    pub(super) fn let_in(&mut self) {
        for _ in 0..GUESTS {
            if !self.more_guests {
                return;
            }
            match self.listener.accept() {
                Ok(Some((socket, peer))) => {
                    let rules = self.shared.config.rules(&peer);
                    let used = self.files_used() + self.clients.len();
                    let registry = self.poll.registry();
                    self.clients.admit(socket, peer, rules, used, registry, self.now);
                }
                Ok(None) => self.more_guests = false,
                Err(error) => {
                    if self.clients.voice.speaks(self.now) {
                        tracing::warn!("{error}");
                    }
                    self.more_guests = matches!(error, SocketError::Full);
                }
            }
        }
    }

    /// Reads what a client says, and answers.
    pub(super) fn listen(&mut self, client: ClientId) {
        for _ in 0..TURN {
            let Some(connection) = self.clients.get_mut(client) else { return };
            if connection.waits {
                return;
            }
            let message = match connection.listen(self.now) {
                Said::Nothing => {
                    // Perhaps there is more, and it is only not listened to.
                    connection.unread = connection.is_quiet();
                    return;
                }
                Said::Message(message) => message,
                Said::Ended => return self.let_out(client),
                Said::Wrong(text) => return self.send_away(client, Refusal::Protocol, text),
            };
            connection.waits = true;
            let devices: HashSet<DeviceId> = connection.handles.values().copied().collect();
            for device in devices {
                // Perhaps it asks since its driver only pretends to sleep.
                let now = self.now;
                self.with(device, |supervisor, _| supervisor.doubt(now));
            }
            match self.request(client, message) {
                Reply::Now(message) => self.answer(client, &message),
                Reply::Later => self.settle_effects(),
                Reply::End(code, text) => return self.send_away(client, code, text),
            }
        }
    }

    /// Ends a connection, and says why.
    fn send_away(&mut self, client: ClientId, code: Refusal, text: String) {
        let speaks = self.clients.voice.speaks(self.now);
        if let Some(connection) = self.clients.get(client) {
            if speaks {
                tracing::warn!(%client, pid = connection.peer.process, "closing: {text}");
            }
            connection.refuse(code, text);
        }
        self.let_out(client);
    }

    pub(super) fn answer(&mut self, client: ClientId, message: &FromCore) {
        let Some(connection) = self.clients.get_mut(client) else { return };
        connection.waits = false;
        if !connection.tell(message, &[]) {
            self.let_out(client);
        }
    }

    /// A client is gone, or is sent away.
    pub(super) fn let_out(&mut self, client: ClientId) {
        let Some(connection) = self.clients.remove(client) else { return };
        tracing::debug!(%client, program = connection.program, "a client is gone");
        let all: Vec<DeviceId> = self.supervisors.keys().copied().collect();
        for device in all {
            self.with(device, |supervisor, cx| supervisor.client_gone(client, cx));
        }
        // Its arena may take a while to unmap.
        self.shared.maker.run(move || drop(connection));
    }
}
