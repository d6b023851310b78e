//! The requests of all clients on their way through a driver, each in a slot of the ledger.
//!
//! The order of what happens here is what lets a successor go on from any point; it is the one
//! that [`uniddrv_abi::ledger`] describes. A pass of a driver over it:
//!
//! 1. [`take`](Table::take): requests into slots, positions given back to the clients;
//! 2. for each, [`begin`](Table::begin), [`submitted`](Table::submitted), then the device's queue,
//!    its tail in the ledger, and once for all the doorbell;
//! 3. for each completion [`lookup`](Table::lookup) and [`finish`](Table::finish);
//! 4. [`publish`](Table::publish), the device's head in the ledger, [`release`](Table::release),
//!    and the head doorbell.

mod attach;
mod take;
mod take_over;

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};

use uniddrv_abi::block::{Completion, Opcode, Outcome, Submission};
use uniddrv_abi::ledger::{Breadcrumb, Count, QUEUES, SLOTS, Slot, State};
use uniddrv_abi::message::Target;
use uniddrv_abi::queue::{self, Side};
use uniddrv_abi::words::Words;

use super::client::{Client, Queue, check};
use super::{DriverLedger, Step, Steps, Undisturbed};
use crate::clock;

/// The most requests on their way: the last slot's identifiers belong to the driver itself.
pub const MOST: usize = SLOTS - 1;

/// A request that the device is to carry out, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Its slot.
    pub slot: u16,
    /// The identifier that the device gets: the slot in the low ten bits, a count of uses above.
    pub cid: u16,
    /// The target, by the driver's own number for it.
    pub target: u32,
    /// What to do.
    pub opcode: Opcode,
    /// Force unit access.
    pub fua: bool,
    /// The first block.
    pub lba: u64,
    /// How many blocks.
    pub blocks: u32,
    /// Where the data are in the device's address space; a multiple of 4,096.
    pub iova: u64,
    /// Bytes of data.
    pub len: u32,
}

/// What this process knows of a slot.
#[derive(Clone, Copy)]
struct Entry {
    state: State,
    queue: u8,
    opcode: Opcode,
    cid: u16,
    position: u32,
    bytes: u32,
    tag: u64,
    taken: u64,
}

impl Entry {
    const fn free(cid: u16) -> Self {
        Self {
            state: State::Free,
            queue: 0,
            opcode: Opcode::Flush,
            cid,
            position: 0,
            bytes: 0,
            tag: 0,
            taken: 0,
        }
    }

    const fn breadcrumb(&self) -> Breadcrumb {
        Breadcrumb { queue: self.queue, position: self.position }
    }
}

/// The requests on their way, and where they come from.
pub struct Table<S: Steps = Undisturbed> {
    ledger: DriverLedger,
    entries: Box<[Entry]>,
    free: Vec<u16>,
    /// In slots, not given to the device yet: what a predecessor left, or the device had no room
    /// for.
    pending: VecDeque<u16>,
    /// Ended; not to be used again before the device's head is in the ledger.
    finished: Vec<u16>,
    queues: Vec<Option<Queue>>,
    /// The numbers of those that are there.
    active: Vec<u8>,
    clients: Vec<Option<Client>>,
    /// The indices of those that are there.
    present: Vec<usize>,
    /// The index in `present` of the one whose turn it is.
    turn: usize,
    targets: Vec<Target>,
    /// The request that three drivers in a row died on.
    poison: Option<Breadcrumb>,
    /// The client whose request was poison, and which it was, until told.
    poisoned: Option<(u32, String)>,
    /// Clients may have something to be told of.
    news: bool,
    /// Nothing more is taken from anybody.
    closed: bool,
    /// The time of this pass, in ticks of the CPU.
    now: u64,
    /// Whether the first completion of this driver is still to come.
    first: bool,
    steps: PhantomData<S>,
}

impl<S: Steps> Table<S> {
    /// A table over a ledger without requests.
    pub fn new(ledger: DriverLedger) -> Self {
        Self {
            ledger,
            entries: (0..SLOTS as u16).map(Entry::free).collect(),
            free: (0..MOST as u16).rev().collect(),
            pending: VecDeque::with_capacity(SLOTS),
            finished: Vec::with_capacity(SLOTS),
            queues: (0..QUEUES).map(|_| None).collect(),
            active: Vec::with_capacity(QUEUES),
            clients: Vec::new(),
            present: Vec::with_capacity(QUEUES),
            turn: 0,
            targets: Vec::new(),
            poison: None,
            poisoned: None,
            news: false,
            closed: false,
            now: clock::ticks(),
            first: true,
            steps: PhantomData,
        }
    }

