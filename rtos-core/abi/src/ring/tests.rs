use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use proptest::prelude::*;

use super::*;
use crate::words::private;

type Private = Box<[AtomicU64]>;

/// Words that lie around a ring and are nobody's business.
const CANARY: u64 = 0xdead_beef_dead_beef;

fn layout(capacity: u32) -> Layout {
    Layout { tail: 1, head: 3, entries: 5, capacity }
}

/// A ring of two-word entries whose indices stand at `at`, canaries around it.
fn memory(capacity: u32, at: u32) -> Private {
    let words = private(5 + 2 * capacity as usize + 1);
    for word in [0, 2, 4, words.len() - 1] {
        words.store(word, CANARY, Ordering::Relaxed);
    }
    words.store(1, at.into(), Ordering::Relaxed);
    words.store(3, at.into(), Ordering::Relaxed);
    words
}

fn untouched(words: &Private) -> bool {
    [0, 2, 4, words.len() - 1].into_iter().all(|word| words.load(word, Ordering::Relaxed) == CANARY)
}

fn entry(number: u64) -> [u64; 2] {
    [number, !number]
}

#[derive(Clone, Debug)]
enum Step {
    Push,
    Publish,
    Pop,
    GiveBack,
    Room(u32),
    Available,
    Look,
    /// A successor of the producer or consumer, from where that was.
    Succeed(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Push),
        2 => Just(Step::Publish),
        4 => Just(Step::Pop),
        2 => Just(Step::GiveBack),
        1 => (0u32..20).prop_map(Step::Room),
        2 => Just(Step::Available),
        1 => Just(Step::Look),
        1 => any::<bool>().prop_map(Step::Succeed),
    ];
    proptest::collection::vec(step, 0..200)
}

/// Positions to start from, often such that the indices wrap.
fn starts() -> impl Strategy<Value = u32> {
    prop_oneof![(0u32..40).prop_map(|back| u32::MAX - back), any::<u32>(), Just(0)]
}

