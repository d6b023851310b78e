//! Shared memory as words that every access reads or writes whole.

use core::sync::atomic::Ordering;

/// Memory that several processes share, in 64-bit words. Every access is atomic, so a peer that
/// writes at the wrong moment yields a wrong value and nothing worse.
pub trait Words {
    /// How many words there are.
    fn count(&self) -> usize;

    /// Reads the word `index`. `order` is `Relaxed`, `Acquire` or `SeqCst`.
    ///
    /// # Panics
    /// When there is no such word.
    fn load(&self, index: usize, order: Ordering) -> u64;

    /// Writes the word `index`. `order` is `Relaxed`, `Release` or `SeqCst`.
    ///
    /// # Panics
    /// When there is no such word.
    fn store(&self, index: usize, value: u64, order: Ordering);

    /// A sequentially consistent fence: what was stored before is visible to whoever passed
    /// one later.
    fn fence(&self);
}

impl<W: Words + ?Sized> Words for &W {
    #[inline]
    fn count(&self) -> usize {
        (**self).count()
    }
    #[inline]
    fn load(&self, index: usize, order: Ordering) -> u64 {
        (**self).load(index, order)
    }
    #[inline]
    fn store(&self, index: usize, value: u64, order: Ordering) {
        (**self).store(index, value, order);
    }
    #[inline]
    fn fence(&self) {
        (**self).fence();
    }
}

/// Words of this process alone: for tests, and for a driver that nobody supervises.
impl Words for Box<[core::sync::atomic::AtomicU64]> {
    #[inline]
    fn count(&self) -> usize {
        (**self).len()
    }
    #[inline]
    fn load(&self, index: usize, order: Ordering) -> u64 {
        self[index].load(order)
    }
    #[inline]
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self[index].store(value, order);
    }
    #[inline]
    fn fence(&self) {
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// `count` words of this process alone, all 0.
pub fn private(count: usize) -> Box<[core::sync::atomic::AtomicU64]> {
    (0..count).map(|_| core::sync::atomic::AtomicU64::new(0)).collect()
}
