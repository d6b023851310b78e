//! I/O commands of the NVM Command Set. NVM Command Set 1.0 §3.2, NVMe Base 2.0 §7.
//!
//! A builder (`read`, `write`, ...) gives a submission entry without data pointer and
//! command identifier; [`Command::parse`] goes the other way.

use super::entry::SubmissionEntry;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

codes! {
    /// Opcode of an I/O command. NVM Command Set 1.0 §3.
    pub struct Opcode(u8);
    FLUSH = 0x00, "Flush";
    WRITE = 0x01, "Write";
    READ = 0x02, "Read";
    WRITE_UNCORRECTABLE = 0x04, "Write Uncorrectable";
    COMPARE = 0x05, "Compare";
    WRITE_ZEROES = 0x08, "Write Zeroes";
    DATASET_MANAGEMENT = 0x09, "Dataset Management";
    VERIFY = 0x0c, "Verify";
    RESERVATION_REGISTER = 0x0d, "Reservation Register";
    RESERVATION_REPORT = 0x0e, "Reservation Report";
    RESERVATION_ACQUIRE = 0x11, "Reservation Acquire";
    RESERVATION_RELEASE = 0x15, "Reservation Release";
    COPY = 0x19, "Copy";
}

/// How many logical blocks a command goes for: 1 to 65536, held 0's based as the
/// NLB field has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockCount(u16);

impl BlockCount {
    /// One block.
    pub const ONE: Self = Self(0);
    /// 65536 blocks.
    pub const MAX: Self = Self(u16::MAX);

    /// `count` blocks; `None` for 0 and above 65536, which no command can say.
    #[inline]
    pub const fn new(count: u32) -> Option<Self> {
        match count.checked_sub(1) {
            Some(nlb) if nlb <= u16::MAX as u32 => Some(Self(nlb as u16)),
            _ => None,
        }
    }

    /// Of an NLB field, 0's based.
    #[inline]
    pub const fn from_nlb(nlb: u16) -> Self {
        Self(nlb)
    }

    /// The NLB field, 0's based.
    #[inline]
    pub const fn nlb(self) -> u16 {
        self.0
    }

    /// How many blocks.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0 as u32 + 1
    }
}

bits! {
    /// The high half of Command Dword 12 of Read, Write, Compare, Verify and Write
    /// Zeroes. NVM Command Set 1.0 §3.2.4 and on.
    pub struct Flags(u16);
    /// Directive Type (Write).
    dtype / with_dtype = [7:4] u8;
    /// Storage Tag Check.
    stc / with_stc = [8:8] bool;
    /// Deallocate (Write Zeroes).
    deac / with_deac = [9:9] bool;
    /// Protection Information Check (PRINFO.PRCHK).
    prchk / with_prchk = [12:10] u8;
    /// Protection Information Action (PRINFO.PRACT).
    pract / with_pract = [13:13] bool;
    /// Force Unit Access: read from and write to non-volatile media.
    fua / with_fua = [14:14] bool;
    /// Limited Retry.
    lr / with_lr = [15:15] bool;
}

impl Flags {
    /// None of them.
    pub const NONE: Self = Self::from_bits(0);
}

bits! {
    /// Command Dword 12 of Read, Write, Compare, Verify, Write Zeroes and Write
    /// Uncorrectable. NVM Command Set 1.0 §3.2.4 and on.
    pub struct Dword12(u32);
    /// Number of Logical Blocks, 0's based.
    nlb / with_nlb = [15:0] u16;
    /// See [`Flags`].
    flags / with_flags = [31:16] u16;
}

bits! {
    /// Command Dword 15: Logical Block Application Tag and Mask.
    pub struct Dword15(u32);
    /// (Expected) Logical Block Application Tag.
    lbat / with_lbat = [15:0] u16;
    /// (Expected) Logical Block Application Tag Mask.
    lbatm / with_lbatm = [31:16] u16;
}

