//! Message signalled interrupts: the MSI-X capability. PCI Local Bus 3.0 §6.8.2.

use super::capability::CapabilityId;
use core::fmt;
use core::ops::Range;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// MSI-X capability, 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Msix {
    /// Capability ID: 11h.
    pub id: u8,
    /// Next capability.
    pub next: u8,
    /// Message Control.
    pub control: U16,
    /// Table Offset and Table BIR.
    pub table: U32,
    /// PBA Offset and PBA BIR.
    pub pba: U32,
}

const _: () = assert!(size_of::<Msix>() == 12);

bits! {
    /// Message Control, at offset 2 of the capability. PCI Local Bus 3.0 §6.8.2.3.
    pub struct MsixControl(u16) @ 0x02;
    /// Table Size, 0's based.
    table_size / with_table_size = [10:0] u16;
    /// Function Mask: all vectors are masked.
    function_mask / with_function_mask = [14:14] bool;
    /// MSI-X Enable.
    enable / with_enable = [15:15] bool;
}

bits! {
    /// Where a structure lies: a BAR, and an offset in it. PCI Local Bus 3.0 §6.8.2.4.
    pub struct Location(u32);
    /// BIR: the BAR, 0 to 5.
    bir / with_bir = [2:0] u8;
    /// Offset in units of 8 bytes.
    qwords / with_qwords = [31:3] u32;
}

impl Location {
    /// At byte `offset`, a multiple of 8, of BAR `bir`.
    pub const fn new(bir: u8, offset: u32) -> Self {
        Self::from_bits(0).with_bir(bir).with_qwords(offset >> 3)
    }

    /// Offset in bytes.
    pub const fn offset(self) -> u32 {
        self.qwords() << 3
    }

    /// The bytes that `length` of them from here take in their BAR.
    pub const fn range(self, length: u64) -> Range<u64> {
        self.offset() as u64..self.offset() as u64 + length
    }
}

impl Msix {
    /// A capability for `vectors` (1 to 2048) vectors; `None` for another number.
    pub const fn new(vectors: u16, table: Location, pba: Location) -> Option<Self> {
        if vectors == 0 || vectors > 2048 {
            return None;
        }
        let control = MsixControl::from_bits(0).with_table_size(vectors - 1);
        Some(Self {
            id: CapabilityId::MSI_X.0,
            next: 0,
            control: U16::new(control.bits()),
            table: U32::new(table.bits()),
            pba: U32::new(pba.bits()),
        })
    }

    /// Message Control.
    pub const fn control(&self) -> MsixControl {
        MsixControl::from_bits(self.control.get())
    }

    /// Where the table lies: [`vectors`](Self::vectors) [`TableEntry`]s.
    pub const fn table(&self) -> Location {
        Location::from_bits(self.table.get())
    }

    /// Where the Pending Bit Array lies: a bit a vector, in whole qwords.
    pub const fn pba(&self) -> Location {
        Location::from_bits(self.pba.get())
    }

    /// How many vectors there are: 1 to 2048.
    pub const fn vectors(&self) -> u16 {
        self.control().table_size() + 1
    }

    /// Bytes of its BAR that the table takes. The BAR may not have them: check.
    pub const fn table_range(&self) -> Range<u64> {
        self.table().range(self.vectors() as u64 * TableEntry::SIZE as u64)
    }

    /// Bytes of its BAR that the Pending Bit Array takes. The BAR may not have them: check.
    pub const fn pba_range(&self) -> Range<u64> {
        self.pba().range((self.vectors() as u64).div_ceil(64) * 8)
    }

    /// Checks the claims against the sizes of the BARs in bytes, 0 for one that is not
    /// there.
    pub fn check(&self, bars: &[u64; super::bar::COUNT]) -> Result<(), LocationError> {
        let table = (self.table().bir(), self.table_range());
        let pba = (self.pba().bir(), self.pba_range());
        for (bir, range) in [&table, &pba] {
            let size = bars.get(usize::from(*bir)).copied().unwrap_or(0);
            if range.end > size {
                return Err(LocationError { bir: *bir, offset: range.start, end: range.end, size });
            }
        }
        Ok(())
    }
}

