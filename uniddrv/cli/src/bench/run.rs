//! The threads of a benchmark: on their CPUs, together, until they are done or stopped.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use uniddrv::block::BlockQueue;
use uniddrv::clock;

use super::cpu;
use super::engine::{Counter, ErrorSample, Fatal, Phase, Tally, Worker};
use super::latency::{Distribution, Latencies};
use super::verify::Mismatch;

/// How often progress is shown and signals are looked at.
const TICK: Duration = Duration::from_millis(50);

/// What all threads together have done in a phase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// From the first submission to the last completion of the slowest thread, in seconds.
    pub(crate) seconds: f64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) errors: u64,
    pub(crate) error_samples: Vec<ErrorSample>,
    pub(crate) verified: u64,
    pub(crate) mismatches: u64,
    pub(crate) mismatch_samples: Vec<Mismatch>,
    pub(crate) latency: Distribution,
    pub(crate) fatal: Option<Fatal>,
    /// CPUs that a thread could not be put on.
    pub(crate) not_pinned: Vec<u32>,
    /// Stopped by a signal.
    pub(crate) interrupted: bool,
    /// A thread panicked; its figures are missing.
    pub(crate) panicked: bool,
}

impl Outcome {
    /// Requests that ended well.
    pub(crate) fn ios(&self) -> u64 {
        self.reads + self.writes
    }

    /// Whether all went well, so that another phase can follow.
    pub(crate) fn is_clean(&self, keep_going: bool) -> bool {
        let errors = self.errors + self.mismatches;
        self.fatal.is_none() && !self.interrupted && !self.panicked && (keep_going || errors == 0)
    }

    /// Adds what reading back found; its requests are not counted.
    pub(crate) fn add_read_back(&mut self, check: Self) {
        self.errors += check.errors;
        self.error_samples.extend(check.error_samples);
        self.verified += check.verified;
        self.mismatches += check.mismatches;
        self.mismatch_samples.extend(check.mismatch_samples);
        self.interrupted |= check.interrupted;
        self.panicked |= check.panicked;
        self.fatal = self.fatal.take().or(check.fatal);
    }

    fn add(&mut self, tally: Tally, latencies: &mut Latencies) {
        self.reads += tally.reads;
        self.writes += tally.writes;
        self.errors += tally.errors;
        self.error_samples.extend(tally.error_samples);
        self.verified += tally.verified;
        self.mismatches += tally.mismatches;
        self.mismatch_samples.extend(tally.mismatch_samples);
        latencies.add(&tally.latencies);
        self.seconds = self.seconds.max(clock::to_nanoseconds(tally.ticks) as f64 / 1e9);
        if self.fatal.is_none() {
            self.fatal = tally.fatal;
        }
    }
}

/// Runs a phase on all workers at once, one thread each, the n-th on the n-th of `cpus`.
///
/// Requests of `phase` are divided among them. Meanwhile `progress` is called with the requests
/// that ended so far and the time since the start. A set `interrupted` stops all: what is on
/// its way is waited for.
pub(crate) fn run<Q: BlockQueue + Send>(
    workers: &mut [Worker<Q>],
    cpus: &[u32],
    phase: &Phase,
    interrupted: &AtomicBool,
    mut progress: impl FnMut(u64, Duration),
) -> Outcome {
    let stop = AtomicBool::new(false);
    let counters: Vec<Counter> = workers.iter().map(|_| Counter::default()).collect();
    let barrier = Barrier::new(workers.len());
    let ended = AtomicUsize::new(0);
    let threads = workers.len() as u64;
    let monitor = std::thread::current();
    // Measured once, and not while it is needed.
    clock::ticks_per_second();

    let mut outcome = Outcome::default();
    let mut latencies = Latencies::new();
    let started = Instant::now();
    std::thread::scope(|scope| {
        let mut handles = Vec::new();
        for ((index, worker), counter) in (0..).zip(workers.iter_mut()).zip(&counters) {
            let mut phase = phase.clone();
            phase.ios = phase.ios.map(|n| n / threads + u64::from(index < n % threads));
            phase.seed = phase.seed.wrapping_add(index.wrapping_mul(0xd1b5_4a32_d192_ed03));
            let cpu = cpus.get(index as usize).copied();
            let (stop, barrier, ended, monitor) = (&stop, &barrier, &ended, monitor.clone());
            handles.push(scope.spawn(move || {
                let _finish = Finish { stop, ended, monitor };
                let not_pinned = cpu.filter(|&cpu| cpu::pin(cpu).is_err());
                barrier.wait();
                (worker.run(&phase, stop, counter), not_pinned)
            }));
        }
        loop {
            let over = ended.load(Ordering::Acquire) == handles.len();
            if interrupted.load(Ordering::Relaxed) {
                outcome.interrupted = true;
                stop.store(true, Ordering::Relaxed);
            }
            let done = counters.iter().map(|counter| counter.0.load(Ordering::Relaxed)).sum();
            progress(done, started.elapsed());
            if over {
                break;
            }
            std::thread::park_timeout(TICK);
        }
        for handle in handles {
            match handle.join() {
                Ok((tally, not_pinned)) => {
                    outcome.add(tally, &mut latencies);
                    outcome.not_pinned.extend(not_pinned);
                }
                Err(_) => outcome.panicked = true,
            }
        }
    });
    outcome.latency = latencies.distribution();
    outcome
}

