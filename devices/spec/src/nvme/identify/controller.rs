//! Identify Controller. NVMe Base 2.0 §5.17.2.1; NVM Command Set 1.0 §4.1.5.

use super::text::Text;
use crate::nvme::registers::Vs;
use core::fmt;
use zerocopy::little_endian::{U16, U32, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Identify Controller data structure (CNS 01h), 4096 bytes.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdentifyController {
    /// PCI Vendor ID.
    pub vid: U16,
    /// PCI Subsystem Vendor ID.
    pub ssvid: U16,
    /// Serial Number, ASCII padded with spaces.
    pub sn: [u8; 20],
    /// Model Number, ASCII padded with spaces.
    pub mn: [u8; 40],
    /// Firmware Revision, ASCII padded with spaces.
    pub fr: [u8; 8],
    /// Recommended Arbitration Burst: `1 << rab` commands.
    pub rab: u8,
    /// IEEE OUI Identifier, least significant byte first.
    pub ieee: [u8; 3],
    /// Controller Multi-Path I/O and Namespace Sharing Capabilities.
    pub cmic: u8,
    /// Maximum Data Transfer Size: `1 << mdts` pages of CAP.MPSMIN; 0 no limit.
    pub mdts: u8,
    /// Controller ID.
    pub cntlid: U16,
    /// Version; 0 before NVMe 1.2.
    pub ver: U32,
    /// RTD3 Resume Latency in microseconds.
    pub rtd3r: U32,
    /// RTD3 Entry Latency in microseconds: how long a normal shutdown may take.
    pub rtd3e: U32,
    /// Optional Asynchronous Events Supported; see
    /// [`AsyncEvents`](crate::nvme::admin::features::AsyncEvents).
    pub oaes: U32,
    /// Controller Attributes.
    pub ctratt: U32,
    /// Read Recovery Levels Supported.
    pub rrls: U16,
    reserved_102: [u8; 9],
    /// Controller Type: 1 I/O, 2 discovery, 3 administrative; 0 not told.
    pub cntrltype: u8,
    /// FRU Globally Unique Identifier.
    pub fguid: [u8; 16],
    /// Command Retry Delay Times 1 to 3, in units of 100 ms.
    pub crdt: [U16; 3],
    reserved_134: [u8; 119],
    /// NVM Subsystem Report.
    pub nvmsr: u8,
    /// VPD Write Cycle Information.
    pub vwci: u8,
    /// Management Endpoint Capabilities.
    pub mec: u8,
    /// Optional Admin Command Support.
    pub oacs: U16,
    /// Abort Command Limit, 0's based.
    pub acl: u8,
    /// Asynchronous Event Request Limit, 0's based.
    pub aerl: u8,
    /// Firmware Updates.
    pub frmw: Frmw,
    /// Log Page Attributes.
    pub lpa: Lpa,
    /// Error Log Page Entries, 0's based.
    pub elpe: u8,
    /// Number of Power States Support, 0's based.
    pub npss: u8,
    /// Admin Vendor Specific Command Configuration.
    pub avscc: u8,
    /// Autonomous Power State Transition Attributes.
    pub apsta: u8,
    /// Warning Composite Temperature Threshold in kelvins; 0 not told.
    pub wctemp: U16,
    /// Critical Composite Temperature Threshold in kelvins; 0 not told.
    pub cctemp: U16,
    /// Maximum Time for Firmware Activation in units of 100 ms; 0 not told.
    pub mtfa: U16,
    /// Host Memory Buffer Preferred Size in units of 4 KiB; 0 not supported.
    pub hmpre: U32,
    /// Host Memory Buffer Minimum Size in units of 4 KiB.
    pub hmmin: U32,
    /// Total NVM Capacity in bytes.
    pub tnvmcap: U128,
    /// Unallocated NVM Capacity in bytes.
    pub unvmcap: U128,
    /// Replay Protected Memory Block Support.
    pub rpmbs: U32,
    /// Extended Device Self-test Time in minutes.
    pub edstt: U16,
    /// Device Self-test Options.
    pub dsto: u8,
    /// Firmware Update Granularity in units of 4 KiB; 0 not told, 0xff no restriction.
    pub fwug: u8,
    /// Keep Alive Support: granularity in units of 100 ms; 0 not supported.
    pub kas: U16,
    /// Host Controlled Thermal Management Attributes.
    pub hctma: U16,
    /// Minimum Thermal Management Temperature in kelvins.
    pub mntmt: U16,
    /// Maximum Thermal Management Temperature in kelvins.
    pub mxtmt: U16,
    /// Sanitize Capabilities.
    pub sanicap: U32,
    /// Host Memory Buffer Minimum Descriptor Entry Size in units of 4 KiB.
    pub hmminds: U32,
    /// Host Memory Maximum Descriptors Entries.
    pub hmmaxd: U16,
    /// NVM Set Identifier Maximum.
    pub nsetidmax: U16,
    /// Endurance Group Identifier Maximum.
    pub endgidmax: U16,
    /// ANA Transition Time in seconds.
    pub anatt: u8,
    /// Asymmetric Namespace Access Capabilities.
    pub anacap: u8,
    /// ANA Group Identifier Maximum.
    pub anagrpmax: U32,
    /// Number of ANA Group Identifiers.
    pub nanagrpid: U32,
    /// Persistent Event Log Size in units of 64 KiB.
    pub pels: U32,
    /// Domain Identifier.
    pub domainid: U16,
    reserved_358: [u8; 10],
    /// Max Endurance Group Capacity in bytes.
    pub megcap: U128,
    reserved_384: [u8; 128],
    /// Submission Queue Entry Size.
    pub sqes: EntrySize,
    /// Completion Queue Entry Size.
    pub cqes: EntrySize,
    /// Maximum Outstanding Commands; 0 not told.
    pub maxcmd: U16,
    /// Number of Namespaces: the largest namespace identifier.
    pub nn: U32,
    /// Optional NVM Command Support.
    pub oncs: U16,
    /// Fused Operation Support: bit 0 compare and write.
    pub fuses: U16,
    /// Format NVM Attributes.
    pub fna: Fna,
    /// Volatile Write Cache.
    pub vwc: Vwc,
    /// Atomic Write Unit Normal in logical blocks, 0's based.
    pub awun: U16,
    /// Atomic Write Unit Power Fail in logical blocks, 0's based.
    pub awupf: U16,
    /// I/O Command Set Vendor Specific Command Configuration.
    pub icsvscc: u8,
    /// Namespace Write Protection Capabilities.
    pub nwpc: u8,
    /// Atomic Compare & Write Unit in logical blocks, 0's based.
    pub acwu: U16,
    /// Optional Copy Formats Supported: bit n says format n.
    pub ocfs: U16,
    /// SGL Support.
    pub sgls: U32,
    /// Maximum Number of Allowed Namespaces; 0 means NN.
    pub mnan: U32,
    /// Maximum Domain Namespace Attachments.
    pub maxdna: U128,
    /// Maximum I/O Controller Namespace Attachments.
    pub maxcna: U32,
    reserved_564: [u8; 204],
    /// NVM Subsystem NVMe Qualified Name, UTF-8 ended by NULs.
    pub subnqn: [u8; 256],
    reserved_1024: [u8; 768],
    /// What NVMe over Fabrics adds; no meaning on PCIe.
    pub fabrics: [u8; 256],
    /// Power State Descriptors 0 to 31.
    pub psd: [PowerState; 32],
    /// Vendor Specific.
    pub vendor_specific: [u8; 1024],
}

const _: () = assert!(size_of::<IdentifyController>() == super::SIZE);

impl IdentifyController {
    /// Serial Number.
    pub fn serial(&self) -> Text<'_> {
        Text::new(&self.sn)
    }

    /// Model Number.
    pub fn model(&self) -> Text<'_> {
        Text::new(&self.mn)
    }

    /// Firmware Revision.
    pub fn firmware(&self) -> Text<'_> {
        Text::new(&self.fr)
    }

    /// NVM Subsystem NVMe Qualified Name.
    pub fn subsystem_name(&self) -> Text<'_> {
        Text::new(&self.subnqn)
    }

    /// Version.
    pub const fn ver(&self) -> Vs {
        Vs::from_bits(self.ver.get())
    }

    /// Controller Attributes.
    pub const fn ctratt(&self) -> Ctratt {
        Ctratt::from_bits(self.ctratt.get())
    }

    /// Optional Admin Command Support.
    pub const fn oacs(&self) -> Oacs {
        Oacs::from_bits(self.oacs.get())
    }

    /// Optional NVM Command Support.
    pub const fn oncs(&self) -> Oncs {
        Oncs::from_bits(self.oncs.get())
    }

    /// SGL Support.
    pub const fn sgls(&self) -> Sgls {
        Sgls::from_bits(self.sgls.get())
    }

    /// Sanitize Capabilities.
    pub const fn sanicap(&self) -> Sanicap {
        Sanicap::from_bits(self.sanicap.get())
    }

    /// Largest data transfer in bytes, where `min_page_size` is CAP.MPSMIN in bytes;
    /// `None` where the controller gives no limit (or one past `usize`).
    pub fn max_transfer(&self, min_page_size: usize) -> Option<usize> {
        if self.mdts == 0 {
            return None;
        }
        1usize.checked_shl(u32::from(self.mdts))?.checked_mul(min_page_size)
    }
}

