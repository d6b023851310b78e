use super::event::Event;
use super::features::*;
use super::firmware::*;
use super::identify::*;
use super::log::*;
use super::misc::*;
use super::namespace::*;
use super::queue::*;
use super::*;
use crate::nvme::entry::SubmissionEntry;
use proptest::prelude::*;
use std::string::ToString;
use zerocopy::{FromBytes, IntoBytes};

#[test]
fn fields_stand_alone() {
    check_fields!(
        QueueDword10,
        CompletionQueueDword11,
        SubmissionQueueDword11,
        AbortDword10,
        AbortResult,
        IdentifyDword10,
        IdentifyDword11,
        LogDword10,
        LogDword11,
        LogDword14,
        SetFeaturesDword10,
        GetFeaturesDword10,
        FeatureCapabilities,
        Arbitration,
        PowerManagement,
        TemperatureThreshold,
        ErrorRecovery,
        VolatileWriteCache,
        NumberOfQueues,
        InterruptCoalescing,
        InterruptVectorConfiguration,
        WriteAtomicity,
        AsyncEvents,
        HostMemoryBuffer,
        Timestamp,
        KeepAliveTimer,
        CommandSetProfile,
        AsyncEvent,
        FirmwareCommitDword10,
        FormatDword10,
        NamespaceDword10,
        NamespaceDword11,
        SanitizeDword10,
        SecurityDword10,
    );
}

/// Checks that `entry` has opcode and dwords 10 to 15 as told, and parses to `command`.
fn check(entry: SubmissionEntry, opcode: u8, dwords: [u32; 6], command: Command) {
    assert_eq!(entry.opcode(), opcode, "{command:?}");
    let is =
        [entry.cdw10(), entry.cdw11(), entry.cdw12(), entry.cdw13(), entry.cdw14(), entry.cdw15()];
    assert_eq!(is, dwords, "{command:?}");
    let bytes: [u8; 64] = entry.as_bytes().try_into().unwrap();
    assert_eq!(Command::parse(&SubmissionEntry::read_from_bytes(&bytes).unwrap()), command);
}

#[test]
fn queues() {
    let create = CreateIoCompletionQueue {
        qid: 3,
        qsize: 1023,
        attributes: CompletionQueueDword11::default().with_pc(true).with_ien(true).with_iv(5),
        address: 0x1234_5000,
    };
    assert_eq!(create.to_entry().prp1(), 0x1234_5000);
    check(
        create.to_entry(),
        0x05,
        [0x03ff_0003, 0x0005_0003, 0, 0, 0, 0],
        Command::CreateIoCompletionQueue(create),
    );
    let create = CreateIoSubmissionQueue {
        qid: 3,
        qsize: 1023,
        attributes: SubmissionQueueDword11::default().with_pc(true).with_qprio(2).with_cqid(3),
        address: 0x1234_6000,
    };
    assert_eq!(create.to_entry().prp1(), 0x1234_6000);
    check(
        create.to_entry(),
        0x01,
        [0x03ff_0003, 0x0003_0005, 0, 0, 0, 0],
        Command::CreateIoSubmissionQueue(create),
    );
    let delete = DeleteIoCompletionQueue { qid: 3 };
    let command = Command::DeleteIoCompletionQueue(delete);
    check(delete.to_entry(), 0x04, [3, 0, 0, 0, 0, 0], command);
    let delete = DeleteIoSubmissionQueue { qid: 3 };
    let command = Command::DeleteIoSubmissionQueue(delete);
    check(delete.to_entry(), 0x00, [3, 0, 0, 0, 0, 0], command);
    let abort = Abort { sqid: 3, cid: 0x1122 };
    check(abort.to_entry(), 0x08, [0x1122_0003, 0, 0, 0, 0, 0], Command::Abort(abort));
}

#[test]
fn identify() {
    let cases = [
        (Identify::namespace(7), 7, 0),
        (Identify::controller(), 0, 1),
        (Identify::active_namespaces(4), 4, 2),
        (Identify::namespace_descriptors(7), 7, 3),
    ];
    for (identify, nsid, cns) in cases {
        assert_eq!(identify.to_entry().nsid(), nsid);
        let command = Command::Identify(identify);
        check(identify.to_entry(), 0x06, [cns, 0, 0, 0, 0, 0], command);
    }
    let identify =
        Identify { cns: Cns::CONTROLLERS, nsid: 0, cntid: 0x1122, cnssid: 0x3344, csi: 0x55 };
    check(
        identify.to_entry(),
        0x06,
        [0x1122_0013, 0x5500_3344, 0, 0, 0, 0],
        Command::Identify(identify),
    );
    assert_eq!(Cns::ACTIVE_NAMESPACES.to_string(), "Active Namespace ID List");
    assert_eq!(Cns(0xee).to_string(), "0xee");
}

