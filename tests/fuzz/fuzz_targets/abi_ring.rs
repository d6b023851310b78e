//! Both sides of a shared ring by a script, with anything stored into its words between their
//! steps: each index is taken or refused as a model with wide integers says, entries arrive in
//! order as long as nobody lied, and neither side leaves the ring.
#![no_main]

use std::sync::atomic::Ordering::Relaxed;

use libfuzzer_sys::fuzz_target;
use uniddrv_abi::Words;
use uniddrv_abi::ring::{Consumer, HostileIndex, Layout, Producer};
use uniddrv_abi::words::private;
use uniddrv_fuzz::Input;

const TAIL: usize = 1;
const HEAD: usize = 3;
const ENTRIES: usize = 5;
/// Around the ring and between its words.
const CANARY: u64 = 0xdead_beef_dead_beef;
/// Positions of the model begin here, so that none is below 0.
const BASE: u64 = 1 << 40;

/// What a side knows, as positions that never wrap.
#[derive(Clone, Copy)]
struct Known {
    ours: u64,
    published: u64,
    theirs: u64,
}

/// The one position among `possible` of which `word` can be the index.
fn position(word: u64, possible: std::ops::RangeInclusive<u64>) -> Option<u64> {
    possible.into_iter().find(|position| u64::from(*position as u32) == word)
}

fn entry(position: u64) -> [u64; 2] {
    [position, !position]
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let capacity = 1u32 << (input.byte() % 5);
    let at = input.u32();
    let start = BASE + u64::from(at);
    let layout = Layout { tail: TAIL, head: HEAD, entries: ENTRIES, capacity };
    let words = private(ENTRIES + 2 * capacity as usize + 1);
    let canaries = [0, 2, 4, words.count() - 1];
    canaries.iter().for_each(|&word| words.store(word, CANARY, Relaxed));
    words.store(TAIL, at.into(), Relaxed);
    words.store(HEAD, at.into(), Relaxed);
    let wide = u64::from(capacity);
    let mut producer = Producer::<_, 2>::new(&words, layout, at);
    let mut consumer = Consumer::<_, 2>::new(&words, layout, at);
    let mut filling = Known { ours: start, published: start, theirs: start - wide };
    let mut taking = Known { ours: start, published: start, theirs: start };
    let mut honest = true;
    while !input.is_empty() {
        match input.byte() % 11 {
            0 | 1 => {
                if filling.ours - filling.theirs < wide {
                    producer.push(entry(filling.ours));
                    filling.ours += 1;
                }
            }
            2 => {
                let said = producer.publish();
                assert!(said || filling.published == filling.ours);
                assert!(!said || words.load(TAIL, Relaxed) == u64::from(filling.ours as u32));
                filling.published = filling.ours;
            }
            3 => {
                let wanted = u32::from(input.byte() % 20);
                let known = wide - (filling.ours - filling.theirs);
                let word = words.load(HEAD, Relaxed);
                let expected = if known >= u64::from(wanted) {
                    Some(known)
                } else {
                    let found = position(word, filling.theirs..=filling.published);
                    filling.theirs = found.unwrap_or(filling.theirs);
                    found.map(|theirs| wide - (filling.ours - theirs))
                };
                let ours = filling.ours as u32;
                let expected = expected.map(|room| room as u32);
                let hostile = HostileIndex { theirs: word, ours, capacity };
                assert_eq!(producer.room(wanted), expected.ok_or(hostile));
            }
            4 | 5 => {
                let waits = taking.ours < taking.theirs;
                let popped = consumer.pop();
                assert_eq!(popped.is_some(), waits);
                if let Some(found) = popped {
                    if honest {
                        assert_eq!(found, entry(taking.ours));
                    }
                    taking.ours += 1;
                }
                assert!(taking.ours - taking.published <= wide);
            }
            6 => {
                let said = consumer.publish();
                assert!(said || taking.published == taking.ours);
                assert!(!said || words.load(HEAD, Relaxed) == u64::from(taking.ours as u32));
                taking.published = taking.ours;
            }
            look @ (7 | 8) => {
                let known = taking.theirs - taking.ours;
                let word = words.load(TAIL, Relaxed);
                let (expected, said) = if look == 7 && known > 0 {
                    (Some(known), consumer.available())
                } else {
                    let found = position(word, taking.theirs..=taking.published + wide);
                    taking.theirs = found.unwrap_or(taking.theirs);
                    let said = if look == 7 { consumer.available() } else { consumer.look() };
                    (found.map(|theirs| theirs - taking.ours), said)
                };
                let ours = taking.ours as u32;
                let expected = expected.map(|waiting| waiting as u32);
                let hostile = HostileIndex { theirs: word, ours, capacity };
                assert_eq!(said, expected.ok_or(hostile));
            }
            9 => {
                // A store by somebody hostile: near the truth, or anything.
                honest = false;
                let place = usize::from(input.byte()) % (2 + 2 * capacity as usize);
                let place = [TAIL, HEAD].get(place).copied().unwrap_or(ENTRIES + place - 2);
                let value = match input.byte() {
                    near @ 0..0xc0 => words
                        .load(place, Relaxed)
                        .wrapping_add(u64::from(near % 48))
                        .wrapping_sub(24),
                    0xc0..0xe0 => input.u32().into(),
                    _ => input.u64(),
                };
                words.store(place, value, Relaxed);
            }
            _ => {
                // Successors that have their predecessors' own indices.
                if input.byte() & 1 == 0 {
                    producer = Producer::new(&words, layout, filling.ours as u32);
                    filling.published = filling.ours;
                    filling.theirs = filling.ours - wide;
                } else {
                    consumer = Consumer::new(&words, layout, taking.ours as u32);
                    taking.published = taking.ours;
                    taking.theirs = taking.ours;
                }
            }
        }
        if honest {
            assert!(taking.ours <= filling.ours && filling.ours <= taking.published + wide);
        }
        assert!(canaries.iter().all(|&word| words.load(word, Relaxed) == CANARY));
    }
});
