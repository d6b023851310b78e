//! Get Log Page. NVMe Base 2.0 §5.16. What it returns is in
//! [`nvme::log`](crate::nvme::log).

use super::Opcode;
use crate::nvme::entry::SubmissionEntry;

codes! {
    /// Log Page Identifier (LID). NVMe Base 2.0 §5.16.1.
    pub struct LogId(u8);
    SUPPORTED_PAGES = 0x00, "Supported Log Pages";
    ERROR_INFORMATION = 0x01, "Error Information";
    SMART_HEALTH = 0x02, "SMART / Health Information";
    FIRMWARE_SLOT = 0x03, "Firmware Slot Information";
    CHANGED_NAMESPACES = 0x04, "Changed Attached Namespace List";
    COMMANDS_EFFECTS = 0x05, "Commands Supported and Effects";
    SELF_TEST = 0x06, "Device Self-test";
    TELEMETRY_HOST = 0x07, "Telemetry Host-Initiated";
    TELEMETRY_CONTROLLER = 0x08, "Telemetry Controller-Initiated";
    ENDURANCE_GROUP = 0x09, "Endurance Group Information";
    PREDICTABLE_LATENCY = 0x0a, "Predictable Latency Per NVM Set";
    PREDICTABLE_LATENCY_AGGREGATE = 0x0b, "Predictable Latency Event Aggregate";
    ANA = 0x0c, "Asymmetric Namespace Access";
    PERSISTENT_EVENT = 0x0d, "Persistent Event";
    LBA_STATUS = 0x0e, "LBA Status Information";
    ENDURANCE_GROUP_AGGREGATE = 0x0f, "Endurance Group Event Aggregate";
    MEDIA_UNIT_STATUS = 0x10, "Media Unit Status";
    CAPACITY_CONFIGURATIONS = 0x11, "Supported Capacity Configuration List";
    FEATURE_EFFECTS = 0x12, "Feature Identifiers Supported and Effects";
    MI_COMMANDS_EFFECTS = 0x13, "NVMe-MI Commands Supported and Effects";
    LOCKDOWN = 0x14, "Command and Feature Lockdown";
    BOOT_PARTITION = 0x15, "Boot Partition";
    ROTATIONAL_MEDIA = 0x16, "Rotational Media Information";
    DISCOVERY = 0x70, "Discovery";
    RESERVATION_NOTIFICATION = 0x80, "Reservation Notification";
    SANITIZE_STATUS = 0x81, "Sanitize Status";
}

bits! {
    /// Command Dword 10 of Get Log Page. NVMe Base 2.0 §5.16.
    pub struct LogDword10(u32);
    /// Log Page Identifier.
    lid / with_lid = [7:0] u8;
    /// Log Specific Parameter.
    lsp / with_lsp = [14:8] u8;
    /// Retain Asynchronous Event: reading does not clear the event.
    rae / with_rae = [15:15] bool;
    /// Number of Dwords, 0's based, low 16 bits.
    numdl / with_numdl = [31:16] u16;
}

bits! {
    /// Command Dword 11 of Get Log Page. NVMe Base 2.0 §5.16.
    pub struct LogDword11(u32);
    /// Number of Dwords, 0's based, high 16 bits.
    numdu / with_numdu = [15:0] u16;
    /// Log Specific Identifier.
    lsi / with_lsi = [31:16] u16;
}

bits! {
    /// Command Dword 14 of Get Log Page. NVMe Base 2.0 §5.16.
    pub struct LogDword14(u32);
    /// UUID Index.
    uuid / with_uuid = [6:0] u8;
    /// Offset Type: the offset is an index, not bytes.
    ot / with_ot = [23:23] bool;
    /// Command Set Identifier.
    csi / with_csi = [31:24] u8;
}

/// Get Log Page. NVMe Base 2.0 §5.16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GetLogPage {
    /// Which log.
    pub lid: LogId,
    /// Namespace; 0 or `u32::MAX` for the controller's own logs.
    pub nsid: u32,
    /// Number of Dwords, 0's based.
    pub numd: u32,
    /// Log Page Offset in bytes, a multiple of 4.
    pub lpo: u64,
    /// Log Specific Parameter, 7 bits.
    pub lsp: u8,
    /// Log Specific Identifier.
    pub lsi: u16,
    /// Retain Asynchronous Event.
    pub rae: bool,
    /// Offset Type, UUID index and command set.
    pub dword14: LogDword14,
}

impl GetLogPage {
    /// The first `length` bytes of the controller's log `lid`; `None` where `length` is 0
    /// or not a multiple of 4, or too long to say. Clears the log's asynchronous event.
    pub const fn new(lid: LogId, length: usize) -> Option<Self> {
        if length == 0 || !length.is_multiple_of(4) || length / 4 - 1 > u32::MAX as usize {
            return None;
        }
        Some(Self {
            lid,
            nsid: u32::MAX,
            numd: (length / 4 - 1) as u32,
            lpo: 0,
            lsp: 0,
            lsi: 0,
            rae: false,
            dword14: LogDword14::from_bits(0),
        })
    }

    /// How many bytes are asked for: 4 to 16 GiB.
    pub const fn length(&self) -> u64 {
        (self.numd as u64 + 1) * 4
    }

    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        let dword10 = LogDword10::from_bits(0)
            .with_lid(self.lid.0)
            .with_lsp(self.lsp)
            .with_rae(self.rae)
            .with_numdl(self.numd as u16);
        let dword11 =
            LogDword11::from_bits(0).with_numdu((self.numd >> 16) as u16).with_lsi(self.lsi);
        SubmissionEntry::new(Opcode::GET_LOG_PAGE.0)
            .with_nsid(self.nsid)
            .with_cdw10(dword10.bits())
            .with_cdw11(dword11.bits())
            .with_cdw12(self.lpo as u32)
            .with_cdw13((self.lpo >> 32) as u32)
            .with_cdw14(self.dword14.bits())
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        let dword10 = LogDword10::from_bits(entry.cdw10());
        let dword11 = LogDword11::from_bits(entry.cdw11());
        Self {
            lid: LogId(dword10.lid()),
            nsid: entry.nsid(),
            numd: dword10.numdl() as u32 | ((dword11.numdu() as u32) << 16),
            lpo: entry.cdw12() as u64 | ((entry.cdw13() as u64) << 32),
            lsp: dword10.lsp(),
            lsi: dword11.lsi(),
            rae: dword10.rae(),
            dword14: LogDword14::from_bits(entry.cdw14()),
        }
    }
}
