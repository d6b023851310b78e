//! Where adoption cannot be: the controller is reset, and what had not completed is issued again.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use uniddrv::client::Harm;

use crate::ground::{DEVICE, Ground, Plan, last_death, signal};
use crate::user::User;

const DEPTH: u32 = 32;

fn begin(parameters: &str) -> (Ground, User, uniddrv::client::Core) {
    let ground = Plan::new(parameters).start();
    ground.ready();
    let (core, client) = ground.open(2, DEPTH);
    let mut user = User::new(client, DEPTH as usize, 0, 8000);
    user.work(100);
    (ground, user, core)
}

#[test]
fn a_ledger_that_cannot_be_read_costs_a_reset_and_no_request() {
    let (ground, mut user, _core) = begin("size=4M&fault=delay=0.3:1ms");
    for deaths in 1..=6 {
        ground.core.kill(DEVICE, Harm::Scramble).unwrap();
        let status = user.work_until(|_| {
            let status = ground.status();
            (status.deaths.len() >= deaths && status.state == "running" && status.warm)
                .then_some(status)
        });
        let death = last_death(&status);
        assert_eq!((death.cause.as_str(), death.recovery.as_str()), ("killed by SIGKILL", "reset"));
        assert_eq!((status.adoptions, status.resets), (0, deaths as u64), "{death:?}");
        user.work(100);
    }
    // A ledger that is new is as good as the old one.
    let before = ground.status();
    ground.core.kill(DEVICE, Harm::Kill).unwrap();
    user.work_until(|_| (ground.status().adoptions == 1).then_some(()));
    assert_eq!(ground.status().resets, before.resets);
    user.verify();
    assert_eq!(ground.status().errors, 0);
}

#[test]
fn a_driver_that_dies_while_it_resets_is_followed_by_one_that_resets() {
    let (ground, mut user, _core) = begin("size=4M&fault=delay=0.3:1ms");
    let mut hits = 0;
    for round in 0..20 {
        ground.core.kill(DEVICE, Harm::Scramble).unwrap();
        // The first one that resets is killed, at another moment each time.
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            let status = ground.status();
            match status.state.as_str() {
                "resetting" => {
                    std::thread::sleep(Duration::from_micros(300 * round));
                    signal(status.pid, Signal::KILL);
                    break;
                }
                "running" if status.resets > u64::from(round as u32) + hits => break,
                _ => {}
            }
        }
        let before = ground.status().restarts;
        user.work(50);
        let status = user.work_until(|_| {
            let status = ground.status();
            (status.state == "running" && status.warm).then_some(status)
        });
        let recoveries = status.deaths.iter().rev().take(2).map(|death| death.recovery.as_str());
        hits += u64::from(recoveries.filter(|&one| one == "none").count() > 0);
        assert!(status.restarts >= before);
    }
    user.verify();
    let status = ground.status();
    eprintln!(
        "{hits} of 20 died while they reset, {} resets, {} adoptions",
        status.resets, status.adoptions
    );
    assert!(hits > 0, "none died in time");
    assert_eq!(status.errors, 0);
}

#[test]
fn a_controller_that_goes_fatal_is_reset_and_loses_nothing() {
    let (ground, mut user, _core) = begin("size=4M&fault=fatal-after=1000,delay=0.3:1ms");
    user.work(4000);
    user.verify();
    let status = ground.status();
    // The driver itself has done that.
    assert_eq!((status.resets, status.restarts, status.errors), (1, 0, 0));
    assert_eq!(status.ios, user.ended());
}

#[test]
fn a_driver_that_dies_when_the_controller_went_fatal_loses_nothing() {
    let (ground, mut user, _core) = begin("size=4M&fault=fatal-after=1000,delay=0.3:1ms");
    let pid = ground.warm().pid;
    // Nothing completes any more; the driver has a tick of 100 ms.
    let mut last = Instant::now();
    user.work_until(|user| {
        if user.ended() < 900 || user.reap() > 0 {
            last = Instant::now();
        }
        (last.elapsed() > Duration::from_millis(10)).then_some(())
    });
    signal(pid, Signal::KILL);
    user.work(3000);
    user.verify();
    let status = ground.status();
    assert_eq!((status.resets, status.restarts, status.errors), (1, 1, 0));
}

#[test]
fn a_controller_that_vanishes_ends_every_request() {
    let (ground, mut user, _core) = begin("size=4M&fault=vanish-after=1000");
    user.lenient = true;
    // It ends by itself: nothing is taken any more, nothing is on its way.
    user.work(u64::MAX / 2);
    assert!(user.ended() >= 1000);
    assert!(user.errors.keys().all(|error| error == "Gone"), "{:?}", user.errors);
    let status = ground.state("stopped");
    assert!(last_death(&status).cause.contains("read as all ones"), "{status:?}");
    // The core lives.
    assert!(ground.core.open(crate::ground::NAME, &crate::ground::options(1, 4)).is_err());
}
