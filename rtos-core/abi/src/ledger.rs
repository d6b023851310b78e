//! The ledger: what a driver process keeps for its successor, in memory that the core owns and no
//! device reaches.
//!
//! A request lives in a slot from the moment it is taken from a client's ring until its
//! completion was posted. The order of the stores makes each moment of a death recognisable:
//!
//! | the driver | before that, the ledger |
//! |---|---|
//! | gives the position back to the client | has the request in a slot ([`Ledger::take`]), and the consumer index |
//! | rings the device's doorbell | says where in the device's queue it is ([`Ledger::submitted`]), and that queue's tail |
//! | posts the completion to the client | says that it is done, how, and at which position ([`Ledger::done`]), and the producer index |
//! | frees the slot | has the head of the device's completion queue |
//!
//! Entries of the completion ring are written before the producer index is recorded. A successor
//! therefore needs nothing that a client could have written to.

mod counts;
mod slot;
mod suspect;

pub use counts::{BUCKETS, Count, bucket, bucket_start};
pub use slot::{Slot, State};
pub use suspect::Breadcrumb;

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::queue::MAX_DEPTH;
use crate::words::Words;

/// Says that this is a ledger, and of which layout.
pub const MAGIC: u64 = u64::from_le_bytes(*b"uniled01");

/// Slots: the most requests that a driver has in flight.
pub const SLOTS: usize = 1024;
/// Client queues that a driver serves at once.
pub const QUEUES: usize = 64;
/// Words that belong to the driver of a kind of device.
pub const DEVICE_WORDS: usize = 1024;
/// The most bytes of a driver's last words.
pub const LAST_WORDS: usize = 63 * 8;

const PHASE: usize = 1;
const HEARTBEAT: usize = 8;
const ASKING: usize = 9;
const ASLEEP: usize = 16;
const BREADCRUMB: usize = 24;
const SUSPECT: usize = 32;
const SUSPICIONS: usize = 33;
const ADOPTION_BEGAN: usize = 40;
const ADOPTION_ENDED: usize = 41;
const FIRST_COMPLETION: usize = 42;
const ATTENTION: usize = 44;
const COMPLETED: usize = 48;
const RESETS: usize = 49;
const REISSUED: usize = 50;
const ARMED: usize = 56;
const ARMED_COUNT: usize = 57;
const LAST_WORDS_LEN: usize = 64;
const LAST_WORDS_TEXT: usize = 65;
const DEVICE: usize = 256;
const QUEUE: usize = DEVICE + DEVICE_WORDS;
const QUEUE_WORDS: usize = 32;
const HISTOGRAM: usize = QUEUE + QUEUES * QUEUE_WORDS;
const SLOT: usize = HISTOGRAM + QUEUES * BUCKETS;
const SLOT_WORDS: usize = 8;

/// Words of a ledger.
pub const WORDS: usize = SLOT + SLOTS * SLOT_WORDS;
/// Bytes of a ledger, in whole pages of 4 KiB.
pub const BYTES: usize = (WORDS * 8).next_multiple_of(4096);

/// A ledger that cannot be one, or says what cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger does not check out: {0}")]
pub struct LedgerError(pub String);

/// How far a driver got with its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Phase {
    /// Nobody has had the device yet.
    Fresh = 0,
    /// It is being brought up or reset; only a reset leads on from here.
    BringingUp = 1,
    /// It runs, and can be adopted.
    Running = 2,
    /// Its driver stopped at a clean point, to be followed by another.
    Quiesced = 3,
}

/// A ledger in shared words.
#[derive(Clone, Debug)]
pub struct Ledger<W> {
    words: W,
}

impl<W: Words> Ledger<W> {
    /// A view of `words`, whatever they hold.
    ///
    /// # Errors
    /// When there are too few of them.
    pub fn new(words: W) -> Result<Self, LedgerError> {
        if words.count() < WORDS {
            return Err(LedgerError(format!("{} words, not {WORDS}", words.count())));
        }
        Ok(Self { words })
    }

    /// Makes memory that holds zeroes a ledger.
    pub fn initialise(&self) {
        self.words.store(0, MAGIC, Release);
    }

