use super::*;
use crate::words::private;

/// What each word of a queue is: programs built at different times share it.
#[test]
fn words_are_where_they_are() {
    let layout = Layout { tail: 0, head: 16, entries: 64, capacity: 32 };
    assert_eq!(submission(32), layout);
    let layout = Layout { tail: 24, head: 8, entries: 64 + 32 * 4, capacity: 32 };
    assert_eq!(completion(32), layout);
    assert_eq!((SUBMISSION, COMPLETION), (4, 2));
    assert_eq!((words_for(1), words_for(32), words_for(MAX_DEPTH)), (70, 256, 6208));

    let words = private(words_for(1));
    let written = |run: fn(&Box<[core::sync::atomic::AtomicU64]>)| {
        let before: Vec<u64> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        run(&words);
        let after = words.iter().map(|word| word.load(Ordering::Relaxed));
        let changed = before.iter().zip(after).enumerate();
        changed
            .filter(|(_, (old, new))| *old != new)
            .map(|(at, (_, new))| (at, new))
            .collect::<Vec<_>>()
    };
    assert_eq!(written(|words| announce_sleep(words, Side::Client)), [(32, 1)]);
    assert_eq!(written(|words| announce_sleep(words, Side::Driver)), [(40, 1)]);
    assert_eq!(written(|words| awake(words, Side::Client)), [(32, 0)]);
    assert_eq!(written(|words| awake(words, Side::Driver)), [(40, 0)]);
    assert_eq!(written(|words| close(words, 0)), [(48, 1)]);
    assert_eq!(written(|words| close(words, u32::MAX)), [(48, 0xffff_ffff)]);
    assert_eq!(written(renew), [(49, 1)]);
    for word in [0, 8, 16, 24] {
        words.store(word, 9, Ordering::Relaxed);
    }
    let expected = [(0, 0), (8, 0), (16, 0), (24, 0), (56, 1)];
    assert_eq!(written(|words| follow(words, 1)), expected);
}

/// No word that one side writes often lies beside one that the other side does.
#[test]
fn both_sides_write_cache_lines_of_their_own() {
    let lines = [
        SUBMISSION_TAIL,
        COMPLETION_HEAD,
        SUBMISSION_HEAD,
        COMPLETION_TAIL,
        CLIENT_SLEEPS,
        DRIVER_SLEEPS,
        CLOSED,
        CLIENT_EPOCH,
        ENTRIES,
    ]
    .map(|word| word / 8);
    for (index, line) in lines.iter().enumerate() {
        assert!(!lines[..index].contains(line), "two words on line {line}");
    }
    assert_eq!(EPOCH / 8, CLOSED / 8);
}

#[test]
fn only_a_side_that_sleeps_is_woken() {
    let words = private(words_for(1));
    announce_sleep(&words, Side::Driver);
    assert!(must_wake(&words, Side::Driver) && says_it_sleeps(&words, Side::Driver));
    assert!(!must_wake(&words, Side::Client) && !says_it_sleeps(&words, Side::Client));
    awake(&words, Side::Driver);
    assert!(!must_wake(&words, Side::Driver));
}

#[test]
fn epochs_go_round() {
    let words = private(words_for(1));
    assert!(renewed(&words), "a new queue needs no renewal");
    words.store(EPOCH, u32::MAX.into(), Ordering::Relaxed);
    follow(&words, u32::MAX);
    assert!(renewed(&words));
    renew(&words);
    assert_eq!(epoch(&words), 0);
    assert!(!renewed(&words));
    follow(&words, 0);
    assert!(renewed(&words));
}

/// A client that has followed into an epoch that is over by then follows once more.
#[test]
fn an_epoch_that_is_over_does_not_count() {
    let words = private(words_for(1));
    renew(&words);
    let seen = epoch(&words);
    renew(&words);
    follow(&words, seen);
    assert!(!renewed(&words));
    follow(&words, epoch(&words));
    assert!(renewed(&words));
}

/// Between `renew` and `follow` the client finds its rings as they were, wherever its indices are.
#[test]
fn a_renewal_is_not_taken_for_hostility() {
    let words = private(words_for(4));
    for at in [0, 3, 1000, u32::MAX - 1, u32::MAX] {
        for layout in [submission(4), completion(4)] {
            words.store(layout.tail, at.into(), Ordering::Relaxed);
            words.store(layout.head, at.into(), Ordering::Relaxed);
        }
        let mut submitter = Submitter::new(&words, submission(4), at);
        let mut reaper = Reaper::new(&words, completion(4), at);
        assert_eq!(submitter.room(4), Ok(4));
        submitter.push([1; SUBMISSION]);
        submitter.publish();
        renew(&words);
        assert_eq!(submitter.room(4), Ok(3));
        assert_eq!(reaper.look(), Ok(0), "what was never posted");
        follow(&words, epoch(&words));
        let mut submitter = Submitter::new(&words, submission(4), 0);
        let mut taker = Taker::new(&words, submission(4), 0);
        assert_eq!((submitter.room(4), taker.look()), (Ok(4), Ok(0)));
    }
}

/// Whatever the client writes where the driver looks, each question has an answer.
#[test]
fn any_flag_is_an_answer() {
    let words = private(words_for(1));
    for value in [1 << 32, u64::MAX, 1 << 63] {
        for word in 0..ENTRIES {
            words.store(word, value, Ordering::Relaxed);
        }
        assert!(must_wake(&words, Side::Client));
        assert_eq!(closed(&words), value as u32);
        renew(&words);
        follow(&words, epoch(&words));
        assert!(renewed(&words));
    }
}
