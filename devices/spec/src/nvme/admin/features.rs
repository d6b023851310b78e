//! Set Features and Get Features. NVMe Base 2.0 §5.15, §5.27; NVM Command Set 1.0 §4.1.3.

use super::Opcode;
use crate::nvme::entry::SubmissionEntry;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

codes! {
    /// Feature Identifier (FID). NVMe Base 2.0 §5.27.1.
    pub struct FeatureId(u8);
    ARBITRATION = 0x01, "Arbitration";
    POWER_MANAGEMENT = 0x02, "Power Management";
    LBA_RANGE_TYPE = 0x03, "LBA Range Type";
    TEMPERATURE_THRESHOLD = 0x04, "Temperature Threshold";
    ERROR_RECOVERY = 0x05, "Error Recovery";
    VOLATILE_WRITE_CACHE = 0x06, "Volatile Write Cache";
    NUMBER_OF_QUEUES = 0x07, "Number of Queues";
    INTERRUPT_COALESCING = 0x08, "Interrupt Coalescing";
    INTERRUPT_VECTOR_CONFIGURATION = 0x09, "Interrupt Vector Configuration";
    WRITE_ATOMICITY = 0x0a, "Write Atomicity Normal";
    ASYNC_EVENT_CONFIGURATION = 0x0b, "Asynchronous Event Configuration";
    AUTONOMOUS_POWER_STATE = 0x0c, "Autonomous Power State Transition";
    HOST_MEMORY_BUFFER = 0x0d, "Host Memory Buffer";
    TIMESTAMP = 0x0e, "Timestamp";
    KEEP_ALIVE_TIMER = 0x0f, "Keep Alive Timer";
    HOST_CONTROLLED_THERMAL = 0x10, "Host Controlled Thermal Management";
    NON_OPERATIONAL_POWER_STATE = 0x11, "Non-Operational Power State Config";
    READ_RECOVERY_LEVEL = 0x12, "Read Recovery Level Config";
    PREDICTABLE_LATENCY_CONFIG = 0x13, "Predictable Latency Mode Config";
    PREDICTABLE_LATENCY_WINDOW = 0x14, "Predictable Latency Mode Window";
    LBA_STATUS_ATTRIBUTES = 0x15, "LBA Status Information Attributes";
    HOST_BEHAVIOR = 0x16, "Host Behavior Support";
    SANITIZE_CONFIG = 0x17, "Sanitize Config";
    ENDURANCE_GROUP_EVENT = 0x18, "Endurance Group Event Configuration";
    COMMAND_SET_PROFILE = 0x19, "I/O Command Set Profile";
    SPINUP_CONTROL = 0x1a, "Spinup Control";
    SOFTWARE_PROGRESS = 0x80, "Software Progress Marker";
    HOST_IDENTIFIER = 0x81, "Host Identifier";
    RESERVATION_NOTIFICATION_MASK = 0x82, "Reservation Notification Mask";
    RESERVATION_PERSISTENCE = 0x83, "Reservation Persistence";
    WRITE_PROTECTION = 0x84, "Namespace Write Protection Config";
}

codes! {
    /// Select field of Get Features. NVMe Base 2.0 §5.15.
    pub struct Select(u8);
    CURRENT = 0, "current value";
    DEFAULT = 1, "default value";
    SAVED = 2, "saved value";
    CAPABILITIES = 3, "supported capabilities";
}

bits! {
    /// Command Dword 10 of Set Features.
    pub struct SetFeaturesDword10(u32);
    /// Feature Identifier.
    fid / with_fid = [7:0] u8;
    /// Save: keep the value over resets and power cycles.
    sv / with_sv = [31:31] bool;
}

bits! {
    /// Command Dword 10 of Get Features.
    pub struct GetFeaturesDword10(u32);
    /// Feature Identifier.
    fid / with_fid = [7:0] u8;
    /// Select.
    sel / with_sel = [10:8] u8;
}

bits! {
    /// Completion Dword 0 of Get Features with [`Select::CAPABILITIES`].
    pub struct FeatureCapabilities(u32);
    /// Saveable.
    saveable / with_saveable = [0:0] bool;
    /// Namespace specific.
    namespace_specific / with_namespace_specific = [1:1] bool;
    /// Changeable.
    changeable / with_changeable = [2:2] bool;
}

/// Set Features. NVMe Base 2.0 §5.27.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SetFeatures {
    /// Which feature.
    pub fid: FeatureId,
    /// Namespace, for a namespace specific feature.
    pub nsid: u32,
    /// Keep the value over resets and power cycles.
    pub save: bool,
    /// The value: Command Dwords 11 to 15, Dword 14 but for its UUID index.
    pub value: [u32; 5],
}

impl SetFeatures {
    /// Sets `fid`, whose value is one dword (`.bits()` of a type below), until a reset.
    pub const fn new(fid: FeatureId, dword11: u32) -> Self {
        Self { fid, nsid: 0, save: false, value: [dword11, 0, 0, 0, 0] }
    }

