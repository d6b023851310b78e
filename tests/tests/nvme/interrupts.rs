//! Waiting for completions: spinning, asleep, and over resets.

use std::time::{Duration, Instant};

use storage_poll::{Controller, IoQueue, Options};
use uniddrv::DmaBuf;

use crate::ground::{GROUNDS, Ground, Model, PATIENCE, wait_for};

/// Waits, as often as that takes, until `queue` has a completion.
fn wait_for_one(queue: &mut IoQueue) -> storage_poll::Completed {
    let start = Instant::now();
    loop {
        assert!(queue.wait(PATIENCE).unwrap(), "nothing woke it");
        if let Some(done) = queue.poll() {
            return done;
        }
        assert!(start.elapsed() < PATIENCE, "woken for nothing");
    }
}

/// Reads one block `count` times, one at a time, waiting for each.
fn read_one_by_one(controller: &Controller, queue: &mut IoQueue, count: u64) {
    let namespace = controller.namespaces()[0];
    let read = namespace.read(0, 1).unwrap();
    let mut buffer: Option<DmaBuf> = Some(controller.device().dma_buffer(4096).unwrap());
    let start = Instant::now();
    for tag in 0..count {
        // A wake-up that was lost is made good by a look at the queue after 100 ms: so much time
        // for all of them is only there when hardly any is.
        assert!(start.elapsed() < PATIENCE, "{tag} of {count}: woken late");
        queue.submit(&read, buffer.take(), tag).unwrap();
        let done = wait_for_one(queue);
        assert_eq!((done.tag, done.result), (tag, Ok(0)));
        buffer = done.buffer;
    }
}

fn options(spin: Duration) -> Options {
    Options { interrupts: true, spin, queues: 4, ..Options::default() }
}

#[test]
fn no_wake_up_is_lost() {
    for ground in GROUNDS {
        for shadow in ["off", "on"] {
            let parameters = format!("size=1M&shadow-doorbells={shadow}");
            let model = Model::start(ground, &parameters);
            // Always asleep, sometimes, and hardly ever.
            for (spin, count) in [(0, 2500), (20, 1500), (10_000, 1000)] {
                let controller = model.attach(options(Duration::from_micros(spin)));
                let mut queue = controller.io_queue(1).unwrap();
                read_one_by_one(&controller, &mut queue, count);
            }
        }
    }
}

#[test]
fn a_queue_without_an_interrupt_waits_too() {
    for ground in GROUNDS {
        let model = Model::start(ground, "size=1M");
        let controller = model.attach(Options { spin: Duration::ZERO, ..Options::default() });
        let mut queue = controller.io_queue(1).unwrap();
        read_one_by_one(&controller, &mut queue, 200);
    }
}

#[test]
fn several_threads_wait_each_for_its_own() {
    for ground in GROUNDS {
        let model = Model::start(ground, "size=1M");
        let controller = &model.attach(options(Duration::ZERO));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let mut queue = controller.io_queue(1).unwrap();
                scope.spawn(move || read_one_by_one(controller, &mut queue, 300));
            }
        });
        // The vectors were given back with the queues.
        let mut queues: Vec<_> = (0..4).map(|_| controller.io_queue(1).unwrap()).collect();
        read_one_by_one(controller, &mut queues[3], 20);
    }
}

#[test]
fn a_wait_for_nothing_ends_in_time() {
    let model = Model::start(Ground::Inline, "size=1M");
    for interrupts in [false, true] {
        let controller = model.attach(Options { interrupts, ..Options::default() });
        let mut queue = controller.io_queue(1).unwrap();
        assert!(!queue.wait(Duration::ZERO).unwrap());
        assert!(!queue.wait(Duration::from_millis(5)).unwrap());
        read_one_by_one(&controller, &mut queue, 3);
        assert!(!queue.wait(Duration::from_millis(5)).unwrap());
    }
}

/// A sleeper notices what comes without an interrupt: late commands, resets, removal.
#[test]
fn a_sleeper_has_a_verdict_too() {
    for (ground, fault) in [
        (Ground::Inline, "drop=1,after=10"),
        (Ground::Served, "drop=1,after=10"),
        (Ground::Inline, "fatal-after=10"),
        (Ground::Served, "fatal-after=10"),
        (Ground::Inline, "vanish-after=10"),
        (Ground::Served, "vanish-after=10"),
    ] {
        let model = Model::start(ground, &format!("size=1M&fault={fault}"));
        let options = Options {
            timeout: Duration::from_millis(40),
            admin_timeout: Duration::from_secs(1),
            ..options(Duration::ZERO)
        };
        let controller = model.attach(options);
        let mut queue = controller.io_queue(4).unwrap();
        read_one_by_one(&controller, &mut queue, 10);
        let read = controller.namespaces()[0].read(0, 1).unwrap();
        for tag in 0..3 {
            let buffer = controller.device().dma_buffer(512).unwrap();
            queue.submit(&read, Some(buffer), tag).unwrap();
        }
        let mut tags: Vec<_> = (0..3)
            .map(|_| {
                let done = wait_for_one(&mut queue);
                assert!(done.result.is_err() && done.buffer.is_some(), "{fault}");
                done.tag
            })
            .collect();
        tags.sort_unstable();
        assert_eq!(tags, [0, 1, 2]);
        if fault.starts_with("fatal") {
            wait_for("the queue is back", || {
                let _ = queue.poll();
                queue.submit(&controller.namespaces()[0].flush(), None, 7).is_ok()
            });
            assert_eq!(wait_for_one(&mut queue).tag, 7);
            read_one_by_one(&controller, &mut queue, 50);
        }
    }
}

/// The admin queue has a vector, whatever else there is.
#[test]
fn queues_that_were_not_asked_for_have_an_interrupt_too() {
    let model = Model::start(Ground::Inline, "size=1M&queues=1");
    for queues in [0, 1, 64] {
        let controller = model.attach(Options { queues, ..options(Duration::ZERO) });
        read_one_by_one(&controller, &mut controller.io_queue(1).unwrap(), 10);
    }
}
