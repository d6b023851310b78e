//! A queue pair: rings, slots and data pointers. What it carries is up to its user.

use uniddrv::{DmaBuf, DmaError, DmaRing};
use uniddrv_spec::nvme::entry::{CompletionEntry, SubmissionEntry};

use crate::data::DataPointers;
use crate::doorbell::Doorbell;
use crate::memory::Source;
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
    max_transfer: usize,
    /// Completions of commands that were on their way.
    pub(crate) completed: u64,
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
        memory: &mut impl Source,
        shape: Shape,
        tail: Doorbell,
        head: Doorbell,
    ) -> Result<Self, DmaError> {
        let depth = usize::from(shape.depth);
        let submission = ring::<SubmissionEntry>(memory, depth + 1)?;
        // Twice the room, where there is: completions are acknowledged by the half ring.
        let entries = (2 * depth + 1).min(shape.max_entries as usize).max(depth + 1);
        let completion = ring::<CompletionEntry>(memory, entries)?;
        Ok(Self {
            rings: Rings::new(submission, completion, tail, head, depth),
            slots: Slots::new(shape.depth),
            data: DataPointers::new(memory, depth, shape.max_transfer, shape.page, shape.sgl)?,
            tick: 0,
            max_transfer: shape.max_transfer,
            completed: 0,
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

    /// The most bytes that one command moves: what its data pointers can describe.
    #[inline]
    pub(crate) fn max_transfer(&self) -> usize {
        self.max_transfer
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
                self.completed += 1;
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
        self.slots.release_any()
    }

    /// Commands that somebody else has sent are on their way, by these identifiers; all others
    /// start from a count of uses that he did not have.
    pub(crate) fn adopt(&mut self, cids: &[u16], tag: u64, uses: u16) {
        self.slots.adopt(cids, tag, uses);
    }

    /// The commands on their way.
    pub(crate) fn busy(&mut self) -> impl Iterator<Item = (u16, &mut Slot)> {
        self.slots.busy()
    }
}

pub(crate) fn ring<T: zerocopy::FromBytes + zerocopy::IntoBytes + Copy>(
    memory: &mut impl Source,
    entries: usize,
) -> Result<DmaRing<T>, DmaError> {
    let len = entries * size_of::<T>();
    DmaRing::new(memory.buffer(len)?, entries).map_err(|_| DmaError::Size(len))
}

#[cfg(test)]
mod tests {
    use uniddrv_spec::nvme::entry::{CompletionDword2, CompletionDword3};

    use super::*;
    use crate::testing::Memory;

    /// A queue pair of `depth` commands, and its completion ring's memory seen by a controller.
    fn pair(memory: &Memory, depth: u16) -> QueuePair {
        let doorbell = |offset| Doorbell::new(memory.register(offset));
        let shape =
            Shape { depth, max_entries: 1024, max_transfer: 1 << 20, page: 4096, sgl: false };
        QueuePair::new(&mut &memory.device, shape, doorbell(0), doorbell(4)).unwrap()
    }

    fn complete(pair: &mut QueuePair, place: usize, phase: bool, cid: u16) {
        let dw3 = CompletionDword3::default().with_cid(cid).with_phase(phase);
        let entry = CompletionEntry::new(0, CompletionDword2::default(), dw3);
        pair.rings().write_completion(place, entry);
    }

    #[test]
    fn a_full_queue_gives_the_buffer_back() {
        for depth in [1, 2, 3, 31] {
            let memory = Memory::new();
            let mut pair = pair(&memory, depth);
            for tag in 0..u64::from(depth) {
                let buffer = memory.device.dma_buffer(4096).unwrap();
                assert!(pair.submit(SubmissionEntry::new(1), Some(buffer), 4096, tag).is_ok());
            }
            let mut buffer = memory.device.dma_buffer(4096).unwrap();
            buffer.as_mut_slice().fill(7);
            let back = pair.submit(SubmissionEntry::new(1), Some(buffer), 4096, 99);
            assert!(back.unwrap_err().unwrap().as_slice().iter().all(|&byte| byte == 7));
            assert_eq!(pair.in_flight(), usize::from(depth));
            let mut tags: Vec<_> = std::iter::from_fn(|| pair.give_up_one()).collect();
            tags.sort_by_key(|(tag, _)| *tag);
            let given: Vec<_> = tags.iter().map(|(tag, buffer)| (*tag, buffer.is_some())).collect();
            assert_eq!(given, (0..u64::from(depth)).map(|tag| (tag, true)).collect::<Vec<_>>());
            assert_eq!(pair.in_flight(), 0);
        }
    }

    #[test]
    fn a_buffer_comes_back_with_its_own_command() {
        let memory = Memory::new();
        let mut pair = pair(&memory, 3);
        let cids: Vec<_> = (0..3)
            .map(|tag| {
                let mut buffer = memory.device.dma_buffer(512).unwrap();
                buffer.as_mut_slice().fill(tag as u8);
                pair.submit(SubmissionEntry::new(1), Some(buffer), 512, tag).unwrap()
            })
            .collect();
        for (place, index) in [2, 0, 1].into_iter().enumerate() {
            complete(&mut pair, place, true, cids[index]);
            let reaped = pair.reap().unwrap();
            assert_eq!(reaped.tag, index as u64);
            assert_eq!(reaped.buffer.unwrap().as_slice()[0], index as u8);
        }
        assert!(pair.reap().is_none());
    }

    #[test]
    fn completions_of_nobody_are_counted_and_skipped() {
        let memory = Memory::new();
        let mut pair = pair(&memory, 2);
        let cid = pair.submit(SubmissionEntry::new(1), None, 0, 5).unwrap();
        complete(&mut pair, 0, true, !cid);
        complete(&mut pair, 1, true, cid);
        complete(&mut pair, 2, true, cid);
        assert_eq!(pair.reap().unwrap().tag, 5);
        assert!(pair.reap().is_none());
        assert_eq!((pair.unknown(), pair.in_flight()), (2, 0));
    }

    #[test]
    fn a_flood_of_completions_of_nobody_lets_go_at_times() {
        let memory = Memory::new();
        let mut pair = pair(&memory, 511);
        // The whole ring, in the phase that is expected.
        let len = pair.rings().completion_len();
        for place in 0..len {
            complete(&mut pair, place, true, 1);
        }
        assert!(pair.reap().is_none());
        assert_eq!(pair.unknown(), 1023);
        // The next lap: one more makes 1,024, and there is a break before the rest.
        for place in 0..len {
            complete(&mut pair, place, false, 1);
        }
        assert!(pair.reap().is_none());
        assert_eq!(pair.unknown(), 1024);
        assert!(pair.reap().is_none());
        assert_eq!(pair.unknown(), 2046);
    }
}
