//! Drivers that die anywhere: nothing is lost, and nothing ends twice.

use proptest::prelude::*;
use uniddrv_abi::ledger::Phase;

use super::client::Client;
use super::device::Deadly;
use super::world::{World, die_at, new_ledger};
use crate::serve::Step;
use crate::shared::mortal;

/// Two clients, one with two queues, at a queue depth of `depth`.
fn world(depth: u32) -> World {
    let clients = vec![Client::new(1, &[5], depth), Client::new(2, &[0, 63], depth)];
    World::new(clients, 24)
}

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    Submit { client: usize, queue: usize, choice: u8 },
    Pass,
    Device { most: usize, disorder: usize },
    Reap { client: usize, most: usize },
    DieAtStep { step: usize, survived: u64 },
    DieAtStore { stores: u64 },
    Reset,
}

fn happen(world: &mut World, event: &Event) {
    match *event {
        Event::Submit { client, queue, choice } => {
            let client = &mut world.clients[client];
            let queue = queue % client.queues.len();
            client.submit(queue, choice);
        }
        Event::Pass => world.pass(),
        Event::Device { most, disorder } => world.hardware.work(most, disorder),
        Event::Reap { client, most } => world.clients[client].reap(most),
        Event::DieAtStep { step, survived } => die_at(Step::ALL[step], survived),
        Event::DieAtStore { stores } => mortal::arm(Some(stores)),
        Event::Reset => {
            world.driver = None;
            world.reset = true;
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..2usize, 0..2usize, any::<u8>())
            .prop_map(|(client, queue, choice)| Event::Submit { client, queue, choice }),
        6 => Just(Event::Pass),
        3 => (1..40usize, any::<usize>()).prop_map(|(most, disorder)| Event::Device { most, disorder }),
        2 => (0..2usize, 1..40usize).prop_map(|(client, most)| Event::Reap { client, most }),
        1 => (0..Step::ALL.len(), 0..4u64)
            .prop_map(|(step, survived)| Event::DieAtStep { step, survived }),
        1 => (0..120u64).prop_map(|stores| Event::DieAtStore { stores }),
    ]
}

