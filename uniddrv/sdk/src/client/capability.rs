//! The right to an open device: it ends with the last part of the client that has it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::fstat;

use super::link::Link;
use crate::arena::Arena;
use crate::block::BlockInfo;
use crate::dma::{DmaBuf, DmaMemory, DmaSpace};

/// The arena of a connection. All that is opened over it shares the arena.
pub(super) struct ClientArena {
    pub(super) space: Arc<DmaSpace>,
    pub(super) memory: Arc<DmaMemory>,
    pub(super) identity: (u64, u64),
}

impl ClientArena {
    /// The arena behind `fd`, which has to be `len` bytes long at least.
    pub(super) fn new(fd: OwnedFd, len: u64) -> Result<Self, String> {
        let identity = identity(&fd)?;
        let arena = Arena::received(fd).map_err(|error| error.to_string())?;
        let space = DmaSpace::of_offsets(Arc::new(arena));
        let memory = space.current().ok_or("an arena without memory")?;
        let new = Self { space, memory, identity };
        new.check(len)?;
        Ok(new)
    }

    /// Whether it has the `len` bytes that it is said to have.
    pub(super) fn check(&self, len: u64) -> Result<(), String> {
        let is = self.memory.arena().len();
        if len == 0 || (is as u64) < len {
            return Err(format!("an arena of {is} bytes that is said to have {len}"));
        }
        Ok(())
    }

    /// Whether `fd` is the same arena.
    pub(super) fn is(&self, fd: &OwnedFd) -> bool {
        identity(fd).as_ref() == Ok(&self.identity)
    }
}

/// Which file it is.
pub(super) fn identity(fd: &OwnedFd) -> Result<(u64, u64), String> {
    let stat = fstat(fd).map_err(|error| format!("an arena that cannot be looked at: {error}"))?;
    Ok((stat.st_dev, stat.st_ino))
}

impl Drop for ClientArena {
    fn drop(&mut self) {
        self.space.release();
    }
}

/// What the parts of a client share.
pub(super) struct Capability {
    pub(super) link: Arc<Link>,
    pub(super) arena: Arc<ClientArena>,
    pub(super) handle: u32,
    pub(super) name: String,
    pub(super) info: BlockInfo,
    pub(super) writable: bool,
    /// Buffers of requests whose queue is gone: a device may reach them until it is closed.
    orphans: Mutex<Vec<DmaBuf>>,
    /// What this side found wrong.
    fault: Mutex<Option<String>>,
}

impl Capability {
    pub(super) fn new(
        link: Arc<Link>,
        arena: Arc<ClientArena>,
        handle: u32,
        name: String,
        info: BlockInfo,
        writable: bool,
    ) -> Self {
        let (orphans, fault) = (Mutex::default(), Mutex::default());
        Self { link, arena, handle, name, info, writable, orphans, fault }
    }

    /// Why the right has ended, if it has. Takes what the core says; does not wait.
    pub(super) fn closed(&self) -> Option<String> {
        // In any case, lest what the core says keeps ending our sleep.
        self.link.look();
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        fault.or_else(|| self.link.closed(self.handle))
    }

    /// Notes what the driver did that ends a queue.
    pub(super) fn accuse(&self, text: String) {
        tracing::warn!(name = %self.name, "{text}");
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    }

    /// Keeps the buffers of requests that nobody will hear of.
    pub(super) fn adopt(&self, buffers: impl Iterator<Item = DmaBuf>) {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner).extend(buffers);
    }
}

impl Drop for Capability {
    fn drop(&mut self) {
        let orphans = self.orphans.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.link.close(self.handle, std::mem::take(orphans));
    }
}