/// Wakes the thread that waits for this one, and stops the others after a panic.
struct Finish<'a> {
    stop: &'a AtomicBool,
    /// Counted before the wake-up: a thread is not finished yet while it drops this.
    ended: &'a AtomicUsize,
    monitor: std::thread::Thread,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.ended.fetch_add(1, Ordering::Release);
        self.monitor.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::Worker;
    use super::super::fake::{FakeQueue, Fault, buffers};
    use super::super::workload::{Area, Rw};
    use super::*;

    fn phase() -> Phase {
        Phase {
            rw: Rw::RandRead,
            depth: 4,
            time: None,
            ios: Some(1000),
            keep_going: false,
            patience: Duration::from_secs(1),
            spin: Duration::ZERO,
            seed: 0,
        }
    }

    fn workers(faults: &[Fault]) -> Vec<Worker<FakeQueue>> {
        let area = Area { first: 0, unit_blocks: 1, units: 100 };
        let parts: Vec<_> = area.split(faults.len()).collect();
        (parts.into_iter().zip(faults))
            .map(|(area, &fault)| {
                Worker::new(FakeQueue::new(100, 4, fault), area, buffers(4, 512), None)
            })
            .collect()
    }

    #[test]
    fn requests_are_divided_and_summed() {
        let mut workers = workers(&[Fault::None; 3]);
        let mut seen = 0;
        let go = AtomicBool::new(false);
        let outcome = run(&mut workers, &[0], &phase(), &go, |done, _| seen = done);
        assert_eq!((outcome.ios(), outcome.reads), (1000, 1000));
        assert!(outcome.seconds > 0.0 && outcome.is_clean(false) && seen == 1000);
        assert!(outcome.latency.lat_ns.max > 0);
    }

    #[test]
    fn a_failure_stops_the_others() {
        let mut workers = workers(&[Fault::Gone(5), Fault::None]);
        let phase = Phase { ios: None, ..phase() };
        let go = AtomicBool::new(false);
        let outcome = run(&mut workers, &[], &phase, &go, |_, _| ());
        assert_eq!(outcome.fatal, Some(Fatal::Gone));
        assert!(!outcome.is_clean(true) && !outcome.interrupted);
    }

    #[test]
    fn a_panic_stops_the_others() {
        let mut workers = workers(&[Fault::None, Fault::Panic(5)]);
        let phase = Phase { ios: None, ..phase() };
        let outcome = run(&mut workers, &[], &phase, &AtomicBool::new(false), |_, _| ());
        assert!(outcome.panicked && !outcome.is_clean(true));
    }

    #[test]
    fn a_signal_stops_all() {
        let mut workers = workers(&[Fault::None; 2]);
        let phase = Phase { ios: None, ..phase() };
        let outcome = run(&mut workers, &[], &phase, &AtomicBool::new(true), |_, _| ());
        assert!(outcome.interrupted && outcome.fatal.is_none());
        assert!(outcome.ios() >= 8);
    }
}
