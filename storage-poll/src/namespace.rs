//! A namespace and the commands on it.

use uniddrv::DmaBuf;
use uniddrv::block::{BlockInfo, SubmitError};
use uniddrv_spec::nvme::entry::SubmissionEntry;
use uniddrv_spec::nvme::identify::{IdentifyController, IdentifyNamespace};
use uniddrv_spec::nvme::io::{
    self, Access, BlockCount, Copy, CopyRange, DatasetManagement, DatasetRange, Flags, Opcode,
};
use zerocopy::IntoBytes;

/// An active namespace as it was when it was identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    nsid: u32,
    block_shift: u32,
    blocks: u64,
    metadata: Metadata,
    max_transfer: u32,
    max_blocks: u32,
    optional: Optional,
    copy: CopyLimits,
    write_protected: bool,
}

/// What becomes of the metadata of a namespace's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// The format has none.
    None,
    /// Protection information alone, which the controller inserts and strips (PRACT).
    Stripped {
        /// Whether it has reference tags (types 1 and 2): the low bits of each block's LBA.
        reference_tags: bool,
    },
    /// This many bytes a block in a buffer of their own, which this driver throws away and
    /// writes as zeroes.
    Separate(u16),
    /// This many bytes at the end of each block's data: a transfer of `n` blocks moves `n`
    /// times the block size and these.
    Interleaved(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Optional {
    compare: bool,
    verify: bool,
    write_zeroes: bool,
    dataset_management: bool,
    copy: bool,
    write_uncorrectable: bool,
    volatile_write_cache: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CopyLimits {
    ranges: u32,
    range_blocks: u32,
    blocks: u32,
}

/// A command that was checked against its namespace, ready for
/// [`IoQueue::submit`](crate::IoQueue::submit).
#[derive(Clone, Copy, Debug)]
pub struct Command {
    pub(crate) entry: SubmissionEntry,
    /// Bytes that it moves; 0 where it takes no buffer.
    pub(crate) len: usize,
    /// Metadata that it moves to or from a buffer of its own, in bytes.
    pub(crate) metadata: usize,
    pub(crate) writes: bool,
}

/// A namespace whose description cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NamespaceError {
    #[error("namespace {nsid} says that it uses LBA format {format}, which it does not have")]
    Format { nsid: u32, format: u8 },
    #[error(
        "namespace {nsid} has blocks of 2^{lbads} bytes; 512 bytes to {max} bytes (the largest \
         transfer) were expected"
    )]
    BlockSize { nsid: u32, lbads: u8, max: usize },
    #[error("namespace {nsid} has {blocks} blocks of {block_size} bytes, more than 2^64 bytes")]
    Size { nsid: u32, blocks: u64, block_size: u32 },
}

impl Namespace {
    /// Checks what the controller said. `max_transfer` in bytes.
    pub(crate) fn check(
        nsid: u32,
        said: &IdentifyNamespace,
        controller: &IdentifyController,
        max_transfer: usize,
    ) -> Result<Self, NamespaceError> {
        let format =
            said.format().ok_or(NamespaceError::Format { nsid, format: said.flbas.format() })?;
        let block_shift = u32::from(format.lbads);
        let block_size =
            1usize.checked_shl(block_shift).filter(|&size| (512..=max_transfer).contains(&size));
        let block_size = block_size.ok_or(NamespaceError::BlockSize {
            nsid,
            lbads: format.lbads,
            max: max_transfer,
        })? as u32;
        let blocks = said.nsze.get();
        if blocks.checked_mul(block_size.into()).is_none() {
            return Err(NamespaceError::Size { nsid, blocks, block_size });
        }
        let metadata = match format.ms.get() {
            0 => Metadata::None,
            8 if said.dps.pit() != 0 => {
                Metadata::Stripped { reference_tags: matches!(said.dps.pit(), 1 | 2) }
            }
            size if said.flbas.extended() => Metadata::Interleaved(size),
            size => Metadata::Separate(size),
        };
        let stride = match metadata {
            Metadata::Interleaved(size) => block_size + u32::from(size),
            _ => block_size,
        };
        let max_transfer = max_transfer.min(u32::MAX as usize) as u32;
        let max_blocks = (max_transfer / stride).min(BlockCount::MAX.get());
        let oncs = controller.oncs();
        Ok(Self {
            nsid,
            block_shift,
            blocks,
            metadata,
            max_transfer: max_blocks * stride,
            max_blocks,
            optional: Optional {
                compare: oncs.compare(),
                verify: oncs.verify(),
                write_zeroes: oncs.write_zeroes(),
                dataset_management: oncs.dataset_management(),
                copy: oncs.copy(),
                write_uncorrectable: oncs.write_uncorrectable(),
                volatile_write_cache: controller.vwc.present(),
            },
            copy: CopyLimits {
                ranges: u32::from(said.msrc) + 1,
                range_blocks: u32::from(said.mssrl.get()),
                blocks: said.mcl.get(),
            },
            write_protected: said.is_write_protected(),
        })
    }

