//! Submission and completion queue entries. NVMe Base 2.0 §3.3.3.

use super::status::Status;
use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bits! {
    /// Command Dword 0. NVMe Base 2.0 §3.3.3.1.
    pub struct Cdw0(u32);
    /// Opcode.
    opc / with_opc = [7:0] u8;
    /// Fused Operation: 0 none, 1 first command, 2 second command.
    fuse / with_fuse = [9:8] u8;
    /// PRP or SGL for Data Transfer, one of the `PSDT_` constants.
    psdt / with_psdt = [15:14] u8;
    /// Command Identifier.
    cid / with_cid = [31:16] u16;
}

impl Cdw0 {
    /// [`psdt`](Self::psdt): PRPs.
    pub const PSDT_PRP: u8 = 0;
    /// [`psdt`](Self::psdt): SGLs, metadata in one contiguous buffer.
    pub const PSDT_SGL: u8 = 1;
    /// [`psdt`](Self::psdt): SGLs, metadata by an SGL segment.
    pub const PSDT_SGL_METADATA: u8 = 2;
}

/// Submission queue entry, 64 bytes. NVMe Base 2.0 §3.3.3.1.
///
/// Held as it lies in memory: little-endian on every machine.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SubmissionEntry {
    cdw0: u32,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    mptr: u64,
    dptr: [u64; 2],
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
}

const _: () = assert!(size_of::<SubmissionEntry>() == 64);

macro_rules! dwords {
    ($($get:ident / $with:ident, $text:literal;)*) => {
        $(
            #[doc = $text]
            #[inline]
            pub const fn $get(&self) -> u32 {
                u32::from_le(self.$get)
            }

            #[doc = concat!("Sets [`", stringify!($get), "`](Self::", stringify!($get), ").")]
            #[inline]
            #[must_use]
            pub const fn $with(mut self, value: u32) -> Self {
                self.$get = value.to_le();
                self
            }
        )*
    };
}

impl SubmissionEntry {
    /// Size in bytes.
    pub const SIZE: usize = 64;

    /// A command with this opcode and all else zero.
    #[inline]
    pub const fn new(opcode: u8) -> Self {
        Self {
            cdw0: (opcode as u32).to_le(),
            nsid: 0,
            cdw2: 0,
            cdw3: 0,
            mptr: 0,
            dptr: [0; 2],
            cdw10: 0,
            cdw11: 0,
            cdw12: 0,
            cdw13: 0,
            cdw14: 0,
            cdw15: 0,
        }
    }

    /// Command Dword 0.
    #[inline]
    pub const fn cdw0(&self) -> Cdw0 {
        Cdw0::from_bits(u32::from_le(self.cdw0))
    }

    /// Sets [`cdw0`](Self::cdw0).
    #[inline]
    #[must_use]
    pub const fn with_cdw0(mut self, value: Cdw0) -> Self {
        self.cdw0 = value.bits().to_le();
        self
    }

    /// Opcode.
    #[inline]
    pub const fn opcode(&self) -> u8 {
        self.cdw0().opc()
    }

    /// Command Identifier.
    #[inline]
    pub const fn cid(&self) -> u16 {
        self.cdw0().cid()
    }

    /// Sets [`cid`](Self::cid).
    #[inline]
    #[must_use]
    pub const fn with_cid(self, cid: u16) -> Self {
        self.with_cdw0(self.cdw0().with_cid(cid))
    }

    /// Sets [`cid`](Self::cid) in place.
    #[inline]
    pub const fn set_cid(&mut self, cid: u16) {
        self.cdw0 = self.cdw0().with_cid(cid).bits().to_le();
    }

    dwords! {
        nsid / with_nsid, "Namespace Identifier; `u32::MAX` is the broadcast value.";
        cdw2 / with_cdw2, "Command Dword 2.";
        cdw3 / with_cdw3, "Command Dword 3.";
        cdw10 / with_cdw10, "Command Dword 10.";
        cdw11 / with_cdw11, "Command Dword 11.";
        cdw12 / with_cdw12, "Command Dword 12.";
        cdw13 / with_cdw13, "Command Dword 13.";
        cdw14 / with_cdw14, "Command Dword 14.";
        cdw15 / with_cdw15, "Command Dword 15.";
    }

    /// Command Dwords 10 (low) and 11 (high) as one number, as in a starting LBA.
    #[inline]
    pub const fn cdw10_11(&self) -> u64 {
        self.cdw10() as u64 | ((self.cdw11() as u64) << 32)
    }

    /// Sets [`cdw10_11`](Self::cdw10_11).
    #[inline]
    #[must_use]
    pub const fn with_cdw10_11(self, value: u64) -> Self {
        self.with_cdw10(value as u32).with_cdw11((value >> 32) as u32)
    }

    /// Metadata Pointer: an address.
    #[inline]
    pub const fn mptr(&self) -> u64 {
        u64::from_le(self.mptr)
    }

