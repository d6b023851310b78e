//! Admin commands, each with its errors.

use std::time::Duration;

use uniddrv_spec::nvme::BROADCAST;
use uniddrv_spec::nvme::admin::event::Event;
use uniddrv_spec::nvme::admin::features::{AsyncEvents, Select};
use uniddrv_spec::nvme::admin::firmware::CommitAction;
use uniddrv_spec::nvme::admin::namespace::SecureErase;
use uniddrv_spec::nvme::admin::queue::AbortResult;
use uniddrv_spec::nvme::admin::{
    Abort, AsyncEvent, Cns, DoorbellBufferConfig, FeatureId, FirmwareCommit, FirmwareDownload,
    FormatNvm, GetFeatures, GetLogPage, Identify, LogId, Opcode, SetFeatures, async_event_request,
    keep_alive,
};
use uniddrv_spec::nvme::entry::SubmissionEntry;
use uniddrv_spec::nvme::identify::{
    ControllerList, IdentifyController, IdentifyNamespace, NamespaceDescriptors, NamespaceIdType,
    NamespaceList,
};
use uniddrv_spec::nvme::io::{BlockCount, Flags, flush, read, write};
use uniddrv_spec::nvme::log::{CommandsEffects, FirmwareSlots};
use uniddrv_spec::nvme::registers::submission_doorbell;
use uniddrv_spec::nvme::shadow::submission_offset;
use uniddrv_spec::nvme::status::Status;
use zerocopy::FromBytes;

use super::client::*;

fn identify(cns: Cns, nsid: u32) -> Identify {
    Identify { cns, nsid, ..Identify::default() }
}

#[test]
fn the_controller_says_what_it_is() {
    let mut client = Client::new(&[("serial", "S1"), ("mdts", "64k"), ("namespaces", "3")]);
    let page: IdentifyController = client.identify(Identify::controller());
    assert_eq!((page.serial().bytes(), page.firmware().bytes()), (&b"S1"[..], &b"1.0"[..]));
    assert_eq!(page.max_transfer(4096), Some(65_536));
    assert_eq!((page.nn.get(), page.ver.get(), page.cntrltype), (3, 0x0002_0000, 1));
    assert_eq!((page.sqes.required(), page.cqes.required()), (6, 4));
    assert!(page.oncs().copy() && page.oacs().format() && !page.oacs().doorbell_buffer());
    assert!(page.sgls().support() == 1 && page.sgls().bit_bucket());
    assert!(!page.vwc.present());
}

