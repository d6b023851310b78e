//! Every error status that the standard names, as the driver tells it.

use std::collections::BTreeSet;

use storage_poll::{CommandError, Controller, ControllerError, Options};
use uniddrv::block::{BlockError, BlockQueue, Operation, Request};
use uniddrv_spec::nvme::status::Status;

use crate::ground::{Ground, Model, execute, wait_for};

/// What the block service makes of a status.
fn as_block_error(status: Status) -> BlockError {
    match status.code() {
        Status::LBA_OUT_OF_RANGE => BlockError::OutOfRange,
        Status::ABORT_REQUESTED => BlockError::Aborted,
        _ => BlockError::Device(status.bits()),
    }
}

fn errors() -> impl Iterator<Item = (Status, &'static str)> {
    Status::ALL.iter().copied().filter(|(status, _)| !status.is_success())
}

#[test]
fn every_status_of_an_io_command_is_told() {
    for (status, name) in errors() {
        let parameters = format!("backing=null&size=1M&fault=status=1.0:{:#06x}", status.bits());
        let model = Model::start(Ground::Inline, &parameters);
        let controller = model.attach(Options::default());
        let namespace = controller.namespaces()[0];

        let mut queue = controller.io_queue(2).unwrap();
        for write in [false, true] {
            let mut buffer = controller.device().dma_buffer(1024).unwrap();
            buffer.as_mut_slice().fill(7);
            let command =
                if write { namespace.write(0, 2, false) } else { namespace.read(0, 2) }.unwrap();
            let (result, buffer) = execute(&mut queue, &command, Some(buffer));
            match result.unwrap_err() {
                CommandError::Status(told) => {
                    assert_eq!(told.code(), status);
                    let text = CommandError::Status(told).to_string();
                    assert!(text.contains(name), "{text}");
                }
                CommandError::Aborted => assert_eq!(status, Status::ABORT_REQUESTED),
                other => panic!("{name}: {other:?}"),
            }
            let buffer = buffer.unwrap();
            assert!(buffer.len() == 1024 && buffer.as_slice().iter().all(|&byte| byte == 7));
        }
        let (result, buffer) = execute(&mut queue, &namespace.flush(), None);
        assert!(result.is_err() && buffer.is_none());
        assert!(controller.is_running() && controller.resets() == 0);

        let mut queue = controller.block_queue(1, 2).unwrap();
        let buffer = Some(controller.device().dma_buffer(512).unwrap());
        let request = Request { operation: Operation::Read { lba: 0 }, buffer, tag: 9 };
        queue.submit(request).unwrap();
        let mut ended = Vec::new();
        wait_for("the request ends", || queue.poll(|done| ended.push(done)) > 0);
        let [done] = ended.try_into().unwrap();
        assert_eq!((done.tag, done.buffer.is_some()), (9, true));
        let error = done.result.unwrap_err();
        let expected = as_block_error(status);
        match (error, expected) {
            // The controller adds whether to retry and whether there is more in the log.
            (BlockError::Device(told), BlockError::Device(_)) => {
                assert_eq!(Status::from_bits(told).code(), status, "{name}");
            }
            _ => assert_eq!(error, expected, "{name}"),
        }
        drop(queue);
        assert_eq!(controller.error_log(1).unwrap()[0].status().code(), status, "{name}");
    }
}

/// How many admin commands it takes to attach to this model.
fn commands_of_an_attach(parameters: &str) -> u64 {
    let fault = "fault=scope=admin,after=1000";
    let model = Model::start(Ground::Inline, &format!("{parameters}&{fault}"));
    let controller = model.attach(Options::default());
    let commands = model.with(|model, _| model.fault_counts().unwrap().commands);
    drop(controller);
    commands
}

#[test]
fn every_status_of_an_admin_command_is_told() {
    let parameters = "backing=null&size=1M";
    let after = commands_of_an_attach(parameters);
    for (status, name) in errors() {
        let fault = format!("fault=scope=admin,after={after},status=1.0:{:#06x}", status.bits());
        let model = Model::start(Ground::Inline, &format!("{parameters}&{fault}"));
        let controller = model.attach(Options::default());
        let told = |error: ControllerError| match &error {
            ControllerError::Status { status: told, .. } => {
                assert_eq!(told.code(), status);
                assert!(
                    error.to_string().contains(name) && error.to_string().contains("model:nvme")
                );
            }
            other => panic!("{name}: {other}"),
        };
        told(controller.smart_log().unwrap_err());
        told(controller.identify_namespace(1).unwrap_err());
        told(controller.io_queue(4).err().unwrap());
        assert!(controller.is_running() && controller.resets() == 0, "an answer is no reason");
    }
}

/// Each command of the bring-up fails in its turn: a clear error, or the controller works.
#[test]
fn a_status_at_any_step_of_the_bring_up_is_survived() {
    let parameters = "namespaces=2&backing=null&size=1M&shadow-doorbells=on";
    let commands = commands_of_an_attach(parameters);
    assert!(commands > 5);
    let mut outcomes = BTreeSet::new();
    for after in 0..commands {
        let fault = format!("fault=scope=admin,after={after},status=1.0:0x0006");
        let model = Model::start(Ground::Inline, &format!("{parameters}&{fault}"));
        match Controller::attach_with(model.device(), Options::default()) {
            Ok(controller) => {
                // Shadow doorbells and events are what can be done without.
                assert!(controller.io_queue(1).is_err());
                outcomes.insert("attached");
            }
            Err(error) => {
                assert!(error.to_string().contains("Internal Error"), "{error}");
                outcomes.insert("refused");
            }
        }
    }
    assert!(outcomes.contains("refused"));
}
