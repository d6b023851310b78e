//! A client of a few lines: it rings doorbells and reads completions, nothing more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uniddrv::{Arena, Transport};
use uniddrv_spec::nvme::admin::queue::{CompletionQueueDword11, SubmissionQueueDword11};
use uniddrv_spec::nvme::admin::{
    CreateIoCompletionQueue, CreateIoSubmissionQueue, Identify, SetFeatures,
};
use uniddrv_spec::nvme::entry::{CompletionEntry, SubmissionEntry};
use uniddrv_spec::nvme::registers::{
    Acq, Aqa, Asq, Cc, Csts, completion_doorbell, submission_doorbell,
};
use uniddrv_spec::nvme::status::Status;
use zerocopy::{FromBytes, IntoBytes};

use crate::inline::Inline;
use crate::nvme::{NvmeModel, Params};

/// Where the client's memory starts for the device, and how much there is.
pub(super) const BASE: u64 = 1 << 30;
pub(super) const LEN: u64 = 8 << 20;
/// Data of commands.
pub(super) const DATA: u64 = BASE + (4 << 20);
/// PRP lists and SGL segments.
pub(super) const LIST: u64 = BASE + (6 << 20);
/// The entries of each queue.
pub(super) const ENTRIES: u32 = 16;

pub(super) struct Client {
    pub(super) inline: Inline<NvmeModel>,
    pub(super) queues: Vec<Queue>,
    arena: Arc<Arena>,
    next_cid: u16,
}

#[derive(Clone, Copy)]
pub(super) struct Queue {
    pub(super) tail: u32,
    pub(super) head: u32,
    phase: bool,
}

impl Client {
    /// A controller that is not enabled yet.
    pub(super) fn off(pairs: &[(&str, &str)]) -> Self {
        let mut params = Params::from_pairs([("size", "1M")]).unwrap();
        for (key, value) in pairs {
            params.set(key, value).unwrap();
        }
        let inline = Inline::new(NvmeModel::new(params).unwrap());
        let arena = Arc::new(Arena::new(LEN as usize).unwrap());
        inline.write_config(4, &[6, 0]).unwrap();
        let client = Self { inline, queues: Vec::new(), arena, next_cid: 0 };
        client.map();
        client
    }

    /// An enabled controller with the I/O queue pair 1.
    pub(super) fn new(pairs: &[(&str, &str)]) -> Self {
        let mut client = Self::off(pairs);
        client.enable();
        client.create_queues(1);
        client
    }

    pub(super) fn map(&self) {
        self.inline.map_dma(&self.arena, BASE).unwrap();
    }

    pub(super) fn unmap(&self) {
        self.inline.unmap_dma(BASE, self.arena.len() as u64).unwrap();
    }

    pub(super) fn read32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.inline.read_bar(0, offset as u64, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub(super) fn write32(&self, offset: usize, value: u32) {
        self.inline.write_bar(0, offset as u64, &value.to_le_bytes()).unwrap();
    }

    pub(super) fn csts(&self) -> Csts {
        Csts::from_bits(self.read32(Csts::OFFSET))
    }

    pub(super) fn cc() -> Cc {
        Cc::default().with_en(true).with_iosqes(6).with_iocqes(4)
    }

    pub(super) fn set_admin_queues(&self) {
        let entries = (ENTRIES - 1) as u16;
        let aqa = Aqa::default().with_asqs(entries).with_acqs(entries);
        self.write32(Aqa::OFFSET, aqa.bits());
        let write64 = |offset: usize, value: u64| {
            self.inline.write_bar(0, offset as u64, &value.to_le_bytes()).unwrap();
        };
        write64(Asq::OFFSET, sq_address(0));
        write64(Acq::OFFSET, cq_address(0));
    }

    pub(super) fn enable(&mut self) {
        self.set_admin_queues();
        self.clear_queue(0);
        self.queues = vec![Queue { tail: 0, head: 0, phase: true }];
        self.write32(Cc::OFFSET, Self::cc().bits());
    }

    pub(super) fn disable(&self) {
        self.write32(Cc::OFFSET, Self::cc().with_en(false).bits());
    }

    fn clear_queue(&self, qid: u16) {
        self.put(cq_address(qid), &[0; 4096]);
    }

    /// Creates the I/O queue pair `qid`, the next one.
    pub(super) fn create_queues(&mut self, qid: u16) {
        assert_eq!(self.queues.len(), usize::from(qid));
        self.clear_queue(qid);
        assert_eq!(self.admin(create_cq(qid)).status(), Status::SUCCESS);
        assert_eq!(self.admin(create_sq(qid)).status(), Status::SUCCESS);
        self.queues.push(Queue { tail: 0, head: 0, phase: true });
    }

    pub(super) fn put(&self, address: u64, data: &[u8]) {
        self.inline.with(|_, host| host.memory.write(address, data)).unwrap();
    }

    pub(super) fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.inline.with(|_, host| host.memory.read(address, &mut data)).unwrap();
        data
    }

