//! The loop of requests: as many as the queue depth says on their way, each has to end once, and
//! each byte that is read has to be the one that was written last.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use uniddrv::DmaBuf;
use uniddrv::block::{BlockError, BlockQueue, Completion, Operation, Request, SubmitError};
use uniddrv::clock;
use uniddrv::dma::DmaError;

use super::content::{Book, Span, Touch};
use super::mix::{Next, Source, Step};
use super::watch::Watch;
use crate::bench::engine::{Counter, ErrorSample};
use crate::bench::verify::Mismatch;

/// How many failures of a kind are kept to be shown; the rest is counted.
const SAMPLES: usize = 8;
/// Polls without a completion between two looks at the clock.
const IDLE_POLLS: u32 = 64;
/// A tag is the slot's index, and above it the count of requests.
const INDEX_BITS: u32 = 16;

/// A request on its way.
#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: u64,
    step: Option<Step>,
    started: u64,
}

/// Requests that ended, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) zeroes: u64,
    pub(crate) flushes: u64,
    /// Those that failed, among these.
    pub(crate) errors: u64,
    /// Those that were given up because drivers died of them, among the errors.
    pub(crate) poisoned: u64,
}

impl Counts {
    /// All that ended.
    pub(crate) fn ios(&self) -> u64 {
        self.reads + self.writes + self.zeroes + self.flushes
    }

    /// Those that ended after `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            reads: self.reads - earlier.reads,
            writes: self.writes - earlier.writes,
            zeroes: self.zeroes - earlier.zeroes,
            flushes: self.flushes - earlier.flushes,
            errors: self.errors - earlier.errors,
            poisoned: self.poisoned - earlier.poisoned,
        }
    }
}

/// What went wrong, of what must not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wrongs {
    /// Requests that never ended.
    pub(crate) lost: u64,
    /// Completions of requests that had ended already, or that nobody sent.
    pub(crate) duplicated: u64,
    /// Reads that brought something else than was written.
    pub(crate) corrupted: u64,
    /// The first of each.
    pub(crate) samples: Vec<String>,
    kept: [usize; 3],
}

impl Wrongs {
    fn keep(&mut self, kind: usize, sample: impl fmt::Display) {
        if let Some(kept) = self.kept.get_mut(kind).filter(|kept| **kept < SAMPLES) {
            *kept += 1;
            self.samples.push(sample.to_string());
        }
    }

    fn lose(&mut self, tag: u64, step: Step, waited: Duration) {
        self.lost += 1;
        self.keep(0, format_args!("lost: request {tag} ({step:?}) did not end in {waited:?}"));
    }

    fn repeat(&mut self, tag: u64) {
        self.duplicated += 1;
        self.keep(1, format_args!("duplicated: request {tag} ended though it was not on its way"));
    }

    /// So many completions the queue has kept to itself, as they were for nobody.
    pub(crate) fn unknown(&mut self, count: u64) {
        self.duplicated += count;
        if count > 0 {
            let text = "duplicated: completions came for requests that were not on their way";
            self.keep(1, format_args!("{text}: {count}"));
        }
    }

    fn corrupt(&mut self, mismatch: &Mismatch) {
        self.corrupted += 1;
        self.keep(2, format_args!("corrupted: {mismatch}"));
    }
}

/// Requests that ended, in steps of time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {
    start: u64,
    step: u64,
    counts: Vec<u32>,
}

impl Timeline {
    /// From now on, for `length`.
    pub(crate) fn new(length: Duration, step: Duration) -> Self {
        let steps = length.as_nanos().div_ceil(step.as_nanos().max(1)) as usize + 1;
        let counts = vec![0; steps];
        Self { start: clock::ticks(), step: clock::to_ticks(step).max(1), counts }
    }

    /// So many ended now.
    #[inline]
    pub(super) fn count(&mut self, now: u64, ended: u32) {
        let at = (now.saturating_sub(self.start) / self.step.max(1)) as usize;
        if let Some(count) = self.counts.get_mut(at) {
            *count += ended;
        }
    }

    /// When it began, in ticks.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Ticks of a step.
    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// How many ended in each step.
    pub(crate) fn counts(&self) -> &[u32] {
        &self.counts
    }
}

/// What ends a stage before its time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fatal {
    /// The queue takes nothing more.
    #[error("the queue takes no requests any more: {0}")]
    Refused(SubmitError),
    /// A request ended and its buffer did not come back.
    #[error("the buffer of request {0} did not come back with its completion")]
    NoBuffer(u64),
    /// Nothing ends any more.
    #[error("nothing ended in {0:?}")]
    Stalled(Duration),
}