/// The stores of the test's own threads are not the driver's.
fn happen_to_the_driver_alone(world: &mut World, event: &Event) {
    if let Event::Submit { .. } | Event::Reap { .. } = event {
        mortal::pause(|| happen(world, event));
    } else {
        happen(world, event);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_lost_or_ends_twice(
        depth in 0..6u32,
        events in proptest::collection::vec(event(), 1..400),
    ) {
        let mut world = world(1 << depth);
        for event in &events {
            happen_to_the_driver_alone(&mut world, event);
        }
        world.check();
    }

    #[test]
    fn nothing_is_lost_where_the_device_is_reset(
        depth in 0..6u32,
        events in proptest::collection::vec(
            prop_oneof![30 => event(), 1 => Just(Event::Reset)], 1..400),
    ) {
        let mut world = world(1 << depth);
        for event in &events {
            happen_to_the_driver_alone(&mut world, event);
        }
        world.check();
    }
}

/// A little of everything, always the same.
fn routine(world: &mut World, each: &mut dyn FnMut(&mut World)) {
    let mut choice: u8 = 3;
    for round in 0..12usize {
        mortal::pause(|| {
            for client in &mut world.clients {
                for queue in 0..client.queues.len() {
                    for _ in 0..=round % 4 {
                        client.submit(queue, choice);
                        choice = choice.wrapping_mul(5).wrapping_add(1);
                    }
                }
            }
        });
        each(world);
        world.pass();
        world.hardware.work(3 + round, round);
        world.pass();
        mortal::pause(|| world.clients.iter_mut().for_each(|client| client.reap(4)));
    }
}

#[test]
fn a_death_at_every_step_in_turn() {
    for depth in [1, 8, 32] {
        for step in Step::ALL {
            for survived in 0..8 {
                let mut world = world(depth);
                world.pass();
                die_at(step, survived);
                routine(&mut world, &mut |_| ());
                world.drain();
                assert!(world.deaths == 1 || survived > 0, "no driver came to {step:?}");
                world.check();
            }
        }
    }
}

/// The driver dies before each single one of its stores in turn, and so does its successor while it
/// takes over.
#[test]
fn a_death_before_every_store() {
    let mut stores = 0;
    loop {
        let mut world = world(4);
        world.pass();
        mortal::arm(Some(stores));
        let mut deaths = 0;
        routine(&mut world, &mut |world| {
            if world.deaths > deaths && deaths < 3 {
                deaths = world.deaths;
                // Not long after, so mostly while it takes over.
                mortal::arm(Some(stores % 37));
            }
        });
        let died = world.deaths > 0;
        world.check();
        if !died {
            break;
        }
        stores += 1;
    }
    assert!(stores > 1000, "{stores}");
}

/// As before, where the successor resets the device.
#[test]
fn a_death_before_every_store_and_a_reset() {
    let mut stores = 0;
    loop {
        let mut world = world(4);
        world.pass();
        mortal::arm(Some(stores));
        let mut deaths = 0;
        routine(&mut world, &mut |world| {
            if world.deaths > deaths && deaths < 3 {
                deaths = world.deaths;
                world.reset = true;
                mortal::arm(Some(stores % 41));
            }
        });
        let died = world.deaths > 0;
        world.check();
        if !died {
            break;
        }
        stores += 3;
    }
    assert!(stores > 1000, "{stores}");
}

#[test]
fn clients_submit_again_what_a_new_ledger_does_not_know() {
    for stores in (0..).step_by(7) {
        let mut world = world(8);
        routine(&mut world, &mut |_| ());
        // The old ledger did not check out.
        world.driver = None;
        world.ledger = new_ledger();
        let mut renewed = false;
        mortal::arm(Some(stores));
        while !renewed {
            renewed = world.renew();
        }
        mortal::arm(None);
        assert_eq!(world.ledger.phase(), Ok(Phase::Running));
        let before: u64 = world.clients.iter().map(|client| client.ended).sum();
        // They have not followed yet, and what they have in their rings is not touched.
        world.pass();
        let table = world.table();
        assert_eq!(table.in_flight(), 0);
        assert!(table.hostile().is_none() && !table.has_work());
        // A successor of the one that renewed knows that they have not followed either.
        world.driver = None;
        world.pass();
        world.pass();
        assert!(world.table().hostile().is_none());
        world.check();
        let after: u64 = world.clients.iter().map(|client| client.ended).sum();
        assert!(after > before);
        if world.deaths == 0 {
            assert!(stores > 1000, "{stores}");
            return;
        }
    }
}

#[test]
fn the_third_driver_to_die_on_a_request_is_the_last() {
    for completing in [false, true] {
        for reset in [false, true] {
            let mut world = world(8);
            world.suspects = true;
            let poison = world.clients[0].lba(5);
            world.clients[0].poison = Some(5);
            world.deadly = if completing {
                Deadly { completing: Some(poison), ..Deadly::default() }
            } else {
                Deadly { submitting: Some(poison), ..Deadly::default() }
            };
            for choice in 0..8 {
                world.clients[0].submit(0, choice);
                world.clients[1].submit(1, choice);
            }
            for round in 0..20 {
                world.reset = reset;
                world.pass();
                world.pass();
                world.hardware.work(8, round);
            }
            assert_eq!(world.deaths, 3, "completing {completing}, reset {reset}");
            world.reset = false;
            world.drain();
            assert_eq!(world.poisoned.len(), 1);
            let (client, text) = world.poisoned.remove(0);
            assert!(client == 1 && text.contains(&format!("lba: {poison}")), "{text}");
            assert_eq!(world.ledger.suspect(), (None, 0));
            world.check();
        }
    }
}

/// A suspicion ends with the request: the position is another's later.
#[test]
fn a_position_is_not_suspected_for_ever() {
    let mut world = world(8);
    world.suspects = true;
    world.pass();
    world.clients[0].submit(0, 0);
    world.pass();
    let position = 0;
    let crumb = uniddrv_abi::ledger::Breadcrumb { queue: 5, position };
    for _ in 0..3 {
        world.ledger.set_breadcrumb(Some(crumb));
        world.ledger.suspect_breadcrumb();
    }
    // It ends before anybody takes over.
    world.hardware.work(1, 0);
    world.pass();
    world.driver = None;
    world.pass();
    assert_eq!(world.ledger.suspect(), (None, 0));
    world.check();
}
