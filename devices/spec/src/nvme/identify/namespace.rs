//! Identify Namespace for the NVM Command Set. NVM Command Set 1.0 §4.1.5.1.

use core::fmt;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Identify Namespace data structure (CNS 00h), 4096 bytes.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// Namespace Size in logical blocks; 0 for a namespace that is not active.
    pub nsze: U64,
    /// Namespace Capacity in logical blocks.
    pub ncap: U64,
    /// Namespace Utilization in logical blocks.
    pub nuse: U64,
    /// Namespace Features.
    pub nsfeat: Nsfeat,
    /// Number of LBA Formats, 0's based.
    pub nlbaf: u8,
    /// Formatted LBA Size.
    pub flbas: Flbas,
    /// Metadata Capabilities: bit 0 extended logical block, bit 1 separate buffer.
    pub mc: u8,
    /// End-to-end Data Protection Capabilities.
    pub dpc: u8,
    /// End-to-end Data Protection Type Settings.
    pub dps: Dps,
    /// Namespace Multi-path I/O and Namespace Sharing Capabilities: bit 0 shared.
    pub nmic: u8,
    /// Reservation Capabilities.
    pub rescap: u8,
    /// Format Progress Indicator.
    pub fpi: Fpi,
    /// Deallocate Logical Block Features.
    pub dlfeat: Dlfeat,
    /// Namespace Atomic Write Unit Normal in logical blocks, 0's based.
    pub nawun: U16,
    /// Namespace Atomic Write Unit Power Fail in logical blocks, 0's based.
    pub nawupf: U16,
    /// Namespace Atomic Compare & Write Unit in logical blocks, 0's based.
    pub nacwu: U16,
    /// Namespace Atomic Boundary Size Normal in logical blocks, 0's based.
    pub nabsn: U16,
    /// Namespace Atomic Boundary Offset in logical blocks.
    pub nabo: U16,
    /// Namespace Atomic Boundary Size Power Fail in logical blocks, 0's based.
    pub nabspf: U16,
    /// Namespace Optimal I/O Boundary in logical blocks; 0 not told.
    pub noiob: U16,
    /// NVM Capacity in bytes.
    pub nvmcap: U128,
    /// Namespace Preferred Write Granularity in logical blocks, 0's based.
    pub npwg: U16,
    /// Namespace Preferred Write Alignment in logical blocks, 0's based.
    pub npwa: U16,
    /// Namespace Preferred Deallocate Granularity in logical blocks, 0's based.
    pub npdg: U16,
    /// Namespace Preferred Deallocate Alignment in logical blocks, 0's based.
    pub npda: U16,
    /// Namespace Optimal Write Size in logical blocks, 0's based.
    pub nows: U16,
    /// Maximum Single Source Range Length of Copy, in logical blocks.
    pub mssrl: U16,
    /// Maximum Copy Length in logical blocks.
    pub mcl: U32,
    /// Maximum Source Range Count of Copy, 0's based.
    pub msrc: u8,
    reserved_81: [u8; 11],
    /// ANA Group Identifier.
    pub anagrpid: U32,
    reserved_96: [u8; 3],
    /// Namespace Attributes: bit 0 write protected.
    pub nsattr: u8,
    /// NVM Set Identifier.
    pub nvmsetid: U16,
    /// Endurance Group Identifier.
    pub endgid: U16,
    /// Namespace Globally Unique Identifier, big-endian; zero where there is none.
    pub nguid: [u8; 16],
    /// IEEE Extended Unique Identifier, big-endian; zero where there is none.
    pub eui64: [u8; 8],
    /// LBA Formats 0 to 63.
    pub lbaf: [LbaFormat; 64],
    /// Vendor Specific.
    pub vendor_specific: [u8; 3712],
}

const _: () = assert!(size_of::<IdentifyNamespace>() == super::SIZE);

impl IdentifyNamespace {
    /// The LBA format in use; `None` where FLBAS names one that NLBAF says is not there.
    pub fn format(&self) -> Option<LbaFormat> {
        self.formats().get(usize::from(self.flbas.format())).copied()
    }

    /// The LBA formats that NLBAF says are there, 64 at most.
    pub fn formats(&self) -> &[LbaFormat] {
        let count = (usize::from(self.nlbaf) + 1).min(self.lbaf.len());
        self.lbaf.get(..count).unwrap_or(&[])
    }

