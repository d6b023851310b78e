//! What the measuring itself and the machine cost, to be read beside a result: the loop on a
//! queue that does nothing, and a cache line's way to another CPU and back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use uniddrv::DmaBuf;
use uniddrv::block::{BlockInfo, BlockQueue, Completion, Request, SubmitError};
use uniddrv::clock;

use super::cpu;
use super::engine::{Counter, Phase, Worker};
use super::latency::Latencies;
use super::workload::{Area, Rw};

/// Requests that tell the loop's cost.
pub(crate) const IOS: u64 = 4_000_000;
/// Round trips that tell a cache line's.
pub(crate) const ROUNDS: u64 = 200_000;
/// The longest that either may take.
const LIMIT: Duration = Duration::from_secs(3);

/// What the machine costs in this run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Calibration {
    /// Nanoseconds a request of the loop alone: drawing a place, moving the buffer in and out
    /// of a queue that completes at once, counting its latency.
    pub(crate) loop_ns: f64,
    /// Nanoseconds for a cache line to another CPU and back, and which CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) round_trip: Option<RoundTrip>,
}

/// A cache line's way from one CPU to another and back.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct RoundTrip {
    pub(crate) cpus: (u32, u32),
    pub(crate) ns: f64,
}

/// The cost of the measuring loop, in nanoseconds a request. `buffers` are moved, not touched.
///
/// A latency here is one turn of the loop, in which each buffer goes in and out once. The median
/// turn tells the cost whatever else runs on the machine meanwhile.
pub(crate) fn loop_cost(buffers: Vec<DmaBuf>, ios: u64) -> f64 {
    let depth = buffers.len();
    let area = Area { first: 0, unit_blocks: 1, units: 1 << 30 };
    let mut worker = Worker::new(Nothing::new(&buffers), area, buffers, None);
    let phase = Phase {
        rw: Rw::RandRead,
        depth,
        time: Some(LIMIT),
        ios: Some(ios),
        keep_going: false,
        patience: Duration::from_secs(1),
        spin: Duration::from_secs(1),
        seed: 1,
    };
    let tally = worker.run(&phase, &AtomicBool::new(false), &Counter::default());
    tally.latencies.median_ns() / depth.max(1) as f64
}

/// A queue that completes what it is given, with the next poll.
struct Nothing {
    block_size: u32,
    waiting: Vec<Request>,
    depth: usize,
}

impl Nothing {
    fn new(buffers: &[DmaBuf]) -> Self {
        let block_size = buffers.first().map_or(512, |buffer| buffer.len() as u32);
        Self { block_size, waiting: Vec::with_capacity(buffers.len()), depth: buffers.len() }
    }
}

impl BlockQueue for Nothing {
    fn info(&self) -> BlockInfo {
        BlockInfo {
            block_size: self.block_size,
            blocks: 1 << 30,
            max_transfer: self.block_size,
            volatile_write_cache: false,
        }
    }

    fn depth(&self) -> usize {
        self.depth
    }

    #[inline]
    fn submit(&mut self, request: Request) -> Result<(), (SubmitError, Request)> {
        if self.waiting.len() == self.depth {
            return Err((SubmitError::Full, request));
        }
        self.waiting.push(request);
        Ok(())
    }

    #[inline]
    fn poll(&mut self, mut done: impl FnMut(Completion)) -> usize {
        let count = self.waiting.len();
        for Request { tag, buffer, .. } in self.waiting.drain(..) {
            done(Completion { tag, result: Ok(()), buffer });
        }
        count
    }
}

/// Two counters, each on a cache line (and its neighbour that is prefetched) of its own.
#[derive(Default)]
struct Lines {
    there: Counter,
    back: Counter,
}

/// The median time of a cache line from CPU `cpus.0` to `cpus.1` and back; nothing where these
/// cannot be used or the other CPU is so busy that it takes forever.
pub(crate) fn round_trip(cpus: (u32, u32), rounds: u64) -> Option<RoundTrip> {
    let lines = Lines::default();
    let over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            if cpu::pin(cpus.1).is_ok() {
                echo(&lines, &over);
            }
            over.store(true, Ordering::Relaxed);
        });
        let sender = scope.spawn(|| {
            let times = cpu::pin(cpus.0).is_ok().then(|| send(&lines, &over, rounds)).flatten();
            over.store(true, Ordering::Relaxed);
            times
        });
        let times = sender.join().ok().flatten();
        echo.join().ok().and(times)
    })?;
    Some(RoundTrip { cpus, ns: rounds.median_ns() })
}

fn echo(lines: &Lines, over: &AtomicBool) {
    let mut last = 0;
    while !over.load(Ordering::Relaxed) {
        let value = await_change(&lines.there.0, last);
        if value != last {
            lines.back.0.store(value, Ordering::Release);
            last = value;
        }
    }
}

/// What the rounds took, as many as there was time for; the first hundredth warms up and is
/// left out.
fn send(lines: &Lines, over: &AtomicBool, rounds: u64) -> Option<Latencies> {
    let end = clock::ticks() + clock::to_ticks(LIMIT);
    let mut times = Latencies::new();
    let mut sent = clock::ticks();
    for round in 1..=rounds + rounds / 100 {
        lines.there.0.store(round, Ordering::Release);
        while await_change(&lines.back.0, round - 1) != round {
            if over.load(Ordering::Relaxed) || clock::ticks() > end {
                return (round > rounds / 10).then_some(times);
            }
        }
        let now = clock::ticks();
        if round > rounds / 100 {
            times.record(now.saturating_sub(sent));
        }
        sent = now;
    }
    Some(times)
}

/// Spins until the value is not `last`, for some time at most; the value then.
fn await_change(value: &AtomicU64, last: u64) -> u64 {
    for _ in 0..10_000 {
        let now = value.load(Ordering::Acquire);
        if now != last {
            return now;
        }
        std::hint::spin_loop();
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::fake::buffers;
    use super::*;

    #[test]
    fn the_loop_has_a_cost() {
        let cost = loop_cost(buffers(32, 4096), 10_000);
        assert!(cost > 0.0 && cost.is_finite());
    }

    #[test]
    fn a_line_travels_between_two_cpus() {
        let allowed = cpu::allowed();
        if let [first, .., last] = allowed[..] {
            let trip = round_trip((first, last), 100).unwrap();
            assert!(trip.ns > 1.0, "{} ns", trip.ns);
        }
        assert!(round_trip((0, 100_000), 100).is_none());
    }
}