/// What Read, Write, Compare, Verify, Write Zeroes and Write Uncorrectable say: a
/// range of blocks and how to treat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Namespace.
    pub nsid: u32,
    /// Starting LBA.
    pub slba: u64,
    /// How many blocks.
    pub blocks: BlockCount,
    /// How to treat them.
    pub flags: Flags,
    /// (Expected) Initial Logical Block Reference Tag; 0 without protection information.
    pub reference_tag: u32,
    /// Application tag; 0 without protection information.
    pub application_tag: Dword15,
}

impl Access {
    /// Of these blocks, without protection information.
    #[inline]
    pub const fn new(nsid: u32, slba: u64, blocks: BlockCount, flags: Flags) -> Self {
        let application_tag = Dword15::from_bits(0);
        Self { nsid, slba, blocks, flags, reference_tag: 0, application_tag }
    }

    /// The command `opcode` over these blocks.
    #[inline]
    pub const fn to_entry(self, opcode: Opcode) -> SubmissionEntry {
        let dword12 =
            Dword12::from_bits(0).with_nlb(self.blocks.nlb()).with_flags(self.flags.bits());
        SubmissionEntry::new(opcode.0)
            .with_nsid(self.nsid)
            .with_cdw10_11(self.slba)
            .with_cdw12(dword12.bits())
            .with_cdw14(self.reference_tag)
            .with_cdw15(self.application_tag.bits())
    }

    /// What `entry` says, taken as one of these commands.
    #[inline]
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        let dword12 = Dword12::from_bits(entry.cdw12());
        Self {
            nsid: entry.nsid(),
            slba: entry.cdw10_11(),
            blocks: BlockCount::from_nlb(dword12.nlb()),
            flags: Flags::from_bits(dword12.flags()),
            reference_tag: entry.cdw14(),
            application_tag: Dword15::from_bits(entry.cdw15()),
        }
    }
}

/// Read. NVM Command Set 1.0 §3.2.4.
#[inline]
pub const fn read(nsid: u32, slba: u64, blocks: BlockCount, flags: Flags) -> SubmissionEntry {
    Access::new(nsid, slba, blocks, flags).to_entry(Opcode::READ)
}

/// Write. NVM Command Set 1.0 §3.2.6.
#[inline]
pub const fn write(nsid: u32, slba: u64, blocks: BlockCount, flags: Flags) -> SubmissionEntry {
    Access::new(nsid, slba, blocks, flags).to_entry(Opcode::WRITE)
}

/// Compare. NVM Command Set 1.0 §3.2.1.
pub const fn compare(nsid: u32, slba: u64, blocks: BlockCount, flags: Flags) -> SubmissionEntry {
    Access::new(nsid, slba, blocks, flags).to_entry(Opcode::COMPARE)
}

/// Verify. NVM Command Set 1.0 §3.2.5.
pub const fn verify(nsid: u32, slba: u64, blocks: BlockCount, flags: Flags) -> SubmissionEntry {
    Access::new(nsid, slba, blocks, flags).to_entry(Opcode::VERIFY)
}

/// Write Zeroes. NVM Command Set 1.0 §3.2.8.
pub const fn write_zeroes(
    nsid: u32,
    slba: u64,
    blocks: BlockCount,
    flags: Flags,
) -> SubmissionEntry {
    Access::new(nsid, slba, blocks, flags).to_entry(Opcode::WRITE_ZEROES)
}

/// Write Uncorrectable. NVM Command Set 1.0 §3.2.7.
pub const fn write_uncorrectable(nsid: u32, slba: u64, blocks: BlockCount) -> SubmissionEntry {
    Access::new(nsid, slba, blocks, Flags::NONE).to_entry(Opcode::WRITE_UNCORRECTABLE)
}

/// Flush; `u32::MAX` flushes all namespaces where VWC says so. NVMe Base 2.0 §7.1.
#[inline]
pub const fn flush(nsid: u32) -> SubmissionEntry {
    SubmissionEntry::new(Opcode::FLUSH.0).with_nsid(nsid)
}

bits! {
    /// Command Dword 10 of Dataset Management.
    pub struct DatasetDword10(u32);
    /// Number of Ranges, 0's based.
    nr / with_nr = [7:0] u8;
}