impl Default for IdentifyController {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl fmt::Debug for IdentifyController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentifyController")
            .field("vid", &self.vid.get())
            .field("serial", &self.serial())
            .field("model", &self.model())
            .field("firmware", &self.firmware())
            .field("ver", &self.ver())
            .field("mdts", &self.mdts)
            .field("cntlid", &self.cntlid.get())
            .field("nn", &self.nn.get())
            .field("oacs", &self.oacs())
            .field("oncs", &self.oncs())
            .field("sgls", &self.sgls())
            .finish_non_exhaustive()
    }
}

bits! {
    /// Controller Attributes (CTRATT).
    pub struct Ctratt(u32);
    /// 128-bit Host Identifier.
    host_id_128 / with_host_id_128 = [0:0] bool;
    /// Non-Operational Power State Permissive Mode.
    non_operational_permissive / with_non_operational_permissive = [1:1] bool;
    /// NVM Sets.
    nvm_sets / with_nvm_sets = [2:2] bool;
    /// Read Recovery Levels.
    read_recovery_levels / with_read_recovery_levels = [3:3] bool;
    /// Endurance Groups.
    endurance_groups / with_endurance_groups = [4:4] bool;
    /// Predictable Latency Mode.
    predictable_latency / with_predictable_latency = [5:5] bool;
    /// Traffic Based Keep Alive Support.
    tbkas / with_tbkas = [6:6] bool;
    /// Namespace Granularity.
    namespace_granularity / with_namespace_granularity = [7:7] bool;
    /// SQ Associations.
    sq_associations / with_sq_associations = [8:8] bool;
    /// UUID List.
    uuid_list / with_uuid_list = [9:9] bool;
    /// Multi-Domain Subsystem.
    mds / with_mds = [10:10] bool;
    /// Fixed Capacity Management.
    fixed_capacity / with_fixed_capacity = [11:11] bool;
    /// Variable Capacity Management.
    variable_capacity / with_variable_capacity = [12:12] bool;
    /// Delete Endurance Group.
    delete_endurance_group / with_delete_endurance_group = [13:13] bool;
    /// Delete NVM Set.
    delete_nvm_set / with_delete_nvm_set = [14:14] bool;
    /// Extended LBA Formats Supported: up to 64 of them.
    elbas / with_elbas = [15:15] bool;
}

