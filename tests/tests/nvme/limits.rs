//! What is refused, with the request given back, and what is just allowed.

use storage_poll::{Controller, ControllerError, NamespaceQueue, Options};
use uniddrv::DmaBuf;
use uniddrv::block::{BlockQueue, Operation, Request, SubmitError};

use crate::content::{check_all, fill_all};
use crate::ground::{GROUNDS, Ground, Model, execute, next, wait_for};

fn buffer(controller: &Controller, len: usize) -> DmaBuf {
    controller.device().dma_buffer(len).unwrap()
}

fn submit(
    queue: &mut NamespaceQueue,
    operation: Operation,
    buffer: Option<DmaBuf>,
) -> Result<(), SubmitError> {
    let iova = buffer.as_ref().map(DmaBuf::iova);
    queue.submit(Request { operation, buffer, tag: 3 }).map_err(|(error, request)| {
        let back = (request.operation, request.tag, request.buffer.as_ref().map(DmaBuf::iova));
        assert_eq!(back, (operation, 3, iova), "given back as it was");
        error
    })
}

fn drain(queue: &mut NamespaceQueue, count: usize) {
    let mut ended = 0;
    wait_for("requests end", || {
        ended += queue.poll(|done| assert_eq!(done.result, Ok(())));
        ended >= count
    });
    assert_eq!(ended, count);
}

#[test]
fn the_block_service_refuses_what_cannot_be() {
    for ground in GROUNDS {
        let model = Model::start(ground, "namespaces=512:1M,4096:1M&mdts=64k");
        let controller = model.attach(Options::default());
        for nsid in [1, 2] {
            let mut queue = controller.block_queue(nsid, 4).unwrap();
            let info = queue.info();
            let (block, blocks) = (info.block_size as usize, info.blocks);
            assert_eq!(info.max_transfer, 64 << 10);
            assert_eq!(info.bytes(), 1 << 20);
            let read = Operation::Read { lba: 0 };
            let write = Operation::Write { lba: 0, fua: true };
            for operation in [read, write] {
                let mut submit = |buffer| submit(&mut queue, operation, buffer).unwrap_err();
                assert_eq!(submit(None), SubmitError::Buffer);
                for len in [1, block - 1, block + 1, 3 * block + 4] {
                    let buffer = buffer(&controller, len);
                    assert_eq!(submit(Some(buffer)), SubmitError::Unaligned(len));
                }
                let len = (64 << 10) + block;
                let error = submit(Some(buffer(&controller, len)));
                assert_eq!(error, SubmitError::TooLarge { len, max: 64 << 10 });
            }
            for (lba, count) in [(blocks, 1), (blocks - 1, 2), (u64::MAX, 1), (u64::MAX, 16)] {
                let available = blocks;
                let expected = SubmitError::OutOfRange { lba, blocks: count, available };
                for operation in [Operation::Read { lba }, Operation::Write { lba, fua: false }] {
                    let buffer = buffer(&controller, count as usize * block);
                    let error = submit(&mut queue, operation, Some(buffer)).unwrap_err();
                    assert_eq!(error, expected);
                }
                let count = count as u32;
                for operation in [
                    Operation::WriteZeroes { lba, blocks: count },
                    Operation::Discard { lba, blocks: count },
                ] {
                    assert_eq!(submit(&mut queue, operation, None).unwrap_err(), expected);
                }
            }
            let none = [
                Operation::Flush,
                Operation::WriteZeroes { lba: 0, blocks: 1 },
                Operation::Discard { lba: 0, blocks: 1 },
            ];
            for operation in none {
                let buffer = buffer(&controller, block);
                let error = submit(&mut queue, operation, Some(buffer)).unwrap_err();
                assert_eq!(error, SubmitError::Buffer);
            }
            let nothing = Operation::WriteZeroes { lba: 0, blocks: 0 };
            assert_eq!(submit(&mut queue, nothing, None).unwrap_err(), SubmitError::Unaligned(0));

            // Nothing of it went on its way, and the queue is as before.
            let mut polled = 0;
            (0..10).for_each(|_| polled += queue.poll(|_| ()));
            assert_eq!(polled, 0);
            submit(&mut queue, write, Some(buffer(&controller, 64 << 10))).unwrap();
            let last = Operation::Read { lba: blocks - 1 };
            submit(&mut queue, last, Some(buffer(&controller, block))).unwrap();
            submit(&mut queue, Operation::Discard { lba: 0, blocks: blocks as u32 }, None).unwrap();
            submit(&mut queue, Operation::Flush, None).unwrap();
            drain(&mut queue, 4);
        }
    }
}

#[test]
fn a_full_queue_says_so_and_goes_on() {
    for ground in GROUNDS {
        let model = Model::start(ground, "size=1M&entries=16");
        let controller = model.attach(Options::default());
        assert_eq!(controller.max_depth(), 15);
        for depth in [1, 2, 3, 15] {
            let mut queue = controller.block_queue(1, depth).unwrap();
            assert_eq!(queue.depth(), depth);
            for _ in 0..20 {
                for lba in 0..depth as u64 {
                    let buffer = Some(buffer(&controller, 512));
                    submit(&mut queue, Operation::Read { lba }, buffer).unwrap();
                }
                let one_more = Some(buffer(&controller, 512));
                let error = submit(&mut queue, Operation::Read { lba: 0 }, one_more).unwrap_err();
                assert_eq!(error, SubmitError::Full);
                assert_eq!(submit(&mut queue, Operation::Flush, None), Err(SubmitError::Full));
                drain(&mut queue, depth);
            }
        }
    }
}

