//! Admin commands: identify, logs, features, format, events.

use std::time::Duration;

use storage_poll::{CommandError, Controller, ControllerError, FormatOptions, Namespace, Options};
use uniddrv::block::SubmitError;
use uniddrv_models::nvme::NvmeModel;
use uniddrv_spec::nvme::admin::event::Event;
use uniddrv_spec::nvme::admin::features::{
    Arbitration, AsyncEvents, NumberOfQueues, TemperatureThreshold, VolatileWriteCache,
};
use uniddrv_spec::nvme::admin::namespace::SecureErase;
use uniddrv_spec::nvme::admin::queue::AbortResult;
use uniddrv_spec::nvme::admin::{self, Abort, AsyncEvent, FeatureId, Identify, LogId};
use uniddrv_spec::nvme::entry::SubmissionEntry;
use uniddrv_spec::nvme::identify::IdentifyController;
use uniddrv_spec::nvme::io::Opcode;
use uniddrv_spec::nvme::status::Status;
use zerocopy::FromBytes;

use crate::content::{check_all, fill_all};
use crate::ground::{GROUNDS, Ground, Model, execute, wait_for};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_controller_tells_what_it_is() {
    for ground in GROUNDS {
        let model = Model::start(ground, "namespaces=512:1M,4096:3M&serial=S123&mdts=64k");
        let controller = model.attach(Options::default());
        let identity = controller.identity();
        assert_eq!(identity.serial().to_string(), "S123");
        assert!(!identity.model().to_string().is_empty());
        assert_eq!((controller.version().major(), controller.version().minor()), (2, 0));
        assert_eq!(controller.max_transfer(), 64 << 10);
        assert_eq!(controller.capabilities().max_queue_entries(), 4096);
        assert_eq!(controller.granted_queues(), 64);
        let found: Vec<_> = controller
            .namespaces()
            .iter()
            .map(|namespace| (namespace.nsid(), namespace.block_size(), namespace.blocks()))
            .collect();
        assert_eq!(found, [(1, 512, 2048), (2, 4096, 768)]);
        let said = controller.identify_namespace(2).unwrap();
        assert_eq!((said.nsze.get(), said.format().unwrap().block_size()), (768, Some(4096)));
        let error = controller.identify_namespace(3).unwrap_err();
        let wrong = Status::INVALID_NAMESPACE_OR_FORMAT;
        assert!(matches!(error, ControllerError::Status { status, .. } if status.code() == wrong));
        assert!(controller.namespace(3).unwrap_err().to_string().contains("known: 1, 2"));

        // Any admin command.
        let buffer = controller.device().dma_buffer(4096).unwrap();
        let entry = Identify::controller().to_entry();
        let (_, buffer) = controller.admin_command(entry, Some(buffer), LIMIT).unwrap();
        let bytes = buffer.unwrap();
        let again = IdentifyController::read_from_bytes(bytes.as_slice()).unwrap();
        assert_eq!(again.sn, identity.sn);
        let unknown = controller.admin_command(SubmissionEntry::new(0x7f), None, LIMIT);
        let wrong = Status::INVALID_COMMAND_OPCODE;
        assert!(matches!(
            unknown.unwrap_err(),
            ControllerError::Status { status, .. } if status.code() == wrong
        ));
    }
}

#[test]
fn lists_of_namespaces_of_any_length() {
    for (ground, count) in [
        (Ground::Inline, 1),
        (Ground::Inline, 2),
        (Ground::Inline, 1023),
        (Ground::Inline, 1024),
        (Ground::Served, 1024),
    ] {
        let parameters = format!("namespaces={count}&block=4096&size=64k&backing=null");
        let model = Model::start(ground, &parameters);
        let controller = model.attach(Options::default());
        let ids: Vec<_> = controller.namespaces().iter().map(Namespace::nsid).collect();
        assert_eq!(ids, (1..=count).collect::<Vec<_>>());
        let last = *controller.namespace(count).unwrap();
        let mut queue = controller.io_queue(1).unwrap();
        let buffer = controller.device().dma_buffer(4096).unwrap();
        let (result, _) = execute(&mut queue, &last.read(15, 1).unwrap(), Some(buffer));
        assert_eq!(result, Ok(0));
        let (result, _) = execute(&mut queue, &last.flush(), None);
        assert_eq!(result, Ok(0));
    }
}