#[test]
fn log_pages() {
    let log = GetLogPage::new(LogId::SMART_HEALTH, 512).unwrap();
    assert_eq!(log.length(), 512);
    assert_eq!(log.to_entry().nsid(), u32::MAX);
    check(log.to_entry(), 0x02, [0x007f_0002, 0, 0, 0, 0, 0], Command::GetLogPage(log));
    let log = GetLogPage {
        lid: LogId::ERROR_INFORMATION,
        nsid: 1,
        numd: 0x1122_3344,
        lpo: 0x0102_0304_0506_0708,
        lsp: 0x7f,
        lsi: 0x5566,
        rae: true,
        dword14: LogDword14::default().with_uuid(0x7f).with_ot(true).with_csi(0xaa),
    };
    check(
        log.to_entry(),
        0x02,
        [0x3344_ff01, 0x5566_1122, 0x0506_0708, 0x0102_0304, 0xaa80_007f, 0],
        Command::GetLogPage(log),
    );
    for length in [0, 2, 6, usize::MAX & !3] {
        assert_eq!(GetLogPage::new(LogId::SMART_HEALTH, length), None, "{length}");
    }
}

#[test]
fn features() {
    let queues = NumberOfQueues::default().with_nsq(3).with_ncq(7);
    let set = SetFeatures::new(FeatureId::NUMBER_OF_QUEUES, queues.bits());
    check(set.to_entry(), 0x09, [7, 0x0007_0003, 0, 0, 0, 0], Command::SetFeatures(set));
    let set = HostMemoryBuffer::default().with_ehm(true).to_set(64, 0x0102_0304_0506_0000, 2);
    check(
        set.to_entry(),
        0x09,
        [0x0d, 1, 64, 0x0506_0000, 0x0102_0304, 2],
        Command::SetFeatures(set),
    );
    let set = SetFeatures { save: true, ..SetFeatures::new(FeatureId::VOLATILE_WRITE_CACHE, 1) };
    check(set.to_entry(), 0x09, [0x8000_0006, 1, 0, 0, 0, 0], Command::SetFeatures(set));
    let get = GetFeatures {
        select: Select::CAPABILITIES,
        ..GetFeatures::new(FeatureId::TEMPERATURE_THRESHOLD)
    };
    check(get.to_entry(), 0x0a, [0x304, 0, 0, 0, 0, 0], Command::GetFeatures(get));
    let threshold = TemperatureThreshold::default().with_tmpsel(0xff).with_tmpth(0x155);
    assert_eq!(threshold.bits(), 0x000f_0155);
    assert_eq!(threshold.with_thsel(1).bits(), 0x001f_0155);
    assert_eq!(AsyncEvents::default().with_firmware_activation(true).bits(), 0x200);
    assert_eq!(Timestamp::default().with_origin(1).bits(), 1 << 49);
    assert_eq!(InterruptVectorConfiguration::default().with_cd(true).bits(), 0x1_0000);
    let buffer = HostMemoryDescriptor::new(0x0807_0605_0403_0201, 0x1413_1211);
    assert_eq!(buffer.as_bytes(), [1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0, 0, 0, 0]);
    assert_eq!(HostMemoryDescriptor::read_from_bytes(buffer.as_bytes()).unwrap(), buffer);
}

#[test]
fn events() {
    check(async_event_request(), 0x0c, [0; 6], Command::AsyncEventRequest);
    let event = AsyncEvent::new(Event::NAMESPACE_ATTRIBUTE_CHANGED, LogId::CHANGED_NAMESPACES);
    assert_eq!(event.bits(), 0x0004_0002);
    let event = AsyncEvent::from_bits(0x0002_0201);
    assert_eq!(event.event(), Event::SPARE_BELOW_THRESHOLD);
    assert_eq!(event.log(), LogId::SMART_HEALTH);
    assert_eq!(event.event().to_string(), "Spare Below Threshold");
    let unknown = AsyncEvent::from_bits(0x0001_fe07).event();
    assert_eq!(unknown.to_string(), "event type 0x7 information 0xfe");
}

#[test]
fn firmware() {
    let commit = FirmwareCommit {
        slot: 2,
        action: CommitAction::REPLACE_ACTIVATE_AT_RESET,
        boot_partition: false,
    };
    check(commit.to_entry(), 0x10, [0xa, 0, 0, 0, 0, 0], Command::FirmwareCommit(commit));
    let download = FirmwareDownload::new(8192, 4096).unwrap();
    assert_eq!((download.offset(), download.length()), (8192, 4096));
    check(download.to_entry(), 0x11, [1023, 2048, 0, 0, 0, 0], Command::FirmwareDownload(download));
    assert_eq!(FirmwareDownload::new(0, 0), None);
    assert_eq!(FirmwareDownload::new(2, 4), None);
    assert_eq!(FirmwareDownload::new(0, 5), None);
    assert_eq!(FirmwareDownload::new(usize::MAX & !3, 4), None);
}