#[test]
fn depths_and_queues_have_limits() {
    let model = Model::start(Ground::Inline, "size=1M&queues=3&entries=8");
    let controller = model.attach(Options { queues: 64, ..Options::default() });
    assert_eq!((controller.granted_queues(), controller.max_depth()), (3, 7));
    for depth in [0, 8, 9, 1 << 16, usize::MAX] {
        let error = controller.io_queue(depth).err().unwrap();
        assert!(matches!(error, ControllerError::Unsupported { .. }));
        assert!(error.to_string().contains("1 to 7 commands"), "{error}");
    }
    let mut queues: Vec<_> = (0..3).map(|_| controller.io_queue(7).unwrap()).collect();
    assert_eq!(queues.iter().map(storage_poll::IoQueue::id).collect::<Vec<_>>(), [1, 2, 3]);
    for _ in 0..3 {
        let error = controller.io_queue(1).err().unwrap();
        assert!(error.to_string().contains("all 3 I/O queues"), "{error}");
        // One that goes makes room for one, with its identifier.
        queues.remove(1);
        queues.insert(1, controller.io_queue(1).unwrap());
        assert_eq!(queues[1].id(), 2);
    }
    let error = controller.block_queue(2, 1).err().unwrap();
    assert!(error.to_string().contains("no usable namespace 2 (known: 1)"), "{error}");
    drop(queues);
    drop(controller);
    let controller = model.attach(Options { queues: 1, ..Options::default() });
    assert_eq!(controller.granted_queues(), 1);
    drop(controller);
    let controller = model.attach(Options { queues: 0, ..Options::default() });
    assert_eq!(controller.granted_queues(), 1, "none at all is of no use");
}

#[test]
fn a_command_needs_its_buffer() {
    let model = Model::start(Ground::Inline, "size=1M");
    let controller = model.attach(Options::default());
    let namespace = controller.namespaces()[0];
    let mut queue = controller.io_queue(2).unwrap();
    let read = namespace.read(0, 4).unwrap();
    let (error, back) = queue.submit(&read, None, 0).unwrap_err();
    assert!(error == SubmitError::Buffer && back.is_none());
    for len in [1, 512, 2047] {
        let (error, back) = queue.submit(&read, Some(buffer(&controller, len)), 0).unwrap_err();
        assert_eq!((error, back.unwrap().len()), (SubmitError::Buffer, len));
    }
    let flush = namespace.flush();
    let (error, back) = queue.submit(&flush, Some(buffer(&controller, 512)), 0).unwrap_err();
    assert!(error == SubmitError::Buffer && back.is_some());
    assert_eq!(queue.in_flight(), 0);
    // A longer one is fine, and so is one that is just long enough.
    for len in [2048, 100_000] {
        assert_eq!(execute(&mut queue, &read, Some(buffer(&controller, len))).0, Ok(0));
    }
}

/// The largest transfer of controllers with little and with much room, by PRP lists (of several
/// pages, where it takes that many) and by SGLs.
#[test]
fn the_largest_transfer_moves_every_byte() {
    for (mdts, asked, most) in [
        ("8k", 4 << 20, 8 << 10),
        ("32M", 10_000, 8192),
        ("32M", 1, 4096),
        ("32M", 2 << 20, 2 << 20),
        ("4M", usize::MAX, 4 << 20),
    ] {
        for ground in GROUNDS {
            let model = Model::start(ground, &format!("namespaces=4096:8M&mdts={mdts}"));
            for sgl in [false, true] {
                let options = Options { max_transfer: asked, sgl, ..Options::default() };
                let controller = model.attach(options);
                let namespace = controller.namespaces()[0];
                let max = namespace.info().max_transfer;
                assert_eq!(max, most / 4096 * 4096, "mdts {mdts}, asked for {asked}");
                let blocks = namespace.max_blocks();
                assert_eq!(blocks, max / 4096);
                assert!(namespace.read(0, blocks + 1).is_err());

                // Two at once, so that lists of several slots are used.
                let seeds = |part: u64| (1..=u64::from(blocks)).map(move |n| part << 40 | n);
                let mut queue = controller.io_queue(2).unwrap();
                for part in [1, 2] {
                    let mut buffer = buffer(&controller, max as usize);
                    let seeds: Vec<_> = seeds(part).collect();
                    fill_all(&seeds, 4096, buffer.as_mut_slice());
                    let lba = (part - 1) * u64::from(blocks);
                    let write = namespace.write(lba, blocks, false).unwrap();
                    queue.submit(&write, Some(buffer), part).unwrap();
                }
                (0..2).for_each(|_| assert_eq!(next(&mut queue).result, Ok(0)));
                for part in [1, 2] {
                    let lba = (part - 1) * u64::from(blocks);
                    let read = namespace.read(lba, blocks).unwrap();
                    let buffer = buffer(&controller, max as usize);
                    queue.submit(&read, Some(buffer), part).unwrap();
                }
                for _ in 0..2 {
                    let done = next(&mut queue);
                    assert_eq!(done.result, Ok(0));
                    let seeds: Vec<_> = seeds(done.tag).collect();
                    check_all(&seeds, 4096, done.buffer.unwrap().as_slice(), "the largest");
                }
            }
        }
    }
}
