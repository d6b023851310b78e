//! One thing after the other.

use std::time::Duration;

use uniddrv::block::{BlockError, SubmitError};
use uniddrv::client::{BlockClient, BlockingQueue, Core, OpenOptions, RequestError};
use uniddrv::dma::DmaError;
use uniddrv_abi::block::Outcome;
use uniddrv_abi::message::FromCore;
use uniddrv_abi::queue;

use crate::fake::{BLOCK, BLOCKS, Fake, Style};
use crate::polled::{filled, options};

const SIZE: usize = BLOCKS as usize * BLOCK as usize;

fn open(core: &Core, options: &OpenOptions) -> (BlockClient, BlockingQueue) {
    let client = core.open("disk:0", options).unwrap();
    let queue = BlockingQueue::new(client.take_queue().unwrap());
    (client, queue)
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 7 + n / 512 * 31 + seed) as u8).collect()
}

#[test]
fn copies_of_any_length_come_back() {
    for shuffle in [false, true] {
        let (core, mut fake) = Fake::start();
        let (_client, mut queue) = open(&core, &options());
        fake.serve(Style { shuffle, sleepy: true, ..Style::default() });
        for (round, blocks) in [0, 1, 2, 127, 128, 129, 1000, 4096].into_iter().enumerate() {
            let len = blocks * BLOCK as usize;
            let data = pattern(len, round);
            let lba = (BLOCKS - blocks as u64) / 2;
            queue.write_at(lba, &data).unwrap();
            let mut back = vec![0; len];
            queue.read_at(lba, &mut back).unwrap();
            assert!(back == data, "{blocks} blocks");
            let start = lba as usize * BLOCK as usize;
            assert!(fake.disk.lock().unwrap()[start..start + len] == data);
        }
    }
}

#[test]
fn buffers_flushes_discards_and_zeroes() {
    let (core, mut fake) = Fake::start();
    let (client, mut queue) = open(&core, &options());
    fake.serve(Style::default());
    queue.write_at(0, &vec![9; SIZE]).unwrap();
    let buffer = queue.write(8, filled(&client, 4096, 5), true).unwrap();
    queue.flush().unwrap();
    queue.discard(8, 4).unwrap();
    queue.write_zeroes(4000, 96).unwrap();
    let buffer = queue.read(8, buffer).unwrap();
    assert!(buffer.as_slice()[..2048].iter().all(|&byte| byte == 0));
    assert!(buffer.as_slice()[2048..].iter().all(|&byte| byte == 5));
    let mut last = vec![1; 97 * 512];
    queue.read_at(3999, &mut last).unwrap();
    assert!(last[..512].iter().all(|&byte| byte == 9));
    assert!(last[512..].iter().all(|&byte| byte == 0));
    // More than one request names, in blocks.
    queue.discard(0, 0).unwrap();
    assert!(queue.discard(0, 1 << 40).is_err());
}

#[test]
fn what_cannot_be_is_refused_whole() {
    let (core, mut fake) = Fake::start();
    let (_client, mut queue) = open(&core, &options());
    fake.serve(Style::default());
    let data = vec![1; 4 * 512];
    let error = queue.write_at(BLOCKS - 3, &data).unwrap_err();
    assert!(matches!(error, RequestError::Refused(SubmitError::OutOfRange { .. })), "{error}");
    let error = queue.write_at(0, &data[..100]).unwrap_err();
    assert!(matches!(error, RequestError::Refused(SubmitError::Unaligned(100))));
    assert!(matches!(queue.write_at(u64::MAX, &data), Err(RequestError::Refused(_))));
    assert!(fake.disk.lock().unwrap().iter().all(|&byte| byte == 0));
    let buffer = queue.buffer(100).unwrap();
    let (error, buffer) = queue.read(0, buffer).unwrap_err();
    assert!(matches!(error, RequestError::Refused(SubmitError::Unaligned(100))));
    assert_eq!(buffer.unwrap().len(), 100);
}

