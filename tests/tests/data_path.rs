//! What the data path must not do: allocate memory, or call the kernel.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use storage_poll::{Controller, Options};
use uniddrv_tests::Loop;

#[test]
fn no_allocation_for_an_io() {
    let device = uniddrv_models::open(&"model:nvme?backing=null".parse().unwrap()).unwrap();
    let controller = Controller::attach_with(device, Options::default()).unwrap();
    let mut work = Loop::new(&controller, 32).unwrap();
    work.run(1_000);
    let counted = allocation_counter::measure(|| work.run(100_000));
    assert_eq!(counted.count_total, 0, "{counted:?}");
    let control = allocation_counter::measure(|| drop(Box::new(std::hint::black_box(7))));
    assert_eq!(control.count_total, 1, "the counter does not count");
}

#[test]
fn no_system_call_for_an_io() {
    let program = env!("CARGO_BIN_EXE_no_system_call");
    let status = Command::new(program).status().unwrap();
    assert!(status.success(), "{status}");
    let status = Command::new(program).arg("violate").status().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGSYS), "the filter does not filter: {status}");
}
