//! A ring of one producer and one consumer, in shared words.
//!
//! Indices are free-running `u32` in a word of their own each. Either side keeps its own index
//! and the capacity privately, a cached copy of the other side's index, and copies entries out
//! before use. So whatever the peer writes, this side stays within the ring and can tell an index
//! that cannot be.
//!
//! A side whose process died is followed by another that starts `at` the index that the ledger
//! has, and which is recorded there between filling or taking and `publish`. Its predecessor may
//! not have come to saying that index, so the first `publish` says it in any case.

use core::sync::atomic::Ordering;

use crate::words::Words;

/// Where a ring lies in its memory, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The producer's index: the next position that it will fill.
    pub tail: usize,
    /// The consumer's index: the next position that it will take.
    pub head: usize,
    /// The first entry.
    pub entries: usize,
    /// How many entries there are: a power of two.
    pub capacity: u32,
}

/// The peer's index says what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer's ring index {theirs:#x} cannot be, beside {ours:#x} and {capacity} entries")]
pub struct HostileIndex {
    /// What the peer wrote.
    pub theirs: u64,
    /// Our own index.
    pub ours: u32,
    /// Entries in the ring.
    pub capacity: u32,
}

/// The side that fills entries of `N` words.
#[derive(Debug)]
pub struct Producer<W, const N: usize> {
    words: W,
    layout: Layout,
    /// The next position to fill; published up to `published`.
    tail: u32,
    published: u32,
    /// Whether this side has said its index at all.
    said: bool,
    /// The consumer's index as of the last look.
    head: u32,
}

/// The side that takes entries of `N` words.
#[derive(Debug)]
pub struct Consumer<W, const N: usize> {
    words: W,
    layout: Layout,
    /// The next position to take; published up to `published`.
    head: u32,
    published: u32,
    /// Whether this side has said its index at all.
    said: bool,
    /// The producer's index as of the last look.
    tail: u32,
}

fn checked(layout: &Layout, len: usize, entry: usize) -> bool {
    let entries = (layout.capacity as usize).checked_mul(entry);
    layout.capacity.is_power_of_two()
        && layout.capacity <= 1 << 30
        && layout.tail < len
        && layout.head < len
        && entries.and_then(|e| e.checked_add(layout.entries)).is_some_and(|end| end <= len)
}

impl<W: Words, const N: usize> Producer<W, N> {
    /// The producing side from position `at` on: 0 in a new ring.
    ///
    /// # Panics
    /// When the layout does not lie in `words`, or the capacity is no power of two.
    pub fn new(words: W, layout: Layout, at: u32) -> Self {
        assert!(checked(&layout, words.count(), N), "a ring outside its memory: {layout:?}");
        // Full, until the consumer's index is looked at.
        let head = at.wrapping_sub(layout.capacity);
        Self { words, layout, tail: at, published: at, said: false, head }
    }

    /// The position that the next entry gets.
    #[inline]
    pub fn position(&self) -> u32 {
        self.tail
    }

    /// How many entries there is room for, looked up anew if fewer than `wanted` are known of.
    ///
    /// # Errors
    /// When the consumer's index cannot be.
    #[inline]
    pub fn room(&mut self, wanted: u32) -> Result<u32, HostileIndex> {
        let capacity = self.layout.capacity;
        // More was pushed than there was room for where the caller broke his word.
        let known = capacity.saturating_sub(self.tail.wrapping_sub(self.head));
        if known >= wanted {
            return Ok(known);
        }
        let theirs = self.words.load(self.layout.head, Ordering::Acquire);
        let filled = self.tail.wrapping_sub(theirs as u32);
        // It never goes back, nor past what was published.
        let before = self.tail.wrapping_sub(self.head);
        let unpublished = self.tail.wrapping_sub(self.published);
        let possible = unpublished..=before;
        if theirs > u64::from(u32::MAX) || !possible.contains(&filled) {
            return Err(HostileIndex { theirs, ours: self.tail, capacity });
        }
        self.head = theirs as u32;
        Ok(capacity.saturating_sub(filled))
    }

    /// Fills the next position. The consumer sees it after [`publish`](Self::publish). The caller
    /// knows that there is [`room`](Self::room): else an entry that was not taken is lost.
    #[inline]
    pub fn push(&mut self, entry: [u64; N]) {
        let index = (self.tail & (self.layout.capacity - 1)) as usize;
        let base = self.layout.entries + index * N;
        for (offset, word) in entry.into_iter().enumerate() {
            self.words.store(base + offset, word, Ordering::Relaxed);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Makes visible what was pushed. Whether there was anything; the first time, which may say
    /// what a predecessor could not, always so.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.said && self.published == self.tail {
            return false;
        }
        self.words.store(self.layout.tail, self.tail.into(), Ordering::Release);
        self.published = self.tail;
        self.said = true;
        true
    }

    /// The memory.
    pub fn words(&self) -> &W {
        &self.words
    }
}

impl<W: Words, const N: usize> Consumer<W, N> {
    /// The consuming side from position `at` on: 0 in a new ring.
    ///
    /// # Panics
    /// When the layout does not lie in `words`, or the capacity is no power of two.
    pub fn new(words: W, layout: Layout, at: u32) -> Self {
        assert!(checked(&layout, words.count(), N), "a ring outside its memory: {layout:?}");
        Self { words, layout, head: at, published: at, said: false, tail: at }
    }

    /// The position of the next entry.
    #[inline]
    pub fn position(&self) -> u32 {
        self.head
    }

    /// How many entries wait, looked up anew if none is known of.
    ///
    /// # Errors
    /// When the producer's index cannot be.
    #[inline]
    pub fn available(&mut self) -> Result<u32, HostileIndex> {
        let known = self.tail.wrapping_sub(self.head);
        if known > 0 {
            return Ok(known);
        }
        self.look()
    }

    /// How many entries wait, as of now.
    ///
    /// # Errors
    /// When the producer's index cannot be.
    #[inline]
    pub fn look(&mut self) -> Result<u32, HostileIndex> {
        let theirs = self.words.load(self.layout.tail, Ordering::Acquire);
        let waiting = (theirs as u32).wrapping_sub(self.head);
        // It never goes back, and never fills what was not given back.
        let before = self.tail.wrapping_sub(self.head);
        let room = self.layout.capacity - self.head.wrapping_sub(self.published);
        if theirs > u64::from(u32::MAX) || waiting > room || waiting < before {
            return Err(HostileIndex { theirs, ours: self.head, capacity: self.layout.capacity });
        }
        self.tail = theirs as u32;
        Ok(waiting)
    }

    /// Copies the next entry out and moves on, if one is known to wait
    /// ([`available`](Self::available)). Its position stays taken until
    /// [`publish`](Self::publish).
    #[inline]
    pub fn pop(&mut self) -> Option<[u64; N]> {
        if self.tail == self.head {
            return None;
        }
        let index = (self.head & (self.layout.capacity - 1)) as usize;
        let base = self.layout.entries + index * N;
        let mut entry = [0; N];
        for (offset, word) in entry.iter_mut().enumerate() {
            *word = self.words.load(base + offset, Ordering::Relaxed);
        }
        self.head = self.head.wrapping_add(1);
        Some(entry)
    }

    /// Gives the positions of what was popped back to the producer. Whether there were any; the
    /// first time, which may say what a predecessor could not, always so.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.said && self.published == self.head {
            return false;
        }
        self.words.store(self.layout.head, self.head.into(), Ordering::Release);
        self.published = self.head;
        self.said = true;
        true
    }

    /// The memory.
    pub fn words(&self) -> &W {
        &self.words
    }
}

#[cfg(test)]
mod tests;
