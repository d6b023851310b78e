//! Physical Region Pages: where a command's data lies. NVMe Base 2.0 §4.1.1.
//!
//! PRP1 points anywhere in a page, dword aligned; every page after that is named by
//! its start. Two pages fit in the entry itself; more go to a PRP list, which PRP2
//! points to. A list ends with its page: where entries remain, its last one points to
//! the next list instead.

use core::fmt;

/// Bytes in an entry.
pub const ENTRY_SIZE: usize = 8;

/// Offset of `address` in its page. `page_size` is a power of two.
#[inline]
pub const fn offset(address: u64, page_size: usize) -> usize {
    address as usize & (page_size - 1)
}

/// Pages that `length` bytes from `address` touch, so entries needed in all.
/// `page_size` is a power of two; `length` is far below `usize::MAX`.
#[inline]
pub const fn pages(address: u64, length: usize, page_size: usize) -> usize {
    (offset(address, page_size) + length).div_ceil(page_size)
}

/// Entries of a PRP list that hold `pages` pages: none up to two pages, since PRP1 and
/// PRP2 hold those, else all but the first.
#[inline]
pub const fn list_entries(pages: usize) -> usize {
    if pages <= 2 { 0 } else { pages - 1 }
}

/// Pages of memory that a PRP list of `entries` data entries takes, with the entries
/// that chain one to the next.
pub const fn list_pages(entries: usize, page_size: usize) -> usize {
    let per_list = page_size / ENTRY_SIZE;
    if entries <= per_list {
        return if entries == 0 { 0 } else { 1 };
    }
    // Every list but the last spends one entry on the chain.
    (entries - 1).div_ceil(per_list - 1)
}

/// The address of each page that `length` contiguous bytes from `address` touch, as
/// PRP entries: the first as it is, the others their pages' starts.
#[inline]
pub fn entries(address: u64, length: usize, page_size: usize) -> impl Iterator<Item = u64> {
    let start = address & !(page_size as u64 - 1);
    (0..pages(address, length, page_size)).map(move |page| {
        if page == 0 { address } else { start.wrapping_add((page * page_size) as u64) }
    })
}

/// Why PRPs cannot be followed. `E` is the error of reading a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError<E> {
    /// An entry with an offset that the standard forbids there; the status is
    /// [`PRP_OFFSET_INVALID`](super::status::Status::PRP_OFFSET_INVALID).
    Offset(u64),
    /// A list could not be read, or a segment not taken.
    Access(E),
}

impl<E: fmt::Display> fmt::Display for WalkError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offset(entry) => write!(f, "PRP entry {entry:#x} has an invalid offset"),
            Self::Access(error) => write!(f, "{error}"),
        }
    }
}

impl<E: core::error::Error> core::error::Error for WalkError<E> {}