bits! {
    /// Optional Admin Command Support (OACS).
    pub struct Oacs(u16);
    /// Security Send and Security Receive.
    security / with_security = [0:0] bool;
    /// Format NVM.
    format / with_format = [1:1] bool;
    /// Firmware Commit and Firmware Image Download.
    firmware / with_firmware = [2:2] bool;
    /// Namespace Management and Attachment.
    namespace_management / with_namespace_management = [3:3] bool;
    /// Device Self-test.
    self_test / with_self_test = [4:4] bool;
    /// Directives.
    directives / with_directives = [5:5] bool;
    /// NVMe-MI Send and Receive.
    management_interface / with_management_interface = [6:6] bool;
    /// Virtualization Management.
    virtualization / with_virtualization = [7:7] bool;
    /// Doorbell Buffer Config.
    doorbell_buffer / with_doorbell_buffer = [8:8] bool;
    /// Get LBA Status.
    get_lba_status / with_get_lba_status = [9:9] bool;
    /// Command and Feature Lockdown.
    lockdown / with_lockdown = [10:10] bool;
}

bits! {
    /// Firmware Updates (FRMW).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Frmw(u8);
    /// Slot 1 is read only.
    slot1_read_only / with_slot1_read_only = [0:0] bool;
    /// Number of slots, 1 to 7.
    slots / with_slots = [3:1] u8;
    /// Activation without a reset.
    activate_without_reset / with_activate_without_reset = [4:4] bool;
    /// Support Multiple Update Detection.
    smud / with_smud = [5:5] bool;
}

