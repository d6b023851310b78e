//! What one user may have of what all share. Who may give orders may have all of it.

use std::collections::HashSet;
use std::sync::Arc;

use uniddrv::arena::HUGE_PAGE;
use uniddrv::peer::Peer;
use uniddrv_abi::ledger::QUEUES;

use crate::device::DeviceId;
use crate::event_loop::EventLoop;

/// The most memory of a user in arenas, in bytes, unless the configuration gives a client more.
const MEMORY: u64 = 1 << 30;

/// Bytes of the arena that is made where `wanted` are asked for.
fn rounded(wanted: u64) -> u64 {
    wanted.max(1).checked_next_multiple_of(HUGE_PAGE as u64).unwrap_or(u64::MAX)
}

impl EventLoop {
    /// Whether a user may have one more arena, of `wanted` bytes; `granted` are what the
    /// configuration allows a client of it.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_have_memory(
        &self,
        peer: &Peer,
        wanted: u64,
        granted: Option<u64>,
    ) -> Result<(), String> {
        if self.shared.config.rules(peer) {
            return Ok(());
        }
        let most = granted.map_or(MEMORY, |granted| granted.max(MEMORY));
        let used = self.memory_of(peer.uid);
        if used.saturating_add(rounded(wanted)) <= most {
            return Ok(());
        }
        let uid = peer.uid;
        Err(format!("user {uid} has {used} bytes in arenas already; {most} are possible"))
    }

    /// The bytes of a user in arenas: also in those that are being made, and in those that a
    /// device may still reach although their client is gone.
    fn memory_of(&self, uid: u32) -> u64 {
        let attachments = self.supervisors.values().flat_map(|one| one.attachments.values());
        let theirs = || attachments.clone().filter(|one| one.request.peer.uid == uid);
        let made = theirs().filter_map(|one| one.arena.as_ref().or(one.request.arena.as_ref()));
        let connections = self.clients.iter().filter(|one| one.peer.uid == uid);
        let made = made.chain(connections.filter_map(|one| one.arena.as_ref()));
        let mut seen = HashSet::new();
        let made = made.filter(|arena| seen.insert(Arc::as_ptr(arena)));
        let made = made.fold(0, |sum: u64, arena| sum.saturating_add(arena.len() as u64));
        let being_made = theirs().filter(|one| one.arena.is_none() && one.request.arena.is_none());
        being_made.fold(made, |sum, one| sum.saturating_add(rounded(one.request.arena_len as u64)))
    }

    /// Whether a user may have `wanted` more queues at a driver: half of what others leave, so
    /// that there are always some for one more.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_have_queues(
        &self,
        device: DeviceId,
        peer: &Peer,
        wanted: u8,
    ) -> Result<(), String> {
        let Some(supervisor) = self.supervisors.get(&device) else { return Ok(()) };
        if self.shared.config.rules(peer) {
            return Ok(());
        }
        let (mut theirs, mut others) = (0, 0);
        for request in supervisor.attachments.values().map(|one| &one.request) {
            let whose = if request.peer.uid == peer.uid { &mut theirs } else { &mut others };
            *whose += usize::from(request.queues);
        }
        let most = QUEUES.saturating_sub(others) / 2;
        if theirs + usize::from(wanted) <= most {
            return Ok(());
        }
        let (uid, name) = (peer.uid, supervisor.label());
        Err(format!("user {uid} has {theirs} queues at {name} already; {most} are possible"))
    }
}