    /// Command Dword 11 of the value.
    pub const fn dword11(&self) -> u32 {
        self.value[0]
    }

    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        let dword10 = SetFeaturesDword10::from_bits(0).with_fid(self.fid.0).with_sv(self.save);
        let [cdw11, cdw12, cdw13, cdw14, cdw15] = self.value;
        SubmissionEntry::new(Opcode::SET_FEATURES.0)
            .with_nsid(self.nsid)
            .with_cdw10(dword10.bits())
            .with_cdw11(cdw11)
            .with_cdw12(cdw12)
            .with_cdw13(cdw13)
            .with_cdw14(cdw14)
            .with_cdw15(cdw15)
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        let dword10 = SetFeaturesDword10::from_bits(entry.cdw10());
        Self {
            fid: FeatureId(dword10.fid()),
            nsid: entry.nsid(),
            save: dword10.sv(),
            value: [entry.cdw11(), entry.cdw12(), entry.cdw13(), entry.cdw14(), entry.cdw15()],
        }
    }
}

/// Get Features. NVMe Base 2.0 §5.15. The value is in completion Dword 0, or in the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GetFeatures {
    /// Which feature.
    pub fid: FeatureId,
    /// Which of its values.
    pub select: Select,
    /// Namespace, for a namespace specific feature.
    pub nsid: u32,
    /// Command Dword 11, by which a few features say what is asked for.
    pub dword11: u32,
}

impl GetFeatures {
    /// The current value of `fid`.
    pub const fn new(fid: FeatureId) -> Self {
        Self { fid, select: Select::CURRENT, nsid: 0, dword11: 0 }
    }

    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        let dword10 = GetFeaturesDword10::from_bits(0).with_fid(self.fid.0).with_sel(self.select.0);
        SubmissionEntry::new(Opcode::GET_FEATURES.0)
            .with_nsid(self.nsid)
            .with_cdw10(dword10.bits())
            .with_cdw11(self.dword11)
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        let dword10 = GetFeaturesDword10::from_bits(entry.cdw10());
        Self {
            fid: FeatureId(dword10.fid()),
            select: Select(dword10.sel()),
            nsid: entry.nsid(),
            dword11: entry.cdw11(),
        }
    }
}

bits! {
    /// Arbitration (01h). NVMe Base 2.0 §5.27.1.1.
    pub struct Arbitration(u32);
    /// Arbitration Burst: `1 << ab` commands; 7 no limit.
    ab / with_ab = [2:0] u8;
    /// Low Priority Weight, 0's based.
    lpw / with_lpw = [15:8] u8;
    /// Medium Priority Weight, 0's based.
    mpw / with_mpw = [23:16] u8;
    /// High Priority Weight, 0's based.
    hpw / with_hpw = [31:24] u8;
}

bits! {
    /// Power Management (02h). NVMe Base 2.0 §5.27.1.2.
    pub struct PowerManagement(u32);
    /// Power State.
    ps / with_ps = [4:0] u8;
    /// Workload Hint.
    wh / with_wh = [7:5] u8;
}

bits! {
    /// Temperature Threshold (04h). NVMe Base 2.0 §5.27.1.3.
    pub struct TemperatureThreshold(u32);
    /// Temperature Threshold in kelvins.
    tmpth / with_tmpth = [15:0] u16;
    /// Threshold Temperature Select: 0 composite, 1 to 8 a sensor, 15 all (set only).
    tmpsel / with_tmpsel = [19:16] u8;
    /// Threshold Type Select: 0 over, 1 under.
    thsel / with_thsel = [21:20] u8;
}

bits! {
    /// Error Recovery (05h). NVM Command Set 1.0 §4.1.3.
    pub struct ErrorRecovery(u32);
    /// Time Limited Error Recovery in units of 100 ms; 0 no limit.
    tler / with_tler = [15:0] u16;
    /// Deallocated or Unwritten Logical Block Error Enable.
    dulbe / with_dulbe = [16:16] bool;
}

bits! {
    /// Volatile Write Cache (06h). NVMe Base 2.0 §5.27.1.4.
    pub struct VolatileWriteCache(u32);
    /// Volatile Write Cache Enable.
    wce / with_wce = [0:0] bool;
}

bits! {
    /// Number of Queues (07h): asked for in Command Dword 11, granted in completion
    /// Dword 0. NVMe Base 2.0 §5.27.1.5.
    pub struct NumberOfQueues(u32);
    /// Number of I/O Submission Queues, 0's based.
    nsq / with_nsq = [15:0] u16;
    /// Number of I/O Completion Queues, 0's based.
    ncq / with_ncq = [31:16] u16;
}

