//! Submission and completion queues. NVMe Base 2.0 §3.3.

use std::sync::atomic::Ordering;

use uniddrv_spec::nvme::entry::{
    CompletionDword2, CompletionDword3, CompletionEntry, SubmissionEntry,
};
use uniddrv_spec::nvme::status::Status;
use vm_memory::{Bytes, VolatileSlice};
use zerocopy::IntoBytes;

use crate::host::{Access, ClientMemory, DmaFault, Pinned};

/// A queue's entries in the client's memory.
#[derive(Debug)]
pub(super) struct Ring {
    iova: u64,
    len: usize,
    access: Access,
    pinned: Option<Pinned>,
}

/// A ring for the length of a batch: looked up once, so that an entry costs a copy.
#[derive(Clone, Copy)]
pub(super) enum RingView<'a> {
    /// In one region.
    Direct(VolatileSlice<'a>),
    /// Across regions.
    Scattered(&'a ClientMemory, u64),
}

impl Ring {
    pub(super) fn new(iova: u64, len: usize, access: Access) -> Self {
        Self { iova, len, access, pinned: None }
    }

    /// Its memory, looked up again where the client has mapped it anew.
    #[inline]
    pub(super) fn view<'a>(
        &'a mut self,
        memory: &'a ClientMemory,
    ) -> Result<RingView<'a>, DmaFault> {
        if self.pinned.as_ref().is_none_or(|pinned| !pinned.is_live()) {
            self.pinned = memory.pin(self.iova, self.len, self.access)?;
        }
        match self.pinned.as_ref().and_then(Pinned::slice) {
            Some(slice) => Ok(RingView::Direct(slice)),
            None => Ok(RingView::Scattered(memory, self.iova)),
        }
    }
}

impl Ring {
    /// Loads the dword at byte `offset`.
    pub(super) fn load(&mut self, memory: &ClientMemory, offset: usize) -> Result<u32, Fault> {
        let mut bytes = [0; 4];
        match self.view(memory).map_err(|_| Fault)? {
            RingView::Direct(slice) => {
                return slice.load(offset, Ordering::Acquire).map(u32::from_le).map_err(|_| Fault);
            }
            RingView::Scattered(memory, iova) => {
                memory.read(iova.wrapping_add(offset as u64), &mut bytes).map_err(|_| Fault)?;
            }
        }
        Ok(u32::from_le_bytes(bytes))
    }

    /// Stores the dword at byte `offset`.
    pub(super) fn store(
        &mut self,
        memory: &ClientMemory,
        offset: usize,
        value: u32,
    ) -> Result<(), Fault> {
        match self.view(memory).map_err(|_| Fault)? {
            RingView::Direct(slice) => {
                slice.store(value.to_le(), offset, Ordering::Release).map_err(|_| Fault)
            }
            RingView::Scattered(memory, iova) => {
                let iova = iova.wrapping_add(offset as u64);
                memory.write(iova, &value.to_le_bytes()).map_err(|_| Fault)
            }
        }
    }
}

impl RingView<'_> {
    /// Copies submission entry `index` out, once.
    #[inline]
    pub(super) fn fetch(&self, index: u32, entry: &mut SubmissionEntry) -> Result<(), Fault> {
        let offset = index as usize * SubmissionEntry::SIZE;
        match self {
            Self::Direct(slice) => {
                let slice = slice.subslice(offset, SubmissionEntry::SIZE).map_err(|_| Fault)?;
                slice.copy_to(entry.as_mut_bytes());
            }
            Self::Scattered(memory, iova) => {
                let iova = iova.wrapping_add(offset as u64);
                memory.read(iova, entry.as_mut_bytes()).map_err(|_| Fault)?;
            }
        }
        Ok(())
    }

    /// Writes completion entry `index`; the half that holds the phase last.
    #[inline]
    pub(super) fn post(&self, index: u32, entry: &CompletionEntry) -> Result<(), Fault> {
        let offset = index as usize * CompletionEntry::SIZE;
        let low = entry.result();
        let high = u64::from(entry.dw2().bits()) | u64::from(entry.dw3().bits()) << 32;
        match self {
            Self::Direct(slice) => {
                slice.store(low.to_le(), offset, Ordering::Relaxed).map_err(|_| Fault)?;
                slice.store(high.to_le(), offset + 8, Ordering::Release).map_err(|_| Fault)
            }
            Self::Scattered(memory, iova) => {
                let iova = iova.wrapping_add(offset as u64);
                memory.write(iova, &low.to_le_bytes()).map_err(|_| Fault)?;
                std::sync::atomic::fence(Ordering::Release);
                memory.write(iova.wrapping_add(8), &high.to_le_bytes()).map_err(|_| Fault)
            }
        }
    }
}

/// A queue's memory is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault;

/// A doorbell said what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidDoorbell;

/// A command that was taken from a submission queue. It has to be completed (or, when its
/// queue goes, abandoned): in debug builds one that is merely dropped is a panic.
#[derive(Debug)]
#[must_use = "a command that has been taken must be completed"]
pub(super) struct Taken {
    /// Its submission queue.
    pub(super) sqid: u16,
    /// Its identifier.
    pub(super) cid: u16,
    armed: bool,
}

