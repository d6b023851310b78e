//! All that a torture does: fills, works while the driver is harmed, reads back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use uniddrv::client::{BlockClient, ClientQueue, Core, OpenOptions, Rights};

use super::{Torture, unset};
use crate::Context;
use crate::bench::cpu;
use crate::bench::engine::Counter;
use crate::bench::progress::Bar;
use crate::bench::result::{Target, thousands};
use crate::bench::size;
use crate::bench::workload::Area;
use crate::error::Failure;
use crate::output::warn;
use crate::served::{self, Crowd, Service};
use crate::torture::content::{Book, Span, Touch};
use crate::torture::harm::{Event, HarmError, Plan, Tormentor};
use crate::torture::load::{Counts, Fatal, Load, Timeline};
use crate::torture::mix::{Mix, Once, Source, Step, Sweep};
use crate::torture::result::{Given, Outcome, Traffic};
use crate::torture::watch::Watch;

/// Bytes of a small request, where the device's blocks are no larger.
const UNIT: u32 = 4096;
/// Units of a large request, where the device moves so much at once.
const LARGE: u32 = 8;
/// How often progress is shown and signals are looked at.
const TICK: Duration = Duration::from_millis(50);
/// The least time that throughput is told for, and the most such times.
const STEP: Duration = Duration::from_millis(1);
const STEPS: f64 = 1e6;
/// Kept apart from the seed of the requests.
const HARM_SEED: u64 = 0x6861_726d;

/// What is worked on, in which sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    area: Area,
    block_size: u32,
    large: u32,
}

impl Work {
    /// What the arguments ask of a device.
    pub(super) fn new(torture: &Torture, service: &Service) -> Result<Self, Failure> {
        let info = service.info();
        let usable = info.block_size.is_power_of_two() && info.block_size >= 512;
        if !usable || info.max_transfer < info.block_size {
            let text = format!(
                "{} has blocks of {} bytes and moves {} at once, which cannot be worked with",
                service.name, info.block_size, info.max_transfer
            );
            return Err(Failure::new(text));
        }
        let unit = UNIT.min(1 << info.max_transfer.ilog2()).max(info.block_size);
        let large = LARGE.min(info.max_transfer / unit);
        let size = torture.size.min(info.bytes());
        let units = size / u64::from(unit);
        let needed = u64::from(torture.qd) * u64::from(large) * 2;
        if units < needed {
            let text = format!(
                "--size {}: too small for {} requests that keep apart, which take {}",
                size::show(size),
                torture.qd,
                size::show(needed * u64::from(unit))
            );
            return Err(Failure::usage(anyhow::Error::msg(text)));
        }
        let unit_blocks = unit / info.block_size;
        let area = Area { first: 0, unit_blocks, units };
        Ok(Self { area, block_size: info.block_size, large })
    }

    /// Bytes of a span of so many units.
    fn unit_bytes(&self, units: u32) -> u64 {
        u64::from(units) * u64::from(self.area.unit_blocks) * u64::from(self.block_size)
    }

    /// All that is written to.
    pub(super) fn bytes(&self) -> u64 {
        self.area.units * self.unit_bytes(1)
    }

    fn arena(&self, depth: usize) -> u64 {
        served::arena(depth, self.unit_bytes(1)) + served::arena(depth, self.unit_bytes(self.large))
    }
}

/// What came of it.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) events: Vec<Event>,
    pub(super) timeline: Timeline,
    /// What ended it early.
    pub(super) verdict: Result<(), Failure>,
}

