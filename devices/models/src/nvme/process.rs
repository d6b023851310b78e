//! How commands are taken from submission queues and completed.

use uniddrv::clock;
use uniddrv_spec::nvme::admin::event::Event;
use uniddrv_spec::nvme::entry::SubmissionEntry;
use uniddrv_spec::nvme::status::Status;

use super::controller::{BATCH, Controller};
use super::fault::Verdict;
use super::io::Io;
use super::logs::{Failure, Logs};
use super::queues::{Completion, CompletionQueue, InvalidDoorbell, Taken};
use super::registers::Doorbells;
use super::shadow::Shadow;
use crate::host::Host;

/// A completion that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Late {
    when: When,
    pub(super) completion: Completion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// When there is room, from this many ticks on.
    At(u64),
    /// After the next completion, or when there is nothing else to do.
    AfterNext,
}

/// The most dropped completions that are remembered for Abort: the oldest go first.
const DROPPED: usize = 4096;

/// The most completions that wait: as many commands as 16 of the largest queues here hold.
/// Beyond that, none is delayed.
const LATE: usize = 65_536;

/// What a look at a queue found.
enum Look {
    /// No command, or no room to complete one.
    Nothing,
    /// So many commands from the head on.
    Commands(u32),
}

impl Controller {
    /// Does what there is to do, a bounded amount of it. Whether there was work.
    pub(super) fn poll(&mut self, host: &mut Host) -> bool {
        if !self.running {
            return false;
        }
        let mut work = false;
        if !self.late.is_empty() {
            work |= self.post_late(host, false);
        }
        work |= self.steps(host, 0);
        for index in 0..self.active.len() {
            let Some(&sqid) = self.active.get(index) else { break };
            work |= if self.faults.is_none() {
                self.poll_queue(host, sqid)
            } else {
                self.steps(host, sqid)
            };
        }
        if self.events.deliverable() {
            work |= self.deliver_events(host);
        }
        if !work && !self.late.is_empty() {
            work |= self.post_late(host, true);
        }
        if self.keep_alive.is_some_and(|deadline| clock::ticks() >= deadline) {
            self.fail("the keep alive timer expired");
        }
        work
    }

    /// Processes a batch of the commands of an I/O queue: the data path.
    fn poll_queue(&mut self, host: &mut Host, sqid: u16) -> bool {
        let count = match self.look(host, sqid) {
            Ok(Look::Nothing) => return false,
            Ok(Look::Commands(count)) => (count as usize).min(BATCH),
            Err(InvalidDoorbell) => return self.invalid_doorbell(),
        };
        let Some(Some(sq)) = self.sqs.get_mut(usize::from(sqid)) else { return false };
        let Some(Some(cq)) = self.cqs.get_mut(usize::from(sq.cqid)) else { return false };
        let Some(batch) = self.batch.get_mut(..count) else { return false };
        let mut head = sq.head;
        let next = |index| if index + 1 == sq.size { 0 } else { index + 1 };
        let fetched = sq.ring.view(&host.memory).is_ok_and(|ring| {
            batch.iter_mut().all(|entry| {
                let fetched = ring.fetch(head, entry).is_ok();
                head = next(head);
                fetched
            })
        });
        let Ok(ring) = cq.ring.view(&host.memory) else {
            self.fail("a completion queue is not mapped");
            return true;
        };
        if !fetched {
            self.fail("a submission queue is not mapped");
            return true;
        }
        sq.head = head;
        let mut io = Io {
            namespaces: &mut self.namespaces,
            data: &mut self.data,
            logs: &mut self.logs,
            memory: &host.memory,
            pointers: self.pointers,
            max_transfer: self.params.max_transfer,
            cached: self.features.cached,
        };
        let mut posted = true;
        let mut ahead = batch.iter().skip(1);
        for entry in &*batch {
            if let Some(next) = ahead.next() {
                io.prefetch(next);
            }
            let taken = Taken::new(sqid, entry.cid());
            let outcome = io.execute(entry);
            let completion = end(taken, entry, outcome, io.logs);
            let (place, entry) = cq.cursor.push(completion, head, false);
            posted &= ring.post(place, &entry).is_ok();
        }
        if let Some(vector) = cq.vector
            && (host.interrupts.by_table() || self.registers.unmasked(vector))
        {
            host.interrupts.signal(vector);
        }
        if !posted {
            self.fail("a completion queue is not mapped");
        }
        true
    }

    /// Processes commands one at a time: those of the admin queue, and all where faults are
    /// made.
    fn steps(&mut self, host: &mut Host, sqid: u16) -> bool {
        let mut work = false;
        for _ in 0..BATCH {
            if !self.running || !self.step(host, sqid) {
                break;
            }
            work = true;
        }
        work
    }