#[test]
fn counters_move_with_the_work() {
    for ground in GROUNDS {
        let model = Model::start(ground, "size=4M");
        let controller = model.attach(Options::default());
        let namespace = controller.namespaces()[0];
        let before = controller.smart_log().unwrap();
        assert_eq!(before.critical_warning.bits(), 0);
        assert_eq!(before.celsius(), Some(37));
        assert_eq!((before.host_reads.get(), before.host_writes.get()), (0, 0));
        let mut queue = controller.io_queue(1).unwrap();
        for turn in 0..10 {
            let len = 256 << 9;
            let buffer = controller.device().dma_buffer(len).unwrap();
            let write = namespace.write(turn, 256, false).unwrap();
            let (_, buffer) = execute(&mut queue, &write, Some(buffer));
            if turn % 2 == 0 {
                let read = namespace.read(turn, 256).unwrap();
                assert_eq!(execute(&mut queue, &read, buffer).0, Ok(0));
            }
        }
        let after = controller.smart_log().unwrap();
        assert_eq!((after.host_reads.get(), after.host_writes.get()), (5, 10));
        // In thousands of 512 bytes, rounded up.
        assert_eq!((after.data_units_read.get(), after.data_units_written.get()), (2, 3));
        assert_eq!(after.bytes_written(), 3 * 512_000);
        assert_eq!((after.media_errors.get(), after.error_entries.get()), (0, 0));

        // Errors are counted and logged, the newest first.
        let spoil = namespace.write_uncorrectable(9, 1).unwrap();
        assert_eq!(execute(&mut queue, &spoil, None).0, Ok(0));
        let verify = namespace.verify(0, 10).unwrap();
        let compare = namespace.compare(20, 1).unwrap();
        assert!(execute(&mut queue, &verify, None).0.is_err());
        let mut buffer = controller.device().dma_buffer(512).unwrap();
        buffer.as_mut_slice().fill(1);
        assert!(execute(&mut queue, &compare, Some(buffer)).0.is_err());
        let after = controller.smart_log().unwrap();
        assert_eq!((after.media_errors.get(), after.error_entries.get()), (1, 2));
        let errors = controller.error_log(10).unwrap();
        let found: Vec<_> = errors
            .iter()
            .map(|one| (one.error_count.get(), one.sqid.get(), one.lba.get(), one.status().code()))
            .collect();
        let expected =
            [(2, 1, 20, Status::COMPARE_FAILURE), (1, 1, 0, Status::UNRECOVERED_READ_ERROR)];
        assert_eq!(found, expected);
        assert_eq!(controller.error_log(1).unwrap().len(), 1);
        for _ in 0..100 {
            assert!(execute(&mut queue, &verify, None).0.is_err());
        }
        let errors = controller.error_log(usize::MAX).unwrap();
        assert_eq!(errors.len(), usize::from(controller.identity().elpe) + 1);
        assert!(errors.is_sorted_by(|one, next| one.error_count.get() > next.error_count.get()));
    }
}

#[test]
fn the_other_logs_are_read() {
    for ground in GROUNDS {
        let model = Model::start(ground, "size=1M&shadow-doorbells=on");
        let controller = model.attach(Options::default());
        let firmware = controller.firmware_log().unwrap();
        let active = firmware.afi.active();
        let revision = firmware.revision(active).unwrap().to_string();
        assert_eq!(revision, controller.identity().firmware().to_string());
        assert!(controller.changed_namespaces().unwrap().iter().next().is_none());
        let effects = controller.command_effects().unwrap();
        for opcode in [Opcode::READ, Opcode::WRITE, Opcode::COPY, Opcode::VERIFY] {
            assert!(effects.io(opcode).csupp(), "{opcode}");
        }
        assert!(effects.io(Opcode::WRITE).lbcc() && !effects.io(Opcode::READ).lbcc());
        assert!(effects.admin(admin::Opcode::FORMAT_NVM).csupp());
        assert!(!effects.io(Opcode::RESERVATION_REPORT).csupp());
    }
}

