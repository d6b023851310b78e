//! A device that costs as little as one can: the NVMe model for everything but the first I/O
//! queue pair, whose commands complete when the doorbell is rung, unread but for their
//! identifier. What remains is the driver.

use uniddrv::InterruptKind;
use uniddrv_models::host::{Access, Pinned};
use uniddrv_models::{ConfigSpace, Host, Model, ModelBar, NvmeModel};
use uniddrv_spec::nvme::admin::{CreateIoCompletionQueue, CreateIoSubmissionQueue, Opcode};
use uniddrv_spec::nvme::entry::{CompletionEntry, SubmissionEntry};
use uniddrv_spec::nvme::registers::{Aqa, Asq, completion_doorbell, submission_doorbell};
use zerocopy::FromBytes;

pub(crate) struct Instant {
    model: NvmeModel,
    admin_tail: u32,
    submission: Option<Pinned>,
    completion: Option<Pinned>,
    submission_head: usize,
    completion_tail: usize,
    phase: u32,
}

impl Instant {
    pub(crate) fn new(model: NvmeModel) -> Self {
        Self {
            model,
            admin_tail: 0,
            submission: None,
            completion: None,
            submission_head: 0,
            completion_tail: 0,
            phase: 1,
        }
    }

    /// Remembers where queue pair 1 lies when an admin command creates it.
    fn watch_admin(&mut self, host: &mut Host, tail: u32) {
        let (mut aqa, mut asq) = ([0; 4], [0; 8]);
        self.model.read_bar(host, 0, Aqa::OFFSET as u64, &mut aqa);
        self.model.read_bar(host, 0, Asq::OFFSET as u64, &mut asq);
        let entries = u32::from(Aqa::from_bits(u32::from_le_bytes(aqa)).asqs()) + 1;
        while self.admin_tail != tail {
            let address = u64::from_le_bytes(asq) + u64::from(self.admin_tail) * 64;
            let mut bytes = [0; SubmissionEntry::SIZE];
            host.memory.read(address, &mut bytes).expect("the admin queue is mapped");
            let entry = SubmissionEntry::read_from_bytes(&bytes).expect("64 bytes");
            let pin = |address, entries: u16, size| {
                let len = (usize::from(entries) + 1) * size;
                host.memory.pin(address, len, Access::Write).expect("the queue is mapped")
            };
            match Opcode(entry.opcode()) {
                Opcode::CREATE_IO_SQ => {
                    let create = CreateIoSubmissionQueue::parse(&entry);
                    self.submission = pin(create.address, create.qsize, SubmissionEntry::SIZE);
                }
                Opcode::CREATE_IO_CQ => {
                    let create = CreateIoCompletionQueue::parse(&entry);
                    self.completion = pin(create.address, create.qsize, CompletionEntry::SIZE);
                }
                _ => {}
            }
            self.admin_tail = (self.admin_tail + 1) % entries;
        }
    }

    fn complete_until(&mut self, tail: usize) {
        let (Some(submission), Some(completion)) = (&self.submission, &self.completion) else {
            return;
        };
        while self.submission_head != tail {
            let at = self.submission_head * SubmissionEntry::SIZE;
            let cid = submission.load::<u32>(at).expect("an entry") >> 16;
            self.submission_head += 1;
            if self.submission_head * SubmissionEntry::SIZE == submission.len() {
                self.submission_head = 0;
            }
            let at = self.completion_tail * CompletionEntry::SIZE;
            let word = u64::from(cid | (self.phase << 16)) << 32 | 1 << 16;
            completion.store::<u64>(at, 0).expect("an entry");
            completion.store::<u64>(at + 8, word).expect("an entry");
            self.completion_tail += 1;
            if self.completion_tail * CompletionEntry::SIZE == completion.len() {
                self.completion_tail = 0;
                self.phase ^= 1;
            }
        }
    }
}

impl Model for Instant {
    fn config(&mut self) -> &mut ConfigSpace {
        self.model.config()
    }
    fn bar(&self, index: u8) -> ModelBar<'_> {
        self.model.bar(index)
    }
    fn read_bar(&mut self, host: &mut Host, bar: u8, offset: u64, data: &mut [u8]) {
        self.model.read_bar(host, bar, offset, data);
    }
    fn write_bar(&mut self, host: &mut Host, bar: u8, offset: u64, data: &[u8]) {
        let value = data.try_into().map_or(0, u32::from_le_bytes);
        if bar == 0 && offset == submission_doorbell(1, 0) as u64 {
            return self.complete_until(value as usize);
        }
        if bar == 0 && offset == completion_doorbell(1, 0) as u64 {
            return;
        }
        if bar == 0 && offset == submission_doorbell(0, 0) as u64 {
            self.watch_admin(host, value);
        }
        self.model.write_bar(host, bar, offset, data);
    }
    fn interrupts(&self, kind: InterruptKind) -> u32 {
        self.model.interrupts(kind)
    }
    fn reset(&mut self, host: &mut Host) {
        self.model.reset(host);
    }
    fn poll(&mut self, host: &mut Host) -> bool {
        self.model.poll(host)
    }
    fn present(&self) -> bool {
        self.model.present()
    }
    fn revoke(&mut self) -> std::io::Result<()> {
        self.model.revoke()
    }
}
