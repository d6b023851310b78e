//! One benchmark from beginning to end: checks, fills what is to be read back, measures each
//! queue depth, reads back what was written.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use uniddrv::DmaBuf;
use uniddrv::block::{BlockInfo, BlockQueue};
use uniddrv::dma::DmaError;

use super::engine::{Phase, Worker};
use super::run::{self, Outcome};
use super::size::show;
use super::verify::{Verifier, VerifierError};
use super::workload::{Area, Rw};

/// What `--verify` works on unless `--size` says otherwise: its bookkeeping takes memory, and
/// filling takes time.
pub(crate) const VERIFY_SIZE: u64 = 1 << 30;

/// What is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rw: Rw,
    /// Bytes in a request.
    pub(crate) bs: u64,
    /// Requests on their way at once in each thread, one measurement each.
    pub(crate) depths: Vec<usize>,
    /// How many threads.
    pub(crate) cores: usize,
    /// The CPUs that the threads run on.
    pub(crate) cpus: Vec<u32>,
    pub(crate) time: Option<Duration>,
    pub(crate) ios: Option<u64>,
    /// Bytes at the start of the namespace that are worked on; all where not given.
    pub(crate) size: Option<u64>,
    pub(crate) verify: bool,
    pub(crate) keep_going: bool,
    /// How long nothing may complete before the device is given up.
    pub(crate) patience: Duration,
    /// How long to spin before the CPU is offered to others.
    pub(crate) spin: Duration,
    pub(crate) seed: u64,
}

/// A plan that does not fit the device.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("--bs {}: not a multiple of the device's blocks of {block_size} bytes", show(*bs))]
    Unaligned { bs: u64, block_size: u32 },
    #[error("--bs {}: more than the {} that the device moves in one request", show(*bs), show((*max).into()))]
    TooLarge { bs: u64, max: u32 },
    #[error("--qd {depth}: more than the {most} requests that the device's queue holds")]
    TooDeep { depth: usize, most: usize },
    #[error("--size {}: more than the namespace's {}", show(*size), show(*available))]
    Beyond { size: u64, available: u64 },
    #[error(
        "--size {}: too small for {cores} times {depth} requests of {} that keep apart, which \
         take {}",
        show(*size), show(*bs), show(*needed)
    )]
    TooSmall { size: u64, cores: usize, depth: usize, bs: u64, needed: u64 },
}

/// A measurement that could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("no memory for the buffers: {0}")]
    Buffers(#[from] DmaError),
    #[error(transparent)]
    Verifier(#[from] VerifierError),
}

/// What the benchmark is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Writing what will be read back.
    Fill,
    /// Measuring this queue depth.
    Measure(usize),
    /// Reading what was written.
    ReadBack,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) stage: Stage,
    /// Requests that have ended.
    pub(crate) done: u64,
    /// Requests in all, where their number decides.
    pub(crate) total: Option<u64>,
    pub(crate) elapsed: Duration,
}

/// What came of one queue depth.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) depth: usize,
    pub(crate) outcome: Outcome,
}

/// What came of it all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    /// The measurements that were made, in order.
    pub(crate) runs: Vec<Run>,
    /// What the fill came to, where there was one. What failed then is not checked later.
    pub(crate) fill: Option<Outcome>,
    /// CPUs that a thread could not be put on.
    pub(crate) not_pinned: Vec<u32>,
}

impl Plan {
    /// The part of the device that is worked on.
    ///
    /// # Errors
    /// When the plan does not fit a device with `info` and queues of `most` entries.
    pub(crate) fn check(&self, info: &BlockInfo, most: usize) -> Result<Area, PlanError> {
        let bs = self.bs;
        let block_size = u64::from(info.block_size).max(1);
        if bs == 0 || !bs.is_multiple_of(block_size) {
            return Err(PlanError::Unaligned { bs, block_size: info.block_size });
        }
        if bs > u64::from(info.max_transfer) {
            return Err(PlanError::TooLarge { bs, max: info.max_transfer });
        }
        let deepest = self.depths.iter().copied().max().unwrap_or(1);
        if deepest > most {
            return Err(PlanError::TooDeep { depth: deepest, most });
        }
        let available = info.bytes();
        let default = if self.verify { available.min(VERIFY_SIZE) } else { available };
        let size = self.size.unwrap_or(default);
        if size > available {
            return Err(PlanError::Beyond { size, available });
        }
        // No two requests on their way touch the same blocks under --verify.
        let depth = if self.verify { deepest } else { 1 };
        let cores = self.cores;
        let needed = (cores as u64).saturating_mul(depth as u64).saturating_mul(bs);
        if size < needed {
            return Err(PlanError::TooSmall { size, cores, depth, bs, needed });
        }
        Ok(Area { first: 0, unit_blocks: (bs / block_size) as u32, units: size / bs })
    }
}