bits! {
    /// Command Dword 11 of Dataset Management: attributes.
    pub struct DatasetAttributes(u32);
    /// Integral Dataset for Read.
    idr / with_idr = [0:0] bool;
    /// Integral Dataset for Write.
    idw / with_idw = [1:1] bool;
    /// Deallocate.
    ad / with_ad = [2:2] bool;
}

/// Dataset Management. NVM Command Set 1.0 §3.2.3. The data is `ranges`
/// [`DatasetRange`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetManagement {
    /// Namespace.
    pub nsid: u32,
    /// Number of ranges, 1 to 256, held 0's based.
    pub nr: u8,
    /// What to do.
    pub attributes: DatasetAttributes,
}

impl DatasetManagement {
    /// Deallocates `ranges` ranges; `None` for 0 and above 256.
    pub const fn deallocate(nsid: u32, ranges: usize) -> Option<Self> {
        if ranges == 0 || ranges > 256 {
            return None;
        }
        let attributes = DatasetAttributes::from_bits(0).with_ad(true);
        Some(Self { nsid, nr: (ranges - 1) as u8, attributes })
    }

    /// How many ranges.
    pub const fn ranges(self) -> usize {
        self.nr as usize + 1
    }

    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        SubmissionEntry::new(Opcode::DATASET_MANAGEMENT.0)
            .with_nsid(self.nsid)
            .with_cdw10(DatasetDword10::from_bits(0).with_nr(self.nr).bits())
            .with_cdw11(self.attributes.bits())
    }

    /// What `entry` says, taken as Dataset Management.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        Self {
            nsid: entry.nsid(),
            nr: DatasetDword10::from_bits(entry.cdw10()).nr(),
            attributes: DatasetAttributes::from_bits(entry.cdw11()),
        }
    }
}

/// A range of Dataset Management, 16 bytes. NVM Command Set 1.0 §3.2.3.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct DatasetRange {
    /// Context Attributes: hints that a controller may ignore.
    pub attributes: U32,
    /// Length in logical blocks; 0 is no block.
    pub length: U32,
    /// Starting LBA.
    pub slba: U64,
}

const _: () = assert!(size_of::<DatasetRange>() == 16);

impl DatasetRange {
    /// Most ranges in one command.
    pub const MAX: usize = 256;

    /// `length` blocks from `slba`, without hints.
    pub const fn new(slba: u64, length: u32) -> Self {
        Self { attributes: U32::new(0), length: U32::new(length), slba: U64::new(slba) }
    }

    /// Context Attributes.
    pub const fn attributes(&self) -> ContextAttributes {
        ContextAttributes::from_bits(self.attributes.get())
    }
}

bits! {
    /// Context Attributes of a range. NVM Command Set 1.0 §3.2.3.
    pub struct ContextAttributes(u32);
    /// Access Frequency.
    af / with_af = [3:0] u8;
    /// Access Latency.
    al / with_al = [5:4] u8;
    /// Sequential Read Range.
    sr / with_sr = [8:8] bool;
    /// Sequential Write Range.
    sw / with_sw = [9:9] bool;
    /// Write Prepare: will be written soon.
    wp / with_wp = [10:10] bool;
    /// Command Access Size in logical blocks; 0 not told.
    access_size / with_access_size = [31:24] u8;
}

bits! {
    /// Command Dword 12 of Copy. NVM Command Set 1.0 §3.2.2.
    pub struct CopyDword12(u32);
    /// Number of Ranges, 0's based.
    nr / with_nr = [7:0] u8;
    /// Descriptor Format of the source ranges.
    desfmt / with_desfmt = [11:8] u8;
    /// Protection Information of the reads.
    prinfor / with_prinfor = [15:12] u8;
    /// Directive Type.
    dtype / with_dtype = [23:20] u8;
    /// Storage Tag Check of the write.
    stcw / with_stcw = [24:24] bool;
    /// Storage Tag Check of the reads.
    stcr / with_stcr = [25:25] bool;
    /// Protection Information of the write.
    prinfow / with_prinfow = [29:26] u8;
    /// Force Unit Access for the write.
    fua / with_fua = [30:30] bool;
    /// Limited Retry.
    lr / with_lr = [31:31] bool;
}