/// Does it all.
pub(super) fn run(
    context: &Context,
    torture: &Torture,
    core: &Core,
    service: &Service,
    target: Target,
    work: &Work,
    stop: &AtomicBool,
) -> Result<Ended, Failure> {
    let crowd = Crowd::of(core, service.address.as_ref())?;
    // The driver's CPU is the driver's.
    if cpu::restrict(&crowd.left).is_err() {
        warn("this program could not be kept from the drivers' CPUs");
    }
    let cpu = cpu::choose(&context.root, &crowd.left, &[], 1).first().copied();
    let depth = usize::from(torture.qd);
    let options = OpenOptions {
        rights: Rights::Write,
        depth: served::ring(depth)?,
        arena: work.arena(depth),
        // The core too has work to do while this program waits.
        yield_when_idle: crowd.left.len() < 2 + crowd.others,
        ..OpenOptions::default()
    };
    let driver = served::driver(core, &service.name)?.name;
    let client = core.open(&service.name, &options)?;
    let queue = client.take_queue().ok_or_else(|| Failure::new("the core opened no queue"))?;
    let depth = depth.min(uniddrv::block::BlockQueue::depth(&queue)) as u16;
    if depth < torture.qd {
        let asked = torture.qd;
        warn(&format!("{asked} requests at once are asked for, and {depth} are allowed"));
    }
    let seed = torture.seed();
    let book = Book::new(work.area, work.block_size, seed).map_err(Failure::from)?;
    let load =
        Load::new(queue, book, depth, work.large, torture.patience(), |len| client.buffer(len))?;
    let stage = Stages {
        load,
        work: *work,
        cpu,
        bar: Bar::new(None),
        stop,
        counted: Counts::default(),
        seconds: 0.0,
        zeroes: false,
        events: Vec::new(),
    };
    let plan = Plan {
        name: driver.clone(),
        weights: torture.harm.clone(),
        per_second: torture.kills_per_second,
        seed: seed ^ HARM_SEED,
        end: Instant::now(),
    };
    let before = served::driver(core, &driver)?;
    let (mut stage, verdict) = stage.all(core, plan, Duration::from_secs_f64(torture.seconds));
    stage.bar.clear();
    // A core that is gone counts nothing.
    let (adoptions, resets) = served::driver(core, &driver).map_or((0, 0), |after| {
        (
            after.adoptions.saturating_sub(before.adoptions),
            after.resets.saturating_sub(before.resets),
        )
    });
    let requests = &mut stage.load.requests;
    requests.wrongs.unknown(stage.load.queue.unknown_completions());
    let traffic = Traffic {
        seconds: stage.seconds,
        counts: stage.counted,
        errors: (requests.counts.errors, requests.counts.poisoned),
        wrongs: &requests.wrongs,
        error_samples: &requests.errors,
        verified: requests.checked,
    };
    let given = Given {
        target,
        harm: torture.harm.to_string(),
        kills_per_second: torture.kills_per_second,
        qd: depth.into(),
        worked_on: work.bytes(),
        writes_zeroes: stage.zeroes,
        seed,
    };
    let interrupted = stop.load(Ordering::Relaxed);
    let outcome = Outcome::new(given, &stage.events, (adoptions, resets), &traffic, interrupted);
    let timeline = std::mem::take(&mut requests.timeline);
    let verdict = verdict.map_err(|ended| ended.into_failure(&service.name, &client));
    Ok(Ended { outcome, events: stage.events, timeline, verdict })
}

/// Why it ended early.
#[derive(Debug)]
enum Early {
    Load(Fatal),
    Harm(HarmError),
    Panic,
}

impl Early {
    fn into_failure(self, name: &str, client: &BlockClient) -> Failure {
        let failure = match self {
            Self::Load(fatal) => Failure::new(format!("{name}: {fatal}")),
            Self::Harm(error) => error.into(),
            Self::Panic => Failure::new(format!("{name}: a thread of this program panicked")),
        };
        match client.closed() {
            Some(reason) => failure.with_help(reason),
            None => failure,
        }
    }
}

/// The stages, one after the other.
struct Stages<'a> {
    load: Load<ClientQueue>,
    work: Work,
    cpu: Option<u32>,
    bar: Bar,
    stop: &'a AtomicBool,
    /// Requests that ended while the driver was harmed, and for how long that was.
    counted: Counts,
    seconds: f64,
    zeroes: bool,
    events: Vec<Event>,
}

