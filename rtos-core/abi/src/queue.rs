//! A client's queue in shared memory: a submission ring from client to driver, a completion ring
//! back, and words by which each side sleeps, is woken, and learns of the end.

use core::sync::atomic::Ordering;

use crate::ring::{Consumer, Layout, Producer};
use crate::words::Words;

/// Words of a submission entry.
pub const SUBMISSION: usize = 4;
/// Words of a completion entry.
pub const COMPLETION: usize = 2;
/// The most entries of a ring.
pub const MAX_DEPTH: u32 = 1024;

// Each word that one side writes has a cache line of its own, so that nobody's writes slow
// down what the other polls.
const SUBMISSION_TAIL: usize = 0;
const COMPLETION_HEAD: usize = 8;
const SUBMISSION_HEAD: usize = 16;
const COMPLETION_TAIL: usize = 24;
const CLIENT_SLEEPS: usize = 32;
const DRIVER_SLEEPS: usize = 40;
const CLOSED: usize = 48;
const EPOCH: usize = 49;
const CLIENT_EPOCH: usize = 56;
const ENTRIES: usize = 64;

/// The client's end of the submission ring.
pub type Submitter<W> = Producer<W, SUBMISSION>;
/// The driver's end of the submission ring.
pub type Taker<W> = Consumer<W, SUBMISSION>;
/// The driver's end of the completion ring.
pub type Poster<W> = Producer<W, COMPLETION>;
/// The client's end of the completion ring.
pub type Reaper<W> = Consumer<W, COMPLETION>;

/// How many words a queue of `depth` entries takes; `depth` is a power of two up to
/// [`MAX_DEPTH`].
pub const fn words_for(depth: u32) -> usize {
    ENTRIES + depth as usize * (SUBMISSION + COMPLETION)
}

/// Where the submission ring of a queue of `depth` entries lies.
pub const fn submission(depth: u32) -> Layout {
    Layout { tail: SUBMISSION_TAIL, head: SUBMISSION_HEAD, entries: ENTRIES, capacity: depth }
}

/// Where the completion ring of a queue of `depth` entries lies.
pub const fn completion(depth: u32) -> Layout {
    Layout {
        tail: COMPLETION_TAIL,
        head: COMPLETION_HEAD,
        entries: ENTRIES + depth as usize * SUBMISSION,
        capacity: depth,
    }
}

/// Which side sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The driver.
    Driver,
}

impl Side {
    const fn word(self) -> usize {
        match self {
            Self::Client => CLIENT_SLEEPS,
            Self::Driver => DRIVER_SLEEPS,
        }
    }
}

/// Says that `side` is about to sleep. It has to look once more before it does at whatever it
/// could be woken for (the rings, [`closed`], [`epoch`], [`renewed`]): whoever changed that before
/// this was seen finds no reason to wake it.
pub fn announce_sleep(words: &impl Words, side: Side) {
    words.store(side.word(), 1, Ordering::Relaxed);
    words.fence();
}

/// Takes back what [`announce_sleep`] said.
pub fn awake(words: &impl Words, side: Side) {
    words.store(side.word(), 0, Ordering::Relaxed);
}

/// Whether `side` has to be woken; asked after publishing, or otherwise saying, what it should
/// see.
#[inline]
pub fn must_wake(words: &impl Words, side: Side) -> bool {
    words.fence();
    words.load(side.word(), Ordering::Relaxed) != 0
}

/// As [`must_wake`] for one who has fenced already, since he published.
#[inline]
pub fn says_it_sleeps(words: &impl Words, side: Side) -> bool {
    words.load(side.word(), Ordering::Relaxed) != 0
}

/// Tells the client that the queue has ended: the core's to say, which wakes it next. `reason` is
/// not 0.
pub fn close(words: &impl Words, reason: u32) {
    words.store(CLOSED, reason.max(1).into(), Ordering::Release);
}

/// Why the queue has ended; 0 while it goes on.
#[inline]
pub fn closed(words: &impl Words) -> u32 {
    words.load(CLOSED, Ordering::Relaxed) as u32
}

/// Starts the rings over, the driver's part: for a successor that cannot use what its predecessor
/// left. The driver's own indices are 0 again; the client is asked to start over too, and to submit
/// again what it has not seen completed. It may sleep, so it is woken if [`must_wake`] says so.
///
/// Nothing but the epoch changes here, so until it follows the client finds its rings as they were.
/// The driver neither takes nor posts nor publishes anything before [`renewed`]; nor does another
/// driver that adopts from this one, so every driver asks that before it begins with a queue.
pub fn renew(words: &impl Words) {
    let epoch = words.load(EPOCH, Ordering::Relaxed) as u32;
    words.store(EPOCH, epoch.wrapping_add(1).into(), Ordering::Release);
}

/// The epoch that the driver is in. A client that finds an index that cannot be looks here before
/// it calls the driver hostile.
#[inline]
pub fn epoch(words: &impl Words) -> u32 {
    words.load(EPOCH, Ordering::Acquire) as u32
}

/// Follows the driver into `epoch`, the client's part: all indices are 0 again, the driver's too,
/// which it leaves alone until then. The driver may sleep, so it is woken if [`must_wake`] says
/// so.
pub fn follow(words: &impl Words, epoch: u32) {
    for index in [SUBMISSION_TAIL, SUBMISSION_HEAD, COMPLETION_TAIL, COMPLETION_HEAD] {
        words.store(index, 0, Ordering::Relaxed);
    }
    words.store(CLIENT_EPOCH, epoch.into(), Ordering::Release);
}

/// Whether the client has followed into the driver's epoch.
#[inline]
pub fn renewed(words: &impl Words) -> bool {
    words.load(CLIENT_EPOCH, Ordering::Acquire) as u32
        == words.load(EPOCH, Ordering::Relaxed) as u32
}

#[cfg(test)]
mod tests;
