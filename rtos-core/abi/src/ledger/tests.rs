use core::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;
use crate::block::Outcome;
use crate::words::private;

type Private = Box<[AtomicU64]>;

fn ledger() -> Ledger<Private> {
    let ledger = Ledger::new(private(WORDS)).unwrap();
    ledger.initialise();
    ledger
}

/// The words that `run` changes, and what they are then. All others hold what no call writes.
fn written(ledger: &Ledger<Private>, run: impl Fn(&Ledger<Private>)) -> Vec<(usize, u64)> {
    const BEFORE: u64 = 0x5555_5555_5555_5555;
    for word in 0..WORDS {
        ledger.words.store(word, BEFORE, Relaxed);
    }
    run(ledger);
    let words = ledger.words.iter().map(|word| word.load(Relaxed)).enumerate();
    words.filter(|(_, value)| *value != BEFORE).collect()
}

/// Where each word is and what it holds: a successor may be of a later build.
#[test]
fn words_are_where_they_are() {
    assert_eq!(MAGIC, 0x3130_6465_6c69_6e75);
    assert_eq!((SLOTS, QUEUES, DEVICE_WORDS, BUCKETS, LAST_WORDS), (1024, 64, 1024, 256, 504));
    assert_eq!((DEVICE, QUEUE, HISTOGRAM, SLOT), (256, 1280, 3328, 19_712));
    assert_eq!((WORDS, BYTES), (27_904, 225_280));

    let at = ledger();
    let next = 0x5555_5555_5555_5556;
    assert_eq!(written(&at, Ledger::initialise), [(0, MAGIC)]);
    assert_eq!(written(&at, |at| at.set_phase(Phase::Fresh)), [(1, 0)]);
    assert_eq!(written(&at, |at| at.set_phase(Phase::BringingUp)), [(1, 1)]);
    assert_eq!(written(&at, |at| at.set_phase(Phase::Running)), [(1, 2)]);
    assert_eq!(written(&at, |at| at.set_phase(Phase::Quiesced)), [(1, 3)]);
    assert_eq!(written(&at, Ledger::beat), [(8, next)]);
    assert_eq!(written(&at, |at| at.set_asleep(true)), [(16, 1)]);
    assert_eq!(written(&at, |at| at.set_asleep(false)), [(16, 0)]);
    let crumb = Breadcrumb { queue: 63, position: 0x0102_0304 };
    let bits = 0x8000_003f_0102_0304;
    assert_eq!(written(&at, |at| at.set_breadcrumb(Some(crumb))), [(24, bits)]);
    assert_eq!(written(&at, |at| at.set_breadcrumb(None)), [(24, 0)]);
    let suspected = written(&at, |at| {
        at.set_breadcrumb(Some(crumb));
        at.suspect_breadcrumb();
    });
    assert_eq!(suspected, [(24, bits), (32, bits), (33, 1)]);
    assert_eq!(written(&at, |at| at.adoption_began(9)), [(40, 9), (41, 0), (42, 0)]);
    assert_eq!(written(&at, |at| at.adoption_ended(9)), [(41, 9)]);
    assert_eq!(written(&at, |at| at.first_completion(9)), [(42, 9)]);
    assert_eq!(written(&at, Ledger::call_attention), [(44, next)]);
    assert_eq!(written(&at, |at| at.count_completed(1)), [(48, next)]);
    assert_eq!(written(&at, |at| at.count_reset(2)), [(49, next), (50, next + 1)]);
    assert_eq!(written(&at, |at| at.arm(3, 4)), [(56, 3), (57, 4)]);
    let text = u64::from_le_bytes(*b"gone!\0\0\0");
    assert_eq!(written(&at, |at| at.set_last_words(b"gone!")), [(64, 5), (65, text)]);
    assert_eq!(written(&at, |at| at.set_device(0, 7)), [(256, 7)]);
    assert_eq!(written(&at, |at| at.set_device(1023, 7)), [(1279, 7)]);
    assert_eq!(written(&at, |at| at.set_consumer(0, 7)), [(1280, 7)]);
    assert_eq!(written(&at, |at| at.set_producer(63, u32::MAX)), [(3297, 0xffff_ffff)]);
    let counts = [
        (Count::Ios, 8),
        (Count::BytesRead, 9),
        (Count::BytesWritten, 10),
        (Count::Errors, 11),
        (Count::InFlight, 12),
        (Count::Throttled, 13),
    ];
    for (count, offset) in counts {
        assert_eq!(written(&at, |at| at.set_count(1, count, 7)), [(1312 + offset, 7)]);
        assert_eq!(written(&at, |at| at.add_count(1, count, 1)), [(1312 + offset, next)]);
    }
    assert_eq!(written(&at, |at| at.count_latency(2, 9)), [(3328 + 512 + 9, next)]);
    let cleared = written(&at, |at| at.clear_queue(1));
    let words = (1312..1344).chain(3584..3840).map(|word| (word, 0));
    assert_eq!(cleared, words.collect::<Vec<_>>());
}

