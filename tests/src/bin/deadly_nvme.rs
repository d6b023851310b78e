//! The NVMe driver, which ends where its ledger says: for tests of recovery.
//!
//! The lower half of the word is a step, and the count how often it is come to until then; or it
//! is [`BLOCK`], and the count the first block of requests that no driver survives; or [`ALWAYS`]. How
//! it ends is in the upper half: 0 panic, 1 abort, 2 exit with 3, 3 hang, 4 exit with 0.
#![forbid(unsafe_code)]

use uniddrv::serve::{DriverLedger, Step, Steps};
use uniddrv_abi::block::Submission;
use uniddrv_abi::ledger::{SLOTS, State};

/// In place of a step: the count is a block.
const BLOCK: u64 = 0x100;
/// In place of a step: every driver ends at its first.
const ALWAYS: u64 = 0x200;

enum Deadly {}

impl Steps for Deadly {
    #[inline]
    fn at(ledger: &DriverLedger, step: Step) {
        let (armed, count) = ledger.armed();
        let what = armed & 0xffff_ffff;
        if what == ALWAYS {
            end(armed >> 32, step);
        }
        if what == BLOCK && step == Step::SubmissionRecorded && works_on(ledger) == Some(count) {
            end(armed >> 32, step);
        }
        if what != step as u64 || count == 0 {
            return;
        }
        ledger.arm(armed, count - 1);
        if count == 1 {
            end(armed >> 32, step);
        }
    }
}

/// The first block of the request that is being worked on.
fn works_on(ledger: &DriverLedger) -> Option<u64> {
    let it = ledger.breadcrumb()?;
    let slots = (0..SLOTS).filter_map(|slot| ledger.slot(slot).ok());
    let slot = slots
        .filter(|slot| slot.state != State::Free)
        .find(|slot| (slot.queue, slot.position) == (it.queue, it.position))?;
    Submission::from_words(slot.request).map(|request| request.lba)
}

#[cold]
fn end(how: u64, step: Step) {
    match how {
        0 => panic!("armed at {step:?}"),
        1 => std::process::abort(),
        2 => std::process::exit(3),
        4 => std::process::exit(0),
        _ => loop {
            std::hint::spin_loop();
        },
    }
}

uniddrv::driver_program!(storage_poll::served::Nvme<Deadly>);
