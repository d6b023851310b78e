//! The block service on one namespace.

use uniddrv::block::{BlockInfo, BlockQueue, Completion, Operation, Request, SubmitError};

use crate::io_queue::{Completed, IoQueue};
use crate::namespace::{Command, Namespace};

/// An I/O queue bound to a namespace, as a block service.
pub struct NamespaceQueue {
    queue: IoQueue,
    namespace: Namespace,
}

impl NamespaceQueue {
    /// Binds a queue to a namespace.
    pub fn new(queue: IoQueue, namespace: Namespace) -> Self {
        Self { queue, namespace }
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The queue.
    pub fn queue(&mut self) -> &mut IoQueue {
        &mut self.queue
    }

    #[inline]
    fn command(&self, request: &Request) -> Result<Command, SubmitError> {
        let namespace = &self.namespace;
        match request.operation {
            Operation::Read { lba } => namespace.read(lba, self.blocks(request)?),
            Operation::Write { lba, fua } => namespace.write(lba, self.blocks(request)?, fua),
            _ if request.buffer.is_some() => Err(SubmitError::Buffer),
            Operation::Flush => Ok(namespace.flush()),
            Operation::WriteZeroes { lba, blocks } => namespace.write_zeroes(lba, blocks, false),
            // A discard is a hint; Write Zeroes with the deallocate bit is the one form of it
            // that needs no buffer.
            Operation::Discard { lba, blocks } => namespace.write_zeroes(lba, blocks, true),
        }
    }

    /// How many blocks the buffer of `request` holds.
    #[inline]
    fn blocks(&self, request: &Request) -> Result<u32, SubmitError> {
        let len = request.buffer.as_ref().ok_or(SubmitError::Buffer)?.len();
        let max = self.namespace.info().max_transfer;
        if len > max as usize {
            return Err(SubmitError::TooLarge { len, max });
        }
        let stride = self.namespace.transfer_len(1);
        let blocks =
            if stride.is_power_of_two() { len >> stride.trailing_zeros() } else { len / stride };
        if blocks * stride == len { Ok(blocks as u32) } else { Err(SubmitError::Unaligned(len)) }
    }
}

impl BlockQueue for NamespaceQueue {
    fn info(&self) -> BlockInfo {
        self.namespace.info()
    }

    fn depth(&self) -> usize {
        self.queue.depth()
    }

    #[inline]
    fn submit(&mut self, request: Request) -> Result<(), (SubmitError, Request)> {
        let command = match self.command(&request) {
            Ok(command) => command,
            Err(error) => return Err((error, request)),
        };
        let Request { operation, buffer, tag } = request;
        self.queue
            .submit(&command, buffer, tag)
            .map_err(|(error, buffer)| (error, Request { operation, buffer, tag }))
    }

    #[inline]
    fn poll(&mut self, mut done: impl FnMut(Completion)) -> usize {
        self.queue.ring();
        // Not more than were on their way: what a fast controller completes meanwhile waits
        // for the next poll, after the submissions that `done` makes possible.
        let most = self.queue.in_flight();
        let mut count = 0;
        while let Some(Completed { tag, result, buffer }) = self.queue.poll() {
            done(Completion { tag, result: result.map(drop).map_err(Into::into), buffer });
            count += 1;
            if count >= most {
                break;
            }
        }
        count
    }
}