#[test]
fn features_are_set_until_a_reset() {
    for ground in GROUNDS {
        let model = Model::start(ground, "size=1M");
        let controller = model.attach(Options { queues: 3, ..Options::default() });
        let granted = controller.feature(FeatureId::NUMBER_OF_QUEUES).unwrap();
        let granted = NumberOfQueues::from_bits(granted);
        assert_eq!((granted.nsq(), granted.ncq()), (2, 2));
        let default = controller.feature(FeatureId::ARBITRATION).unwrap();
        let value = Arbitration::default().with_ab(3).with_hpw(9).bits();
        assert_ne!(default, value);
        controller.set_feature(FeatureId::ARBITRATION, value).unwrap();
        assert_eq!(controller.feature(FeatureId::ARBITRATION).unwrap(), value);
        let off = VolatileWriteCache::default().with_wce(false);
        controller.set_feature(FeatureId::VOLATILE_WRITE_CACHE, off.bits()).unwrap();
        assert_eq!(controller.feature(FeatureId::VOLATILE_WRITE_CACHE).unwrap(), off.bits());
        controller.reset().unwrap();
        assert_eq!(controller.feature(FeatureId::ARBITRATION).unwrap(), default);

        let error = controller.set_feature(FeatureId::NUMBER_OF_QUEUES, 0).unwrap_err();
        assert!(matches!(error, ControllerError::Unsupported { .. }), "{error}");
        for id in [FeatureId(0xc0), FeatureId(0)] {
            let error = controller.feature(id).unwrap_err();
            assert!(matches!(error, ControllerError::Status { .. }), "{error}");
        }
        let error = controller.set_feature(FeatureId::POWER_MANAGEMENT, 31).unwrap_err();
        assert!(error.to_string().contains("Set Features: Invalid Field"), "{error}");
    }
}

fn format(format: u8) -> FormatOptions {
    FormatOptions { format, erase: SecureErase::NONE, limit: LIMIT }
}

#[test]
fn formatting_changes_blocks_and_clears_them() {
    for ground in GROUNDS {
        let model = Model::start(ground, "namespaces=512:1M,512:1M");
        let mut controller = model.attach(Options::default());
        let mut queue = controller.io_queue(2).unwrap();
        let old = *controller.namespace(1).unwrap();
        for &namespace in controller.namespaces() {
            let mut buffer = controller.device().dma_buffer(512).unwrap();
            fill_all(&[7], 512, buffer.as_mut_slice());
            let write = namespace.write(1, 1, false).unwrap();
            assert_eq!(execute(&mut queue, &write, Some(buffer)).0, Ok(0));
        }
        controller.format(1, format(1)).unwrap();
        let new = *controller.namespace(1).unwrap();
        assert_eq!((new.block_size(), new.blocks()), (4096, 256));
        let buffer = controller.device().dma_buffer(8 << 12).unwrap();
        let (result, buffer) = execute(&mut queue, &new.read(0, 8).unwrap(), Some(buffer));
        assert_eq!(result, Ok(0));
        check_all(&[0; 8], 4096, buffer.unwrap().as_slice(), "after a format");
        // The neighbour keeps its own.
        let other = *controller.namespace(2).unwrap();
        assert_eq!(other.block_size(), 512);
        let buffer = controller.device().dma_buffer(512).unwrap();
        let (result, buffer) = execute(&mut queue, &other.read(1, 1).unwrap(), Some(buffer));
        assert_eq!(result, Ok(0));
        check_all(&[7], 512, buffer.unwrap().as_slice(), "the neighbour");
        // What was known before no longer holds: a block beyond the new end.
        let buffer = controller.device().dma_buffer(512).unwrap();
        let (result, _) = execute(&mut queue, &old.read(2047, 1).unwrap(), Some(buffer));
        let beyond = Status::LBA_OUT_OF_RANGE;
        assert!(matches!(result, Err(CommandError::Status(found)) if found.code() == beyond));

        let error = controller.format(1, format(2)).unwrap_err();
        assert!(error.to_string().contains("LBA formats 0 to 1, not 2"), "{error}");
        let error = controller.format(9, format(0)).unwrap_err();
        assert!(matches!(error, ControllerError::Status { .. }), "{error}");
        controller.format(1, FormatOptions { erase: SecureErase::USER_DATA, ..format(0) }).unwrap();
        assert_eq!(controller.namespace(1).unwrap().blocks(), 2048);
    }
}

/// Takes events until there is one.
fn events(model: &Model, controller: &mut Controller) -> Vec<(Event, LogId)> {
    let mut events = Vec::new();
    wait_for("an event", || {
        model.poll();
        events = controller.take_events();
        !events.is_empty()
    });
    events.iter().map(|event: &AsyncEvent| (event.event(), event.log())).collect()
}

