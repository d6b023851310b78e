//! Requests by polling.

use std::time::{Duration, Instant};

use uniddrv::DmaBuf;
use uniddrv::block::{BlockQueue, Completion, Operation, Request, SubmitError};
use uniddrv::client::{BlockClient, ClientQueue, Core, OpenOptions, Rights};

use crate::fake::{BLOCK, BLOCKS, Fake, MAX_TRANSFER, Style};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn options() -> OpenOptions {
    OpenOptions { depth: 16, arena: 4 << 20, ..OpenOptions::default() }
}

pub(crate) fn open(core: &Core) -> (BlockClient, ClientQueue) {
    let client = core.open("disk:0", &options()).unwrap();
    let queue = client.take_queue().unwrap();
    (client, queue)
}

/// Polls until `count` requests have ended.
pub(crate) fn finish(queue: &mut ClientQueue, count: usize) -> Vec<Completion> {
    let end = Instant::now() + PATIENCE;
    let mut done = Vec::new();
    while done.len() < count {
        queue.poll(|completion| done.push(completion));
        assert!(Instant::now() < end, "{} of {count} ended", done.len());
        std::thread::yield_now();
    }
    done
}

pub(crate) fn submit(
    queue: &mut ClientQueue,
    operation: Operation,
    buffer: Option<DmaBuf>,
    tag: u64,
) {
    queue.submit(Request { operation, buffer, tag }).map_err(|(error, _)| error).unwrap();
}

pub(crate) fn filled(client: &BlockClient, len: usize, byte: u8) -> DmaBuf {
    let mut buffer = client.buffer(len).unwrap();
    buffer.as_mut_slice().fill(byte);
    buffer
}

#[test]
fn all_operations_do_what_they_say() {
    for style in [Style::default(), Style { sleepy: true, ..Style::default() }] {
        let (core, mut fake) = Fake::start();
        let (client, mut queue) = open(&core);
        fake.serve(style);
        let info = client.info();
        assert_eq!(
            (info.block_size, info.blocks, info.max_transfer),
            (BLOCK, BLOCKS, MAX_TRANSFER)
        );
        let one = |queue: &mut ClientQueue, operation, buffer| {
            submit(queue, operation, buffer, 5);
            let completion = finish(queue, 1).pop().unwrap();
            assert_eq!((completion.tag, completion.result), (5, Ok(())));
            completion.buffer
        };
        let buffer = filled(&client, 8192, 0x5a);
        let buffer = one(&mut queue, Operation::Write { lba: 8, fua: true }, Some(buffer)).unwrap();
        drop(buffer);
        assert!(one(&mut queue, Operation::Flush, None).is_none());
        one(&mut queue, Operation::Discard { lba: 8, blocks: 2 }, None);
        one(&mut queue, Operation::WriteZeroes { lba: 22, blocks: 2 }, None);
        let buffer = filled(&client, 16 * 512, 1);
        let buffer = one(&mut queue, Operation::Read { lba: 8 }, Some(buffer)).unwrap();
        let bytes = buffer.as_slice();
        assert!(bytes[..1024].iter().chain(&bytes[7168..]).all(|&byte| byte == 0));
        assert!(bytes[1024..7168].iter().all(|&byte| byte == 0x5a));
        assert_eq!((queue.unknown_completions(), queue.in_flight()), (0, 0));
    }
}

#[test]
fn answers_out_of_order_find_their_requests() {
    let (core, mut fake) = Fake::start();
    let (client, mut queue) = open(&core);
    fake.serve(Style { shuffle: true, ..Style::default() });
    for round in 0..200_u64 {
        let base = round * 16 % BLOCKS;
        for n in 0..16_u64 {
            let buffer = filled(&client, 512, (round + n) as u8);
            submit(&mut queue, Operation::Write { lba: base + n, fua: false }, Some(buffer), n);
        }
        assert_eq!(finish(&mut queue, 16).len(), 16);
        for n in 0..16 {
            let buffer = client.buffer(512).unwrap();
            submit(&mut queue, Operation::Read { lba: base + n }, Some(buffer), n);
        }
        for completion in finish(&mut queue, 16) {
            let wanted = (round + completion.tag) as u8;
            let buffer = completion.buffer.unwrap();
            assert!(buffer.as_slice().iter().all(|&byte| byte == wanted));
        }
    }
}