/// The words of a slot: state, queue, identifier and outcome in the first one.
#[test]
fn slots_are_what_they_are() {
    let at = ledger();
    let last = 19_712 + 1023 * 8;
    let taken = written(&at, |at| at.take(1023, 63, 0x0708, 0x90a0_b0c0, [1, 2, 3, 4], 99));
    let expected = [0x0708_3f01, 1, 2, 3, 4, 0x90a0_b0c0].into_iter().enumerate();
    let expected = expected.chain([(7, 99)]).map(|(offset, value)| (last + offset, value));
    assert_eq!(taken, expected.collect::<Vec<_>>());
    let submitted = written(&at, |at| at.submitted(0, 1, 0xffff, 55));
    assert_eq!(submitted, [(19_712, 0xffff_0102), (19_718, 55)]);
    assert_eq!(written(&at, |at| at.taken_again(1, 2, 3)), [(19_720, 0x0003_0201)]);
    let outcome = Outcome::Device(5).to_bits();
    let done = written(&at, |at| at.done(0, 1, 2, 0x0a0b_0c0d, outcome));
    assert_eq!(done, [(19_712, 0x0001_0005_0002_0103), (19_717, 0x0a0b_0c0d_5555_5555)]);
    assert_eq!(written(&at, |at| at.free(0, 2)), [(19_712, 0x0002_0000)]);
}

#[test]
fn what_several_write_lies_on_lines_of_its_own() {
    let core = [ATTENTION / 8, ARMED / 8, PHASE / 8];
    for word in [HEARTBEAT, ASLEEP, BREADCRUMB, COMPLETED, LAST_WORDS_LEN, DEVICE, QUEUE, SLOT] {
        assert!(!core.contains(&(word / 8)), "the core writes beside word {word}");
    }
    assert!(SLOT.is_multiple_of(8) && QUEUE.is_multiple_of(8) && DEVICE.is_multiple_of(8));
}

#[test]
fn a_slot_lives_through_its_states() {
    let ledger = ledger();
    ledger.take(1023, 63, 7, 0xffff_ffff, [1, 2, 3, 4], 99);
    let slot = ledger.slot(1023).unwrap();
    assert_eq!((slot.state, slot.queue, slot.cid), (State::Taken, 63, 7));
    assert_eq!((slot.request, slot.position, slot.taken), ([1, 2, 3, 4], 0xffff_ffff, 99));
    ledger.submitted(1023, 63, 8, 55);
    let slot = ledger.slot(1023).unwrap();
    assert_eq!((slot.state, slot.cid, slot.device), (State::Submitted, 8, 55));
    ledger.done(1023, 63, 8, 77, 0x1_0005);
    let slot = ledger.slot(1023).unwrap();
    assert_eq!((slot.state, slot.posted, slot.outcome), (State::Done, 77, 0x1_0005));
    assert_eq!((slot.position, slot.request), (0xffff_ffff, [1, 2, 3, 4]));
    // A second death at the same step: the position in the submission ring stays.
    ledger.done(1023, 63, 8, 78, 0x1_0005);
    let slot = ledger.slot(1023).unwrap();
    assert_eq!((slot.position, slot.posted), (0xffff_ffff, 78));
    ledger.free(1023, 8);
    let slot = ledger.slot(1023).unwrap();
    assert_eq!((slot.state, slot.cid), (State::Free, 8));
    assert!((0..1023).all(|other| ledger.slot(other).unwrap().state == State::Free));
}

/// Words that note how many stores there may still be: a process that is killed.
struct Mortal<'a> {
    words: &'a Private,
    left: core::cell::Cell<usize>,
}

impl Words for Mortal<'_> {
    fn count(&self) -> usize {
        self.words.count()
    }
    fn load(&self, index: usize, order: core::sync::atomic::Ordering) -> u64 {
        self.words.load(index, order)
    }
    fn store(&self, index: usize, value: u64, order: core::sync::atomic::Ordering) {
        if let Some(left) = self.left.get().checked_sub(1) {
            self.left.set(left);
            self.words.store(index, value, order);
        }
    }
    fn fence(&self) {
        self.words.fence();
    }
}

