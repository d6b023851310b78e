//! Identify Controller. NVMe Base 2.0 §5.17.2.1; NVM Command Set 1.0 §4.1.5.

use super::attributes::{Ctratt, EntrySize, Fna, Frmw, Lpa, Oacs, Oncs, Sanicap, Sgls, Vwc};
use super::power::PowerState;
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

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;
    use std::string::ToString;

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
