//! Blocks in memory.

use std::io;
use std::ops::Range;

use rustix::system::sysinfo;
use uniddrv::mapping::{HUGE_PAGE, prefer_huge_pages, prefetch};
use uniddrv_spec::nvme::status::Status;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use super::{BackingError, ZEROES};

const PAGE: u64 = 4096;

/// Blocks in anonymous memory. What was never written takes none, apart from the rest of its
/// huge page. Clearing gives memory back where all blocks are cleared; otherwise the memory is
/// kept for the next write.
#[derive(Debug)]
pub(in crate::nvme) struct Ram {
    mapping: MmapRegion,
    // Where the first block lies in it: at the start of a huge page.
    start: usize,
    size: u64,
    // A bit for each page: whether it was written since it was last cleared. The memory of a
    // page without it may hold anything and is not looked at.
    written: Vec<u64>,
}

impl Ram {
    /// `size` bytes.
    pub(super) fn new(size: u64) -> Result<Self, BackingError> {
        let error = |error| BackingError::Memory { size, error };
        let words = size.div_ceil(PAGE).div_ceil(64) as usize;
        let mut written = Vec::new();
        written.try_reserve_exact(words).map_err(|_| error(io::ErrorKind::OutOfMemory.into()))?;
        written.resize(words, 0);
        let (mapping, start) = map(size).map_err(error)?;
        Ok(Self { mapping, start, size, written })
    }

    #[inline]
    fn is_written(&self, page: u64) -> bool {
        self.written.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    fn mark(&mut self, pages: Range<u64>, written: bool) {
        let mut page = pages.start;
        while page < pages.end {
            let bit = page % 64;
            let count = (64 - bit).min(pages.end - page);
            let mask = (u64::MAX >> (64 - count)) << bit;
            if let Some(word) = self.written.get_mut((page / 64) as usize) {
                *word = if written { *word | mask } else { *word & !mask };
            }
            page += count;
        }
    }

    #[inline]
    fn slice(&self, offset: u64, len: usize) -> Result<VolatileSlice<'_>, Status> {
        self.mapping
            .get_slice(self.start + offset as usize, len)
            .map_err(|_| Status::INTERNAL_ERROR)
    }

    /// Calls `f` with the place in `len` bytes and the memory of each piece that lies in one
    /// page; with no memory for a page that is not written.
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

    /// A command will soon read or write at `offset`, which may be any number. Hides the miss
    /// of the TLB and of the first cache line behind the command before; from there on the
    /// CPU's own prefetching is as fast.
    #[inline]
    pub(super) fn prefetch(&self, offset: u64) {
        let first = (self.mapping.as_ptr() as usize).wrapping_add(self.start);
        prefetch(first.wrapping_add(offset as usize));
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
        from.copy_to_volatile_slice(self.prepare(offset, from.len())?);
        Ok(())
    }

    /// The memory for `len` bytes, which the caller overwrites now, all of them.
    #[inline]
    fn prepare(&mut self, offset: u64, len: usize) -> Result<VolatileSlice<'_>, Status> {
        let end = offset + len as u64;
        // What is not overwritten of the first and the last page must read as zeroes, not as
        // what was there before it was cleared.
        for place in [offset, end] {
            if !place.is_multiple_of(PAGE) && !self.is_written(place / PAGE) {
                self.slice(place - place % PAGE, PAGE as usize)?.copy_from(&ZEROES);
            }
        }
        self.mark(offset / PAGE..end.div_ceil(PAGE), true);
        self.slice(offset, len)
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
        self.prepare(offset, from.len())?.copy_from(from);
        Ok(())
    }

    /// Clears: zeroes what is of a page, and forgets that whole pages were written.
    pub(super) fn clear(&mut self, offset: u64, len: u64) -> Result<(), Status> {
        let end = offset + len;
        if offset == 0 && end >= self.size && self.written.iter().any(|&word| word != 0) {
            // Memory that is not there again is no reason to fail.
            if let Ok((mapping, start)) = map(self.size) {
                (self.mapping, self.start) = (mapping, start);
            }
            self.written.fill(0);
            return Ok(());
        }
        let whole = offset.next_multiple_of(PAGE)..end - end % PAGE;
        if whole.start >= whole.end {
            return self.zero(offset, len as usize);
        }
        self.zero(offset, (whole.start - offset) as usize)?;
        self.zero(whole.end, (end - whole.end) as usize)?;
        self.mark(whole.start / PAGE..whole.end / PAGE, false);
        Ok(())
    }

    /// Zeroes less than two pages.
    fn zero(&self, offset: u64, len: usize) -> Result<(), Status> {
        self.each_page(offset, len, |_, piece, memory| {
            if let Some(memory) = memory {
                memory.copy_from(ZEROES.get(..piece).unwrap_or_default());
            }
            Ok(())
        })
    }

    /// Whether the page at `offset` is written.
    #[cfg(test)]
    pub(super) fn holds(&self, offset: u64) -> bool {
        self.is_written(offset / PAGE)
    }
}