/// After each single store of a slot's life, its state is one whose fields are whole.
#[test]
fn a_death_between_any_two_stores_leaves_a_slot_whole() {
    let mut seen = Vec::new();
    for stores in 0..=20 {
        let words = private(WORDS);
        let ledger = Ledger::new(Mortal { words: &words, left: stores.into() }).unwrap();
        ledger.take(5, 1, 2, 3, [4, 5, 6, 7], 8);
        ledger.submitted(5, 1, 2, 9);
        ledger.done(5, 1, 2, 10, 11);
        ledger.free(5, 2);
        ledger.take(5, 3, 4, 30, [40, 50, 60, 70], 80);
        let slot = ledger.slot(5).unwrap();
        match (slot.state, slot.queue) {
            (State::Free, _) => assert_eq!(slot.cid, if stores < 9 { 0 } else { 2 }),
            (state, 1) => {
                assert_eq!((slot.cid, slot.position, slot.taken), (2, 3, 8));
                assert_eq!(slot.request, [4, 5, 6, 7]);
                assert!(state == State::Taken || slot.device == 9);
                assert!(state != State::Done || (slot.posted, slot.outcome) == (10, 11));
            }
            (state, queue) => {
                assert_eq!((state, queue, slot.cid), (State::Taken, 3, 4));
                assert_eq!((slot.request, slot.position), ([40, 50, 60, 70], 30));
                assert_eq!(slot.taken, 80);
            }
        }
        seen.push(slot.state);
    }
    seen.dedup();
    let lives = [State::Free, State::Taken, State::Submitted, State::Done, State::Free];
    assert_eq!(seen, [&lives[..], &[State::Taken]].concat());
}

#[test]
fn too_few_words_or_another_beginning_are_no_ledger() {
    assert!(Ledger::new(private(WORDS - 1)).is_err());
    let ledger = Ledger::new(private(WORDS)).unwrap();
    assert!(ledger.check().is_err());
    ledger.initialise();
    assert_eq!(ledger.check(), Ok(()));
    ledger.words.store(0, MAGIC ^ 1 << 56, Relaxed);
    let error = ledger.check().unwrap_err().to_string();
    assert!(error.contains("0x3030") && error.contains("0x3130"), "{error}");
}

#[test]
fn buckets_rise_without_a_gap() {
    let mut last = 0;
    for ticks in 0..100_000u64 {
        let index = bucket(ticks);
        assert!(index == last || index == last + 1, "{ticks}: {last} -> {index}");
        assert!(bucket_start(index) <= ticks && ticks < bucket_start(index + 1));
        last = index;
    }
    assert_eq!(bucket(u64::MAX), BUCKETS - 1);
}

#[test]
fn a_request_is_suspected_only_in_a_row() {
    let ledger = ledger();
    assert_eq!(ledger.suspect_breadcrumb(), 0);
    let one = Breadcrumb { queue: 1, position: 5 };
    ledger.set_breadcrumb(Some(one));
    assert_eq!((ledger.suspect_breadcrumb(), ledger.suspect_breadcrumb()), (1, 2));
    assert_eq!(ledger.suspect(), (Some(one), 2));
    ledger.set_breadcrumb(Some(Breadcrumb { queue: 1, position: 6 }));
    assert_eq!(ledger.suspect_breadcrumb(), 1);
    ledger.set_breadcrumb(Some(one));
    assert_eq!(ledger.suspect_breadcrumb(), 1);
    ledger.set_breadcrumb(None);
    assert_eq!(ledger.suspect_breadcrumb(), 0);
    assert_eq!(ledger.suspect(), (None, 0));
}

/// A driver may leave anything where its breadcrumb is.
#[test]
fn a_forged_breadcrumb_is_none() {
    let ledger = ledger();
    for bits in [u64::MAX, 1 << 63 | 64 << 32, 1 << 63 | 1 << 40, 1 << 62, 63 << 32] {
        ledger.words.store(BREADCRUMB, bits, Relaxed);
        assert_eq!(ledger.breadcrumb(), None);
        assert_eq!((ledger.suspect_breadcrumb(), ledger.suspect_breadcrumb()), (0, 0));
    }
    let crumb = Breadcrumb { queue: 0, position: u32::MAX };
    ledger.set_breadcrumb(Some(crumb));
    ledger.words.store(SUSPECT, ledger.words.load(BREADCRUMB, Relaxed), Relaxed);
    ledger.words.store(SUSPICIONS, u64::MAX, Relaxed);
    assert_eq!(
        (ledger.suspect_breadcrumb(), ledger.suspect()),
        (u64::MAX, (Some(crumb), u64::MAX))
    );
}

