//! The requests of an asynchronous queue: what each waits for, and who is to be woken.

use std::collections::VecDeque;
use std::task::Waker;

use super::queue::ClientQueue;
use super::reactor;
use crate::block::{BlockError, BlockQueue, Operation, Request, SubmitError};
use crate::clock;
use crate::dma::DmaBuf;

/// Looks at a queue that never comes to rest before others get their turn.
const LOOKS: u32 = 64;

/// How a request ended.
pub(super) type Ended = (Result<(), BlockError>, Option<DmaBuf>);

/// A request that was submitted, by the tag that it went out with.
enum Entry {
    /// On its way, with the waker of whoever polled its future last, if it slept at all.
    Waiting {
        waker: Option<Waker>,
        sleeps: bool,
    },
    /// Its future has not seen it yet.
    Ended(Ended),
    /// Its future is gone.
    Abandoned,
    Free,
}

/// A future that waits for room in the queue.
struct Waiter {
    ticket: u64,
    waker: Waker,
}

/// A queue and the requests that futures have in it.
///
/// Whoever polls a future polls the queue, for all. While futures sleep the driver is told that
/// this side does, and its wake-ups bring the reactor's thread here.
pub(super) struct Requests {
    pub(super) queue: ClientQueue,
    entries: Vec<Entry>,
    free: Vec<usize>,
    /// Futures that sleep until their request has ended.
    sleeping: usize,
    waiting: VecDeque<Waiter>,
    tickets: u64,
    /// To be woken, and to be dropped, once the lock is given back: a waker may come straight
    /// back here.
    wake: Vec<Waker>,
    stale: Vec<Waker>,
    /// In ticks: until when futures look again and again before they sleep, and how long after
    /// the last that ended.
    look_until: u64,
    look: u64,
}

impl Requests {
    pub(super) fn new(queue: ClientQueue) -> Self {
        let look = queue.sleep.most();
        Self {
            queue,
            entries: Vec::new(),
            free: Vec::new(),
            sleeping: 0,
            waiting: VecDeque::new(),
            tickets: 0,
            wake: Vec::new(),
            stale: Vec::new(),
            look_until: 0,
            look,
        }
    }

