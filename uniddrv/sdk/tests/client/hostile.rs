//! A driver that writes anything.

use uniddrv::block::{BlockError, BlockQueue, Operation, Request, SubmitError};
use uniddrv_abi::block::Outcome;
use uniddrv_abi::queue::MAX_DEPTH;

use crate::fake::{Fake, FakeQueue};
use crate::polled::{finish, open, submit};

// Where the driver's own indices lie: the third and fourth cache lines.
const SUBMISSION_HEAD: usize = 16;
const COMPLETION_TAIL: usize = 24;

const READ: Operation = Operation::Read { lba: 0 };

#[test]
fn completions_of_nobody_are_counted_and_ignored() {
    let (core, fake) = Fake::start();
    let (client, mut queue) = open(&core);
    let mut driver = fake.queue();
    submit(&mut queue, READ, client.buffer(512).ok(), 1);
    assert_eq!(queue.poll(|_| panic!("too early")), 0);
    let tag = driver.take()[0].tag;
    for garbage in [0, 1, !tag, tag ^ 1, tag + (1 << 16), tag.wrapping_sub(1 << 16), u64::MAX] {
        driver.post(garbage, Outcome::Success);
    }
    driver.publish();
    assert_eq!(queue.poll(|_| panic!("of nobody")), 0);
    for _ in 0..3 {
        driver.post(tag, Outcome::Success);
    }
    driver.publish();
    assert_eq!(finish(&mut queue, 1)[0].tag, 1);
    assert_eq!((queue.unknown_completions(), queue.in_flight()), (9, 0));

    // Late: the same slot is in use again.
    submit(&mut queue, READ, client.buffer(512).ok(), 2);
    queue.poll(|_| panic!("too early"));
    driver.post(tag, Outcome::Success);
    driver.publish();
    assert_eq!(queue.poll(|_| panic!("late")), 0);
    assert_eq!((queue.unknown_completions(), queue.in_flight()), (10, 1));
    assert!(client.closed().is_none());
}

#[test]
fn any_outcome_is_one() {
    let (core, fake) = Fake::start();
    let (client, mut queue) = open(&core);
    let mut driver = fake.queue();
    let wanted = [
        (Outcome::Device(0x281), BlockError::Device(0x281)),
        (Outcome::OutOfRange, BlockError::OutOfRange),
        (Outcome::Aborted, BlockError::Aborted),
        (Outcome::Reset, BlockError::Reset),
        (Outcome::Gone, BlockError::Gone),
        (Outcome::Poisoned, BlockError::Poisoned),
        (Outcome::Invalid, BlockError::Invalid),
        (Outcome::Denied, BlockError::Denied),
    ];
    for (outcome, error) in wanted {
        submit(&mut queue, READ, client.buffer(512).ok(), 1);
        queue.poll(|_| panic!("too early"));
        let tag = driver.take()[0].tag;
        driver.post(tag, outcome);
        driver.publish();
        assert_eq!(finish(&mut queue, 1)[0].result, Err(error));
    }
    for bits in [9 << 16, u64::MAX, 1 << 40, 0xffff] {
        submit(&mut queue, READ, client.buffer(512).ok(), 1);
        queue.poll(|_| panic!("too early"));
        let tag = driver.take()[0].tag;
        driver.poster.push([tag, bits]);
        driver.publish();
        // Only the lower half of the word counts.
        assert_eq!(finish(&mut queue, 1)[0].result.is_ok(), bits == 1 << 40);
    }
}

