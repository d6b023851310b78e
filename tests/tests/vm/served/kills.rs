//! Drivers that are killed under load, and successors that take the running controller over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use uniddrv::client::{self, Harm};

use super::super::guest;
use super::load::Load;
use super::{Core, DATA, as_linux_reads, connect, eventually, status, trace, uniddrv};

const KILLS: u64 = 22;
/// Pauses after a kill and before the next one, in milliseconds.
const PAUSES: [u64; 8] = [3, 40, 0, 17, 90, 8, 25, 60];
const UNITS: usize = 256;

#[test]
fn killed_drivers_are_succeeded_without_a_reset() {
    let Some(guest) = guest() else { return };
    uniddrv(&["bind", DATA]);
    let core = Core::start(&[DATA], "");
    let connection = connect();
    let mut load = Load::new(&connection, "nvme:0/ns1", UNITS, 1);
    let (before, ended) = (trace(), load.ended);

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            kill_at_random(&connect());
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            load.step();
        }
    });
    load.verify();
    assert_eq!(trace(), before, "the controller was reset, or its configuration written");
    let now = status(&connection, "nvme:0");
    assert_eq!((now.restarts >= KILLS, now.resets, now.errors), (true, 0, 0), "{now:?}");
    assert!(now.adoptions >= 20, "{now:?}");
    assert!(now.deaths.iter().all(|death| death.recovery != "reset"), "{now:?}");
    assert!(load.ended - ended > 500, "there was hardly a load: {}", load.ended - ended);

    // The same, with a ledger that cannot be read: now QEMU tells of a reset, so it would have
    // told of one before.
    connection.kill("nvme:0", Harm::Scramble).unwrap();
    while status(&connection, "nvme:0").resets == 0 {
        (0..8).for_each(|_| load.step());
    }
    load.verify();
    assert!(trace() > before, "the trace does not show a reset");

    let expected = load.expected();
    drop(load);
    uniddrv(&["unbind", DATA]);
    assert_eq!(guest.driver(DATA).as_deref(), Some("nvme"));
    assert!(as_linux_reads(1, expected.len()) == expected, "Linux reads something else");
    assert!(core.end().success());
}

/// Kills whatever process drives the device, by the core and by hand, until so many were replaced.
fn kill_at_random(connection: &client::Core) {
    for round in 0.. {
        let pause = PAUSES[round % PAUSES.len()];
        let now = eventually("driver", || {
            let now = status(connection, "nvme:0");
            // Some die before they have taken over.
            (now.state == "running" || pause == 0).then_some(now)
        });
        if now.restarts >= KILLS && now.state == "running" {
            return;
        }
        thread::sleep(Duration::from_millis(pause));
        // It may have ended already.
        if round % 2 == 0 {
            let _ = connection.kill("nvme:0", Harm::Kill);
        } else if let Some(pid) = Pid::from_raw(now.pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
