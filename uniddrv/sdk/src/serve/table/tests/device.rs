//! A device with a submission and a completion queue as NVMe has them, and a driver for it.

use std::collections::{BTreeMap, VecDeque};

use uniddrv_abi::block::{Opcode, Outcome};

use crate::serve::{DriverLedger, Step, Steps, Table, Work};
use crate::shared::mortal;

/// Entries of each queue.
const ENTRIES: u64 = 48;
/// Words of the ledger in which the driver keeps how far it is.
const TAIL: usize = 0;
const HEAD: usize = 1;

/// What the device is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command {
    cid: u16,
    pub(super) work: Work,
}

#[derive(Clone, Copy, Default)]
struct Completed {
    cid: u16,
    failed: bool,
    phase: bool,
}

/// The device and the memory of its queues: what goes on while drivers die.
pub(super) struct Hardware {
    submissions: Vec<Option<Command>>,
    completions: Vec<Completed>,
    /// Doorbells.
    tail: u64,
    head: u64,
    /// The device's own.
    fetched: u64,
    posted: u64,
    executing: VecDeque<Command>,
    /// How often each first block was carried out.
    pub(super) executed: BTreeMap<u64, u32>,
    pub(super) seen: Vec<Work>,
    pub(super) resets: u32,
}

impl Hardware {
    pub(super) fn new() -> Self {
        Self {
            submissions: vec![None; ENTRIES as usize],
            completions: vec![Completed::default(); ENTRIES as usize],
            tail: 0,
            head: 0,
            fetched: 0,
            posted: 0,
            executing: VecDeque::new(),
            executed: BTreeMap::new(),
            seen: Vec::new(),
            resets: 0,
        }
    }

    /// Whether the device says of the request at `lba` that it failed.
    pub(super) fn fails(lba: u64) -> bool {
        lba % 16 == 15
    }

    /// Fetches what the doorbell allows, and carries out up to `most` commands, in an order that
    /// `disorder` chooses.
    pub(super) fn work(&mut self, most: usize, disorder: usize) {
        while self.fetched < self.tail {
            let command = self.submissions[(self.fetched % ENTRIES) as usize].take();
            self.executing.push_back(command.expect("an entry that was not written"));
            self.fetched += 1;
        }
        for _ in 0..most {
            if self.executing.is_empty() || self.posted - self.head >= ENTRIES {
                return;
            }
            let command = self.executing.remove(disorder % self.executing.len()).unwrap();
            let lba = command.work.lba;
            *self.executed.entry(lba).or_default() += 1;
            self.seen.push(command.work);
            let phase = (self.posted / ENTRIES).is_multiple_of(2);
            self.completions[(self.posted % ENTRIES) as usize] =
                Completed { cid: command.cid, failed: Self::fails(lba), phase };
            self.posted += 1;
        }
    }

    fn ring_tail(&mut self, tail: u64) {
        mortal::store();
        assert!(tail >= self.tail && tail - self.fetched <= ENTRIES, "the queue overflows");
        self.tail = tail;
    }

    fn ring_head(&mut self, head: u64) {
        mortal::store();
        assert!(head >= self.head && head <= self.posted);
        self.head = head;
    }

    fn write(&mut self, at: u64, command: Command) {
        mortal::store();
        assert!(at >= self.tail, "an entry that the device may read is overwritten");
        self.submissions[(at % ENTRIES) as usize] = Some(command);
    }

    fn completion(&self, head: u64) -> Option<Completed> {
        let completed = self.completions[(head % ENTRIES) as usize];
        let phase = (head / ENTRIES).is_multiple_of(2);
        (completed.phase == phase && head < self.posted).then_some(completed)
    }

    fn reset(&mut self) {
        self.resets += 1;
        self.executing.clear();
        (self.tail, self.head, self.fetched, self.posted) = (0, 0, 0, 0);
        self.completions.fill(Completed::default());
        self.submissions.fill(None);
    }
}

/// What a request of the driver's kills it at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deadly {
    /// At its submission.
    pub(super) submitting: Option<u64>,
    /// At its completion.
    pub(super) completing: Option<u64>,
}

/// The part of a driver process that drives.
pub(super) struct Driver<S: Steps> {
    tail: u64,
    head: u64,
    in_flight: usize,
    depth: usize,
    work: Vec<Work>,
    pub(super) deadly: Deadly,
    steps: std::marker::PhantomData<S>,
}

