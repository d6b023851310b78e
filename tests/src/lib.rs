//! Tests that cross crates live in `tests/`; this is what several of them use.
#![forbid(unsafe_code)]

pub mod bystander;
pub mod files;
pub mod programs;
pub mod wait;
pub mod wire;

use storage_poll::{Controller, ControllerError, NamespaceQueue};
use uniddrv::DmaBuf;
use uniddrv::block::{BlockQueue, Operation, Request};

/// Reads and writes of 4 KiB, as many at once as the queue takes.
pub struct Loop {
    queue: NamespaceQueue,
    free: Vec<DmaBuf>,
    next: u64,
    slots: u64,
    blocks: u64,
}

impl Loop {
    /// On the first namespace, `depth` requests at once.
    ///
    /// # Errors
    /// When the controller does not have such a queue, or no memory is left.
    ///
    /// # Panics
    /// When the controller has no namespace.
    pub fn new(controller: &Controller, depth: usize) -> Result<Self, ControllerError> {
        let namespace = controller.namespaces().first().expect("there is a namespace");
        let blocks = 4096 / u64::from(namespace.block_size());
        let slots = namespace.blocks() / blocks;
        let queue = controller.block_queue(namespace.nsid(), depth)?;
        let free =
            (0..depth).map(|_| controller.device().dma_buffer(4096)).collect::<Result<_, _>>()?;
        Ok(Self { queue, free, next: 0, slots, blocks })
    }

    /// Carries out `count` requests, reads and writes in turn.
    ///
    /// # Panics
    /// When one fails or is not accepted.
    pub fn run(&mut self, count: u64) {
        let (mut submitted, mut ended) = (0, 0);
        while ended < count {
            while submitted < count
                && let Some(buffer) = self.free.pop()
            {
                let lba = self.next % self.slots * self.blocks;
                let operation = if self.next.is_multiple_of(2) {
                    Operation::Read { lba }
                } else {
                    Operation::Write { lba, fua: false }
                };
                let request = Request { operation, buffer: Some(buffer), tag: self.next };
                assert!(self.queue.submit(request).is_ok());
                self.next += 1;
                submitted += 1;
            }
            let free = &mut self.free;
            self.queue.poll(|done| {
                assert!(done.result.is_ok());
                free.extend(done.buffer);
                ended += 1;
            });
        }
    }
}
