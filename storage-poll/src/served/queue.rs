//! The I/O queue pair of a served controller: from the table's requests to entries, and from
//! completions back to the table.

use std::marker::PhantomData;

use uniddrv::serve::{Step, Steps, Table, Work};
use uniddrv::{DmaError, DmaRing};
use uniddrv_abi::block::{Opcode, Outcome};
use uniddrv_abi::ledger::SLOTS;
use uniddrv_spec::nvme::entry::{CompletionEntry, SubmissionEntry};
use uniddrv_spec::nvme::status::Status;

use super::record;
use crate::data::DataPointers;
use crate::doorbell::Doorbell;
use crate::memory::Source;
use crate::namespace::{Command, Namespace};
use crate::queue::ring;
use crate::rings::Rings;
use crate::shared::Limits;

/// Probes on their way at most: successors that die one after the other leave one each.
pub(super) const PROBES: u64 = 16;
/// The slot in the identifiers of probes; the table has none of this number.
const PROBE: u16 = SLOTS as u16 - 1;

pub(super) struct Queue<S> {
    pub(super) rings: Rings,
    data: DataPointers,
    depth: usize,
    /// Commands that the controller has.
    pub(super) in_flight: usize,
    /// Entries ever written to the submission ring and taken from the completion ring.
    tail: u64,
    head: u64,
    /// The tick in which each slot's command was submitted.
    pub(super) submitted: Box<[u32]>,
    /// The slots whose command an abort was sent for.
    pub(super) aborted: Box<[bool]>,
    pub(super) tick: u32,
    pub(super) completed: u64,
    unknown: u64,
    /// Taken from the table in this pass.
    work: Vec<Work>,
    steps: PhantomData<S>,
}

impl<S: Steps> Queue<S> {
    /// A queue for `depth` commands, its memory from `memory`: for the same limits the same
    /// lengths in the same order.
    pub(super) fn new(
        memory: &mut impl Source,
        limits: &Limits,
        depth: usize,
        (tail, head): (Doorbell, Doorbell),
    ) -> Result<Self, DmaError> {
        let most = depth + PROBES as usize;
        let submission: DmaRing<SubmissionEntry> = ring(memory, most + 1)?;
        let entries = (2 * most + 1).min(limits.cap.max_queue_entries() as usize).max(most + 1);
        let completion: DmaRing<CompletionEntry> = ring(memory, entries)?;
        let data = DataPointers::new(memory, SLOTS, limits.max_transfer, limits.page, limits.sgl)?;
        Ok(Self {
            rings: Rings::new(submission, completion, tail, head, most),
            data,
            depth,
            in_flight: 0,
            tail: 0,
            head: 0,
            submitted: vec![0; SLOTS].into_boxed_slice(),
            aborted: vec![false; SLOTS].into_boxed_slice(),
            tick: 0,
            completed: 0,
            unknown: 0,
            work: Vec::with_capacity(SLOTS),
            steps: PhantomData,
        })
    }

    /// The most commands that a controller with these limits is given at once.
    pub(super) fn depth_for(limits: &Limits, wanted: u32) -> usize {
        let entries = limits.cap.max_queue_entries() as usize;
        (wanted as usize)
            .clamp(1, uniddrv::serve::table::MOST)
            .min(entries.saturating_sub(1 + PROBES as usize).max(1))
    }

    /// Goes on where the ledger says.
    pub(super) fn resume(&mut self, tail: u64, head: u64) {
        let (submission, completion) =
            (self.rings.submission_len() as u64, self.rings.completion_len() as u64);
        let phase = (head / completion).is_multiple_of(2);
        self.rings.resume((tail % submission) as usize, (head % completion) as usize, phase);
        (self.tail, self.head) = (tail, head);
    }

    /// Starts over, in a controller that was reset.
    pub(super) fn restart(&mut self, table: &Table<S>) {
        (self.tail, self.head, self.in_flight) = (0, 0, 0);
        self.aborted.fill(false);
        record::set_tail(table.ledger(), 0);
        record::set_head(table.ledger(), 0);
        record::set_probes(table.ledger(), 0);
    }

    /// Takes what a controller that was stopped had completed before. How many commands that were.
    pub(super) fn harvest(&mut self, table: &mut Table<S>) -> usize {
        let mut count = 0;
        while let Some(entry) = self.rings.pop() {
            count += 1;
            // What it gave up because it was stopped is to be issued again.
            if entry.status().code() != Status::ABORTED_SQ_DELETION
                && let Some(slot) = table.lookup(entry.cid())
            {
                let outcome = self.outcome(slot, entry.status());
                table.finish(slot, outcome);
            }
            if count > self.rings.completion_len() {
                break;
            }
        }
        table.publish();
        self.head = self.head.wrapping_add(count as u64);
        record::set_head(table.ledger(), self.head);
        table.release();
        count
    }

