//! A namespace: its blocks, its format, its identity.

use std::collections::BTreeMap;
use std::ops::Range;

use uniddrv_spec::nvme::status::Status;

use super::backing::Backing;

/// The LBA formats, as powers of two of bytes, in the order of their indices.
pub(super) const FORMATS: [u8; 2] = [9, 12];

/// A namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    nsid: u32,
    format: u8,
    bytes: u64,
    capacity: u64,
    /// False for one that was taken away from this controller.
    pub(super) attached: bool,
    /// Its blocks.
    pub(super) backing: Backing,
    /// Blocks that Write Uncorrectable has made unreadable.
    pub(super) bad: BadBlocks,
}

/// Ranges of unreadable blocks.
#[derive(Debug, Default)]
pub(super) struct BadBlocks {
    // End by start; they do not overlap.
    ranges: BTreeMap<u64, u64>,
}

/// The most ranges of unreadable blocks in a namespace: the bound on what a hostile client
/// makes this process keep.
const BAD_RANGES: usize = 65_536;

impl Namespace {
    /// The namespace `nsid` of `bytes` bytes in blocks of `block_size`, 512 or 4096.
    pub(super) fn new(nsid: u32, block_size: u32, bytes: u64, backing: Backing) -> Self {
        let format = u8::from(block_size != 512);
        let bad = BadBlocks::default();
        Self { nsid, format, bytes, capacity: bytes, attached: true, backing, bad }
    }

    pub(super) fn nsid(&self) -> u32 {
        self.nsid
    }

    /// Index of the LBA format in use.
    pub(super) fn format(&self) -> u8 {
        self.format
    }

    /// Bytes of a block, as a power of two.
    #[inline]
    pub(super) fn shift(&self) -> u32 {
        if self.format == 0 { 9 } else { 12 }
    }

    /// How many blocks there are.
    #[inline]
    pub(super) fn blocks(&self) -> u64 {
        self.bytes >> self.shift()
    }

    /// Bytes in all.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Byte offset of `blocks` blocks from `slba` on, and how many bytes they are.
    #[inline]
    pub(super) fn extent(&self, slba: u64, blocks: u32) -> Result<(u64, u64), Status> {
        let blocks = u64::from(blocks);
        if slba.checked_add(blocks).is_none_or(|end| end > self.blocks()) {
            return Err(Status::LBA_OUT_OF_RANGE.with_dnr(true));
        }
        Ok((slba << self.shift(), blocks << self.shift()))
    }

    /// Takes another LBA format; all blocks are zero then.
    pub(super) fn reformat(&mut self, format: u8) -> Result<(), Status> {
        self.backing.clear(0, self.bytes)?;
        self.backing.flush()?;
        self.format = format;
        self.bad = BadBlocks::default();
        Ok(())
    }

    /// Takes another size, of at most what it was made with.
    pub(super) fn resize(&mut self, bytes: u64) {
        self.bytes = bytes.min(self.capacity);
    }

    /// EUI-64 and NGUID, big-endian: they follow from the controller's serial number.
    pub(super) fn identifiers(&self, serial: &str) -> ([u8; 8], [u8; 16]) {
        // FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/
        let serial = serial.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let eui = (serial.rotate_left(32) ^ u64::from(self.nsid)).to_be_bytes();
        let mut nguid = [0; 16];
        nguid[..8].copy_from_slice(&serial.to_be_bytes());
        nguid[8..].copy_from_slice(&eui);
        (eui, nguid)
    }
}

impl BadBlocks {
    /// Whether one of `blocks` is unreadable.
    #[inline]
    pub(super) fn touches(&self, slba: u64, blocks: u32) -> bool {
        !self.ranges.is_empty() && self.first_in(&(slba..slba + u64::from(blocks))).is_some()
    }

    /// Makes blocks unreadable.
    pub(super) fn add(&mut self, slba: u64, blocks: u32) -> Result<(), Status> {
        self.remove(slba, blocks)?;
        if self.ranges.len() >= BAD_RANGES {
            return Err(Status::WRITE_FAULT);
        }
        self.ranges.insert(slba, slba + u64::from(blocks));
        Ok(())
    }

    /// Makes blocks readable again, since they were written.
    pub(super) fn remove(&mut self, slba: u64, blocks: u32) -> Result<(), Status> {
        let removed = slba..slba + u64::from(blocks);
        while let Some((start, end)) = self.first_in(&removed) {
            let splits = start < removed.start && end > removed.end;
            if splits && self.ranges.len() >= BAD_RANGES {
                return Err(Status::WRITE_FAULT);
            }
            self.ranges.remove(&start);
            if start < removed.start {
                self.ranges.insert(start, removed.start);
            }
            if end > removed.end {
                self.ranges.insert(removed.end, end);
            }
        }
        Ok(())
    }

    fn first_in(&self, range: &Range<u64>) -> Option<(u64, u64)> {
        let (&start, &end) = self.ranges.range(..range.end).next_back()?;
        (end > range.start).then_some((start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_lie_inside() {
        let namespace = Namespace::new(1, 4096, 1 << 20, Backing::Null);
        assert_eq!(namespace.blocks(), 256);
        assert_eq!(namespace.extent(255, 1), Ok((255 << 12, 4096)));
        for (slba, blocks) in [(256, 1), (255, 2), (u64::MAX, 1), (u64::MAX, 65_536), (0, 257)] {
            let error = namespace.extent(slba, blocks).unwrap_err();
            assert_eq!(error.code(), Status::LBA_OUT_OF_RANGE);
        }
    }

    #[test]
    fn bad_blocks_are_split_and_healed() {
        let mut bad = BadBlocks::default();
        bad.add(10, 10).unwrap();
        bad.remove(14, 2).unwrap();
        let touched: Vec<_> = (8..22).filter(|&lba| bad.touches(lba, 1)).collect();
        assert_eq!(touched, [10, 11, 12, 13, 16, 17, 18, 19]);
        assert!(bad.touches(0, 11) && bad.touches(13, 3) && !bad.touches(14, 2));
        bad.add(12, 6).unwrap();
        assert!(bad.touches(14, 2));
        bad.remove(0, 100).unwrap();
        assert!(bad.ranges.is_empty());
    }

    #[test]
    fn bad_blocks_are_limited() {
        let mut bad = BadBlocks::default();
        for index in 0..BAD_RANGES as u64 {
            bad.add(index * 2, 1).unwrap();
        }
        assert_eq!(bad.add(1 << 40, 1), Err(Status::WRITE_FAULT));
        bad.remove(0, 1).unwrap();
        bad.add(1 << 40, 3).unwrap();
        assert_eq!(bad.remove((1 << 40) + 1, 1), Err(Status::WRITE_FAULT));
    }

    #[test]
    fn identifiers_differ() {
        let first = Namespace::new(1, 512, 512, Backing::Null);
        let second = Namespace::new(2, 512, 512, Backing::Null);
        assert_ne!(first.identifiers("A"), second.identifiers("A"));
        assert_ne!(first.identifiers("A"), first.identifiers("B"));
    }
}
