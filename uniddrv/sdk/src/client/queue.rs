//! A queue of an open block device, polled.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use uniddrv_abi::block::{self, Opcode, Outcome, Submission};
use uniddrv_abi::queue::{self, Reaper, Side, Submitter};
use uniddrv_abi::ring::HostileIndex;

use super::capability::Capability;
use super::open::OpenOptions;
use super::slots::Slots;
use super::wait::Sleep;
use crate::block::{
    BlockError, BlockInfo, BlockQueue, Completion, Operation, Request, SubmitError,
};
use crate::clock;
use crate::dma::{DmaBuf, DmaMemory};
use crate::shared::SharedWords;

/// Requests that are made visible at once, at the latest.
const BATCH: u32 = 16;
/// Polls without a completion between two looks at the clock.
const IDLE_POLLS: u32 = 64;
/// How long nothing completes before it is seen whether the core is there.
const QUIET: Duration = Duration::from_millis(10);
/// The most blocks of a request without data: what NVMe's commands can name.
pub(super) const MAX_BLOCKS: u32 = 1 << 16;

/// A queue of a [`BlockClient`](super::BlockClient), for one thread at a time.
///
/// The driver polls the other end. Submitting and polling neither allocate nor lock, nor call
/// the system unless the driver sleeps and has to be woken. What the driver writes is checked;
/// where it cannot be, the queue ends and each request with it.
///
/// A queue that is dropped with requests on their way keeps their buffers from being used again
/// until all of its client is dropped.
pub struct ClientQueue {
    pub(super) submitter: Submitter<SharedWords>,
    pub(super) reaper: Reaper<SharedWords>,
    pub(super) slots: Slots,
    memory: Arc<DmaMemory>,
    info: BlockInfo,
    /// Blocks to bytes, as a shift.
    shift: u32,
    depth: u32,
    writable: bool,
    /// The epoch of the rings.
    pub(super) epoch: u32,
    /// Nothing comes any more, nothing is taken any more.
    pub(super) ended: bool,
    /// The core is gone or has closed it: it ends with the next poll.
    pub(super) lost: bool,
    /// Requests that were pushed since the last were made visible.
    pushed: u32,
    /// Some were made visible and it was not asked whether the driver sleeps.
    unannounced: bool,
    /// Completions of nobody.
    unknown: u64,
    idle: u32,
    /// In ticks, since when nothing completes; 0 when that was not looked at.
    quiet_since: u64,
    quiet: u64,
    pub(super) sleep: Sleep,
    number: u8,
    pub(super) capability: Arc<Capability>,
}

impl ClientQueue {
    pub(super) fn new(
        capability: Arc<Capability>,
        number: u8,
        words: SharedWords,
        wake: OwnedFd,
        depth: u32,
        in_flight: u32,
        options: &OpenOptions,
    ) -> Self {
        let info = capability.info;
        Self {
            submitter: Submitter::new(words.clone(), queue::submission(depth), 0),
            reaper: Reaper::new(words, queue::completion(depth), 0),
            slots: Slots::new(depth.min(in_flight) as u16),
            memory: capability.arena.memory.clone(),
            info,
            shift: info.block_size.trailing_zeros(),
            depth,
            writable: capability.writable,
            epoch: 0,
            ended: false,
            lost: false,
            pushed: 0,
            unannounced: false,
            unknown: 0,
            idle: 0,
            quiet_since: 0,
            quiet: clock::to_ticks(QUIET),
            sleep: Sleep::new(wake, options.spin, options.yield_when_idle),
            number,
            capability,
        }
    }

    /// How many requests are on their way.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    /// Completions that came for no request that was on its way. They were ignored.
    pub fn unknown_completions(&self) -> u64 {
        self.unknown
    }

    /// A zeroed buffer of `len` bytes from the client's arena.
    ///
    /// # Errors
    /// When the arena has no room for it.
    pub fn buffer(&self, len: usize) -> Result<DmaBuf, crate::dma::DmaError> {
        self.capability.arena.space.buffer(len)
    }

    /// A buffer of `len` bytes that holds whatever the last one there held.
    pub(super) fn uncleared(&self, len: usize) -> Option<DmaBuf> {
        self.memory.buffer(len)
    }

    /// Why nothing is taken any more, once that is so.
    pub fn closed(&self) -> Option<String> {
        self.capability
            .closed()
            .or_else(|| self.ended.then(|| "the core has closed the queue".into()))
    }

