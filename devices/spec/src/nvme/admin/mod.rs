//! Admin commands. NVMe Base 2.0 §5.
//!
//! * [`queue`]: create and delete I/O queues, abort
//! * [`identify`]: the Identify command
//! * [`log`]: the Get Log Page command
//! * [`features`]: Set Features, Get Features
//! * [`event`]: Asynchronous Event Request
//! * [`firmware`]: Firmware Commit, Firmware Image Download
//! * [`namespace`]: Format NVM, Namespace Management and Attachment
//! * [`misc`]: Doorbell Buffer Config, Keep Alive, Sanitize, Security Send and Receive
//!
//! Each command is a struct; `to_entry` builds its submission entry, without data
//! pointer (unless the struct has one) and command identifier, and `parse` goes the
//! other way. [`Command::parse`] tells which command an entry is.

pub mod event;
pub mod features;
pub mod firmware;
pub mod identify;
pub mod log;
pub mod misc;
pub mod namespace;
pub mod queue;

use super::entry::SubmissionEntry;
pub use event::{AsyncEvent, async_event_request};
pub use features::{FeatureId, GetFeatures, SetFeatures};
pub use firmware::{FirmwareCommit, FirmwareDownload};
pub use identify::{Cns, Identify};
pub use log::{GetLogPage, LogId};
pub use misc::{DoorbellBufferConfig, Sanitize, SecurityReceive, SecuritySend, keep_alive};
pub use namespace::{FormatNvm, NamespaceAttachment, NamespaceManagement};
pub use queue::{
    Abort, CreateIoCompletionQueue, CreateIoSubmissionQueue, DeleteIoCompletionQueue,
    DeleteIoSubmissionQueue,
};

codes! {
    /// Opcode of an admin command. NVMe Base 2.0 §5.
    pub struct Opcode(u8);
    DELETE_IO_SQ = 0x00, "Delete I/O Submission Queue";
    CREATE_IO_SQ = 0x01, "Create I/O Submission Queue";
    GET_LOG_PAGE = 0x02, "Get Log Page";
    DELETE_IO_CQ = 0x04, "Delete I/O Completion Queue";
    CREATE_IO_CQ = 0x05, "Create I/O Completion Queue";
    IDENTIFY = 0x06, "Identify";
    ABORT = 0x08, "Abort";
    SET_FEATURES = 0x09, "Set Features";
    GET_FEATURES = 0x0a, "Get Features";
    ASYNC_EVENT_REQUEST = 0x0c, "Asynchronous Event Request";
    NAMESPACE_MANAGEMENT = 0x0d, "Namespace Management";
    FIRMWARE_COMMIT = 0x10, "Firmware Commit";
    FIRMWARE_DOWNLOAD = 0x11, "Firmware Image Download";
    DEVICE_SELF_TEST = 0x14, "Device Self-test";
    NAMESPACE_ATTACHMENT = 0x15, "Namespace Attachment";
    KEEP_ALIVE = 0x18, "Keep Alive";
    DIRECTIVE_SEND = 0x19, "Directive Send";
    DIRECTIVE_RECEIVE = 0x1a, "Directive Receive";
    VIRTUALIZATION_MANAGEMENT = 0x1c, "Virtualization Management";
    NVME_MI_SEND = 0x1d, "NVMe-MI Send";
    NVME_MI_RECEIVE = 0x1e, "NVMe-MI Receive";
    CAPACITY_MANAGEMENT = 0x20, "Capacity Management";
    LOCKDOWN = 0x24, "Lockdown";
    DOORBELL_BUFFER_CONFIG = 0x7c, "Doorbell Buffer Config";
    FABRICS = 0x7f, "Fabrics Commands";
    FORMAT_NVM = 0x80, "Format NVM";
    SECURITY_SEND = 0x81, "Security Send";
    SECURITY_RECEIVE = 0x82, "Security Receive";
    SANITIZE = 0x84, "Sanitize";
    GET_LBA_STATUS = 0x86, "Get LBA Status";
}