    /// Its identifier.
    pub const fn nsid(&self) -> u32 {
        self.nsid
    }

    /// Data bytes in a block; a power of two from 512.
    pub const fn block_size(&self) -> u32 {
        1 << self.block_shift
    }

    /// How many blocks it has.
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// What becomes of its metadata.
    pub const fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// The most blocks that one read, write or compare moves.
    pub const fn max_blocks(&self) -> u32 {
        self.max_blocks
    }

    /// Whether it refuses writes.
    pub const fn is_write_protected(&self) -> bool {
        self.write_protected
    }

    /// As the block service describes it.
    pub const fn info(&self) -> BlockInfo {
        BlockInfo {
            block_size: self.block_size(),
            blocks: self.blocks,
            max_transfer: self.max_transfer,
            volatile_write_cache: self.optional.volatile_write_cache,
        }
    }

    /// Bytes that a transfer of `blocks` blocks moves.
    pub const fn transfer_len(&self, blocks: u32) -> usize {
        let data = (blocks as usize) << self.block_shift;
        match self.metadata {
            Metadata::Interleaved(size) => data + blocks as usize * size as usize,
            _ => data,
        }
    }

    /// Reads `blocks` blocks from `lba` on. NVM Command Set 1.0 §3.2.4.
    ///
    /// # Errors
    /// For no blocks, too many, or some that do not exist.
    #[inline]
    pub fn read(&self, lba: u64, blocks: u32) -> Result<Command, SubmitError> {
        self.transfer(Opcode::READ, lba, blocks, Flags::NONE, false)
    }

    /// Writes `blocks` blocks from `lba` on; with `fua`, to non-volatile media before it
    /// completes. NVM Command Set 1.0 §3.2.6.
    ///
    /// # Errors
    /// For no blocks, too many, or some that do not exist.
    #[inline]
    pub fn write(&self, lba: u64, blocks: u32, fua: bool) -> Result<Command, SubmitError> {
        self.transfer(Opcode::WRITE, lba, blocks, Flags::NONE.with_fua(fua), true)
    }

    /// Compares `blocks` blocks from `lba` on with the buffer: the status Compare Failure
    /// where they differ. NVM Command Set 1.0 §3.2.1.
    ///
    /// # Errors
    /// As for reading, and when the controller does not offer it.
    pub fn compare(&self, lba: u64, blocks: u32) -> Result<Command, SubmitError> {
        // The buffer would have to bring protection information along.
        offered(self.optional.compare && !matches!(self.metadata, Metadata::Stripped { .. }))?;
        self.transfer(Opcode::COMPARE, lba, blocks, Flags::NONE, true)
    }

