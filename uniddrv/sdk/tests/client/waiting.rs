//! Sleeping and waking.

use std::time::{Duration, Instant};

use uniddrv::block::{BlockQueue, Operation};
use uniddrv::client::OpenOptions;

use crate::fake::{Fake, Style};
use crate::polled::{PATIENCE, finish, open, options, submit};

#[test]
fn nobody_sleeps_through_what_happens() {
    // Both sides sleep whenever there is nothing to do: each round has several moments at which
    // a wake-up could be lost, which would end in a timeout.
    for (spin, rounds) in [(Duration::ZERO, 5_000), (Duration::from_micros(50), 5_000)] {
        let (core, mut fake) = Fake::start();
        let client = core.open("disk:0", &OpenOptions { spin, ..options() }).unwrap();
        let mut queue = client.take_queue().unwrap();
        fake.serve(Style { sleepy: true, null: true, ..Style::default() });
        let mut buffer = client.buffer(512).ok();
        for round in 0..rounds {
            submit(&mut queue, Operation::Read { lba: 0 }, buffer.take(), round);
            while queue.poll(|completion| {
                assert_eq!(completion.tag, round);
                buffer = completion.buffer;
            }) == 0
            {
                assert!(queue.wait(Duration::from_millis(900)).unwrap(), "round {round}");
            }
        }
    }
}

#[test]
fn a_wait_for_nothing_ends_in_time_and_without_news() {
    let (core, fake) = Fake::start();
    let (client, mut queue) = open(&core);
    let driver = fake.queue();
    submit(&mut queue, Operation::Read { lba: 0 }, client.buffer(512).ok(), 0);
    for limit in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(30)] {
        let start = Instant::now();
        assert!(!queue.wait(limit).unwrap());
        assert!(start.elapsed() >= limit);
    }
    // A wake-up that was meant for an earlier sleep is no news.
    driver.wake_client();
    assert!(!queue.wait(Duration::from_millis(10)).unwrap());
    assert_eq!(queue.poll(|_| panic!("too early")), 0);
    drop(driver);
}

#[test]
fn a_sleeping_driver_is_woken_for_a_batch() {
    let (core, mut fake) = Fake::start();
    let (client, mut queue) = open(&core);
    fake.serve(Style { sleepy: true, ..Style::default() });
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(2));
        for tag in 0..16 {
            submit(&mut queue, Operation::Read { lba: tag }, client.buffer(512).ok(), tag);
        }
        finish(&mut queue, 16);
    }
}

#[test]
fn one_cpu_is_enough_for_a_queue_that_yields() {
    let (core, mut fake) = Fake::start();
    let client = core.open("disk:0", &OpenOptions { yield_when_idle: true, ..options() }).unwrap();
    let mut queue = client.take_queue().unwrap();
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(rustix::thread::sched_getcpu());
    let before = rustix::thread::sched_getaffinity(None).unwrap();
    // Threads that are started from here on are on the same CPU.
    rustix::thread::sched_setaffinity(None, &cpus).unwrap();
    fake.serve(Style { yields: true, null: true, ..Style::default() });
    let start = Instant::now();
    for tag in 0..2_000 {
        submit(&mut queue, Operation::Read { lba: 0 }, client.buffer(512).ok(), tag);
        while queue.poll(|completion| assert_eq!(completion.tag, tag)) == 0 {
            assert!(start.elapsed() < PATIENCE, "{tag} ended");
        }
    }
    rustix::thread::sched_setaffinity(None, &before).unwrap();
}
