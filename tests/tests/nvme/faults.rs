//! Every fault of the model, with a verdict on every request.

use std::time::Duration;

use storage_poll::{Controller, Options};
use uniddrv::AttachError;
use uniddrv_models::nvme::FaultCounts;

use crate::ground::{GROUNDS, Ground, Model, wait_for};
use crate::work::{Verdicts, Work};

/// Late after 40 ms, and reset 100 ms after that.
fn impatient() -> Options {
    Options {
        timeout: Duration::from_millis(40),
        admin_timeout: Duration::from_millis(100),
        ..Options::default()
    }
}

/// Nothing is late.
fn patient() -> Options {
    Options { timeout: Duration::from_mins(10), ..Options::default() }
}

/// What came of `count` requests under a fault plan.
struct Outcome {
    verdicts: Verdicts,
    unknown: u64,
    resets: u32,
    counts: FaultCounts,
}

fn run(ground: Ground, plan: &str, options: Options, depth: usize, count: u64) -> Outcome {
    let shadow = if depth > 1 && ground == Ground::Inline { "on" } else { "off" };
    let model = Model::start(ground, &format!("size=4M&shadow-doorbells={shadow}&fault={plan}"));
    let controller = model.attach(options);
    let mut work = Work::new(&controller, 0, depth, 1);
    work.run(&model, count);
    let verdicts = work.verdicts.clone();
    assert_eq!(verdicts.total(), count);
    if controller.is_running() {
        work.works_again(&model);
    }
    // What was posted twice last is met by the next poll.
    let unknown = work.queue().unknown_completions();
    let resets = controller.resets();
    drop(work);
    drop(controller);
    Outcome { verdicts, unknown, resets, counts: model.finish() }
}

#[test]
fn dropped_completions_are_aborted() {
    for (ground, depth) in [(Ground::Inline, 1), (Ground::Inline, 32), (Ground::Served, 16)] {
        // An abort ends what was dropped: there is no reason to reset.
        let options = Options { admin_timeout: Duration::from_secs(20), ..impatient() };
        let count = if depth == 1 { 100 } else { 600 };
        let outcome = run(ground, "seed=3,drop=0.02", options, depth, count);
        let Verdicts { ok, aborted, .. } = outcome.verdicts;
        assert!(aborted > 0 && ok > 0, "{:?}", outcome.verdicts);
        assert_eq!(ok + aborted, count);
        assert_eq!(outcome.resets, 0);
        assert!(outcome.counts.dropped >= aborted);
    }
}

#[test]
fn delayed_completions_are_waited_for() {
    for ground in GROUNDS {
        let outcome = run(ground, "seed=4,delay=0.1:3ms", patient(), 16, 600);
        assert_eq!(outcome.verdicts, Verdicts { ok: 600, ..Verdicts::default() });
        assert!(outcome.counts.delayed > 20);
        assert_eq!((outcome.unknown, outcome.resets), (0, 0));
    }
}

#[test]
fn completions_delayed_for_too_long_are_aborted_or_just_in_time() {
    for ground in GROUNDS {
        let options = Options { admin_timeout: Duration::from_secs(20), ..impatient() };
        let outcome = run(ground, "seed=5,delay=0.02:200ms", options, 16, 400);
        let Verdicts { ok, aborted, .. } = outcome.verdicts;
        assert_eq!(ok + aborted, 400);
        assert!(outcome.counts.delayed > 0 && outcome.counts.delayed >= aborted);
        assert_eq!((outcome.unknown, outcome.resets), (0, 0));
    }
}

#[test]
fn duplicates_are_ignored() {
    for (ground, depth) in [(Ground::Inline, 1), (Ground::Inline, 16), (Ground::Served, 16)] {
        let outcome = run(ground, "seed=6,duplicate=0.3", patient(), depth, 800);
        assert_eq!(outcome.verdicts, Verdicts { ok: 800, ..Verdicts::default() });
        let duplicated = outcome.counts.duplicated;
        assert!(duplicated > 100);
        // The last ones may not have been looked at.
        assert!(outcome.unknown <= duplicated && outcome.unknown + depth as u64 >= duplicated);
        assert_eq!(outcome.resets, 0);
    }
}

