//! What a server says about a region: a claim, and what is left of it after checking.

use std::ops::Range;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::protocol::{
    CAP_SPARSE_MMAP, CapabilityHeader, RegionInfo, SparseArea, SparseMmap, region_flags,
};
use crate::dma::PAGE;

/// A region whose description has been checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Bytes; 0 where the device does not have it.
    pub size: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// Where in the file it begins; a multiple of the page size where anything is mappable.
    pub file_offset: u64,
    /// What can be mapped: inside the region, page-aligned, not empty, apart from each other,
    /// in the order in which the server names them. File offsets of all their bytes fit in
    /// 63 bits.
    pub mappable: Vec<Range<u64>>,
}

/// What a reply to DEVICE_GET_REGION_INFO comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionReply {
    /// The region.
    Complete(Region),
    /// The reply was cut to the size that was offered; a whole one has this many bytes.
    NeedsBytes(u32),
}

/// Checks the payload of a reply about region `index` with which `fds` fds came.
///
/// # Errors
/// What is wrong with it.
pub fn parse(index: u32, payload: &[u8], fds: usize) -> Result<RegionReply, String> {
    let info: RegionInfo = read(payload, 0)?;
    if info.index != index {
        return Err(format!("it answers about region {}", info.index));
    }
    let has = |flag| info.flags & flag != 0;
    if has(region_flags::CAPS) && info.argsz as usize > payload.len() {
        return Ok(RegionReply::NeedsBytes(info.argsz));
    }
    let mut region = Region {
        size: info.size,
        readable: has(region_flags::READ),
        writable: has(region_flags::WRITE),
        file_offset: info.offset,
        mappable: Vec::new(),
    };
    if !has(region_flags::MMAP) || info.size == 0 {
        if fds != 0 {
            return Err(format!("{fds} file descriptors with a region that cannot be mapped"));
        }
        return Ok(RegionReply::Complete(region));
    }
    let sparse =
        if has(region_flags::CAPS) { sparse_areas(payload, info.cap_offset)? } else { None };
    match sparse {
        Some(areas) => region.mappable = check_areas(&areas, info.size)?,
        None if info.size >= PAGE as u64 => {
            region.mappable.push(0..info.size / PAGE as u64 * PAGE as u64);
        }
        None => {}
    }
    let end = region.mappable.iter().map(|area| area.end).max().unwrap_or(0);
    if !info.offset.is_multiple_of(PAGE as u64)
        || info.offset.checked_add(end).is_none_or(|end| i64::try_from(end).is_err())
    {
        return Err(format!("{end:#x} bytes at offset {:#x} of a file", info.offset));
    }
    // One file for all areas, or one (most often the same) for each.
    if !region.mappable.is_empty() && fds != 1 && fds != region.mappable.len() {
        return Err(format!("{fds} file descriptors for {} areas", region.mappable.len()));
    }
    Ok(RegionReply::Complete(region))
}

/// The areas that the sparse-mmap capability lists; nothing where there is none.
fn sparse_areas(payload: &[u8], first: u32) -> Result<Option<Vec<SparseArea>>, String> {
    let mut found = None;
    let mut offset = first as usize;
    // A chain longer than this visits some byte twice.
    for _ in 0..=payload.len() / size_of::<CapabilityHeader>() {
        if offset == 0 {
            return Ok(found);
        }
        if offset < size_of::<RegionInfo>() {
            return Err(format!("a capability at {offset:#x}, inside the region's description"));
        }
        let header: CapabilityHeader = read(payload, offset)?;
        if header.id == CAP_SPARSE_MMAP {
            if found.is_some() {
                return Err("two lists of mappable areas".into());
            }
            let list = offset + size_of::<CapabilityHeader>();
            let SparseMmap { nr_areas, .. } = read(payload, list)?;
            let areas = payload.get(list + size_of::<SparseMmap>()..).unwrap_or_default();
            let areas = (nr_areas as usize)
                .checked_mul(size_of::<SparseArea>())
                .and_then(|len| areas.get(..len))
                .ok_or_else(|| format!("{nr_areas} mappable areas in {} bytes", areas.len()))?;
            found = Some(
                areas
                    .chunks_exact(size_of::<SparseArea>())
                    .map(|area| read(area, 0))
                    .collect::<Result<Vec<_>, _>>()?,
            );
        }
        offset = header.next as usize;
    }
    Err("capabilities that go round in a loop".into())
}