/// A command's end, to be posted.
#[derive(Clone, Copy, Debug)]
#[must_use = "a completion has to be posted"]
pub(super) struct Completion {
    /// Submission queue of the command.
    pub(super) sqid: u16,
    /// Command identifier.
    pub(super) cid: u16,
    /// Dwords 0 and 1.
    pub(super) result: u64,
    /// Status.
    pub(super) status: Status,
}

impl Taken {
    #[inline]
    pub(super) fn new(sqid: u16, cid: u16) -> Self {
        Self { sqid, cid, armed: cfg!(debug_assertions) }
    }

    /// Ends it.
    #[inline]
    pub(super) fn complete(mut self, status: Status, result: u64) -> Completion {
        self.armed = false;
        Completion { sqid: self.sqid, cid: self.cid, result, status }
    }

    /// Ends it without a completion, as a reset does.
    pub(super) fn abandon(mut self) {
        self.armed = false;
    }
}

#[cfg(debug_assertions)]
impl Drop for Taken {
    fn drop(&mut self) {
        assert!(
            !self.armed || std::thread::panicking(),
            "command {:#x} of queue {} was taken and not completed",
            self.cid,
            self.sqid
        );
    }
}

/// A submission queue.
#[derive(Debug)]
pub(super) struct SubmissionQueue {
    pub(super) ring: Ring,
    /// How many entries it has.
    pub(super) size: u32,
    /// The next entry to take.
    pub(super) head: u32,
    /// Its completion queue.
    pub(super) cqid: u16,
    // The last value that the doorbell could not have, so that it is reported once.
    refused: Option<u32>,
}

impl SubmissionQueue {
    pub(super) fn new(iova: u64, size: u32, cqid: u16) -> Self {
        let ring = Ring::new(iova, size as usize * SubmissionEntry::SIZE, Access::Read);
        Self { ring, size, head: 0, cqid, refused: None }
    }

    /// Checks what the tail doorbell says. The tail; the head where it is impossible.
    #[inline]
    pub(super) fn check_tail(&mut self, tail: u32) -> Result<u32, InvalidDoorbell> {
        if tail < self.size {
            return Ok(tail);
        }
        if self.refused == Some(tail) {
            return Ok(self.head);
        }
        self.refused = Some(tail);
        Err(InvalidDoorbell)
    }

    /// How many entries there are from the head to `tail`.
    #[inline]
    pub(super) fn available(&self, tail: u32) -> u32 {
        if tail >= self.head { tail - self.head } else { tail + self.size - self.head }
    }

    /// The entry after `index`.
    #[inline]
    pub(super) fn next(&self, index: u32) -> u32 {
        if index + 1 == self.size { 0 } else { index + 1 }
    }
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct CompletionQueue {
    pub(super) ring: Ring,
    pub(super) cursor: Cursor,
    /// Its interrupt vector, where it has one.
    pub(super) vector: Option<u16>,
    /// How many submission queues use it.
    pub(super) users: u32,
}

impl CompletionQueue {
    pub(super) fn new(iova: u64, size: u32, vector: Option<u16>) -> Self {
        let ring = Ring::new(iova, size as usize * CompletionEntry::SIZE, Access::Write);
        let cursor = Cursor { size, tail: 0, head: 0, phase: true, refused: None };
        Self { ring, cursor, vector, users: 0 }
    }
}

/// Where a completion queue is.
#[derive(Debug)]
pub(super) struct Cursor {
    size: u32,
    // The next entry to write.
    tail: u32,
    // The client's head, as last seen.
    head: u32,
    phase: bool,
    refused: Option<u32>,
}

impl Cursor {
    /// The client's head, as last seen.
    pub(super) fn head(&self) -> u32 {
        self.head
    }

    /// How many entries can be written, going by the head as last seen.
    #[inline]
    pub(super) fn room(&self) -> u32 {
        let used = if self.tail >= self.head {
            self.tail - self.head
        } else {
            self.tail + self.size - self.head
        };
        self.size - 1 - used
    }

    /// Whether the client has not yet taken all entries, going by the head as last seen.
    pub(super) fn is_empty(&self) -> bool {
        self.tail == self.head
    }

    /// Takes what the head doorbell says.
    pub(super) fn set_head(&mut self, head: u32) -> Result<(), InvalidDoorbell> {
        let distance =
            |from: u32, to: u32| if to >= from { to - from } else { to + self.size - from };
        if head < self.size && distance(self.head, head) <= distance(self.head, self.tail) {
            self.head = head;
            return Ok(());
        }
        if self.refused == Some(head) {
            return Ok(());
        }
        self.refused = Some(head);
        Err(InvalidDoorbell)
    }

    /// The entry for `completion` at the tail, with the phase or with the wrong one, and moves
    /// the tail. Returns where it goes. Ask for [`room`](Self::room) before.
    #[inline]
    pub(super) fn push(
        &mut self,
        completion: Completion,
        sqhd: u32,
        wrong_phase: bool,
    ) -> (u32, CompletionEntry) {
        let entry = CompletionEntry::new(
            completion.result,
            CompletionDword2::default().with_sqhd(sqhd as u16).with_sqid(completion.sqid),
            CompletionDword3::default()
                .with_cid(completion.cid)
                .with_phase(self.phase != wrong_phase)
                .with_status(completion.status),
        );
        let place = self.tail;
        self.tail += 1;
        if self.tail == self.size {
            self.tail = 0;
            self.phase = !self.phase;
        }
        (place, entry)
    }
}

#[cfg(test)]
mod tests;
