//! The block service: what a driver of storage offers, and what its clients use.

use crate::dma::DmaBuf;

/// What a block device is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Bytes in a block; a power of two from 512.
    pub block_size: u32,
    /// How many blocks there are.
    pub blocks: u64,
    /// The most bytes that one read or write moves.
    pub max_transfer: u32,
    /// Whether written data can be lost with the power until a flush.
    pub volatile_write_cache: bool,
}

impl BlockInfo {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_size.into())
    }
}

/// What to do. Addresses and counts are in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill the buffer from `lba` on.
    Read {
        /// The first block.
        lba: u64,
    },
    /// Write the buffer to `lba` and on; with `fua`, done only once it is on the medium.
    Write {
        /// The first block.
        lba: u64,
        /// Force unit access.
        fua: bool,
    },
    /// Put what was written on the medium.
    Flush,
    /// The blocks may be forgotten.
    Discard {
        /// The first block.
        lba: u64,
        /// How many.
        blocks: u32,
    },
    /// The blocks are to read as zeroes.
    WriteZeroes {
        /// The first block.
        lba: u64,
        /// How many.
        blocks: u32,
    },
}

/// One request. `tag` is the client's own and comes back with the completion.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// The data of a read or a write: a whole number of blocks.
    pub buffer: Option<DmaBuf>,
    /// The client's own.
    pub tag: u64,
}

/// A request that has ended. Each that was accepted ends exactly once.
#[derive(Debug)]
pub struct Completion {
    /// The tag of the request.
    pub tag: u64,
    /// How it ended.
    pub result: Result<(), BlockError>,
    /// The buffer of the request.
    pub buffer: Option<DmaBuf>,
}

/// A request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The medium or the device reported an error; the code is the device's own.
    #[error("the device reported status {0:#06x}")]
    Device(u16),
    /// The request went beyond the end of the device.
    #[error("beyond the end of the device")]
    OutOfRange,
    /// It took too long and was aborted; whether it was carried out is unknown.
    #[error("aborted: it took too long")]
    Aborted,
    /// The controller was reset before it ended; whether it was carried out is unknown.
    #[error("the controller was reset before it ended")]
    Reset,
    /// The device is gone; whether the request was carried out is unknown.
    #[error("the device is gone")]
    Gone,
    /// Three drivers in a row died while they worked on it, so it was given up; whether it was
    /// carried out is unknown.
    #[error("given up: drivers died of it")]
    Poisoned,
    /// The driver that serves the device found that it was no request that can be carried out.
    #[error("the driver takes it for no request that can be carried out")]
    Invalid,
    /// The driver that serves the device does not allow it to whoever sent it.
    #[error("the driver does not allow it")]
    Denied,
}

/// A request that was not accepted: nothing was done, the request is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many requests as there is room for are on their way; poll first.
    #[error("the queue is full")]
    Full,
    /// A buffer is missing, or there is one that the operation has no use for.
    #[error("the operation needs a buffer, or has no use for one")]
    Buffer,
    /// The buffer is not of the memory that the device was given for this queue's requests.
    #[error("the buffer is of another arena: take it from the client that the queue is of")]
    ForeignBuffer,
    /// The device was opened for reading only.
    #[error("it was opened for reading only")]
    ReadOnly,
    /// The length is 0 or no whole number of blocks.
    #[error("{0} bytes are no whole number of blocks")]
    Unaligned(usize),
    /// More than one request can move.
    #[error("{len} bytes are more than the {max} that one request moves")]
    TooLarge {
        /// Asked for, in bytes.
        len: usize,
        /// The most, in bytes.
        max: u32,
    },
    /// The blocks do not all exist.
    #[error("{blocks} blocks at {lba} do not lie inside the device's {available}")]
    OutOfRange {
        /// The first block.
        lba: u64,
        /// How many.
        blocks: u64,
        /// How many the device has.
        available: u64,
    },
    /// The device does not offer the operation.
    #[error("the device does not offer this operation")]
    Unsupported,
    /// The device is being reset; poll, and try again.
    #[error("the device is being reset")]
    NotReady,
    /// The device is gone, or does not have this queue any more.
    #[error("the device is gone")]
    Gone,
}

/// A queue of block requests, owned by one thread.
pub trait BlockQueue {
    /// What the device is like.
    fn info(&self) -> BlockInfo;

    /// How many requests may be on their way at once.
    fn depth(&self) -> usize;

    /// Takes a request. It starts with the next [`poll`](Self::poll) at the latest.
    ///
    /// # Errors
    /// With the request, when it cannot be accepted.
    fn submit(&mut self, request: Request) -> Result<(), (SubmitError, Request)>;

    /// Starts what was submitted and calls `done` for each request that has ended. How many
    /// those were.
    fn poll(&mut self, done: impl FnMut(Completion)) -> usize;
}
