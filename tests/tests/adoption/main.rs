//! A driver that dies at any step of its work, and the successor that goes on: the NVMe driver
//! as the core runs it, on the NVMe model in this process, with verified data.

mod client;
mod world;

use uniddrv::serve::Step;
use uniddrv_abi::block::Outcome;
use uniddrv_abi::ledger::Phase;

use world::{Began, World};

/// What is done between two deaths: enough for queues and rings to wrap.
const REQUESTS: u64 = 300;

#[test]
fn without_a_death_all_is_carried_out() {
    let mut world = World::new("size=4M", 32);
    assert_eq!(world.begin(), Began::Attached);
    world.work(5_000);
    assert_eq!((world.deaths, world.resets()), (0, 0));
}

#[test]
fn a_death_at_every_step_loses_nothing() {
    for step in Step::ALL {
        for depth in [1, 4, 32] {
            let mut world = World::new("size=4M", depth);
            world.begin();
            for count in [1, 2, 3, 5, 17, 33, 64] {
                world.arm(step, count);
                world.work_until_death();
            }
            world.work(REQUESTS);
            assert_eq!(world.deaths, 7, "{step:?} at depth {depth} was not met");
            assert_eq!(world.adoptions, 7, "{step:?} at depth {depth}");
            assert_eq!(world.resets(), 0, "{step:?} at depth {depth}: adoption resets nothing");
            assert_eq!(world.enables(), 1);
            assert_eq!(world.repeated_doorbells(), 0, "{step:?} at depth {depth}");
        }
    }
}

#[test]
fn successors_that_die_at_once_lose_nothing() {
    // Each dies at its first chance, at the next step; ten in a row.
    let mut world = World::new("size=4M&fault=reorder=0.2,delay=0.2:1ms", 32);
    world.begin();
    for round in 0..200 {
        for step in Step::ALL.into_iter().cycle().skip(round).take(10) {
            world.arm(step, 1);
            world.work_until_death();
        }
    }
    assert_eq!(world.deaths, 2_000);
    assert_eq!(world.repeated_doorbells(), 0);
    assert_eq!(world.resets(), 0);
}

#[test]
fn commands_that_the_controller_completes_during_the_gap_are_found() {
    let mut world = World::new("size=4M&fault=delay=0.5:1ms,reorder=0.3", 32);
    world.begin();
    for count in 1..100 {
        world.arm(Step::ALL[count as usize % 15], count % 40 + 1);
        world.work_until_death();
    }
    assert_eq!(world.deaths, 99);
    assert_eq!(world.resets(), 0);
}

#[test]
fn what_cannot_be_adopted_is_reset_and_issued_again() {
    for step in Step::ALL {
        let mut world = World::new("size=4M&fault=delay=0.3:1ms", 32);
        world.begin();
        world.arm(step, 40);
        world.before_adoption = Some(|world| {
            // As one that died while it brought the controller up.
            world.ledger().set_phase(Phase::BringingUp);
        });
        world.work_until_death();
        world.work(REQUESTS);
        assert_eq!((world.deaths, world.adoptions, world.resets()), (1, 0, 1), "{step:?}");
        assert_eq!(world.enables(), 2);
    }
}

#[test]
fn a_record_that_does_not_check_out_leads_to_a_reset() {
    for word in 0..64 {
        let mut world = World::new("size=4M", 32);
        world.begin();
        world.arm(Step::DoorbellRung, 5);
        world.word = word;
        world.before_adoption = Some(|world| {
            let word = world.word;
            world.ledger().set_device(word, u64::MAX);
        });
        // Whatever the driver makes of it: it neither panics nor hangs, and the client gets an
        // answer to every request.
        world.lenient = true;
        world.work(REQUESTS);
        assert_eq!(world.deaths, 1);
    }
}

#[test]
fn a_request_that_takes_too_long_is_aborted_and_its_neighbours_live() {
    let mut world = World::new("size=4M&fault=drop=0.02,seed=3", 32);
    world.settings.timeout_ms = 60;
    world.lenient = true;
    world.begin();
    world.work(400);
    let aborted = world.outcomes.get(&Outcome::Aborted.to_bits()).copied().unwrap_or(0);
    assert!(aborted > 0, "{:?}", world.outcomes);
    assert!(
        world.outcomes.keys().all(|bits| {
            matches!(Outcome::from_bits(*bits), Outcome::Success | Outcome::Aborted)
        })
    );
}

#[test]
fn a_controller_that_vanishes_is_told() {
    let mut world = World::new("size=4M&fault=vanish-after=100", 8);
    world.begin();
    let gone = world.work_until_gone(1_000);
    assert!(gone.is_some());
}
