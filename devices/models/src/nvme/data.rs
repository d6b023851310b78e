//! Where a command's data lies in the client's memory: PRPs and SGLs.
//!
//! Everything is located and checked before a byte is moved, so that a command whose data
//! pointer is wrong changes nothing.

use uniddrv_spec::nvme::entry::{Cdw0, SubmissionEntry};
use uniddrv_spec::nvme::prp::{self, WalkError};
use uniddrv_spec::nvme::sgl::{Descriptor, Sgl};
use uniddrv_spec::nvme::status::Status;
use vm_memory::VolatileSlice;
use zerocopy::IntoBytes;

use crate::host::{Access, ClientMemory, DmaFault};

/// The most SGL descriptors that one command may have: more than any sensible one, and the
/// bound on what a hostile one costs.
const DESCRIPTORS: usize = 16_384;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    iova: u64,
    len: usize,
    // A bit bucket: this much of what is read is left out.
    bucket: bool,
}

/// The pieces of a command's data. Kept from command to command, so that none allocates.
#[derive(Debug, Default)]
pub(super) struct Data {
    segments: Vec<Segment>,
    access: Option<Access>,
    descriptors: usize,
}

/// What kinds of data pointers a command may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pointers {
    /// CC.MPS in bytes.
    pub(super) page_size: usize,
    /// Whether SGLs are allowed too.
    pub(super) sgl: bool,
}