/// An MSI-X structure that lies outside of its BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocationError {
    /// The BAR, as claimed.
    pub bir: u8,
    /// Where the structure begins, in bytes.
    pub offset: u64,
    /// Where it ends, in bytes.
    pub end: u64,
    /// Size of that BAR in bytes, 0 where there is none.
    pub size: u64,
}

impl fmt::Display for LocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MSI-X structure at {:#x}..{:#x} of BAR {}, which has {:#x} bytes",
            self.offset, self.end, self.bir, self.size
        )
    }
}

impl core::error::Error for LocationError {}

/// MSI-X table entry, 16 bytes. PCI Local Bus 3.0 §6.8.2.6 to §6.8.2.9.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TableEntry {
    /// Message Address.
    pub address: U64,
    /// Message Data.
    pub data: U32,
    /// Vector Control.
    pub control: U32,
}

const _: () = assert!(size_of::<TableEntry>() == TableEntry::SIZE);

impl TableEntry {
    /// Size in bytes.
    pub const SIZE: usize = 16;

    /// Vector Control.
    pub const fn control(&self) -> VectorControl {
        VectorControl::from_bits(self.control.get())
    }
}

bits! {
    /// Vector Control of a table entry.
    pub struct VectorControl(u32);
    /// Mask: no message is sent.
    mask / with_mask = [0:0] bool;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn fields_stand_alone() {
        check_fields!(MsixControl, Location, VectorControl);
        assert_eq!(MsixControl::default().with_table_size(u16::MAX).bits(), 0x7ff);
        assert_eq!(MsixControl::default().with_function_mask(true).bits(), 0x4000);
        assert_eq!(MsixControl::default().with_enable(true).bits(), 0x8000);
    }

    #[test]
    fn golden_bytes_both_ways() {
        let bytes = [0x11, 0x80, 0x40, 0x00, 0x04, 0x20, 0x00, 0x00, 0x04, 0x30, 0x00, 0x00];
        let read = Msix::read_from_bytes(&bytes).unwrap();
        assert_eq!(read.vectors(), 65);
        assert_eq!((read.table().bir(), read.table().offset()), (4, 0x2000));
        assert_eq!(read.table_range(), 0x2000..0x2410);
        assert_eq!(read.pba_range(), 0x3000..0x3010);
        let built = Msix::new(65, Location::new(4, 0x2000), Location::new(4, 0x3000)).unwrap();
        assert_eq!(Msix { next: 0x80, ..built }.as_bytes(), bytes);
        assert_eq!(Msix::new(0, Location::default(), Location::default()), None);
        assert_eq!(Msix::new(2049, Location::default(), Location::default()), None);
        let entry = TableEntry {
            address: 0x0807_0605_0403_0201.into(),
            data: 0x1413_1211.into(),
            control: VectorControl::default().with_mask(true).bits().into(),
        };
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 1, 0, 0, 0];
        assert_eq!(entry.as_bytes(), bytes);
        assert!(TableEntry::read_from_bytes(&bytes).unwrap().control().mask());
    }

    #[test]
    fn claims_are_checked() {
        let msix = Msix::new(2, Location::new(1, 0xff0), Location::new(1, 0)).unwrap();
        assert_eq!(msix.check(&[0, 0x1010, 0, 0, 0, 0]), Ok(()));
        let error = msix.check(&[0, 0x1000, 0, 0, 0, 0]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "MSI-X structure at 0xff0..0x1010 of BAR 1, which has 0x1000 bytes"
        );
        let nowhere = Msix::new(1, Location::new(7, 0), Location::new(1, 0)).unwrap();
        assert!(nowhere.check(&[u64::MAX; 6]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_check(bytes in any::<[u8; 12]>(), bars in any::<[u64; 6]>()) {
            let msix = Msix::read_from_bytes(&bytes).unwrap();
            prop_assert!((1..=2048).contains(&msix.vectors()));
            if msix.check(&bars).is_ok() {
                prop_assert!(msix.table_range().end <= bars[usize::from(msix.table().bir())]);
            }
        }
    }
}
