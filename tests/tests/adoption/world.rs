//! The controller, the memory that outlives drivers, and the drivers one after the other.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use storage_poll::served::Nvme;
use uniddrv::dma::DmaSpace;
use uniddrv::serve::{BlockDriver, DriverLedger, Step, Steps, Table};
use uniddrv::shared::{self, SharedWords};
use uniddrv::{Arena, Device, Transport, clock};
use uniddrv_abi::ledger::{BYTES, Ledger, Phase};
use uniddrv_abi::message::{self, Limits, Rights, Settings};
use uniddrv_abi::queue;
use uniddrv_models::Inline;
use uniddrv_models::nvme::{NvmeModel, Params};

use crate::client::{BLOCK, Client};

const ARENA_IOVA: u64 = 1 << 32;
const CLIENT_IOVA: u64 = 1 << 33;
const PATIENCE: Duration = Duration::from_mins(1);

/// Dies where the ledger says.
pub(crate) enum Deadly {}

/// What unwinds when it does.
struct Died;

impl Steps for Deadly {
    fn at(ledger: &DriverLedger, step: Step) {
        let (armed, count) = ledger.armed();
        if armed != step as u64 || count == 0 {
            return;
        }
        ledger.arm(armed, count - 1);
        if count == 1 {
            resume_unwind(Box::new(Died));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Began {
    Attached,
    Adopted,
    Recovered,
    /// Ended by a death.
    Died,
}

pub(crate) struct World {
    transport: Arc<Inline<NvmeModel>>,
    ledger: OwnedFd,
    arena: Arena,
    rings: OwnedFd,
    client: Client,
    driver: Option<(Nvme<Deadly>, Table<Deadly>)>,
    depth: u32,
    pub(crate) settings: Settings,
    pub(crate) deaths: u64,
    pub(crate) adoptions: u64,
    pub(crate) outcomes: BTreeMap<u32, u64>,
    pub(crate) lenient: bool,
    pub(crate) before_adoption: Option<fn(&mut Self)>,
    pub(crate) word: usize,
    wake: OwnedFd,
}

impl World {
    pub(crate) fn new(parameters: &str, depth: u32) -> Self {
        let pairs = parameters.split('&').filter_map(|pair| pair.split_once('='));
        let model = NvmeModel::new(Params::from_pairs(pairs).unwrap()).unwrap();
        let transport = Arc::new(Inline::new(model));
        let arena = Arena::new(8 << 20).unwrap();
        let client_arena = Arc::new(Arena::new(2 << 20).unwrap());
        let shared = Arc::new(Arena::received(arena.fd().try_clone_to_owned().unwrap()).unwrap());
        transport.map_dma(&shared, ARENA_IOVA).unwrap();
        transport.map_dma(&client_arena, CLIENT_IOVA).unwrap();
        let ledger = shared::create("ledger", BYTES).unwrap();
        Ledger::new(SharedWords::map(ledger.as_fd(), BYTES).unwrap()).unwrap().initialise();
        let rings = shared::create("rings", queue::words_for(depth) * 8).unwrap();
        let words = SharedWords::map(rings.as_fd(), 0).unwrap();
        let (wake, other) = uniddrv::control::pair().unwrap();
        let client = Client::new(words, depth, &client_arena, (4 << 20) / BLOCK, other);
        Self {
            transport,
            ledger,
            arena,
            rings,
            client,
            driver: None,
            depth,
            settings: Settings { depth: 64, timeout_ms: 10_000, sleep: false, spin_us: 0 },
            deaths: 0,
            adoptions: 0,
            outcomes: BTreeMap::new(),
            lenient: false,
            before_adoption: None,
            word: 0,
            wake,
        }
    }

    pub(crate) fn ledger(&self) -> DriverLedger {
        Ledger::new(SharedWords::map(self.ledger.as_fd(), BYTES).unwrap()).unwrap()
    }

    pub(crate) fn resets(&self) -> u64 {
        self.ledger().resets().0
    }

    /// How often the controller was enabled.
    pub(crate) fn enables(&self) -> u64 {
        self.transport.with(|model, _| model.enables())
    }

    /// Doorbells that were written with the value that they had: an error. NVMe Base 2.0 §5.2.
    pub(crate) fn repeated_doorbells(&self) -> u64 {
        self.transport.with(|model, _| model.repeated_doorbells())
    }

    pub(crate) fn arm(&mut self, step: Step, count: u64) {
        self.ledger().arm(step as u64, count);
    }

    /// What a driver process is given when it starts.
    fn device(&self) -> Device {
        let arena = Arena::received(self.arena.fd().try_clone_to_owned().unwrap()).unwrap();
        let transport: Arc<dyn Transport> = self.transport.clone();
        let dma = DmaSpace::of_arena(transport.clone(), Arc::new(arena), ARENA_IOVA);
        Device::held(transport, dma, "model:nvme".parse().unwrap())
    }

    fn table(&self, new: bool) -> Table<Deadly> {
        let mut table = Table::new(self.ledger());
        let client = message::Client {
            client: 1,
            target: 1,
            rights: Rights::Write,
            arena_iova: CLIENT_IOVA,
            arena_len: 2 << 20,
            depth: self.depth,
            queues: vec![3],
            limits: Limits::default(),
            new,
        };
        let words = SharedWords::map(self.rings.as_fd(), 0).unwrap();
        let wake = self.wake.try_clone().unwrap();
        table.attach(&client, vec![(words, wake)]).unwrap();
        table
    }

    /// Brings up, adopts or recovers, as the ledger says.
    pub(crate) fn begin(&mut self) -> Began {
        let ledger = self.ledger();
        let phase = ledger.phase().unwrap();
        let mut table = self.table(phase == Phase::Fresh);
        let settings = self.settings;
        let device = self.device();
        let began = catch_unwind(AssertUnwindSafe(|| {
            if phase == Phase::Fresh {
                return (Nvme::attach(device, &ledger, &settings).unwrap(), Began::Attached);
            }
            table.take_over(None).unwrap();
            let device = if phase == Phase::Running {
                match Nvme::adopt(device, &ledger, &settings, &mut table) {
                    Ok(driver) => return (driver, Began::Adopted),
                    Err((_, device)) => device,
                }
            } else {
                device
            };
            let driver = Nvme::recover(device, &ledger, &settings, &mut table).unwrap();
            (driver, Began::Recovered)
        }));
        match began {
            Ok((driver, began)) => {
                table.set_targets(driver.targets());
                self.adoptions += u64::from(began == Began::Adopted);
                self.driver = Some((driver, table));
                began
            }
            Err(panic) => {
                assert!(panic.is::<Died>(), "a panic");
                std::mem::forget(table);
                self.deaths += 1;
                Began::Died
            }
        }
    }

    /// One pass of the driver; a new one where it died.
    fn pass(&mut self) -> Option<String> {
        let Some((mut driver, mut table)) = self.driver.take() else {
            if let Some(harm) = self.before_adoption.take() {
                harm(self);
            }
            self.begin();
            return None;
        };
        let passed = catch_unwind(AssertUnwindSafe(|| {
            table.set_now(clock::ticks());
            driver.poll(&mut table);
        }));
        match passed {
            Ok(()) => {
                let gone = driver.gone();
                self.driver = Some((driver, table));
                gone
            }
            Err(panic) => {
                assert!(panic.is::<Died>(), "a panic");
                // As a process that dies: nothing of it runs any more.
                std::mem::forget((driver, table));
                self.deaths += 1;
                None
            }
        }
    }

    /// Has requests carried out until the driver has died, and its successor has begun.
    pub(crate) fn work_until_death(&mut self) {
        let deaths = self.deaths;
        for _ in 0..10_000 {
            self.work(20);
            if self.deaths > deaths {
                return;
            }
        }
        panic!("no driver came to the step: {:?}", self.ledger().armed());
    }

    /// Has `requests` more requests carried out.
    pub(crate) fn work(&mut self, requests: u64) {
        assert_eq!(self.work_until_gone(requests), None);
    }

    pub(crate) fn work_until_gone(&mut self, requests: u64) -> Option<String> {
        let limit = self.client.ended() + requests;
        let start = Instant::now();
        while self.client.ended() < limit || self.driver.is_none() {
            self.client.submit(limit);
            if let Some(gone) = self.pass() {
                return Some(gone);
            }
            self.transport.poll();
            let (outcomes, lenient) = (&mut self.outcomes, self.lenient);
            self.client.reap(|outcome| {
                *outcomes.entry(outcome.to_bits()).or_default() += 1;
                assert!(lenient || outcome == uniddrv_abi::block::Outcome::Success, "{outcome:?}");
            });
            assert!(start.elapsed() < PATIENCE, "{} requests do not end", self.client.in_flight());
        }
        None
    }
}
