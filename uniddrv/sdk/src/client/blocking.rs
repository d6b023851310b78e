//! A queue whose methods return when the device is done.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::queue::{ClientQueue, MAX_BLOCKS};
use crate::block::{
    BlockError, BlockInfo, BlockQueue, Completion, Operation, Request, SubmitError,
};
use crate::dma::{DmaBuf, DmaError};

/// How long nothing may complete before a call gives up. The driver aborts what takes too long
/// well before.
const PATIENCE: Duration = Duration::from_mins(2);
/// Bytes that a copy moves in one request at most, and how many such requests are on their way.
const PIECE: usize = 128 << 10;
const PIECES: usize = 8;

/// A request of a [`BlockingQueue`] or [`AsyncQueue`](super::AsyncQueue) that failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It was not accepted: nothing was done.
    #[error(transparent)]
    Refused(#[from] SubmitError),
    /// It was carried out and failed.
    #[error(transparent)]
    Failed(#[from] BlockError),
    /// It did not end in time. It is still on its way; its buffer is given back to the arena
    /// when it ends.
    #[error("the driver has completed nothing for {0:?}; `uniddrv status` may say why")]
    TimedOut(Duration),
    /// The arena has no room to copy through.
    #[error(transparent)]
    Memory(#[from] DmaError),
    /// The system did not let it wait.
    #[error("cannot wait for the driver: {0}")]
    Wait(#[from] io::Error),
}

/// A queue for one thread that does one thing after the other. It copies from and to any memory,
/// or moves buffers of the arena without copying.
pub struct BlockingQueue {
    queue: ClientQueue,
    patience: Duration,
    /// Tags are from here on; what has one from before was given up.
    call: u64,
    tags: u64,
}

/// The user's memory of a copy.
enum Data<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(data) => data.len(),
            Self::Write(data) => data.len(),
        }
    }
}

impl BlockingQueue {
    /// A blocking queue over `queue`, whose requests so far have all ended.
    pub fn new(queue: ClientQueue) -> Self {
        Self { queue, patience: PATIENCE, call: 0, tags: 0 }
    }

    /// How long nothing may complete before a call gives up: two minutes, where not said
    /// otherwise.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// What the device is like.
    pub fn info(&self) -> BlockInfo {
        self.queue.info()
    }

    /// A zeroed buffer of `len` bytes from the client's arena.
    ///
    /// # Errors
    /// When the arena has no room for it.
    pub fn buffer(&self, len: usize) -> Result<DmaBuf, DmaError> {
        self.queue.buffer(len)
    }

    /// Why nothing is taken any more, once that is so.
    pub fn closed(&self) -> Option<String> {
        self.queue.closed()
    }

    /// Reads whole blocks from `lba` on into `data`, through buffers of the arena.
    ///
    /// # Errors
    /// When not all can be read; what `data` holds then is not defined.
    pub fn read_at(&mut self, lba: u64, data: &mut [u8]) -> Result<(), RequestError> {
        self.copy(lba, Data::Read(data))
    }

    /// Writes `data`, whole blocks, to `lba` and on, through buffers of the arena.
    ///
    /// # Errors
    /// When not all could be written; which blocks were is not known then.
    pub fn write_at(&mut self, lba: u64, data: &[u8]) -> Result<(), RequestError> {
        self.copy(lba, Data::Write(data))
    }

    /// Fills `buffer` from `lba` on.
    ///
    /// # Errors
    /// With the buffer, unless the request is still on its way.
    pub fn read(
        &mut self,
        lba: u64,
        buffer: DmaBuf,
    ) -> Result<DmaBuf, (RequestError, Option<DmaBuf>)> {
        self.with_buffer(Operation::Read { lba }, buffer)
    }

