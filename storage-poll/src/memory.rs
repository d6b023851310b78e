//! Where queues get their memory from.

use std::sync::Arc;

use uniddrv::dma::{DmaMemory, PAGE};
use uniddrv::{Device, DmaBuf, DmaError};

/// Gives out DMA memory.
pub(crate) trait Source {
    /// A buffer of `len` bytes.
    fn buffer(&mut self, len: usize) -> Result<DmaBuf, DmaError>;
}

/// From wherever there is room, cleared.
impl Source for &Device {
    fn buffer(&mut self, len: usize) -> Result<DmaBuf, DmaError> {
        self.dma_buffer(len)
    }
}

/// From one place of an arena on, one behind the other, with what is there: whoever asks for the
/// same lengths in the same order finds the same memory.
pub(crate) struct Placed {
    memory: Arc<DmaMemory>,
    at: usize,
}

impl Placed {
    /// From byte `at` of the arena on, a multiple of 4,096.
    pub(crate) fn new(memory: Arc<DmaMemory>, at: usize) -> Self {
        Self { memory, at }
    }
}

impl Source for Placed {
    fn buffer(&mut self, len: usize) -> Result<DmaBuf, DmaError> {
        let buffer = self.memory.buffer_at(self.at, len).ok_or(DmaError::Full { len })?;
        self.at += len.max(1).next_multiple_of(PAGE);
        Ok(buffer)
    }
}