#[test]
fn several_queues_on_several_threads() {
    let (core, mut fake) = Fake::start();
    let client = core.open("disk:0", &OpenOptions { queues: 4, ..options() }).unwrap();
    let queues: Vec<_> = std::iter::from_fn(|| client.take_queue()).collect();
    assert_eq!(queues.len(), 4);
    fake.serve(Style { sleepy: true, ..Style::default() });
    std::thread::scope(|scope| {
        for (number, mut queue) in (0_u64..).zip(queues) {
            let client = &client;
            scope.spawn(move || {
                for round in 0..300 {
                    let lba = number * 1000 + round;
                    let byte = (number * 50 + round) as u8;
                    let write = Operation::Write { lba, fua: false };
                    submit(&mut queue, write, Some(filled(client, 512, byte)), 1);
                    while queue.in_flight() > 0 {
                        queue.wait(PATIENCE).unwrap();
                        queue.poll(|completion| completion.result.unwrap());
                    }
                    submit(&mut queue, Operation::Read { lba }, client.buffer(512).ok(), 2);
                    let buffer = finish(&mut queue, 1).pop().unwrap().buffer.unwrap();
                    assert!(buffer.as_slice().iter().all(|&found| found == byte));
                }
            });
        }
    });
}

#[test]
fn requests_that_cannot_be_are_given_back() {
    let (core, fake) = Fake::start();
    let (client, mut queue) = open(&core);
    let refuse = |queue: &mut ClientQueue, operation, buffer: Option<DmaBuf>| {
        let place = buffer.as_ref().map(DmaBuf::iova);
        let (error, request) =
            queue.submit(Request { operation, buffer, tag: 9 }).expect_err("it was taken");
        assert_eq!((request.operation, request.tag), (operation, 9));
        assert_eq!(request.buffer.as_ref().map(DmaBuf::iova), place);
        error
    };
    let read = Operation::Read { lba: BLOCKS - 1 };
    let buffer = |len| Some(client.buffer(len).unwrap());
    assert_eq!(refuse(&mut queue, read, None), SubmitError::Buffer);
    assert_eq!(refuse(&mut queue, Operation::Flush, buffer(512)), SubmitError::Buffer);
    for len in [1, 511, 513] {
        assert_eq!(refuse(&mut queue, read, buffer(len)), SubmitError::Unaligned(len));
    }
    let len = MAX_TRANSFER as usize + 512;
    let too_large = SubmitError::TooLarge { len, max: MAX_TRANSFER };
    assert_eq!(refuse(&mut queue, Operation::Read { lba: 0 }, buffer(len)), too_large);
    let outside = SubmitError::OutOfRange { lba: BLOCKS - 1, blocks: 2, available: BLOCKS };
    assert_eq!(refuse(&mut queue, read, buffer(1024)), outside);
    let far = Operation::Write { lba: u64::MAX, fua: false };
    assert!(matches!(refuse(&mut queue, far, buffer(512)), SubmitError::OutOfRange { .. }));
    let none = Operation::Discard { lba: 0, blocks: 0 };
    assert_eq!(refuse(&mut queue, none, None), SubmitError::Unaligned(0));
    let many = Operation::WriteZeroes { lba: 0, blocks: 65_537 };
    assert!(matches!(refuse(&mut queue, many, None), SubmitError::TooLarge { .. }));

    let (other_core, _other_fake) = Fake::start();
    let (other, _queue) = open(&other_core);
    let foreign = other.buffer(512).ok();
    assert_eq!(refuse(&mut queue, read, foreign), SubmitError::ForeignBuffer);

    for tag in 0..16 {
        submit(&mut queue, read, buffer(512), tag);
    }
    assert_eq!(refuse(&mut queue, read, buffer(512)), SubmitError::Full);
    assert_eq!(queue.depth(), 16);
    drop(fake);
}

#[test]
fn who_opened_for_reading_cannot_write() {
    let (core, mut fake) = Fake::start();
    let client = core.open("disk:0", &OpenOptions { rights: Rights::Read, ..options() }).unwrap();
    let mut queue = client.take_queue().unwrap();
    fake.serve(Style::default());
    for operation in
        [Operation::Discard { lba: 0, blocks: 1 }, Operation::WriteZeroes { lba: 0, blocks: 1 }]
    {
        let (error, _) = queue.submit(Request { operation, buffer: None, tag: 0 }).unwrap_err();
        assert_eq!(error, SubmitError::ReadOnly);
    }
    submit(&mut queue, Operation::Read { lba: 0 }, client.buffer(512).ok(), 0);
    submit(&mut queue, Operation::Flush, None, 1);
    assert!(finish(&mut queue, 2).iter().all(|completion| completion.result.is_ok()));
}
