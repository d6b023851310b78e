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
//! A successor therefore needs nothing that a client could have written to.

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
/// Buckets of a latency histogram.
pub const BUCKETS: usize = 256;
/// The most bytes of a driver's last words.
pub const LAST_WORDS: usize = 63 * 8;

const PHASE: usize = 1;
const HEARTBEAT: usize = 8;
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

/// The request being worked on: a client queue and a position in its submission ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breadcrumb {
    /// The client queue.
    pub queue: u8,
    /// The position.
    pub position: u32,
}

impl Breadcrumb {
    const fn to_bits(self) -> u64 {
        1 << 63 | (self.queue as u64) << 32 | self.position as u64
    }

    const fn from_bits(bits: u64) -> Option<Self> {
        if bits >> 63 == 0 {
            return None;
        }
        Some(Self { queue: (bits >> 32) as u8, position: bits as u32 })
    }
}

/// A count that is kept for each client queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Requests that ended, successfully or not.
    Ios = 8,
    /// Bytes read.
    BytesRead = 9,
    /// Bytes written.
    BytesWritten = 10,
    /// Requests that failed.
    Errors = 11,
    /// Requests in flight, as of the last poll.
    InFlight = 12,
    /// Requests that had to wait for a limit.
    Throttled = 13,
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
        self.words.load(ATTENTION, Relaxed)
    }

    /// Has the driver look at its control socket: the core's to call, after sending.
    pub fn call_attention(&self) {
        let count = self.get(ATTENTION).wrapping_add(1);
        self.words.store(ATTENTION, count, Release);
        self.words.fence();
    }

    /// The request being worked on.
    pub fn breadcrumb(&self) -> Option<Breadcrumb> {
        Breadcrumb::from_bits(self.get(BREADCRUMB))
    }

    /// Says which request is worked on.
    #[inline]
    pub fn set_breadcrumb(&self, breadcrumb: Option<Breadcrumb>) {
        let bits = match breadcrumb {
            Some(breadcrumb) => breadcrumb.to_bits(),
            None => 0,
        };
        self.words.store(BREADCRUMB, bits, Release);
    }

    /// The request that was worked on at the last deaths by fault or hang, and at how many in a
    /// row.
    pub fn suspect(&self) -> (Option<Breadcrumb>, u64) {
        (Breadcrumb::from_bits(self.get(SUSPECT)), self.get(SUSPICIONS))
    }

    /// Counts a death by fault or hang against the request that was being worked on. At how many
    /// in a row it was.
    pub fn suspect_breadcrumb(&self) -> u64 {
        let bits = self.get(BREADCRUMB);
        let same = bits >> 63 != 0 && bits == self.get(SUSPECT);
        let count = if same { self.get(SUSPICIONS).saturating_add(1) } else { bits >> 63 };
        self.set(SUSPECT, bits);
        self.set(SUSPICIONS, count);
        count
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
        (self.words.load(ARMED, Relaxed), self.words.load(ARMED_COUNT, Relaxed))
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

    /// A count of client queue `queue`.
    ///
    /// # Panics
    /// When there is no such queue.
    pub fn count(&self, queue: u8, count: Count) -> u64 {
        assert!(usize::from(queue) < QUEUES);
        self.words.load(QUEUE + usize::from(queue) * QUEUE_WORDS + count as usize, Relaxed)
    }

    /// Adds to a count of client queue `queue`.
    ///
    /// # Panics
    /// When there is no such queue.
    #[inline]
    pub fn add_count(&self, queue: u8, count: Count, value: u64) {
        assert!(usize::from(queue) < QUEUES);
        self.add(QUEUE + usize::from(queue) * QUEUE_WORDS + count as usize, value);
    }

    /// Sets a count of client queue `queue`.
    ///
    /// # Panics
    /// When there is no such queue.
    #[inline]
    pub fn set_count(&self, queue: u8, count: Count, value: u64) {
        assert!(usize::from(queue) < QUEUES);
        let word = QUEUE + usize::from(queue) * QUEUE_WORDS + count as usize;
        self.words.store(word, value, Relaxed);
    }

    /// Counts a latency of `ticks` of the CPU.
    ///
    /// # Panics
    /// When there is no such queue.
    #[inline]
    pub fn count_latency(&self, queue: u8, ticks: u64) {
        assert!(usize::from(queue) < QUEUES);
        self.add(HISTOGRAM + usize::from(queue) * BUCKETS + bucket(ticks), 1);
    }

    /// The latency histogram of client queue `queue`: how many were in each bucket.
    ///
    /// # Panics
    /// When there is no such queue.
    pub fn latencies(&self, queue: u8) -> Vec<u64> {
        assert!(usize::from(queue) < QUEUES);
        let start = HISTOGRAM + usize::from(queue) * BUCKETS;
        (start..start + BUCKETS).map(|word| self.words.load(word, Relaxed)).collect()
    }

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

    /// The memory.
    pub fn words(&self) -> &W {
        &self.words
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

/// The bucket of a latency: eight to each power of two.
#[inline]
pub const fn bucket(ticks: u64) -> usize {
    if ticks < 8 {
        return ticks as usize;
    }
    let exponent = 63 - ticks.leading_zeros() as usize;
    let index = (exponent - 2) * 8 + (ticks >> (exponent - 3)) as usize % 8;
    if index < BUCKETS { index } else { BUCKETS - 1 }
}

/// The least latency of a bucket, in ticks.
pub const fn bucket_start(index: usize) -> u64 {
    if index < 8 {
        return index as u64;
    }
    let exponent = index / 8 + 2;
    (8 + index as u64 % 8) << (exponent - 3)
}

const _: () = assert!(SLOTS >= MAX_DEPTH as usize && SLOTS <= 1 << 15);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::private;

    fn ledger() -> Ledger<Box<[core::sync::atomic::AtomicU64]>> {
        let ledger = Ledger::new(private(WORDS)).unwrap();
        ledger.initialise();
        ledger
    }

    #[test]
    fn a_slot_lives_through_its_states() {
        let ledger = ledger();
        ledger.take(1023, 63, 7, 0xffff_ffff, [1, 2, 3, 4], 99);
        let slot = ledger.slot(1023).unwrap();
        assert_eq!((slot.state, slot.queue, slot.cid), (State::Taken, 63, 7));
        assert_eq!((slot.request, slot.position, slot.taken), ([1, 2, 3, 4], 0xffff_ffff, 99));
        ledger.submitted(1023, 63, 8, 55);
        let slot = ledger.slot(1023).unwrap();
        assert_eq!((slot.state, slot.cid, slot.device), (State::Submitted, 8, 55));
        ledger.done(1023, 63, 8, 77, 0x1_0005);
        let slot = ledger.slot(1023).unwrap();
        assert_eq!((slot.state, slot.posted, slot.outcome), (State::Done, 77, 0x1_0005));
        assert_eq!((slot.position, slot.request), (0xffff_ffff, [1, 2, 3, 4]));
        ledger.free(1023, 8);
        let slot = ledger.slot(1023).unwrap();
        assert_eq!((slot.state, slot.cid), (State::Free, 8));
    }

    #[test]
    fn buckets_rise_without_a_gap() {
        let mut last = 0;
        for ticks in 0..100_000u64 {
            let index = bucket(ticks);
            assert!(index == last || index == last + 1, "{ticks}: {last} -> {index}");
            assert!(bucket_start(index) <= ticks && ticks < bucket_start(index + 1));
            last = index;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_request_is_suspected_only_in_a_row() {
        let ledger = ledger();
        assert_eq!(ledger.suspect_breadcrumb(), 0);
        let one = Breadcrumb { queue: 1, position: 5 };
        ledger.set_breadcrumb(Some(one));
        assert_eq!((ledger.suspect_breadcrumb(), ledger.suspect_breadcrumb()), (1, 2));
        ledger.set_breadcrumb(Some(Breadcrumb { queue: 1, position: 6 }));
        assert_eq!(ledger.suspect_breadcrumb(), 1);
        ledger.set_breadcrumb(Some(one));
        assert_eq!(ledger.suspect_breadcrumb(), 1);
        ledger.set_breadcrumb(None);
        assert_eq!(ledger.suspect_breadcrumb(), 0);
    }
}
