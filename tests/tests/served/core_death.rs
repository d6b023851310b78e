//! The core is killed: clients are told, nothing is left, and the next one starts cleanly.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use uniddrv::block::BlockQueue;

use crate::ground::{Plan, is_alive, signal, until};
use crate::user::User;

const DEPTH: u32 = 32;

#[test]
fn the_death_of_the_core_ends_requests_drivers_and_models() {
    let mut ground = Plan::new("size=4M&backing=file:FOLDER/disk&fault=delay=0.5:2ms").start();
    assert_eq!(ground.ready(), "nvme:0 nvme:0/ns1");
    let (mut connection, client) = ground.open(1, DEPTH);
    let mut user = User::new(client, DEPTH as usize, 0, 8000);
    user.lenient = true;
    for round in 1..=5_u64 {
        user.work(300);
        ground.warm();
        let processes: Vec<i32> = ground.drivers().into_iter().chain(ground.models()).collect();
        assert_eq!(processes.len(), 3, "a driver, a successor, a model");
        user.submit(u64::MAX);
        let on_their_way = user.in_flight();
        assert_eq!(on_their_way, DEPTH as usize);
        let failed = user.errors.values().sum::<u64>();
        ground.kill_core();
        let killed = Instant::now();
        while !(user.refused() && user.in_flight() == 0) {
            user.submit(u64::MAX);
            user.reap();
        }
        // A look is taken every 10 ms.
        assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
        assert!(user.errors.keys().all(|error| error == "Gone"), "{:?}", user.errors);
        assert!(user.errors.values().sum::<u64>() > failed);
        assert_eq!(user.queue.poll(|_| panic!("nothing is on its way")), 0);
        for pid in processes {
            until(|| (!is_alive(pid)).then_some(()));
        }
        // The same socket, the same configuration, the same disk.
        ground.start_again();
        assert_eq!(ground.ready(), "nvme:0 nvme:0/ns1", "round {round}");
        let client;
        (connection, client) = ground.open(1, DEPTH);
        user.reopen(client);
        user.verify();
    }
    drop(connection);
}

#[test]
fn a_sleeping_client_hears_of_the_death_of_the_core() {
    let ground = Plan::new("size=4M&fault=drop=1").start();
    ground.ready();
    let (_connection, client) = ground.open(1, DEPTH);
    let mut user = User::new(client, DEPTH as usize, 0, 8000);
    user.lenient = true;
    user.submit(u64::MAX);
    user.reap();
    let killer = std::thread::scope(|scope| {
        let core = ground.pid().cast_signed();
        let killer = scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            signal(core, Signal::KILL);
            Instant::now()
        });
        assert!(user.queue.wait(crate::ground::PATIENCE).unwrap());
        killer.join().unwrap()
    });
    assert!(killer.elapsed() < Duration::from_secs(1));
    user.drain();
    assert_eq!(user.errors["Gone"], u64::from(DEPTH));
}