    fn step(&mut self, host: &mut Host, sqid: u16) -> bool {
        match self.look(host, sqid) {
            Ok(Look::Nothing) => return false,
            Ok(Look::Commands(_)) => {}
            Err(InvalidDoorbell) => return self.invalid_doorbell(),
        }
        let Some(Some(sq)) = self.sqs.get_mut(usize::from(sqid)) else { return false };
        let mut entry = SubmissionEntry::default();
        let fetched =
            sq.ring.view(&host.memory).is_ok_and(|ring| ring.fetch(sq.head, &mut entry).is_ok());
        if !fetched {
            self.fail("a submission queue is not mapped");
            return true;
        }
        sq.head = sq.next(sq.head);
        let taken = Taken::new(sqid, entry.cid());
        let verdict = match &mut self.faults {
            Some(faults) if faults.concerns(sqid == 0) => faults.decide(),
            _ => Verdict::None,
        };
        let completion = match verdict {
            Verdict::Fatal => {
                taken.abandon();
                self.events.raise(Event::PERSISTENT_INTERNAL_ERROR, self.features.events);
                self.deliver_events(host);
                self.fail("the fault plan says so");
                return true;
            }
            Verdict::Vanish => {
                taken.abandon();
                self.running = false;
                self.gone = true;
                return true;
            }
            Verdict::Status(status) => Some(end(taken, &entry, Err(status), &mut self.logs)),
            _ if sqid == 0 => self.admin(host, taken, &entry),
            _ => {
                let outcome = self.io(host).execute(&entry);
                Some(end(taken, &entry, outcome, &mut self.logs))
            }
        };
        if let Some(completion) = completion {
            self.deliver(host, completion, verdict);
        }
        true
    }

    fn io<'a>(&'a mut self, host: &'a Host) -> Io<'a> {
        Io {
            namespaces: &mut self.namespaces,
            data: &mut self.data,
            logs: &mut self.logs,
            memory: &host.memory,
            pointers: self.pointers,
            max_transfer: self.params.max_transfer,
            cached: self.features.cached,
        }
    }

    /// Reads the doorbells of a submission queue and, where it looks full, of its completion
    /// queue.
    #[inline]
    fn look(&mut self, host: &Host, sqid: u16) -> Result<Look, InvalidDoorbell> {
        let Some(Some(sq)) = self.sqs.get_mut(usize::from(sqid)) else { return Ok(Look::Nothing) };
        let mut tail = self.doorbells.tail(sqid);
        if let Some(shadow) = &mut self.shadow
            && sqid != 0
            && let Some(Ok(value)) = shadow.tail(&host.memory, sqid, sq.head)
        {
            tail = value;
        }
        if tail == sq.head {
            return Ok(Look::Nothing);
        }
        let tail = sq.check_tail(tail)?;
        let available = sq.available(tail);
        let Some(Some(cq)) = self.cqs.get_mut(usize::from(sq.cqid)) else {
            return Ok(Look::Nothing);
        };
        if cq.cursor.room() < available.min(BATCH as u32) {
            look_at_head(&self.doorbells, self.shadow.as_mut(), host, sq.cqid, cq)?;
        }
        match available.min(cq.cursor.room()) {
            0 => Ok(Look::Nothing),
            count => Ok(Look::Commands(count)),
        }
    }

    /// A doorbell said what cannot be: an event, and otherwise nothing.
    #[cold]
    fn invalid_doorbell(&mut self) -> bool {
        self.events.raise(Event::INVALID_DOORBELL_VALUE, self.features.events);
        true
    }

    /// Posts a completion as the fault plan wants it.
    fn deliver(&mut self, host: &mut Host, completion: Completion, verdict: Verdict) {
        let now = When::At(clock::ticks());
        let delays = matches!(verdict, Verdict::Delay(_) | Verdict::Reorder);
        match verdict {
            _ if delays && self.late.len() >= LATE => self.post_or_keep(host, completion, now),
            Verdict::Drop => {
                if self.dropped.len() >= DROPPED {
                    self.dropped.pop_front();
                }
                self.dropped.push_back(completion);
                return;
            }
            Verdict::Delay(time) => {
                let when = When::At(clock::ticks() + clock::to_ticks(time));
                self.late.push(Late { when, completion });
                return;
            }
            Verdict::Reorder => {
                self.late.push(Late { when: When::AfterNext, completion });
                return;
            }
            Verdict::Duplicate => {
                self.post_or_keep(host, completion, now);
                self.post_or_keep(host, completion, now);
            }
            Verdict::WrongCid => {
                // Drivers count a slot's uses in the upper bits, or leave them 0. The slot of
                // this command still is this command's, so the identifier is nobody's.
                let cid = completion.cid ^ 0x8000;
                self.post_or_keep(host, Completion { cid, ..completion }, now);
            }
            Verdict::WrongPhase => {
                self.post(host, completion, true);
            }
            Verdict::None | Verdict::Status(_) | Verdict::Fatal | Verdict::Vanish => {
                self.post_or_keep(host, completion, now);
            }
        }
        for late in &mut self.late {
            if late.when == When::AfterNext {
                late.when = now;
            }
        }
    }

    fn post_or_keep(&mut self, host: &mut Host, completion: Completion, when: When) {
        if !self.post(host, completion, false) {
            self.late.push(Late { when, completion });
        }
    }