/// Maps `size` bytes of zeroes. Returns where in the mapping they start.
fn map(size: u64) -> io::Result<(MmapRegion, usize)> {
    // Whole pages, for the rest of the last one, and room to start at a huge page.
    let len = size.checked_next_multiple_of(PAGE).and_then(|len| usize::try_from(len).ok());
    let all = len.and_then(|len| len.checked_add(HUGE_PAGE));
    let (Some(len), Some(all)) = (len, all) else {
        return Err(io::ErrorKind::OutOfMemory.into());
    };
    let mapping = MmapRegion::new(all).map_err(|error| match error {
        MmapRegionError::Mmap(error) => error,
        error => io::Error::other(error),
    })?;
    let address = mapping.as_ptr() as usize;
    let start = address.next_multiple_of(HUGE_PAGE) - address;
    // One that is larger is meant to be sparse: there, a huge page for each block that lies
    // far from all others would be too much.
    let machine = sysinfo();
    if size <= machine.totalram.saturating_mul(machine.mem_unit.into()) / 2
        && let Err(error) = prefer_huge_pages(address + start, len)
    {
        tracing::debug!(%error, "no huge pages for the blocks");
    }
    Ok((mapping, start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 70 * PAGE + 512;

    fn bytes(ram: &Ram, range: Range<u64>) -> Vec<u8> {
        let mut data = vec![0xee; (range.end - range.start) as usize];
        ram.load(range.start, &mut data).unwrap();
        data
    }

    #[test]
    fn a_part_of_a_cleared_page_that_is_written_brings_nothing_old_back() {
        for (offset, len) in [(0, 512), (PAGE - 512, 512), (512, 512), (PAGE - 512, 1024)] {
            let mut ram = Ram::new(SIZE).unwrap();
            ram.store(0, &[7; 3 * PAGE as usize]).unwrap();
            ram.clear(0, 2 * PAGE).unwrap();
            // It is kept, so that this test is about something.
            let mut kept = [0_u8; 1];
            ram.slice(0, 1).unwrap().copy_to(&mut kept);
            assert_eq!(kept, [7]);
            let mut wanted = vec![0; 2 * PAGE as usize];
            assert_eq!(bytes(&ram, 0..2 * PAGE), wanted);
            ram.store(offset, &vec![9; len]).unwrap();
            wanted[offset as usize..offset as usize + len].fill(9);
            wanted.resize(3 * PAGE as usize, 7);
            assert_eq!(bytes(&ram, 0..3 * PAGE), wanted);
        }
    }

    #[test]
    fn clearing_all_gives_the_memory_back() {
        let mut ram = Ram::new(SIZE).unwrap();
        ram.store(0, &vec![7; SIZE as usize]).unwrap();
        ram.clear(0, SIZE).unwrap();
        let zeroes = vec![0; SIZE as usize];
        assert_eq!(bytes(&ram, 0..SIZE), zeroes);
        let mut fresh = vec![1_u8; SIZE as usize];
        ram.slice(0, fresh.len()).unwrap().copy_to(&mut fresh);
        assert_eq!(fresh, zeroes);
    }

    #[test]
    fn any_offset_is_safe_to_prefetch() {
        let ram = Ram::new(SIZE).unwrap();
        for offset in [0, SIZE, 1 << 63, u64::MAX] {
            ram.prefetch(offset);
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written_last(
            steps in prop::collection::vec((0..5_u8, 0..SIZE, 1..9 * PAGE, 1..=u8::MAX), 1..60)
        ) {
            let mut ram = Ram::new(SIZE).unwrap();
            let mut wanted = vec![0; SIZE as usize];
            for (step, start, len, value) in steps {
                // Most commands are about whole blocks, some about whole pages.
                let unit = [1, 512, 512, PAGE, PAGE][usize::from(step)];
                let start = start - start % unit;
                let end = (start + len.next_multiple_of(unit)).min(SIZE);
                let range = start as usize..end as usize;
                if value.is_multiple_of(3) {
                    ram.clear(start, end - start).unwrap();
                    wanted[range].fill(0);
                } else if value.is_multiple_of(2) {
                    ram.store(start, &vec![value; range.len()]).unwrap();
                    wanted[range].fill(value);
                } else {
                    let mut data = vec![value; range.len()];
                    ram.write(start, VolatileSlice::from(data.as_mut_slice())).unwrap();
                    wanted[range].fill(value);
                }
                prop_assert!(bytes(&ram, 0..SIZE) == wanted);
                let mut data = vec![0xee; (SIZE - start) as usize];
                ram.read(start, VolatileSlice::from(data.as_mut_slice())).unwrap();
                prop_assert!(data == wanted[start as usize..]);
            }
        }
    }
}
