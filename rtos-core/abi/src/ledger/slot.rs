//! Slots: a request each, from its taking to its posting.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::{Ledger, LedgerError, QUEUES, SLOT, SLOT_WORDS, SLOTS};
use crate::words::Words;

/// The life of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Nobody's.
    Free = 0,
    /// Holds a request that the device was not given yet.
    Taken = 1,
    /// The device has it, or will once its doorbell is rung.
    Submitted = 2,
    /// It has ended; its completion may not have been posted yet.
    Done = 3,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its state.
    pub state: State,
    /// The client queue that the request came from, below [`QUEUES`].
    pub queue: u8,
    /// The identifier under which the device has it; kept when free, so that the next differs.
    pub cid: u16,
    /// How it ended, once done ([`Outcome::to_bits`](crate::block::Outcome::to_bits)).
    pub outcome: u32,
    /// The entry of the submission ring.
    pub request: [u64; 4],
    /// Its position in the submission ring.
    pub position: u32,
    /// The position of its completion in the completion ring, once done.
    pub posted: u32,
    /// Where the device has it: of the driver's own meaning.
    pub device: u64,
    /// When it was taken, in ticks of the CPU.
    pub taken: u64,
}

impl<W: Words> Ledger<W> {
    /// Fills slot `slot` with a request of client queue `queue`, at `position` of its ring.
    ///
    /// # Panics
    /// When there is no such slot.
    #[inline]
    pub fn take(
        &self,
        slot: usize,
        queue: u8,
        cid: u16,
        position: u32,
        request: [u64; 4],
        now: u64,
    ) {
        let base = slot_word(slot);
        for (offset, word) in request.into_iter().enumerate() {
            self.words.store(base + 1 + offset, word, Relaxed);
        }
        self.words.store(base + 5, position.into(), Relaxed);
        self.words.store(base + 7, now, Relaxed);
        self.words.store(base, head(State::Taken, queue, cid, 0), Release);
    }

    /// Says that the request of slot `slot` goes to the device as `cid`, and where it is there.
    ///
    /// # Panics
    /// When there is no such slot.
    #[inline]
    pub fn submitted(&self, slot: usize, queue: u8, cid: u16, device: u64) {
        let base = slot_word(slot);
        self.words.store(base + 6, device, Relaxed);
        self.words.store(base, head(State::Submitted, queue, cid, 0), Release);
    }

    /// Says that the request of slot `slot` is to be given to the device again.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn taken_again(&self, slot: usize, queue: u8, cid: u16) {
        self.words.store(slot_word(slot), head(State::Taken, queue, cid, 0), Release);
    }

    /// Says that the request of slot `slot` has ended, how, and at which position of the
    /// completion ring that is posted.
    ///
    /// # Panics
    /// When there is no such slot.
    #[inline]
    pub fn done(&self, slot: usize, queue: u8, cid: u16, posted: u32, outcome: u32) {
        let base = slot_word(slot);
        let position = self.words.load(base + 5, Relaxed) as u32;
        let positions = u64::from(posted) << 32 | u64::from(position);
        self.words.store(base + 5, positions, Relaxed);
        self.words.store(base, head(State::Done, queue, cid, outcome), Release);
    }

    /// Frees slot `slot`.
    ///
    /// # Panics
    /// When there is no such slot.
    #[inline]
    pub fn free(&self, slot: usize, cid: u16) {
        self.words.store(slot_word(slot), head(State::Free, 0, cid, 0), Release);
    }

    /// What slot `slot` holds.
    ///
    /// # Errors
    /// When its state or its queue cannot be.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn slot(&self, slot: usize) -> Result<Slot, LedgerError> {
        let base = slot_word(slot);
        let head = self.words.load(base, Acquire);
        let word = |offset| self.words.load(base + offset, Relaxed);
        let state = match head as u8 {
            0 => State::Free,
            1 => State::Taken,
            2 => State::Submitted,
            3 => State::Done,
            other => return Err(LedgerError(format!("slot {slot} is in state {other}"))),
        };
        let queue = (head >> 8) as u8;
        if usize::from(queue) >= QUEUES {
            return Err(LedgerError(format!("slot {slot} belongs to queue {queue}")));
        }
        Ok(Slot {
            state,
            queue,
            cid: (head >> 16) as u16,
            outcome: (head >> 32) as u32,
            request: [word(1), word(2), word(3), word(4)],
            position: word(5) as u32,
            posted: (word(5) >> 32) as u32,
            device: word(6),
            taken: word(7),
        })
    }
}

#[inline]
fn slot_word(slot: usize) -> usize {
    assert!(slot < SLOTS);
    SLOT + slot * SLOT_WORDS
}

#[inline]
const fn head(state: State, queue: u8, cid: u16, outcome: u32) -> u64 {
    state as u64 | (queue as u64) << 8 | (cid as u64) << 16 | (outcome as u64) << 32
}
