//! Telling the controller where a command's data lie: PRPs and SGLs.

use uniddrv::{DmaError, DmaRing};
use uniddrv_spec::nvme::entry::SubmissionEntry;
use uniddrv_spec::nvme::sgl::Descriptor;

use crate::memory::Source;

/// The most bytes of a PRP list that lie in one piece: a page of the smallest size, so that
/// pieces never cross a page of the controller.
const LIST_PAGE: usize = 4096;
const ENTRY: usize = size_of::<u64>();
const ENTRIES_A_PAGE: usize = LIST_PAGE / ENTRY;

/// How the data of the commands of one queue are described, and the memory for it: a PRP list
/// for each slot, long enough for the largest transfer.
///
/// Buffers are contiguous for the device, so a list follows from the address alone, and an SGL
/// is a single descriptor in the command itself.
pub(crate) struct DataPointers {
    page: u64,
    sgl: bool,
    /// The lists of all slots; nothing where no transfer needs one.
    lists: Option<DmaRing<u64>>,
    /// Entries from one slot's list to the next one's.
    stride: usize,
}

impl DataPointers {
    /// For `slots` commands of at most `max_transfer` bytes and the controller's page size in
    /// bytes; with SGLs for all that two PRPs cannot describe, if `sgl`.
    pub(crate) fn new(
        memory: &mut impl Source,
        slots: usize,
        max_transfer: usize,
        page: usize,
        sgl: bool,
    ) -> Result<Self, DmaError> {
        let stride = if sgl { 0 } else { list_len(max_transfer, page) };
        let lists = match stride {
            0 => None,
            stride => {
                let buffer = memory.buffer(slots.saturating_mul(stride * ENTRY))?;
                let error = |_| DmaError::Size(slots * stride * ENTRY);
                Some(DmaRing::new(buffer, slots * stride).map_err(error)?)
            }
        };
        Ok(Self { page: page as u64, sgl, lists, stride })
    }

    /// Points `entry`, the command of slot `slot`, to `len` bytes at `iova`. Not more than the
    /// largest transfer, which the caller has checked.
    #[inline]
    pub(crate) fn point(&self, slot: usize, entry: &mut SubmissionEntry, iova: u64, len: usize) {
        let first = self.page - (iova & (self.page - 1));
        let len = len as u64;
        if len <= first {
            entry.set_prps(iova, 0);
        } else if len <= first + self.page {
            entry.set_prps(iova, iova + first);
        } else if self.sgl {
            entry.set_sgl1(Descriptor::data_block(iova, len as u32));
        } else {
            let list = self.list(slot, iova + first, len - first);
            entry.set_prps(iova, list);
        }
    }

    /// Writes the list of the pages that `len` bytes at `iova`, the start of a page, lie in.
    /// The last entry of a full page of the list leads to the next one (Base 2.0 §4.1.1).
    fn list(&self, slot: usize, iova: u64, len: u64) -> u64 {
        let Some(lists) = &self.lists else {
            debug_assert!(false, "a transfer larger than the largest");
            return 0;
        };
        let start = slot * self.stride;
        let address = |index: usize| lists.iova() + (index * ENTRY) as u64;
        let pages = len.div_ceil(self.page);
        let mut index = start;
        for page in 0..pages {
            let last_of_page = index % ENTRIES_A_PAGE == ENTRIES_A_PAGE - 1;
            if last_of_page && page + 1 < pages {
                lists.write(index, address(index + 1).to_le());
                index += 1;
            }
            lists.write(index, (iova + page * self.page).to_le());
            index += 1;
        }
        address(start)
    }
}