    /// Checks that this is a ledger of our layout.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self) -> Result<(), LedgerError> {
        match self.words.load(0, Acquire) {
            MAGIC => Ok(()),
            other => Err(LedgerError(format!("it begins with {other:#018x}, not {MAGIC:#018x}"))),
        }
    }

    fn get(&self, word: usize) -> u64 {
        self.words.load(word, Acquire)
    }

    fn set(&self, word: usize, value: u64) {
        self.words.store(word, value, Release);
    }

    /// Adds to a word that only the driver writes.
    #[inline]
    fn add(&self, word: usize, value: u64) {
        let sum = self.words.load(word, Relaxed).wrapping_add(value);
        self.words.store(word, sum, Relaxed);
    }

    /// How far the driver got.
    ///
    /// # Errors
    /// When it is no phase.
    pub fn phase(&self) -> Result<Phase, LedgerError> {
        Ok(match self.get(PHASE) {
            0 => Phase::Fresh,
            1 => Phase::BringingUp,
            2 => Phase::Running,
            3 => Phase::Quiesced,
            other => return Err(LedgerError(format!("phase {other}"))),
        })
    }

    /// Says how far the driver got.
    pub fn set_phase(&self, phase: Phase) {
        self.set(PHASE, phase as u64);
    }

    /// A beat of the driver's heart.
    #[inline]
    pub fn beat(&self) {
        self.add(HEARTBEAT, 1);
    }

    /// Whether the driver waits for an answer of the core about its device, which takes as long as
    /// the device does: no heartbeat is expected then.
    pub fn asking(&self) -> bool {
        self.get(ASKING) != 0
    }

    /// Says whether the driver waits for an answer of the core.
    pub fn set_asking(&self, asking: bool) {
        self.set(ASKING, asking.into());
    }

    /// Beats so far.
    pub fn beats(&self) -> u64 {
        self.words.load(HEARTBEAT, Relaxed)
    }

    /// Whether the driver sleeps, and has no heartbeat.
    pub fn asleep(&self) -> bool {
        self.get(ASLEEP) != 0
    }

    /// Says whether the driver sleeps.
    pub fn set_asleep(&self, asleep: bool) {
        self.set(ASLEEP, asleep.into());
    }

    /// How often the core had something to say: a driver that sees this change looks at its
    /// control socket.
    #[inline]
    pub fn attention(&self) -> u64 {
        self.words.load(ATTENTION, Acquire)
    }

    /// Has the driver look at its control socket: the core's to call, after sending.
    pub fn call_attention(&self) {
        let count = self.get(ATTENTION).wrapping_add(1);
        self.words.store(ATTENTION, count, Release);
        self.words.fence();
    }

    /// When the last adoption began and ended and its first completion was posted, in
    /// nanoseconds of the monotonic clock.
    pub fn adoption(&self) -> (u64, u64, u64) {
        (self.get(ADOPTION_BEGAN), self.get(ADOPTION_ENDED), self.get(FIRST_COMPLETION))
    }

    /// Says when the adoption began: at `now`.
    pub fn adoption_began(&self, now: u64) {
        self.set(ADOPTION_ENDED, 0);
        self.set(FIRST_COMPLETION, 0);
        self.set(ADOPTION_BEGAN, now);
    }

    /// Says when the adoption ended: at `now`.
    pub fn adoption_ended(&self, now: u64) {
        self.set(ADOPTION_ENDED, now);
    }

    /// Says when the first completion after the adoption was posted: at `now`.
    pub fn first_completion(&self, now: u64) {
        self.set(FIRST_COMPLETION, now);
    }

    /// Requests that ended since the ledger was made, whoever drove.
    pub fn completed(&self) -> u64 {
        self.get(COMPLETED)
    }

    /// Counts requests that ended.
    #[inline]
    pub fn count_completed(&self, count: u64) {
        self.add(COMPLETED, count);
    }

    /// Resets of the device, and requests that were issued again after one.
    pub fn resets(&self) -> (u64, u64) {
        (self.get(RESETS), self.get(REISSUED))
    }

    /// Counts a reset of the device after which `reissued` requests are issued again.
    pub fn count_reset(&self, reissued: u64) {
        self.add(RESETS, 1);
        self.add(REISSUED, reissued);
    }

    /// For tests of recovery: the step at which the driver is to end, how, and after how many
    /// passes (0: none).
    pub fn armed(&self) -> (u64, u64) {
        (self.get(ARMED), self.get(ARMED_COUNT))
    }

    /// For tests of recovery: see [`armed`](Self::armed).
    pub fn arm(&self, step: u64, count: u64) {
        self.set(ARMED_COUNT, count);
        self.set(ARMED, step);
    }

    /// What the driver said last: a panic's message or a signal. Not more than [`LAST_WORDS`]
    /// bytes of it are kept.
    pub fn set_last_words(&self, text: &[u8]) {
        let len = text.len().min(LAST_WORDS);
        for (index, chunk) in text[..len].chunks(8).enumerate() {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            self.words.store(LAST_WORDS_TEXT + index, u64::from_le_bytes(bytes), Relaxed);
        }
        self.set(LAST_WORDS_LEN, len as u64);
    }

    /// What the driver said last, if anything.
    pub fn last_words(&self) -> Option<String> {
        let len = usize::try_from(self.get(LAST_WORDS_LEN)).ok()?.min(LAST_WORDS);
        let bytes: Vec<u8> = (0..len.div_ceil(8))
            .flat_map(|index| self.words.load(LAST_WORDS_TEXT + index, Relaxed).to_le_bytes())
            .take(len)
            .collect();
        (len > 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads a word of the driver's own.
    ///
    /// # Panics
    /// When there is no such word.
    #[inline]
    pub fn device(&self, index: usize) -> u64 {
        assert!(index < DEVICE_WORDS);
        self.words.load(DEVICE + index, Acquire)
    }

    /// Writes a word of the driver's own.
    ///
    /// # Panics
    /// When there is no such word.
    #[inline]
    pub fn set_device(&self, index: usize, value: u64) {
        assert!(index < DEVICE_WORDS);
        self.words.store(DEVICE + index, value, Release);
    }

    /// The driver's indices into the rings of client queue `queue`: of the next submission that it
    /// takes, and of the next completion that it posts.
    ///
    /// # Panics
    /// When there is no such queue.
    pub fn indices(&self, queue: u8) -> (u32, u32) {
        assert!(usize::from(queue) < QUEUES);
        let word = QUEUE + usize::from(queue) * QUEUE_WORDS;
        (self.get(word) as u32, self.get(word + 1) as u32)
    }

    /// Says up to where submissions were taken. Before the client sees it.
    ///
    /// # Panics
    /// When there is no such queue.
    #[inline]
    pub fn set_consumer(&self, queue: u8, position: u32) {
        assert!(usize::from(queue) < QUEUES);
        let word = QUEUE + usize::from(queue) * QUEUE_WORDS;
        self.words.store(word, position.into(), Release);
    }

    /// Says up to where completions were posted. Before the client sees it.
    ///
    /// # Panics
    /// When there is no such queue.
    #[inline]
    pub fn set_producer(&self, queue: u8, position: u32) {
        assert!(usize::from(queue) < QUEUES);
        let word = QUEUE + usize::from(queue) * QUEUE_WORDS + 1;
        self.words.store(word, position.into(), Release);
    }

    /// Sets the indices and counts of client queue `queue` to 0, for another client.
    ///
    /// # Panics
    /// When there is no such queue.
    pub fn clear_queue(&self, queue: u8) {
        assert!(usize::from(queue) < QUEUES);
        let word = QUEUE + usize::from(queue) * QUEUE_WORDS;
        for word in word..word + QUEUE_WORDS {
            self.set(word, 0);
        }
        let word = HISTOGRAM + usize::from(queue) * BUCKETS;
        for word in word..word + BUCKETS {
            self.set(word, 0);
        }
    }

    /// The memory.
    pub fn words(&self) -> &W {
        &self.words
    }
}

const _: () = assert!(SLOTS >= MAX_DEPTH as usize && SLOTS <= 1 << 15);

#[cfg(test)]
mod tests;