    #[inline]
    fn check(&self, request: &Request) -> Result<Submission, SubmitError> {
        let submission = |opcode, lba, blocks| Submission {
            opcode,
            fua: false,
            blocks,
            lba,
            offset: request.buffer.as_ref().map_or(0, DmaBuf::iova),
            tag: 0,
        };
        let submission = match request.operation {
            Operation::Read { lba } => {
                let blocks = self.blocks(request)?;
                self.inside(lba, blocks)?;
                submission(Opcode::Read, lba, blocks)
            }
            Operation::Write { lba, fua } => {
                let blocks = self.blocks(request)?;
                self.inside(lba, blocks)?;
                Submission { fua, ..submission(Opcode::Write, lba, blocks) }
            }
            _ if request.buffer.is_some() => return Err(SubmitError::Buffer),
            Operation::Flush => submission(Opcode::Flush, 0, 0),
            Operation::Discard { lba, blocks } => {
                self.without_data(lba, blocks)?;
                submission(Opcode::Discard, lba, blocks)
            }
            Operation::WriteZeroes { lba, blocks } => {
                self.without_data(lba, blocks)?;
                submission(Opcode::WriteZeroes, lba, blocks)
            }
        };
        if submission.opcode.writes() && !self.writable {
            return Err(SubmitError::ReadOnly);
        }
        Ok(submission)
    }

    /// How many blocks the buffer of `request` holds.
    #[inline]
    fn blocks(&self, request: &Request) -> Result<u32, SubmitError> {
        let buffer = request.buffer.as_ref().ok_or(SubmitError::Buffer)?;
        if !buffer.is_of(&self.memory) {
            return Err(SubmitError::ForeignBuffer);
        }
        let (len, max) = (buffer.len(), self.info.max_transfer);
        if len > max as usize {
            return Err(SubmitError::TooLarge { len, max });
        }
        let blocks = len >> self.shift;
        if blocks == 0 || blocks << self.shift != len {
            return Err(SubmitError::Unaligned(len));
        }
        Ok(blocks as u32)
    }

    #[inline]
    fn inside(&self, lba: u64, blocks: u32) -> Result<(), SubmitError> {
        let available = self.info.blocks;
        match lba.checked_add(blocks.into()) {
            Some(end) if end <= available => Ok(()),
            _ => Err(SubmitError::OutOfRange { lba, blocks: blocks.into(), available }),
        }
    }

    fn without_data(&self, lba: u64, blocks: u32) -> Result<(), SubmitError> {
        if blocks == 0 {
            return Err(SubmitError::Unaligned(0));
        }
        if blocks > MAX_BLOCKS {
            let bytes = |blocks: u32| u64::from(blocks) << self.shift;
            let len = usize::try_from(bytes(blocks)).unwrap_or(usize::MAX);
            let max = u32::try_from(bytes(MAX_BLOCKS)).unwrap_or(u32::MAX);
            return Err(SubmitError::TooLarge { len, max });
        }
        self.inside(lba, blocks)
    }

    /// Makes visible what was submitted, and wakes the driver where it sleeps.
    #[inline]
    pub(super) fn start(&mut self) {
        if self.pushed > 0 {
            self.submitter.publish();
            self.pushed = 0;
            self.unannounced = true;
        }
        if self.unannounced {
            self.unannounced = false;
            if queue::must_wake(self.submitter.words(), Side::Driver) {
                self.sleep.wake_driver();
            }
        }
    }

    /// Calls `done` for what the driver has posted. How many requests ended.
    #[inline]
    fn reap(&mut self, done: &mut impl FnMut(Completion)) -> Result<usize, HostileIndex> {
        let mut count = 0;
        for _ in 0..self.reaper.available()? {
            let Some(words) = self.reaper.pop() else { break };
            let completion = block::Completion::from_words(words);
            let Some((tag, buffer)) = self.slots.release(completion.tag) else {
                self.unknown += 1;
                continue;
            };
            count += 1;
            done(Completion { tag, result: result(completion.outcome), buffer });
        }
        self.reaper.publish();
        Ok(count)
    }

    /// There was no completion: has something happened?
    fn poll_idle(&mut self, done: &mut impl FnMut(Completion)) -> usize {
        let words = self.submitter.words();
        if self.lost || queue::closed(words) != 0 {
            return self.close(done);
        }
        let epoch = queue::epoch(words);
        if epoch != self.epoch {
            self.follow(epoch);
            return if self.ended { self.end(done) } else { 0 };
        }
        self.idle = self.idle.wrapping_add(1);
        if self.idle.is_multiple_of(IDLE_POLLS) && self.is_core_gone() {
            return self.close(done);
        }
        if self.sleep.yields {
            std::thread::yield_now();
        }
        0
    }

    /// Whether the core is gone or has taken the right away; looked at once in 10 ms.
    #[cold]
    fn is_core_gone(&mut self) -> bool {
        let now = clock::ticks();
        if self.quiet_since == 0 {
            self.quiet_since = now.max(1);
            return false;
        }
        if now.saturating_sub(self.quiet_since) < self.quiet {
            return false;
        }
        self.quiet_since = now;
        self.capability.closed().is_some()
    }