    /// Whether the namespace is write protected.
    pub const fn is_write_protected(&self) -> bool {
        self.nsattr & 1 != 0
    }
}

impl Default for IdentifyNamespace {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl fmt::Debug for IdentifyNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentifyNamespace")
            .field("nsze", &self.nsze.get())
            .field("ncap", &self.ncap.get())
            .field("nuse", &self.nuse.get())
            .field("nsfeat", &self.nsfeat)
            .field("flbas", &self.flbas)
            .field("formats", &self.formats())
            .field("dps", &self.dps)
            .finish_non_exhaustive()
    }
}

bits! {
    /// Namespace Features (NSFEAT).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Nsfeat(u8);
    /// Thin provisioning.
    thin / with_thin = [0:0] bool;
    /// NAWUN, NAWUPF and NACWU are defined and to be used.
    nsabp / with_nsabp = [1:1] bool;
    /// Deallocated or Unwritten Logical Block error is supported.
    dae / with_dae = [2:2] bool;
    /// NGUID and EUI64 are never reused.
    uidreuse / with_uidreuse = [3:3] bool;
    /// NPWG, NPWA, NPDG, NPDA and NOWS are defined.
    optperf / with_optperf = [4:4] bool;
}

bits! {
    /// Formatted LBA Size (FLBAS).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Flbas(u8);
    /// Low 4 bits of the format's index.
    index_low / with_index_low = [3:0] u8;
    /// Metadata lies at the end of each logical block's data, not in a buffer of its own.
    extended / with_extended = [4:4] bool;
    /// High 2 bits of the format's index.
    index_high / with_index_high = [6:5] u8;
}

impl Flbas {
    /// Index of the LBA format in use, 0 to 63.
    pub const fn format(self) -> u8 {
        self.index_low() | (self.index_high() << 4)
    }

    /// Sets [`format`](Self::format).
    #[must_use]
    pub const fn with_format(self, index: u8) -> Self {
        self.with_index_low(index).with_index_high(index >> 4)
    }
}

bits! {
    /// End-to-end Data Protection Type Settings (DPS).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Dps(u8);
    /// Protection type: 0 none, else 1 to 3.
    pit / with_pit = [2:0] u8;
    /// Protection information is the first bytes of the metadata, not the last.
    pip / with_pip = [3:3] bool;
}

bits! {
    /// Format Progress Indicator (FPI).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Fpi(u8);
    /// Percentage of the format that remains.
    remaining / with_remaining = [6:0] u8;
    /// The indicator is supported.
    supported / with_supported = [7:7] bool;
}

bits! {
    /// Deallocate Logical Block Features (DLFEAT).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Dlfeat(u8);
    /// What a deallocated block reads as: 0 not told, 1 zeroes, 2 ones.
    read_value / with_read_value = [2:0] u8;
    /// The Deallocate bit of Write Zeroes is supported.
    write_zeroes_deallocate / with_write_zeroes_deallocate = [3:3] bool;
    /// The guard field of a deallocated block holds a CRC of what it reads as.
    guard_crc / with_guard_crc = [4:4] bool;
}

/// LBA Format, 4 bytes. NVM Command Set 1.0 §4.1.5.1.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LbaFormat {
    /// Metadata Size in bytes for each logical block.
    pub ms: U16,
    /// LBA Data Size as a power of two; 0 means the format is not there.
    pub lbads: u8,
    /// Relative Performance in the low 2 bits: 0 best, 3 degraded.
    pub rp: RelativePerformance,
}

const _: () = assert!(size_of::<LbaFormat>() == 4);

impl LbaFormat {
    /// A format of blocks of `1 << lbads` bytes, with `ms` bytes of metadata each.
    pub const fn new(lbads: u8, ms: u16) -> Self {
        Self { ms: U16::new(ms), lbads, rp: RelativePerformance::from_bits(0) }
    }

    /// Bytes of data in a logical block; `None` where the device claims fewer than the
    /// standard's minimum of 512, or 4 GiB or more.
    pub const fn block_size(self) -> Option<u32> {
        if self.lbads < 9 { None } else { 1u32.checked_shl(self.lbads as u32) }
    }
}

impl fmt::Debug for LbaFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LbaFormat")
            .field("lbads", &self.lbads)
            .field("ms", &self.ms.get())
            .field("rp", &self.rp.rp())
            .finish()
    }
}