impl Data {
    /// Finds the `len` bytes that `entry` points to and checks that the client has mapped them
    /// for `access`.
    #[inline]
    pub(super) fn locate(
        &mut self,
        entry: &SubmissionEntry,
        len: usize,
        access: Access,
        memory: &ClientMemory,
        pointers: Pointers,
    ) -> Result<(), Status> {
        self.segments.clear();
        self.access = Some(access);
        let (address, place) = (entry.prp1(), prp::offset(entry.prp1(), pointers.page_size));
        if entry.cdw0().psdt() == Cdw0::PSDT_PRP
            && len.wrapping_sub(1) < pointers.page_size - place
            && address.is_multiple_of(4)
        {
            // All in the first page: the usual case, without the walk.
            memory.check(address, len, access).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            self.segments.push(Segment { iova: address, len, bucket: false });
            return Ok(());
        }
        match entry.cdw0().psdt() {
            Cdw0::PSDT_PRP => self.locate_prp(entry, len, access, memory, pointers.page_size),
            Cdw0::PSDT_SGL if pointers.sgl => self.locate_sgl(entry.sgl1(), len, access, memory),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn locate_prp(
        &mut self,
        entry: &SubmissionEntry,
        len: usize,
        access: Access,
        memory: &ClientMemory,
        page_size: usize,
    ) -> Result<(), Status> {
        let read_list = |address, entries: &mut [u64]| {
            memory.read(address, entries.as_mut_bytes())?;
            for entry in entries {
                *entry = u64::from_le(*entry);
            }
            Ok(())
        };
        let segment = |iova, len| {
            memory.check(iova, len, access)?;
            self.push(iova, len);
            Ok(())
        };
        prp::walk((entry.prp1(), entry.prp2()), len, page_size, read_list, segment).map_err(
            |error: WalkError<DmaFault>| match error {
                WalkError::Offset(_) => Status::PRP_OFFSET_INVALID,
                WalkError::Access(_) => Status::DATA_TRANSFER_ERROR,
            },
        )
    }

    fn locate_sgl(
        &mut self,
        first: Descriptor,
        len: usize,
        access: Access,
        memory: &ClientMemory,
    ) -> Result<(), Status> {
        self.descriptors = 0;
        let mut left = len;
        let mut next = self.take_descriptor(first, true, &mut left, access, memory)?;
        // Each round consumes descriptors, of which there is a bounded number.
        while let Some((address, bytes, last)) = next {
            if left == 0 {
                // SGLs may describe more than the command transfers.
                return Ok(());
            }
            let count = bytes as usize / Descriptor::SIZE;
            if count == 0 || !(bytes as usize).is_multiple_of(Descriptor::SIZE) {
                return Err(Status::INVALID_SGL_SEGMENT_DESCRIPTOR);
            }
            next = self.take_segment(address, count, last, &mut left, access, memory)?;
        }
        if left == 0 { Ok(()) } else { Err(Status::DATA_SGL_LENGTH_INVALID) }
    }

    /// Takes one segment of `count` descriptors. Returns the next one.
    fn take_segment(
        &mut self,
        address: u64,
        count: usize,
        last: bool,
        left: &mut usize,
        access: Access,
        memory: &ClientMemory,
    ) -> Result<Option<(u64, u32, bool)>, Status> {
        let mut chunk = [Descriptor::default(); 32];
        let mut place = address;
        let mut taken = 0;
        while taken < count {
            let batch = chunk.len().min(count - taken);
            let chunk = chunk.get_mut(..batch).unwrap_or_default();
            memory.read(place, chunk.as_mut_bytes()).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            place = place.wrapping_add((batch * Descriptor::SIZE) as u64);
            for descriptor in chunk {
                taken += 1;
                let end = taken == count;
                let next = self.take_descriptor(*descriptor, end && !last, left, access, memory)?;
                if next.is_some() {
                    return Ok(next);
                }
                if end && !last {
                    return Err(Status::INVALID_SGL_SEGMENT_DESCRIPTOR);
                }
                if *left == 0 {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Takes one descriptor. Returns the segment that it leads to: address, bytes, whether it
    /// is the last; that is allowed where `may_lead` says so.
    fn take_descriptor(
        &mut self,
        descriptor: Descriptor,
        may_lead: bool,
        left: &mut usize,
        access: Access,
        memory: &ClientMemory,
    ) -> Result<Option<(u64, u32, bool)>, Status> {
        self.descriptors += 1;
        if self.descriptors > DESCRIPTORS {
            return Err(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS);
        }
        match descriptor.parse() {
            Sgl::DataBlock { address, length } => {
                let len = (length as usize).min(*left);
                memory.check(address, len, access).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
                if len > 0 {
                    self.push(address, len);
                }
                *left -= len;
                Ok(None)
            }
            // For data that comes from the host it has no length (NVMe Base 2.0 Figure 109).
            Sgl::BitBucket { length } => {
                let len = (length as usize).min(*left);
                if access == Access::Write && len > 0 {
                    self.segments.push(Segment { iova: 0, len, bucket: true });
                    *left -= len;
                }
                Ok(None)
            }
            Sgl::Segment { address, length } if may_lead => Ok(Some((address, length, false))),
            Sgl::LastSegment { address, length } if may_lead => Ok(Some((address, length, true))),
            Sgl::Segment { .. } | Sgl::LastSegment { .. } => {
                Err(Status::INVALID_SGL_SEGMENT_DESCRIPTOR)
            }
            Sgl::KeyedDataBlock { .. } | Sgl::TransportDataBlock { .. } | Sgl::Unknown { .. } => {
                Err(Status::SGL_DESCRIPTOR_TYPE_INVALID)
            }
        }
    }

    #[inline]
    fn push(&mut self, iova: u64, len: usize) {
        if let Some(last) = self.segments.last_mut()
            && !last.bucket
            && last.iova.wrapping_add(last.len as u64) == iova
        {
            last.len += len;
        } else {
            self.segments.push(Segment { iova, len, bucket: false });
        }
    }

    /// Calls `f` with the data's offset and memory, piece by piece.
    #[inline]
    pub(super) fn each(
        &self,
        memory: &ClientMemory,
        mut f: impl FnMut(usize, VolatileSlice<'_>) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let Some(access) = self.access else { return Ok(()) };
        let mut offset = 0;
        for segment in &self.segments {
            let end = offset + segment.len;
            if segment.bucket {
                offset = end;
                continue;
            }
            let mut iova = segment.iova;
            while offset < end {
                let slice = memory
                    .slice(iova, end - offset, access)
                    .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
                let len = slice.len();
                f(offset, slice)?;
                offset += len;
                iova = iova.wrapping_add(len as u64);
            }
        }
        Ok(())
    }

    /// Copies the client's data to `to`, which is as long as what was located.
    pub(super) fn gather(&self, memory: &ClientMemory, to: &mut [u8]) -> Result<(), Status> {
        self.each(memory, |offset, slice| {
            let place = to.get_mut(offset..offset + slice.len()).ok_or(Status::INTERNAL_ERROR)?;
            slice.copy_to(place);
            Ok(())
        })
    }

    /// Copies `from`, which is as long as what was located, to the client.
    pub(super) fn scatter(&self, memory: &ClientMemory, from: &[u8]) -> Result<(), Status> {
        self.each(memory, |offset, slice| {
            let place = from.get(offset..offset + slice.len()).ok_or(Status::INTERNAL_ERROR)?;
            slice.copy_from(place);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