    /// Takes what the controller has completed. How many commands that were.
    #[inline]
    pub(super) fn reap(&mut self, table: &mut Table<S>) -> usize {
        let mut count = 0;
        let mut probes = 0;
        // Not more than can be on their way: what comes meanwhile waits for the next pass.
        let most = self.depth + PROBES as usize;
        while count < most
            && let Some(entry) = self.rings.pop()
        {
            table.step(Step::CompletionRead);
            count += 1;
            if let Some(slot) = table.lookup(entry.cid()) {
                table.begin(slot);
                self.in_flight = self.in_flight.saturating_sub(1);
                let outcome = self.outcome(slot, entry.status());
                table.finish(slot, outcome);
            } else if entry.cid() % SLOTS as u16 == PROBE {
                probes += 1;
            } else {
                // Perhaps one that drivers die on, which the table has ended.
                self.in_flight = table.with_device();
                self.count_unknown(&entry);
            }
        }
        // Also what ended without the controller.
        table.publish();
        if count > 0 {
            self.head = self.head.wrapping_add(count as u64);
            self.completed += count as u64;
            record::set_head(table.ledger(), self.head);
            if probes > 0 {
                let left = record::probes(table.ledger()).saturating_sub(probes);
                record::set_probes(table.ledger(), left);
            }
            table.step(Step::HeadRecorded);
        }
        table.release();
        if count > 0 {
            self.rings.acknowledge();
            table.step(Step::HeadRung);
            table.end();
        }
        count
    }

    #[inline]
    fn outcome(&mut self, slot: u16, status: Status) -> Outcome {
        if status.is_success() {
            return Outcome::Success;
        }
        match status.code() {
            Status::LBA_OUT_OF_RANGE => Outcome::OutOfRange,
            Status::ABORT_REQUESTED if self.aborted[usize::from(slot)] => Outcome::Aborted,
            code => Outcome::Device(code.bits()),
        }
    }

    #[cold]
    fn count_unknown(&mut self, entry: &CompletionEntry) {
        self.unknown += 1;
        if self.unknown.is_power_of_two() {
            let count = self.unknown;
            tracing::warn!(?entry, count, "a completion of no command that is on its way");
        }
    }

    /// Gives the controller what the clients ask for. How many commands that were.
    #[inline]
    pub(super) fn submit(&mut self, namespaces: &[Namespace], table: &mut Table<S>) -> usize {
        self.work.clear();
        table.take(self.depth - self.in_flight.min(self.depth), &mut self.work);
        if self.work.is_empty() {
            return 0;
        }
        let mut count = 0;
        for index in 0..self.work.len() {
            let work = self.work[index];
            table.begin(work.slot);
            let command = match command(namespaces, &work) {
                Ok(command) => command,
                Err(outcome) => {
                    table.finish(work.slot, outcome);
                    continue;
                }
            };
            let slot = usize::from(work.slot);
            let mut entry = command.entry;
            if work.len > 0 {
                self.data.point(slot, &mut entry, work.iova, work.len as usize);
            }
            entry.set_cid(work.cid);
            table.submitted(work.slot, self.tail);
            self.rings.push(entry);
            table.step(Step::EntryWritten);
            self.tail += 1;
            self.submitted[slot] = self.tick;
            self.aborted[slot] = false;
            count += 1;
        }
        if count > 0 {
            self.in_flight += count;
            record::set_tail(table.ledger(), self.tail);
            table.step(Step::TailRecorded);
            self.rings.ring();
            table.step(Step::DoorbellRung);
        }
        table.end();
        self.work.len()
    }

    /// Sends a command that does no harm, so that the doorbell gets a value that it did not have
    /// before: whether a predecessor rang it last for what it had appended cannot be known.
    pub(super) fn probe(&mut self, table: &Table<S>, command: &Command, iova: u64, count: u64) {
        let mut entry = command.entry;
        self.data.point(usize::from(PROBE), &mut entry, iova, command.len);
        entry.set_cid(PROBE | (count as u16) << 10);
        record::set_probes(table.ledger(), record::probes(table.ledger()) + 1);
        self.rings.push(entry);
        self.tail += 1;
        record::set_tail(table.ledger(), self.tail);
        self.rings.ring_register();
        self.rings.acknowledge_soon();
    }
}

#[inline]
fn command(namespaces: &[Namespace], work: &Work) -> Result<Command, Outcome> {
    let namespace = namespaces.iter().find(|namespace| namespace.nsid() == work.target);
    let namespace = namespace.ok_or(Outcome::Gone)?;
    let command = match work.opcode {
        Opcode::Read => namespace.read(work.lba, work.blocks),
        Opcode::Write => namespace.write(work.lba, work.blocks, work.fua),
        Opcode::Flush => Ok(namespace.flush()),
        Opcode::Discard => namespace.write_zeroes(work.lba, work.blocks, true),
        Opcode::WriteZeroes => namespace.write_zeroes(work.lba, work.blocks, false),
    };
    command.map_err(|_| Outcome::Invalid)
}
