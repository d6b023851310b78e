//! The part that a successor begins with.

use uniddrv_abi::block::{Completion, Opcode, Outcome, Submission};
use uniddrv_abi::ledger::{Breadcrumb, LedgerError, SLOTS, Slot, State};
use uniddrv_abi::queue;

use super::{Entry, MOST, Table};
use crate::serve::Steps;

/// What the ledger says, found to hold together.
struct Findings {
    /// Ended, perhaps not posted, in the order of their posting.
    done: Vec<Done>,
    /// Not given to the device, in the order of their coming.
    pending: Vec<u16>,
    queues: Vec<Resumption>,
}

struct Done {
    queue: u8,
    posted: u32,
    slot: u16,
    outcome: Outcome,
}

/// Where a queue goes on.
struct Resumption {
    queue: u8,
    consumer: u32,
    producer: u32,
    in_flight: u32,
}

impl<S: Steps> Table<S> {
    /// Takes over what the ledger holds, for the clients that were attached: what was done is
    /// posted, what was taken waits to be given to the device, and what was submitted is up to
    /// the driver. May be repeated by the next successor from any point. `poison` is failed rather
    /// than given to the device.
    ///
    /// # Errors
    /// When the ledger does not check out. Nothing was changed in any ring then, and this table is
    /// of no use.
    pub fn take_over(&mut self, poison: Option<Breadcrumb>) -> Result<(), LedgerError> {
        // In the memory that is there: what is new has to be faulted in, while clients wait.
        let mut entries = std::mem::take(&mut self.entries);
        let findings = self.look(&mut entries)?;
        self.entries = entries;
        // From here on nothing fails.
        let Findings { done, pending, queues } = findings;
        let is_free = |&slot: &u16| self.entries[usize::from(slot)].state == State::Free;
        self.free = (0..MOST as u16).rev().filter(is_free).collect();
        self.pending = pending.into();
        let waits = |entry: &Entry| {
            matches!(entry.state, State::Taken | State::Submitted)
                && poison == Some(entry.breadcrumb())
        };
        if self.entries.iter().any(waits) {
            self.poison = poison;
        } else if poison.is_some() {
            // It has ended already.
            self.forget_suspect();
        }
        for resumption in queues {
            self.resume(&resumption);
        }
        self.post(&done);
        // Who slept through the death must not miss what happened in it.
        for queue in self.queues.iter().flatten() {
            queue.send_wake();
        }
        Ok(())
    }

    /// Reads the ledger into `entries` and changes nothing else.
    fn look(&self, entries: &mut [Entry]) -> Result<Findings, LedgerError> {
        let mut done: Vec<Done> = Vec::new();
        let mut taken: Vec<(u64, u16)> = Vec::new();
        for slot in 0..MOST as u16 {
            let record = self.ledger.slot(slot.into())?;
            let entry = &mut entries[usize::from(slot)];
            *entry = Entry::free(slot);
            if record.state == State::Free {
                // The count of uses goes on; that of a slot never used is 0 in all bits.
                if record.cid % SLOTS as u16 == slot {
                    entry.cid = record.cid;
                }
                continue;
            }
            *entry = self.to_entry(slot, &record)?;
            match record.state {
                State::Done => done.push(Done {
                    queue: record.queue,
                    posted: record.posted,
                    slot,
                    outcome: Outcome::from_bits(record.outcome),
                }),
                State::Taken => taken.push((record.taken, slot)),
                State::Submitted | State::Free => {}
            }
        }
        let mut named: Vec<(u8, u32)> = entries
            .iter()
            .filter(|entry| entry.state != State::Free)
            .map(|entry| (entry.queue, entry.position))
            .collect();
        named.sort_unstable();
        if let Some(twice) = named.windows(2).find(|pair| pair[0] == pair[1]) {
            let (queue, position) = twice[0];
            return Err(LedgerError(format!("position {position} of queue {queue} twice")));
        }
        let resumed = |&queue: &u8| self.resumption(queue, entries, &named, &done);
        let queues: Vec<Resumption> = self.active.iter().map(resumed).collect::<Result<_, _>>()?;
        done.sort_unstable_by_key(|done| {
            let (_, producer) = self.ledger.indices(done.queue);
            (done.queue, done.posted.wrapping_sub(producer).cast_signed())
        });
        taken.sort_unstable();
        let pending = taken.into_iter().map(|(_, slot)| slot).collect();
        Ok(Findings { done, pending, queues })
    }

    fn to_entry(&self, slot: u16, record: &Slot) -> Result<Entry, LedgerError> {
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
        let checked = request.and_then(|request| self.check(record.queue, &request).ok());
        Ok(Entry {
            state: record.state,
            queue: record.queue,
            opcode: request.map_or(Opcode::Flush, |request| request.opcode),
            cid: record.cid,
            position: record.position,
            bytes: checked.map_or(0, |(_, len)| len),
            tag: record.request[3],
            taken: record.taken,
        })
    }

