//! Pauses between completions: the load sees them, whoever harms the driver asks for them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use uniddrv::clock;

/// Shorter pauses are not told.
const SHORTEST: Duration = Duration::from_micros(20);
/// Pauses that are kept until they are asked for; more are dropped, the newest first.
const KEPT: usize = 1 << 14;

/// A time without a completion, in ticks of [`clock::ticks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    /// The last completion before it.
    pub(crate) begin: u64,
    /// The first after it.
    pub(crate) end: u64,
}

/// What both sides see.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shared {
    watching: AtomicBool,
    last: AtomicU64,
}

/// Both ends of a watch.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Shared,
    shortest: u64,
    sender: SyncSender<Pause>,
}

impl Watch {
    /// A watch, and where its pauses come out.
    pub(crate) fn new() -> (Self, Receiver<Pause>) {
        let (sender, receiver) = sync_channel(KEPT);
        (Self { shared: Shared::default(), shortest: clock::to_ticks(SHORTEST), sender }, receiver)
    }

    /// The load saw completions now, and the last ones before at `before`.
    #[inline]
    pub(crate) fn saw(&self, before: u64, now: u64) {
        if now.saturating_sub(before) > self.shortest
            && self.shared.watching.load(Ordering::Relaxed)
        {
            // Full: the harmed driver was long back then.
            let _ = self.sender.try_send(Pause { begin: before, end: now });
        }
        // After the pause: who sees this has the pause.
        self.shared.last.store(now, Ordering::Release);
    }

    /// From now on pauses are told, or not any more.
    pub(crate) fn set(&self, watching: bool) {
        self.shared.watching.store(watching, Ordering::Relaxed);
    }

    /// When the load saw completions last.
    pub(crate) fn last(&self) -> u64 {
        self.shared.last.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_pauses_are_told_while_asked_for() {
        let (watch, pauses) = Watch::new();
        let long = watch.shortest + 1;
        watch.saw(0, long);
        assert!(pauses.try_recv().is_err());
        watch.set(true);
        watch.saw(long, long + 1);
        watch.saw(long, 2 * long);
        assert_eq!(watch.last(), 2 * long);
        assert_eq!(pauses.try_iter().collect::<Vec<_>>(), [Pause { begin: long, end: 2 * long }]);
        for _ in 0..2 * KEPT {
            watch.saw(0, long);
        }
        assert_eq!(pauses.try_iter().count(), KEPT);
    }
}