    /// Has the controller read `blocks` blocks from `lba` on and check them, without moving
    /// any data. NVM Command Set 1.0 §3.2.5.
    ///
    /// # Errors
    /// For no blocks, more than 65,536, some that do not exist, and when not offered.
    pub fn verify(&self, lba: u64, blocks: u32) -> Result<Command, SubmitError> {
        offered(self.optional.verify)?;
        self.without_data(Opcode::VERIFY, lba, blocks, Flags::NONE, false)
    }

    /// Writes zeroes to `blocks` blocks from `lba` on; with `deallocate`, the controller may
    /// forget the blocks if they then read as zeroes. NVM Command Set 1.0 §3.2.8.
    ///
    /// # Errors
    /// As for [`verify`](Self::verify).
    pub fn write_zeroes(
        &self,
        lba: u64,
        blocks: u32,
        deallocate: bool,
    ) -> Result<Command, SubmitError> {
        offered(self.optional.write_zeroes)?;
        let flags = Flags::NONE.with_deac(deallocate);
        self.without_data(Opcode::WRITE_ZEROES, lba, blocks, flags, true)
    }

    /// Marks `blocks` blocks from `lba` on as unreadable. NVM Command Set 1.0 §3.2.7.
    ///
    /// # Errors
    /// As for [`verify`](Self::verify).
    pub fn write_uncorrectable(&self, lba: u64, blocks: u32) -> Result<Command, SubmitError> {
        offered(self.optional.write_uncorrectable)?;
        self.without_data(Opcode::WRITE_UNCORRECTABLE, lba, blocks, Flags::NONE, false)
    }

    /// Puts all that was written on non-volatile media. NVMe Base 2.0 §7.1.
    pub fn flush(&self) -> Command {
        Command { entry: io::flush(self.nsid), len: 0, metadata: 0, writes: true }
    }

    /// Lets the controller forget the blocks of `ranges` (first block and number of blocks
    /// each), which are written into `buffer`. NVM Command Set 1.0 §3.2.3.
    ///
    /// # Errors
    /// For no ranges or more than 256, a buffer shorter than 16 bytes a range, blocks that do
    /// not exist, and when not offered.
    pub fn deallocate(
        &self,
        ranges: &[(u64, u32)],
        buffer: &mut DmaBuf,
    ) -> Result<Command, SubmitError> {
        offered(self.optional.dataset_management)?;
        let command = DatasetManagement::deallocate(self.nsid, ranges.len());
        let command = command.ok_or(SubmitError::Unaligned(ranges.len()))?;
        for &(lba, blocks) in ranges {
            self.inside(lba, blocks.into())?;
        }
        let entries = ranges.iter().map(|&(lba, blocks)| DatasetRange::new(lba, blocks));
        let len = fill(buffer, entries)?;
        Ok(Command { entry: command.to_entry(), len, metadata: 0, writes: true })
    }

    /// Copies the blocks of `ranges` (first block and number of blocks each), one after the
    /// other, to `destination` and on; the ranges are written into `buffer`.
    /// NVM Command Set 1.0 §3.2.2.
    ///
    /// # Errors
    /// For no ranges or more than the namespace takes, a buffer shorter than 32 bytes a range,
    /// more blocks than it takes, some that do not exist, and when not offered.
    pub fn copy(
        &self,
        ranges: &[(u64, u32)],
        destination: u64,
        buffer: &mut DmaBuf,
    ) -> Result<Command, SubmitError> {
        // Reference tags would have to be those of each source range.
        offered(self.optional.copy && !matches!(self.metadata, Metadata::Stripped { .. }))?;
        let command = Copy::new(self.nsid, destination, ranges.len())
            .filter(|_| ranges.len() <= self.copy.ranges as usize)
            .ok_or(SubmitError::Unaligned(ranges.len()))?;
        let mut total = 0u64;
        for &(lba, blocks) in ranges {
            self.inside(lba, blocks.into())?;
            if blocks == 0 || blocks > self.copy.range_blocks {
                return Err(self.too_many(blocks.into(), self.copy.range_blocks));
            }
            total += u64::from(blocks);
        }
        if total > u64::from(self.copy.blocks) {
            return Err(self.too_many(total, self.copy.blocks));
        }
        self.inside(destination, total)?;
        let entries = ranges.iter().map(|&(lba, blocks)| {
            CopyRange::new(lba, BlockCount::new(blocks).unwrap_or(BlockCount::ONE))
        });
        let len = fill(buffer, entries)?;
        Ok(Command { entry: command.to_entry(), len, metadata: 0, writes: true })
    }