/// Runs `plan` on `queues`, one thread each, with buffers from `buffer`.
///
/// # Errors
/// When it does not fit the device or memory is missing. What goes wrong later is in the
/// session's outcomes.
pub(crate) fn run<Q: BlockQueue + Send>(
    plan: &Plan,
    queues: Vec<Q>,
    mut buffer: impl FnMut(usize) -> Result<DmaBuf, DmaError>,
    interrupted: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Session, SessionError> {
    let Some(info) = queues.first().map(BlockQueue::info) else { return Ok(Session::default()) };
    let most = queues.iter().map(BlockQueue::depth).min().unwrap_or(0);
    let whole = plan.check(&info, most)?;
    // Threads that write in order or keep books of what they wrote must not meet.
    let apart = plan.verify || !plan.rw.is_random();
    let parts: Vec<Area> =
        if apart { whole.split(queues.len()).collect() } else { vec![whole; queues.len()] };
    let deepest = plan.depths.iter().copied().max().unwrap_or(1);
    let mut workers = Vec::with_capacity(queues.len());
    for (queue, area) in queues.into_iter().zip(parts) {
        let mut buffers = (0..deepest)
            .map(|_| buffer(plan.bs as usize))
            .collect::<Result<Vec<DmaBuf>, DmaError>>()?;
        if plan.rw.writes() {
            scramble(&mut buffers, plan.seed);
        }
        let verifier =
            plan.verify.then(|| Verifier::new(area, info.block_size, plan.seed)).transpose()?;
        workers.push(Worker::new(queue, area, buffers, verifier));
    }

    let mut phases = Phases { plan, workers, interrupted, progress };
    let mut session = Session::default();
    if plan.verify && plan.rw.reads() {
        let fill = phases.pass(Stage::Fill, Rw::Write, deepest);
        let clean = fill.is_clean(plan.keep_going);
        session.fill = Some(fill);
        if !clean {
            return Ok(session);
        }
    }
    for &depth in &plan.depths {
        let mut outcome = phases.measure(depth);
        session.not_pinned.clone_from(&outcome.not_pinned);
        if plan.verify && plan.rw.writes() && outcome.is_clean(plan.keep_going) {
            let check = phases.pass(Stage::ReadBack, Rw::Read, deepest);
            outcome.add_read_back(check);
        }
        let clean = outcome.is_clean(plan.keep_going);
        session.runs.push(Run { depth, outcome });
        if !clean {
            break;
        }
    }
    Ok(session)
}

/// The workers and what all phases have in common.
struct Phases<'a, Q> {
    plan: &'a Plan,
    workers: Vec<Worker<Q>>,
    interrupted: &'a AtomicBool,
    progress: &'a mut dyn FnMut(Progress),
}

impl<Q: BlockQueue + Send> Phases<'_, Q> {
    fn measure(&mut self, depth: usize) -> Outcome {
        let Plan { rw, time, ios, .. } = *self.plan;
        self.run(Stage::Measure(depth), &Phase { time, ios, ..self.phase(rw, depth) })
    }

    /// Reads or writes each unit of the area once.
    fn pass(&mut self, stage: Stage, rw: Rw, depth: usize) -> Outcome {
        let units = self.workers.iter().map(Worker::units).sum();
        self.run(stage, &Phase { ios: Some(units), ..self.phase(rw, depth) })
    }

    fn phase(&self, rw: Rw, depth: usize) -> Phase {
        let Plan { patience, spin, seed, keep_going, .. } = *self.plan;
        let (time, ios) = (None, None);
        Phase { rw, depth, time, ios, keep_going, patience, spin, seed }
    }

    fn run(&mut self, stage: Stage, phase: &Phase) -> Outcome {
        let progress = &mut *self.progress;
        let total = phase.ios;
        run::run(&mut self.workers, &self.plan.cpus, phase, self.interrupted, |done, elapsed| {
            progress(Progress { stage, done, total, elapsed });
        })
    }
}