#[test]
fn namespaces() {
    let format = FormatNvm {
        nsid: 2,
        format: 0x21,
        erase: SecureErase::CRYPTOGRAPHIC,
        extended: true,
        protection: 1,
        protection_first: true,
    };
    assert_eq!(format.to_entry().nsid(), 2);
    check(format.to_entry(), 0x80, [0x2531, 0, 0, 0, 0, 0], Command::FormatNvm(format));
    let manage = NamespaceManagement { nsid: 3, select: ManagementSelect::DELETE, csi: 2 };
    let command = Command::NamespaceManagement(manage);
    check(manage.to_entry(), 0x0d, [1, 0x0200_0000, 0, 0, 0, 0], command);
    let attach = NamespaceAttachment { nsid: 3, select: AttachmentSelect::DETACH };
    let command = Command::NamespaceAttachment(attach);
    check(attach.to_entry(), 0x15, [1, 0, 0, 0, 0, 0], command);
}

#[test]
fn the_rest() {
    check(keep_alive(), 0x18, [0; 6], Command::KeepAlive);
    let doorbells = DoorbellBufferConfig { shadow: 0x1000, event_index: 0x2000 };
    let entry = doorbells.to_entry();
    assert_eq!((entry.prp1(), entry.prp2()), (0x1000, 0x2000));
    check(entry, 0x7c, [0; 6], Command::DoorbellBufferConfig(doorbells));
    let sanitize = Sanitize {
        dword10: SanitizeDword10::default()
            .with_sanact(SanitizeAction::OVERWRITE.0)
            .with_owpass(2)
            .with_oipbp(true),
        ovrpat: 0xdead_beef,
    };
    assert_eq!(sanitize.action(), SanitizeAction::OVERWRITE);
    check(sanitize.to_entry(), 0x84, [0x123, 0xdead_beef, 0, 0, 0, 0], Command::Sanitize(sanitize));
    let protocol = SecurityDword10::default().with_secp(1).with_spsp(0x0203).with_nssf(4);
    let send = SecuritySend { protocol, length: 512 };
    check(send.to_entry(), 0x81, [0x0102_0304, 512, 0, 0, 0, 0], Command::SecuritySend(send));
    let receive = SecurityReceive { protocol, length: 512 };
    let command = Command::SecurityReceive(receive);
    check(receive.to_entry(), 0x82, [0x0102_0304, 512, 0, 0, 0, 0], command);
    let unknown = Command::Unknown(Opcode(0xc0));
    assert_eq!(Command::parse(&SubmissionEntry::new(0xc0)), unknown);
}

proptest! {
    /// Whatever an entry holds, it parses, and what it parses to survives being built.
    #[test]
    fn any_entry_parses(mut bytes in any::<[u8; 64]>(), opcode in 0u8..0x90) {
        bytes[0] = opcode;
        let entry = SubmissionEntry::read_from_bytes(&bytes).unwrap();
        let command = Command::parse(&entry);
        let rebuilt = match command {
            Command::DeleteIoSubmissionQueue(command) => command.to_entry(),
            Command::CreateIoSubmissionQueue(command) => command.to_entry(),
            Command::GetLogPage(command) => command.to_entry(),
            Command::DeleteIoCompletionQueue(command) => command.to_entry(),
            Command::CreateIoCompletionQueue(command) => command.to_entry(),
            Command::Identify(command) => command.to_entry(),
            Command::Abort(command) => command.to_entry(),
            Command::SetFeatures(command) => command.to_entry(),
            Command::GetFeatures(command) => command.to_entry(),
            Command::AsyncEventRequest => async_event_request(),
            Command::NamespaceManagement(command) => command.to_entry(),
            Command::FirmwareCommit(command) => command.to_entry(),
            Command::FirmwareDownload(command) => command.to_entry(),
            Command::NamespaceAttachment(command) => command.to_entry(),
            Command::KeepAlive => keep_alive(),
            Command::DoorbellBufferConfig(command) => command.to_entry(),
            Command::FormatNvm(command) => command.to_entry(),
            Command::SecuritySend(command) => command.to_entry(),
            Command::SecurityReceive(command) => command.to_entry(),
            Command::Sanitize(command) => command.to_entry(),
            Command::Unknown(opcode) => SubmissionEntry::new(opcode.0),
        };
        prop_assert_eq!(Command::parse(&rebuilt), command);
        prop_assert_eq!(rebuilt.opcode(), opcode);
    }
}