proptest! {
    /// Against a plain queue: what was pushed and not published, published and not popped, popped
    /// and not given back.
    #[test]
    fn a_ring_is_a_bounded_queue(steps in steps(), at in starts(), order in 0u32..5) {
        let capacity = 1 << order;
        let words = memory(capacity, at);
        let mut producer = Producer::<_, 2>::new(&words, layout(capacity), at);
        let mut consumer = Consumer::<_, 2>::new(&words, layout(capacity), at);
        let (mut pushed, mut waiting) = (VecDeque::new(), VecDeque::new());
        let (mut taken, mut next) = (0, 0);
        let (mut first_publish, mut first_return) = (true, true);
        for step in steps {
            let filled = (pushed.len() + waiting.len()) as u32 + taken;
            match step {
                Step::Push => {
                    if producer.room(1).unwrap() > 0 {
                        prop_assert!(filled < capacity);
                        producer.push(entry(next));
                        pushed.push_back(next);
                        next += 1;
                    } else {
                        prop_assert_eq!(filled, capacity);
                    }
                }
                Step::Publish => {
                    prop_assert_eq!(producer.publish(), first_publish || !pushed.is_empty());
                    waiting.append(&mut pushed);
                    first_publish = false;
                }
                Step::Pop => {
                    let known = consumer.available().unwrap();
                    prop_assert!(known as usize <= waiting.len());
                    prop_assert_eq!(known == 0, waiting.is_empty());
                    let expected = waiting.pop_front();
                    prop_assert_eq!(consumer.pop(), expected.map(entry));
                    taken += u32::from(expected.is_some());
                }
                Step::GiveBack => {
                    prop_assert_eq!(consumer.publish(), first_return || taken > 0);
                    taken = 0;
                    first_return = false;
                }
                Step::Room(wanted) => {
                    let room = producer.room(wanted).unwrap();
                    prop_assert!(room <= capacity - filled);
                    prop_assert!(room >= wanted || room == capacity - filled);
                }
                Step::Available => {
                    prop_assert!(consumer.available().unwrap() as usize <= waiting.len());
                }
                Step::Look => {
                    prop_assert_eq!(consumer.look().unwrap() as usize, waiting.len());
                }
                Step::Succeed(true) => {
                    // What the predecessor pushed counts, published or not.
                    producer = Producer::new(&words, layout(capacity), producer.position());
                    first_publish = true;
                }
                Step::Succeed(false) => {
                    consumer = Consumer::new(&words, layout(capacity), consumer.position());
                    first_return = true;
                }
            }
            prop_assert!(untouched(&words));
        }
    }

    /// Whatever stands in the ring's words at whatever step, neither side panics, leaves the ring,
    /// or counts beyond its capacity.
    #[test]
    fn a_peer_that_writes_anything_does_no_harm(
        steps in steps(),
        stores in proptest::collection::vec((any::<bool>(), any_index()), 200),
        at in starts(),
        order in 0u32..5,
    ) {
        let capacity = 1 << order;
        let words = memory(capacity, at);
        let mut producer = Producer::<_, 2>::new(&words, layout(capacity), at);
        let mut consumer = Consumer::<_, 2>::new(&words, layout(capacity), at);
        let mut taken = 0;
        for (step, (tail, value)) in steps.into_iter().zip(stores) {
            if let Some((near, value)) = value {
                let value = if near { u64::from(at).wrapping_add(value) } else { value };
                words.store(if tail { 1 } else { 3 }, value, Ordering::Relaxed);
            }
            match step {
                Step::Push => {
                    if producer.room(1).is_ok_and(|room| room > 0) {
                        producer.push(entry(1));
                    }
                }
                Step::Publish => _ = producer.publish(),
                Step::Pop => {
                    let known = consumer.available().unwrap_or(0);
                    prop_assert!(known <= capacity - taken);
                    taken += u32::from(consumer.pop().is_some());
                }
                Step::GiveBack => {
                    consumer.publish();
                    taken = 0;
                }
                Step::Room(wanted) => {
                    prop_assert!(producer.room(wanted).unwrap_or(0) <= capacity);
                }
                Step::Available | Step::Look => {
                    prop_assert!(consumer.look().unwrap_or(0) <= capacity - taken);
                }
                Step::Succeed(true) => {
                    producer = Producer::new(&words, layout(capacity), producer.position());
                }
                Step::Succeed(false) => {
                    consumer = Consumer::new(&words, layout(capacity), consumer.position());
                    taken = 0;
                }
            }
            prop_assert!(taken <= capacity);
            prop_assert!(untouched(&words));
        }
    }
}

/// Sometimes a value for an index, and whether it is relative to where the ring began.
fn any_index() -> impl Strategy<Value = Option<(bool, u64)>> {
    let value = prop_oneof![
        4 => (0u64..40).prop_map(|value| (true, value)),
        1 => (0u64..40).prop_map(|value| (true, value.wrapping_neg())),
        1 => any::<u32>().prop_map(|value| (false, value.into())),
        1 => any::<u64>().prop_map(|value| (false, value)),
    ];
    proptest::option::weighted(0.3, value)
}

#[test]
fn a_tail_that_cannot_be_is_told_from_one_that_can() {
    for at in [0, 7, u32::MAX - 1, u32::MAX] {
        let words = memory(4, at);
        let mut consumer = Consumer::<_, 2>::new(&words, layout(4), at);
        let says = |index: u64| words.store(1, index, Ordering::Relaxed);
        let hostile = |theirs, ours| Err(HostileIndex { theirs, ours, capacity: 4 });
        let plus = |count: u32| u64::from(at.wrapping_add(count));

        for theirs in [plus(5), plus(u32::MAX), plus(1 << 31), 1 << 32 | plus(1), u64::MAX] {
            says(theirs);
            assert_eq!(consumer.look(), hostile(theirs, at));
            assert_eq!(consumer.available(), hostile(theirs, at));
            assert_eq!(consumer.pop(), None);
        }
        says(plus(4));
        assert_eq!(consumer.look(), Ok(4));
        // It does not go back.
        says(plus(3));
        assert_eq!(consumer.look(), hostile(plus(3), at));
        // What was known before is still there, and no more.
        assert_eq!(consumer.available(), Ok(4));
        assert!((0..4).all(|_| consumer.pop().is_some()) && consumer.pop().is_none());
        // Nothing was given back yet that could have been filled.
        says(plus(5));
        assert_eq!(consumer.look(), hostile(plus(5), at.wrapping_add(4)));
        consumer.publish();
        assert_eq!(consumer.look(), Ok(1));
    }
}

