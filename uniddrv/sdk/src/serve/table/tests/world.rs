//! A device, clients, the memory that they share, and drivers one after the other.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use uniddrv_abi::ledger::{self, Breadcrumb, Phase};
use uniddrv_abi::message::Target;

use super::client::{BLOCKS, Client, MAX_TRANSFER};
use super::device::{Deadly, Driver, Hardware, forget};
use crate::serve::{DriverLedger, Step, Steps, Table};
use crate::shared::{self, SharedWords, mortal};

thread_local! {
    /// The step to die at, and how many times it is survived.
    static DEATH: Cell<Option<(Step, u64)>> = const { Cell::new(None) };
}

/// Dies at the step that the thread is to die at.
pub(super) enum Mortal {}

impl Steps for Mortal {
    fn at(_: &DriverLedger, step: Step) {
        match DEATH.get() {
            Some((at, 0)) if at == step => {
                DEATH.set(None);
                resume_unwind(Box::new(mortal::Died));
            }
            Some((at, left)) if at == step => DEATH.set(Some((at, left - 1))),
            _ => {}
        }
    }
}

/// Has the driver die at `step`, after `survived` times there.
pub(super) fn die_at(step: Step, survived: u64) {
    DEATH.set(Some((step, survived)));
}

pub(super) struct World {
    pub(super) ledger: DriverLedger,
    pub(super) hardware: Hardware,
    pub(super) clients: Vec<Client>,
    pub(super) driver: Option<(Driver<Mortal>, Table<Mortal>)>,
    pub(super) depth: usize,
    pub(super) deaths: u64,
    /// Whether the next driver resets the device.
    pub(super) reset: bool,
    pub(super) deadly: Deadly,
    /// Whether deaths count against a request.
    pub(super) suspects: bool,
    pub(super) poisoned: Vec<(u32, String)>,
    pub(super) now: Option<u64>,
}

pub(super) fn new_ledger() -> DriverLedger {
    let fd = shared::create("ledger", ledger::BYTES).unwrap();
    let words = SharedWords::map(fd.as_fd(), ledger::BYTES).unwrap();
    let ledger = DriverLedger::new(words).unwrap();
    ledger.initialise();
    ledger
}

pub(super) fn target() -> Target {
    Target {
        path: "ns1".into(),
        id: 7,
        block_size: 512,
        blocks: BLOCKS,
        max_transfer: MAX_TRANSFER,
        volatile_write_cache: false,
    }
}

impl World {
    pub(super) fn new(clients: Vec<Client>, depth: usize) -> Self {
        DEATH.set(None);
        mortal::arm(None);
        Self {
            ledger: new_ledger(),
            hardware: Hardware::new(),
            clients,
            driver: None,
            depth,
            deaths: 0,
            reset: false,
            deadly: Deadly::default(),
            suspects: false,
            poisoned: Vec::new(),
            now: None,
        }
    }

    /// A driver process, up to where it serves.
    fn begin(&mut self) {
        let phase = self.ledger.phase().unwrap();
        let (suspect, deaths) = self.ledger.suspect();
        let poison: Option<Breadcrumb> = suspect.filter(|_| deaths >= 3);
        // The core knows which clients a driver has served already.
        let new = phase == Phase::Fresh;
        let reset = std::mem::take(&mut self.reset) || phase == Phase::BringingUp;
        let (depth, deadly) = (self.depth, self.deadly);
        let Self { ledger, hardware, clients, .. } = self;
        let begun = catch_unwind(AssertUnwindSafe(|| {
            ledger.set_breadcrumb(None);
            let mut table = Table::<Mortal>::new(ledger.clone());
            for client in &mut *clients {
                client.message.new &= new;
                table.attach(&client.message, client.handles()).unwrap();
            }
            let mut driver = Driver::new(depth);
            driver.deadly = deadly;
            if new {
                ledger.set_phase(Phase::BringingUp);
                forget(ledger);
            } else {
                table.take_over(poison).unwrap();
                if reset {
                    ledger.set_phase(Phase::BringingUp);
                    driver.recover(&mut table, hardware);
                } else {
                    driver.adopt(&mut table, hardware);
                }
            }
            table.set_targets(vec![target()]);
            ledger.set_phase(Phase::Running);
            (driver, table)
        }));
        match begun {
            Ok(begun) => self.driver = Some(begun),
            Err(panic) => self.died(&*panic),
        }
    }

