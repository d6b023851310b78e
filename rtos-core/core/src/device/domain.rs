//! Which memory a device reaches, and where.

use std::collections::BTreeMap;
use std::sync::Arc;

use uniddrv::iova::Addresses;
use uniddrv::{Arena, Transport};

use super::Token;

/// A device's I/O address space. It outlives a connection: what is mapped in it is mapped at the
/// same addresses over the next one.
#[derive(Default)]
pub(super) struct Domain {
    addresses: Addresses,
    own: Option<Mapped>,
    clients: BTreeMap<Token, Mapped>,
    // What the device may still reach although nobody wants it to.
    kept: Vec<Mapped>,
}

#[derive(Clone)]
pub(super) struct Mapped {
    pub(super) arena: Arc<Arena>,
    pub(super) iova: u64,
}

impl Domain {
    /// The driver's arena.
    pub(super) fn own(&self) -> Option<&Mapped> {
        self.own.as_ref()
    }

    /// Maps the driver's arena.
    pub(super) fn map_own(
        &mut self,
        transport: &dyn Transport,
        arena: Arc<Arena>,
    ) -> Result<(), String> {
        self.own = Some(self.map_arena(transport, arena)?);
        Ok(())
    }

    /// Maps the arena of a client. Where it lies.
    pub(super) fn map(
        &mut self,
        transport: &dyn Transport,
        token: Token,
        arena: Arc<Arena>,
    ) -> Result<u64, String> {
        if self.clients.contains_key(&token) {
            return Err(format!("arena {} is mapped already", token.0));
        }
        let mapped = self.map_arena(transport, arena)?;
        let iova = mapped.iova;
        self.clients.insert(token, mapped);
        Ok(iova)
    }

    fn map_arena(
        &mut self,
        transport: &dyn Transport,
        arena: Arc<Arena>,
    ) -> Result<Mapped, String> {
        let limits = transport.dma_limits();
        let iova = self.addresses.take(arena.len(), &limits).map_err(|error| error.to_string())?;
        if let Err(error) = transport.map_dma(&arena, iova) {
            self.addresses.give_back(iova);
            return Err(error.to_string());
        }
        Ok(Mapped { arena, iova })
    }

    /// Unmaps the arena of a client, and lets go of it. Where the device cannot be made to
    /// forget it, or is gone (`None`), the memory and its address are kept; why.
    pub(super) fn unmap(
        &mut self,
        transport: Option<&dyn Transport>,
        token: Token,
    ) -> Option<String> {
        let mapped = self.clients.remove(&token)?;
        let reason = match transport {
            Some(transport) => match transport.unmap_dma(mapped.iova, mapped.arena.len() as u64) {
                Ok(()) => {
                    self.addresses.give_back(mapped.iova);
                    return None;
                }
                Err(error) => error.to_string(),
            },
            None => "the device is gone, and what it did last is not known".to_owned(),
        };
        self.kept.push(mapped);
        Some(reason)
    }

    /// Tries again to unmap what was kept. How much still is.
    pub(super) fn unmap_kept(&mut self, transport: &dyn Transport) -> usize {
        let addresses = &mut self.addresses;
        self.kept.retain(|mapped| {
            let gone = transport.unmap_dma(mapped.iova, mapped.arena.len() as u64).is_ok();
            if gone {
                addresses.give_back(mapped.iova);
            }
            !gone
        });
        self.kept.len()
    }

    /// Maps everything over a new connection, which knows nothing of what was mapped over the
    /// former one: what was kept because of that one is let go.
    pub(super) fn map_again(&mut self, transport: &dyn Transport) -> Result<(), String> {
        for mapped in self.own.iter().chain(self.clients.values()) {
            transport
                .map_dma(&mapped.arena, mapped.iova)
                .map_err(|error| format!("map again what was mapped before: {error}"))?;
        }
        for mapped in self.kept.drain(..) {
            self.addresses.give_back(mapped.iova);
        }
        Ok(())
    }

    /// The arenas of clients.
    pub(super) fn tokens(&self) -> Vec<Token> {
        self.clients.keys().copied().collect()
    }

    /// Unmaps the driver's arena. The memory stays until the domain is dropped.
    pub(super) fn unmap_own(&self, transport: &dyn Transport) {
        if let Some(Mapped { arena, iova }) = &self.own
            && let Err(error) = transport.unmap_dma(*iova, arena.len() as u64)
        {
            tracing::debug!(%error, "the driver's arena stays mapped until the device is closed");
        }
    }
}
