//! What a model sees of its client: memory and interrupts.

mod interrupts;
mod memory;

pub use interrupts::Interrupts;
pub use memory::{Access, ClientMemory, DmaFault, GRANULE, MapError, Pinned, REGIONS, Word};

/// The client of a model.
#[derive(Debug, Default)]
pub struct Host {
    /// The memory that it lets the model reach.
    pub memory: ClientMemory,
    /// Its interrupts.
    pub interrupts: Interrupts,
}

impl Host {
    /// A client that has mapped nothing and connected no interrupt.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all that the client has given.
    pub fn clear(&mut self) {
        self.memory.clear();
        self.interrupts.clear();
    }
}
