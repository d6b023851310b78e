//! Clients that write anything into their rings, and ledgers that hold anything.

use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use uniddrv_abi::Words;
use uniddrv_abi::block::Outcome;
use uniddrv_abi::ledger::{self, Breadcrumb};
use uniddrv_abi::message;
use uniddrv_abi::queue;

use super::super::Table;
use super::client::{BLOCKS, Client};
use super::world::{World, new_ledger, target};
use crate::serve::{DriverLedger, Undisturbed};
use crate::shared::SharedWords;

/// What a hostile client does.
#[derive(Clone, Debug)]
enum Act {
    Write { word: usize, value: u64 },
    Submit { choice: u8 },
    Work,
    DriverDies,
}

fn act() -> impl Strategy<Value = Act> {
    let words = queue::words_for(16);
    let word = prop_oneof![
        3 => prop_oneof![Just(0usize), Just(8), Just(16), Just(24), Just(49), Just(56)],
        2 => 0..words,
    ];
    let value = prop_oneof![0..40u64, any::<u64>(), any::<u32>().prop_map(u64::from)];
    prop_oneof![
        4 => (word, value).prop_map(|(word, value)| Act::Write { word, value }),
        3 => any::<u8>().prop_map(|choice| Act::Submit { choice }),
        3 => Just(Act::Work),
        1 => Just(Act::DriverDies),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_hostile_client_harms_nobody_else(acts in proptest::collection::vec(act(), 1..200)) {
        let mut hostile = Client::new(1, &[0, 1], 16);
        hostile.message.arena_iova = 1 << 40;
        let mut world = World::new(vec![hostile, Client::new(2, &[2], 16)], 24);
        for (round, act) in acts.iter().enumerate() {
            match *act {
                Act::Write { word, value } => {
                    let words = &world.clients[0].queues[round % 2].words;
                    words.store(word, value, Relaxed);
                }
                Act::Submit { choice } => {
                    world.clients[1].submit(0, choice);
                }
                Act::Work => {
                    world.pass();
                    world.hardware.work(8, round);
                    world.clients[1].reap(usize::MAX);
                }
                Act::DriverDies => world.driver = None,
            }
        }
        for round in 0..100 {
            world.pass();
            world.hardware.work(usize::MAX, round);
            world.clients[1].reap(usize::MAX);
        }
        prop_assert_eq!(world.clients[1].waiting(), 0);
        while let Some((client, text)) = world.table().hostile() {
            prop_assert_eq!(client, 1, "{}", text);
        }
        for work in &world.hardware.seen {
            let theirs = work.iova >= 1 << 40;
            let start = if theirs { 1 << 40 } else { 2 << 32 };
            let inside = work.iova >= start
                && work.iova + u64::from(work.len) <= start + super::client::ARENA;
            prop_assert!(work.len == 0 || inside);
            let lies = work.lba.checked_add(work.blocks.into()).is_none_or(|end| end > BLOCKS);
            prop_assert!(work.opcode == uniddrv_abi::block::Opcode::Flush || !lies);
        }
    }
}

/// An index that cannot be ends that client, says so once, and what it had on its way ends.
#[test]
fn a_hostile_index_expels_its_client() {
    for (word, value) in [(0, 100), (0, 1 << 40), (8, 9), (8, u64::MAX)] {
        let mut world = World::new(vec![Client::new(1, &[0], 8), Client::new(2, &[1], 8)], 24);
        world.pass();
        for choice in 0..4 {
            world.clients[0].submit(0, choice);
            world.clients[1].submit(0, choice);
        }
        world.pass();
        // An index is looked at when it matters: that of completions, when the room that is known
        // of is used up.
        for round in 0..8 {
            world.clients[0].submit(0, 1);
            world.clients[0].queues[0].words.store(word, value, Relaxed);
            world.pass();
            world.hardware.work(1, round);
        }
        assert!(world.table().has_news());
        let (client, text) = world.table().hostile().unwrap();
        assert!(client == 1 && text.contains("cannot be"), "{text}");
        assert_eq!(world.table().hostile(), None);
        world.hardware.work(usize::MAX, 0);
        world.pass();
        assert_eq!(world.table().left(), Some(1));
        let hostile = world.clients.remove(0);
        drop(hostile);
        world.drain();
        assert_eq!(world.clients[0].ended, 4);
    }
}

/// Each thing that cannot be in a ledger is found.
#[test]
fn what_cannot_be_is_an_error() {
    type Forge = fn(&DriverLedger);

    const REQUEST: [u64; 4] = [1, 2, 3, 4];
    let forgeries: [(&str, Forge); 11] = [
        ("nobody has", |ledger| ledger.take(5, 1, 5, 0, REQUEST, 0)),
        ("identifier 0x6", |ledger| ledger.take(5, 0, 6, 0, REQUEST, 0)),
        ("position 0 of queue 0 twice", |ledger| {
            ledger.take(5, 0, 5, 0, REQUEST, 0);
            ledger.take(6, 0, 6, 0, REQUEST, 0);
        }),
        ("a request 1 positions beyond 0", |ledger| ledger.take(5, 0, 5, 1, REQUEST, 0)),
        ("a completion 2 positions beyond 0", |ledger| {
            ledger.set_consumer(0, 2);
            for (slot, posted) in [(1, 0), (2, 2)] {
                ledger.take(slot, 0, slot as u16, slot as u32 - 1, REQUEST, 0);
                ledger.done(slot, 0, slot as u16, posted, 0);
            }
        }),
        ("a completion 0 positions beyond 0", |ledger| {
            ledger.set_consumer(0, 2);
            for slot in [1, 2] {
                ledger.take(slot, 0, slot as u16, slot as u32 - 1, REQUEST, 0);
                ledger.done(slot, 0, slot as u16, 0, 0);
            }
        }),
        ("before 17", |ledger| {
            ledger.set_consumer(0, 17);
            ledger.set_producer(0, 17);
            ledger.take(5, 0, 5, 0, REQUEST, 0);
            ledger.done(5, 0, 5, 0, 0);
        }),
        ("of 16", |ledger| {
            (0..17).for_each(|slot| ledger.take(slot, 0, slot as u16, slot as u32, REQUEST, 0));
        }),
        ("of 16", |ledger| {
            ledger.set_producer(0, 5);
            for slot in 0..17 {
                ledger.take(slot, 0, slot as u16, slot as u32, REQUEST, 0);
                ledger.done(slot, 0, slot as u16, 0, 0);
            }
        }),
        ("state 4", |ledger| ledger.words().store(ledger::WORDS - 1024 * 8, 4, Relaxed)),
        ("queue 64", |ledger| ledger.words().store(ledger::WORDS - 1024 * 8, 64 << 8, Relaxed)),
    ];
    for (text, forge) in forgeries {
        let ledger = new_ledger();
        forge(&ledger);
        let mut table = Table::<Undisturbed>::new(ledger);
        let client = Client::new(1, &[0], 16);
        let message = message::Client { new: false, ..client.message.clone() };
        table.attach(&message, client.handles()).unwrap();
        let before = copy(&client.queues[0].words);
        let error = table.take_over(None).unwrap_err().to_string();
        assert!(error.contains(text), "{error}, not {text}");
        assert_eq!(before, copy(&client.queues[0].words));
    }
}

/// A client cannot take back that it has followed.
#[test]
fn an_epoch_that_is_taken_back_expels_its_client() {
    let mut world = World::new(vec![Client::new(1, &[0], 8), Client::new(2, &[1], 8)], 24);
    world.pass();
    for choice in 0..4 {
        world.clients[0].submit(0, choice);
        world.clients[1].submit(0, choice);
    }
    world.pass();
    queue::renew(&world.clients[0].queues[0].words);
    world.driver = None;
    let (client, text) = world.table().hostile().unwrap();
    assert!(client == 1 && text.contains("epoch"), "{text}");
    world.hardware.work(usize::MAX, 0);
    world.pass();
    assert_eq!(world.table().left(), Some(1));
}

fn copy(words: &SharedWords) -> Vec<u64> {
    (0..words.count()).map(|word| words.load(word, Relaxed)).collect()
}

/// A ledger of a driver in full swing, with a few words changed.
fn forged() -> impl Strategy<Value = Vec<(usize, u64)>> {
    let word = prop_oneof![
        // Indices of the clients' queues, then of others.
        3 => (0..3usize, 0..2usize).prop_map(|(queue, index)| 1280 + queue * 32 + index),
        1 => 1280..3328usize,
        // Heads of slots, positions, anything.
        4 => (0..1024usize).prop_map(|slot| ledger::WORDS - (1024 - slot) * 8),
        4 => (960..1023usize, 0..8usize).prop_map(|(slot, word)| ledger::WORDS - (1024 - slot) * 8 + word),
        1 => 0..ledger::WORDS,
    ];
    let value = prop_oneof![
        0..64u64,
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        // A head that might be one.
        (0..4u64, 0..4u64, any::<u16>(), any::<u32>()).prop_map(|(state, queue, cid, outcome)| {
            state | queue << 8 | u64::from(cid) << 16 | u64::from(outcome) << 32
        }),
    ];
    proptest::collection::vec((word, value), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Either the table holds together, or nobody's ring was touched.
    #[test]
    fn a_forged_ledger_is_an_error_or_a_table(
        changes in forged(),
        poison in any::<Option<u8>>(),
    ) {
        let mut world = World::new(
            vec![Client::new(1, &[0, 1], 16), Client::new(2, &[2], 16)], 24);
        for round in 0..6usize {
            for client in &mut world.clients {
                for queue in 0..client.queues.len() {
                    for choice in 0..5 {
                        client.submit(queue, choice);
                    }
                }
            }
            world.pass();
            world.hardware.work(3 + round, round);
        }
        world.driver = None;
        for &(word, value) in &changes {
            world.ledger.words().store(word, value, Relaxed);
        }
        let mut table = Table::<Undisturbed>::new(world.ledger.clone());
        for client in &mut world.clients {
            client.message.new = false;
            table.attach(&client.message, client.handles()).unwrap();
        }
        let rings = |world: &World| -> Vec<Vec<u64>> {
            let queues = world.clients.iter().flat_map(|client| &client.queues);
            queues.map(|queue| copy(&queue.words)).collect()
        };
        let before = rings(&world);
        let poison = poison.map(|position| Breadcrumb { queue: 0, position: position.into() });
        if let Err(error) = table.take_over(poison) {
            prop_assert!(!changes.is_empty(), "{}", error);
            prop_assert_eq!(before, rings(&world));
        } else {
                table.set_targets(vec![target()]);
                for (slot, cid, _) in table.submissions() {
                    if slot % 2 == 0 {
                        table.submit_again(slot);
                    } else if let Some(slot) = table.lookup(cid) {
                        table.finish(slot, Outcome::Success);
                    }
                }
                for _ in 0..4 {
                    let mut work = Vec::new();
                    table.take(1000, &mut work);
                    for work in work {
                        table.begin(work.slot);
                        table.submitted(work.slot, 0);
                        table.finish(work.slot, Outcome::Success);
                    }
                    table.publish();
                    table.release();
                }
                table.fail_all(Outcome::Gone);
            prop_assert_eq!(table.in_flight(), 0);
        }
    }
}