    /// The ledger.
    pub fn ledger(&self) -> &DriverLedger {
        &self.ledger
    }

    /// The driver has come to `step`.
    #[inline(always)]
    pub fn step(&self, step: Step) {
        S::at(&self.ledger, step);
    }

    /// The time of this pass, in ticks of the CPU.
    #[inline]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Sets the time of this pass.
    #[inline]
    pub fn set_now(&mut self, now: u64) {
        self.now = now;
    }

    /// Requests on their way.
    #[inline]
    pub fn in_flight(&self) -> usize {
        MOST - self.free.len()
    }

    /// The work on the request in `slot` begins, or goes on: if the driver dies now, it counts
    /// against that request.
    #[inline]
    pub fn begin(&self, slot: u16) {
        self.ledger.set_breadcrumb(Some(self.entries[usize::from(slot)].breadcrumb()));
    }

    /// No request is being worked on.
    #[inline]
    pub fn end(&self) {
        self.ledger.set_breadcrumb(None);
    }

    /// The request of `slot` goes to the device; `device` tells the driver's successor where.
    #[inline]
    pub fn submitted(&mut self, slot: u16, device: u64) {
        let entry = &mut self.entries[usize::from(slot)];
        entry.state = State::Submitted;
        self.ledger.submitted(slot.into(), entry.queue, entry.cid, device);
        S::at(&self.ledger, Step::SubmissionRecorded);
    }

    /// The slot whose request the device has as `cid`, and has completed. Nothing where it has no
    /// such request, or the request is one that drivers die on: that one is ended here.
    #[inline]
    pub fn lookup(&mut self, cid: u16) -> Option<u16> {
        let slot = cid % SLOTS as u16;
        let entry = &self.entries[usize::from(slot)];
        if entry.cid != cid || entry.state != State::Submitted {
            return None;
        }
        if self.poison.is_some() && self.poison == Some(entry.breadcrumb()) {
            self.end_poison(slot);
            return None;
        }
        Some(slot)
    }

    /// Requests that the device has. [`lookup`](Self::lookup) may have ended one.
    #[cold]
    pub fn with_device(&self) -> usize {
        self.entries.iter().filter(|entry| entry.state == State::Submitted).count()
    }

    /// The request of `slot` has ended.
    #[inline]
    pub fn finish(&mut self, slot: u16, outcome: Outcome) {
        let entry = &mut self.entries[usize::from(slot)];
        if matches!(entry.state, State::Free | State::Done) {
            return;
        }
        entry.state = State::Done;
        self.finished.push(slot);
        let Entry { queue: number, cid, tag, opcode, bytes, .. } = *entry;
        let Some(queue) = &mut self.queues[usize::from(number)] else { return };
        let position = queue.poster.position();
        self.ledger.done(slot.into(), number, cid, position, outcome.to_bits());
        S::at(&self.ledger, Step::DoneRecorded);
        queue.poster.push(Completion { tag, outcome }.to_words());
        queue.touched = true;
        queue.in_flight = queue.in_flight.saturating_sub(1);
        if let Some(client) = &mut self.clients[queue.client] {
            client.in_flight = client.in_flight.saturating_sub(1);
        }
        if outcome == Outcome::Success {
            match opcode {
                Opcode::Read => self.ledger.add_count(number, Count::BytesRead, bytes.into()),
                Opcode::Write => self.ledger.add_count(number, Count::BytesWritten, bytes.into()),
                _ => {}
            }
        } else {
            self.ledger.add_count(number, Count::Errors, 1);
        }
        S::at(&self.ledger, Step::CompletionWritten);
    }

    /// Ends a request that three drivers died on, and forgets the suspicion.
    #[cold]
    fn end_poison(&mut self, slot: u16) {
        self.poison = None;
        let entry = self.entries[usize::from(slot)];
        let queue = self.queues[usize::from(entry.queue)].as_ref();
        let client = queue.and_then(|queue| self.clients[queue.client].as_ref());
        let number = client.map_or(0, |client| client.number);
        let request = self.ledger.slot(slot.into()).map_or([0; 4], |record| record.request);
        let text = match Submission::from_words(request) {
            Some(request) => format!("{request:?}"),
            None => format!("{request:#x?}"),
        };
        self.poisoned = Some((number, text));
        self.news = true;
        self.finish(slot, Outcome::Poisoned);
        self.forget_suspect();
    }

    /// The position that is suspected will be another request's, which is none of the deaths'.
    #[cold]
    fn forget_suspect(&self) {
        self.ledger.set_breadcrumb(None);
        self.ledger.suspect_breadcrumb();
    }

