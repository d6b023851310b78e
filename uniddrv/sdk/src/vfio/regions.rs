//! The regions of a VFIO device: its BARs and its configuration space.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use vfio_bindings::bindings::vfio::{
    self, VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};

use super::chain;
use super::ioctl::{self, Answer, TAIL};
use crate::dma::PAGE;
use crate::transport::TransportError;

/// One region: where its bytes lie in the device's file and which of them can be mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) size: u64,
    pub(super) offset: u64,
    pub(super) mappable: Vec<Range<u64>>,
}

impl Region {
    /// Asks for region `index`. One that the device does not have is of size 0.
    pub(super) fn query(device: BorrowedFd<'_>, index: u32) -> Result<Self, TransportError> {
        let action = || format!("VFIO_DEVICE_GET_REGION_INFO of region {index}");
        match ioctl::region_info(device, index) {
            Ok(answer) => {
                Self::check(&answer).map_err(|claim| TransportError::malformed(action(), claim))
            }
            // A region that this kind of device never has, such as VGA.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Self::default()),
            Err(error) => Err(TransportError::io(action(), error)),
        }
    }

    fn check(answer: &Answer<vfio_region_info>) -> Result<Self, String> {
        let info = &answer.head;
        let read_write = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
        if info.size == 0 || info.flags & read_write == 0 {
            return Ok(Self::default());
        }
        // `pread` and `mmap` count in signed 64 bits.
        let end = info.offset.checked_add(info.size);
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(format!("{:#x} bytes at {:#x} of the file", info.size, info.offset));
        }
        let mut mappable = Vec::new();
        if info.flags & VFIO_REGION_INFO_FLAG_MMAP != 0 && info.offset.is_multiple_of(PAGE as u64) {
            mappable = match sparse_areas(answer)? {
                Some(areas) => whole_pages(areas, info.size)?,
                None => whole_pages(vec![[0, info.size]], info.size)?,
            };
        }
        Ok(Self { size: info.size, offset: info.offset, mappable })
    }

    /// Leaves `hidden` out of what can be mapped, in whole pages.
    pub(super) fn hide(&mut self, hidden: &Range<u64>) {
        if hidden.is_empty() {
            return;
        }
        let page = PAGE as u64;
        let start = hidden.start / page * page;
        let end = hidden.end.checked_next_multiple_of(page).unwrap_or(u64::MAX);
        self.mappable = std::mem::take(&mut self.mappable)
            .into_iter()
            .flat_map(|part| [part.start..part.end.min(start), part.start.max(end)..part.end])
            .filter(|part| !part.is_empty())
            .collect();
    }

    /// Reads `data.len()` bytes at `offset`.
    pub(super) fn read(&self, fd: impl AsFd, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let at = self.place(offset, data.len())?;
        match rustix::io::pread(fd, &mut *data, at)? {
            n if n == data.len() => Ok(()),
            n => Err(short(n, data.len())),
        }
    }

    /// Writes `data` at `offset`.
    pub(super) fn write(&self, fd: impl AsFd, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = self.place(offset, data.len())?;
        match rustix::io::pwrite(fd, data, at)? {
            n if n == data.len() => Ok(()),
            n => Err(short(n, data.len())),
        }
    }

    fn place(&self, offset: u64, len: usize) -> io::Result<u64> {
        let inside = offset.checked_add(len as u64).is_some_and(|end| end <= self.size);
        if inside { Ok(self.offset + offset) } else { Err(outside(offset, len, self.size)) }
    }
}

