//! Carries out I/O with every system call answered by SIGSYS, but those that end a process:
//! exits with 0 if the data path makes none. With the argument `violate` it makes one on purpose.
#![forbid(unsafe_code)]

use std::error::Error;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use storage_poll::{Controller, Options};
use uniddrv_tests::Loop;

fn main() -> Result<(), Box<dyn Error>> {
    let violate = std::env::args().any(|argument| argument == "violate");
    let device = uniddrv_models::open(&"model:nvme?backing=null".parse()?)?;
    let controller = Controller::attach_with(device, Options::default())?;
    let mut work = Loop::new(&controller, 32)?;
    work.run(1_000);
    let filter = SeccompFilter::new(
        // The last is the standard library's, which takes its signal stack down.
        [libc::SYS_exit_group, libc::SYS_munmap, libc::SYS_sigaltstack]
            .map(|call| (call, Vec::new()))
            .into(),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    work.run(100_000);
    if violate {
        drop(std::fs::metadata("/"));
    }
    std::process::exit(0);
}
