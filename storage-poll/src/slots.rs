//! The commands on their way, by command identifier.

use uniddrv::DmaBuf;

/// A command on its way.
pub(crate) struct Slot {
    /// The identifier that it went out with; what the last one had, when free.
    cid: u16,
    busy: bool,
    /// Whether an abort was sent for it.
    pub(crate) abort_sent: bool,
    /// The tick of its queue's clock in which it was submitted, or the abort was sent.
    pub(crate) tick: u32,
    /// What the submitter calls it.
    pub(crate) tag: u64,
    /// Its data.
    pub(crate) buffer: Option<DmaBuf>,
}

/// A fixed number of slots. The low bits of a command identifier are the slot's index; the
/// high bits count its uses, so that a completion that comes twice or late finds nobody.
pub(crate) struct Slots {
    all: Box<[Slot]>,
    free: Vec<u16>,
    /// Where `release_any` goes on: nothing busy lies before.
    cursor: usize,
    index_mask: u16,
}

impl Slots {
    /// `count` free slots, 1 to 32,768.
    pub(crate) fn new(count: u16) -> Self {
        let slot = |index| Slot {
            cid: index,
            busy: false,
            abort_sent: false,
            tick: 0,
            tag: 0,
            buffer: None,
        };
        Self {
            all: (0..count).map(slot).collect(),
            free: (0..count).rev().collect(),
            cursor: 0,
            index_mask: (count.next_power_of_two() - 1).max(1),
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many are busy.
    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// Fills a free slot. Its index and command identifier; the buffer back when none is free.
    #[inline]
    pub(crate) fn take(
        &mut self,
        tick: u32,
        tag: u64,
        buffer: Option<DmaBuf>,
    ) -> Result<(usize, u16), Option<DmaBuf>> {
        let Some(index) = self.free.pop() else { return Err(buffer) };
        let slot = &mut self.all[usize::from(index)];
        slot.cid = slot.cid.wrapping_add(self.index_mask.wrapping_add(1));
        slot.busy = true;
        slot.abort_sent = false;
        slot.tick = tick;
        slot.tag = tag;
        slot.buffer = buffer;
        Ok((usize::from(index), slot.cid))
    }

    /// Frees the slot whose command has this identifier; nothing where there is none.
    #[inline]
    pub(crate) fn release(&mut self, cid: u16) -> Option<(u64, Option<DmaBuf>)> {
        let index = cid & self.index_mask;
        let slot = self.all.get_mut(usize::from(index))?;
        if slot.cid != cid || !slot.busy {
            return None;
        }
        slot.busy = false;
        self.free.push(index);
        Some((slot.tag, slot.buffer.take()))
    }

    /// Frees one busy slot, if there is any.
    pub(crate) fn release_any(&mut self) -> Option<(u64, Option<DmaBuf>)> {
        while let Some(slot) = self.all.get(self.cursor) {
            if slot.busy {
                return self.release(slot.cid);
            }
            self.cursor += 1;
        }
        self.cursor = 0;
        None
    }

    /// Takes over commands of somebody else, by their identifiers; the count of uses of all other
    /// slots starts from `uses`.
    pub(crate) fn adopt(&mut self, cids: &[u16], tag: u64, uses: u16) {
        for slot in &mut self.all {
            let count = uses.wrapping_mul(self.index_mask.wrapping_add(1));
            slot.cid = slot.cid & self.index_mask | count;
        }
        for &cid in cids {
            let index = cid & self.index_mask;
            if let Some(slot) = self.all.get_mut(usize::from(index))
                && !slot.busy
            {
                (slot.cid, slot.busy, slot.tag) = (cid, true, tag);
                self.free.retain(|&free| free != index);
            }
        }
    }

    /// The busy slots with their identifiers.
    pub(crate) fn busy(&mut self) -> impl Iterator<Item = (u16, &mut Slot)> {
        self.all.iter_mut().filter(|slot| slot.busy).map(|slot| (slot.cid, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_released_once() {
        let mut slots = Slots::new(3);
        let (index, cid) = slots.take(0, 7, None).unwrap();
        assert!(index < 3);
        assert_eq!(slots.in_flight(), 1);
        assert_eq!(slots.release(cid).unwrap().0, 7);
        assert!(slots.release(cid).is_none(), "released twice");
        assert_eq!(slots.in_flight(), 0);
    }

    #[test]
    fn a_late_completion_finds_nobody() {
        let mut slots = Slots::new(4);
        let (_, first) = slots.take(0, 1, None).unwrap();
        slots.release(first).unwrap();
        let (_, second) = slots.take(0, 2, None).unwrap();
        assert_ne!(first, second);
        assert!(slots.release(first).is_none());
        assert_eq!(slots.release(second).unwrap().0, 2);
    }

    #[test]
    fn any_identifier_is_harmless() {
        for count in [1, 2, 3, 31, 32, 1023, 32768] {
            let mut slots = Slots::new(count);
            while slots.take(0, 9, None).is_ok() {}
            let released = (0..=u16::MAX).filter(|&cid| slots.release(cid).is_some()).count();
            assert_eq!(released, usize::from(count));
            assert_eq!(slots.in_flight(), 0);
        }
    }
}
