//! Requests from the clients' rings into slots.

use uniddrv_abi::block::{Opcode, Outcome, Submission};
use uniddrv_abi::ledger::{Breadcrumb, Count, SLOTS, State};

use super::{Entry, Table, Work};
use crate::serve::client::check;
use crate::serve::{Step, Steps};

/// Requests that are taken in a turn of the client with the smallest share. Few: shares hold only
/// among clients that have more than that waiting in their rings.
const TURN: u32 = 2;

/// How a client's turn ended.
enum Turn {
    /// Nothing more of it can be taken at present.
    Nothing,
    /// It has used what it may take at a time, and may have more.
    Spent,
    /// There is no room for more.
    Full,
}

impl<S: Steps> Table<S> {
    /// Takes up to `room` requests that the device is to carry out, those first that wait longest,
    /// the clients in turn, each by its share and within its limits. What cannot be carried out
    /// ends here.
    #[inline]
    pub fn take(&mut self, room: usize, work: &mut Vec<Work>) {
        while work.len() < room
            && let Some(slot) = self.pending.pop_front()
        {
            self.take_pending(slot, work);
        }
        if self.closed {
            return;
        }
        let mut idle = 0;
        while idle < self.present.len() && work.len() < room && !self.free.is_empty() {
            if self.turn >= self.present.len() {
                self.turn = 0;
            }
            match self.take_from_client(self.present[self.turn], room, work) {
                Turn::Nothing => idle += 1,
                Turn::Spent => idle = 0,
                // It goes on with its turn next time.
                Turn::Full => return,
            }
            self.turn += 1;
        }
    }

    #[cold]
    fn take_pending(&mut self, slot: u16, work: &mut Vec<Work>) {
        let Entry { state, queue, cid, .. } = self.entries[usize::from(slot)];
        if state != State::Taken {
            return;
        }
        if self.is_poison(slot) {
            return self.end_poison(slot);
        }
        let request = self.ledger.slot(slot.into()).map(|record| record.request);
        let request = request.ok().and_then(Submission::from_words);
        let client = self.queues[usize::from(queue)].as_ref().map(|queue| queue.client);
        let client = client.and_then(|client| self.clients[client].as_ref());
        let checked = match (client, &request) {
            (Some(client), Some(request)) => {
                check(client, request).map(|place| (client.target.id, place))
            }
            (None, _) => Err(Outcome::Gone),
            (_, None) => Err(Outcome::Invalid),
        };
        match (checked, request) {
            (Ok((target, (iova, len))), Some(request)) => {
                work.push(to_work(slot, cid, target, &request, iova, len));
            }
            (checked, _) => self.finish(slot, checked.err().unwrap_or(Outcome::Invalid)),
        }
    }

    /// Clients have come or gone: what each may take in a turn.
    pub(super) fn share_out(&mut self) {
        let shares = self.clients.iter().flatten().map(|client| client.share);
        let (count, least) = (shares.clone().count(), shares.min().unwrap_or(1).max(1));
        for client in self.clients.iter_mut().flatten() {
            // One that is alone need not let anybody else have a turn.
            client.quantum =
                if count == 1 { u32::MAX } else { (client.share * TURN).div_ceil(least) };
            client.credit = 0;
        }
    }

    /// Takes requests from the queues of client `index` in turn.
    #[inline]
    fn take_from_client(&mut self, index: usize, room: usize, work: &mut Vec<Work>) -> Turn {
        let Some(client) = &mut self.clients[index] else { return Turn::Nothing };
        if client.leaving {
            return Turn::Nothing;
        }
        if client.credit == 0 {
            client.credit = client.quantum;
        }
        let count = client.queues.len();
        for _ in 0..count {
            let Some(client) = &mut self.clients[index] else { return Turn::Nothing };
            if client.turn >= count {
                client.turn = 0;
            }
            let number = client.queues[client.turn];
            client.turn += 1;
            self.take_from(number, room, work);
            let Some(client) = &self.clients[index] else { return Turn::Nothing };
            if client.credit == 0 {
                return Turn::Spent;
            }
            if work.len() >= room || self.free.is_empty() {
                return Turn::Full;
            }
        }
        // What it did not use now is not saved for later.
        if let Some(client) = &mut self.clients[index] {
            client.credit = 0;
        }
        Turn::Nothing
    }

    /// Takes requests from queue `number`, as many as its client has credit for.
    #[inline]
    fn take_from(&mut self, number: u8, room: usize, work: &mut Vec<Work>) {
        let Some(queue) = &mut self.queues[usize::from(number)] else { return };
        let Some(client) = &mut self.clients[queue.client] else { return };
        if !queue.followed() {
            return;
        }
        // As of now: one that seems to have nothing more loses what is left of its turn.
        let waiting = match queue.taker.look() {
            Ok(0) => return,
            Ok(waiting) => waiting.min(client.credit),
            Err(error) => {
                self.news = true;
                return client.expel(&error);
            }
        };
        // Not more than there is room to post completions for, ever.
        let posted = match queue.poster.room(queue.in_flight + waiting) {
            Ok(room) => room.saturating_sub(queue.in_flight),
            Err(error) => {
                self.news = true;
                return client.expel(&error);
            }
        };
        let limit = client.most_in_flight.saturating_sub(client.in_flight);
        let room = u32::try_from(room.saturating_sub(work.len())).unwrap_or(u32::MAX);
        let slots = self.free.len() as u32;
        let most = waiting.min(posted).min(limit).min(room).min(slots);
        let mut taken = 0;
        while taken < most {
            let position = queue.taker.position();
            if !client.ios.open(self.now) || !client.bytes.open(self.now) {
                // Each request counts once, however often it is looked at.
                if queue.throttled != Some(position) {
                    queue.throttled = Some(position);
                    self.ledger.add_count(number, Count::Throttled, 1);
                }
                break;
            }
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
                opcode: request.map_or(Opcode::Flush, |r| r.opcode),
                cid,
                position,
                bytes,
                tag: words[3],
                taken: self.now,
            };
            taken += 1;
            match (checked, request) {
                (Ok((iova, len)), Some(request)) => {
                    work.push(to_work(slot, cid, client.target.id, &request, iova, len));
                }
                // Ended next time, once its position has been given back.
                _ => self.pending.push_back(slot),
            }
        }
        if taken == 0 {
            return;
        }
        client.credit -= taken;
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
            let poisoned = *poison == Some(entries[usize::from(work.slot)].breadcrumb());
            if poisoned {
                pending.push_back(work.slot);
            }
            !poisoned
        });
    }

    fn is_poison(&self, slot: u16) -> bool {
        let named: Breadcrumb = self.entries[usize::from(slot)].breadcrumb();
        self.poison == Some(named)
    }

    /// Gives back what the device had no room for: it comes first next time.
    pub fn put_back(&mut self, work: &Work) {
        self.pending.push_front(work.slot);
    }
}

#[inline]
fn to_work(slot: u16, cid: u16, target: u32, request: &Submission, iova: u64, len: u32) -> Work {
    Work {
        slot,
        cid,
        target,
        opcode: request.opcode,
        fua: request.fua,
        lba: request.lba,
        blocks: request.blocks,
        iova,
        len,
    }
}