#[test]
fn a_head_that_cannot_be_is_told_from_one_that_can() {
    for at in [0, 7, u32::MAX - 1, u32::MAX] {
        let words = memory(4, at);
        let mut producer = Producer::<_, 2>::new(&words, layout(4), at);
        let says = |index: u64| words.store(3, index, Ordering::Relaxed);
        let hostile = |theirs, ours| Err(HostileIndex { theirs, ours, capacity: 4 });
        let plus = |count: u32| u64::from(at.wrapping_add(count));

        for theirs in [plus(1), plus(u32::MAX - 4), plus(1 << 31), 1 << 32 | plus(0), u64::MAX] {
            says(theirs);
            assert_eq!(producer.room(1), hostile(theirs, at));
        }
        says(plus(0));
        assert_eq!(producer.room(4), Ok(4));
        producer.push(entry(0));
        producer.push(entry(1));
        producer.publish();
        producer.push(entry(2));
        let ours = producer.position();
        // Nobody can have taken what was not published.
        says(plus(3));
        assert_eq!(producer.room(4), hostile(plus(3), ours));
        says(plus(2));
        assert_eq!(producer.room(4), Ok(3));
        // It does not go back.
        says(plus(1));
        assert_eq!(producer.room(4), hostile(plus(1), ours));
        assert_eq!(producer.room(3), Ok(3), "what was known before still holds");
    }
}

/// One who pushes without room loses entries, and nothing else.
#[test]
fn pushing_without_room_leaves_the_ring_whole() {
    let words = memory(2, 0);
    let mut producer = Producer::<_, 2>::new(&words, layout(2), 0);
    for number in 0..7 {
        producer.push(entry(number));
        assert_eq!(producer.room(1), Ok(1u32.saturating_sub(number as u32)));
    }
    assert_eq!(producer.room(u32::MAX), Ok(0));
    assert!(untouched(&words));
}

#[test]
fn a_ring_outside_its_memory_is_refused() {
    let inside = Layout { tail: 0, head: 1, entries: 2, capacity: 4 };
    let refused = |layout: Layout, count: usize| {
        let producer = std::panic::catch_unwind(|| {
            Producer::<_, 2>::new(private(count), layout, 0);
        });
        let consumer = std::panic::catch_unwind(|| {
            Consumer::<_, 2>::new(private(count), layout, 0);
        });
        assert_eq!(producer.is_err(), consumer.is_err());
        producer.is_err()
    };
    assert!(!refused(inside, 10));
    assert!(refused(inside, 9));
    assert!(refused(Layout { tail: 10, ..inside }, 10));
    assert!(refused(Layout { head: 10, ..inside }, 10));
    assert!(refused(Layout { entries: usize::MAX - 1, ..inside }, 10));
    for capacity in [0, 3, 1 << 31] {
        assert!(refused(Layout { capacity, ..inside }, 10));
    }
}

/// A consumer that was followed after it had taken entries, and before it said so: else the ring
/// stays full for ever.
#[test]
fn a_successor_says_what_its_predecessor_could_not() {
    let words = memory(4, 0);
    let mut producer = Producer::<_, 2>::new(&words, layout(4), 0);
    assert_eq!(producer.room(4), Ok(4));
    (0..4).for_each(|number| producer.push(entry(number)));
    assert!(producer.publish());
    let mut predecessor = Consumer::<_, 2>::new(&words, layout(4), 0);
    assert_eq!(predecessor.look(), Ok(4));
    while predecessor.pop().is_some() {}
    let at = predecessor.position();
    let mut successor = Consumer::<_, 2>::new(&words, layout(4), at);
    assert_eq!((producer.room(1), successor.available()), (Ok(0), Ok(0)));
    assert!(successor.publish() && !successor.publish());
    assert_eq!(producer.room(1), Ok(4));
}

