//! A queue pair: rings, slots and data pointers. What it carries is up to its user.

use uniddrv::{Device, DmaBuf, DmaError, DmaRing};
use uniddrv_spec::nvme::entry::{CompletionEntry, SubmissionEntry};

use crate::data::DataPointers;
use crate::doorbell::Doorbell;
use crate::rings::Rings;
use crate::slots::{Slot, Slots};

/// How large a queue pair is and what its commands may move.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Commands on their way at once.
    pub(crate) depth: u16,
    /// Entries of the completion ring that the controller allows at most.
    pub(crate) max_entries: u32,
    /// Bytes.
    pub(crate) max_transfer: usize,
    /// The controller's page size in bytes.
    pub(crate) page: usize,
    /// Whether to use SGLs.
    pub(crate) sgl: bool,
}

pub(crate) struct QueuePair {
    rings: Rings,
    slots: Slots,
    data: DataPointers,
    /// The time, in ticks of its user.
    pub(crate) tick: u32,
    /// Completions of commands that are not on their way: a defect of the controller.
    unknown: u64,
}

/// A completion with what its command was submitted with.
pub(crate) struct Reaped {
    pub(crate) tag: u64,
    pub(crate) entry: CompletionEntry,
    pub(crate) buffer: Option<DmaBuf>,
}

impl QueuePair {
    pub(crate) fn new(
        device: &Device,
        shape: Shape,
        tail: Doorbell,
        head: Doorbell,
    ) -> Result<Self, DmaError> {
        let depth = usize::from(shape.depth);
        let submission = ring::<SubmissionEntry>(device, depth + 1)?;
        // Twice the room, where there is: completions are acknowledged by the half ring.
        let entries = (2 * depth + 1).min(shape.max_entries as usize).max(depth + 1);
        let completion = ring::<CompletionEntry>(device, entries)?;
        Ok(Self {
            rings: Rings::new(submission, completion, tail, head, depth),
            slots: Slots::new(shape.depth),
            data: DataPointers::new(device, depth, shape.max_transfer, shape.page, shape.sgl)?,
            tick: 0,
            unknown: 0,
        })
    }

    pub(crate) fn rings(&mut self) -> &mut Rings {
        &mut self.rings
    }

    pub(crate) fn depth(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    pub(crate) fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Whether a completion waits to be reaped.
    #[inline]
    pub(crate) fn pending(&self) -> bool {
        self.rings.pending()
    }

    /// Appends a command that moves the first `len` bytes of `buffer`; `len` is at most the
    /// buffer's length and the largest transfer. Its identifier; the buffer back when full.
    #[inline]
    pub(crate) fn submit(
        &mut self,
        mut entry: SubmissionEntry,
        buffer: Option<DmaBuf>,
        len: usize,
        tag: u64,
    ) -> Result<u16, Option<DmaBuf>> {
        let iova = buffer.as_ref().map(DmaBuf::iova);
        let (index, cid) = self.slots.take(self.tick, tag, buffer)?;
        if let Some(iova) = iova {
            self.data.point(index, &mut entry, iova, len);
        }
        entry.set_cid(cid);
        self.rings.push(entry);
        Ok(cid)
    }

    /// Takes the next completion of a command that is on its way.
    #[inline]
    pub(crate) fn reap(&mut self) -> Option<Reaped> {
        loop {
            let entry = self.rings.pop()?;
            if let Some((tag, buffer)) = self.slots.release(entry.dw3().cid()) {
                return Some(Reaped { tag, entry, buffer });
            }
            self.unknown += 1;
            if self.unknown.is_power_of_two() {
                tracing::warn!(
                    ?entry,
                    count = self.unknown,
                    "a completion of no command that is on its way"
                );
            }
            // A controller that goes on like this must not keep us here for ever.
            if self.unknown.is_multiple_of(1024) {
                return None;
            }
        }
    }

    /// Ends one of the commands on their way without the controller: its tag and buffer. For
    /// a controller that has stopped.
    pub(crate) fn give_up_one(&mut self) -> Option<(u64, Option<DmaBuf>)> {
        let cid = self.slots.busy().next()?.0;
        self.slots.release(cid)
    }

    /// The commands on their way.
    pub(crate) fn busy(&mut self) -> impl Iterator<Item = (u16, &mut Slot)> {
        self.slots.busy()
    }
}

fn ring<T: zerocopy::FromBytes + zerocopy::IntoBytes + Copy>(
    device: &Device,
    entries: usize,
) -> Result<DmaRing<T>, DmaError> {
    let len = entries * size_of::<T>();
    DmaRing::new(device.dma_buffer(len)?, entries).map_err(|_| DmaError::Size(len))
}