#[test]
fn namespaces_say_what_they_are() {
    let mut client = Client::new(&[("namespaces", "512:1M,4096:2M,512:512")]);
    for (nsid, blocks, size) in [(1, 2048, 512), (2, 512, 4096), (3, 1, 512)] {
        let page: IdentifyNamespace = client.identify(Identify::namespace(nsid));
        assert_eq!((page.nsze.get(), page.ncap.get()), (blocks, blocks));
        assert_eq!(page.format().unwrap().block_size(), Some(size));
        assert_eq!(page.formats().len(), 2);
        let list: [u8; 4096] = client.identify(Identify::namespace_descriptors(nsid));
        let all: Vec<_> = NamespaceDescriptors::new(&list).map(Result::unwrap).collect();
        let kinds: Vec<_> = all.iter().map(|one| one.kind).collect();
        assert_eq!(kinds, [NamespaceIdType::EUI64, NamespaceIdType::NGUID, NamespaceIdType::CSI]);
        assert_eq!((all[0].id, all[1].id), (&page.eui64[..], &page.nguid[..]));
        let ready: [u8; 4096] = client.identify(identify(Cns::INDEPENDENT_NAMESPACE, nsid));
        assert_eq!(ready[14], 1);
        let _: [u8; 4096] = client.identify(identify(Cns::COMMAND_SET_NAMESPACE, nsid));
    }
    let list = |client: &mut Client, cns, after| {
        client.identify::<NamespaceList>(identify(cns, after)).iter().collect::<Vec<_>>()
    };
    assert_eq!(list(&mut client, Cns::ACTIVE_NAMESPACES, 0), [1, 2, 3]);
    assert_eq!(list(&mut client, Cns::ACTIVE_NAMESPACES, 2), [3]);
    client.inline.with(|model, _| model.set_attached(2, false));
    assert_eq!(list(&mut client, Cns::ACTIVE_NAMESPACES, 0), [1, 3]);
    assert_eq!(list(&mut client, Cns::COMMAND_SET_ACTIVE_NAMESPACES, 0), [1, 3]);
    assert_eq!(list(&mut client, Cns::ALLOCATED_NAMESPACES, 0), [1, 2, 3]);
    let page: IdentifyNamespace = client.identify(Identify::namespace(2));
    assert_eq!(page.nsze.get(), 0);
    let page: IdentifyNamespace = client.identify(identify(Cns::ALLOCATED_NAMESPACE, 2));
    assert_eq!(page.nsze.get(), 512);
    for (cns, nsid, ids) in [
        (Cns::CONTROLLERS, 0, vec![1]),
        (Cns::NAMESPACE_CONTROLLERS, 1, vec![1]),
        (Cns::NAMESPACE_CONTROLLERS, 2, vec![]),
    ] {
        let page: ControllerList = client.identify(identify(cns, nsid));
        assert_eq!(page.iter().collect::<Vec<_>>(), ids);
    }
    let sets: [u8; 4096] = client.identify(identify(Cns::COMMAND_SETS, 0));
    assert_eq!(sets[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(client.io(flush(2)), Status::INVALID_FIELD);
}

#[test]
fn every_error_of_identify_has_its_status() {
    let mut client = Client::new(&[]);
    let namespace = Status::INVALID_NAMESPACE_OR_FORMAT;
    for (command, status) in [
        (Identify::namespace(0), namespace),
        (Identify::namespace(2), namespace),
        (Identify::namespace(BROADCAST), namespace),
        (Identify::active_namespaces(BROADCAST), namespace),
        (Identify::active_namespaces(BROADCAST - 1), namespace),
        (Identify::namespace_descriptors(2), namespace),
        (identify(Cns(0xff), 0), Status::INVALID_FIELD),
        (identify(Cns::PRIMARY_CONTROLLER, 0), Status::INVALID_FIELD),
        (
            Identify { csi: 2, ..identify(Cns::COMMAND_SET_CONTROLLER, 0) },
            Status::IO_COMMAND_SET_NOT_SUPPORTED,
        ),
    ] {
        let entry = command.to_entry().with_prps(DATA, 0);
        assert_eq!(client.admin_status(entry), status, "{command:?}");
    }
    let entry = Identify::controller().to_entry();
    assert_eq!(client.admin_status(entry.with_prps(0, 0)), Status::DATA_TRANSFER_ERROR);
    let sgl = entry.with_cdw0(entry.cdw0().with_psdt(1));
    assert_eq!(client.admin_status(sgl), Status::INVALID_FIELD);
    let fused = entry.with_cdw0(entry.cdw0().with_fuse(1));
    assert_eq!(client.admin_status(fused), Status::INVALID_FIELD);
    let completion = client.admin(identify(Cns(0xff), 0).to_entry());
    assert!(completion.status().dnr() && completion.status().more());
}

#[test]
fn what_is_not_offered_is_an_invalid_opcode() {
    let mut client = Client::new(&[]);
    for opcode in [
        Opcode::SANITIZE,
        Opcode::SECURITY_SEND,
        Opcode::NAMESPACE_MANAGEMENT,
        Opcode::NAMESPACE_ATTACHMENT,
        Opcode::DEVICE_SELF_TEST,
        Opcode::DOORBELL_BUFFER_CONFIG,
        Opcode(0xff),
    ] {
        let status = client.admin_status(SubmissionEntry::new(opcode.0));
        assert_eq!(status, Status::INVALID_COMMAND_OPCODE, "{opcode}");
    }
}

#[test]
fn logs_are_read_in_parts() {
    let mut client = Client::new(&[]);
    let log = |client: &mut Client, command: GetLogPage| {
        client.admin_status(command.to_entry().with_prps(DATA, DATA + 4096))
    };
    let effects = GetLogPage::new(LogId::COMMANDS_EFFECTS, 4096).unwrap();
    assert_eq!(log(&mut client, effects), Status::SUCCESS);
    let whole = client.get(DATA, 4096);
    let page = CommandsEffects::read_from_bytes(&whole).unwrap();
    assert!(page.admin(Opcode::IDENTIFY).csupp() && !page.admin(Opcode::SANITIZE).csupp());
    let part = GetLogPage { lpo: 1024, numd: 255, ..effects };
    assert_eq!(log(&mut client, part), Status::SUCCESS);
    assert_eq!(client.get(DATA, 1024), whole[1024..2048]);
    let supported = GetLogPage::new(LogId::SUPPORTED_PAGES, 1024).unwrap();
    assert_eq!(log(&mut client, supported), Status::SUCCESS);
    let supported = client.get(DATA, 1024);
    for id in 0..=255u8 {
        let command = GetLogPage::new(LogId(id), 64).unwrap();
        let known = supported[4 * usize::from(id)] & 1 == 1;
        let status = if known { Status::SUCCESS } else { Status::INVALID_LOG_PAGE };
        assert_eq!(log(&mut client, command), status, "{}", LogId(id));
    }
    for command in [
        GetLogPage { lpo: 2, ..effects },
        GetLogPage { lpo: 4100, ..effects },
        GetLogPage { lpo: u64::MAX - 3, ..effects },
        GetLogPage { numd: u32::MAX, ..effects },
        GetLogPage { numd: 32_768, ..effects },
        GetLogPage { dword14: effects.dword14.with_ot(true), ..effects },
        GetLogPage { nsid: 1, ..GetLogPage::new(LogId::SMART_HEALTH, 512).unwrap() },
    ] {
        assert_eq!(log(&mut client, command), Status::INVALID_FIELD, "{command:?}");
    }
}

#[test]
fn features_are_set_and_got() {
    let mut client = Client::new(&[("queues", "4")]);
    let fid = FeatureId::WRITE_ATOMICITY;
    assert_eq!(client.set_feature(SetFeatures::new(fid, 1)), Status::SUCCESS);
    let got = client.admin(GetFeatures::new(fid).to_entry());
    assert_eq!((got.status(), got.dw0()), (Status::SUCCESS, 1));
    let default = GetFeatures { select: Select::DEFAULT, ..GetFeatures::new(fid) };
    assert_eq!(client.admin(default.to_entry()).dw0(), 0);
    let queues = SetFeatures::new(FeatureId::NUMBER_OF_QUEUES, 0);
    assert_eq!(client.set_feature(queues), Status::COMMAND_SEQUENCE_ERROR);
    let host = SetFeatures::new(FeatureId::HOST_BEHAVIOR, 0);
    client.put(DATA, &pattern(1, 512));
    assert_eq!(client.admin_status(host.to_entry().with_prps(DATA, 0)), Status::SUCCESS);
    assert_eq!(client.set_feature(host), Status::DATA_TRANSFER_ERROR);
    let get = GetFeatures::new(FeatureId::HOST_BEHAVIOR).to_entry().with_prps(DATA + 4096, 0);
    assert_eq!(client.admin_status(get), Status::SUCCESS);
    assert_eq!(client.get(DATA + 4096, 512), pattern(1, 512));

    let mut client = Client::off(&[("queues", "4")]);
    client.enable();
    let granted =
        client.admin(SetFeatures::new(FeatureId::NUMBER_OF_QUEUES, 0x0009_0001).to_entry());
    assert_eq!(granted.dw0(), 0x0003_0001);
    client.create_queues(1);
    client.create_queues(2);
    assert_eq!(client.admin_status(create_cq(3)), Status::SUCCESS);
    assert_eq!(client.admin_status(create_sq(3)), Status::INVALID_QUEUE_IDENTIFIER);
}

fn event(client: &mut Client) -> Option<(Event, LogId)> {
    let completion = client.reap(0)?;
    assert_eq!(completion.status(), Status::SUCCESS);
    let event = AsyncEvent::from_bits(completion.dw0());
    Some((event.event(), event.log()))
}

fn read_log(client: &mut Client, log: LogId) -> Vec<u8> {
    let command = GetLogPage::new(log, 4096).unwrap();
    assert_eq!(client.admin_status(command.to_entry().with_prps(DATA, 0)), Status::SUCCESS);
    client.get(DATA, 4096)
}

#[test]
fn a_changed_namespace_is_told() {
    let mut client = Client::new(&[("namespaces", "2")]);
    let notices = AsyncEvents::default().with_namespace_attribute(true);
    let command = SetFeatures::new(FeatureId::ASYNC_EVENT_CONFIGURATION, notices.bits());
    assert_eq!(client.set_feature(command), Status::SUCCESS);
    client.submit(0, async_event_request());
    assert_eq!(event(&mut client), None);
    assert!(client.inline.with(|model, _| model.set_size(2, 512 << 10)));
    client.inline.poll();
    let told = (Event::NAMESPACE_ATTRIBUTE_CHANGED, LogId::CHANGED_NAMESPACES);
    assert_eq!(event(&mut client), Some(told));
    // No further one before the log is read.
    client.submit(0, async_event_request());
    assert!(client.inline.with(|model, _| model.set_attached(1, false)));
    client.inline.poll();
    assert_eq!(event(&mut client), None);
    let log = read_log(&mut client, LogId::CHANGED_NAMESPACES);
    let list = NamespaceList::read_from_bytes(&log).unwrap();
    assert_eq!(list.iter().collect::<Vec<_>>(), [1, 2]);
    assert!(client.inline.with(|model, _| model.set_attached(1, true)));
    client.inline.poll();
    assert_eq!(event(&mut client), Some(told));
    assert!(!client.inline.with(|model, _| model.set_size(3, 0)));
    let page: IdentifyNamespace = client.identify(Identify::namespace(2));
    assert_eq!(page.nsze.get(), 1024);
    client.inline.with(|model, _| model.set_size(2, u64::MAX));
    let page: IdentifyNamespace = client.identify(Identify::namespace(2));
    assert_eq!(page.nsze.get(), 2048);
}

#[test]
fn a_passed_threshold_is_told() {
    let mut client = Client::new(&[]);
    client.submit(0, async_event_request());
    let events = AsyncEvents::default().with_smart(0b10);
    let command = SetFeatures::new(FeatureId::ASYNC_EVENT_CONFIGURATION, events.bits());
    assert_eq!(client.set_feature(command), Status::SUCCESS);
    client.submit(0, SetFeatures::new(FeatureId::TEMPERATURE_THRESHOLD, 300).to_entry());
    assert!(client.reap(0).unwrap().status().is_success());
    assert_eq!(event(&mut client), Some((Event::TEMPERATURE_THRESHOLD, LogId::SMART_HEALTH)));
    assert_eq!(read_log(&mut client, LogId::SMART_HEALTH)[0], 0b10);
}

#[test]
fn impossible_doorbells_are_told_and_ignored() {
    let mut client = Client::new(&[]);
    client.submit(0, async_event_request());
    client.write32(submission_doorbell(1, 0), ENTRIES);
    let value = (Event::INVALID_DOORBELL_VALUE, LogId::ERROR_INFORMATION);
    assert_eq!(event(&mut client), Some(value));
    client.write32(submission_doorbell(1, 0), 0);
    assert_eq!(client.io(flush(1)), Status::SUCCESS);
    read_log(&mut client, LogId::ERROR_INFORMATION);
    client.submit(0, async_event_request());
    client.write32(submission_doorbell(2, 0), 1);
    let register = (Event::INVALID_DOORBELL_REGISTER, LogId::ERROR_INFORMATION);
    assert_eq!(event(&mut client), Some(register));
}

#[test]
fn event_requests_are_limited_and_aborted() {
    let mut client = Client::new(&[]);
    let cids: Vec<_> = (0..4).map(|_| client.submit(0, async_event_request())).collect();
    client.submit(0, async_event_request());
    let refused = client.reap(0).unwrap();
    assert_eq!(refused.status().code(), Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED);
    client.submit(0, Abort { sqid: 0, cid: cids[2] }.to_entry());
    let (first, second) = (client.reap(0).unwrap(), client.reap(0).unwrap());
    assert_eq!((first.cid(), first.status().code()), (cids[2], Status::ABORT_REQUESTED));
    assert_eq!(second.dw0(), 0);
    let result = client.admin(Abort { sqid: 1, cid: 77 }.to_entry());
    assert!(AbortResult::from_bits(result.dw0()).not_aborted());
}

#[test]
fn a_format_changes_blocks_and_clears_them() {
    let mut client = Client::new(&[("namespaces", "2")]);
    client.put(DATA, &pattern(1, 4096));
    for nsid in [1, 2] {
        let entry = write(nsid, 0, BlockCount::ONE, Flags::NONE).with_prps(DATA, 0);
        assert_eq!(client.io(entry), Status::SUCCESS);
    }
    let format = |nsid, format| FormatNvm::new(nsid, format, SecureErase::NONE);
    assert_eq!(client.admin_status(format(1, 1).to_entry()), Status::SUCCESS);
    let page: IdentifyNamespace = client.identify(Identify::namespace(1));
    assert_eq!((page.nsze.get(), page.flbas.format()), (256, 1));
    client.put(DATA, &[7; 4096]);
    let entry = read(1, 0, BlockCount::ONE, Flags::NONE).with_prps(DATA, 0);
    assert_eq!(client.io(entry), Status::SUCCESS);
    assert_eq!(client.get(DATA, 4096), [0; 4096]);
    let entry = read(2, 0, BlockCount::ONE, Flags::NONE).with_prps(DATA, 0);
    assert_eq!(client.io(entry), Status::SUCCESS);
    assert_eq!(client.get(DATA, 512), pattern(1, 512));
    for (command, status) in [
        (format(0, 0), Status::INVALID_NAMESPACE_OR_FORMAT),
        (format(3, 0), Status::INVALID_NAMESPACE_OR_FORMAT),
        (format(1, 2), Status::INVALID_FORMAT),
        (FormatNvm { protection: 1, ..format(1, 0) }, Status::INVALID_FORMAT),
        (FormatNvm { erase: SecureErase(3), ..format(1, 0) }, Status::INVALID_FIELD),
        (format(BROADCAST, 0), Status::SUCCESS),
    ] {
        assert_eq!(client.admin_status(command.to_entry()), status, "{command:?}");
    }
    let page: IdentifyNamespace = client.identify(Identify::namespace(1));
    assert_eq!(page.nsze.get(), 2048);
}

#[test]
fn firmware_is_downloaded_and_activated_by_a_reset() {
    let mut client = Client::new(&[]);
    client.put(DATA, b"UDFW9.9     ");
    let part = FirmwareDownload::new(0, 12).unwrap().to_entry().with_prps(DATA, 0);
    assert_eq!(client.admin_status(part), Status::SUCCESS);
    let action = CommitAction::REPLACE_ACTIVATE_AT_RESET;
    let commit = FirmwareCommit { slot: 2, action, boot_partition: false };
    assert_eq!(client.admin_status(commit.to_entry()), Status::SUCCESS);
    let log = read_log(&mut client, LogId::FIRMWARE_SLOT);
    let slots = FirmwareSlots::read_from_bytes(&log[..512]).unwrap();
    assert_eq!((slots.afi.active(), slots.afi.next()), (1, 2));
    client.disable();
    client.enable();
    let page: IdentifyController = client.identify(Identify::controller());
    assert_eq!(page.firmware().bytes(), b"9.9");
    assert_eq!(client.admin_status(commit.to_entry()), Status::INVALID_FIRMWARE_IMAGE);
    let huge = FirmwareDownload { numd: u32::MAX, ofst: 0 };
    assert_eq!(client.admin_status(huge.to_entry()), Status::INVALID_FIELD);
}

#[test]
fn a_silent_client_is_given_up_when_it_asked_for_that() {
    let mut client = Client::new(&[]);
    let command = SetFeatures::new(FeatureId::KEEP_ALIVE_TIMER, 300);
    assert_eq!(client.set_feature(command), Status::SUCCESS);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(client.admin_status(keep_alive()), Status::SUCCESS);
    }
    assert!(!client.csts().cfs());
    std::thread::sleep(Duration::from_millis(400));
    client.inline.poll();
    assert!(client.csts().cfs());
}

#[test]
fn shadow_doorbells_replace_registers() {
    let mut client = Client::new(&[("shadow-doorbells", "on")]);
    let (shadow, events) = (DATA + 0x10_0000, DATA + 0x10_1000);
    client.put(shadow, &[0; 8192]);
    let config = DoorbellBufferConfig { shadow: shadow + 8, event_index: events };
    assert_eq!(client.admin_status(config.to_entry()), Status::INVALID_FIELD);
    let config = DoorbellBufferConfig { shadow, event_index: events };
    assert_eq!(client.admin_status(config.to_entry()), Status::SUCCESS);
    let place = submission_offset(1, 0) as u64;
    for _ in 0..3 * ENTRIES {
        client.queue(1, flush(1));
        let tail = client.queues[1].tail;
        client.put(shadow + place, &tail.to_le_bytes());
        client.inline.poll();
        assert!(client.reap(1).is_some());
        let head = client.queues[1].head;
        client.put(shadow + place + 4, &head.to_le_bytes());
        client.inline.poll();
        let event = client.get(events + place, 4);
        assert_eq!(event, tail.to_le_bytes(), "the next doorbell is asked for");
    }
}
