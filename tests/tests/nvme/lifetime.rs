//! Controllers and queues that come and go, in any order and from any state.

use std::time::Duration;

use storage_poll::{CommandError, Controller, Options};
use uniddrv::block::SubmitError;
use uniddrv::{AttachError, Device, Driver};
use uniddrv_models::nvme::NvmeModel;
use uniddrv_spec::nvme::registers::{Acq, Aqa, Asq, Cc, Csts};

use crate::content::{check_all, fill_all};
use crate::ground::{GROUNDS, Ground, Model, execute, next, wait_for};

/// Writes and reads one block.
fn works(controller: &Controller, seed: u64) {
    let namespace = controller.namespaces()[0];
    let block = namespace.block_size() as usize;
    let mut queue = controller.io_queue(2).unwrap();
    let mut buffer = controller.device().dma_buffer(block).unwrap();
    fill_all(&[seed], block, buffer.as_mut_slice());
    let write = namespace.write(seed % 100, 1, false).unwrap();
    let (result, buffer) = execute(&mut queue, &write, Some(buffer));
    assert_eq!(result, Ok(0));
    let mut buffer = buffer.unwrap();
    buffer.as_mut_slice().fill(0);
    let read = namespace.read(seed % 100, 1).unwrap();
    let (result, buffer) = execute(&mut queue, &read, Some(buffer));
    assert_eq!(result, Ok(0));
    check_all(&[seed], block, buffer.unwrap().as_slice(), "the block");
}

#[test]
fn a_controller_is_attached_again_and_again() {
    for ground in GROUNDS {
        for shadow in ["off", "on"] {
            let model = Model::start(ground, &format!("size=1M&shadow-doorbells={shadow}"));
            for turn in 0..20 {
                let controller = model.attach(Options::default());
                works(&controller, turn + 1);
                drop(controller);
                if ground == Ground::Inline {
                    let csts = model.device().bar(0).unwrap().window(0..4096).unwrap();
                    let csts = Csts::from_bits(csts.read32(Csts::OFFSET));
                    assert!(!csts.rdy() && !csts.cfs(), "stopped: {csts:?}");
                }
            }
        }
    }
}

#[test]
fn a_second_client_is_turned_away_and_the_first_goes_on() {
    let model = Model::start(Ground::Served, "size=1M");
    let controller = model.attach(Options::default());
    for turn in 1..4 {
        let error = Device::open(&model.address()).err().unwrap();
        assert!(error.to_string().contains("another client"), "{error}");
        works(&controller, turn);
    }
    drop(controller);
    works(&model.attach(Options::default()), 5);
}

#[test]
fn queues_outlive_their_controller() {
    for ground in GROUNDS {
        let model = Model::start(ground, "size=1M");
        let controller = model.attach(Options::default());
        let namespace = controller.namespaces()[0];
        let mut queues = [controller.io_queue(4).unwrap(), controller.io_queue(4).unwrap()];
        let buffer = controller.device().dma_buffer(512).unwrap();
        drop(controller);
        let read = namespace.read(0, 1).unwrap();
        let (result, buffer) = execute(&mut queues[0], &read, Some(buffer));
        assert_eq!(result, Ok(0));
        let [first, mut second] = queues;
        drop(first);
        let (result, buffer) = execute(&mut second, &read, buffer);
        assert_eq!(result, Ok(0));
        drop(second);
        // The buffer is the last that knows of the device.
        assert_eq!(buffer.unwrap().as_slice().len(), 512);
        works(&model.attach(Options::default()), 9);
    }
}

/// Commands that never end are on their way when their queue goes.
#[test]
fn a_queue_goes_with_commands_on_their_way() {
    for ground in GROUNDS {
        for shadow in ["off", "on"] {
            let model = Model::start(
                ground,
                &format!("size=1M&shadow-doorbells={shadow}&fault=drop=1,after=40"),
            );
            let controller = model.attach(Options::default());
            let namespace = controller.namespaces()[0];
            for turn in 0..10 {
                let mut queue = controller.io_queue(8).unwrap();
                assert_eq!(queue.id(), 1, "it was given back");
                for lba in 0..8 {
                    let buffer = controller.device().dma_buffer(512).unwrap();
                    queue.submit(&namespace.read(lba, 1).unwrap(), Some(buffer), lba).unwrap();
                }
                if turn % 3 != 0 {
                    queue.ring();
                }
                if turn < 5 && turn % 3 != 0 {
                    (0..8).for_each(|_| assert_eq!(next(&mut queue).result, Ok(0)));
                }
                drop(queue);
            }
            assert_eq!(controller.resets(), 0);
            drop(controller);
            model.finish();
        }
    }
}

#[test]
fn another_kind_of_device_is_refused() {
    for address in ["model:edu", "model:edu?fault=dma"] {
        let device = uniddrv_models::open(&address.parse().unwrap()).unwrap();
        let error = Controller::attach(device).err().unwrap();
        assert!(matches!(error, AttachError::NotMine { .. }));
        let text = error.to_string();
        assert!(text.contains("model:edu") && text.contains("1234"), "{text}");
    }
}

