//! Blocks in memory.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, fallocate, ftruncate, memfd_create};
use uniddrv_spec::nvme::status::Status;
use vm_memory::VolatileSlice;

use super::{BackingError, HOLE, PIECE, ZEROES};
use crate::host::Pinned;

const PAGE: u64 = 4096;

/// Blocks in a memfd, which is sparse: what was never written takes no memory. (A look at a
/// hole of a mapped memfd would fill it, hence the bits.)
#[derive(Debug)]
pub(in crate::nvme) struct Ram {
    fd: OwnedFd,
    memory: Pinned,
    // A bit for each page: whether it was written since it was last a hole.
    written: Vec<u64>,
}

impl Ram {
    /// `size` bytes.
    pub(super) fn new(size: u64) -> Result<Self, BackingError> {
        let error = |error: rustix::io::Errno| BackingError::Memory { size, error: error.into() };
        let fd = memfd_create("uniddrv-nvme", MemfdFlags::CLOEXEC).map_err(error)?;
        ftruncate(&fd, size).map_err(error)?;
        let memory = Pinned::own(fd.as_fd(), size as usize)
            .map_err(|error| BackingError::Map { size, error })?;
        let words = size.div_ceil(PAGE).div_ceil(64) as usize;
        let mut written = Vec::new();
        written.try_reserve_exact(words).map_err(|_| error(rustix::io::Errno::NOMEM))?;
        written.resize(words, 0);
        Ok(Self { fd, memory, written })
    }

    #[inline]
    fn is_written(&self, page: u64) -> bool {
        self.written.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    #[inline]
    fn set_written(&mut self, page: u64, written: bool) {
        if let Some(word) = self.written.get_mut((page / 64) as usize) {
            let bit = 1 << (page % 64);
            *word = if written { *word | bit } else { *word & !bit };
        }
    }

    #[inline]
    fn slice(&self, offset: u64, len: usize) -> Result<VolatileSlice<'_>, Status> {
        self.memory
            .slice()
            .and_then(|slice| slice.subslice(offset as usize, len).ok())
            .ok_or(Status::INTERNAL_ERROR)
    }

    /// Calls `f` with the place in `len` bytes and the memory of each piece that lies in one
    /// page; with no memory for a hole.
    #[inline]
    fn each_page(
        &self,
        offset: u64,
        len: usize,
        mut f: impl FnMut(usize, usize, Option<VolatileSlice<'_>>) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let mut done = 0;
        while done < len {
            let place = offset + done as u64;
            let piece = ((PAGE - place % PAGE) as usize).min(len - done);
            let slice =
                if self.is_written(place / PAGE) { Some(self.slice(place, piece)?) } else { None };
            f(done, piece, slice)?;
            done += piece;
        }
        Ok(())
    }

    /// Reads into the client's memory.
    #[inline]
    pub(super) fn read(&self, offset: u64, to: VolatileSlice<'_>) -> Result<(), Status> {
        self.each_page(offset, to.len(), |done, piece, from| {
            let to = to.subslice(done, piece).map_err(|_| Status::INTERNAL_ERROR)?;
            match from {
                Some(from) => from.copy_to_volatile_slice(to),
                None => to.copy_from(ZEROES.get(..piece).unwrap_or_default()),
            }
            Ok(())
        })
    }

    /// Writes from the client's memory.
    #[inline]
    pub(super) fn write(&mut self, offset: u64, from: VolatileSlice<'_>) -> Result<(), Status> {
        from.copy_to_volatile_slice(self.slice(offset, from.len())?);
        self.mark(offset, from.len());
        Ok(())
    }

    fn mark(&mut self, offset: u64, len: usize) {
        let end = (offset + len as u64).div_ceil(PAGE);
        (offset / PAGE..end).for_each(|page| self.set_written(page, true));
    }

    /// Copies out.
    pub(super) fn load(&self, offset: u64, to: &mut [u8]) -> Result<(), Status> {
        self.each_page(offset, to.len(), |done, piece, from| {
            let to = to.get_mut(done..done + piece).ok_or(Status::INTERNAL_ERROR)?;
            match from {
                Some(from) => {
                    from.copy_to(to);
                }
                None => to.fill(0),
            }
            Ok(())
        })
    }

    /// Copies in.
    pub(super) fn store(&mut self, offset: u64, from: &[u8]) -> Result<(), Status> {
        self.slice(offset, from.len())?.copy_from(from);
        self.mark(offset, from.len());
        Ok(())
    }

    /// Clears, giving memory back where there is more than a little of it.
    pub(super) fn clear(&mut self, offset: u64, len: u64) -> Result<(), Status> {
        if len <= PIECE as u64 {
            return self.each_page(offset, len as usize, |_, piece, memory| {
                if let Some(memory) = memory {
                    memory.copy_from(ZEROES.get(..piece).unwrap_or_default());
                }
                Ok(())
            });
        }
        fallocate(&self.fd, HOLE, offset, len).map_err(|error| {
            tracing::warn!(%error, "clearing memory failed");
            Status::WRITE_FAULT
        })?;
        let mut page = offset.div_ceil(PAGE);
        let end = (offset + len) / PAGE;
        while page < end {
            // Whole words at once: the hole may be large.
            if page.is_multiple_of(64) && end - page >= 64 {
                if let Some(word) = self.written.get_mut((page / 64) as usize) {
                    *word = 0;
                }
                page += 64;
            } else {
                self.set_written(page, false);
                page += 1;
            }
        }
        Ok(())
    }

    /// Whether the page at `offset` takes memory.
    #[cfg(test)]
    pub(super) fn takes_memory(&self, offset: u64) -> bool {
        self.is_written(offset / PAGE)
    }
}
