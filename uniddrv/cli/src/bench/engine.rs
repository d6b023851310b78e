//! The loop of one thread: submit all free slots, poll, take the time.
//!
//! The loop is made to cost less than what it measures. Per request it draws a place, moves a
//! buffer and counts a latency; everything else happens once a batch. The time-stamp counter is
//! read once for each poll that brings completions: they count as ended at that moment, and the
//! requests that take their slots as started then. So a latency runs from before the batch
//! that the request went out with until its completion was seen, includes the time this loop
//! and the driver take for the rest of the batch, and is never too short by more than the
//! batch's own handling. Under `--verify`, each request has a time of its own, since filling
//! and checking buffers takes longer than the requests do.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use uniddrv::DmaBuf;
use uniddrv::block::{BlockError, BlockQueue, Operation, Request, SubmitError};
use uniddrv::clock;
use uniddrv_spec::nvme::status::Status;

use super::latency::Latencies;
use super::verify::{Mismatch, Verifier};
use super::workload::{Area, Generator, Rw, Step};

/// How many errors and mismatches are kept to be shown; the rest is counted.
const SAMPLES: usize = 8;
/// Polls without a completion between two looks at the clock.
const IDLE_POLLS: u32 = 64;
/// The unit of a slot that has no request on its way.
const NONE: u64 = u64::MAX;

/// What a thread does: until the time is up, or for a number of requests.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    /// The kind of workload.
    pub(crate) rw: Rw,
    /// Requests on their way at once.
    pub(crate) depth: usize,
    /// How long.
    pub(crate) time: Option<Duration>,
    /// How many requests.
    pub(crate) ios: Option<u64>,
    /// Whether an error ends it.
    pub(crate) keep_going: bool,
    /// How long nothing may complete before the device is given up.
    pub(crate) patience: Duration,
    /// How long to spin before the CPU is offered to others.
    pub(crate) spin: Duration,
    /// Where the random numbers start.
    pub(crate) seed: u64,
}

/// What threads share. Each field has a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counter(pub(crate) AtomicU64);

/// A queue with the buffers and the area that one thread works with.
pub(crate) struct Worker<Q> {
    queue: Q,
    area: Area,
    slots: Vec<Slot>,
    free: Vec<(u32, DmaBuf)>,
    unit_bytes: usize,
    verifier: Option<Verifier>,
}

#[derive(Clone, Copy)]
struct Slot {
    started: u64,
    unit: u64,
    write: bool,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ErrorSample {
    pub(crate) write: bool,
    pub(crate) lba: u64,
    pub(crate) error: BlockError,
}

impl fmt::Display for ErrorSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.write { "write to" } else { "read of" };
        match self.error {
            BlockError::Device(code) => {
                // All devices that are measured are NVMe's.
                let status = Status::from_bits(code);
                write!(f, "{what} LBA {}: the device reports: {status}", self.lba)
            }
            error => write!(f, "{what} LBA {}: {error}", self.lba),
        }
    }
}

/// Why a thread stopped before its time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fatal {
    /// The device is gone.
    #[error("the device is gone")]
    Gone,
    /// Requests are on their way and none completes.
    #[error("{outstanding} requests are on their way and none completed in {patience:?}")]
    Stalled { outstanding: usize, patience: Duration },
    /// The queue takes no requests.
    #[error("the queue took no request in {patience:?}: {error}")]
    Refused { error: SubmitError, patience: Duration },
    /// A request was rejected that should have fit.
    #[error("the queue rejected a request: {0}")]
    Rejected(SubmitError),
    /// A completion came for a request that is not on its way.
    #[error("a completion came for tag {0}, which is not on its way")]
    UnknownTag(u64),
    /// A request ended and its buffer did not come back.
    #[error("the buffer of tag {0} did not come back with its completion")]
    LostBuffer(u64),
}

