//! Requests that drivers die of, and drivers that only die.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use uniddrv::block::Operation;
use uniddrv::client::Harm;

use crate::ground::{DEVICE, Ground, NAME, Plan, options, signal, until};
use crate::user::User;

/// What the driver program takes in place of a step: a block that it dies of, and any step.
const BLOCK: u64 = 0x100;
const ALWAYS: u64 = 0x200;
/// How it dies: by a panic, by an endless loop.
const PANIC: u64 = 0;
const HANG: u64 = 3 << 32;
/// The first block of the request that drivers die of.
const POISON: u64 = 6000;

struct Scene {
    ground: Ground,
    /// With requests that have nothing to do with it.
    user: User,
    /// With the one that drivers die of.
    victim: User,
    _cores: [uniddrv::client::Core; 2],
}

impl Scene {
    fn new(lines: &str) -> Self {
        let ground = Plan::new("size=4M").device(lines).start();
        ground.ready();
        let (first, client) = ground.open(1, 32);
        let user = User::new(client, 32, 0, 5000);
        let (second, client) = ground.open(1, 32);
        let mut victim = User::new(client, 32, POISON, 1000);
        victim.lenient = true;
        let mut scene = Self { ground, user, victim, _cores: [first, second] };
        scene.user.work(100);
        scene
    }

    fn arm(&self, step: u64, count: u64) {
        self.ground.core.kill(DEVICE, Harm::Arm { step, count }).unwrap();
    }

    /// Both work until there is something.
    fn until<T>(&mut self, mut there: impl FnMut(&mut User, &Ground) -> Option<T>) -> T {
        let Self { ground, user, victim, .. } = self;
        user.work_until(|_| {
            victim.reap();
            there(victim, ground)
        })
    }

    fn end(mut self) {
        self.user.verify();
        self.victim.verify();
    }
}

fn poison_fails_after_three_deaths(how: u64, cause: &[&str]) {
    let mut scene = Scene::new("");
    for round in 1..=2 {
        scene.arm(BLOCK | how, POISON);
        let write = Operation::Write { lba: POISON, fua: false };
        assert!(scene.victim.send(write, POISON..POISON + 4));
        // Some more of the same client, before and behind it.
        let read = Operation::Read { lba: POISON + 100 };
        assert!(scene.victim.send(read, POISON + 100..POISON + 108));
        scene.until(|victim, _| (victim.in_flight() == 0).then_some(()));
        scene.arm(0, 0);
        assert_eq!(scene.victim.errors, BTreeMap::from([("Poisoned".to_owned(), round)]));
        let status = scene.until(|_, ground| {
            let status = ground.status();
            (status.deaths.len() as u64 >= 3 * round && status.warm).then_some(status)
        });
        assert_eq!((status.restarts, status.adoptions, status.resets), (3 * round, 3 * round, 0));
        assert_eq!(status.errors, round);
        for death in &status.deaths {
            assert!(cause.contains(&death.cause.as_str()), "{death:?}");
            let request = format!("Write of 4 blocks at {POISON}");
            assert!(
                death.request.as_ref().is_some_and(|text| text.contains(&request)),
                "{death:?}"
            );
        }
        // What is not armed is no poison.
        assert!(scene.victim.send(write, POISON..POISON + 4));
        scene.victim.drain();
        scene.until(|victim, _| (victim.in_flight() == 0).then_some(()));
    }
    assert!(scene.ground.log().contains("a poisoned request"));
    scene.end();
}

#[test]
fn a_request_that_drivers_panic_of_fails_alone() {
    poison_fails_after_three_deaths(PANIC, &["killed by SIGSEGV", "killed by SIGABRT"]);
}

#[test]
fn a_request_that_drivers_hang_of_fails_alone() {
    poison_fails_after_three_deaths(HANG, &["hung"]);
}

#[test]
fn a_request_that_was_being_worked_on_at_sigkills_is_carried_out() {
    // Nobody is to be found hanging meanwhile.
    let mut scene =
        Scene::new("hang = \"30s\"\nrestart = { deaths = 100, backoff = \"0ms..1ms\" }");
    scene.arm(BLOCK | HANG, POISON);
    let write = Operation::Write { lba: POISON, fua: false };
    assert!(scene.victim.send(write, POISON..POISON + 4));
    scene.victim.reap();
    let mut before = 0;
    for _ in 0..6 {
        let pid = until(|| {
            let status = scene.ground.status();
            (status.state == "running" && status.pid != before).then_some(status.pid)
        });
        // It hangs at once.
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(scene.victim.in_flight(), 1);
        if before != 0 {
            let status = scene.ground.status();
            assert!(status.deaths.iter().all(|death| death.cause == "killed by SIGKILL"));
        }
        signal(pid, Signal::KILL);
        before = pid;
    }
    // The next one hangs too, and the one after it does not.
    let pid = until(|| {
        let status = scene.ground.status();
        (status.state == "running" && status.pid != before).then_some(status.pid)
    });
    scene.arm(0, 0);
    signal(pid, Signal::KILL);
    scene.until(|victim, _| (victim.in_flight() == 0).then_some(()));
    assert!(scene.victim.errors.is_empty(), "{:?}", scene.victim.errors);
    let status = scene.ground.status();
    assert_eq!((status.errors, status.resets), (0, 0));
    scene.end();
}

#[test]
fn drivers_that_only_die_are_stopped_and_restart_brings_them_back() {
    let mut scene = Scene::new("");
    scene.ground.warm();
    scene.user.lenient = true;
    scene.arm(ALWAYS, 0);
    let start = Instant::now();
    // It ends by itself: nothing is taken any more, nothing is on its way.
    scene.user.work(u64::MAX / 2);
    // Waits of 100, 200 and 400 ms were between the deaths.
    assert!(start.elapsed() >= Duration::from_millis(700), "{:?}", start.elapsed());
    assert!(scene.user.errors.keys().all(|error| error == "Gone"), "{:?}", scene.user.errors);
    // Why is said a moment later.
    until(|| scene.user.queue.closed().filter(|reason| reason.contains("died")));
    let status = scene.ground.state("stopped");
    assert_eq!(status.deaths.len(), 5);
    assert_eq!(status.deaths.last().unwrap().recovery, "stopped");
    let text = scene.ground.core.open(NAME, &options(1, 4)).unwrap_err().to_string();
    assert!(text.contains("stopped") || text.contains("no"), "{text}");

    scene.ground.core.restart(DEVICE).unwrap();
    scene.ground.state("running");
    let (_core, client) = scene.ground.open(1, 32);
    scene.user.reopen(client);
    scene.user.lenient = false;
    scene.user.work(500);
    scene.user.verify();
}