    #[inline]
    fn transfer(
        &self,
        opcode: Opcode,
        lba: u64,
        blocks: u32,
        flags: Flags,
        writes: bool,
    ) -> Result<Command, SubmitError> {
        if blocks > self.max_blocks {
            return Err(self.too_many(blocks.into(), self.max_blocks));
        }
        let count = BlockCount::new(blocks).ok_or(SubmitError::Unaligned(0))?;
        self.inside(lba, blocks.into())?;
        let metadata = match self.metadata {
            Metadata::Separate(size) => blocks as usize * usize::from(size),
            _ => 0,
        };
        let entry = self.protected(Access::new(self.nsid, lba, count, flags)).to_entry(opcode);
        Ok(Command { entry, len: self.transfer_len(blocks), metadata, writes })
    }

    fn without_data(
        &self,
        opcode: Opcode,
        lba: u64,
        blocks: u32,
        flags: Flags,
        protect: bool,
    ) -> Result<Command, SubmitError> {
        let count = match BlockCount::new(blocks) {
            Some(count) => count,
            None if blocks == 0 => return Err(SubmitError::Unaligned(0)),
            None => return Err(self.too_many(blocks.into(), BlockCount::MAX.get())),
        };
        self.inside(lba, blocks.into())?;
        let access = Access::new(self.nsid, lba, count, flags);
        let entry = if protect { self.protected(access) } else { access }.to_entry(opcode);
        Ok(Command { entry, len: 0, metadata: 0, writes: true })
    }

    /// Has the controller insert, check and strip protection information.
    #[inline]
    fn protected(&self, access: Access) -> Access {
        match self.metadata {
            Metadata::Stripped { reference_tags } => Access {
                flags: access.flags.with_pract(true),
                reference_tag: if reference_tags { access.slba as u32 } else { 0 },
                ..access
            },
            _ => access,
        }
    }

    #[inline]
    fn inside(&self, lba: u64, blocks: u64) -> Result<(), SubmitError> {
        match lba.checked_add(blocks) {
            Some(end) if end <= self.blocks => Ok(()),
            _ => Err(SubmitError::OutOfRange { lba, blocks, available: self.blocks }),
        }
    }

    fn too_many(&self, blocks: u64, max: u32) -> SubmitError {
        let bytes = |blocks: u64| blocks.saturating_mul(self.block_size().into());
        SubmitError::TooLarge {
            len: usize::try_from(bytes(blocks)).unwrap_or(usize::MAX),
            max: u32::try_from(bytes(max.into())).unwrap_or(u32::MAX),
        }
    }
}

fn offered(offered: bool) -> Result<(), SubmitError> {
    if offered { Ok(()) } else { Err(SubmitError::Unsupported) }
}

/// Writes `entries` to the start of `buffer`. How many bytes they take.
fn fill<T: IntoBytes + zerocopy::Immutable>(
    buffer: &mut DmaBuf,
    entries: impl ExactSizeIterator<Item = T>,
) -> Result<usize, SubmitError> {
    let len = entries.len() * size_of::<T>();
    let bytes = buffer.as_mut_slice().get_mut(..len).ok_or(SubmitError::Buffer)?;
    for (place, entry) in bytes.chunks_exact_mut(size_of::<T>()).zip(entries) {
        place.copy_from_slice(entry.as_bytes());
    }
    Ok(len)
}

#[cfg(test)]
mod tests;