/// What a thread has done.
#[derive(Clone)]
pub(crate) struct Tally {
    /// Requests that ended well.
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    /// Requests that failed.
    pub(crate) errors: u64,
    /// The first of them.
    pub(crate) error_samples: Vec<ErrorSample>,
    /// Blocks that were read and checked.
    pub(crate) verified: u64,
    /// Reads that brought something else than was written.
    pub(crate) mismatches: u64,
    /// The first of them.
    pub(crate) mismatch_samples: Vec<Mismatch>,
    pub(crate) latencies: Latencies,
    /// Ticks from the first submission to the last completion.
    pub(crate) ticks: u64,
    /// Why it stopped, if before its time.
    pub(crate) fatal: Option<Fatal>,
}

impl Tally {
    fn new() -> Self {
        Self {
            reads: 0,
            writes: 0,
            errors: 0,
            error_samples: Vec::with_capacity(SAMPLES),
            verified: 0,
            mismatches: 0,
            mismatch_samples: Vec::with_capacity(SAMPLES),
            latencies: Latencies::new(),
            ticks: 0,
            fatal: None,
        }
    }

    #[cold]
    fn failed(&mut self, sample: ErrorSample) {
        self.errors += 1;
        if sample.error == BlockError::Gone {
            self.fatal.get_or_insert(Fatal::Gone);
        }
        if self.error_samples.len() < SAMPLES {
            self.error_samples.push(sample);
        }
    }

    #[cold]
    fn mismatch(&mut self, mismatch: Mismatch) {
        self.mismatches += 1;
        if self.mismatch_samples.len() < SAMPLES {
            self.mismatch_samples.push(mismatch);
        }
    }
}

impl<Q: BlockQueue> Worker<Q> {
    /// A worker that sends requests of a unit of `area` from `buffers` (each as long as one
    /// unit) to `queue`; at most as many at once as there are buffers.
    pub(crate) fn new(
        queue: Q,
        area: Area,
        buffers: Vec<DmaBuf>,
        verifier: Option<Verifier>,
    ) -> Self {
        let unit_bytes = area.unit_blocks as usize * queue.info().block_size as usize;
        let slots = vec![Slot { started: 0, unit: NONE, write: false }; buffers.len()];
        // Taken from the back: the lowest first.
        let free = (0..).zip(buffers).collect::<Vec<_>>().into_iter().rev().collect();
        Self { queue, area, slots, free, unit_bytes, verifier }
    }