/// An admin command as a controller reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Delete I/O Submission Queue.
    DeleteIoSubmissionQueue(DeleteIoSubmissionQueue),
    /// Create I/O Submission Queue.
    CreateIoSubmissionQueue(CreateIoSubmissionQueue),
    /// Get Log Page.
    GetLogPage(GetLogPage),
    /// Delete I/O Completion Queue.
    DeleteIoCompletionQueue(DeleteIoCompletionQueue),
    /// Create I/O Completion Queue.
    CreateIoCompletionQueue(CreateIoCompletionQueue),
    /// Identify.
    Identify(Identify),
    /// Abort.
    Abort(Abort),
    /// Set Features.
    SetFeatures(SetFeatures),
    /// Get Features.
    GetFeatures(GetFeatures),
    /// Asynchronous Event Request.
    AsyncEventRequest,
    /// Namespace Management.
    NamespaceManagement(NamespaceManagement),
    /// Firmware Commit.
    FirmwareCommit(FirmwareCommit),
    /// Firmware Image Download.
    FirmwareDownload(FirmwareDownload),
    /// Namespace Attachment.
    NamespaceAttachment(NamespaceAttachment),
    /// Keep Alive.
    KeepAlive,
    /// Doorbell Buffer Config.
    DoorbellBufferConfig(DoorbellBufferConfig),
    /// Format NVM.
    FormatNvm(FormatNvm),
    /// Security Send.
    SecuritySend(SecuritySend),
    /// Security Receive.
    SecurityReceive(SecurityReceive),
    /// Sanitize.
    Sanitize(Sanitize),
    /// Anything else.
    Unknown(Opcode),
}

impl Command {
    /// Reads an entry of the admin submission queue.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        match Opcode(entry.opcode()) {
            Opcode::DELETE_IO_SQ => {
                Self::DeleteIoSubmissionQueue(DeleteIoSubmissionQueue::parse(entry))
            }
            Opcode::CREATE_IO_SQ => {
                Self::CreateIoSubmissionQueue(CreateIoSubmissionQueue::parse(entry))
            }
            Opcode::GET_LOG_PAGE => Self::GetLogPage(GetLogPage::parse(entry)),
            Opcode::DELETE_IO_CQ => {
                Self::DeleteIoCompletionQueue(DeleteIoCompletionQueue::parse(entry))
            }
            Opcode::CREATE_IO_CQ => {
                Self::CreateIoCompletionQueue(CreateIoCompletionQueue::parse(entry))
            }
            Opcode::IDENTIFY => Self::Identify(Identify::parse(entry)),
            Opcode::ABORT => Self::Abort(Abort::parse(entry)),
            Opcode::SET_FEATURES => Self::SetFeatures(SetFeatures::parse(entry)),
            Opcode::GET_FEATURES => Self::GetFeatures(GetFeatures::parse(entry)),
            Opcode::ASYNC_EVENT_REQUEST => Self::AsyncEventRequest,
            Opcode::NAMESPACE_MANAGEMENT => {
                Self::NamespaceManagement(NamespaceManagement::parse(entry))
            }
            Opcode::FIRMWARE_COMMIT => Self::FirmwareCommit(FirmwareCommit::parse(entry)),
            Opcode::FIRMWARE_DOWNLOAD => Self::FirmwareDownload(FirmwareDownload::parse(entry)),
            Opcode::NAMESPACE_ATTACHMENT => {
                Self::NamespaceAttachment(NamespaceAttachment::parse(entry))
            }
            Opcode::KEEP_ALIVE => Self::KeepAlive,
            Opcode::DOORBELL_BUFFER_CONFIG => {
                Self::DoorbellBufferConfig(DoorbellBufferConfig::parse(entry))
            }
            Opcode::FORMAT_NVM => Self::FormatNvm(FormatNvm::parse(entry)),
            Opcode::SECURITY_SEND => Self::SecuritySend(SecuritySend::parse(entry)),
            Opcode::SECURITY_RECEIVE => Self::SecurityReceive(SecurityReceive::parse(entry)),
            Opcode::SANITIZE => Self::Sanitize(Sanitize::parse(entry)),
            opcode => Self::Unknown(opcode),
        }
    }
}

#[cfg(test)]
mod tests;