fn check_areas(areas: &[SparseArea], size: u64) -> Result<Vec<Range<u64>>, String> {
    let page = PAGE as u64;
    let mut checked = Vec::with_capacity(areas.len());
    for &SparseArea { offset, size: len } in areas {
        let end = offset.checked_add(len).filter(|&end| end <= size);
        let Some(end) = end.filter(|_| len > 0) else {
            return Err(format!(
                "a mappable area of {len:#x} bytes at {offset:#x} in a region of {size:#x} bytes"
            ));
        };
        if !offset.is_multiple_of(page) || !len.is_multiple_of(page) {
            return Err(format!(
                "a mappable area of {len:#x} bytes at {offset:#x}, not in whole pages"
            ));
        }
        checked.push(offset..end);
    }
    let mut sorted = checked.clone();
    sorted.sort_unstable_by_key(|area| area.start);
    if let Some([left, right]) = sorted.array_windows().find(|[left, right]| left.end > right.start)
    {
        return Err(format!("mappable areas {left:#x?} and {right:#x?} overlap"));
    }
    Ok(checked)
}

fn read<T: FromBytes + KnownLayout + Immutable>(
    payload: &[u8],
    offset: usize,
) -> Result<T, String> {
    payload
        .get(offset..)
        .and_then(|rest| T::read_from_prefix(rest).ok())
        .map(|(value, _)| value)
        .ok_or_else(|| {
            format!(
                "{} bytes needed at {offset:#x} of a reply of {:#x}",
                size_of::<T>(),
                payload.len()
            )
        })
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "it is meant: one area")]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;

    const ALL: u32 =
        region_flags::READ | region_flags::WRITE | region_flags::MMAP | region_flags::CAPS;

    fn info(flags: u32, size: u64) -> RegionInfo {
        RegionInfo { argsz: 32, flags, index: 0, cap_offset: 32, size, offset: 0 }
    }

    fn with_areas(info: RegionInfo, areas: &[(u64, u64)]) -> Vec<u8> {
        let mut payload = info.as_bytes().to_vec();
        payload.extend(CapabilityHeader { id: 1, version: 1, next: 0 }.as_bytes());
        payload.extend(SparseMmap { nr_areas: areas.len() as u32, reserved: 0 }.as_bytes());
        for &(offset, size) in areas {
            payload.extend(SparseArea { offset, size }.as_bytes());
        }
        payload
    }

    fn complete(payload: &[u8], fds: usize) -> Region {
        match parse(0, payload, fds) {
            Ok(RegionReply::Complete(region)) => region,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn areas_are_understood() {
        let payload = with_areas(info(ALL, 0x4000), &[(0x3000, 0x1000), (0x1000, 0x1000)]);
        let region = complete(&payload, 1);
        assert_eq!(region.mappable, [0x3000..0x4000, 0x1000..0x2000]);
        assert!(region.readable && region.writable && region.size == 0x4000);
        assert_eq!(complete(&payload, 2), region);
        let whole = info(ALL & !region_flags::CAPS, 0x4800);
        assert_eq!(complete(whole.as_bytes(), 1).mappable, [0..0x4000]);
        let small = info(ALL & !region_flags::CAPS, 0x800);
        assert_eq!(complete(small.as_bytes(), 1).mappable, []);
        let trapped = info(region_flags::READ, 0x800);
        assert_eq!(complete(trapped.as_bytes(), 0).mappable, []);
        let missing = info(0, 0);
        assert_eq!(complete(missing.as_bytes(), 0).size, 0);
    }

    #[test]
    fn a_cut_reply_asks_for_more() {
        let cut = RegionInfo { argsz: 96, ..info(ALL, 0x4000) };
        assert_eq!(parse(0, cut.as_bytes(), 0), Ok(RegionReply::NeedsBytes(96)));
    }

    #[test]
    fn lies_are_found() {
        let lies: &[(&str, Vec<u8>, usize)] = &[
            ("needed at", info(ALL, 0x4000).as_bytes()[..31].to_vec(), 1),
            ("needed at", Vec::new(), 0),
            ("about region 7", RegionInfo { index: 7, ..info(0, 0) }.as_bytes().to_vec(), 0),
            ("needed at", info(ALL, 0x4000).as_bytes().to_vec(), 1),
            ("inside", with_areas(RegionInfo { cap_offset: 8, ..info(ALL, 0x4000) }, &[]), 1),
            ("needed at", with_areas(RegionInfo { cap_offset: !0, ..info(ALL, 0x4000) }, &[]), 1),
            ("in a region of", with_areas(info(ALL, 0x4000), &[(0x1000, 0x4000)]), 1),
            ("in a region of", with_areas(info(ALL, 0x4000), &[(!0xfff, 0x2000)]), 1),
            ("in a region of", with_areas(info(ALL, 0x4000), &[(0x1000, 0)]), 1),
            ("whole pages", with_areas(info(ALL, 0x4000), &[(0x800, 0x1000)]), 1),
            ("whole pages", with_areas(info(ALL, 0x4000), &[(0x1000, 0x800)]), 1),
            ("overlap", with_areas(info(ALL, 0x4000), &[(0, 0x2000), (0x1000, 0x1000)]), 1),
            ("overlap", with_areas(info(ALL, 0x4000), &[(0, 0x1000), (0, 0x1000)]), 1),
            ("0 file descriptors", with_areas(info(ALL, 0x4000), &[(0, 0x1000)]), 0),
            ("3 file descriptors", with_areas(info(ALL, 0x4000), &[(0, 0x1000)]), 3),
            ("cannot be mapped", info(region_flags::READ, 0x4000).as_bytes().to_vec(), 1),
            (
                "of a file",
                with_areas(RegionInfo { offset: 1, ..info(ALL, 0x4000) }, &[(0, 0x1000)]),
                1,
            ),
            (
                "of a file",
                with_areas(RegionInfo { offset: !0xfff, ..info(ALL, 0x4000) }, &[(0, 0x1000)]),
                1,
            ),
        ];
        for (word, payload, fds) in lies {
            let error = parse(0, payload, *fds).unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn counts_and_chains_are_found() {
        let mut payload = with_areas(info(ALL, 0x4000), &[(0, 0x1000)]);
        payload[40..44].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(parse(0, &payload, 1).unwrap_err().contains("4294967295 mappable areas"));

        let mut payload = with_areas(info(ALL, 0x4000), &[(0, 0x1000)]);
        payload[32..34].copy_from_slice(&9u16.to_ne_bytes());
        payload[36..40].copy_from_slice(&32u32.to_ne_bytes());
        assert!(parse(0, &payload, 1).unwrap_err().contains("loop"));

        let mut payload = with_areas(info(ALL, 0x4000), &[(0, 0x1000)]);
        payload[36..40].copy_from_slice(&32u32.to_ne_bytes());
        assert!(parse(0, &payload, 1).unwrap_err().contains("two lists"));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_holds(
            mut payload in proptest::collection::vec(any::<u8>(), 0..160),
            areas in proptest::collection::vec((0u64..8, 0u64..4), 0..4),
            flags in 0u32..16,
            well_formed: bool,
            fds in 0usize..4,
        ) {
            if well_formed {
                let areas: Vec<_> = areas.iter().map(|&(a, b)| (a << 12, b << 12)).collect();
                payload = with_areas(info(flags, 0x8000), &areas);
            }
            if let Ok(RegionReply::Complete(region)) = parse(0, &payload, fds) {
                for (index, area) in region.mappable.iter().enumerate() {
                    prop_assert!(area.start < area.end && area.end <= region.size);
                    prop_assert!(area.start % 4096 == 0 && area.end % 4096 == 0);
                    prop_assert!(region.file_offset.checked_add(area.end).is_some());
                    for other in &region.mappable[..index] {
                        prop_assert!(other.end <= area.start || area.end <= other.start);
                    }
                }
            }
        }
    }
}