#[test]
fn completions_in_any_order_find_their_requests() {
    for (ground, depth) in [(Ground::Inline, 1), (Ground::Inline, 32), (Ground::Served, 32)] {
        let outcome = run(ground, "seed=7,reorder=0.4", patient(), depth, 800);
        assert_eq!(outcome.verdicts, Verdicts { ok: 800, ..Verdicts::default() });
        assert!(outcome.counts.reordered > 100);
        assert_eq!((outcome.unknown, outcome.resets), (0, 0));
    }
}

#[test]
fn wrong_identifiers_are_ignored_and_their_commands_end_by_a_reset() {
    for (ground, depth) in [(Ground::Inline, 1), (Ground::Inline, 127), (Ground::Served, 16)] {
        let (count, options) = match ground {
            Ground::Inline => (600, impatient()),
            Ground::Served => {
                (400, Options { admin_timeout: Duration::from_secs(1), ..impatient() })
            }
        };
        let outcome = run(ground, "seed=8,wrong-cid=0.01", options, depth, count);
        let Verdicts { ok, reset, aborted, .. } = outcome.verdicts;
        assert_eq!(ok + reset + aborted, count);
        assert!(reset > 0 && outcome.counts.wrong_cid > 0 && outcome.resets > 0);
        assert!(outcome.unknown > 0 && outcome.unknown <= outcome.counts.wrong_cid);
    }
}

#[test]
fn a_wrong_phase_holds_the_queue_up_until_a_reset() {
    for (ground, depth) in [(Ground::Inline, 1), (Ground::Inline, 16), (Ground::Served, 16)] {
        let (count, options) = match ground {
            Ground::Inline => (400, impatient()),
            Ground::Served => {
                (400, Options { admin_timeout: Duration::from_secs(1), ..impatient() })
            }
        };
        let outcome = run(ground, "seed=9,wrong-phase=0.01", options, depth, count);
        let Verdicts { ok, reset, aborted, .. } = outcome.verdicts;
        assert_eq!(ok + reset + aborted, count);
        assert!(reset > 0 && outcome.counts.wrong_phase > 0 && outcome.resets > 0);
    }
}

#[test]
fn statuses_are_told_one_by_one() {
    for ground in GROUNDS {
        let model = Model::start(ground, "size=4M&fault=seed=10,status=0.1:0x0280");
        let controller = model.attach(patient());
        let mut work = Work::new(&controller, 0, 16, 1);
        work.run(&model, 1000);
        let (verdicts, resets) = (work.verdicts.clone(), controller.resets());
        drop(work);
        drop(controller);
        let counts = model.finish();
        assert_eq!((verdicts.status, verdicts.ok), (counts.status, 1000 - counts.status));
        assert!(counts.status > 50 && resets == 0);
    }
}