fn outside(offset: u64, len: usize, size: u64) -> io::Error {
    let text = format!("{len} bytes at {offset:#x} lie outside its {size:#x} bytes");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn short(done: usize, wanted: usize) -> io::Error {
    let text = format!("only {done} of {wanted} bytes went through");
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

/// The areas of the sparse mmap capability: offset and size each. None where the whole region
/// can be mapped.
fn sparse_areas(answer: &Answer<vfio_region_info>) -> Result<Option<Vec<[u64; 2]>>, String> {
    const ID: u16 = vfio::VFIO_REGION_INFO_CAP_SPARSE_MMAP as u16;
    let info = &answer.head;
    if info.flags & VFIO_REGION_INFO_FLAG_CAPS == 0 {
        return Ok(None);
    }
    let head = size_of::<vfio_region_info>();
    if info.argsz as usize > head + TAIL {
        return Err(format!("{} bytes of capabilities, over {TAIL}", info.argsz));
    }
    let body = chain::find(&answer.tail, head, info.cap_offset, ID);
    let pairs = body.and_then(|body| body.map(|body| chain::pairs(body, ID)).transpose());
    pairs.map_err(|error| error.to_string())
}

/// Areas as ranges, cut to whole pages, in order.
fn whole_pages(areas: Vec<[u64; 2]>, size: u64) -> Result<Vec<Range<u64>>, String> {
    let page = PAGE as u64;
    let mut ranges = Vec::with_capacity(areas.len());
    for [offset, len] in areas {
        let end = offset.checked_add(len).filter(|&end| end <= size).ok_or_else(|| {
            format!("a mappable area of {len:#x} bytes at {offset:#x} of a region of {size:#x}")
        })?;
        let start = offset.checked_next_multiple_of(page).unwrap_or(end);
        let end = end / page * page;
        if start < end {
            ranges.push(start..end);
        }
    }
    ranges.sort_by_key(|range| range.start);
    match ranges.windows(2).find(|pair| pair[0].end > pair[1].start) {
        Some(pair) => Err(format!("mappable areas that overlap: {pair:#x?}")),
        None => Ok(ranges),
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one mappable part is a list of one")]
mod tests {
    use super::*;
    use crate::vfio::chain::tests::{pairs_body, put};

    const HEAD: usize = size_of::<vfio_region_info>();
    const READ_WRITE: u32 = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    const MMAP: u32 = READ_WRITE | VFIO_REGION_INFO_FLAG_MMAP;

    fn answer(flags: u32, size: u64, offset: u64) -> Answer<vfio_region_info> {
        let argsz = (HEAD + TAIL) as u32;
        let head = vfio_region_info { argsz, flags, size, offset, ..Default::default() };
        Answer { head, tail: [0; TAIL] }
    }

    fn sparse(size: u64, count: u32, areas: &[[u64; 2]]) -> Answer<vfio_region_info> {
        let mut answer = answer(MMAP | VFIO_REGION_INFO_FLAG_CAPS, size, 0);
        answer.head.cap_offset = HEAD as u32;
        put(&mut answer.tail, HEAD, HEAD as u32, 1, 0, &pairs_body(count, areas));
        answer
    }

    #[test]
    fn a_plain_region_is_mappable_in_whole_pages() {
        let region = Region::check(&answer(MMAP, 0x2800, 1 << 40)).unwrap();
        assert_eq!(region.mappable, [0..0x2000]);
        assert_eq!((region.size, region.offset), (0x2800, 1 << 40));
        assert_eq!(Region::check(&answer(MMAP, 256, 0)).unwrap().mappable, []);
        assert_eq!(Region::check(&answer(READ_WRITE, 0x2000, 0)).unwrap().mappable, []);
        assert_eq!(Region::check(&answer(MMAP, 0x2000, 17)).unwrap().mappable, []);
        assert_eq!(Region::check(&answer(0, 0x2000, 0)).unwrap(), Region::default());
    }

    #[test]
    fn sparse_areas_are_cut_to_pages_and_sorted() {
        let region =
            Region::check(&sparse(0x1_0000, 3, &[[0x8000, 0x8000], [0x800, 0x2000], [5, 6]]));
        assert_eq!(region.unwrap().mappable, [0x1000..0x2000, 0x8000..0x1_0000]);
        assert_eq!(Region::check(&sparse(0x1_0000, 0, &[])).unwrap().mappable, []);
    }

    #[test]
    fn claims_that_cannot_be_are_errors() {
        for (size, offset) in [(u64::MAX, 1), (1 << 62, 1 << 62), (1, u64::MAX), (1 << 63, 0)] {
            assert!(Region::check(&answer(MMAP, size, offset)).is_err());
        }
        for area in [[0, 0x2_0000], [0x1_0000, 1], [u64::MAX, 2], [0x1000, u64::MAX]] {
            assert!(Region::check(&sparse(0x1_0000, 1, &[area])).is_err());
        }
        assert!(Region::check(&sparse(0x1_0000, 2, &[[0, 0x3000], [0x2000, 0x1000]])).is_err());
        assert!(Region::check(&sparse(0x1_0000, u32::MAX, &[])).is_err());
        let mut outside = sparse(0x1_0000, 1, &[[0, 0x1000]]);
        outside.head.cap_offset = 8;
        assert!(Region::check(&outside).is_err());
        let mut long = sparse(0x1_0000, 1, &[[0, 0x1000]]);
        long.head.argsz = u32::MAX;
        assert!(Region::check(&long).is_err());
    }

    #[test]
    fn hidden_pages_split_what_is_mappable() {
        let region =
            |parts: &[Range<u64>]| Region { size: 0x1_0000, offset: 0, mappable: parts.to_vec() };
        let mut one = region(&[0..0x1_0000]);
        one.hide(&(0x2010..0x2020));
        assert_eq!(one.mappable, [0..0x2000, 0x3000..0x1_0000]);
        one.hide(&(0..0x2001));
        assert_eq!(one.mappable, [0x3000..0x1_0000]);
        one.hide(&(0xf000..u64::MAX));
        assert_eq!(one.mappable, [0x3000..0xf000]);
        one.hide(&(0x4000..0x4000));
        assert_eq!(one.mappable, [0x3000..0xf000]);
    }

    #[test]
    fn accesses_stay_inside_the_region() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x3000).unwrap();
        let region = Region { size: 0x1000, offset: 0x1000, mappable: vec![] };
        region.write(&file, 0xffc, &7u32.to_le_bytes()).unwrap();
        let mut bytes = [0; 4];
        region.read(&file, 0xffc, &mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 7);
        for offset in [0xffd, 0x1000, u64::MAX] {
            assert!(region.read(&file, offset, &mut bytes).is_err());
            assert!(region.write(&file, offset, &bytes).is_err());
        }
        let beyond = Region { size: 0x1000, offset: 0x2800, mappable: vec![] };
        assert!(beyond.read(&file, 0xffc, &mut bytes).is_err());
    }
}
