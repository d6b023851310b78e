//! I/O queues: create, delete, abort. NVMe Base 2.0 §5.1, §5.4, §5.5, §5.6, §5.7.

use super::Opcode;
use crate::nvme::entry::SubmissionEntry;

bits! {
    /// Command Dword 10 of Create and Delete I/O Submission and Completion Queue.
    pub struct QueueDword10(u32);
    /// Queue Identifier.
    qid / with_qid = [15:0] u16;
    /// Queue Size, 0's based; not for Delete.
    qsize / with_qsize = [31:16] u16;
}

bits! {
    /// Command Dword 11 of Create I/O Completion Queue. NVMe Base 2.0 §5.4.
    pub struct CompletionQueueDword11(u32);
    /// Physically Contiguous.
    pc / with_pc = [0:0] bool;
    /// Interrupts Enabled.
    ien / with_ien = [1:1] bool;
    /// Interrupt Vector.
    iv / with_iv = [31:16] u16;
}

bits! {
    /// Command Dword 11 of Create I/O Submission Queue. NVMe Base 2.0 §5.5.
    pub struct SubmissionQueueDword11(u32);
    /// Physically Contiguous.
    pc / with_pc = [0:0] bool;
    /// Queue Priority: 0 urgent, 1 high, 2 medium, 3 low; for weighted round robin.
    qprio / with_qprio = [2:1] u8;
    /// Completion Queue Identifier.
    cqid / with_cqid = [31:16] u16;
}

/// Create I/O Completion Queue. NVMe Base 2.0 §5.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateIoCompletionQueue {
    /// Queue Identifier, not 0.
    pub qid: u16,
    /// Queue Size in entries, 0's based.
    pub qsize: u16,
    /// Interrupt vector, and how the queue lies in memory.
    pub attributes: CompletionQueueDword11,
    /// Where it lies, page aligned: PRP1.
    pub address: u64,
}

impl CreateIoCompletionQueue {
    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        let queue = QueueDword10::from_bits(0).with_qid(self.qid).with_qsize(self.qsize);
        SubmissionEntry::new(Opcode::CREATE_IO_CQ.0)
            .with_prps(self.address, 0)
            .with_cdw10(queue.bits())
            .with_cdw11(self.attributes.bits())
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        let queue = QueueDword10::from_bits(entry.cdw10());
        Self {
            qid: queue.qid(),
            qsize: queue.qsize(),
            attributes: CompletionQueueDword11::from_bits(entry.cdw11()),
            address: entry.prp1(),
        }
    }
}

/// Create I/O Submission Queue. NVMe Base 2.0 §5.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateIoSubmissionQueue {
    /// Queue Identifier, not 0.
    pub qid: u16,
    /// Queue Size in entries, 0's based.
    pub qsize: u16,
    /// Completion queue, priority, and how the queue lies in memory.
    pub attributes: SubmissionQueueDword11,
    /// Where it lies, page aligned: PRP1.
    pub address: u64,
}

impl CreateIoSubmissionQueue {
    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        let queue = QueueDword10::from_bits(0).with_qid(self.qid).with_qsize(self.qsize);
        SubmissionEntry::new(Opcode::CREATE_IO_SQ.0)
            .with_prps(self.address, 0)
            .with_cdw10(queue.bits())
            .with_cdw11(self.attributes.bits())
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        let queue = QueueDword10::from_bits(entry.cdw10());
        Self {
            qid: queue.qid(),
            qsize: queue.qsize(),
            attributes: SubmissionQueueDword11::from_bits(entry.cdw11()),
            address: entry.prp1(),
        }
    }
}

macro_rules! delete {
    ($(#[$meta:meta])* $Name:ident, $opcode:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $Name {
            /// Queue Identifier, not 0.
            pub qid: u16,
        }

        impl $Name {
            /// The command.
            pub const fn to_entry(self) -> SubmissionEntry {
                SubmissionEntry::new(Opcode::$opcode.0)
                    .with_cdw10(QueueDword10::from_bits(0).with_qid(self.qid).bits())
            }

            /// What `entry` says, taken as this command.
            pub const fn parse(entry: &SubmissionEntry) -> Self {
                Self { qid: QueueDword10::from_bits(entry.cdw10()).qid() }
            }
        }
    };
}

delete! {
    /// Delete I/O Completion Queue. NVMe Base 2.0 §5.6.
    DeleteIoCompletionQueue, DELETE_IO_CQ
}

delete! {
    /// Delete I/O Submission Queue. NVMe Base 2.0 §5.7.
    DeleteIoSubmissionQueue, DELETE_IO_SQ
}

bits! {
    /// Command Dword 10 of Abort. NVMe Base 2.0 §5.1.
    pub struct AbortDword10(u32);
    /// Submission Queue Identifier.
    sqid / with_sqid = [15:0] u16;
    /// Command Identifier.
    cid / with_cid = [31:16] u16;
}

bits! {
    /// Completion Dword 0 of Abort. NVMe Base 2.0 §5.1.1.
    pub struct AbortResult(u32);
    /// The command was *not* aborted.
    not_aborted / with_not_aborted = [0:0] bool;
}

/// Abort. NVMe Base 2.0 §5.1. Its completion has an [`AbortResult`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Submission queue that the command was put in.
    pub sqid: u16,
    /// Identifier of the command.
    pub cid: u16,
}

impl Abort {
    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        let dword10 = AbortDword10::from_bits(0).with_sqid(self.sqid).with_cid(self.cid);
        SubmissionEntry::new(Opcode::ABORT.0).with_cdw10(dword10.bits())
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        let dword10 = AbortDword10::from_bits(entry.cdw10());
        Self { sqid: dword10.sqid(), cid: dword10.cid() }
    }
}
