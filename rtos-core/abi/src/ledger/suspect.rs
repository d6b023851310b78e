//! The request that is being worked on, and the suspicion that it kills drivers.

use core::sync::atomic::Ordering::Release;

use super::{BREADCRUMB, Ledger, QUEUES, SUSPECT, SUSPICIONS};
use crate::words::Words;

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
        let queue = (bits >> 32) as u8;
        // Anything else was not left by us, and `queue` has to be fit for an index.
        if bits >> 40 != 1 << 23 || queue as usize >= QUEUES {
            return None;
        }
        Some(Self { queue, position: bits as u32 })
    }
}

impl<W: Words> Ledger<W> {
    /// The request being worked on. A successor clears what its predecessor left, once that was
    /// counted: else a death before its own first request would be counted against that one.
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
        let count = match Breadcrumb::from_bits(bits) {
            None => 0,
            Some(_) if bits == self.get(SUSPECT) => self.get(SUSPICIONS).saturating_add(1),
            Some(_) => 1,
        };
        self.set(SUSPECT, bits);
        self.set(SUSPICIONS, count);
        count
    }
}