    /// Runs a phase until it ends, `stop` is set, or something goes wrong; then waits for what
    /// is on its way. Sets `stop` itself where the others should stop too. `done` counts the
    /// requests that ended.
    #[inline(never)]
    pub(crate) fn run(&mut self, phase: &Phase, stop: &AtomicBool, done: &Counter) -> Tally {
        let Self { queue, area, slots, free, unit_bytes, verifier } = self;
        let mut tally = Tally::new();
        let mut generator = Generator::new(phase.rw, area.units, phase.seed);
        let patience = clock::to_ticks(phase.patience);
        let spin = clock::to_ticks(phase.spin);
        let mut left = phase.ios.unwrap_or(u64::MAX);
        // Slots without a request on their way have their buffers here, all but `lost`: nothing
        // else is counted for each request.
        let total = slots.len();
        let mut lost = 0usize;
        let floor = total.saturating_sub(phase.depth);
        let mut open = true;
        let mut refused = None;
        let mut idle = 0u32;

        let start = clock::ticks();
        let end = phase.time.map_or(u64::MAX, |time| start.saturating_add(clock::to_ticks(time)));
        let mut now = start;
        let mut progress = start;
        loop {
            while open && free.len() > floor {
                if left == 0 {
                    open = false;
                    break;
                }
                let Some((tag, mut buffer)) = free.pop() else { break };
                let mut step = generator.step();
                let mut started = now;
                if let Some(verifier) = verifier {
                    let Some(taken) = verifier.begin(step, buffer.as_mut_slice()) else {
                        free.push((tag, buffer));
                        break;
                    };
                    step = taken;
                    started = clock::ticks();
                }
                if let Some(slot) = slots.get_mut(tag as usize) {
                    *slot = Slot { started, unit: step.unit, write: step.write };
                }
                let lba = area.lba(step.unit);
                let operation = if step.write {
                    Operation::Write { lba, fua: false }
                } else {
                    Operation::Read { lba }
                };
                let request = Request { operation, buffer: Some(buffer), tag: tag.into() };
                match queue.submit(request) {
                    Ok(()) => left -= 1,
                    Err((error, request)) => {
                        if let Some(slot) = slots.get_mut(tag as usize) {
                            slot.unit = NONE;
                        }
                        if let Some(verifier) = verifier {
                            verifier.undo(step);
                        }
                        if let Some(buffer) = request.buffer {
                            free.push((tag, buffer));
                        } else {
                            lost += 1;
                            tally.fatal.get_or_insert(Fatal::LostBuffer(tag.into()));
                        }
                        if matches!(error, SubmitError::Full | SubmitError::NotReady) {
                            refused = Some(error);
                        } else {
                            tally.fatal.get_or_insert(Fatal::Rejected(error));
                        }
                        break;
                    }
                }
            }
            if !open && free.len() + lost == total {
                break;
            }

            let mut seen = 0;
            queue.poll(|completion| {
                if seen == 0 {
                    seen = clock::ticks().max(1);
                }
                let tag = completion.tag;
                let slot = usize::try_from(tag).ok().and_then(|tag| slots.get_mut(tag));
                let Some(slot) = slot.filter(|slot| slot.unit != NONE) else {
                    tally.fatal.get_or_insert(Fatal::UnknownTag(tag));
                    return;
                };
                let Slot { started, unit, write } = *slot;
                slot.unit = NONE;
                let buffer = completion.buffer.filter(|buffer| buffer.len() == *unit_bytes);
                let Some(buffer) = buffer else {
                    lost += 1;
                    tally.fatal.get_or_insert(Fatal::LostBuffer(tag));
                    return;
                };
                if let Some(verifier) = verifier.as_mut() {
                    seen = clock::ticks().max(1);
                    let went_well = completion.result.is_ok();
                    match verifier.end(Step { write, unit }, went_well, buffer.as_slice()) {
                        Ok(blocks) => tally.verified += blocks,
                        Err(mismatch) => tally.mismatch(mismatch),
                    }
                }
                match completion.result {
                    Ok(()) => {
                        // Not `if`: a random branch would cost more than the request.
                        tally.writes += u64::from(write);
                        tally.reads += u64::from(!write);
                        tally.latencies.record(seen.saturating_sub(started));
                    }
                    Err(error) => tally.failed(ErrorSample { write, lba: area.lba(unit), error }),
                }
                free.push((tag as u32, buffer));
            });

            if seen != 0 {
                now = seen;
                progress = seen;
                refused = None;
                idle = 0;
                let ended = tally.reads + tally.writes + tally.errors;
                done.0.store(ended, Ordering::Relaxed);
            } else {
                idle = idle.wrapping_add(1);
                if idle.is_multiple_of(IDLE_POLLS) {
                    now = clock::ticks();
                    let waited = now.saturating_sub(progress);
                    if waited > patience {
                        let patience = phase.patience;
                        let outstanding = total.saturating_sub(free.len() + lost);
                        tally.fatal.get_or_insert(match refused {
                            Some(error) if outstanding == 0 => Fatal::Refused { error, patience },
                            _ => Fatal::Stalled { outstanding, patience },
                        });
                        stop.store(true, Ordering::Relaxed);
                        break;
                    }
                    if waited > spin {
                        std::thread::yield_now();
                    }
                }
            }
            let bad =
                tally.fatal.is_some() || !phase.keep_going && tally.errors + tally.mismatches != 0;
            if bad && open {
                stop.store(true, Ordering::Relaxed);
            }
            if bad || now >= end || stop.load(Ordering::Relaxed) {
                open = false;
            }
        }
        tally.ticks = clock::ticks().saturating_sub(start);
        done.0.store(tally.reads + tally.writes + tally.errors, Ordering::Relaxed);
        tally
    }

    /// Units of its area.
    pub(crate) fn units(&self) -> u64 {
        self.area.units
    }
}

#[cfg(test)]
mod tests;