/// A producer that was followed after its index was recorded, and before or after it said so
/// itself, wherever the consumer is by then.
#[test]
fn a_successor_shows_what_its_predecessor_filled() {
    for at in [0, u32::MAX - 1] {
        for (published, taken) in [(false, 0), (true, 0), (true, 1), (true, 3)] {
            let words = memory(4, at);
            let mut consumer = Consumer::<_, 2>::new(&words, layout(4), at);
            let mut predecessor = Producer::<_, 2>::new(&words, layout(4), at);
            (0..3).for_each(|number| predecessor.push(entry(number)));
            let recorded = predecessor.position();
            if published {
                predecessor.publish();
            }
            let mut seen = Vec::new();
            consumer.look().unwrap();
            seen.extend((0..taken).filter_map(|_| consumer.pop()));
            consumer.publish();

            let mut successor = Producer::<_, 2>::new(&words, layout(4), recorded);
            assert!(successor.publish() && !successor.publish());
            consumer.look().unwrap();
            seen.extend(std::iter::from_fn(|| consumer.pop()));
            assert_eq!(seen, [entry(0), entry(1), entry(2)]);
            consumer.publish();
            assert_eq!(successor.room(4), Ok(4));
        }
    }
}

/// Many entries through a small ring between two threads.
#[test]
fn entries_pass_between_threads_in_order() {
    const COUNT: u64 = 200_000;
    let words = Arc::new(memory(8, u32::MAX - 1000));
    let (ours, theirs) = (&*words, Arc::clone(&words));
    let mut consumer = Consumer::<_, 2>::new(ours, layout(8), u32::MAX - 1000);
    let filling = std::thread::spawn(move || {
        let mut producer = Producer::<_, 2>::new(&*theirs, layout(8), u32::MAX - 1000);
        let mut number = 0;
        while number < COUNT {
            let room = u64::from(producer.room(1).unwrap()).min(COUNT - number);
            (number..number + room).for_each(|number| producer.push(entry(number)));
            number += room;
            if !producer.publish() {
                std::thread::yield_now();
            }
        }
    });
    let mut number = 0;
    while number < COUNT {
        consumer.available().unwrap();
        while let Some(found) = consumer.pop() {
            assert_eq!(found, entry(number));
            number += 1;
        }
        if !consumer.publish() {
            std::thread::yield_now();
        }
    }
    filling.join().unwrap();
}

/// A peer that writes every word of the ring all the time, while this side works: each call
/// returns, and within its bounds.
#[test]
fn a_peer_that_scribbles_all_the_time_does_no_harm() {
    const CAPACITY: u32 = 8;
    let words = Arc::new(memory(CAPACITY, 0));
    let done = Arc::new(AtomicBool::new(false));
    let (theirs, end) = (Arc::clone(&words), Arc::clone(&done));
    let scribbling = std::thread::spawn(move || {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        while !end.load(Ordering::Relaxed) {
            for word in (1..theirs.len() - 1).filter(|word| *word != 2 && *word != 4) {
                // A xorshift generator: small differences to what stands there, and any value.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let near = theirs.load(word, Ordering::Relaxed).wrapping_add(state >> 32 & 3);
                theirs.store(
                    word,
                    if state.is_multiple_of(8) { state } else { near },
                    Ordering::Relaxed,
                );
            }
        }
    });
    let (mut refused, mut passed) = (0, 0);
    while refused < 1000 || passed < 1000 {
        let mut producer = Producer::<_, 2>::new(&*words, layout(CAPACITY), 0);
        let mut consumer = Consumer::<_, 2>::new(&*words, layout(CAPACITY), 0);
        // As a peer that resets the ring would have it.
        words.store(1, 0, Ordering::Relaxed);
        words.store(3, 0, Ordering::Relaxed);
        for _ in 0..50 {
            match producer.room(1) {
                Ok(room) => {
                    assert!(room <= CAPACITY);
                    (0..room).for_each(|number| producer.push(entry(number.into())));
                    producer.publish();
                    passed += 1;
                }
                Err(HostileIndex { .. }) => refused += 1,
            }
            match consumer.look() {
                Ok(waiting) => assert!(waiting <= CAPACITY),
                Err(HostileIndex { .. }) => refused += 1,
            }
            let popped = std::iter::from_fn(|| consumer.pop()).count();
            assert!(popped <= CAPACITY as usize);
            consumer.publish();
        }
    }
    done.store(true, Ordering::Relaxed);
    scribbling.join().unwrap();
    assert!(untouched(&words));
}