impl Stages<'_> {
    /// All of them, until one fails.
    fn all(mut self, core: &Core, plan: Plan, length: Duration) -> (Self, Result<(), Early>) {
        let result = self.each(core, plan, length);
        (self, result)
    }

    fn each(&mut self, core: &Core, plan: Plan, length: Duration) -> Result<(), Early> {
        self.zeroes = self.writes_zeroes()?;
        let (watch, pauses) = Watch::new();
        let total = self.work.area.units.div_ceil(self.work.large.into());
        let mut sweep = Sweep::new(Touch::Write, self.work.large);
        self.pass(&mut sweep, &watch, "filling", total, self.stop)?;
        if self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }

        let before = self.load.requests.counts;
        let step = STEP.max(length.div_f64(STEPS));
        self.load.requests.timeline = Timeline::new(length + Duration::from_secs(1), step);
        let begin = Instant::now();
        let plan = Plan { end: begin + length, ..plan };
        let mut mix = Mix::new(plan.seed, self.work.large, self.zeroes);
        let (kills, done, over) = (AtomicU64::new(0), Counter::default(), unset());
        let mut events = Vec::new();
        let Self { load, bar, cpu, stop, .. } = self;
        let (loaded, harmed) = std::thread::scope(|scope| {
            let tormentor =
                Tormentor { core, plan, watch: &watch, pauses, stop: &over, done: &kills };
            let harm = scope.spawn(|| tormentor.run(&mut events));
            let loading = scope.spawn(|| {
                // Where it cannot be pinned it runs on any of those that are left.
                let _ = cpu.map(cpu::pin);
                load.run(&mut mix, &watch, &over, &done)
            });
            while !harm.is_finished() && !loading.is_finished() {
                if stop.load(Ordering::Relaxed) {
                    over.store(true, Ordering::Relaxed);
                }
                let elapsed = begin.elapsed();
                let share = elapsed.as_secs_f64() / length.as_secs_f64();
                let (kills, done) = (kills.load(Ordering::Relaxed), done.0.load(Ordering::Relaxed));
                let done = thousands(done.saturating_sub(before.ios()) as f64);
                bar.at(share, format!("{kills} kills, {done} requests"));
                std::thread::sleep(TICK);
            }
            over.store(true, Ordering::Relaxed);
            (loading.join(), harm.join())
        });
        self.seconds = begin.elapsed().as_secs_f64();
        self.events = events;
        self.counted = self.load.requests.counts.since(&before);
        loaded.map_err(|_| Early::Panic)?.map_err(Early::Load)?;
        harmed.map_err(|_| Early::Panic)?.map_err(Early::Harm)?;

        // Also after Ctrl-C: what was written last is what shows whether anything was lost.
        let mut sweep = Sweep::new(Touch::Read, self.work.large);
        self.pass(&mut sweep, &watch, "reading back", total, &unset())
    }

    /// Whether the device can write zeroes: asked by doing it.
    fn writes_zeroes(&mut self) -> Result<bool, Early> {
        let span = Span { unit: 0, units: 1 };
        let step = Step::Touch { touch: Touch::Zero, span, fua: false };
        let errors = self.load.requests.counts.errors;
        let (watch, _) = Watch::new();
        let asked = self.load.run(&mut Once(Some(step)), &watch, &unset(), &Counter::default());
        let failed = self.load.requests.forgive(errors);
        match asked {
            Err(Fatal::Refused(uniddrv::block::SubmitError::Unsupported)) => Ok(false),
            asked => asked.map(|()| !failed).map_err(Early::Load),
        }
    }

    /// A stage of a known number of requests.
    fn pass(
        &mut self,
        source: &mut (impl Source + Send),
        watch: &Watch,
        what: &str,
        total: u64,
        stop: &AtomicBool,
    ) -> Result<(), Early> {
        let Self { load, bar, cpu, .. } = self;
        let done = Counter::default();
        let before = load.requests.counts.ios();
        let result = std::thread::scope(|scope| {
            let loading = scope.spawn(|| {
                let _ = cpu.map(cpu::pin);
                load.run(source, watch, stop, &done)
            });
            while !loading.is_finished() {
                let ended = done.0.load(Ordering::Relaxed).saturating_sub(before);
                bar.at(ended as f64 / total.max(1) as f64, what.to_owned());
                std::thread::sleep(TICK);
            }
            loading.join()
        });
        result.map_err(|_| Early::Panic)?.map_err(Early::Load)
    }
}