/// Entries of the list that the largest transfer needs; 0 where two PRPs do. A list of up to a
/// page takes a power of two of them, so that none crosses a page; a longer one whole pages.
fn list_len(max_transfer: usize, page: usize) -> usize {
    // Buffers start at 4 KiB, which may be inside a larger page: one entry more.
    let entries = max_transfer.div_ceil(page);
    if entries <= 1 {
        0
    } else if entries <= ENTRIES_A_PAGE {
        entries.next_power_of_two()
    } else {
        (entries - 1).div_ceil(ENTRIES_A_PAGE - 1) * ENTRIES_A_PAGE
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uniddrv_spec::nvme::entry::Cdw0;
    use uniddrv_spec::nvme::prp;
    use uniddrv_spec::nvme::sgl::Sgl;

    use super::*;
    use crate::testing::Memory;

    #[test]
    fn lists_are_as_long_as_needed() {
        assert_eq!(list_len(4096, 4096), 0);
        assert_eq!(list_len(8192, 4096), 2);
        assert_eq!(list_len(128 << 10, 4096), 32);
        assert_eq!(list_len(2 << 20, 4096), 512);
        // 1,024 entries and the links of two pages
        assert_eq!(list_len(4 << 20, 4096), 3 * 512);
        assert_eq!(list_len(4 << 20, 65536), 64);
    }

    /// Follows the PRPs of `entry` as the controller does. The pieces, joined where they touch;
    /// every list has to lie where slot `slot` of `pointers` has its own.
    fn follow(
        pointers: &DataPointers,
        slot: usize,
        entry: &SubmissionEntry,
        len: usize,
    ) -> Vec<(u64, usize)> {
        let mut pieces: Vec<(u64, usize)> = Vec::new();
        let read_list = |address: u64, entries: &mut [u64]| {
            let lists = pointers.lists.as_ref().expect("there are lists");
            let start = (address - lists.iova()) as usize / ENTRY;
            let own = slot * pointers.stride..(slot + 1) * pointers.stride;
            assert!(own.contains(&start) && start + entries.len() <= own.end);
            for (index, entry) in (start..).zip(entries) {
                *entry = u64::from_le(lists.read(index));
            }
            Ok::<(), ()>(())
        };
        let segment = |address, len| {
            match pieces.last_mut() {
                Some((start, total)) if *start + *total as u64 == address => *total += len,
                _ => pieces.push((address, len)),
            }
            Ok(())
        };
        let prps = (entry.prp1(), entry.prp2());
        prp::walk(prps, len, pointers.page as usize, read_list, segment).unwrap();
        pieces
    }

    #[test]
    fn lists_longer_than_a_page_are_chained() {
        let memory = Memory::new();
        let largest = 8 << 20;
        let pointers = DataPointers::new(&mut &memory.device, 3, largest, 4096, false).unwrap();
        // Around each number of pages at which a list needs one page more.
        for pages in [1, 2, 3, 511, 512, 513, 1023, 1024, 1025, 1535, 2047, 2048] {
            for len in [pages * 4096 - 512, pages * 4096] {
                let mut entry = SubmissionEntry::new(2);
                pointers.point(1, &mut entry, 0x7000_0000, len);
                assert_eq!(follow(&pointers, 1, &entry, len), [(0x7000_0000, len)], "{len}");
            }
        }
    }

    #[test]
    fn sgls_stand_for_what_two_prps_do_not() {
        let memory = Memory::new();
        let pointers = DataPointers::new(&mut &memory.device, 1, 1 << 20, 4096, true).unwrap();
        assert!(pointers.lists.is_none());
        for (len, sgl) in [(512, false), (8192, false), (8704, true), (1 << 20, true)] {
            let mut entry = SubmissionEntry::new(2);
            pointers.point(0, &mut entry, 0x10_0000, len);
            let kind = entry.cdw0().psdt();
            assert_eq!(kind, if sgl { Cdw0::PSDT_SGL } else { Cdw0::PSDT_PRP }, "{len}");
            if sgl {
                let block = Sgl::DataBlock { address: 0x10_0000, length: len as u32 };
                assert_eq!(entry.sgl1().parse(), block);
            } else {
                assert_eq!(follow(&pointers, 0, &entry, len), [(0x10_0000, len)]);
            }
        }
    }

    proptest! {
        #[test]
        fn prps_describe_the_buffer_and_nothing_else(
            shift in 12u32..=16,
            start in 0u64..64,
            sectors in 1usize..=4096,
            slot in 0usize..5,
        ) {
            let page = 1usize << shift;
            // As the controller object limits it: lists of larger pages are not chained.
            let largest = if page == 4096 { 2 << 20 } else { (511 * page).min(2 << 20) };
            let memory = Memory::new();
            let pointers = DataPointers::new(&mut &memory.device, 5, largest, page, false).unwrap();
            // Buffers start at 4 KiB, wherever in a larger page that is.
            let (iova, len) = (0x4000_0000 + start * 4096, sectors * 512);
            let mut entry = SubmissionEntry::new(2);
            pointers.point(slot, &mut entry, iova, len);
            prop_assert_eq!(follow(&pointers, slot, &entry, len), vec![(iova, len)]);
        }
    }
}