bits! {
    /// Interrupt Coalescing (08h). NVMe Base 2.0 §5.27.1.6.
    pub struct InterruptCoalescing(u32);
    /// Aggregation Threshold in completions, 0's based.
    thr / with_thr = [7:0] u8;
    /// Aggregation Time in units of 100 us; 0 no delay.
    time / with_time = [15:8] u8;
}

bits! {
    /// Interrupt Vector Configuration (09h). NVMe Base 2.0 §5.27.1.7.
    pub struct InterruptVectorConfiguration(u32);
    /// Interrupt Vector.
    iv / with_iv = [15:0] u16;
    /// Coalescing Disable.
    cd / with_cd = [16:16] bool;
}

bits! {
    /// Write Atomicity Normal (0Ah). NVM Command Set 1.0 §4.1.3.
    pub struct WriteAtomicity(u32);
    /// Disable Normal: only AWUPF and NAWUPF count.
    dn / with_dn = [0:0] bool;
}

bits! {
    /// Asynchronous Event Configuration (0Bh), and the OAES field of Identify Controller,
    /// whose bits 8 and up are the same. NVMe Base 2.0 §5.27.1.8.
    pub struct AsyncEvents(u32);
    /// Critical warnings of the SMART log that send an event; bits as in its first byte.
    smart / with_smart = [7:0] u8;
    /// Namespace Attribute Notices.
    namespace_attribute / with_namespace_attribute = [8:8] bool;
    /// Firmware Activation Notices.
    firmware_activation / with_firmware_activation = [9:9] bool;
    /// Telemetry Log Notices.
    telemetry_log / with_telemetry_log = [10:10] bool;
    /// Asymmetric Namespace Access Change Notices.
    ana_change / with_ana_change = [11:11] bool;
    /// Predictable Latency Event Aggregate Log Change Notices.
    predictable_latency / with_predictable_latency = [12:12] bool;
    /// LBA Status Information Notices.
    lba_status / with_lba_status = [13:13] bool;
    /// Endurance Group Event Aggregate Log Change Notices.
    endurance_group / with_endurance_group = [14:14] bool;
    /// Normal NVM Subsystem Shutdown.
    normal_shutdown / with_normal_shutdown = [15:15] bool;
}

bits! {
    /// Command Dword 11 of Host Memory Buffer (0Dh). NVMe Base 2.0 §5.27.1.10.
    pub struct HostMemoryBuffer(u32);
    /// Enable Host Memory.
    ehm / with_ehm = [0:0] bool;
    /// Memory Return: the buffer is the one that was given before, with its contents.
    mr / with_mr = [1:1] bool;
}

impl HostMemoryBuffer {
    /// Set Features that gives the controller a buffer: `pages` memory pages in all,
    /// which `count` [`HostMemoryDescriptor`]s at `list` name.
    pub const fn to_set(self, pages: u32, list: u64, count: u32) -> SetFeatures {
        SetFeatures {
            fid: FeatureId::HOST_MEMORY_BUFFER,
            nsid: 0,
            save: false,
            value: [self.bits(), pages, list as u32, (list >> 32) as u32, count],
        }
    }
}

/// Host Memory Buffer Descriptor Entry, 16 bytes. NVMe Base 2.0 §5.27.1.10.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct HostMemoryDescriptor {
    /// Buffer Address, page aligned.
    pub badd: U64,
    /// Buffer Size in memory pages.
    pub bsize: U32,
    reserved_12: [u8; 4],
}

const _: () = assert!(size_of::<HostMemoryDescriptor>() == 16);

impl HostMemoryDescriptor {
    /// `pages` memory pages at `address`.
    pub const fn new(address: u64, pages: u32) -> Self {
        Self { badd: U64::new(address), bsize: U32::new(pages), reserved_12: [0; 4] }
    }
}

bits! {
    /// Timestamp (0Eh): the 8 bytes of data, little-endian. NVMe Base 2.0 §5.27.1.11.
    pub struct Timestamp(u64);
    /// Milliseconds since 1970-01-01 00:00 UTC.
    milliseconds / with_milliseconds = [47:0] u64;
    /// The controller may have stopped counting in between (Get Features only).
    synch / with_synch = [48:48] bool;
    /// Timestamp Origin: 0 cleared by a reset, 1 set by Set Features (Get Features only).
    origin / with_origin = [51:49] u8;
}

bits! {
    /// Keep Alive Timer (0Fh). NVMe Base 2.0 §5.27.1.12.
    pub struct KeepAliveTimer(u32);
    /// Keep Alive Timeout in milliseconds; 0 disables the timer.
    kato / with_kato = [31:0] u32;
}

bits! {
    /// I/O Command Set Profile (19h). NVMe Base 2.0 §5.27.1.21.
    pub struct CommandSetProfile(u32);
    /// I/O Command Set Combination Index, into what Identify (CNS 1Ch) lists.
    iocsci / with_iocsci = [8:0] u16;
}