    /// Sets [`mptr`](Self::mptr).
    #[inline]
    #[must_use]
    pub const fn with_mptr(mut self, address: u64) -> Self {
        self.mptr = address.to_le();
        self
    }

    /// PRP Entry 1: an address. Means something where PSDT says PRPs.
    #[inline]
    pub const fn prp1(&self) -> u64 {
        u64::from_le(self.dptr[0])
    }

    /// PRP Entry 2: an address, of data or of a PRP list.
    #[inline]
    pub const fn prp2(&self) -> u64 {
        u64::from_le(self.dptr[1])
    }

    /// Points to data by PRPs (PSDT becomes 0).
    #[inline]
    #[must_use]
    pub const fn with_prps(mut self, prp1: u64, prp2: u64) -> Self {
        self.set_prps(prp1, prp2);
        self
    }

    /// Points to data by PRPs (PSDT becomes 0), in place.
    #[inline]
    pub const fn set_prps(&mut self, prp1: u64, prp2: u64) {
        self.cdw0 = self.cdw0().with_psdt(Cdw0::PSDT_PRP).bits().to_le();
        self.dptr = [prp1.to_le(), prp2.to_le()];
    }
}

impl fmt::Debug for SubmissionEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmissionEntry")
            .field("cdw0", &self.cdw0())
            .field("nsid", &self.nsid())
            .field("mptr", &format_args!("{:#x}", self.mptr()))
            .field("prp1", &format_args!("{:#x}", self.prp1()))
            .field("prp2", &format_args!("{:#x}", self.prp2()))
            .field("cdw10", &format_args!("{:#x}", self.cdw10()))
            .field("cdw11", &format_args!("{:#x}", self.cdw11()))
            .field("cdw12", &format_args!("{:#x}", self.cdw12()))
            .field("cdw13", &format_args!("{:#x}", self.cdw13()))
            .field("cdw14", &format_args!("{:#x}", self.cdw14()))
            .field("cdw15", &format_args!("{:#x}", self.cdw15()))
            .finish_non_exhaustive()
    }
}

bits! {
    /// Completion queue entry, Dword 2. NVMe Base 2.0 §3.3.3.2.
    pub struct CompletionDword2(u32);
    /// Submission Queue Head Pointer.
    sqhd / with_sqhd = [15:0] u16;
    /// Submission Queue Identifier.
    sqid / with_sqid = [31:16] u16;
}

bits! {
    /// Completion queue entry, Dword 3: the one that the controller writes last.
    /// NVMe Base 2.0 §3.3.3.2.
    pub struct CompletionDword3(u32);
    /// Command Identifier.
    cid / with_cid = [15:0] u16;
    /// Phase Tag.
    phase / with_phase = [16:16] bool;
    /// Status Field, raw; see [`status`](Self::status).
    status_bits / with_status_bits = [31:17] u16;
}

impl CompletionDword3 {
    /// Status Field.
    #[inline]
    pub const fn status(self) -> Status {
        Status::from_bits(self.status_bits())
    }

    /// Sets [`status`](Self::status).
    #[inline]
    #[must_use]
    pub const fn with_status(self, status: Status) -> Self {
        self.with_status_bits(status.bits())
    }
}

/// Completion queue entry, 16 bytes. NVMe Base 2.0 §3.3.3.2.
///
/// Held as it lies in memory: little-endian on every machine.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CompletionEntry {
    dw0: u32,
    dw1: u32,
    dw2: u32,
    dw3: u32,
}

const _: () = assert!(size_of::<CompletionEntry>() == 16);

impl CompletionEntry {
    /// Size in bytes.
    pub const SIZE: usize = 16;
    /// Offset of Dword 3, which holds the phase: read it before the rest.
    pub const DWORD3_OFFSET: usize = 12;

    /// An entry of its parts.
    #[inline]
    pub const fn new(result: u64, dw2: CompletionDword2, dw3: CompletionDword3) -> Self {
        Self {
            dw0: (result as u32).to_le(),
            dw1: ((result >> 32) as u32).to_le(),
            dw2: dw2.bits().to_le(),
            dw3: dw3.bits().to_le(),
        }
    }

    /// Dword 0, command specific.
    #[inline]
    pub const fn dw0(&self) -> u32 {
        u32::from_le(self.dw0)
    }

    /// Dword 1, command specific.
    #[inline]
    pub const fn dw1(&self) -> u32 {
        u32::from_le(self.dw1)
    }

    /// Dwords 0 (low) and 1 (high) as one number.
    #[inline]
    pub const fn result(&self) -> u64 {
        self.dw0() as u64 | ((self.dw1() as u64) << 32)
    }

    /// Dword 2.
    #[inline]
    pub const fn dw2(&self) -> CompletionDword2 {
        CompletionDword2::from_bits(u32::from_le(self.dw2))
    }