#[test]
fn a_controller_that_never_gets_ready_is_given_up_in_time() {
    for ground in GROUNDS {
        let model = Model::start(ground, "size=1M&ready-timeout=500&fault=never-ready");
        match Controller::attach_with(model.device(), Options::default()) {
            Err(AttachError::Timeout { limit, what, .. }) => {
                assert_eq!(limit, Duration::from_millis(500));
                assert!(what.contains("RDY"));
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it got ready"),
        }
        // Once by its own registers, once after a function reset.
        assert_eq!(model.finish().never_ready, 2);
    }
}

#[test]
fn a_controller_that_does_not_come_back_is_gone() {
    for ground in GROUNDS {
        let plan = "size=4M&ready-timeout=500&fault=never-ready=1,drop=1,after=100";
        let model = Model::start(ground, plan);
        let controller = model.attach(Options::default());
        let mut work = Work::new(&controller, 0, 8, 1);
        work.run(&model, 50);
        assert_eq!(work.verdicts.ok, 50);
        let error = controller.reset().unwrap_err().to_string();
        assert!(error.contains("did not come back"), "{error}");
        assert!(!controller.is_running());
        work.run(&model, 50);
        assert_eq!((work.verdicts.refused, work.verdicts.total()), (50, 100));
        let text = controller.smart_log().unwrap_err().to_string();
        assert!(text.contains("is gone"), "{text}");
        assert!(controller.io_queue(1).is_err());
    }
}

#[test]
fn a_fatal_state_costs_a_reset_and_nothing_else() {
    for (ground, depth) in [(Ground::Inline, 1), (Ground::Inline, 32), (Ground::Served, 16)] {
        let outcome = run(ground, "fatal-after=200", Options::default(), depth, 500);
        let Verdicts { ok, reset, .. } = outcome.verdicts;
        assert_eq!(ok + reset, 500);
        assert!(reset >= 1 && reset <= depth as u64);
        assert_eq!((outcome.resets, outcome.counts.fatal), (1, 1));
        assert_eq!(outcome.unknown, 0);
    }
}

#[test]
fn a_device_that_disappears_ends_everything() {
    for (ground, depth) in [(Ground::Inline, 1), (Ground::Inline, 32), (Ground::Served, 16)] {
        let outcome = run(ground, "vanish-after=200", Options::default(), depth, 500);
        let Verdicts { ok, gone, refused, .. } = outcome.verdicts;
        assert_eq!((ok, ok + gone + refused), (200, 500));
        assert!(gone >= 1 && gone <= depth as u64);
        assert_eq!((outcome.resets, outcome.counts.vanished), (0, 1));
    }
}

#[test]
fn faults_of_the_admin_queue_are_survived() {
    for plan in ["drop=0.1", "wrong-cid=0.1", "wrong-phase=0.1", "status=0.2:0x0006"] {
        let parameters = format!("size=1M&fault=seed=11,after=20,scope=admin,{plan}");
        let model = Model::start(Ground::Inline, &parameters);
        let options = Options { admin_timeout: Duration::from_millis(20), ..Options::default() };
        let controller = model.attach(options);
        let (mut ok, mut failed) = (0, 0);
        for _ in 0..60 {
            // A bring-up that meets faults itself may fail, and then the controller is gone.
            match controller.smart_log() {
                Ok(log) => {
                    assert!(log.temperature.get() > 0);
                    ok += 1;
                }
                Err(_) => failed += 1,
            }
        }
        assert!(ok > 0 && failed > 0, "{plan}: {ok} ok, {failed} failed");
        drop(controller);
        model.finish();
    }
}

#[test]
fn all_faults_at_once_are_sorted_out() {
    let plan = "seed=12,drop=0.01,delay=0.05:2ms,duplicate=0.05,reorder=0.1,wrong-cid=0.005,\
                wrong-phase=0.005,status=0.05:0x0281,fatal-after=300";
    for ground in GROUNDS {
        let admin_timeout = match ground {
            Ground::Inline => Duration::from_millis(100),
            Ground::Served => Duration::from_secs(1),
        };
        let options = Options { admin_timeout, ..impatient() };
        let outcome = run(ground, plan, options, 16, 600);
        let Verdicts { ok, status, aborted, reset, .. } = outcome.verdicts;
        assert_eq!(ok + status + aborted + reset, 600);
        assert!(ok > 300 && status > 0 && reset > 0, "{:?}", outcome.verdicts);
        assert!(outcome.resets > 0 && outcome.unknown > 0);
        assert_eq!(outcome.counts.fatal, 1);
    }
}

/// A device that disappears while nothing is on its way is noticed by the next request.
#[test]
fn an_idle_removal_is_noticed() {
    let model = Model::start(Ground::Inline, "size=1M");
    let controller = model.attach(impatient());
    let mut work = Work::new(&controller, 0, 4, 1);
    work.run(&model, 10);
    model.with(|model, _| model.vanish());
    work.run(&model, 10);
    assert_eq!(work.verdicts.ok, 10);
    assert!(work.verdicts.gone >= 1);
    wait_for("it is known", || !controller.is_running());
    assert!(controller.smart_log().unwrap_err().to_string().contains("is gone"));
}