/// Every request ends once, nothing is taken any more, and the reason is told.
fn ends(tamper: impl Fn(&mut FakeQueue), in_flight: usize) {
    let (core, fake) = Fake::start();
    let (client, mut queue) = open(&core);
    let mut driver = fake.queue();
    for tag in 0..in_flight as u64 {
        submit(&mut queue, READ, client.buffer(512).ok(), tag);
    }
    queue.poll(|_| panic!("too early"));
    tamper(&mut driver);
    let mut tags = Vec::new();
    queue.poll(|completion| {
        assert_eq!(completion.result, Err(BlockError::Gone));
        assert!(completion.buffer.is_some());
        tags.push(completion.tag);
    });
    // What is wrong with the submission ring is seen when there is no room left that is known.
    for tag in tags.len() as u64.. {
        let request = Request { operation: READ, buffer: client.buffer(512).ok(), tag };
        match queue.submit(request) {
            Ok(()) => queue.poll(|completion| tags.push(completion.tag)),
            Err((error, _)) => {
                assert_eq!(error, SubmitError::Gone);
                break;
            }
        };
        assert!(tag < 1000, "never ended");
    }
    queue.poll(|completion| tags.push(completion.tag));
    let mut once = tags.clone();
    once.dedup();
    assert_eq!(tags, once);
    assert_eq!(queue.in_flight(), 0);
    assert_eq!(queue.poll(|_| panic!("twice")), 0);
    let reason = client.closed().unwrap();
    assert!(reason.contains("cannot be"), "{reason}");
}

#[test]
fn an_index_that_cannot_be_ends_the_queue() {
    for index in [17, 1000, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        ends(|driver| driver.store(COMPLETION_TAIL, index), 3);
    }
    // The consumer's index is looked at when all that is known of is used up; the client has
    // pushed three.
    for index in [u64::from(u32::MAX), 1 << 32, u64::MAX, 1000] {
        ends(
            |driver| {
                driver.store(SUBMISSION_HEAD, index);
                for submission in driver.take() {
                    driver.post(submission.tag, Outcome::Gone);
                }
                driver.store(SUBMISSION_HEAD, index);
                driver.poster.publish();
            },
            16,
        );
    }
}

#[test]
fn a_driver_that_writes_anything_anywhere_harms_nobody() {
    let words = uniddrv_abi::queue::words_for(16);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..60 {
        let (core, fake) = Fake::start();
        let (client, mut queue) = open(&core);
        let mut driver = fake.queue();
        let mut accepted = 0_u64;
        let mut ended = vec![0_u32; 4096];
        let mut count = |completion: uniddrv::block::Completion| {
            assert!(completion.buffer.is_some());
            ended[completion.tag as usize] += 1;
        };
        for step in 0..400 {
            if accepted < 4096 {
                let buffer = client.buffer(512).ok();
                if queue.submit(Request { operation: READ, buffer, tag: accepted }).is_ok() {
                    accepted += 1;
                }
            }
            queue.poll(&mut count);
            let value = match random() % 4 {
                0 => random(),
                1 => random() % 32,
                2 => accepted,
                _ => u64::from(MAX_DEPTH),
            };
            // First whatever is in the rings, and only now and then the words around them.
            let place = random() as usize;
            let place = if step % 8 < round % 8 { place % 64 } else { 64 + place % (words - 64) };
            driver.store(place, value);
            let _ = driver.taker.available().map(|_| driver.taker.pop());
        }
        uniddrv_abi::queue::close(&driver.words, 1);
        queue.poll(&mut count);
        assert!(ended.iter().all(|&times| times <= 1), "one ended twice");
        assert_eq!(ended.iter().map(|&times| u64::from(times)).sum::<u64>(), accepted);
        assert_eq!(queue.in_flight(), 0);
    }
}

#[test]
fn a_driver_that_floods_the_wake_socket_or_shuts_it_is_endured() {
    use std::time::Duration;
    let (core, fake) = Fake::start();
    let (client, mut queue) = open(&core);
    let mut driver = fake.queue();
    submit(&mut queue, READ, client.buffer(512).ok(), 1);
    for _ in 0..10_000 {
        driver.wake_client();
    }
    assert!(!queue.wait(Duration::from_millis(20)).unwrap());
    rustix::net::shutdown(&driver.wake, rustix::net::Shutdown::Both).unwrap();
    assert!(!queue.wait(Duration::from_millis(20)).unwrap());
    let tag = driver.take()[0].tag;
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        driver.post(tag, Outcome::Success);
        driver.publish();
    });
    assert!(queue.wait(Duration::from_secs(20)).unwrap());
    assert_eq!(finish(&mut queue, 1)[0].tag, 1);
    thread.join().unwrap();
}
