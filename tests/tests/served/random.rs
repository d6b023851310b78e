//! SIGKILL at any moment: to the driver that runs, to its successor while it takes over, and to
//! the one that waits.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::ground::{Ground, PATIENCE, Plan, signal, until};
use crate::user::User;

/// Kills of the driver that runs; `SERVED_KILLS` in the environment says otherwise.
const KILLS: u64 = 1000;
const DEPTH: u32 = 32;

struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

#[test]
fn sigkill_at_any_moment_loses_nothing() {
    let kills = std::env::var("SERVED_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let ground = Plan::new("size=4M&fault=delay=0.1:500us,reorder=0.1")
        .device("restart = { deaths = 1000, backoff = \"0ms..1ms\" }")
        .start();
    ground.ready();
    let (_core, client) = ground.open(1, DEPTH);
    let mut user = User::new(client, DEPTH as usize, 0, 8000);
    user.work(500);
    ground.warm();
    let before = ground.footprint();
    let done = AtomicBool::new(false);
    let again = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let again = kill(&ground, kills);
            done.store(true, Relaxed);
            again
        });
        while !done.load(Relaxed) {
            assert!(!killer.is_finished() || done.load(Relaxed), "the killer died");
            user.work(50);
        }
        killer.join().unwrap()
    });
    let status = ground.warm();
    // Nothing of all those processes is left.
    until(|| (ground.footprint() == before).then_some(()));
    user.verify();
    let gaps = user.gap;
    eprintln!(
        "{kills} kills and {again} of successors: {} restarts, {} requests, the longest pause {gaps:?}",
        status.restarts,
        user.ended()
    );
    assert_eq!((status.resets, status.errors), (0, 0));
    assert_eq!(status.adoptions, status.restarts);
    // Successors that died before they ran are none.
    assert!(status.restarts >= kills, "{} of {kills}", status.restarts);
    assert!(again > kills / 20, "only {again} successors were killed");
    let ios = ground.status().ios;
    assert_eq!(ios, user.ended());
    // On a machine that is busy enough, one may be found hanging.
    let causes = ["killed by SIGKILL", "hung"];
    assert!(status.deaths.iter().all(|death| causes.contains(&&*death.cause)), "{status:?}");
}

fn kill_all(pids: &[i32]) {
    for &pid in pids {
        signal(pid, Signal::KILL);
    }
}

/// Kills the driver that runs `kills` times. How many successors were killed while they took over,
/// or waited for it.
fn kill(ground: &Ground, kills: u64) -> u64 {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut again = 0;
    for _ in 0..kills {
        let pid = until(|| {
            let status = ground.status();
            (status.state == "running").then_some(status.pid)
        });
        thread::sleep(Duration::from_micros(random.below(20_000)));
        let next: Vec<i32> = ground.drivers().into_iter().filter(|&one| one != pid).collect();
        let also = random.below(3) == 0;
        let first = random.below(8) == 0;
        if also && first {
            kill_all(&next);
        }
        signal(pid, Signal::KILL);
        if also && !first {
            thread::sleep(Duration::from_micros(random.below(3_000)));
            kill_all(&next);
        }
        if also {
            again += next.len() as u64;
        }
        let end = std::time::Instant::now() + PATIENCE;
        while ground.status().pid == pid {
            assert!(std::time::Instant::now() < end, "{pid} does not end");
            thread::sleep(Duration::from_micros(200));
        }
    }
    again
}