/// A queue, and its requests.
pub(crate) struct Load<Q> {
    /// What requests go to.
    pub(crate) queue: Q,
    pub(crate) requests: Requests,
    patience: Duration,
}

/// Requests, and what became of them.
pub(crate) struct Requests {
    book: Book,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Buffers of one unit, and of `large` units.
    small: Vec<DmaBuf>,
    large: Vec<DmaBuf>,
    sent: u64,
    /// What ended in all stages.
    pub(crate) counts: Counts,
    /// What went wrong in all stages.
    pub(crate) wrongs: Wrongs,
    /// The first requests that failed.
    pub(crate) errors: Vec<String>,
    /// Blocks that were read and checked.
    pub(crate) checked: u64,
    /// Counted while it is there.
    pub(crate) timeline: Timeline,
}

impl<Q: BlockQueue> Load<Q> {
    /// A load on `queue` of `depth` requests at once, of one unit or `large`, with buffers from
    /// `buffer`. A request that has not ended after `patience` without any completion is lost.
    pub(crate) fn new(
        queue: Q,
        book: Book,
        depth: u16,
        large: u32,
        patience: Duration,
        buffer: impl Fn(usize) -> Result<DmaBuf, DmaError>,
    ) -> Result<Self, DmaError> {
        let buffers = |units| {
            let len = book.bytes(Span { unit: 0, units });
            (0..depth).map(|_| buffer(len)).collect::<Result<Vec<_>, _>>()
        };
        let requests = Requests {
            small: buffers(1)?,
            large: buffers(large)?,
            slots: vec![Slot { tag: 0, step: None, started: 0 }; depth.into()],
            free: (0..depth).rev().collect(),
            book,
            sent: 0,
            counts: Counts::default(),
            wrongs: Wrongs::default(),
            errors: Vec::new(),
            checked: 0,
            timeline: Timeline::default(),
        };
        Ok(Self { queue, requests, patience })
    }

    /// Sends what `source` gives until it ends or `stop` is set, then waits for what is on its
    /// way. `done` counts what has ended.
    pub(crate) fn run(
        &mut self,
        source: &mut impl Source,
        watch: &Watch,
        stop: &AtomicBool,
        done: &Counter,
    ) -> Result<(), Fatal> {
        let patience = clock::to_ticks(self.patience);
        let mut progress = clock::ticks();
        let mut open = true;
        let mut fatal = None;
        let mut refused = None;
        let mut idle = 0u32;
        loop {
            while open && !self.requests.free.is_empty() {
                match source.next(&self.requests.book) {
                    Next::Step(step) => match self.submit(step) {
                        Ok(()) => refused = None,
                        Err(error @ (SubmitError::Full | SubmitError::NotReady)) => {
                            refused = Some(error);
                            break;
                        }
                        Err(error) => {
                            fatal.get_or_insert(Fatal::Refused(error));
                            open = false;
                        }
                    },
                    Next::Wait => break,
                    Next::End => open = false,
                }
            }
            if !open && self.requests.in_flight() == 0 {
                break;
            }
            if let Some(now) = self.poll(&mut fatal) {
                watch.saw(progress, now);
                progress = now;
                idle = 0;
                done.0.store(self.requests.counts.ios(), Ordering::Relaxed);
            } else {
                idle = idle.wrapping_add(1);
                if idle.is_multiple_of(IDLE_POLLS)
                    && clock::ticks().saturating_sub(progress) > patience
                {
                    self.requests.give_up();
                    let stalled = match refused {
                        Some(error) => Fatal::Refused(error),
                        None => Fatal::Stalled(self.patience),
                    };
                    fatal.get_or_insert(stalled);
                    break;
                }
            }
            if fatal.is_some() || stop.load(Ordering::Relaxed) {
                open = false;
            }
        }
        fatal.map_or(Ok(()), Err)
    }

    fn submit(&mut self, step: Step) -> Result<(), SubmitError> {
        let Self { queue, requests, .. } = self;
        let Some(index) = requests.free.pop() else { return Err(SubmitError::Full) };
        let (operation, buffer) = requests.ready(step);
        requests.sent += 1;
        let tag = (requests.sent << INDEX_BITS) | u64::from(index);
        match queue.submit(Request { operation, buffer, tag }) {
            Ok(()) => {
                requests.begin(index, tag, step);
                Ok(())
            }
            Err((error, request)) => {
                requests.free.push(index);
                requests.keep_buffer(step, request.buffer);
                Err(error)
            }
        }
    }

    /// When something ended, if anything did.
    fn poll(&mut self, fatal: &mut Option<Fatal>) -> Option<u64> {
        let Self { queue, requests, .. } = self;
        let mut ended = 0;
        let mut anything = false;
        queue.poll(|completion| {
            anything = true;
            ended += u32::from(requests.end(completion, fatal));
        });
        if !anything {
            return None;
        }
        let now = clock::ticks();
        requests.timeline.count(now, ended);
        Some(now)
    }
}