#[test]
fn a_small_arena_is_enough_and_a_full_one_is_an_error() {
    let (core, mut fake) = Fake::start();
    let (client, mut queue) = open(&core, &OpenOptions { arena: 2 << 20, ..options() });
    fake.serve(Style::default());
    let mut taken: Vec<_> = std::iter::from_fn(|| client.buffer(64 << 10).ok()).collect();
    let mut data = pattern(1 << 20, 3);
    let error = queue.write_at(0, &data).unwrap_err();
    assert!(matches!(error, RequestError::Memory(DmaError::Full { .. })), "{error}");
    taken.pop();
    queue.write_at(0, &data).unwrap();
    let wanted = data.clone();
    data.fill(0);
    queue.read_at(0, &mut data).unwrap();
    assert!(data == wanted);
}

#[test]
fn a_device_that_fails_is_told_and_the_queue_goes_on() {
    let (core, mut fake) = Fake::start();
    let (client, mut queue) = open(&core, &options());
    let mut driver = fake.queue();
    let thread = std::thread::spawn(move || {
        for (n, submission) in driver.take_all(8).into_iter().enumerate() {
            let outcome = if n == 3 { Outcome::Device(0x281) } else { Outcome::Success };
            driver.post(submission.tag, outcome);
        }
        driver.publish();
        let one = driver.take_all(1)[0].tag;
        driver.post(one, Outcome::Poisoned);
        driver.publish();
        driver
    });
    let error = queue.write_at(0, &vec![1; 8 * (64 << 10)]).unwrap_err();
    assert!(matches!(error, RequestError::Failed(BlockError::Device(0x281))), "{error}");
    let (error, buffer) = queue.read(0, client.buffer(512).unwrap()).unwrap_err();
    assert!(matches!(error, RequestError::Failed(BlockError::Poisoned)), "{error}");
    assert!(buffer.is_some());
    fake.serve_queue(thread.join().unwrap(), Style::default());
    queue.flush().unwrap();
}

#[test]
fn a_driver_that_does_not_answer_is_given_up_and_may_come_back() {
    let (core, mut fake) = Fake::start();
    let (client, mut queue) = open(&core, &OpenOptions { depth: 4, ..options() });
    let driver = fake.queue();
    let patience = Duration::from_millis(30);
    queue.set_patience(patience);
    let timed_out =
        |error: &RequestError| matches!(error, RequestError::TimedOut(p) if *p == patience);
    let mut data = vec![7; 2048];
    assert!(timed_out(&queue.read_at(0, &mut data).unwrap_err()));
    assert!(timed_out(&queue.flush().unwrap_err()));
    let (error, buffer) = queue.read(0, client.buffer(512).unwrap()).unwrap_err();
    // It is on its way, and the buffer with it.
    assert!(timed_out(&error) && buffer.is_none());
    assert!(timed_out(&queue.flush().unwrap_err()));
    // No room for this one, so it comes back.
    let (error, buffer) = queue.read(0, client.buffer(512).unwrap()).unwrap_err();
    assert!(timed_out(&error) && buffer.is_some());
    queue.set_patience(Duration::from_secs(20));
    fake.disk.lock().unwrap().fill(3);
    fake.serve_queue(driver, Style::default());
    queue.read_at(1, &mut data).unwrap();
    assert!(data.iter().all(|&byte| byte == 3));
}

#[test]
fn the_end_is_told_in_each_call() {
    let (core, fake) = Fake::start();
    let (client, mut queue) = open(&core, &options());
    let driver = fake.queue();
    let buffer = client.buffer(512).unwrap();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| queue.read(0, buffer).unwrap_err());
        std::thread::sleep(Duration::from_millis(20));
        queue::close(&driver.words, 1);
        fake.say(FromCore::Closed { handle: 1, text: "revoked".into() });
        let (error, buffer) = reading.join().unwrap();
        assert!(matches!(error, RequestError::Failed(BlockError::Gone)));
        assert!(buffer.is_some());
    });
    let gone = |error| matches!(error, RequestError::Refused(SubmitError::Gone));
    assert!(gone(queue.flush().unwrap_err()));
    assert!(gone(queue.write_at(0, &[0; 512]).unwrap_err()));
    assert!(gone(queue.discard(0, 1).unwrap_err()));
    assert_eq!(queue.closed().as_deref(), Some("revoked"));
}