#[test]
fn namespaces_that_change_are_told_and_looked_up() {
    let model = Model::start(Ground::Inline, "namespaces=3&size=1M");
    let mut controller = model.attach(Options::default());
    let changed = (Event::NAMESPACE_ATTRIBUTE_CHANGED, LogId::CHANGED_NAMESPACES);
    let ids = |controller: &Controller| -> Vec<_> {
        controller.namespaces().iter().map(|one| (one.nsid(), one.blocks())).collect()
    };
    assert!(controller.take_events().is_empty());
    let change = |f: &dyn Fn(&mut NvmeModel) -> bool| assert!(model.with(|model, _| f(model)));

    change(&|model| model.set_attached(2, false));
    assert_eq!(events(&model, &mut controller), [changed]);
    assert_eq!(controller.changed_namespaces().unwrap().iter().collect::<Vec<_>>(), [2]);
    assert_eq!(ids(&controller), [(1, 2048), (2, 2048), (3, 2048)], "as of the last scan");
    let gone = *controller.namespace(2).unwrap();
    controller.rescan().unwrap();
    assert_eq!(ids(&controller), [(1, 2048), (3, 2048)]);
    let mut queue = controller.io_queue(1).unwrap();
    assert!(matches!(execute(&mut queue, &gone.flush(), None).0, Err(CommandError::Status(_))));

    // Without the log being read there is no second event; the list goes on.
    change(&|model| model.set_size(3, 512 << 10));
    assert_eq!(events(&model, &mut controller), [changed]);
    change(&|model| model.set_attached(2, true));
    (0..100).for_each(|_| model.poll());
    assert!(controller.take_events().is_empty());
    assert_eq!(controller.changed_namespaces().unwrap().iter().collect::<Vec<_>>(), [2, 3]);
    controller.rescan().unwrap();
    assert_eq!(ids(&controller), [(1, 2048), (2, 2048), (3, 1024)]);

    // Also after a reset, and more often than there are requests for events.
    controller.reset().unwrap();
    for turn in 0..10 {
        change(&|model| model.set_attached(1, turn % 2 == 1));
        assert_eq!(events(&model, &mut controller), [changed], "{turn}");
        controller.changed_namespaces().unwrap();
    }
}

#[test]
fn a_temperature_is_told_when_it_passes_a_threshold() {
    for ground in GROUNDS {
        let model = Model::start(ground, "size=1M");
        let mut controller = model.attach(Options::default());
        let wanted = controller.feature(FeatureId::ASYNC_EVENT_CONFIGURATION).unwrap();
        let wanted = AsyncEvents::from_bits(wanted);
        assert!(wanted.namespace_attribute() && wanted.smart() != 0, "{wanted:?}");
        for _ in 0..6 {
            let low = TemperatureThreshold::default().with_tmpth(300).bits();
            controller.set_feature(FeatureId::TEMPERATURE_THRESHOLD, low).unwrap();
            let told = events(&model, &mut controller);
            assert_eq!(told, [(Event::TEMPERATURE_THRESHOLD, LogId::SMART_HEALTH)]);
            assert!(controller.smart_log().unwrap().critical_warning.temperature());
            let high = TemperatureThreshold::default().with_tmpth(400).bits();
            controller.set_feature(FeatureId::TEMPERATURE_THRESHOLD, high).unwrap();
            assert!(!controller.smart_log().unwrap().critical_warning.temperature());
        }
        assert!(controller.take_events().is_empty());
    }
}

#[test]
fn what_is_not_on_its_way_is_not_aborted() {
    for ground in GROUNDS {
        let model = Model::start(ground, "size=1M");
        let controller = model.attach(Options::default());
        let queue = controller.io_queue(1).unwrap();
        let entry = Abort { sqid: queue.id(), cid: 77 }.to_entry();
        let (result, _) = controller.admin_command(entry, None, LIMIT).unwrap();
        assert!(AbortResult::from_bits(result).not_aborted());
    }
}

#[test]
fn a_namespace_that_shrinks_is_told_by_the_controller() {
    let model = Model::start(Ground::Inline, "size=1M");
    let mut controller = model.attach(Options::default());
    let mut queue = controller.io_queue(1).unwrap();
    let old = controller.namespaces()[0];
    assert!(model.with(|model, _| model.set_size(1, 64 << 10)));
    let buffer = controller.device().dma_buffer(512).unwrap();
    let (result, buffer) = execute(&mut queue, &old.read(2000, 1).unwrap(), Some(buffer));
    let beyond = Status::LBA_OUT_OF_RANGE;
    assert!(matches!(result, Err(CommandError::Status(found)) if found.code() == beyond));
    assert_eq!(execute(&mut queue, &old.read(0, 1).unwrap(), buffer).0, Ok(0));
    controller.rescan().unwrap();
    let new = controller.namespaces()[0];
    assert_eq!(new.blocks(), 128);
    assert!(matches!(new.read(2000, 1), Err(SubmitError::OutOfRange { available: 128, .. })));
}
