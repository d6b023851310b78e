//! What supervisors want done outside of their devices.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use uniddrv::Arena;
use uniddrv_abi::message::FromCore;

use super::EventLoop;
use crate::clients::borrowed;
use crate::context::Effect;
use crate::core::Milestone;
use crate::ids::ClientId;
use crate::supervise::Supervisor;

impl EventLoop {
    /// Does what supervisors want done.
    pub(super) fn settle_effects(&mut self) {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.settle(effect);
            }
        }
    }

    pub(super) fn settle(&mut self, effect: Effect) {
        match effect {
            Effect::Answer(client, message) => self.answer(client, &message),
            Effect::Opened { client, message, arena, memories, ends } => {
                self.hand_out(client, &message, &arena, &memories, &ends);
            }
            Effect::Arena(client, arena) => {
                if let Some(connection) = self.clients.get_mut(client) {
                    connection.arena = Some(arena);
                }
            }
            Effect::Taken { client, handle, text } => {
                let Some(connection) = self.clients.get_mut(client) else { return };
                connection.handles.remove(&handle);
                let told = connection.tell(&FromCore::Closed { handle, text }, &[]);
                if !told {
                    self.let_out(client);
                }
            }
            Effect::Names(device) => {
                if self.supervisors.get(&device).is_some_and(|one| one.name.is_none()) {
                    self.claim_name(device);
                }
                if let Some(supervisor) = self.supervisors.get(&device) {
                    self.names.set_targets(device, &supervisor.targets);
                }
            }
            Effect::Settled => self.look_whether_ready(),
            Effect::Gone(device) => {
                if let Some(supervisor) = self.supervisors.remove(&device) {
                    self.assignments.revoke(&supervisor.address);
                    // Its worker's thread has ended, or ends with it.
                    self.shared.maker.run(move || drop(supervisor));
                }
                self.names.remove(device);
                for connection in self.clients.iter_mut() {
                    connection.snapshots.remove(&device);
                    connection.handles.retain(|_, owner| *owner != device);
                }
            }
        }
    }

    pub(super) fn hand_out(
        &mut self,
        client: ClientId,
        message: &FromCore,
        arena: &Arena,
        memories: &[Arc<OwnedFd>],
        ends: &[OwnedFd],
    ) {
        let FromCore::Opened { handle, .. } = message else { return };
        let owner = |one: &&Supervisor| one.attachments.contains_key(handle);
        let device = self.supervisors.values().find(owner).map(|one| one.id);
        let (Some(connection), Some(device)) = (self.clients.get_mut(client), device) else {
            return;
        };
        let mut fds = vec![arena.fd()];
        for (memory, end) in memories.iter().zip(borrowed(ends)) {
            fds.extend([memory.as_fd(), end]);
        }
        connection.waits = false;
        connection.handles.insert(*handle, device);
        if !connection.tell(message, &fds) {
            self.let_out(client);
        }
    }

    pub(super) fn look_whether_ready(&mut self) {
        if !self.ready && self.supervisors.values().all(Supervisor::is_settled) {
            self.ready = true;
            let names: Vec<_> = self.supervisors.values().flat_map(Supervisor::names).collect();
            (self.told)(Milestone::Ready(&names));
        }
    }
}