/// Fills buffers with what cannot be compressed or recognised as zeroes.
fn scramble(buffers: &mut [DmaBuf], seed: u64) {
    let mut random = super::workload::Random::new(seed);
    for buffer in buffers {
        for bytes in buffer.as_mut_slice().chunks_mut(8) {
            let word = random.next().to_le_bytes();
            bytes.iter_mut().zip(word).for_each(|(byte, new)| *byte = new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{BLOCK, FakeQueue, Fault, buffers};
    use super::*;
    use uniddrv::block::BlockError;

    fn plan(rw: Rw) -> Plan {
        Plan {
            rw,
            bs: 1024,
            depths: vec![4],
            cores: 1,
            cpus: vec![],
            time: None,
            ios: Some(500),
            size: None,
            verify: false,
            keep_going: false,
            patience: Duration::from_millis(50),
            spin: Duration::ZERO,
            seed: 1,
        }
    }

    fn session(plan: &Plan, fault: Fault) -> (Result<Session, SessionError>, Vec<Stage>) {
        let queues = (0..plan.cores).map(|_| FakeQueue::new(256, 8, fault)).collect();
        let mut stages = Vec::new();
        let result = run(
            plan,
            queues,
            |len| Ok(buffers(1, len).remove(0)),
            &AtomicBool::new(false),
            &mut |progress| {
                if stages.last() != Some(&progress.stage) {
                    stages.push(progress.stage);
                }
            },
        );
        (result, stages)
    }

    #[test]
    fn each_depth_is_measured() {
        let plan = Plan { depths: vec![1, 4, 8], cores: 2, ..plan(Rw::RandRead) };
        let (session, stages) = session(&plan, Fault::None);
        let runs = session.unwrap().runs;
        assert_eq!(runs.iter().map(|run| run.depth).collect::<Vec<_>>(), [1, 4, 8]);
        assert!(runs.iter().all(|run| run.outcome.ios() == 500));
        assert_eq!(stages, [Stage::Measure(1), Stage::Measure(4), Stage::Measure(8)]);
    }

    #[test]
    fn verifying_fills_before_reads_and_reads_back_after_writes() {
        for (rw, wanted) in [
            (Rw::RandRead, vec![Stage::Fill, Stage::Measure(4)]),
            (Rw::RandReadWrite, vec![Stage::Fill, Stage::Measure(4), Stage::ReadBack]),
            (Rw::RandWrite, vec![Stage::Measure(4), Stage::ReadBack]),
        ] {
            let (session, stages) = session(&Plan { verify: true, ..plan(rw) }, Fault::None);
            let outcome = &session.unwrap().runs[0].outcome;
            assert_eq!((outcome.ios(), outcome.mismatches), (500, 0));
            assert!(outcome.verified > 0);
            assert_eq!(stages, wanted);
        }
    }

    #[test]
    fn a_lost_write_is_found_by_the_reading_back() {
        let plan = Plan { verify: true, depths: vec![4, 8], ..plan(Rw::RandWrite) };
        let (session, _) = session(&plan, Fault::DropWrite(499));
        let runs = session.unwrap().runs;
        assert_eq!(runs.len(), 1, "went on after a mismatch");
        assert_eq!((runs[0].outcome.mismatches, runs[0].outcome.ios()), (1, 500));
    }

    #[test]
    fn a_fill_that_fails_is_told() {
        let plan = Plan { verify: true, keep_going: true, ..plan(Rw::RandRead) };
        let (session, _) = session(&plan, Fault::Gone(3));
        let session = session.unwrap();
        assert!(session.runs.is_empty() && session.fill.is_some());
    }

    #[test]
    fn what_could_not_be_filled_is_not_checked() {
        let fault = Fault::Fail(10, BlockError::Device(1));
        let plan = Plan { verify: true, keep_going: true, ..plan(Rw::RandRead) };
        let session = session(&plan, fault).0.unwrap();
        assert_eq!(session.fill.unwrap().errors, 12);
        let outcome = &session.runs[0].outcome;
        assert_eq!((outcome.mismatches, outcome.reads + outcome.errors), (0, 500));
        assert!(outcome.verified > 0 && outcome.verified < 2 * outcome.reads);
    }

    #[test]
    fn plans_that_do_not_fit_are_errors() {
        let ok = plan(Rw::RandRead);
        let info = BlockInfo {
            block_size: BLOCK,
            blocks: 256,
            max_transfer: 4096,
            volatile_write_cache: false,
        };
        let error = |plan: Plan| plan.check(&info, 8).unwrap_err();
        assert!(ok.check(&info, 8).is_ok());
        for bs in [0, 511, 513, 1000] {
            assert!(matches!(error(Plan { bs, ..ok.clone() }), PlanError::Unaligned { .. }));
        }
        assert!(matches!(error(Plan { bs: 4608, ..ok.clone() }), PlanError::TooLarge { .. }));
        assert!(matches!(
            error(Plan { depths: vec![1, 9], ..ok.clone() }),
            PlanError::TooDeep { depth: 9, most: 8 }
        ));
        let beyond = error(Plan { size: Some(1 << 20), ..ok.clone() });
        assert!(matches!(beyond, PlanError::Beyond { available: 131_072, .. }));
        let small = error(Plan { size: Some(1024), cores: 2, ..ok.clone() });
        assert_eq!(
            small.to_string(),
            "--size 1 KiB: too small for 2 times 1 requests of 1 KiB that keep apart, which take 2 KiB"
        );
        let small = error(Plan { size: Some(2048), verify: true, ..ok });
        assert!(matches!(small, PlanError::TooSmall { needed: 4096, .. }));
    }
}
