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

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use uniddrv_abi::block::{Completion, Opcode, Outcome, Submission};
use uniddrv_abi::ledger::{Breadcrumb, Count, LedgerError, QUEUES, SLOTS, Slot, State};
use uniddrv_abi::message::{self, Rights, Target};
use uniddrv_abi::queue::{self, Side};
use uniddrv_abi::words::Words;

use super::client::{Client, Queue};
use super::{DriverLedger, Step, Steps, Undisturbed};
use crate::clock;
use crate::dma::PAGE;
use crate::shared::SharedWords;

/// The most requests on their way: the last slot's identifiers belong to the driver itself.
pub const MOST: usize = SLOTS - 1;
/// Requests that are taken from a queue before the next one has its turn, for each share.
const TURN: u32 = 16;

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

const FREE: Entry = Entry {
    state: State::Free,
    queue: 0,
    opcode: Opcode::Flush,
    cid: 0,
    position: 0,
    bytes: 0,
    tag: 0,
    taken: 0,
};

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
    turn: usize,
    clients: Vec<Option<Client>>,
    targets: Vec<Target>,
    /// The request that three drivers in a row died on.
    poison: Option<Breadcrumb>,
    /// The client whose request was poison, and which it was, until told.
    poisoned: Option<(u32, String)>,
    /// The time of this pass, in ticks of the CPU.
    now: u64,
    /// Whether the first completion after an adoption is still to come.
    first: bool,
    steps: PhantomData<S>,
}

