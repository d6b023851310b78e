//! Doorbells in the client's memory. NVMe Base 2.0 §5.8, Annex B.

use std::sync::atomic::{Ordering, fence};

use uniddrv_spec::nvme::shadow::{completion_offset, submission_offset};

use super::queues::{Fault, Ring};
use crate::host::{Access, ClientMemory};

/// The two buffers of Doorbell Buffer Config.
#[derive(Debug)]
pub(super) struct Shadow {
    doorbells: Ring,
    events: Ring,
    page: usize,
}

impl Shadow {
    pub(super) fn new(doorbells: u64, events: u64, page: usize) -> Self {
        Self {
            doorbells: Ring::new(doorbells, page, Access::Read),
            events: Ring::new(events, page, Access::Write),
            page,
        }
    }

    /// The tail of a submission queue whose entries up to `head` have been taken. Where there
    /// are no more, the client is told to ring the register for the next one.
    pub(super) fn tail(
        &mut self,
        memory: &ClientMemory,
        sqid: u16,
        head: u32,
    ) -> Option<Result<u32, Fault>> {
        self.value(memory, submission_offset(sqid, 0), |tail| tail == head)
    }

    /// The head of a completion queue, last seen at `head`, for which there is no room.
    pub(super) fn head(
        &mut self,
        memory: &ClientMemory,
        cqid: u16,
        head: u32,
    ) -> Option<Result<u32, Fault>> {
        self.value(memory, completion_offset(cqid, 0), |new| new == head)
    }

    /// The doorbell at `offset`; nothing where the buffers do not reach that far.
    fn value(
        &mut self,
        memory: &ClientMemory,
        offset: usize,
        waits: impl Fn(u32) -> bool,
    ) -> Option<Result<u32, Fault>> {
        if offset + 4 > self.page {
            return None;
        }
        Some(self.load(memory, offset, waits))
    }

    fn load(
        &mut self,
        memory: &ClientMemory,
        offset: usize,
        waits: impl Fn(u32) -> bool,
    ) -> Result<u32, Fault> {
        let value = self.doorbells.load(memory, offset)?;
        if !waits(value) || self.events.load(memory, offset)? == value {
            return Ok(value);
        }
        self.events.store(memory, offset, value)?;
        // The client writes its doorbell, then reads the event index; here it is the other
        // way round, so one of the two sees what the other wrote.
        fence(Ordering::SeqCst);
        self.doorbells.load(memory, offset)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use uniddrv::Arena;
    use uniddrv_spec::nvme::shadow::needs_doorbell;

    use super::*;

    #[test]
    fn the_event_index_asks_for_the_next_doorbell() {
        let arena = Arena::new(1).unwrap();
        let mut memory = ClientMemory::default();
        memory.map(0, arena.len() as u64, arena.fd().as_fd(), 0, true).unwrap();
        let mut shadow = Shadow::new(0x1000, 0x2000, 4096);
        memory.write(0x1000 + 8, &3u32.to_le_bytes()).unwrap();
        assert_eq!(shadow.tail(&memory, 1, 1), Some(Ok(3)));
        let event = |memory: &ClientMemory| {
            let mut bytes = [0; 4];
            memory.read(0x2000 + 8, &mut bytes).unwrap();
            u32::from_le_bytes(bytes) as u16
        };
        assert_eq!(event(&memory), 0);
        assert_eq!(shadow.tail(&memory, 1, 3), Some(Ok(3)));
        assert_eq!(event(&memory), 3);
        assert!(needs_doorbell(event(&memory), 3, 4));
        assert_eq!(shadow.tail(&memory, 512, 0), None);
        memory.clear();
        assert_eq!(shadow.tail(&memory, 1, 3), Some(Err(Fault)));
    }
}
