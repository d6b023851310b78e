//! Scatter Gather Lists. NVMe Base 2.0 §4.1.2.

use super::entry::{Cdw0, SubmissionEntry};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// SGL descriptor, 16 bytes, as it lies in memory. NVMe Base 2.0 §4.1.2.1.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Descriptor {
    low: u64,
    high: u64,
}

const _: () = assert!(size_of::<Descriptor>() == 16);

bits! {
    /// Bytes 8 to 15 of a descriptor that holds no key.
    pub struct Tail(u64);
    /// Length in bytes.
    length / with_length = [31:0] u32;
    /// SGL Descriptor Sub Type.
    subtype / with_subtype = [59:56] u8;
    /// SGL Descriptor Type.
    kind / with_kind = [63:60] u8;
}

bits! {
    /// Bytes 8 to 15 of a Keyed SGL Data Block descriptor.
    pub struct KeyedTail(u64);
    /// Length in bytes.
    length / with_length = [23:0] u32;
    /// Key.
    key / with_key = [55:24] u32;
    /// SGL Descriptor Sub Type.
    subtype / with_subtype = [59:56] u8;
    /// SGL Descriptor Type.
    kind / with_kind = [63:60] u8;
}

const DATA_BLOCK: u8 = 0x0;
const BIT_BUCKET: u8 = 0x1;
const SEGMENT: u8 = 0x2;
const LAST_SEGMENT: u8 = 0x3;
const KEYED_DATA_BLOCK: u8 = 0x4;
const TRANSPORT_DATA_BLOCK: u8 = 0x5;

/// What a descriptor says. Lengths are in bytes. The sub type is 0 (an address) but
/// in [`Unknown`](Self::Unknown), and in [`TransportDataBlock`](Self::TransportDataBlock),
/// where it is Ah.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sgl {
    /// Data (type 0h).
    DataBlock {
        /// Where it lies.
        address: u64,
        /// How long it is; 0 is allowed and means nothing.
        length: u32,
    },
    /// Data to be left out of a read (type 1h).
    BitBucket {
        /// How much of it.
        length: u32,
    },
    /// More descriptors, the last of which leads to yet more (type 2h).
    Segment {
        /// Where they lie.
        address: u64,
        /// How long they are, a multiple of 16 and not 0 if the host keeps to the standard.
        length: u32,
    },
    /// The last descriptors (type 3h).
    LastSegment {
        /// Where they lie.
        address: u64,
        /// How long they are, a multiple of 16 and not 0 if the host keeps to the standard.
        length: u32,
    },
    /// Data with a key (type 4h); no meaning on PCIe.
    KeyedDataBlock {
        /// Where it lies.
        address: u64,
        /// How long it is, 24 bits.
        length: u32,
        /// The key.
        key: u32,
    },
    /// Data that the transport carries (type 5h); no meaning on PCIe.
    TransportDataBlock {
        /// How long it is.
        length: u32,
    },
    /// Another type, or a sub type that is not the type's.
    Unknown {
        /// Type, 4 bits.
        kind: u8,
        /// Sub type, 4 bits.
        subtype: u8,
    },
}

impl Descriptor {
    /// Size in bytes.
    pub const SIZE: usize = 16;

    /// Data at `address`.
    #[inline]
    pub const fn data_block(address: u64, length: u32) -> Self {
        Self::plain(DATA_BLOCK, address, length)
    }

    /// `length` bytes of a read to leave out.
    pub const fn bit_bucket(length: u32) -> Self {
        Self::plain(BIT_BUCKET, 0, length)
    }

    /// A segment, not the last, of `length` bytes: a multiple of 16.
    pub const fn segment(address: u64, length: u32) -> Self {
        Self::plain(SEGMENT, address, length)
    }

    /// The last segment, of `length` bytes: a multiple of 16.
    #[inline]
    pub const fn last_segment(address: u64, length: u32) -> Self {
        Self::plain(LAST_SEGMENT, address, length)
    }

    /// Data with a key; `length` keeps its low 24 bits.
    pub const fn keyed_data_block(address: u64, length: u32, key: u32) -> Self {
        let tail = KeyedTail::from_bits(0).with_kind(KEYED_DATA_BLOCK);
        Self::raw(address, tail.with_length(length).with_key(key).bits())
    }

    /// Data that the transport carries.
    pub const fn transport_data_block(length: u32) -> Self {
        let tail = Tail::from_bits(0).with_kind(TRANSPORT_DATA_BLOCK).with_subtype(0xa);
        Self::raw(0, tail.with_length(length).bits())
    }

    #[inline]
    const fn plain(kind: u8, address: u64, length: u32) -> Self {
        Self::raw(address, Tail::from_bits(0).with_kind(kind).with_length(length).bits())
    }

    #[inline]
    const fn raw(low: u64, high: u64) -> Self {
        Self { low: low.to_le(), high: high.to_le() }
    }