impl<S: Steps> Table<S> {
    /// A table over a ledger without requests.
    pub fn new(ledger: DriverLedger) -> Self {
        Self {
            ledger,
            entries: (0..SLOTS as u16).map(|slot| Entry { cid: slot, ..FREE }).collect(),
            free: (0..MOST as u16).rev().collect(),
            pending: VecDeque::with_capacity(SLOTS),
            finished: Vec::with_capacity(SLOTS),
            queues: (0..QUEUES).map(|_| None).collect(),
            active: Vec::with_capacity(QUEUES),
            turn: 0,
            clients: Vec::new(),
            targets: Vec::new(),
            poison: None,
            poisoned: None,
            now: clock::ticks(),
            first: false,
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

    /// Sets what can be opened. Clients that are there already go by what it says from now on.
    pub fn set_targets(&mut self, targets: Vec<Target>) {
        for client in self.clients.iter_mut().flatten() {
            match targets.iter().find(|target| target.id == client.target.id) {
                Some(target) => {
                    client.target = target.clone();
                    client.block_shift = target.block_size.trailing_zeros();
                }
                None => client.target.blocks = 0,
            }
        }
        self.targets = targets;
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

    /// Adds a client with its queues: for each its memory and its wake-up socket.
    ///
    /// # Errors
    /// When the core's message does not hold together.
    pub fn attach(
        &mut self,
        client: &message::Client,
        queues: Vec<(SharedWords, OwnedFd)>,
    ) -> Result<(), LedgerError> {
        let error = |text: String| LedgerError(format!("client {}: {text}", client.client));
        let depth = client.depth;
        if !depth.is_power_of_two() || depth > queue::MAX_DEPTH {
            return Err(error(format!("rings of {depth} entries")));
        }
        if queues.len() != client.queues.len() || queues.is_empty() {
            return Err(error(format!("{} queues, not {}", queues.len(), client.queues.len())));
        }
        for (number, (words, _)) in client.queues.iter().zip(&queues) {
            let place = self.queues.get(usize::from(*number));
            if place.is_none_or(Option::is_some) || words.count() < queue::words_for(depth) {
                return Err(error(format!("queue {number} is taken, unknown or too short")));
            }
        }
        // Before the device is up, what it is like is not known; `set_targets` fills it in.
        let target = self.targets.iter().find(|target| target.id == client.target);
        let target = target.cloned().unwrap_or_else(|| Target {
            path: String::new(),
            id: client.target,
            block_size: 512,
            blocks: 0,
            max_transfer: 0,
            volatile_write_cache: false,
        });
        let index = self.clients.iter().position(Option::is_none).unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        self.clients[index] = Some(Client::new(client, target));
        for (number, (words, wake)) in client.queues.iter().zip(queues) {
            if client.new {
                self.ledger.clear_queue(*number);
            }
            let indices = self.ledger.indices(*number);
            let queue = Queue::new(index, words, depth, wake, indices);
            self.queues[usize::from(*number)] = Some(queue);
            self.active.push(*number);
        }
        Ok(())
    }

    /// Takes nothing more from client `number`. It can be forgotten once
    /// [`left`](Self::left) names it.
    pub fn detach(&mut self, number: u32) {
        for client in self.clients.iter_mut().flatten().filter(|c| c.number == number) {
            client.leaving = true;
        }
    }

    /// Forgets a client that leaves and has nothing on its way, and says which.
    pub fn left(&mut self) -> Option<u32> {
        let index = self.clients.iter().position(|client| {
            client.as_ref().is_some_and(|client| client.leaving && client.in_flight == 0)
        })?;
        let client = self.clients[index].take()?;
        for number in client.queues {
            self.queues[usize::from(number)] = None;
            self.active.retain(|&active| active != number);
        }
        Some(client.number)
    }

    /// Whether any client is leaving.
    pub fn leaving(&self) -> bool {
        self.clients.iter().flatten().any(|client| client.leaving)
    }

    /// A client that wrote what cannot be, and what; each once. Nothing more is taken from it.
    pub fn hostile(&mut self) -> Option<(u32, String)> {
        self.clients
            .iter_mut()
            .flatten()
            .find_map(|client| Some((client.number, client.hostile.take()?)))
    }

    /// Takes up to `room` requests that the device is to carry out, those first that wait longest,
    /// the clients in turn, each within its limits. What cannot be carried out ends here.
    #[inline]
    pub fn take(&mut self, room: usize, work: &mut Vec<Work>) {
        while work.len() < room
            && let Some(slot) = self.pending.pop_front()
        {
            self.take_pending(slot, work);
        }
        let count = self.active.len();
        if count == 0 || work.len() >= room {
            return;
        }
        if self.turn >= count {
            self.turn = 0;
        }
        for step in 0..count {
            let mut index = self.turn + step;
            if index >= count {
                index -= count;
            }
            if work.len() >= room || self.free.is_empty() {
                // Who was not asked is first next time.
                self.turn = index;
                return;
            }
            self.take_from(self.active[index], room, work);
        }
        self.turn += 1;
    }

    #[cold]
    fn take_pending(&mut self, slot: u16, work: &mut Vec<Work>) {
        let Ok(record) = self.ledger.slot(slot.into()) else { return };
        let poison = self.is_poison(record.queue, record.position);
        let checked = match Submission::from_words(record.request) {
            _ if poison => Err(Outcome::Poisoned),
            Some(request) => self.check(record.queue, &request),
            None => Err(Outcome::Invalid),
        };
        match checked {
            Ok((iova, len)) => {
                let Some(request) = Submission::from_words(record.request) else { return };
                work.push(self.work(slot, &request, iova, len));
            }
            Err(outcome) => {
                if outcome == Outcome::Poisoned {
                    self.tell_poisoned(&record);
                }
                self.finish(slot, outcome);
            }
        }
    }

    #[cold]
    fn tell_poisoned(&mut self, record: &Slot) {
        self.poison = None;
        let queue = self.queues[usize::from(record.queue)].as_ref();
        let client = queue.and_then(|queue| self.clients[queue.client].as_ref());
        let number = client.map_or(0, |client| client.number);
        let text = match Submission::from_words(record.request) {
            Some(request) => format!("{request:?}"),
            None => format!("{:#x?}", record.request),
        };
        self.poisoned = Some((number, text));
    }

    /// The client whose request was failed because three drivers in a row died on it, and the
    /// request; once.
    pub fn poisoned(&mut self) -> Option<(u32, String)> {
        self.poisoned.take()
    }

    #[inline]
    fn take_from(&mut self, number: u8, room: usize, work: &mut Vec<Work>) {
        let Some(queue) = &mut self.queues[usize::from(number)] else { return };
        let Some(client) = &mut self.clients[queue.client] else { return };
        if client.leaving || (queue.renewing && !queue::renewed(&queue.words)) {
            return;
        }
        queue.renewing = false;
        let waiting = match queue.taker.available() {
            Ok(0) => return,
            Ok(waiting) => waiting,
            Err(error) => return expel(client, &error),
        };
        // Not more than there is room to post completions for, ever.
        let posted = match queue.poster.room(queue.in_flight + waiting.min(TURN)) {
            Ok(room) => room.saturating_sub(queue.in_flight),
            Err(error) => return expel(client, &error),
        };
        let limit = client.most_in_flight.saturating_sub(client.in_flight);
        let room = u32::try_from(room - work.len()).unwrap_or(u32::MAX);
        let slots = self.free.len() as u32;
        let most = waiting.min(posted).min(limit).min(client.share * TURN).min(room).min(slots);
        if most == 0 {
            return;
        }
        let mut taken = 0;
        for _ in 0..most {
            if !client.ios.open(self.now) || !client.bytes.open(self.now) {
                self.ledger.add_count(number, Count::Throttled, 1);
                break;
            }
            let position = queue.taker.position();
            let Some(words) = queue.taker.pop() else { break };
            let Some(slot) = self.free.pop() else { break };
            let entry = &mut self.entries[usize::from(slot)];
            let cid = entry.cid.wrapping_add(SLOTS as u16);
            self.ledger.take(slot.into(), number, cid, position, words, self.now);
            S::at(&self.ledger, Step::SlotTaken);
            let request = Submission::from_words(words);
            let checked = match &request {
                Some(request) => check(client, request),
                None => Err(Outcome::Invalid),
            };
            let bytes = checked.as_ref().map_or(0, |&(_, len)| len);
            client.ios.take(1);
            client.bytes.take(bytes.into());
            *entry = Entry {
                state: State::Taken,
                queue: number,
                opcode: request.map_or(Opcode::Flush, |request| request.opcode),
                cid,
                position,
                bytes,
                tag: words[3],
                taken: self.now,
            };
            taken += 1;
            match (checked, request) {
                (Ok((iova, len)), Some(request)) => work.push(Work {
                    slot,
                    cid,
                    target: client.target.id,
                    opcode: request.opcode,
                    fua: request.fua,
                    lba: request.lba,
                    blocks: request.blocks,
                    iova,
                    len,
                }),
                // Ended below, once its position has been given back.
                _ => self.pending.push_back(slot),
            }
        }
        if taken == 0 {
            return;
        }
        queue.in_flight += taken;
        client.in_flight += taken;
        self.ledger.set_count(number, Count::InFlight, queue.in_flight.into());
        self.ledger.set_consumer(number, queue.taker.position());
        S::at(&self.ledger, Step::ConsumerRecorded);
        queue.taker.publish();
        S::at(&self.ledger, Step::ConsumerPublished);
        if self.poison.is_some() {
            self.set_poison_aside(work);
        }
    }

    /// What three drivers died on is not given to the device by a fourth.
    #[cold]
    fn set_poison_aside(&mut self, work: &mut Vec<Work>) {
        let Self { entries, pending, poison, .. } = self;
        work.retain(|work| {
            let entry = entries[usize::from(work.slot)];
            let named = Breadcrumb { queue: entry.queue, position: entry.position };
            let poisoned = *poison == Some(named);
            if poisoned {
                pending.push_back(work.slot);
            }
            !poisoned
        });
    }

    fn is_poison(&self, queue: u8, position: u32) -> bool {
        self.poison == Some(Breadcrumb { queue, position })
    }

    fn check(&self, queue: u8, request: &Submission) -> Result<(u64, u32), Outcome> {
        let queue = self.queues[usize::from(queue)].as_ref().ok_or(Outcome::Gone)?;
        let client = self.clients[queue.client].as_ref().ok_or(Outcome::Gone)?;
        check(client, request)
    }

    fn work(&self, slot: u16, request: &Submission, iova: u64, len: u32) -> Work {
        let entry = &self.entries[usize::from(slot)];
        let queue = self.queues[usize::from(entry.queue)].as_ref();
        let client = queue.and_then(|queue| self.clients[queue.client].as_ref());
        Work {
            slot,
            cid: entry.cid,
            target: client.map_or(0, |client| client.target.id),
            opcode: request.opcode,
            fua: request.fua,
            lba: request.lba,
            blocks: request.blocks,
            iova,
            len,
        }
    }

    /// Gives back what the device had no room for: it comes first next time.
    pub fn put_back(&mut self, work: &Work) {
        self.pending.push_front(work.slot);
    }

    /// The work on the request in `slot` begins, or goes on: if the driver dies now, it counts
    /// against that request.
    #[inline]
    pub fn begin(&self, slot: u16) {
        let entry = &self.entries[usize::from(slot)];
        let breadcrumb = Breadcrumb { queue: entry.queue, position: entry.position };
        self.ledger.set_breadcrumb(Some(breadcrumb));
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

    /// The slot whose request the device has as `cid`.
    #[inline]
    pub fn lookup(&self, cid: u16) -> Option<u16> {
        let slot = cid % SLOTS as u16;
        let entry = &self.entries[usize::from(slot)];
        (entry.cid == cid && entry.state == State::Submitted).then_some(slot)
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

    /// Makes visible to the clients what was finished, and wakes those that sleep. How many
    /// requests that were.
    #[inline]
    pub fn publish(&mut self) -> usize {
        let count = self.finished.len();
        if count == 0 {
            return 0;
        }
        for &number in &self.active {
            let Some(queue) = &mut self.queues[usize::from(number)] else { continue };
            if queue.touched {
                self.ledger.set_producer(number, queue.poster.position());
                S::at(&self.ledger, Step::ProducerRecorded);
                queue.poster.publish();
                S::at(&self.ledger, Step::ProducerPublished);
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
        if self.first {
            self.first = false;
            self.ledger.first_completion(clock::monotonic_nanoseconds());
        }
        count
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
            self.ledger.add_count(entry.queue, Count::Ios, 1);
            self.ledger.count_latency(entry.queue, now.saturating_sub(entry.taken));
            self.free.push(slot);
        }
        self.finished.clear();
        S::at(&self.ledger, Step::SlotsFreed);
    }

    /// Ends everything that is on its way, and what comes from now on, with `outcome`.
    pub fn fail_all(&mut self, outcome: Outcome) {
        self.pending.clear();
        for slot in 0..MOST as u16 {
            self.finish(slot, outcome);
        }
        self.publish();
        self.release();
    }

    /// Whether something waits to be taken: looked at after saying that this side sleeps.
    pub fn has_work(&mut self) -> bool {
        if !self.pending.is_empty() {
            return true;
        }
        self.active.iter().any(|&number| {
            self.queues[usize::from(number)].as_mut().is_some_and(|queue| {
                !self.clients[queue.client].as_ref().is_some_and(|client| client.leaving)
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

    /// The sockets by which clients wake the driver.
    pub fn wake_sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues.iter().flatten().map(|queue| queue.wake.as_fd())
    }
}

/// The part that a successor begins with.
impl<S: Steps> Table<S> {
    /// Takes over what the ledger holds, for the clients that were attached: what was done is
    /// posted, what was taken waits to be given to the device, and what was submitted is up to
    /// the driver. May be repeated by the next successor from any point.
    ///
    /// # Errors
    /// When the ledger does not check out. Nothing was changed in any ring then.
    pub fn take_over(&mut self, poison: Option<Breadcrumb>) -> Result<(), LedgerError> {
        self.poison = poison;
        self.first = true;
        let mut done: Vec<(u8, u32, u16, Completion)> = Vec::new();
        let mut named: Vec<(u8, u32)> = Vec::new();
        let mut taken: Vec<(u64, u16)> = Vec::new();
        let mut entries = self.entries.clone();
        for slot in 0..MOST as u16 {
            let record = self.ledger.slot(slot.into())?;
            let entry = &mut entries[usize::from(slot)];
            if record.state == State::Free {
                // One that nobody has used yet has no identifier.
                let ours = record.cid % SLOTS as u16 == slot;
                *entry = Entry { cid: if ours { record.cid } else { slot }, ..FREE };
                continue;
            }
            if self.queues[usize::from(record.queue)].is_none() {
                return Err(LedgerError(format!(
                    "slot {slot} holds a request of queue {}, which nobody has",
                    record.queue
                )));
            }
            if record.cid % SLOTS as u16 != slot {
                return Err(LedgerError(format!("slot {slot} has identifier {:#x}", record.cid)));
            }
            let request = Submission::from_words(record.request);
            let checked = request.map(|request| self.check(record.queue, &request));
            *entry = Entry {
                state: record.state,
                queue: record.queue,
                opcode: request.map_or(Opcode::Flush, |request| request.opcode),
                cid: record.cid,
                position: record.position,
                bytes: checked.and_then(Result::ok).map_or(0, |(_, len)| len),
                tag: record.request[3],
                taken: record.taken,
            };
            named.push((record.queue, record.position));
            match record.state {
                State::Done => {
                    let outcome = Outcome::from_bits(record.outcome);
                    let completion = Completion { tag: record.request[3], outcome };
                    done.push((record.queue, record.posted, slot, completion));
                }
                State::Taken => taken.push((record.taken, slot)),
                State::Submitted | State::Free => {}
            }
        }
        named.sort_unstable();
        if let Some(twice) = named.windows(2).find(|pair| pair[0] == pair[1]) {
            let (queue, position) = twice[0];
            return Err(LedgerError(format!("position {position} of queue {queue} twice")));
        }
        let indices = self.new_indices(&named, &done)?;
        // From here on nothing fails.
        self.entries = entries;
        self.free = (0..MOST as u16)
            .rev()
            .filter(|&slot| self.entries[usize::from(slot)].state == State::Free)
            .collect();
        // In the order in which they came, as far as that is known.
        taken.sort_unstable();
        self.pending = taken.into_iter().map(|(_, slot)| slot).collect();
        self.restore(&indices, &mut done);
        Ok(())
    }

    /// For each active queue the consumer and the producer index to go on from, and how many
    /// requests are on their way.
    fn new_indices(
        &self,
        named: &[(u8, u32)],
        done: &[(u8, u32, u16, Completion)],
    ) -> Result<Vec<(u8, u32, u32, u32)>, LedgerError> {
        self.active
            .iter()
            .map(|&number| {
                let depth = self.queues[usize::from(number)].as_ref().map_or(0, |q| q.depth);
                let (consumer, producer) = self.ledger.indices(number);
                let of = |&&(queue, _): &&(u8, u32)| queue == number;
                // Taken, but not given back to the client: they follow its index directly.
                let ahead = named
                    .iter()
                    .filter(of)
                    .filter(|(_, position)| position.wrapping_sub(consumer).cast_signed() >= 0);
                let ahead = ahead.map(|(_, position)| position.wrapping_sub(consumer));
                let (most, count) = ahead.fold((0, 0), |(m, c), a| (m.max(a + 1), c + 1));
                let on_their_way = named.iter().filter(of).count() as u32;
                // Done, but perhaps not posted: they follow the producer index directly.
                let unposted = done.iter().filter(|(queue, ..)| *queue == number);
                let unposted: Vec<u32> = unposted
                    .map(|(_, posted, ..)| posted.wrapping_sub(producer))
                    .filter(|&ahead| ahead.cast_signed() >= 0)
                    .collect();
                let posted = unposted.iter().map(|ahead| ahead + 1).max().unwrap_or(0);
                let mut distinct = unposted.clone();
                distinct.sort_unstable();
                distinct.dedup();
                if most != count || on_their_way > depth || distinct.len() != posted as usize {
                    return Err(LedgerError(format!(
                        "queue {number}: {count} requests up to {most} after position {consumer}, \
                         {} completions up to {posted} after position {producer}, {on_their_way} \
                         on their way of {depth}",
                        distinct.len()
                    )));
                }
                Ok((number, consumer.wrapping_add(most), producer, on_their_way))
            })
            .collect()
    }

    fn restore(
        &mut self,
        indices: &[(u8, u32, u32, u32)],
        done: &mut [(u8, u32, u16, Completion)],
    ) {
        for &(number, consumer, producer, on_their_way) in indices {
            let Some(queue) = &mut self.queues[usize::from(number)] else { continue };
            let depth = queue.depth;
            let layouts = (queue::submission(depth), queue::completion(depth));
            queue.taker = queue::Taker::new(queue.words.clone(), layouts.0, consumer);
            queue.poster = queue::Poster::new(queue.words.clone(), layouts.1, producer);
            queue.in_flight = on_their_way;
            if let Some(client) = &mut self.clients[queue.client] {
                client.in_flight += on_their_way;
            }
            self.ledger.set_consumer(number, consumer);
            queue.words.store(
                layouts.0.head,
                consumer.into(),
                std::sync::atomic::Ordering::Release,
            );
            // What was recorded as posted may not have become visible.
            queue.words.store(
                layouts.1.tail,
                producer.into(),
                std::sync::atomic::Ordering::Release,
            );
        }
        done.sort_unstable_by_key(|&(queue, posted, ..)| {
            let (_, producer) = self.ledger.indices(queue);
            (queue, posted.wrapping_sub(producer).cast_signed())
        });
        for &(number, posted, slot, completion) in &*done {
            let Some(queue) = &mut self.queues[usize::from(number)] else { continue };
            queue.in_flight = queue.in_flight.saturating_sub(1);
            if let Some(client) = &mut self.clients[queue.client] {
                client.in_flight = client.in_flight.saturating_sub(1);
            }
            // At its place again, if it is not behind the index yet: the same entry.
            if posted == queue.poster.position() {
                queue.poster.push(completion.to_words());
            }
            queue.touched = true;
            self.finished.push(slot);
        }
        self.publish();
        self.release();
        // Who slept through the death must not miss what happened in it.
        for queue in self.queues.iter().flatten() {
            queue.send_wake();
        }
    }

    /// Starts all queues over: their clients submit again what they have not seen completed. For
    /// a ledger that is new because the old one did not check out.
    pub fn renew(&mut self) {
        self.first = true;
        for &number in &self.active {
            self.ledger.clear_queue(number);
            if let Some(queue) = &mut self.queues[usize::from(number)] {
                queue::renew(&queue.words);
                let depth = queue.depth;
                let layouts = (queue::submission(depth), queue::completion(depth));
                queue.taker = queue::Taker::new(queue.words.clone(), layouts.0, 0);
                queue.poster = queue::Poster::new(queue.words.clone(), layouts.1, 0);
                queue.renewing = true;
                queue.send_wake();
            }
        }
    }

    /// The requests that the predecessor gave to the device, or was about to: slot, identifier,
    /// and what it said of where.
    pub fn submissions(&self) -> Vec<(u16, u16, u64)> {
        let submitted = |&slot: &u16| self.entries[usize::from(slot)].state == State::Submitted;
        (0..MOST as u16)
            .filter(submitted)
            .filter_map(|slot| {
                let record = self.ledger.slot(slot.into()).ok()?;
                Some((slot, record.cid, record.device))
            })
            .collect()
    }

    /// The request of `slot` is to be given to the device again, under a new identifier.
    pub fn submit_again(&mut self, slot: u16) {
        let entry = &mut self.entries[usize::from(slot)];
        if entry.state == State::Submitted {
            entry.state = State::Taken;
            entry.cid = entry.cid.wrapping_add(SLOTS as u16);
            self.ledger.taken_again(slot.into(), entry.queue, entry.cid);
            self.pending.push_back(slot);
        }
    }
}

fn expel(client: &mut Client, error: &dyn std::fmt::Display) {
    client.leaving = true;
    client.hostile = Some(error.to_string());
}

/// Where the data of a request are for the device, and how many bytes.
#[inline]
fn check(client: &Client, request: &Submission) -> Result<(u64, u32), Outcome> {
    if request.opcode.writes() && client.rights < Rights::Write {
        return Err(Outcome::Denied);
    }
    if request.opcode == Opcode::Flush {
        return Ok((0, 0));
    }
    if request.blocks == 0 {
        return Err(Outcome::Invalid);
    }
    let end = request.lba.checked_add(request.blocks.into());
    if end.is_none_or(|end| end > client.target.blocks) {
        return Err(Outcome::OutOfRange);
    }
    if !request.opcode.has_data() {
        return Ok((0, 0));
    }
    let len = u64::from(request.blocks) << client.block_shift;
    let inside = request.offset.checked_add(len).is_some_and(|end| end <= client.arena_len);
    let whole = request.offset.is_multiple_of(PAGE as u64);
    if len > client.target.max_transfer.into() || !inside || !whole {
        return Err(Outcome::Invalid);
    }
    Ok((client.arena_iova + request.offset, len as u32))
}
