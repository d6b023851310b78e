//! The requests on their way.

use uniddrv_abi::block::Submission;

use crate::dma::DmaBuf;

/// A tag on the wire is the slot's index, and above it the count of its uses.
const INDEX_BITS: u32 = 16;

struct Slot {
    /// As it went out; its tag also after the request has ended.
    submission: Submission,
    /// Which request it is, counted from the first.
    number: u64,
    busy: bool,
    tag: u64,
    buffer: Option<DmaBuf>,
}

/// A fixed number of slots. A completion that comes twice or late finds nobody: the use count in
/// its tag is another.
pub(super) struct Slots {
    all: Box<[Slot]>,
    free: Vec<u16>,
    numbers: u64,
}

impl Slots {
    /// `count` free slots.
    pub(super) fn new(count: u16) -> Self {
        let slot = |index: u16| Slot {
            submission: Submission {
                opcode: uniddrv_abi::block::Opcode::Flush,
                fua: false,
                blocks: 0,
                lba: 0,
                offset: 0,
                tag: index.into(),
            },
            number: 0,
            busy: false,
            tag: 0,
            buffer: None,
        };
        Self { all: (0..count).map(slot).collect(), free: (0..count).rev().collect(), numbers: 0 }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    #[inline]
    pub(super) fn in_flight(&self) -> usize {
        self.all.len() - self.free.len()
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Fills a free slot. What goes out; nothing, and the buffer is dropped, where none is free.
    #[inline]
    pub(super) fn take(
        &mut self,
        submission: Submission,
        tag: u64,
        buffer: Option<DmaBuf>,
    ) -> Option<Submission> {
        let slot = self.all.get_mut(usize::from(self.free.pop()?))?;
        let wire = next_use(slot.submission.tag);
        slot.submission = Submission { tag: wire, ..submission };
        slot.number = self.numbers;
        slot.busy = true;
        slot.tag = tag;
        slot.buffer = buffer;
        self.numbers += 1;
        Some(slot.submission)
    }

    /// Frees the slot whose request went out with the tag `wire`: what the submitter calls it,
    /// and its buffer.
    #[inline]
    pub(super) fn release(&mut self, wire: u64) -> Option<(u64, Option<DmaBuf>)> {
        let index = wire as u16;
        let slot = self.all.get_mut(usize::from(index))?;
        if slot.submission.tag != wire || !slot.busy {
            return None;
        }
        slot.busy = false;
        self.free.push(index);
        Some((slot.tag, slot.buffer.take()))
    }

    /// The tags of all that is on its way, in order.
    fn in_order(&self) -> Vec<u64> {
        let mut busy: Vec<_> = self.all.iter().filter(|slot| slot.busy).collect();
        busy.sort_unstable_by_key(|slot| slot.number);
        busy.iter().map(|slot| slot.submission.tag).collect()
    }

    /// All that is on its way goes out again: in order, with tags of a new use.
    pub(super) fn again(&mut self) -> Vec<Submission> {
        let order = self.in_order();
        let again = order.into_iter().filter_map(|wire| {
            let slot = self.all.get_mut(usize::from(wire as u16))?;
            slot.submission.tag = next_use(wire);
            Some(slot.submission)
        });
        again.collect()
    }

    /// Frees all slots: what was on its way, in order.
    pub(super) fn release_all(&mut self) -> impl Iterator<Item = (u64, Option<DmaBuf>)> {
        self.in_order().into_iter().filter_map(|wire| self.release(wire))
    }
}

const fn next_use(wire: u64) -> u64 {
    wire.wrapping_add(1 << INDEX_BITS)
}

#[cfg(test)]
mod tests {
    use uniddrv_abi::block::Opcode;

    use super::*;

    const READ: Submission =
        Submission { opcode: Opcode::Read, fua: false, blocks: 1, lba: 7, offset: 4096, tag: 0 };

    #[test]
    fn a_slot_is_released_once_and_late_completions_find_nobody() {
        let mut slots = Slots::new(2);
        let first = slots.take(READ, 1, None).unwrap().tag;
        assert_eq!(slots.release(first).unwrap().0, 1);
        assert!(slots.release(first).is_none());
        let second = slots.take(READ, 2, None).unwrap().tag;
        assert_ne!(first, second);
        assert!(slots.release(first).is_none() && slots.release(second).is_some());
    }

    #[test]
    fn any_tag_is_harmless() {
        let mut slots = Slots::new(3);
        for wire in [0, 1, 2, 3, 0xffff, 1 << 16, u64::MAX, u64::MAX << 16] {
            assert!(slots.release(wire).is_none());
        }
        while slots.take(READ, 0, None).is_some() {}
        assert!(slots.is_full());
        let released = (0..1 << 18).filter(|&wire| slots.release(wire).is_some()).count();
        assert_eq!((released, slots.in_flight()), (3, 0));
    }

    #[test]
    fn what_goes_out_again_keeps_its_order() {
        let mut slots = Slots::new(4);
        let tags: Vec<_> = (0..4).map(|n| slots.take(READ, n, None).unwrap().tag).collect();
        slots.release(tags[1]).unwrap();
        slots.release(tags[2]).unwrap();
        for (lba, tag) in [(8, 5), (9, 6)] {
            slots.take(Submission { lba, ..READ }, tag, None).unwrap();
        }
        let again = slots.again();
        assert_eq!(again.iter().map(|s| s.lba).collect::<Vec<_>>(), [7, 7, 8, 9]);
        assert!(tags.iter().all(|&tag| slots.release(tag).is_none()));
        let order: Vec<_> = slots.release_all().map(|(tag, _)| tag).collect();
        assert_eq!((order, slots.in_flight()), (vec![0, 3, 5, 6], 0));
    }
}
