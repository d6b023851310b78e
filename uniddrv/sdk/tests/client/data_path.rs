//! What the data path must not do: allocate memory, or call the system.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use uniddrv::DmaBuf;
use uniddrv::block::{BlockQueue, Operation, Request};
use uniddrv::client::ClientQueue;

use crate::fake::{Fake, Style};
use crate::polled::open;

/// Says that this process is the one that may not call the system, and how it is to behave.
const CHILD: &str = "UNIDDRV_TEST_NO_SYSTEM_CALL";

fn run(queue: &mut ClientQueue, free: &mut Vec<DmaBuf>, count: u64) {
    let mut ended = 0;
    let mut tag = 0;
    while ended < count {
        while tag < count
            && let Some(buffer) = free.pop()
        {
            let lba = tag % 512 * 8;
            let write = Operation::Write { lba, fua: false };
            let operation = if tag % 2 == 0 { write } else { Operation::Read { lba } };
            queue.submit(Request { operation, buffer: Some(buffer), tag }).unwrap();
            tag += 1;
        }
        queue.poll(|completion| {
            completion.result.unwrap();
            free.extend(completion.buffer);
            ended += 1;
        });
    }
}

#[test]
fn no_allocation_for_a_request() {
    let (core, mut fake) = Fake::start();
    let (client, mut queue) = open(&core);
    fake.serve(Style { null: true, ..Style::default() });
    let mut free: Vec<_> = (0..16).map(|_| client.buffer(4096).unwrap()).collect();
    run(&mut queue, &mut free, 1_000);
    let counted = allocation_counter::measure(|| run(&mut queue, &mut free, 20_000));
    assert_eq!(counted.count_total, 0, "{counted:?}");
    let control = allocation_counter::measure(|| drop(Box::new(std::hint::black_box(7))));
    assert_eq!(control.count_total, 1, "the counter does not count");
}

/// Runs itself twice more, with every system call of the client's thread answered by SIGSYS, but
/// those that end the process, and the look at the core's socket after 10 ms without a completion.
#[test]
fn no_system_call_for_a_request() {
    let Ok(behaviour) = std::env::var(CHILD) else {
        let child = |behaviour: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "data_path::no_system_call_for_a_request"]);
            command.env(CHILD, behaviour).status().unwrap()
        };
        let status = child("obey");
        assert!(status.success(), "{status}");
        let status = child("violate");
        assert_eq!(status.signal(), Some(libc::SIGSYS), "the filter does not filter: {status}");
        return;
    };
    let (core, mut fake) = Fake::start();
    let (client, mut queue) = open(&core);
    fake.serve(Style { null: true, ..Style::default() });
    let mut free: Vec<_> = (0..16).map(|_| client.buffer(4096).unwrap()).collect();
    run(&mut queue, &mut free, 1_000);
    let filter = SeccompFilter::new(
        // The last two are the standard library's, which takes its signal stack down.
        [
            libc::SYS_exit_group,
            libc::SYS_poll,
            libc::SYS_ppoll,
            libc::SYS_munmap,
            libc::SYS_sigaltstack,
        ]
        .map(|call| (call, Vec::new()))
        .into(),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
    run(&mut queue, &mut free, 20_000);
    if behaviour == "violate" {
        drop(std::fs::metadata("/"));
    }
    std::process::exit(0);
}
