//! A successor of the driver that starts the rings over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uniddrv::block::{BlockQueue, Operation};
use uniddrv_abi::block::Outcome;
use uniddrv_abi::queue;

use crate::fake::{Fake, Style};
use crate::polled::{filled, finish, open, submit};

const fn write(lba: u64) -> Operation {
    Operation::Write { lba, fua: false }
}

#[test]
fn what_is_on_its_way_goes_out_again_in_order_and_ends_once() {
    let (core, fake) = Fake::start();
    let (client, mut queue) = open(&core);
    let mut driver = fake.queue();
    for lba in 0..8 {
        submit(&mut queue, write(lba), Some(filled(&client, 512, lba as u8 + 1)), lba);
    }
    queue.poll(|_| panic!("too early"));
    let taken = driver.take();
    // Three end and are seen, a fourth ends and is not, then the driver dies.
    for index in [2, 0, 5] {
        driver.post(taken[index].tag, Outcome::Success);
    }
    driver.publish();
    assert_eq!(queue.poll(|completion| assert!([0, 2, 5].contains(&completion.tag))), 3);
    driver.post(taken[1].tag, Outcome::Success);
    driver.publish();
    driver.renew();
    // A completion that is there already counts; what comes with an old tag later does not.
    let mut early = 0;
    queue.poll(|completion| early += u64::from(completion.tag == 1));
    assert_eq!(early, 1);
    assert!(!queue::renewed(&driver.words));
    assert_eq!(queue.poll(|_| panic!("too early")), 0);
    assert!(queue::renewed(&driver.words));
    let again = driver.take();
    assert_eq!(again.iter().map(|s| s.lba).collect::<Vec<_>>(), [3, 4, 6, 7]);
    assert!(again.iter().all(|s| taken.iter().all(|old| old.tag != s.tag)));
    for old in &taken {
        driver.post(old.tag, Outcome::Success);
    }
    for new in &again {
        let outcome = driver.carry_out(new);
        driver.post(new.tag, outcome);
    }
    driver.publish();
    let done = finish(&mut queue, 4);
    assert_eq!(done.iter().map(|c| c.tag).collect::<Vec<_>>(), [3, 4, 6, 7]);
    assert!(done.iter().all(|completion| completion.result.is_ok()));
    assert_eq!((queue.unknown_completions(), queue.in_flight()), (8, 0));
    assert_eq!(fake.disk.lock().unwrap()[7 * 512], 8);
}

#[test]
fn successors_that_die_one_after_the_other() {
    let (core, mut fake) = Fake::start();
    let (client, mut queue) = open(&core);
    let mut driver = fake.queue();
    for lba in 0..16 {
        submit(&mut queue, write(lba), Some(filled(&client, 512, 9)), lba);
    }
    queue.poll(|_| panic!("too early"));
    for round in 0..50 {
        // Once before the client has seen it, once after it has taken some.
        driver.renew();
        if round % 3 == 0 {
            driver.renew();
        }
        queue.poll(|_| panic!("too early"));
        assert_eq!(driver.take_all(16).len(), 16);
    }
    driver.renew();
    fake.serve_queue(driver, Style::default());
    let mut tags: Vec<_> = finish(&mut queue, 16).iter().map(|completion| completion.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..16).collect::<Vec<_>>());
    assert!(client.closed().is_none());
}

#[test]
fn a_successor_under_load_loses_nothing() {
    let (core, fake) = Fake::start();
    let (client, mut queue) = open(&core);
    let mut driver = fake.queue();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let mut served = 0_u32;
        while !stopped.load(Ordering::Relaxed) {
            if !queue::renewed(&driver.words) {
                std::thread::yield_now();
                continue;
            }
            let taken = driver.take();
            if taken.is_empty() {
                std::thread::yield_now();
            }
            for submission in taken {
                let outcome = driver.carry_out(&submission);
                served += 1;
                // Now and then it dies with a completion that nobody saw, or with a request
                // taken.
                if served.is_multiple_of(97) {
                    driver.post(submission.tag, outcome);
                    driver.renew();
                    break;
                }
                if served.is_multiple_of(61) {
                    driver.publish();
                    driver.renew();
                    break;
                }
                driver.post(submission.tag, outcome);
            }
            if queue::renewed(&driver.words) {
                driver.publish();
            }
        }
    });
    let mut ended = 0_u64;
    let mut submitted = 0_u64;
    let mut on_their_way = std::collections::HashSet::new();
    let mut buffers: Vec<_> = (0..16).map(|_| filled(&client, 512, 3)).collect();
    let deadline = std::time::Instant::now() + crate::polled::PATIENCE;
    while ended < 20_000 {
        while submitted < 20_000
            && let Some(buffer) = buffers.pop()
        {
            submit(&mut queue, write(submitted % 4096), Some(buffer), submitted);
            assert!(on_their_way.insert(submitted));
            submitted += 1;
        }
        if queue.poll(|completion| {
            completion.result.unwrap();
            assert!(on_their_way.remove(&completion.tag), "twice");
            buffers.extend(completion.buffer);
            ended += 1;
        }) == 0
        {
            queue.wait(std::time::Duration::from_secs(5)).unwrap();
        }
        assert!(std::time::Instant::now() < deadline, "{ended} ended");
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    assert!(client.closed().is_none());
}
