//! The ledger of a device's drivers, as the core sees it. What a driver wrote there is a claim:
//! it is shown, compared and counted, and nothing of the core's depends on it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use uniddrv::shared::{self, SharedWords};
use uniddrv_abi::Words as _;
use uniddrv_abi::block::Submission;
use uniddrv_abi::ledger::{BUCKETS, BYTES, Breadcrumb, Count, Ledger, Phase, SLOTS, State};
use uniddrv_abi::message::Beginning;

/// A ledger in memory that a driver shares.
pub(crate) type DriverLedger = Ledger<SharedWords>;

/// A ledger, and the file that a driver maps it from.
#[derive(Debug)]
pub(crate) struct LedgerMemory {
    file: OwnedFd,
    pub(crate) ledger: DriverLedger,
}

impl LedgerMemory {
    /// A new one.
    ///
    /// # Errors
    /// ENOMEM, EMFILE.
    pub(crate) fn new() -> io::Result<Self> {
        let file = shared::create("uniddrv-ledger", BYTES)?;
        let words = SharedWords::map(file.as_fd(), BYTES)?;
        let ledger = Ledger::new(words).map_err(|error| io::Error::other(error.to_string()))?;
        ledger.initialise();
        Ok(Self { file, ledger })
    }

    /// Its file.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// How a successor has to begin with the device; nothing where the ledger does not check out.
    pub(crate) fn beginning(&self) -> Option<Beginning> {
        self.ledger.check().ok()?;
        Some(match self.ledger.phase().ok()? {
            Phase::Fresh => Beginning::Fresh,
            Phase::BringingUp => Beginning::Reset,
            Phase::Running | Phase::Quiesced => Beginning::Adopt,
        })
    }

    /// Makes it what no driver can read.
    pub(crate) fn scramble(&self) {
        let words = self.ledger.words();
        words.store(0, !uniddrv_abi::ledger::MAGIC, std::sync::atomic::Ordering::Release);
    }

    /// Whether a request is in the driver's hands or the device's.
    pub(crate) fn is_busy(&self) -> bool {
        let taken = |slot| {
            self.ledger.slot(slot).is_ok_and(|slot| {
                matches!(slot.state, State::Taken | State::Submitted | State::Done)
            })
        };
        (0..SLOTS).any(taken)
    }

    /// The request that was being worked on, in words.
    pub(crate) fn request(&self, breadcrumb: Breadcrumb) -> String {
        let is_it = |slot: &uniddrv_abi::ledger::Slot| {
            slot.state != State::Free
                && (slot.queue, slot.position) == (breadcrumb.queue, breadcrumb.position)
        };
        let slot = (0..SLOTS).filter_map(|slot| self.ledger.slot(slot).ok()).find(is_it);
        let place = format!("queue {} position {}", breadcrumb.queue, breadcrumb.position);
        let what = slot.and_then(|slot| Submission::from_words(slot.request));
        match what {
            Some(Submission { opcode, blocks, lba, .. }) => {
                format!("{place}: {opcode:?} of {blocks} blocks at {lba}")
            }
            None => place,
        }
    }
}

/// What was counted.
#[derive(Clone, Debug)]
pub(crate) struct Totals {
    pub(crate) ios: u64,
    pub(crate) errors: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) in_flight: u64,
    /// Requests by bucket of their latency.
    pub(crate) latencies: Vec<u64>,
}

impl Default for Totals {
    fn default() -> Self {
        let latencies = vec![0; BUCKETS];
        Self { ios: 0, errors: 0, bytes_read: 0, bytes_written: 0, in_flight: 0, latencies }
    }
}

impl Totals {
    /// Adds what a queue counts.
    pub(crate) fn add_queue(&mut self, ledger: &DriverLedger, queue: u8) {
        let count = |count| ledger.count(queue, count);
        self.add(&Self {
            ios: count(Count::Ios),
            errors: count(Count::Errors),
            bytes_read: count(Count::BytesRead),
            bytes_written: count(Count::BytesWritten),
            in_flight: count(Count::InFlight),
            latencies: ledger.latencies(queue),
        });
    }

    /// Adds `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        let add = |sum: &mut u64, value: u64| *sum = sum.wrapping_add(value);
        add(&mut self.ios, other.ios);
        add(&mut self.errors, other.errors);
        add(&mut self.bytes_read, other.bytes_read);
        add(&mut self.bytes_written, other.bytes_written);
        add(&mut self.in_flight, other.in_flight);
        for (sum, &value) in self.latencies.iter_mut().zip(&other.latencies) {
            add(sum, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_says_how_to_begin() {
        let memory = LedgerMemory::new().unwrap();
        assert_eq!(memory.beginning(), Some(Beginning::Fresh));
        for (phase, beginning) in [
            (Phase::BringingUp, Beginning::Reset),
            (Phase::Running, Beginning::Adopt),
            (Phase::Quiesced, Beginning::Adopt),
        ] {
            memory.ledger.set_phase(phase);
            assert_eq!(memory.beginning(), Some(beginning));
        }
        memory.scramble();
        assert_eq!(memory.beginning(), None);
    }

    #[test]
    fn the_request_being_worked_on_is_named() {
        use uniddrv_abi::block::Opcode;
        let memory = LedgerMemory::new().unwrap();
        assert!(!memory.is_busy());
        let request =
            Submission { opcode: Opcode::Write, fua: false, blocks: 8, lba: 64, offset: 0, tag: 1 };
        memory.ledger.take(5, 2, 0, 77, request.to_words(), 0);
        let it = Breadcrumb { queue: 2, position: 77 };
        assert!(memory.is_busy());
        assert_eq!(memory.request(it), "queue 2 position 77: Write of 8 blocks at 64");
        memory.ledger.free(5, 0);
        assert_eq!(memory.request(it), "queue 2 position 77");
    }
}