    /// A driver process over a ledger that is new because the old one did not check out. Whether it
    /// lived.
    pub(super) fn renew(&mut self) -> bool {
        let Self { ledger, hardware, clients, depth, .. } = self;
        let begun = catch_unwind(AssertUnwindSafe(|| {
            let mut table = Table::<Mortal>::new(ledger.clone());
            for client in &*clients {
                table.attach(&client.message, client.handles()).unwrap();
            }
            if ledger.phase() == Ok(Phase::Fresh) {
                table.renew();
            } else {
                table.take_over(None).unwrap();
            }
            ledger.set_phase(Phase::BringingUp);
            let mut driver = Driver::new(*depth);
            driver.recover(&mut table, hardware);
            table.set_targets(vec![target()]);
            ledger.set_phase(Phase::Running);
            (driver, table)
        }));
        match begun {
            Ok(begun) => self.driver = Some(begun),
            Err(panic) => self.died(&*panic),
        }
        self.driver.is_some()
    }

    fn died(&mut self, panic: &(dyn std::any::Any + Send)) {
        assert!(panic.is::<mortal::Died>(), "a panic");
        self.deaths += 1;
        if self.suspects {
            self.ledger.suspect_breadcrumb();
        }
    }

    /// One pass of the driver, or its successor's beginning.
    pub(super) fn pass(&mut self) {
        let Some((mut driver, mut table)) = self.driver.take() else { return self.begin() };
        let now = self.now;
        let hardware = &mut self.hardware;
        let passed = catch_unwind(AssertUnwindSafe(|| {
            table.set_now(now.unwrap_or_else(crate::clock::ticks));
            driver.poll(&mut table, hardware);
        }));
        match passed {
            Ok(()) => {
                self.poisoned.extend(table.poisoned());
                self.driver = Some((driver, table));
            }
            Err(panic) => self.died(&*panic),
        }
    }

    pub(super) fn table(&mut self) -> &mut Table<Mortal> {
        while self.driver.is_none() {
            self.begin();
        }
        &mut self.driver.as_mut().unwrap().1
    }

    /// Lets everything that was asked for end.
    pub(super) fn drain(&mut self) {
        for round in 0..10_000 {
            if self.clients.iter().all(|client| client.waiting() == 0) {
                return;
            }
            self.pass();
            self.hardware.work(usize::MAX, round);
            mortal::pause(|| {
                for client in &mut self.clients {
                    client.follow();
                    client.reap(usize::MAX);
                }
            });
        }
        panic!(
            "requests were lost: {:?}",
            self.clients.iter().map(Client::waiting).collect::<Vec<_>>()
        );
    }

    /// Nothing is on its way, the device did what was asked of it, and did it once, unless it was
    /// reset in between.
    pub(super) fn check(&mut self) {
        mortal::arm(None);
        DEATH.set(None);
        self.drain();
        self.pass();
        self.pass();
        assert_eq!(self.table().in_flight(), 0);
        let mut queues = self.clients.iter_mut().flat_map(|client| &mut client.queues);
        assert!(queues.all(super::client::Queue::is_empty), "positions were not given back");
        let resets = self.hardware.resets;
        for (lba, times) in &self.hardware.executed {
            assert!(*times == 1 || resets > 0, "{lba:#x} {times} times");
        }
        for work in &self.hardware.seen {
            let client = (work.lba >> 24) as u32;
            let client = self.clients.iter().find(|c| c.message.client == client);
            let message = &client.expect("a request of nobody").message;
            if work.len > 0 {
                assert!(work.iova >= message.arena_iova);
                assert!(work.iova + u64::from(work.len) <= message.arena_iova + message.arena_len);
            }
            assert_eq!(work.target, 7);
        }
        for slot in 0..ledger::SLOTS {
            assert_eq!(self.ledger.slot(slot).unwrap().state, ledger::State::Free);
        }
    }
}
