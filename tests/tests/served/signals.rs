//! Ends from outside, hangs, and ends without a fault.

use rustix::process::Signal;
use uniddrv::client::{Death, DriverStatus, Harm};
use uniddrv::serve::Step;

use crate::ground::{DEVICE, Ground, Plan, is_alive, last_death, signal, until};
use crate::user::User;

struct Scene {
    ground: Ground,
    user: User,
    _core: uniddrv::client::Core,
}

impl Scene {
    fn new() -> Self {
        let ground = Plan::new("size=4M").start();
        ground.ready();
        let (core, client) = ground.open(1, 32);
        let mut user = User::new(client, 32, 0, 8000);
        user.work(200);
        Self { ground, user, _core: core }
    }

    /// Works until `deaths` were reported, and the driver runs with a successor that waits.
    fn after(&mut self, deaths: usize) -> DriverStatus {
        let ground = &self.ground;
        self.user.work_until(|_| {
            let status = ground.status();
            let there = status.deaths.len() >= deaths && status.state == "running" && status.warm;
            there.then_some(status)
        })
    }

    fn end(mut self) {
        self.user.work(200);
        self.user.verify();
        let status = self.ground.status();
        assert_eq!((status.errors, status.ios), (0, self.user.ended()));
    }
}

#[test]
fn signals_from_outside_are_survived_and_named() {
    let mut scene = Scene::new();
    let signals = [
        (Signal::SEGV, "killed by SIGSEGV", Some("SIGSEGV")),
        // The first process of a PID namespace ends by the fault that `abort` falls back to.
        (Signal::ABORT, "killed by SIGSEGV", Some("SIGABRT")),
        (Signal::BUS, "killed by SIGSEGV", Some("SIGBUS")),
        (Signal::KILL, "killed by SIGKILL", None),
    ];
    for (deaths, (number, cause, words)) in (1..).zip(signals) {
        let pid = scene.after(deaths - 1).pid;
        signal(pid, number);
        let status = scene.after(deaths);
        let Death { cause: is, last_words, recovery, pid: dead, .. } = last_death(&status);
        assert_eq!((is.as_str(), recovery.as_str(), *dead), (cause, "adopted", pid));
        match words {
            Some(words) => {
                assert!(last_words.as_ref().unwrap().starts_with(words), "{last_words:?}");
            }
            None => assert_eq!(*last_words, None),
        }
        assert!(!is_alive(pid));
        assert_eq!((status.adoptions, status.resets), (deaths as u64, 0));
    }
    scene.end();
}

#[test]
fn harm_by_the_core_is_survived_and_timed() {
    let mut scene = Scene::new();
    let harms = [
        (Harm::Kill, "killed by SIGKILL"),
        (Harm::Fault, "killed by SIGSEGV"),
        (Harm::Abort, "killed by SIGSEGV"),
        (Harm::Hang, "hung"),
    ];
    for (deaths, (harm, cause)) in (1..).zip(harms) {
        scene.after(deaths - 1);
        scene.ground.core.kill(DEVICE, harm).unwrap();
        let status = scene.after(deaths);
        let death = last_death(&status);
        assert_eq!((death.cause.as_str(), death.recovery.as_str()), (cause, "adopted"));
        for time in
            [death.detection_ns, death.hand_over_ns, death.adoption_ns, death.first_completion_ns]
        {
            assert!(time > 0 && time < 10_000_000_000, "{death:?}");
        }
        assert_eq!((status.adoptions, status.resets), (deaths as u64, 0));
    }
    scene.end();
}

#[test]
fn a_stopped_driver_is_found_and_replaced() {
    let mut scene = Scene::new();
    for deaths in 1..=3 {
        let pid = scene.after(deaths - 1).pid;
        signal(pid, Signal::STOP);
        let status = scene.after(deaths);
        let death = last_death(&status);
        assert_eq!((death.cause.as_str(), death.pid), ("hung", pid));
        assert_eq!(death.recovery, "adopted");
        // It is gone before the successor begins: there is one writer.
        assert!(!is_alive(pid));
        // Less than a second, however busy the machine: 100 ms are allowed without a beat.
        assert!((50_000_000..1_000_000_000).contains(&death.detection_ns), "{death:?}");
    }
    scene.end();
}

#[test]
fn a_stopped_successor_is_found_and_replaced() {
    let mut scene = Scene::new();
    for (round, asleep) in [(1, false), (2, true)] {
        let pid = scene.after(2 * round - 2).pid;
        if asleep {
            scene.user.drain();
            until(|| scene.ground.status().asleep.then_some(()));
        }
        let mut waiting = scene.ground.drivers();
        waiting.retain(|&one| one != pid);
        assert_eq!(waiting.len(), 1);
        signal(waiting[0], Signal::STOP);
        signal(pid, Signal::KILL);
        let status = scene.after(2 * round);
        let [.., first, second] = status.deaths.as_slice() else { panic!("{status:?}") };
        assert_eq!((first.cause.as_str(), first.recovery.as_str()), ("killed by SIGKILL", "none"));
        assert_eq!((second.cause.as_str(), second.recovery.as_str()), ("hung", "adopted"));
        assert_eq!((status.adoptions, status.resets), (round as u64, 0));
    }
    scene.end();
}

#[test]
fn a_driver_that_just_ends_is_replaced() {
    const EXIT: u64 = 4 << 32;
    let mut scene = Scene::new();
    for (deaths, step) in (1..).zip([Step::SlotTaken, Step::DoorbellRung, Step::HeadRung]) {
        scene.after(deaths - 1);
        scene.ground.core.kill(DEVICE, Harm::Arm { step: EXIT | step as u64, count: 9 }).unwrap();
        let status = scene.after(deaths);
        let death = last_death(&status);
        assert_eq!(
            (death.cause.as_str(), death.recovery.as_str()),
            ("exited with status 0", "adopted")
        );
        assert_eq!((status.adoptions, status.resets), (deaths as u64, 0));
    }
    scene.end();
}

#[test]
fn an_idle_driver_that_dies_is_replaced_before_anybody_asks() {
    let mut scene = Scene::new();
    scene.user.drain();
    for (deaths, number) in (1..).zip([Signal::KILL, Signal::SEGV, Signal::STOP]) {
        let asleep = until(|| {
            let status = scene.ground.status();
            (status.asleep && status.warm).then_some(status)
        });
        signal(asleep.pid, number);
        if number == Signal::STOP {
            // Nobody can tell from a sleeper, until there is work.
            scene.user.work(32);
        }
        until(|| {
            let status = scene.ground.status();
            (status.restarts == deaths && status.state == "running").then_some(())
        });
        scene.user.work(100);
        scene.user.drain();
    }
    scene.end();
}
