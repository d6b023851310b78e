//! How a right ends: taken away, core gone, or given up.

use std::time::{Duration, Instant};

use uniddrv::block::{BlockError, BlockQueue, Operation, Request, SubmitError};
use uniddrv::client::{BlockClient, ClientQueue, CoreError, OpenOptions};
use uniddrv_abi::block::Outcome;
use uniddrv_abi::message::{FromCore, ToCore};
use uniddrv_abi::queue;

use crate::fake::{Fake, Style};
use crate::polled::{PATIENCE, finish, open, options, submit};

const READ: Operation = Operation::Read { lba: 0 };

fn fill(client: &BlockClient, queue: &mut ClientQueue) {
    for tag in 0..8 {
        submit(queue, READ, client.buffer(512).ok(), tag);
    }
    queue.poll(|_| panic!("too early"));
}

/// All ended once, those of `well` well; nothing more is taken.
fn all_gone(client: &BlockClient, queue: &mut ClientQueue, well: &[u64]) {
    let done = finish(queue, 8);
    let mut tags: Vec<_> = done.iter().map(|completion| completion.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..8).collect::<Vec<_>>());
    for completion in done {
        let wanted = if well.contains(&completion.tag) { Ok(()) } else { Err(BlockError::Gone) };
        assert_eq!(completion.result, wanted);
        assert!(completion.buffer.is_some());
    }
    let request = Request { operation: READ, buffer: client.buffer(512).ok(), tag: 1 };
    let (error, request) = queue.submit(request).unwrap_err();
    assert_eq!(error, SubmitError::Gone);
    assert!(request.buffer.is_some());
    assert_eq!(queue.poll(|_| panic!("twice")), 0);
    assert!(!queue.wait(Duration::from_mins(1)).unwrap());
}

#[test]
fn a_closed_queue_ends_what_is_on_its_way_once_and_what_was_done_counts() {
    for waits in [false, true] {
        let (core, fake) = Fake::start();
        let (client, mut queue) = open(&core);
        let mut driver = fake.queue();
        fill(&client, &mut queue);
        let taken = driver.take();
        driver.post(taken[3].tag, Outcome::Success);
        driver.publish();
        queue::close(&driver.words, 3);
        fake.say(FromCore::Closed { handle: 1, text: "revoked by root".into() });
        if waits {
            assert!(queue.wait(PATIENCE).unwrap());
        } else {
            let request = Request { operation: READ, buffer: client.buffer(512).ok(), tag: 1 };
            assert_eq!(queue.submit(request).unwrap_err().0, SubmitError::Gone);
        }
        all_gone(&client, &mut queue, &[3]);
        let end = Instant::now() + PATIENCE;
        while client.closed().as_deref() != Some("revoked by root") {
            assert!(Instant::now() < end, "{:?}", client.closed());
        }
        assert!(queue.closed().is_some());
    }
}

#[test]
fn the_word_of_the_core_alone_ends_a_sleeping_queue() {
    let (core, fake) = Fake::start();
    let (client, mut queue) = open(&core);
    fill(&client, &mut queue);
    let driver = fake.queue();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| queue.wait(PATIENCE).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        // Of another handle first: not ours.
        fake.say(FromCore::Closed { handle: 99, text: "not this one".into() });
        fake.say(FromCore::Closed { handle: 1, text: "revoked".into() });
        assert!(waiting.join().unwrap());
    });
    all_gone(&client, &mut queue, &[]);
    assert_eq!(client.closed().as_deref(), Some("revoked"));
    drop(driver);
}

#[test]
fn a_core_that_hangs_up_ends_all() {
    for waits in [false, true] {
        let (core, mut fake) = Fake::start();
        let (client, mut queue) = open(&core);
        fill(&client, &mut queue);
        let mut driver = fake.queue();
        let tag = driver.take()[7].tag;
        driver.post(tag, Outcome::Success);
        fake.hang_up();
        driver.publish();
        if waits {
            assert!(queue.wait(PATIENCE).unwrap());
        }
        all_gone(&client, &mut queue, &[7]);
        let reason = client.closed().unwrap();
        assert!(reason.contains("closed"), "{reason}");
        assert!(matches!(core.names(""), Err(CoreError::Ended { .. })));
    }
}

fn closes(fake: &Fake) -> usize {
    let asked = fake.asked.lock().unwrap();
    asked.iter().filter(|question| matches!(question, ToCore::Close { handle: 1 })).count()
}

#[test]
fn the_last_part_closes() {
    let (core, mut fake) = Fake::start();
    let client = core.open("disk:0", &OpenOptions { queues: 2, ..options() }).unwrap();
    let mut one = client.take_queue().unwrap();
    let other = client.take_queue().unwrap();
    assert!(client.take_queue().is_none());
    fake.serve(Style::default());
    let buffer = client.buffer(512).ok();
    drop(client);
    drop(other);
    submit(&mut one, READ, buffer, 1);
    let kept = finish(&mut one, 1);
    core.names("").unwrap();
    assert_eq!(closes(&fake), 0);
    drop(one);
    core.names("").unwrap();
    assert_eq!(closes(&fake), 1);
    // A buffer outlives all that.
    drop((core, fake));
    assert_eq!(kept[0].buffer.as_ref().unwrap().as_slice(), [0; 512]);
}

#[test]
fn buffers_of_a_dropped_queue_stay_taken_until_the_core_has_closed_it() {
    let (core, fake) = Fake::start();
    let client = core.open("disk:0", &OpenOptions { arena: 2 << 20, ..options() }).unwrap();
    let mut queue = client.take_queue().unwrap();
    submit(&mut queue, READ, client.buffer(64 << 10).ok(), 1);
    queue.poll(|_| panic!("too early"));
    drop(queue);
    let rest: Vec<_> = std::iter::from_fn(|| client.buffer(64 << 10).ok()).collect();
    assert_eq!(rest.len(), (2 << 20) / (64 << 10) - 1, "the device may still reach one");
    drop(rest);
    drop(client);
    // The answer to this question comes after that to the closing.
    core.names("").unwrap();
    assert_eq!(closes(&fake), 1);
    let client = core.open("disk:0", &OpenOptions { arena: 2 << 20, ..options() }).unwrap();
    let all: Vec<_> = std::iter::from_fn(|| client.buffer(64 << 10).ok()).collect();
    assert_eq!(all.len(), (2 << 20) / (64 << 10));
}

#[test]
fn two_names_share_the_arena() {
    let (core, mut fake) = Fake::start();
    let (one, mut first) = open(&core);
    let (other, mut second) = open(&core);
    fake.serve(Style::default());
    let buffer = one.buffer(512).unwrap();
    assert_ne!(buffer.iova(), other.buffer(512).unwrap().iova());
    submit(&mut second, READ, Some(buffer), 1);
    let buffer = finish(&mut second, 1).pop().unwrap().buffer;
    submit(&mut first, READ, buffer, 2);
    finish(&mut first, 1);
}