impl<S: Steps> Driver<S> {
    pub(super) fn new(depth: usize) -> Self {
        Self {
            tail: 0,
            head: 0,
            in_flight: 0,
            depth,
            work: Vec::new(),
            deadly: Deadly::default(),
            steps: std::marker::PhantomData,
        }
    }

    pub(super) fn adopt(&mut self, table: &mut Table<S>, hardware: &mut Hardware) {
        let ledger = table.ledger().clone();
        (self.tail, self.head) = (ledger.device(TAIL), ledger.device(HEAD));
        for (slot, _, at) in table.submissions() {
            if at < self.tail {
                self.in_flight += 1;
            } else {
                table.submit_again(slot);
            }
        }
        // Whether they were rung is not known. The device of this test allows it twice.
        hardware.ring_tail(self.tail);
        hardware.ring_head(self.head);
    }

    pub(super) fn recover(&mut self, table: &mut Table<S>, hardware: &mut Hardware) {
        let ledger = table.ledger().clone();
        self.head = ledger.device(HEAD);
        // What it had completed before it was stopped counts. A predecessor may have died after
        // the reset: then there is nothing.
        while let Some(completed) = hardware.completion(self.head) {
            self.head += 1;
            if let Some(slot) = table.lookup(completed.cid) {
                self.complete(slot, table);
                table.finish(slot, outcome(completed.failed));
            }
        }
        table.publish();
        ledger.set_device(HEAD, self.head);
        table.release();
        mortal::store();
        hardware.reset();
        ledger.set_device(TAIL, 0);
        ledger.set_device(HEAD, 0);
        (self.tail, self.head, self.in_flight) = (0, 0, 0);
        for (slot, ..) in table.submissions() {
            table.submit_again(slot);
        }
    }

    /// One pass.
    pub(super) fn poll(&mut self, table: &mut Table<S>, hardware: &mut Hardware) {
        self.reap(table, hardware);
        self.submit(table, hardware);
    }

    fn reap(&mut self, table: &mut Table<S>, hardware: &mut Hardware) {
        let mut count = 0;
        while let Some(completed) = hardware.completion(self.head + count) {
            table.step(Step::CompletionRead);
            count += 1;
            let Some(slot) = table.lookup(completed.cid) else {
                self.in_flight = table.with_device();
                continue;
            };
            self.complete(slot, table);
            self.in_flight -= 1;
            table.finish(slot, outcome(completed.failed));
        }
        table.publish();
        if count > 0 {
            self.head += count;
            table.ledger().set_device(HEAD, self.head);
            table.step(Step::HeadRecorded);
        }
        table.release();
        if count > 0 {
            hardware.ring_head(self.head);
            table.step(Step::HeadRung);
            table.end();
        }
    }

    /// Works on a completion, and dies of it if it is that one.
    fn complete(&self, slot: u16, table: &Table<S>) {
        table.begin(slot);
        let lba = table.ledger().slot(slot.into()).unwrap().request[1];
        if self.deadly.completing == Some(lba) {
            std::panic::resume_unwind(Box::new(mortal::Died));
        }
    }

    fn submit(&mut self, table: &mut Table<S>, hardware: &mut Hardware) {
        assert_eq!(self.in_flight, table.with_device());
        self.work.clear();
        table.take(self.depth.saturating_sub(self.in_flight), &mut self.work);
        if self.work.is_empty() {
            return;
        }
        for work in &self.work {
            table.begin(work.slot);
            if self.deadly.submitting == Some(work.lba) {
                std::panic::resume_unwind(Box::new(mortal::Died));
            }
            table.submitted(work.slot, self.tail);
            hardware.write(self.tail, Command { cid: work.cid, work: *work });
            table.step(Step::EntryWritten);
            self.tail += 1;
            self.in_flight += 1;
        }
        table.ledger().set_device(TAIL, self.tail);
        table.step(Step::TailRecorded);
        hardware.ring_tail(self.tail);
        table.step(Step::DoorbellRung);
        table.end();
    }
}

fn outcome(failed: bool) -> Outcome {
    if failed { Outcome::Device(0x281) } else { Outcome::Success }
}

/// What the device had of `ledger`'s queues is forgotten: the ledger is new.
pub(super) fn forget(ledger: &DriverLedger) {
    ledger.set_device(TAIL, 0);
    ledger.set_device(HEAD, 0);
}

/// All that can be asked of it.
pub(super) const OPCODES: [Opcode; 5] =
    [Opcode::Read, Opcode::Write, Opcode::Flush, Opcode::Discard, Opcode::WriteZeroes];