    /// Writes `buffer` to `lba` and on; with `fua`, to the medium.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn write(
        &mut self,
        lba: u64,
        buffer: DmaBuf,
        fua: bool,
    ) -> Result<DmaBuf, (RequestError, Option<DmaBuf>)> {
        self.with_buffer(Operation::Write { lba, fua }, buffer)
    }

    /// Puts what was written on the medium.
    ///
    /// # Errors
    /// When the device reports one, or is gone.
    pub fn flush(&mut self) -> Result<(), RequestError> {
        self.run(Operation::Flush, None).map_err(|(error, _)| error)?;
        Ok(())
    }

    /// The `blocks` blocks from `lba` on may be forgotten.
    ///
    /// # Errors
    /// When they do not all exist, the device reports an error, or is gone.
    pub fn discard(&mut self, lba: u64, blocks: u64) -> Result<(), RequestError> {
        self.pieces(lba, blocks, |lba, blocks| Operation::Discard { lba, blocks })
    }

    /// The `blocks` blocks from `lba` on are to read as zeroes.
    ///
    /// # Errors
    /// As for [`discard`](Self::discard).
    pub fn write_zeroes(&mut self, lba: u64, blocks: u64) -> Result<(), RequestError> {
        self.pieces(lba, blocks, |lba, blocks| Operation::WriteZeroes { lba, blocks })
    }

    fn pieces(
        &mut self,
        lba: u64,
        blocks: u64,
        operation: impl Fn(u64, u32) -> Operation,
    ) -> Result<(), RequestError> {
        self.inside(lba, blocks)?;
        let mut done = 0;
        while done < blocks {
            let piece = (blocks - done).min(MAX_BLOCKS.into());
            let operation = operation(lba + done, piece as u32);
            self.run(operation, None).map_err(|(error, _)| error)?;
            done += piece;
        }
        Ok(())
    }

    fn inside(&self, lba: u64, blocks: u64) -> Result<(), SubmitError> {
        let available = self.info().blocks;
        match lba.checked_add(blocks) {
            Some(end) if end <= available => Ok(()),
            _ => Err(SubmitError::OutOfRange { lba, blocks, available }),
        }
    }

    fn with_buffer(
        &mut self,
        operation: Operation,
        buffer: DmaBuf,
    ) -> Result<DmaBuf, (RequestError, Option<DmaBuf>)> {
        self.run(operation, Some(buffer))?.ok_or((SubmitError::Buffer.into(), None))
    }

    /// One request, from beginning to end.
    fn run(
        &mut self,
        operation: Operation,
        buffer: Option<DmaBuf>,
    ) -> Result<Option<DmaBuf>, (RequestError, Option<DmaBuf>)> {
        self.call = self.tags;
        let mut pending = Some(Request { operation, buffer, tag: self.tags });
        self.tags += 1;
        let mut ended = None;
        let mut progress = Instant::now();
        loop {
            if let Some(request) = pending.take() {
                match self.queue.submit(request) {
                    Ok(()) => {}
                    // Room comes with the end of what was given up before.
                    Err((SubmitError::Full | SubmitError::NotReady, request)) => {
                        pending = Some(request);
                    }
                    Err((error, request)) => return Err((error.into(), request.buffer)),
                }
            }
            let call = self.call;
            let count = self.queue.poll(|completion| {
                if completion.tag == call {
                    ended = Some(completion);
                }
            });
            if let Some(Completion { result, buffer, .. }) = ended {
                return match result {
                    Ok(()) => Ok(buffer),
                    Err(error) => Err((error.into(), buffer)),
                };
            }
            if let Err(error) = self.patience(count, &mut progress) {
                return Err((error, pending.and_then(|request| request.buffer)));
            }
        }
    }

    /// Waits for news, if `count` requests that ended are none.
    fn patience(&mut self, count: usize, progress: &mut Instant) -> Result<(), RequestError> {
        if count > 0 {
            *progress = Instant::now();
            return Ok(());
        }
        let left = self.patience.saturating_sub(progress.elapsed());
        if left.is_zero() {
            return Err(RequestError::TimedOut(self.patience));
        }
        self.queue.wait(left)?;
        Ok(())
    }

    /// Reads or writes in pieces, several of which are on their way at once.
    fn copy(&mut self, lba: u64, mut data: Data<'_>) -> Result<(), RequestError> {
        let BlockInfo { block_size, max_transfer, .. } = self.info();
        let (block, len) = (block_size as usize, data.len());
        if !len.is_multiple_of(block) {
            return Err(SubmitError::Unaligned(len).into());
        }
        self.inside(lba, (len / block) as u64)?;
        let piece = (max_transfer as usize).min(PIECE.max(block)) / block * block;
        self.call = self.tags;
        let call = self.call;
        // The tag says which piece.
        self.tags += len.div_ceil(piece) as u64;
        let place = |tag: u64| -> Range<usize> {
            let start = (tag - call) as usize * piece;
            start..(start + piece).min(len)
        };
        let mut next = call;
        let mut on_their_way = 0;
        let mut failed = None;
        let mut progress = Instant::now();
        loop {
            while failed.is_none() && next < self.tags && on_their_way < PIECES {
                let range = place(next);
                let Some(mut buffer) = self.queue.uncleared(range.len()) else {
                    if on_their_way == 0 {
                        failed = Some(DmaError::Full { len: range.len() }.into());
                    }
                    break;
                };
                let at = lba + (range.start / block) as u64;
                let operation = match &data {
                    Data::Read(_) => Operation::Read { lba: at },
                    Data::Write(data) => {
                        buffer.as_mut_slice().copy_from_slice(&data[range]);
                        Operation::Write { lba: at, fua: false }
                    }
                };
                let request = Request { operation, buffer: Some(buffer), tag: next };
                match self.queue.submit(request) {
                    Ok(()) => {
                        next += 1;
                        on_their_way += 1;
                    }
                    Err((SubmitError::Full | SubmitError::NotReady, _)) => break,
                    Err((error, _)) => failed = Some(error.into()),
                }
            }
            if on_their_way == 0 && (failed.is_some() || next == self.tags) {
                return failed.map_or(Ok(()), Err);
            }
            let count = self.queue.poll(|Completion { tag, result, buffer }| {
                if tag < call {
                    return;
                }
                on_their_way -= 1;
                match (result, &mut data, buffer) {
                    (Ok(()), Data::Read(data), Some(buffer)) => {
                        data[place(tag)].copy_from_slice(buffer.as_slice());
                    }
                    (Ok(()), ..) => {}
                    (Err(error), ..) => failed = Some(error.into()),
                }
            });
            self.patience(count, &mut progress)?;
        }
    }
}