/// Whoever had the controller before left it in some state.
#[test]
fn a_controller_is_taken_from_any_state() {
    let model = Model::start(Ground::Inline, "size=1M");
    let registers = |device: &Device| device.bar(0).unwrap().window(0..4096).unwrap();
    let enabled = Cc::default().with_iosqes(6).with_iocqes(4).with_en(true);

    // Fatal: enabled without queues.
    let device = model.device();
    let bar = registers(&device);
    bar.write32(Aqa::OFFSET, 0);
    bar.write32(Cc::OFFSET, enabled.bits());
    assert!(Csts::from_bits(bar.read32(Csts::OFFSET)).cfs());
    drop((bar, device));
    works(&model.attach(Options::default()), 1);

    // Running, with an admin queue somewhere.
    let device = model.device();
    let bar = registers(&device);
    bar.write32(Aqa::OFFSET, Aqa::default().with_asqs(7).with_acqs(7).bits());
    bar.write64(Asq::OFFSET, 0x10_0000);
    bar.write64(Acq::OFFSET, 0x20_0000);
    bar.write32(Cc::OFFSET, enabled.bits());
    assert!(Csts::from_bits(bar.read32(Csts::OFFSET)).rdy());
    drop((bar, device));
    works(&model.attach(Options::default()), 2);

    // Shut down.
    let device = model.device();
    let bar = registers(&device);
    bar.write32(Cc::OFFSET, enabled.bits());
    bar.write32(Cc::OFFSET, enabled.with_shn(Cc::SHN_NORMAL).bits());
    assert_eq!(Csts::from_bits(bar.read32(Csts::OFFSET)).shst(), Csts::SHST_COMPLETE);
    drop((bar, device));
    works(&model.attach(Options::default()), 3);

    // A function reset under a running driver's feet: every request has a verdict.
    let options = Options { timeout: Duration::from_millis(40), ..Options::default() };
    let controller = model.attach(options);
    let namespace = controller.namespaces()[0];
    let mut queue = controller.io_queue(4).unwrap();
    controller.device().reset().unwrap();
    let buffer = controller.device().dma_buffer(512).unwrap();
    let (result, _) = execute(&mut queue, &namespace.read(0, 1).unwrap(), Some(buffer));
    assert_eq!(result, Err(CommandError::Reset));
    drop(queue);
    works(&controller, 7);
    // And one that it finds when it asks for something.
    controller.device().reset().unwrap();
    let error = controller.smart_log().unwrap_err().to_string();
    assert!(error.contains("somebody else has stopped it"), "{error}");
    works(&controller, 8);
    assert_eq!(controller.resets(), 2);
    drop(controller);
    works(&model.attach(Options::default()), 4);

    // Gone.
    model.with(|model, _| NvmeModel::vanish(model));
    let error = Controller::attach(model.device()).err().unwrap();
    assert!(matches!(error, AttachError::NotMine { .. }), "{error}");
}

#[test]
fn a_reset_that_was_asked_for_ends_all_requests_and_nothing_else() {
    for ground in GROUNDS {
        for shadow in ["off", "on"] {
            let model = Model::start(
                ground,
                &format!("size=1M&shadow-doorbells={shadow}&fault=delay=0.5:10ms"),
            );
            let controller = model.attach(Options::default());
            let namespace = controller.namespaces()[0];
            let mut queues = [(); 3].map(|()| controller.io_queue(16).unwrap());
            for turn in 1..=20 {
                for queue in &mut queues {
                    for tag in 0..16 {
                        let buffer = controller.device().dma_buffer(512).unwrap();
                        let read = namespace.read(tag, 1).unwrap();
                        queue.submit(&read, Some(buffer), tag).unwrap();
                    }
                    queue.ring();
                }
                controller.reset().unwrap();
                assert_eq!(controller.resets(), turn);
                for queue in &mut queues {
                    let (error, _) = queue.submit(&namespace.flush(), None, 99).unwrap_err();
                    assert_eq!(error, SubmitError::NotReady);
                    let mut tags = Vec::new();
                    for _ in 0..16 {
                        let done = model.next(queue);
                        assert!(matches!(done.result, Ok(0) | Err(CommandError::Reset)));
                        assert!(done.buffer.is_some());
                        tags.push(done.tag);
                    }
                    tags.sort_unstable();
                    assert_eq!(tags, (0..16).collect::<Vec<_>>());
                    // It comes back by itself.
                    wait_for("the queue is back", || {
                        assert!(queue.poll().is_none());
                        queue.submit(&namespace.flush(), None, 7).is_ok()
                    });
                    assert_eq!(model.next(queue).tag, 7);
                }
            }
            drop((queues, controller));
            model.finish();
        }
    }
}