impl Requests {
    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// What a step asks of the queue, with the buffer for it.
    fn ready(&mut self, step: Step) -> (Operation, Option<DmaBuf>) {
        let Step::Touch { touch, span, fua } = step else { return (Operation::Flush, None) };
        let (lba, blocks) = self.book.blocks(span);
        let mut buffer = None;
        if touch != Touch::Zero {
            let pool = if span.units == 1 { &mut self.small } else { &mut self.large };
            buffer = pool.pop();
            if let Some(buffer) = &mut buffer {
                self.book.ready(touch, span, buffer.as_mut_slice());
            }
        }
        let operation = match touch {
            Touch::Read => Operation::Read { lba },
            Touch::Write => Operation::Write { lba, fua },
            Touch::Zero => Operation::WriteZeroes { lba, blocks },
        };
        (operation, buffer)
    }

    fn begin(&mut self, index: u16, tag: u64, step: Step) {
        if let Step::Touch { touch, span, .. } = step {
            self.book.begin(touch, span);
        }
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            *slot = Slot { tag, step: Some(step), started: clock::ticks() };
        }
    }

    /// Puts a buffer back where it was taken from. Whether there was one if there had to be.
    fn keep_buffer(&mut self, step: Step, buffer: Option<DmaBuf>) -> bool {
        let Step::Touch { touch, span, .. } = step else { return true };
        let Some(buffer) = buffer else { return touch == Touch::Zero };
        let whole = buffer.len() == self.book.bytes(span);
        if whole {
            if span.units == 1 { &mut self.small } else { &mut self.large }.push(buffer);
        }
        whole
    }

    /// Ends a request. Whether it was on its way.
    fn end(&mut self, completion: Completion, fatal: &mut Option<Fatal>) -> bool {
        let Completion { tag, result, buffer } = completion;
        let index = tag as u16;
        let slot = self.slots.get_mut(usize::from(index)).filter(|slot| slot.tag == tag);
        let Some(step) = slot.and_then(|slot| slot.step.take()) else {
            self.wrongs.repeat(tag >> INDEX_BITS);
            return false;
        };
        self.free.push(index);
        self.count(step, result);
        if let Step::Touch { touch, span, .. } = step {
            let bytes = buffer.as_ref().map_or(&[][..], DmaBuf::as_slice);
            match self.book.end(touch, span, result.is_ok(), bytes) {
                Ok(blocks) => self.checked += blocks,
                Err(mismatch) => self.wrongs.corrupt(&mismatch),
            }
        }
        if !self.keep_buffer(step, buffer) {
            fatal.get_or_insert(Fatal::NoBuffer(tag >> INDEX_BITS));
        }
        true
    }

    fn count(&mut self, step: Step, result: Result<(), BlockError>) {
        let counts = &mut self.counts;
        let (kind, lba) = match step {
            Step::Flush => (&mut counts.flushes, 0),
            Step::Touch { touch, span, .. } => {
                let lba = self.book.blocks(span).0;
                match touch {
                    Touch::Read => (&mut counts.reads, lba),
                    Touch::Write => (&mut counts.writes, lba),
                    Touch::Zero => (&mut counts.zeroes, lba),
                }
            }
        };
        *kind += 1;
        let Err(error) = result else { return };
        counts.errors += 1;
        counts.poisoned += u64::from(error == BlockError::Poisoned);
        if self.errors.len() < SAMPLES {
            let text = match step {
                Step::Flush => format!("flush: {error}"),
                Step::Touch { touch, .. } => {
                    ErrorSample { write: touch != Touch::Read, lba, error }.to_string()
                }
            };
            self.errors.push(text);
        }
    }

    /// Forgets requests that failed, but for the first `errors`: they were to show whether they
    /// would. Whether there were any.
    pub(crate) fn forgive(&mut self, errors: u64) -> bool {
        let failed = self.counts.errors > errors;
        self.counts.errors = self.counts.errors.min(errors);
        self.errors.truncate(errors as usize);
        failed
    }

    /// Whatever is on its way is lost.
    fn give_up(&mut self) {
        let now = clock::ticks();
        for slot in &mut self.slots {
            if let Some(step) = slot.step.take() {
                let waited = clock::to_nanoseconds(now.saturating_sub(slot.started));
                let waited = Duration::from_millis(waited / 1_000_000);
                self.wrongs.lose(slot.tag >> INDEX_BITS, step, waited);
            }
        }
    }
}

#[cfg(test)]
mod tests;
