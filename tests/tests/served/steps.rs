//! A driver process that ends at each step of its work in turn, in every way that it can end by
//! itself.

use uniddrv::client::Harm;
use uniddrv::serve::Step;

use crate::ground::{DEVICE, Ground, Plan, last_death};
use crate::user::User;

const DEPTH: u32 = 32;

/// How a driver ends: what its word of the ledger says, and what is reported.
#[derive(Clone, Copy, Debug)]
struct Way {
    number: u64,
    cause: &'static [&'static str],
    last_words: Option<&'static str>,
}

// The first process of a PID namespace cannot be ended by a signal of its own: `abort` falls back
// to a fault.
const PANIC: Way = Way {
    number: 0,
    cause: &["killed by SIGSEGV", "killed by SIGABRT"],
    last_words: Some("armed at"),
};
const ABORT: Way = Way { number: 1, last_words: Some("SIG"), ..PANIC };
const EXIT: Way = Way { number: 2, cause: &["exited with status 3"], last_words: None };
const HANG: Way = Way { number: 3, cause: &["hung"], last_words: None };

fn die_at_every_step(way: Way) {
    let ground = Plan::new("size=4M").start();
    ground.ready();
    let (_core, client) = ground.open(1, DEPTH);
    let mut user = User::new(client, DEPTH as usize, 0, 8000);
    user.work(500);
    for (deaths, step) in (0_u64..).zip(Step::ALL) {
        let before = user.ended();
        ground
            .core
            .kill(DEVICE, Harm::Arm { step: step as u64 | way.number << 32, count: 20 })
            .unwrap();
        let status = user.work_until(|_| {
            let status = ground.status();
            (status.restarts > deaths
                && status.warm
                && status.state == "running"
                && status.deaths.len() as u64 > deaths.min(15))
            .then_some(status)
        });
        let death = last_death(&status);
        let what = format!("{step:?}: {death:?}");
        assert_eq!(
            (status.restarts, status.adoptions, status.resets),
            (deaths + 1, deaths + 1, 0),
            "{what}"
        );
        assert_eq!(death.recovery, "adopted", "{what}");
        assert!(way.cause.contains(&death.cause.as_str()), "{what}");
        match way.last_words {
            Some(words) => assert!(
                death.last_words.as_ref().is_some_and(|said| said.contains(words)),
                "{what}"
            ),
            None => assert_eq!(death.last_words, None, "{what}"),
        }
        if way.number == PANIC.number {
            let words = format!("armed at {step:?}");
            assert!(death.last_words.as_ref().is_some_and(|said| said.contains(&words)), "{what}");
        }
        tell_request(&ground, step, death.request.as_deref());
        user.work(200);
        assert!(user.ended() > before);
    }
    user.verify();
    let status = ground.status();
    assert_eq!((status.errors, status.resets), (0, 0));
    assert_eq!(status.ios, user.ended());
}

/// A driver that works on a request says which.
fn tell_request(_ground: &Ground, step: Step, request: Option<&str>) {
    if matches!(step, Step::SubmissionRecorded | Step::EntryWritten | Step::DoneRecorded) {
        assert!(request.is_some_and(|text| text.contains("queue")), "{step:?}: {request:?}");
    }
}

#[test]
fn a_panic_at_every_step_loses_nothing() {
    die_at_every_step(PANIC);
}

#[test]
fn an_abort_at_every_step_loses_nothing() {
    die_at_every_step(ABORT);
}

#[test]
fn an_exit_at_every_step_loses_nothing() {
    die_at_every_step(EXIT);
}

#[test]
fn a_hang_at_every_step_loses_nothing() {
    die_at_every_step(HANG);
}