    /// The core has closed the queue. What was posted before counts.
    #[cold]
    fn close(&mut self, done: &mut impl FnMut(Completion)) -> usize {
        // What the core did before it said so is seen after this.
        fence(Ordering::Acquire);
        let count = match self.reaper.look() {
            Ok(_) => self.reap(done).unwrap_or(0),
            Err(_) => 0,
        };
        count + self.end(done)
    }

    /// Ends what is on its way.
    #[cold]
    pub(super) fn end(&mut self, done: &mut impl FnMut(Completion)) -> usize {
        self.ended = true;
        let mut count = 0;
        for (tag, buffer) in self.slots.release_all() {
            count += 1;
            done(Completion { tag, result: Err(BlockError::Gone), buffer });
        }
        count
    }

    /// The driver wrote an index that cannot be. Whether that is so: a successor that starts the
    /// rings over is no liar.
    #[cold]
    fn accuse(&mut self, hostile: HostileIndex) -> bool {
        if queue::epoch(self.submitter.words()) != self.epoch {
            return false;
        }
        self.ended = true;
        self.capability.accuse(format!("queue {} ends, as {hostile}", self.number));
        true
    }

    /// A successor of the driver has started the rings over: so does this side, and all that is
    /// on its way goes out again.
    #[cold]
    fn follow(&mut self, epoch: u32) {
        let words = self.submitter.words().clone();
        queue::follow(&words, epoch);
        self.epoch = epoch;
        self.submitter = Submitter::new(words.clone(), queue::submission(self.depth), 0);
        self.reaper = Reaper::new(words, queue::completion(self.depth), 0);
        let again = self.slots.again();
        match self.submitter.room(again.len() as u32) {
            Ok(room) if room as usize >= again.len() => {
                for submission in again {
                    self.submitter.push(submission.to_words());
                }
                self.submitter.publish();
                self.pushed = 0;
                self.unannounced = true;
                self.start();
            }
            // It takes what is not there yet, or is being started over once more.
            Ok(_) => self.ended = true,
            Err(hostile) => {
                self.accuse(hostile);
            }
        }
    }
}

/// The service's word for how a request ended.
#[inline]
fn result(outcome: Outcome) -> Result<(), BlockError> {
    Err(match outcome {
        Outcome::Success => return Ok(()),
        Outcome::Device(code) => BlockError::Device(code),
        Outcome::OutOfRange => BlockError::OutOfRange,
        Outcome::Aborted => BlockError::Aborted,
        Outcome::Reset => BlockError::Reset,
        Outcome::Gone => BlockError::Gone,
        Outcome::Poisoned => BlockError::Poisoned,
        Outcome::Invalid => BlockError::Invalid,
        Outcome::Denied => BlockError::Denied,
    })
}

impl BlockQueue for ClientQueue {
    fn info(&self) -> BlockInfo {
        self.info
    }

    fn depth(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    fn submit(&mut self, request: Request) -> Result<(), (SubmitError, Request)> {
        let submission = match self.check(&request) {
            Ok(submission) => submission,
            Err(error) => return Err((error, request)),
        };
        if self.ended || self.lost || queue::closed(self.submitter.words()) != 0 {
            return Err((SubmitError::Gone, request));
        }
        if self.slots.is_full() {
            return Err((SubmitError::Full, request));
        }
        // The driver may have answered what it has not given back the position of: a successor
        // may, until it has looked through the ring.
        match self.submitter.room(1) {
            Ok(1..) => {}
            Ok(0) => return Err((SubmitError::Full, request)),
            Err(hostile) => {
                let error =
                    if self.accuse(hostile) { SubmitError::Gone } else { SubmitError::NotReady };
                return Err((error, request));
            }
        }
        let Request { tag, buffer, .. } = request;
        if let Some(submission) = self.slots.take(submission, tag, buffer) {
            self.submitter.push(submission.to_words());
            self.pushed += 1;
            if self.pushed >= BATCH {
                self.submitter.publish();
                self.pushed = 0;
                self.unannounced = true;
            }
        }
        Ok(())
    }

    #[inline]
    fn poll(&mut self, mut done: impl FnMut(Completion)) -> usize {
        if self.ended {
            return self.end(&mut done);
        }
        self.start();
        match self.reap(&mut done) {
            Ok(0) => self.poll_idle(&mut done),
            Ok(count) => {
                self.quiet_since = 0;
                count
            }
            Err(hostile) => {
                if self.accuse(hostile) {
                    return self.end(&mut done);
                }
                self.poll_idle(&mut done)
            }
        }
    }
}

impl std::fmt::Debug for ClientQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, capability, .. } = self;
        write!(
            f,
            "ClientQueue({} of {}, {} on their way)",
            number,
            capability.name,
            self.in_flight()
        )
    }
}

impl Drop for ClientQueue {
    fn drop(&mut self) {
        let buffers = self.slots.release_all().filter_map(|(_, buffer)| buffer);
        self.capability.adopt(buffers);
    }
}