    /// Dword 3.
    #[inline]
    pub const fn dw3(&self) -> CompletionDword3 {
        CompletionDword3::from_bits(u32::from_le(self.dw3))
    }

    /// Submission Queue Head Pointer.
    #[inline]
    pub const fn sqhd(&self) -> u16 {
        self.dw2().sqhd()
    }

    /// Submission Queue Identifier.
    #[inline]
    pub const fn sqid(&self) -> u16 {
        self.dw2().sqid()
    }

    /// Command Identifier.
    #[inline]
    pub const fn cid(&self) -> u16 {
        self.dw3().cid()
    }

    /// Phase Tag.
    #[inline]
    pub const fn phase(&self) -> bool {
        self.dw3().phase()
    }

    /// Status Field.
    #[inline]
    pub const fn status(&self) -> Status {
        self.dw3().status()
    }
}

impl fmt::Debug for CompletionEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionEntry")
            .field("result", &format_args!("{:#x}", self.result()))
            .field("sqhd", &self.sqhd())
            .field("sqid", &self.sqid())
            .field("cid", &self.cid())
            .field("phase", &self.phase())
            .field("status", &self.status())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_alone() {
        check_fields!(Cdw0, CompletionDword2, CompletionDword3);
        assert_eq!(Cdw0::default().with_fuse(0xff).bits(), 0x300);
        assert_eq!(Cdw0::default().with_psdt(0xff).bits(), 0xc000);
        assert_eq!(CompletionDword3::default().with_phase(true).bits(), 0x1_0000);
        assert_eq!(CompletionDword3::default().with_status_bits(u16::MAX).bits(), 0xfffe_0000);
    }

    #[test]
    fn submission_entry_golden_bytes() {
        let mut bytes = [0u8; 64];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = at as u8;
        }
        bytes[1] = 0;
        let entry = SubmissionEntry::read_from_bytes(&bytes).unwrap();
        assert_eq!(entry.opcode(), 0x00);
        assert_eq!(entry.cid(), 0x0302);
        assert_eq!(entry.nsid(), 0x0706_0504);
        assert_eq!(entry.cdw2(), 0x0b0a_0908);
        assert_eq!(entry.cdw3(), 0x0f0e_0d0c);
        assert_eq!(entry.mptr(), 0x1716_1514_1312_1110);
        assert_eq!(entry.prp1(), 0x1f1e_1d1c_1b1a_1918);
        assert_eq!(entry.prp2(), 0x2726_2524_2322_2120);
        assert_eq!(entry.cdw10(), 0x2b2a_2928);
        assert_eq!(entry.cdw10_11(), 0x2f2e_2d2c_2b2a_2928);
        assert_eq!(entry.cdw12(), 0x3332_3130);
        assert_eq!(entry.cdw13(), 0x3736_3534);
        assert_eq!(entry.cdw14(), 0x3b3a_3938);
        assert_eq!(entry.cdw15(), 0x3f3e_3d3c);
        let built = SubmissionEntry::new(0)
            .with_cid(0x0302)
            .with_nsid(0x0706_0504)
            .with_cdw2(0x0b0a_0908)
            .with_cdw3(0x0f0e_0d0c)
            .with_mptr(0x1716_1514_1312_1110)
            .with_prps(0x1f1e_1d1c_1b1a_1918, 0x2726_2524_2322_2120)
            .with_cdw10_11(0x2f2e_2d2c_2b2a_2928)
            .with_cdw12(0x3332_3130)
            .with_cdw13(0x3736_3534)
            .with_cdw14(0x3b3a_3938)
            .with_cdw15(0x3f3e_3d3c);
        assert_eq!(built.as_bytes(), bytes);
    }

    #[test]
    fn completion_entry_golden_bytes() {
        let bytes = [
            0x78, 0x56, 0x34, 0x12, 0xf0, 0xde, 0xbc, 0x9a, 0x02, 0x01, 0x04, 0x03, 0x06, 0x05,
            0x01, 0x81,
        ];
        let entry = CompletionEntry::read_from_bytes(&bytes).unwrap();
        assert_eq!(entry.dw0(), 0x1234_5678);
        assert_eq!(entry.dw1(), 0x9abc_def0);
        assert_eq!(entry.sqhd(), 0x0102);
        assert_eq!(entry.sqid(), 0x0304);
        assert_eq!(entry.cid(), 0x0506);
        assert!(entry.phase());
        assert_eq!(entry.status(), Status::LBA_OUT_OF_RANGE.with_dnr(true));
        let built = CompletionEntry::new(
            0x9abc_def0_1234_5678,
            CompletionDword2::default().with_sqhd(0x0102).with_sqid(0x0304),
            CompletionDword3::default()
                .with_cid(0x0506)
                .with_phase(true)
                .with_status(Status::LBA_OUT_OF_RANGE.with_dnr(true)),
        );
        assert_eq!(built.as_bytes(), bytes);
    }
}
