//! What is counted for each client queue, latencies too.

use core::sync::atomic::Ordering::Relaxed;

use super::{HISTOGRAM, Ledger, QUEUE, QUEUE_WORDS, QUEUES};
use crate::words::Words;

/// Buckets of a latency histogram.
pub const BUCKETS: usize = 256;
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

impl<W: Words> Ledger<W> {
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

    /// Counts the requests of client queue `queue` that ended, by the position up to which
    /// completions are posted: counting once more, as a successor does, changes nothing.
    ///
    /// # Panics
    /// When there is no such queue.
    #[inline]
    pub fn count_ios(&self, queue: u8, position: u32) {
        // Both began at 0, and the position is the count's low half.
        let before = self.count(queue, Count::Ios);
        let more = position.wrapping_sub(before as u32);
        self.set_count(queue, Count::Ios, before.wrapping_add(more.into()));
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