    /// Puts a command into a queue without ringing. Returns its identifier.
    pub(super) fn queue(&mut self, qid: u16, entry: SubmissionEntry) -> u16 {
        let cid = self.next_cid;
        self.next_cid = (self.next_cid + 1) & 0x7fff;
        let tail = self.queues[usize::from(qid)].tail;
        let place = sq_address(qid) + 64 * u64::from(tail);
        self.put(place, entry.with_cid(cid).as_bytes());
        self.queues[usize::from(qid)].tail = (tail + 1) % ENTRIES;
        cid
    }

    pub(super) fn ring(&self, qid: u16) {
        self.write32(submission_doorbell(qid, 0), self.queues[usize::from(qid)].tail);
    }

    pub(super) fn submit(&mut self, qid: u16, entry: SubmissionEntry) -> u16 {
        let cid = self.queue(qid, entry);
        self.ring(qid);
        cid
    }

    /// The next completion of a queue, where there is one. Rings its doorbell.
    pub(super) fn reap(&mut self, qid: u16) -> Option<CompletionEntry> {
        let queue = self.queues[usize::from(qid)];
        let place = cq_address(qid) + 16 * u64::from(queue.head);
        let entry = CompletionEntry::read_from_bytes(&self.get(place, 16)).unwrap();
        if entry.phase() != queue.phase {
            return None;
        }
        let queue = &mut self.queues[usize::from(qid)];
        queue.head += 1;
        if queue.head == ENTRIES {
            queue.head = 0;
            queue.phase = !queue.phase;
        }
        let head = queue.head;
        self.write32(completion_doorbell(qid, 0), head);
        Some(entry)
    }

    /// Waits for the next completion, for a second at most.
    pub(super) fn wait(&mut self, qid: u16) -> Option<CompletionEntry> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            if let Some(entry) = self.reap(qid) {
                return Some(entry);
            }
            self.inline.poll();
        }
        None
    }

    /// Submits a command and returns its completion, which is there at once.
    pub(super) fn execute(&mut self, qid: u16, entry: SubmissionEntry) -> CompletionEntry {
        let cid = self.submit(qid, entry);
        let completion = self.reap(qid).expect("an instant device has completed");
        assert_eq!((completion.cid(), completion.sqid()), (cid, qid));
        assert_eq!(u32::from(completion.sqhd()), self.queues[usize::from(qid)].tail);
        completion
    }

    pub(super) fn admin(&mut self, entry: SubmissionEntry) -> CompletionEntry {
        self.execute(0, entry)
    }

    /// Executes an I/O command on queue 1. Its status, without More and Do Not Retry.
    pub(super) fn io(&mut self, entry: SubmissionEntry) -> Status {
        self.execute(1, entry).status().code()
    }

    pub(super) fn admin_status(&mut self, entry: SubmissionEntry) -> Status {
        self.admin(entry).status().code()
    }

    /// Identify, a structure that has 4096 bytes.
    pub(super) fn identify<T: FromBytes>(&mut self, command: Identify) -> T {
        assert_eq!(size_of::<T>(), 4096);
        let status = self.admin_status(command.to_entry().with_prps(DATA, 0));
        assert_eq!(status, Status::SUCCESS, "{command:?}");
        T::read_from_bytes(&self.get(DATA, 4096)).unwrap()
    }

    pub(super) fn set_feature(&mut self, command: SetFeatures) -> Status {
        self.admin_status(command.to_entry())
    }
}

pub(super) fn sq_address(qid: u16) -> u64 {
    BASE + 0x1_0000 * u64::from(qid)
}

pub(super) fn cq_address(qid: u16) -> u64 {
    sq_address(qid) + 0x8000
}

pub(super) fn create_cq(qid: u16) -> SubmissionEntry {
    let attributes = CompletionQueueDword11::default().with_pc(true).with_ien(true).with_iv(qid);
    CreateIoCompletionQueue {
        qid,
        qsize: (ENTRIES - 1) as u16,
        attributes,
        address: cq_address(qid),
    }
    .to_entry()
}

pub(super) fn create_sq(qid: u16) -> SubmissionEntry {
    let attributes = SubmissionQueueDword11::default().with_pc(true).with_cqid(qid);
    CreateIoSubmissionQueue {
        qid,
        qsize: (ENTRIES - 1) as u16,
        attributes,
        address: sq_address(qid),
    }
    .to_entry()
}

/// Bytes that tell where they belong.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|index| ((seed + index).wrapping_mul(0x9e37_79b9) >> 16) as u8).collect()
}