    /// Makes visible to the clients what was finished, and wakes those that sleep. How many
    /// requests that were.
    #[inline]
    pub fn publish(&mut self) -> usize {
        let count = self.finished.len();
        if count == 0 {
            return 0;
        }
        self.publish_touched();
        count
    }

    #[inline]
    fn publish_touched(&mut self) {
        for &number in &self.active {
            let Some(queue) = &mut self.queues[usize::from(number)] else { continue };
            if queue.touched {
                self.ledger.set_producer(number, queue.poster.position());
                S::at(&self.ledger, Step::ProducerRecorded);
                queue.poster.publish();
                S::at(&self.ledger, Step::ProducerPublished);
                self.ledger.count_ios(number, queue.poster.position());
                self.ledger.set_count(number, Count::InFlight, queue.in_flight.into());
            }
        }
        self.ledger.words().fence();
        for &number in &self.active {
            let Some(queue) = &mut self.queues[usize::from(number)] else { continue };
            if queue.touched {
                queue.touched = false;
                queue.wake_client();
            }
        }
        if self.first && !self.finished.is_empty() {
            self.first = false;
            self.ledger.first_completion(clock::monotonic_nanoseconds());
        }
    }

    /// Frees the slots of what was published: the device's head is in the ledger.
    #[inline]
    pub fn release(&mut self) {
        if self.finished.is_empty() {
            return;
        }
        let now = clock::ticks();
        self.ledger.count_completed(self.finished.len() as u64);
        for &slot in &self.finished {
            let entry = &mut self.entries[usize::from(slot)];
            entry.state = State::Free;
            self.ledger.free(slot.into(), entry.cid);
            self.ledger.count_latency(entry.queue, now.saturating_sub(entry.taken));
            self.free.push(slot);
        }
        self.finished.clear();
        S::at(&self.ledger, Step::SlotsFreed);
    }

    /// Ends everything that is on its way with `outcome`.
    pub fn fail_all(&mut self, outcome: Outcome) {
        self.pending.clear();
        for slot in 0..MOST as u16 {
            self.finish(slot, outcome);
        }
        self.publish();
        self.release();
    }

    /// Takes no more requests from anybody; what is in slots still goes to the device.
    pub fn take_no_more(&mut self) {
        self.closed = true;
    }

    /// Whether something waits to be taken: looked at after saying that this side sleeps.
    pub fn has_work(&mut self) -> bool {
        if !self.pending.is_empty() || !self.finished.is_empty() {
            return true;
        }
        self.active.iter().any(|&number| {
            self.queues[usize::from(number)].as_mut().is_some_and(|queue| {
                !self.clients[queue.client].as_ref().is_some_and(|client| client.leaving)
                    && queue.followed()
                    && queue.taker.available() != Ok(0)
            })
        })
    }

    /// Says in all queues whether the driver sleeps.
    pub fn announce_sleep(&self, sleeps: bool) {
        for queue in self.queues.iter().flatten() {
            if sleeps {
                queue::announce_sleep(&queue.words, Side::Driver);
            } else {
                queue::awake(&queue.words, Side::Driver);
            }
        }
    }

    /// Client queues.
    pub fn queue_count(&self) -> usize {
        self.active.len()
    }

    /// The sockets by which clients wake the driver, with the numbers of their queues.
    pub fn wake_sockets(&self) -> impl Iterator<Item = (u8, BorrowedFd<'_>)> {
        self.active.iter().filter_map(|&number| {
            let queue = self.queues[usize::from(number)].as_ref()?;
            (!queue.deaf).then(|| (number, queue.socket().as_fd()))
        })
    }

    /// Takes the wake-ups that came for queue `number`.
    pub fn drain_wakes(&mut self, number: u8) {
        if let Some(Some(queue)) = self.queues.get_mut(usize::from(number)) {
            queue.drain();
        }
    }

    /// What `request` of client queue `queue` means for the device.
    fn check(&self, queue: u8, request: &Submission) -> Result<(u64, u32), Outcome> {
        let queue = self.queues[usize::from(queue)].as_ref().ok_or(Outcome::Gone)?;
        let client = self.clients[queue.client].as_ref().ok_or(Outcome::Gone)?;
        check(client, request)
    }

    /// Finds out how many bytes the request of `slot`, not ended yet, moves.
    fn measure(&mut self, slot: u16) {
        let Entry { state, queue, .. } = self.entries[usize::from(slot)];
        if matches!(state, State::Taken | State::Submitted)
            && let Ok(Slot { request, .. }) = self.ledger.slot(slot.into())
            && let Some(request) = Submission::from_words(request)
            && let Ok((_, bytes)) = self.check(queue, &request)
        {
            self.entries[usize::from(slot)].bytes = bytes;
        }
    }
}

#[cfg(test)]
mod tests;