    /// Posts a completion and signals it. False where there is no room.
    fn post(&mut self, host: &mut Host, completion: Completion, wrong_phase: bool) -> bool {
        // A queue that is gone took its commands along.
        let Some(Some(sq)) = self.sqs.get(usize::from(completion.sqid)) else { return true };
        let Some(Some(cq)) = self.cqs.get_mut(usize::from(sq.cqid)) else { return true };
        if cq.cursor.room() == 0 {
            let shadow = self.shadow.as_mut();
            if look_at_head(&self.doorbells, shadow, host, sq.cqid, cq).is_err() {
                self.invalid_doorbell();
                return false;
            }
            if cq.cursor.room() == 0 {
                return false;
            }
        }
        let (place, entry) = cq.cursor.push(completion, sq.head, wrong_phase);
        let posted = cq.ring.view(&host.memory).is_ok_and(|ring| ring.post(place, &entry).is_ok());
        if let Some(vector) = cq.vector
            && (host.interrupts.by_table() || self.registers.unmasked(vector))
        {
            host.interrupts.signal(vector);
        }
        if !posted {
            self.fail("a completion queue is not mapped");
        }
        true
    }

    /// Posts what waited and is due; with `idle`, also what waited for a successor.
    #[cold]
    fn post_late(&mut self, host: &mut Host, idle: bool) -> bool {
        let now = clock::ticks();
        let mut work = false;
        let mut index = 0;
        while let Some(&late) = self.late.get(index) {
            let due = match late.when {
                When::At(when) => when <= now,
                When::AfterNext => idle,
            };
            if due && self.running && self.post(host, late.completion, false) {
                self.late.remove(index);
                work = true;
            } else {
                index += 1;
            }
        }
        work
    }

    #[cold]
    fn deliver_events(&mut self, host: &mut Host) -> bool {
        let mut work = false;
        while let Some(completion) = self.events.deliver() {
            self.post_or_keep(host, completion, When::At(0));
            work = true;
        }
        work
    }

    /// Takes the completion of a command that was delayed or dropped.
    pub(super) fn recall(&mut self, sqid: u16, cid: u16) -> Option<Completion> {
        let is = |one: &Completion| (one.sqid, one.cid) == (sqid, cid);
        if let Some(index) = self.late.iter().position(|late| is(&late.completion)) {
            return Some(self.late.remove(index).completion);
        }
        let index = self.dropped.iter().position(is)?;
        self.dropped.remove(index)
    }

    /// Forgets what was delayed or dropped of a submission queue that goes.
    pub(super) fn forget(&mut self, sqid: u16) {
        self.late.retain(|late| late.completion.sqid != sqid);
        self.dropped.retain(|completion| completion.sqid != sqid);
    }

    /// Posts the completion of a command that was aborted.
    pub(super) fn post_aborted(&mut self, host: &mut Host, completion: Completion) {
        let aborted = Completion { status: Status::ABORT_REQUESTED, result: 0, ..completion };
        self.post_or_keep(host, aborted, When::At(0));
    }
}

/// Reads the head doorbell of a completion queue that looks full.
fn look_at_head(
    doorbells: &Doorbells,
    shadow: Option<&mut Shadow>,
    host: &Host,
    cqid: u16,
    cq: &mut CompletionQueue,
) -> Result<(), InvalidDoorbell> {
    let mut head = doorbells.head(cqid);
    if let Some(shadow) = shadow
        && cqid != 0
        && let Some(Ok(value)) = shadow.head(&host.memory, cqid, cq.cursor.head())
    {
        head = value;
    }
    cq.cursor.set_head(head)
}

/// Ends a command: an error goes into the log too.
#[inline]
pub(super) fn end(
    taken: Taken,
    entry: &SubmissionEntry,
    outcome: Result<u32, Status>,
    logs: &mut Logs,
) -> Completion {
    match outcome {
        Ok(result) => taken.complete(Status::SUCCESS, result.into()),
        Err(status) => end_failed(taken, entry, status, logs),
    }
}

#[cold]
fn end_failed(
    taken: Taken,
    entry: &SubmissionEntry,
    status: Status,
    logs: &mut Logs,
) -> Completion {
    const GENERIC: u8 = 0;
    const SPECIFIC: u8 = 1;
    let passing = [
        Status::DATA_TRANSFER_ERROR,
        Status::INTERNAL_ERROR,
        Status::ABORT_REQUESTED,
        Status::ABORTED_SQ_DELETION,
        Status::NAMESPACE_NOT_READY,
        Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED,
    ];
    let lasting = matches!(status.sct(), GENERIC | SPECIFIC) && !passing.contains(&status.code());
    let status = status.with_dnr(status.dnr() || lasting).with_more(true);
    logs.failed(Failure {
        sqid: taken.sqid,
        cid: taken.cid,
        nsid: entry.nsid(),
        lba: if taken.sqid == 0 { 0 } else { entry.cdw10_11() },
        status,
    });
    taken.complete(status, 0)
}