    /// What the descriptor says.
    pub const fn parse(self) -> Sgl {
        let address = u64::from_le(self.low);
        let tail = Tail::from_bits(u64::from_le(self.high));
        let length = tail.length();
        match (tail.kind(), tail.subtype()) {
            (DATA_BLOCK, 0) => Sgl::DataBlock { address, length },
            (BIT_BUCKET, 0) => Sgl::BitBucket { length },
            (SEGMENT, 0) => Sgl::Segment { address, length },
            (LAST_SEGMENT, 0) => Sgl::LastSegment { address, length },
            (KEYED_DATA_BLOCK, 0) => {
                let tail = KeyedTail::from_bits(tail.bits());
                Sgl::KeyedDataBlock { address, length: tail.length(), key: tail.key() }
            }
            (TRANSPORT_DATA_BLOCK, 0xa) => Sgl::TransportDataBlock { length },
            (kind, subtype) => Sgl::Unknown { kind, subtype },
        }
    }
}

impl SubmissionEntry {
    /// SGL Entry 1, where PSDT says SGLs.
    pub const fn sgl1(&self) -> Descriptor {
        Descriptor::raw(self.prp1(), self.prp2())
    }

    /// Points to data by an SGL (PSDT becomes 1), in place.
    #[inline]
    pub const fn set_sgl1(&mut self, descriptor: Descriptor) {
        // The data pointer has one place; only PSDT tells PRPs and SGLs apart.
        self.set_prps(u64::from_le(descriptor.low), u64::from_le(descriptor.high));
        *self = self.with_cdw0(self.cdw0().with_psdt(Cdw0::PSDT_SGL));
    }

    /// Points to data by an SGL (PSDT becomes 1).
    #[inline]
    #[must_use]
    pub const fn with_sgl1(mut self, descriptor: Descriptor) -> Self {
        self.set_sgl1(descriptor);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_stand_alone() {
        check_fields!(Tail, KeyedTail);
    }

    #[test]
    fn golden_bytes_both_ways() {
        let address = 0x0807_0605_0403_0201;
        let length = 0x1413_1211;
        let plain = |kind: u8| [1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0, 0, 0, kind];
        let key = 0x2423_2221;
        let length24 = 0x13_1211;
        let cases = [
            (
                Descriptor::data_block(address, length),
                plain(0x00),
                Sgl::DataBlock { address, length },
            ),
            (Descriptor::segment(address, length), plain(0x20), Sgl::Segment { address, length }),
            (
                Descriptor::last_segment(address, length),
                plain(0x30),
                Sgl::LastSegment { address, length },
            ),
            (
                Descriptor::bit_bucket(length),
                [0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x12, 0x13, 0x14, 0, 0, 0, 0x10],
                Sgl::BitBucket { length },
            ),
            (
                Descriptor::keyed_data_block(address, length24, key),
                [1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x21, 0x22, 0x23, 0x24, 0x40],
                Sgl::KeyedDataBlock { address, length: length24, key },
            ),
            (
                Descriptor::transport_data_block(length),
                [0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x12, 0x13, 0x14, 0, 0, 0, 0x5a],
                Sgl::TransportDataBlock { length },
            ),
        ];
        for (built, bytes, parsed) in cases {
            assert_eq!(built.as_bytes(), bytes, "{parsed:?}");
            assert_eq!(Descriptor::read_from_bytes(&bytes).unwrap().parse(), parsed);
        }
        let unknown = Descriptor::read_from_bytes(&plain(0x01)).unwrap();
        assert_eq!(unknown.parse(), Sgl::Unknown { kind: 0, subtype: 1 });
    }

    #[test]
    fn in_a_submission_entry() {
        let descriptor = Descriptor::data_block(0x1234_5000, 4096);
        let entry = SubmissionEntry::new(2).with_cid(7).with_sgl1(descriptor);
        assert_eq!(entry.sgl1(), descriptor);
        assert_eq!((entry.cdw0().psdt(), entry.cid(), entry.opcode()), (Cdw0::PSDT_SGL, 7, 2));
        assert_eq!(entry.as_bytes()[24..40], *descriptor.as_bytes());
        assert_eq!(entry.with_prps(1, 2).cdw0().psdt(), Cdw0::PSDT_PRP);
    }

    proptest! {
        #[test]
        fn any_bytes_parse(bytes in any::<[u8; 16]>()) {
            let descriptor = Descriptor::read_from_bytes(&bytes).unwrap();
            let rebuilt = match descriptor.parse() {
                Sgl::DataBlock { address, length } => Descriptor::data_block(address, length),
                Sgl::BitBucket { length } => Descriptor::bit_bucket(length),
                Sgl::Segment { address, length } => Descriptor::segment(address, length),
                Sgl::LastSegment { address, length } => Descriptor::last_segment(address, length),
                Sgl::KeyedDataBlock { address, length, key } => {
                    Descriptor::keyed_data_block(address, length, key)
                }
                Sgl::TransportDataBlock { length } => Descriptor::transport_data_block(length),
                Sgl::Unknown { kind, subtype } => {
                    prop_assert_eq!(bytes[15], (kind << 4) | subtype);
                    return Ok(());
                }
            };
            prop_assert_eq!(rebuilt.parse(), descriptor.parse());
        }
    }
}
