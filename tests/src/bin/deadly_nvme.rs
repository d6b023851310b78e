//! The NVMe driver, which ends at the step that its ledger names: for tests of recovery. How it
//! ends is in the upper half of the word: 0 panic, 1 abort, 2 exit, 3 hang.
#![forbid(unsafe_code)]

use uniddrv::serve::{DriverLedger, Step, Steps};

enum Deadly {}

impl Steps for Deadly {
    #[inline]
    fn at(ledger: &DriverLedger, step: Step) {
        let (armed, count) = ledger.armed();
        if armed & 0xffff_ffff != step as u64 || count == 0 {
            return;
        }
        ledger.arm(armed, count - 1);
        if count == 1 {
            end(armed >> 32, step);
        }
    }
}

#[cold]
fn end(how: u64, step: Step) {
    match how {
        0 => panic!("armed at {step:?}"),
        1 => std::process::abort(),
        2 => std::process::exit(3),
        _ => loop {
            std::hint::spin_loop();
        },
    }
}

uniddrv::driver_program!(storage_poll::served::Nvme<Deadly>);
