//! Resets and removal while several threads are at work, each with a queue of its own.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use storage_poll::{Controller, Options};

use crate::ground::{GROUNDS, Ground, Model, wait_for};
use crate::work::{Verdicts, Work};

const THREADS: u64 = 4;
const DEPTH: usize = 8;

fn options(ground: Ground) -> Options {
    let (timeout, admin_timeout) = match ground {
        Ground::Inline => (40, 100),
        // The thread that serves shares the machine with those that wait for it.
        Ground::Served => (80, 1000),
    };
    Options {
        timeout: Duration::from_millis(timeout),
        admin_timeout: Duration::from_millis(admin_timeout),
        ..Options::default()
    }
}

/// Each thread carries out `count` requests, and checks all its data at the end if `again`.
/// `meanwhile` runs until they are done.
fn run(
    model: &Model,
    controller: &Controller,
    count: u64,
    again: bool,
    meanwhile: impl FnOnce(&AtomicBool) + Send,
) -> Verdicts {
    let done = AtomicBool::new(false);
    let barrier = Barrier::new(THREADS as usize + 1);
    let mut verdicts = Verdicts::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|part| {
                let mut work = Work::new(controller, part, DEPTH, part + 1);
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    work.run(model, count);
                    let verdicts = work.verdicts.clone();
                    if again {
                        work.works_again(model);
                    }
                    verdicts
                })
            })
            .collect();
        let helper = scope.spawn(|| {
            barrier.wait();
            meanwhile(&done);
        });
        let results: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        helper.join().unwrap();
        for result in results {
            verdicts.add(&result.unwrap());
        }
    });
    assert_eq!(verdicts.total(), THREADS * count);
    verdicts
}

fn start(ground: Ground, fault: &str) -> Model {
    Model::start(ground, &format!("size=4M&queues=8&shadow-doorbells=on&fault={fault}"))
}

#[test]
fn a_fatal_state_under_load_is_one_reset_for_all_queues() {
    for ground in GROUNDS {
        let model = start(ground, "fatal-after=500");
        let controller = model.attach(options(ground));
        let Verdicts { ok, reset, aborted, .. } = run(&model, &controller, 400, true, |_| ());
        assert_eq!(ok + reset + aborted, 1600);
        assert!(reset >= 1, "one at least was on its way");
        assert!(controller.resets() >= 1);
        drop(controller);
        assert_eq!(model.finish().fatal, 1);
    }
}

#[test]
fn lost_completions_of_all_queues_are_sorted_out() {
    for ground in GROUNDS {
        let plan = "seed=21,drop=0.01,wrong-cid=0.003,duplicate=0.02,reorder=0.02,fatal-after=700";
        let model = start(ground, plan);
        let controller = model.attach(options(ground));
        let Verdicts { ok, reset, aborted, .. } = run(&model, &controller, 250, true, |_| ());
        assert_eq!(ok + reset + aborted, 1000);
        assert!(ok > 300 && aborted + reset > 0);
        assert!(controller.resets() >= 1 && controller.is_running());
        drop(controller);
        let counts = model.finish();
        assert!(counts.dropped > 0 && counts.fatal == 1);
    }
}

#[test]
fn resets_from_another_thread_do_no_harm() {
    for ground in GROUNDS {
        let model = start(ground, "seed=22,delay=0.05:1ms");
        let controller = model.attach(options(ground));
        let Verdicts { ok, reset, aborted, .. } = run(&model, &controller, 600, true, |done| {
            let mut resets = 0;
            while resets < 20 && !done.load(Ordering::Relaxed) {
                controller.reset().unwrap();
                resets += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(resets > 0);
        });
        assert_eq!(ok + reset + aborted, 2400);
        assert!(ok > 0 && controller.resets() > 0 && controller.is_running());
        drop(controller);
        model.finish();
    }
}

#[test]
fn admin_commands_and_queues_come_and_go_under_load() {
    for ground in GROUNDS {
        let model = start(ground, "fatal-after=1500");
        let controller = model.attach(Options::default());
        let Verdicts { ok, reset, .. } = run(&model, &controller, 600, true, |done| {
            let mut rounds = 0;
            while rounds < 3 || !done.load(Ordering::Relaxed) {
                // A reset may come in between.
                if let Ok(log) = controller.smart_log() {
                    assert!(log.temperature.get() > 0);
                }
                if let Ok(mut queue) = controller.io_queue(2) {
                    let flush = controller.namespaces()[0].flush();
                    if queue.submit(&flush, None, 1).is_ok() && rounds % 2 == 0 {
                        wait_for("a flush ends", || queue.poll().is_some());
                    }
                }
                rounds += 1;
            }
        });
        assert_eq!(ok + reset, 2400);
        assert_eq!(controller.resets(), 1);
        drop(controller);
        model.finish();
    }
}

#[test]
fn a_removal_under_load_ends_every_queue() {
    for ground in GROUNDS {
        let model = start(ground, "vanish-after=700");
        let controller = model.attach(Options::default());
        let Verdicts { ok, gone, refused, .. } = run(&model, &controller, 400, false, |_| ());
        assert_eq!((ok, ok + gone + refused), (700, 1600));
        assert!(!controller.is_running() && controller.resets() == 0);
        drop(controller);
        assert_eq!(model.finish().vanished, 1);
    }
}

/// The server itself goes away under load: mapped doorbells and messages both lead nowhere.
#[test]
fn a_server_that_stops_under_load_ends_every_queue() {
    let model = start(Ground::Served, "delay=0.5:500us");
    let controller = model.attach(options(Ground::Served));
    let Model::Served { stop, .. } = &model else { unreachable!("it is served") };
    let verdicts = run(&model, &controller, 10_000, false, |_| {
        wait_for("some work", || controller.smart_log().is_ok_and(|log| log.host_reads.get() > 20));
        stop.store(true, Ordering::Relaxed);
    });
    assert!(verdicts.ok > 0 && verdicts.gone + verdicts.refused > 0);
    assert_eq!(
        verdicts.ok + verdicts.gone + verdicts.refused + verdicts.reset + verdicts.aborted,
        40_000
    );
    let error = controller.smart_log().unwrap_err().to_string();
    assert!(error.contains("is gone"), "{error}");
}