    /// Where queue `number` goes on. `named` are the queues and positions that slots name.
    fn resumption(
        &self,
        number: u8,
        entries: &[Entry],
        named: &[(u8, u32)],
        done: &[Done],
    ) -> Result<Resumption, LedgerError> {
        let depth = self.queues[usize::from(number)].as_ref().map_or(0, |queue| queue.depth);
        let (consumer, producer) = self.ledger.indices(number);
        let wrong = |what: String| Err(LedgerError(format!("queue {number}: {what}")));
        // How far from the index on requests were taken and completions posted: what is not in
        // the index yet follows it without a gap. Few enough, as there are few slots.
        let beyond = |index: u32, positions: &mut dyn Iterator<Item = u32>| {
            let ahead = positions.map(|position| position.wrapping_sub(index).cast_signed());
            let ahead = ahead.filter_map(|ahead| u32::try_from(ahead).ok());
            let (mut most, mut ahead): (u32, Vec<u32>) = (0, ahead.collect());
            ahead.sort_unstable();
            for ahead in &ahead {
                if *ahead != most {
                    return Err(*ahead);
                }
                most += 1;
            }
            Ok(most)
        };
        let of = named.iter().filter(|(queue, _)| *queue == number);
        let taken = match beyond(consumer, &mut of.map(|&(_, position)| position)) {
            Ok(taken) => taken,
            Err(gap) => return wrong(format!("a request {gap} positions beyond {consumer}")),
        };
        let of = done.iter().filter(|done| done.queue == number);
        let unposted = match beyond(producer, &mut of.clone().map(|done| done.posted)) {
            Ok(unposted) => unposted,
            Err(gap) => return wrong(format!("a completion {gap} positions beyond {producer}")),
        };
        let back = of.map(|done| producer.wrapping_sub(done.posted).cast_signed()).max();
        if back.is_some_and(|back| i64::from(back) > i64::from(depth)) {
            return wrong(format!("a completion {back:?} positions before {producer}"));
        }
        let waits = |entry: &&Entry| {
            entry.queue == number && matches!(entry.state, State::Taken | State::Submitted)
        };
        let in_flight = entries.iter().filter(waits).count() as u32;
        if u64::from(in_flight) + u64::from(unposted) > u64::from(depth) || taken > depth {
            return wrong(format!(
                "{in_flight} requests on their way and {unposted} to be posted, of {depth}"
            ));
        }
        let consumer = consumer.wrapping_add(taken);
        // What was taken is on its way or was answered: else somebody would wait for ever.
        let answered = producer.wrapping_add(unposted);
        if consumer.wrapping_sub(answered) != in_flight {
            return wrong(format!(
                "{consumer} requests taken, {answered} answered and {in_flight} on their way"
            ));
        }
        Ok(Resumption { queue: number, consumer, producer, in_flight })
    }

    fn resume(&mut self, resumption: &Resumption) {
        let &Resumption { queue: number, consumer, producer, in_flight } = resumption;
        let Some(queue) = &mut self.queues[usize::from(number)] else { return };
        if queue.renewing && (consumer, producer, in_flight) == (0, 0, 0) {
            // Its rings are the client's until it has followed.
            return;
        }
        if let Some(client) = &mut self.clients[queue.client] {
            client.in_flight += in_flight;
            if queue.renewing {
                // Requests were taken, so it had followed.
                client.expel(&"it takes back that it has followed into a new epoch");
                self.news = true;
            }
        }
        queue.renewing = false;
        queue.in_flight = in_flight;
        queue.touched = true;
        queue.resume((consumer, producer));
        self.ledger.set_consumer(number, consumer);
        queue.taker.publish();
    }

    /// Posts what has ended, as far as it was not, and says all indices once more: what was
    /// recorded may not have become visible.
    fn post(&mut self, done: &[Done]) {
        for &Done { queue: number, posted, slot, outcome } in done {
            self.finished.push(slot);
            let Some(queue) = &mut self.queues[usize::from(number)] else { continue };
            if posted == queue.poster.position() {
                let tag = self.entries[usize::from(slot)].tag;
                queue.poster.push(Completion { tag, outcome }.to_words());
            }
        }
        self.publish_touched();
        self.release();
    }

    /// Starts all queues over: their clients submit again what they have not seen completed. For
    /// a ledger that is new because the old one did not check out. Until it is through, the ledger
    /// is to be treated as new.
    pub fn renew(&mut self) {
        for slot in 0..MOST as u16 {
            self.ledger.free(slot.into(), slot);
        }
        for &number in &self.active {
            self.ledger.clear_queue(number);
        }
        for &number in &self.active {
            if let Some(queue) = &mut self.queues[usize::from(number)] {
                queue::renew(&queue.words);
                queue.resume((0, 0));
                queue.renewing = true;
                queue.send_wake();
            }
        }
    }

    /// The requests that the device has, or was about to be given by a predecessor: slot,
    /// identifier, and what was said of where.
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