bits! {
    /// Log Page Attributes (LPA).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Lpa(u8);
    /// SMART / Health Information per namespace.
    smart_per_namespace / with_smart_per_namespace = [0:0] bool;
    /// Commands Supported and Effects log.
    commands_effects / with_commands_effects = [1:1] bool;
    /// Extended data for Get Log Page: 32-bit dword counts, and offsets.
    extended_data / with_extended_data = [2:2] bool;
    /// Telemetry logs and notices.
    telemetry / with_telemetry = [3:3] bool;
    /// Persistent Event log.
    persistent_event / with_persistent_event = [4:4] bool;
    /// Supported Log Pages and related logs.
    supported_pages / with_supported_pages = [5:5] bool;
    /// Telemetry data area 4.
    telemetry_area4 / with_telemetry_area4 = [6:6] bool;
}

bits! {
    /// Queue entry sizes (SQES, CQES), as powers of two of bytes.
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct EntrySize(u8);
    /// Required, which is the smallest.
    required / with_required = [3:0] u8;
    /// Largest.
    maximum / with_maximum = [7:4] u8;
}

bits! {
    /// Optional NVM Command Support (ONCS).
    pub struct Oncs(u16);
    /// Compare.
    compare / with_compare = [0:0] bool;
    /// Write Uncorrectable.
    write_uncorrectable / with_write_uncorrectable = [1:1] bool;
    /// Dataset Management.
    dataset_management / with_dataset_management = [2:2] bool;
    /// Write Zeroes.
    write_zeroes / with_write_zeroes = [3:3] bool;
    /// The Save field of Set Features and the Select field of Get Features.
    save_select / with_save_select = [4:4] bool;
    /// Reservations.
    reservations / with_reservations = [5:5] bool;
    /// Timestamp feature.
    timestamp / with_timestamp = [6:6] bool;
    /// Verify.
    verify / with_verify = [7:7] bool;
    /// Copy.
    copy / with_copy = [8:8] bool;
}

