//! The NVMe driver on QEMU's controller through VFIO, with Linux's driver as
//! the judge of what is on the drive.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use storage_poll::{Controller, NamespaceQueue, Options};
use uniddrv::block::{BlockError, BlockQueue, Operation, Request};
use uniddrv::{DmaBuf, Driver};

use super::{DATA, block_device, guest, pattern};

/// Where the test's data begin, and how many bytes they are.
const START: u64 = 8 << 20;
const LENGTH: usize = 1 << 20;

#[test]
fn linux_reads_what_we_wrote_and_we_read_what_linux_wrote() {
    let Some(guest) = guest() else { return };
    for nsid in [1, 2] {
        let file = File::options().write(true).open(block_device(DATA, nsid)).unwrap();
        file.write_all_at(&pattern(u64::from(nsid), LENGTH), START).unwrap();
        file.sync_all().unwrap();
    }

    let options = Options { shadow_doorbells: true, ..Options::default() };
    let controller = Controller::attach_with(guest.take(DATA), options).unwrap();
    assert!(controller.uses_shadow_doorbells());
    for nsid in [1, 2] {
        let mut queue = controller.block_queue(nsid, 8).unwrap();
        let block = u64::from(queue.info().block_size);
        let step = LENGTH.min(queue.info().max_transfer as usize);
        let read = |lba| Operation::Read { lba };
        let write = |lba| Operation::Write { lba, fua: false };
        let (from_linux, ours) =
            (pattern(u64::from(nsid), LENGTH), pattern(100 + u64::from(nsid), LENGTH));
        for offset in (0..LENGTH).step_by(step) {
            let lba = (START + offset as u64) / block;
            let part = offset..LENGTH.min(offset + step);
            let mut buffer = controller.device().dma_buffer(part.len()).unwrap();
            buffer = execute(&mut queue, read(lba), Some(buffer)).unwrap();
            assert_eq!(buffer.as_slice(), &from_linux[part.clone()], "namespace {nsid}, {part:?}");
            buffer.as_mut_slice().copy_from_slice(&ours[part]);
            execute(&mut queue, write(lba), Some(buffer));
        }
        execute(&mut queue, Operation::Flush, None);
    }
    drop(controller);

    guest.give_back(DATA);
    for nsid in [1, 2] {
        let mut bytes = vec![0; LENGTH];
        let file = File::open(block_device(DATA, nsid)).unwrap();
        file.read_exact_at(&mut bytes, START).unwrap();
        assert!(bytes == pattern(100 + u64::from(nsid), LENGTH), "namespace {nsid}");
    }
}

#[test]
fn interrupts_wake_a_queue_that_sleeps() {
    let Some(guest) = guest() else { return };
    let options = Options { interrupts: true, spin: Duration::ZERO, ..Options::default() };
    let controller = Controller::attach_with(guest.take(DATA), options).unwrap();
    let mut queues: Vec<_> = (0..2).map(|_| controller.block_queue(1, 4).unwrap()).collect();
    for round in 0..200 {
        let queue = &mut queues[round % 2];
        let buffer = controller.device().dma_buffer(4096).unwrap();
        let operation = Operation::Read { lba: round as u64 };
        assert!(queue.submit(Request { operation, buffer: Some(buffer), tag: 1 }).is_ok());
        let mut ended = 0;
        // A lost interrupt would have the wait last this long, and fail.
        assert!(queue.queue().wait(Duration::from_secs(30)).unwrap(), "round {round}");
        queue.poll(|completion| ended += u32::from(completion.result.is_ok()));
        assert_eq!(ended, 1, "round {round}");
    }
    drop(queues);
    drop(controller);
    guest.give_back(DATA);
}

#[test]
fn a_reset_ends_every_request_once_and_io_goes_on() {
    let Some(guest) = guest() else { return };
    let controller = Controller::attach(guest.take(DATA)).unwrap();
    let mut queue = controller.block_queue(1, 32).unwrap();
    for round in 0..5 {
        for tag in 0..32 {
            let buffer = controller.device().dma_buffer(4096).unwrap();
            let operation = Operation::Read { lba: tag * 8 };
            assert!(queue.submit(Request { operation, buffer: Some(buffer), tag }).is_ok());
        }
        queue.queue().ring();
        controller.reset().unwrap();
        let mut ended = [0; 32];
        let deadline = Instant::now() + Duration::from_secs(30);
        while ended.contains(&0) {
            assert!(Instant::now() < deadline, "round {round}: {ended:?}");
            queue.poll(|completion| {
                assert!(matches!(completion.result, Ok(()) | Err(BlockError::Reset)));
                assert!(completion.buffer.is_some());
                ended[completion.tag as usize] += 1;
            });
        }
        assert_eq!(ended, [1; 32], "round {round}");
        // The queue comes back by itself, at the next poll.
        while queue.queue().poll().is_some() {}
        let buffer = controller.device().dma_buffer(4096).unwrap();
        execute(&mut queue, Operation::Read { lba: 0 }, Some(buffer));
    }
    assert_eq!(controller.resets(), 5);
    let smart = controller.smart_log().unwrap();
    assert!(smart.celsius().is_some_and(|celsius| celsius > -50));
    drop(queue);
    drop(controller);
    guest.give_back(DATA);
}

/// One request, from beginning to end; gives its buffer back.
fn execute(
    queue: &mut NamespaceQueue,
    operation: Operation,
    buffer: Option<DmaBuf>,
) -> Option<DmaBuf> {
    let accepted = queue.submit(Request { operation, buffer, tag: 1 });
    assert!(accepted.is_ok(), "{:?}", accepted.err().map(|(error, _)| error));
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut ended = None;
    while ended.is_none() {
        assert!(Instant::now() < deadline, "{operation:?} did not end within 30 s");
        queue.poll(|completion| ended = Some(completion));
    }
    let completion = ended.unwrap();
    assert!(completion.result.is_ok(), "{operation:?}: {:?}", completion.result);
    completion.buffer
}