/// Copy. NVM Command Set 1.0 §3.2.2. The data is as many [`CopyRange`]s as
/// [`dword12`](Self::dword12) says, in format 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Namespace.
    pub nsid: u32,
    /// Starting Destination LBA.
    pub sdlba: u64,
    /// The rest.
    pub dword12: CopyDword12,
}

impl Copy {
    /// From `ranges` ranges in format 0 to `sdlba`; `None` for 0 ranges and above 256.
    pub const fn new(nsid: u32, sdlba: u64, ranges: usize) -> Option<Self> {
        if ranges == 0 || ranges > 256 {
            return None;
        }
        let dword12 = CopyDword12::from_bits(0).with_nr((ranges - 1) as u8);
        Some(Self { nsid, sdlba, dword12 })
    }

    /// How many ranges, 1 to 256.
    pub const fn ranges(self) -> usize {
        self.dword12.nr() as usize + 1
    }

    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        SubmissionEntry::new(Opcode::COPY.0)
            .with_nsid(self.nsid)
            .with_cdw10_11(self.sdlba)
            .with_cdw12(self.dword12.bits())
    }

    /// What `entry` says, taken as Copy.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        Self {
            nsid: entry.nsid(),
            sdlba: entry.cdw10_11(),
            dword12: CopyDword12::from_bits(entry.cdw12()),
        }
    }
}

/// Source range of Copy in format 0, 32 bytes. NVM Command Set 1.0 §3.2.2.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CopyRange {
    reserved_0: [u8; 8],
    /// Starting LBA.
    pub slba: U64,
    /// Number of Logical Blocks, 0's based.
    pub nlb: U16,
    reserved_18: [u8; 6],
    /// Expected Initial Logical Block Reference Tag.
    pub eilbrt: U32,
    /// Expected Logical Block Application Tag.
    pub elbat: U16,
    /// Expected Logical Block Application Tag Mask.
    pub elbatm: U16,
}

const _: () = assert!(size_of::<CopyRange>() == 32);

impl CopyRange {
    /// `blocks` from `slba`, without protection information.
    pub fn new(slba: u64, blocks: BlockCount) -> Self {
        Self { slba: slba.into(), nlb: blocks.nlb().into(), ..Self::default() }
    }

    /// How many blocks.
    pub const fn blocks(&self) -> BlockCount {
        BlockCount::from_nlb(self.nlb.get())
    }
}

/// An I/O command as a controller reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Flush.
    Flush {
        /// Namespace, or `u32::MAX` for all.
        nsid: u32,
    },
    /// Write.
    Write(Access),
    /// Read.
    Read(Access),
    /// Write Uncorrectable.
    WriteUncorrectable(Access),
    /// Compare.
    Compare(Access),
    /// Write Zeroes.
    WriteZeroes(Access),
    /// Dataset Management.
    DatasetManagement(DatasetManagement),
    /// Verify.
    Verify(Access),
    /// Copy.
    Copy(Copy),
    /// Anything else.
    Unknown(Opcode),
}

impl Command {
    /// Reads an entry of an I/O submission queue.
    #[inline]
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        match Opcode(entry.opcode()) {
            Opcode::FLUSH => Self::Flush { nsid: entry.nsid() },
            Opcode::WRITE => Self::Write(Access::parse(entry)),
            Opcode::READ => Self::Read(Access::parse(entry)),
            Opcode::WRITE_UNCORRECTABLE => Self::WriteUncorrectable(Access::parse(entry)),
            Opcode::COMPARE => Self::Compare(Access::parse(entry)),
            Opcode::WRITE_ZEROES => Self::WriteZeroes(Access::parse(entry)),
            Opcode::DATASET_MANAGEMENT => Self::DatasetManagement(DatasetManagement::parse(entry)),
            Opcode::VERIFY => Self::Verify(Access::parse(entry)),
            Opcode::COPY => Self::Copy(Copy::parse(entry)),
            opcode => Self::Unknown(opcode),
        }
    }
}

#[cfg(test)]
mod tests;