bits! {
    /// Format NVM Attributes (FNA).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Fna(u8);
    /// A format, secure erase aside, goes for all namespaces.
    format_all / with_format_all = [0:0] bool;
    /// A secure erase goes for all namespaces.
    erase_all / with_erase_all = [1:1] bool;
    /// Cryptographic erase.
    crypto_erase / with_crypto_erase = [2:2] bool;
    /// Format with the broadcast namespace identifier is *not* supported.
    no_broadcast / with_no_broadcast = [3:3] bool;
}

bits! {
    /// Volatile Write Cache (VWC).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Vwc(u8);
    /// There is one.
    present / with_present = [0:0] bool;
    /// Flush with the broadcast namespace identifier: 0 not told, 2 not supported,
    /// 3 supported.
    broadcast_flush / with_broadcast_flush = [2:1] u8;
}

bits! {
    /// SGL Support (SGLS).
    pub struct Sgls(u32);
    /// 0 not supported, 1 with no alignment, 2 with dword alignment and granularity.
    support / with_support = [1:0] u8;
    /// Keyed SGL Data Block descriptor.
    keyed / with_keyed = [2:2] bool;
    /// SGL Descriptor Threshold: above this many descriptors performance may suffer.
    sdt / with_sdt = [15:8] u8;
    /// Bit Bucket descriptor.
    bit_bucket / with_bit_bucket = [16:16] bool;
    /// A byte-aligned contiguous metadata buffer.
    metadata_byte_aligned / with_metadata_byte_aligned = [17:17] bool;
    /// SGLs longer than the data transferred.
    longer_than_data / with_longer_than_data = [18:18] bool;
    /// Metadata Pointer that points to an SGL segment.
    metadata_segment / with_metadata_segment = [19:19] bool;
    /// The Address field as an offset.
    offset_address / with_offset_address = [20:20] bool;
    /// Transport SGL Data Block descriptor.
    transport / with_transport = [21:21] bool;
}

bits! {
    /// Sanitize Capabilities (SANICAP).
    pub struct Sanicap(u32);
    /// Crypto Erase.
    ces / with_ces = [0:0] bool;
    /// Block Erase.
    bes / with_bes = [1:1] bool;
    /// Overwrite.
    ows / with_ows = [2:2] bool;
    /// No-Deallocate Inhibited.
    ndi / with_ndi = [29:29] bool;
    /// No-Deallocate Modifies Media After Sanitize.
    nodmmas / with_nodmmas = [31:30] u8;
}

/// Power State Descriptor, 32 bytes. NVMe Base 2.0 §5.17.2.1.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PowerState {
    /// Maximum Power, in units of 0.01 W, or of 0.0001 W with
    /// [`max_power_scale`](PowerFlags::max_power_scale).
    pub mp: U16,
    reserved_2: u8,
    /// Maximum Power Scale and Non-Operational State.
    pub flags: PowerFlags,
    /// Entry Latency in microseconds.
    pub enlat: U32,
    /// Exit Latency in microseconds.
    pub exlat: U32,
    /// Relative Read Throughput, in the low 5 bits; lower is better.
    pub rrt: u8,
    /// Relative Read Latency, in the low 5 bits.
    pub rrl: u8,
    /// Relative Write Throughput, in the low 5 bits.
    pub rwt: u8,
    /// Relative Write Latency, in the low 5 bits.
    pub rwl: u8,
    /// Idle Power, in the unit of `ips`.
    pub idlp: U16,
    /// Idle Power Scale, in the high 2 bits.
    pub ips: PowerScale,
    reserved_19: u8,
    /// Active Power, in the unit of `apws`.
    pub actp: U16,
    /// Active Power Workload and Scale.
    pub apws: PowerScale,
    reserved_23: [u8; 9],
}

const _: () = assert!(size_of::<PowerState>() == 32);

impl PowerState {
    /// Maximum power in microwatts; 0 not told.
    pub const fn max_power_microwatts(&self) -> u32 {
        let unit = if self.flags.max_power_scale() { 100 } else { 10_000 };
        self.mp.get() as u32 * unit
    }
}