bits! {
    /// Relative Performance (RP) of an LBA Format.
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct RelativePerformance(u8);
    /// 0 best, 1 better, 2 good, 3 degraded.
    rp / with_rp = [1:0] u8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn fields_stand_alone() {
        check_fields!(Nsfeat, Flbas, Dps, Fpi, Dlfeat, RelativePerformance);
        assert_eq!(Flbas::default().with_extended(true).bits(), 0x10);
        assert_eq!(Flbas::default().with_format(63).bits(), 0x6f);
        assert_eq!(Flbas::from_bits(0x7f).format(), 63);
        assert_eq!(Flbas::from_bits(0x20).format(), 16);
        assert_eq!(Nsfeat::default().with_optperf(true).bits(), 0x10);
        assert_eq!(Dps::default().with_pip(true).bits(), 8);
        assert_eq!(Fpi::default().with_supported(true).bits(), 0x80);
        assert_eq!(Dlfeat::default().with_write_zeroes_deallocate(true).bits(), 8);
    }

    #[test]
    fn every_field_is_at_its_offset() {
        macro_rules! offsets {
            ($($field:ident $at:literal,)*) => {
                $(assert_eq!(offset_of!(IdentifyNamespace, $field), $at, stringify!($field));)*
            };
        }
        offsets! {
            nsze 0, ncap 8, nuse 16, nsfeat 24, nlbaf 25, flbas 26, mc 27, dpc 28, dps 29,
            nmic 30, rescap 31, fpi 32, dlfeat 33, nawun 34, nawupf 36, nacwu 38, nabsn 40,
            nabo 42, nabspf 44, noiob 46, nvmcap 48, npwg 64, npwa 66, npdg 68, npda 70, nows 72,
            mssrl 74, mcl 76, msrc 80, anagrpid 92, nsattr 99, nvmsetid 100, endgid 102,
            nguid 104, eui64 120, lbaf 128, vendor_specific 384,
        }
    }

    #[test]
    fn golden_bytes_both_ways() {
        let mut bytes = [0u8; 4096];
        bytes[0..8].copy_from_slice(&[0, 0, 0x10, 0, 0, 0, 0, 1]);
        bytes[25] = 1;
        bytes[26] = 1;
        bytes[33] = 9;
        bytes[74] = 128;
        bytes[76..80].copy_from_slice(&[0, 4, 0, 0]);
        bytes[80] = 127;
        bytes[120..128].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        bytes[128..132].copy_from_slice(&[0, 0, 9, 0]);
        bytes[132..136].copy_from_slice(&[8, 0, 12, 1]);

        let read = IdentifyNamespace::read_from_bytes(&bytes).unwrap();
        assert_eq!(read.nsze.get(), 0x0100_0000_0010_0000);
        assert_eq!(read.formats().len(), 2);
        let format = read.format().unwrap();
        assert_eq!((format.block_size(), format.ms.get(), format.rp.rp()), (Some(4096), 8, 1));
        assert_eq!(read.dlfeat.read_value(), 1);

        let mut built = IdentifyNamespace {
            nsze: 0x0100_0000_0010_0000.into(),
            nlbaf: 1,
            flbas: Flbas::default().with_format(1),
            dlfeat: Dlfeat::default().with_read_value(1).with_write_zeroes_deallocate(true),
            mssrl: 128.into(),
            mcl: 1024.into(),
            msrc: 127,
            eui64: [1, 2, 3, 4, 5, 6, 7, 8],
            ..IdentifyNamespace::default()
        };
        built.lbaf[0] = LbaFormat::new(9, 0);
        built.lbaf[1] =
            LbaFormat { rp: RelativePerformance::from_bits(1), ..LbaFormat::new(12, 8) };
        assert_eq!(built.as_bytes(), bytes);
    }

    #[test]
    fn hostile_formats() {
        let mut identify = IdentifyNamespace { nlbaf: 255, ..IdentifyNamespace::default() };
        assert_eq!(identify.formats().len(), 64);
        assert_eq!(identify.format().unwrap().block_size(), None);
        identify.nlbaf = 0;
        identify.flbas = Flbas::from_bits(0xff);
        assert_eq!(identify.format(), None);
        assert_eq!(LbaFormat::new(8, 0).block_size(), None);
        assert_eq!(LbaFormat::new(31, 0).block_size(), Some(1 << 31));
        assert_eq!(LbaFormat::new(32, 0).block_size(), None);
        assert_eq!(LbaFormat::new(255, 0).block_size(), None);
    }
}