#[test]
fn last_words_are_kept_up_to_their_length() {
    let ledger = ledger();
    assert_eq!(ledger.last_words(), None);
    for len in [1, 7, 8, 9, LAST_WORDS - 1, LAST_WORDS] {
        let text = "x".repeat(len);
        ledger.set_last_words(text.as_bytes());
        assert_eq!(ledger.last_words(), Some(text));
    }
    ledger.set_last_words(&[b'y'; LAST_WORDS + 1]);
    assert_eq!(ledger.last_words(), Some("y".repeat(LAST_WORDS)));
    // Cut in the middle of a letter, or no text at all.
    ledger.set_last_words(&[&[b'z'; LAST_WORDS - 1], "ß".as_bytes()].concat());
    assert!(ledger.last_words().unwrap().ends_with("z\u{fffd}"));
    ledger.set_last_words(&[]);
    assert_eq!(ledger.last_words(), None);
    for len in [LAST_WORDS as u64 + 1, 1 << 32, u64::MAX] {
        ledger.words.store(LAST_WORDS_LEN, len, Relaxed);
        assert_eq!(ledger.last_words().unwrap().chars().count(), LAST_WORDS);
    }
}

/// Words that somebody hostile left, some of them nearly right.
fn any_words() -> impl Strategy<Value = Vec<(usize, u64)>> {
    let place = prop_oneof![0usize..130, DEVICE..HISTOGRAM, SLOT..WORDS];
    let value = prop_oneof![
        0u64..5,
        any::<u64>(),
        any::<u64>().prop_map(|value| value & !0xfc),
        any::<u64>().prop_map(|value| value & !0xc0fc),
    ];
    proptest::collection::vec((place, value), 0..300)
}

proptest! {
    /// Whatever the words are, each question has an answer or an error, and nothing that is later
    /// an index is beyond its bounds.
    #[test]
    fn any_words_are_read_without_harm(words in any_words()) {
        let ledger = ledger();
        for (place, value) in words {
            ledger.words.store(place, value, Relaxed);
        }
        let _ = (ledger.check(), ledger.phase(), ledger.beats(), ledger.asleep());
        let _ = (ledger.adoption(), ledger.completed(), ledger.resets(), ledger.armed());
        if let Some(crumb) = ledger.breadcrumb() {
            prop_assert!(usize::from(crumb.queue) < QUEUES);
        }
        if let (Some(crumb), _) = ledger.suspect() {
            prop_assert!(usize::from(crumb.queue) < QUEUES);
        }
        let suspected = ledger.suspect_breadcrumb();
        prop_assert_eq!(suspected == 0, ledger.breadcrumb().is_none());
        if let Some(text) = ledger.last_words() {
            prop_assert!(!text.is_empty() && text.chars().count() <= LAST_WORDS);
        }
        for slot in 0..SLOTS {
            let raw = ledger.words.load(SLOT + slot * SLOT_WORDS, Relaxed);
            match ledger.slot(slot) {
                Ok(slot) => {
                    prop_assert!(usize::from(slot.queue) < QUEUES);
                    let bits = slot.state as u64
                        | u64::from(slot.queue) << 8
                        | u64::from(slot.cid) << 16
                        | u64::from(slot.outcome) << 32;
                    prop_assert_eq!(bits, raw);
                }
                Err(LedgerError(_)) => prop_assert!(raw & 0xff > 3 || raw >> 8 & 0xff >= 64),
            }
        }
        for queue in 0..QUEUES as u8 {
            let _ = (ledger.indices(queue), ledger.count(queue, Count::Ios));
            prop_assert_eq!(ledger.latencies(queue).len(), BUCKETS);
        }
    }
}

#[test]
fn ios_are_counted_by_position_and_once() {
    let ledger = ledger();
    let count = |position| {
        ledger.count_ios(1, position);
        ledger.count(1, Count::Ios)
    };
    assert_eq!([count(3), count(3), count(10)], [3, 3, 10]);
    assert_eq!(count(u32::MAX), u64::from(u32::MAX));
    assert_eq!([count(2), count(2)], [(1 << 32) + 2; 2]);
    assert_eq!(ledger.count(0, Count::Ios), 0);
}