impl fmt::Debug for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PowerState")
            .field("max_power_microwatts", &self.max_power_microwatts())
            .field("non_operational", &self.flags.non_operational())
            .field("enlat", &self.enlat.get())
            .field("exlat", &self.exlat.get())
            .finish_non_exhaustive()
    }
}

bits! {
    /// Byte 3 of a Power State Descriptor.
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct PowerFlags(u8);
    /// Maximum Power is in units of 0.0001 W, not 0.01 W.
    max_power_scale / with_max_power_scale = [0:0] bool;
    /// Non-Operational State: no I/O is processed in it.
    non_operational / with_non_operational = [1:1] bool;
}

bits! {
    /// Scale of idle and active power.
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct PowerScale(u8);
    /// Active Power Workload.
    workload / with_workload = [2:0] u8;
    /// 0 not told, 1 units of 0.0001 W, 2 units of 0.01 W.
    scale / with_scale = [7:6] u8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;
    use std::string::ToString;

    #[test]
    fn fields_stand_alone() {
        check_fields!(
            Ctratt, Oacs, Frmw, Lpa, EntrySize, Oncs, Fna, Vwc, Sgls, Sanicap, PowerFlags,
            PowerScale
        );
        assert_eq!(Oacs::default().with_doorbell_buffer(true).bits(), 0x100);
        assert_eq!(Oncs::default().with_verify(true).with_copy(true).bits(), 0x180);
        assert_eq!(Oncs::default().with_dataset_management(true).bits(), 4);
        assert_eq!(Sgls::default().with_bit_bucket(true).with_support(3).bits(), 0x1_0003);
        assert_eq!(Frmw::default().with_slots(0xff).bits(), 0xe);
        assert_eq!(Lpa::default().with_extended_data(true).bits(), 4);
        assert_eq!(Vwc::default().with_broadcast_flush(3).bits(), 6);
        assert_eq!(EntrySize::default().with_maximum(6).with_required(6).bits(), 0x66);
    }

    #[test]
    fn every_field_is_at_its_offset() {
        macro_rules! offsets {
            ($($field:ident $at:literal,)*) => {
                $(assert_eq!(offset_of!(IdentifyController, $field), $at, stringify!($field));)*
            };
        }
        offsets! {
            vid 0, ssvid 2, sn 4, mn 24, fr 64, rab 72, ieee 73, cmic 76, mdts 77, cntlid 78,
            ver 80, rtd3r 84, rtd3e 88, oaes 92, ctratt 96, rrls 100, cntrltype 111, fguid 112,
            crdt 128, nvmsr 253, vwci 254, mec 255, oacs 256, acl 258, aerl 259, frmw 260,
            lpa 261, elpe 262, npss 263, avscc 264, apsta 265, wctemp 266, cctemp 268, mtfa 270,
            hmpre 272, hmmin 276, tnvmcap 280, unvmcap 296, rpmbs 312, edstt 316, dsto 318,
            fwug 319, kas 320, hctma 322, mntmt 324, mxtmt 326, sanicap 328, hmminds 332,
            hmmaxd 336, nsetidmax 338, endgidmax 340, anatt 342, anacap 343, anagrpmax 344,
            nanagrpid 348, pels 352, domainid 356, megcap 368, sqes 512, cqes 513, maxcmd 514,
            nn 516, oncs 520, fuses 522, fna 524, vwc 525, awun 526, awupf 528, icsvscc 530,
            nwpc 531, acwu 532, ocfs 534, sgls 536, mnan 540, maxdna 544, maxcna 560, subnqn 768,
            fabrics 1792, psd 2048, vendor_specific 3072,
        }
        assert_eq!(offset_of!(PowerState, flags), 3);
        assert_eq!(offset_of!(PowerState, enlat), 4);
        assert_eq!(offset_of!(PowerState, exlat), 8);
        assert_eq!(offset_of!(PowerState, rrt), 12);
        assert_eq!(offset_of!(PowerState, idlp), 16);
        assert_eq!(offset_of!(PowerState, ips), 18);
        assert_eq!(offset_of!(PowerState, actp), 20);
        assert_eq!(offset_of!(PowerState, apws), 22);
    }

    #[test]
    fn golden_bytes_both_ways() {
        let mut bytes = [0u8; 4096];
        bytes[0..4].copy_from_slice(&[0x36, 0x1b, 0xf4, 0x1a]);
        bytes[4..24].copy_from_slice(b"SERIAL-1            ");
        bytes[24..64].copy_from_slice(b"Software NVMe                           ");
        bytes[64..72].copy_from_slice(b"1.0     ");
        bytes[77] = 5;
        bytes[78..80].copy_from_slice(&[0x02, 0x01]);
        bytes[80..84].copy_from_slice(&[0, 0, 2, 0]);
        bytes[256..258].copy_from_slice(&[0x06, 0x01]);
        bytes[280] = 1;
        bytes[295] = 0x80;
        bytes[512] = 0x66;
        bytes[513] = 0x44;
        bytes[516] = 2;
        bytes[520..522].copy_from_slice(&[0x8d, 0x01]);
        bytes[525] = 7;
        bytes[536] = 1;
        bytes[2048] = 0xc4;
        bytes[2049] = 0x09;

        let read = IdentifyController::read_from_bytes(&bytes).unwrap();
        assert_eq!(read.vid.get(), 0x1b36);
        assert_eq!(read.serial().to_string(), "SERIAL-1");
        assert_eq!(read.model().to_string(), "Software NVMe");
        assert_eq!(read.firmware().to_string(), "1.0");
        assert_eq!(read.ver().to_string(), "2.0");
        assert_eq!(read.max_transfer(4096), Some(128 * 1024));
        assert_eq!(read.tnvmcap.get(), (0x80 << 120) | 1);
        assert!(read.oacs().doorbell_buffer() && read.oacs().firmware() && read.oacs().format());
        assert!(read.oncs().compare() && read.oncs().write_zeroes() && read.oncs().copy());
        assert!(!read.oncs().write_uncorrectable());
        assert_eq!(read.psd[0].max_power_microwatts(), 25_000_000);

        let mut built = IdentifyController {
            vid: 0x1b36.into(),
            ssvid: 0x1af4.into(),
            sn: super::super::text::padded("SERIAL-1"),
            mn: super::super::text::padded("Software NVMe"),
            fr: super::super::text::padded("1.0"),
            mdts: 5,
            cntlid: 0x0102.into(),
            ver: Vs::default().with_major(2).bits().into(),
            oacs: Oacs::default()
                .with_doorbell_buffer(true)
                .with_firmware(true)
                .with_format(true)
                .bits()
                .into(),
            tnvmcap: ((0x80 << 120) | 1).into(),
            sqes: EntrySize::default().with_required(6).with_maximum(6),
            cqes: EntrySize::default().with_required(4).with_maximum(4),
            nn: 2.into(),
            oncs: Oncs::default()
                .with_compare(true)
                .with_dataset_management(true)
                .with_write_zeroes(true)
                .with_verify(true)
                .with_copy(true)
                .bits()
                .into(),
            vwc: Vwc::default().with_present(true).with_broadcast_flush(3),
            sgls: Sgls::default().with_support(1).bits().into(),
            ..IdentifyController::default()
        };
        built.psd[0].mp = 2500.into();
        assert_eq!(built.as_bytes(), bytes);
    }

    #[test]
    fn no_limit_and_absurd_limits() {
        let mut identify = IdentifyController::default();
        assert_eq!(identify.max_transfer(4096), None);
        identify.mdts = 255;
        assert_eq!(identify.max_transfer(4096), None);
        identify.mdts = 60;
        assert_eq!(identify.max_transfer(4096), None);
    }
}