/// Follows a command's PRPs as a controller does, calling `segment` with the address
/// and length of each piece, in order, at most a page each.
///
/// `page_size` is a power of two, at least 16. `read_list(address, entries)` reads that
/// many little-endian entries of a PRP list and gives them in the machine's order; all
/// lie in one page. However hostile the lists, there are no more calls than `length`
/// accounts for.
pub fn walk<E>(
    (prp1, prp2): (u64, u64),
    length: usize,
    page_size: usize,
    mut read_list: impl FnMut(u64, &mut [u64]) -> Result<(), E>,
    mut segment: impl FnMut(u64, usize) -> Result<(), E>,
) -> Result<(), WalkError<E>> {
    if length == 0 {
        return Ok(());
    }
    if prp1 % 4 != 0 {
        return Err(WalkError::Offset(prp1));
    }
    let first = length.min(page_size - offset(prp1, page_size));
    segment(prp1, first).map_err(WalkError::Access)?;
    let mut left = length - first;
    if left == 0 {
        return Ok(());
    }
    let mut page = |address: u64, left: &mut usize| {
        if offset(address, page_size) != 0 {
            return Err(WalkError::Offset(address));
        }
        let size = (*left).min(page_size);
        *left -= size;
        segment(address, size).map_err(WalkError::Access)
    };
    if left <= page_size {
        return page(prp2, &mut left);
    }
    if prp2 % ENTRY_SIZE as u64 != 0 {
        return Err(WalkError::Offset(prp2));
    }
    let mut list = prp2;
    let mut chunk = [0; 64];
    while left > 0 {
        let room = (page_size - offset(list, page_size)) / ENTRY_SIZE;
        let needed = left.div_ceil(page_size);
        // The page's last entry chains to another list where more than it are needed.
        let chained = needed > room;
        let mut data = if chained { room - 1 } else { needed };
        while data > 0 {
            let count = data.min(chunk.len());
            let chunk = &mut chunk[..count];
            read_list(list, chunk).map_err(WalkError::Access)?;
            for entry in chunk {
                page(*entry, &mut left)?;
            }
            list = list.wrapping_add((count * ENTRY_SIZE) as u64);
            data -= count;
        }
        if chained {
            let chunk = &mut chunk[..1];
            read_list(list, chunk).map_err(WalkError::Access)?;
            list = chunk[0];
            if offset(list, page_size) != 0 {
                return Err(WalkError::Offset(list));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::HashMap, vec, vec::Vec};

    const PAGE: usize = 4096;

    #[test]
    fn counting() {
        assert_eq!(pages(0x1000, 0, PAGE), 0);
        assert_eq!(pages(0x1000, 4096, PAGE), 1);
        assert_eq!(pages(0x1200, 4096, PAGE), 2);
        assert_eq!(pages(0x1ffc, 8, PAGE), 2);
        assert_eq!(pages(0x1000, 128 * 1024, PAGE), 32);
        assert_eq!(list_entries(1), 0);
        assert_eq!(list_entries(2), 0);
        assert_eq!(list_entries(3), 2);
        assert_eq!(list_pages(0, PAGE), 0);
        assert_eq!(list_pages(1, PAGE), 1);
        assert_eq!(list_pages(512, PAGE), 1);
        assert_eq!(list_pages(513, PAGE), 2);
        assert_eq!(list_pages(511 + 512, PAGE), 2);
        assert_eq!(list_pages(511 + 513, PAGE), 3);
        assert_eq!(entries(0x1200, 8192, PAGE).collect::<Vec<_>>(), [0x1200, 0x2000, 0x3000]);
    }

    /// Lays PRPs out as a driver does, lists from 0x1000_0000 on.
    fn build(address: u64, length: usize) -> ((u64, u64), HashMap<u64, u64>) {
        let entries: Vec<u64> = entries(address, length, PAGE).collect();
        let mut memory = HashMap::new();
        if entries.len() <= 2 {
            return ((address, entries.get(1).copied().unwrap_or(0)), memory);
        }
        let list = 0x1000_0000;
        let mut at = list;
        for (index, entry) in entries[1..].iter().enumerate() {
            if at % 4096 == 4088 && index + 2 < entries.len() {
                memory.insert(at, at + 8);
                at += 8;
            }
            memory.insert(at, *entry);
            at += 8;
        }
        let used = (at - list).div_ceil(4096) as usize;
        assert_eq!(used, list_pages(list_entries(entries.len()), PAGE));
        ((address, list), memory)
    }

    fn follow(
        prps: (u64, u64),
        length: usize,
        memory: &HashMap<u64, u64>,
    ) -> Result<Vec<(u64, usize)>, WalkError<u64>> {
        let mut segments = vec![];
        let read = |address: u64, entries: &mut [u64]| {
            for (index, entry) in entries.iter_mut().enumerate() {
                let at = address + 8 * index as u64;
                *entry = *memory.get(&at).ok_or(at)?;
            }
            Ok(())
        };
        walk(prps, length, PAGE, read, |address, size| {
            segments.push((address, size));
            Ok(())
        })?;
        Ok(segments)
    }

    #[test]
    fn forbidden_offsets() {
        let none = HashMap::new();
        assert_eq!(follow((0x1002, 0), 4, &none), Err(WalkError::Offset(0x1002)));
        assert_eq!(follow((0x1000, 0x2004), 8192, &none), Err(WalkError::Offset(0x2004)));
        assert_eq!(follow((0x1000, 0x2004), 12288, &none), Err(WalkError::Offset(0x2004)));
        let bad = HashMap::from([(0x8000, 0x3000), (0x8008, 0x4008)]);
        assert_eq!(follow((0x1000, 0x8000), 12288, &bad), Err(WalkError::Offset(0x4008)));
        assert_eq!(follow((0x1000, 0x9000), 12288, &bad), Err(WalkError::Access(0x9000)));
        // A list that is its own successor may not begin at its end.
        let circle = HashMap::from([(0x8ff8, 0x8ff8)]);
        assert_eq!(follow((0x1000, 0x8ff8), 12288, &circle), Err(WalkError::Offset(0x8ff8)));
        assert_eq!(follow((0x1002, 0), 0, &none), Ok(vec![]));
    }

    #[test]
    fn a_list_may_begin_inside_its_page() {
        let memory =
            HashMap::from([(0x8ff0, 0x2000), (0x8ff8, 0x9000), (0x9000, 0x3000), (0x9008, 0x4000)]);
        assert_eq!(
            follow((0x1000, 0x8ff0), 16384, &memory).unwrap(),
            [(0x1000, 4096), (0x2000, 4096), (0x3000, 4096), (0x4000, 4096)]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_laid_out_is_followed(dwords in 0u64..2048, length in 1usize..6_000_000) {
            let address = 0x4000_0000 + 4 * dwords;
            let (prps, memory) = build(address, length);
            let segments = follow(prps, length, &memory).unwrap();
            let mut at = address;
            for (start, size) in &segments {
                prop_assert_eq!(*start, at);
                at += *size as u64;
            }
            prop_assert_eq!(at, address + length as u64);
            prop_assert_eq!(segments.len(), pages(address, length, PAGE));
        }

        #[test]
        fn hostile_lists_end(
            prp1 in any::<u64>(), prp2 in any::<u64>(), length in 0usize..10_000_000,
            entry in any::<u64>(), shift in 6u32..17,
        ) {
            let page_size = 1usize << shift;
            let mut calls = 0;
            let aligned = entry & !(page_size as u64 - 1);
            let _ = walk::<()>(
                (prp1 & !3, prp2 & !7), length, page_size,
                |_, entries| { entries.fill(aligned); Ok(()) },
                |_, size| { calls += 1; if size == 0 { Err(()) } else { Ok(()) } },
            );
            prop_assert!(calls <= length / page_size + 2);
        }
    }
}