    /// Submits a request. Its number; back with the error where it cannot be accepted.
    pub(super) fn submit(
        &mut self,
        operation: Operation,
        buffer: Option<DmaBuf>,
    ) -> Result<usize, (SubmitError, Option<DmaBuf>)> {
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::Free);
            self.entries.len() - 1
        });
        match self.queue.submit(Request { operation, buffer, tag: number as u64 }) {
            Ok(()) => {
                self.entries[number] = Entry::Waiting { waker: None, sleeps: false };
                self.look_until = clock::ticks() + self.look;
                Ok(number)
            }
            Err((error, request)) => {
                self.free.push(number);
                Err((error, request.buffer))
            }
        }
    }

    /// Polls the queue, and notes whom that concerns. How many requests ended.
    pub(super) fn drive(&mut self) -> usize {
        let Self { queue, entries, free, sleeping, wake, stale, .. } = self;
        let count = queue.poll(|completion| {
            let number = completion.tag as usize;
            let Some(entry) = entries.get_mut(number) else { return };
            let ended = Entry::Ended((completion.result, completion.buffer));
            match std::mem::replace(entry, ended) {
                Entry::Waiting { waker: Some(waker), sleeps: true } => {
                    *sleeping -= 1;
                    wake.push(waker);
                }
                Entry::Waiting { waker, .. } => stale.extend(waker),
                Entry::Abandoned => {
                    *entry = Entry::Free;
                    free.push(number);
                }
                Entry::Ended(_) | Entry::Free => {}
            }
        });
        // Each that ended has left room for one; where nothing is taken any more, all are told.
        let room =
            if self.queue.ended { self.waiting.len() } else { count.min(self.waiting.len()) };
        self.wake.extend(self.waiting.drain(..room).map(|waiter| waiter.waker));
        count
    }

    /// Polls the queue for a future. Looking that was worth it makes looking longer.
    pub(super) fn look(&mut self) {
        if self.drive() > 0 {
            self.look = (self.look * 2).clamp(1, self.queue.sleep.most().max(1));
            self.look_until = clock::ticks() + self.look;
        }
    }

    /// Whether futures look once more before they sleep. Having looked in vain makes looking
    /// shorter.
    pub(super) fn looks_on(&mut self) -> bool {
        if self.queue.sleep.most() > 0 && clock::ticks() < self.look_until {
            return true;
        }
        if self.look_until != 0 {
            self.look_until = 0;
            self.look = (self.look / 2).max(self.queue.sleep.most() / 16);
        }
        false
    }

    /// How request `number` ended, if it has; it is forgotten then.
    pub(super) fn take(&mut self, number: usize) -> Option<Ended> {
        let entry = self.entries.get_mut(number)?;
        if !matches!(entry, Entry::Ended(_)) {
            return None;
        }
        let Entry::Ended(ended) = std::mem::replace(entry, Entry::Free) else { return None };
        self.free.push(number);
        Some(ended)
    }

    /// The future of request `number` is awake.
    pub(super) fn awake(&mut self, number: usize) {
        if let Some(Entry::Waiting { sleeps, .. }) = self.entries.get_mut(number)
            && std::mem::take(sleeps)
        {
            self.sleeping -= 1;
        }
    }

    /// The future of request `number`, which is awake and has not ended, goes to sleep.
    pub(super) fn sleep(&mut self, number: usize, new: &Waker) {
        if let Some(Entry::Waiting { waker, sleeps }) = self.entries.get_mut(number)
            && !std::mem::replace(sleeps, true)
        {
            self.sleeping += 1;
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(new)) {
                self.stale.extend(waker.replace(new.clone()));
            }
        }
    }

    /// A future goes to sleep until there is room. Its ticket.
    pub(super) fn wait_for_room(&mut self, waker: &Waker) -> u64 {
        let ticket = self.tickets;
        self.tickets += 1;
        self.waiting.push_back(Waiter { ticket, waker: waker.clone() });
        ticket
    }

    /// The future with this ticket is awake. Whether it was still waiting: else it was woken.
    pub(super) fn give_up_ticket(&mut self, ticket: u64) -> bool {
        let place = self.waiting.iter().position(|waiter| waiter.ticket == ticket);
        let waiter = place.and_then(|place| self.waiting.remove(place));
        let waited = waiter.is_some();
        self.stale.extend(waiter.map(|waiter| waiter.waker));
        waited
    }

    /// The future with this ticket is gone: if it was woken, the room is somebody else's.
    pub(super) fn drop_ticket(&mut self, ticket: u64) {
        if !self.give_up_ticket(ticket)
            && let Some(waiter) = self.waiting.pop_front()
        {
            self.wake.push(waiter.waker);
        }
    }

    /// The future of request `number` is gone. The buffer stays here until the request ends.
    /// What is to be dropped without the lock.
    pub(super) fn abandon(&mut self, number: usize) -> Option<Ended> {
        let ended = self.take(number);
        if ended.is_none() {
            self.awake(number);
            if let Some(entry) = self.entries.get_mut(number)
                && let Entry::Waiting { waker, .. } = std::mem::replace(entry, Entry::Abandoned)
            {
                self.stale.extend(waker);
            }
        }
        ended
    }

    /// The driver or the core has said something: polls until there is no more of it.
    pub(super) fn attend(&mut self) {
        for _ in 0..LOOKS {
            self.drive();
            if self.queue.ended || !self.queue.has_news() {
                return;
            }
        }
        // It never comes to rest: others first.
        reactor::alarm();
    }

    /// Who is to be woken, and what is to be dropped, without the lock.
    pub(super) fn concerned(&mut self) -> (Vec<Waker>, Vec<Waker>) {
        (std::mem::take(&mut self.wake), std::mem::take(&mut self.stale))
    }

    /// Whether anybody sleeps who has to be woken.
    fn anybody_sleeps(&self) -> bool {
        self.sleeping > 0 || !self.waiting.is_empty()
    }

    /// At the end of each visit: sees to it that the driver wakes the reactor's thread if, and
    /// only if, anybody sleeps.
    pub(super) fn settle(&mut self) {
        if !self.anybody_sleeps() {
            self.queue.disarm();
            // What was submitted starts, also where its future polls no more.
            self.queue.start();
            return;
        }
        if self.queue.sleep.is_armed() {
            self.queue.start();
            return;
        }
        for _ in 0..LOOKS {
            if self.queue.arm() {
                return;
            }
            self.drive();
            if !self.anybody_sleeps() {
                return;
            }
        }
        // It never comes to rest: on with it on the reactor's thread.
        reactor::alarm();
    }
}
