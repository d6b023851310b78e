//! Firmware Commit and Firmware Image Download. NVMe Base 2.0 §5.12, §5.13.

use super::Opcode;
use crate::nvme::entry::SubmissionEntry;

codes! {
    /// Commit Action. NVMe Base 2.0 §5.12.
    pub struct CommitAction(u8);
    REPLACE = 0, "replace the slot's image";
    REPLACE_ACTIVATE_AT_RESET = 1, "replace the slot's image, activate it at the next reset";
    ACTIVATE_AT_RESET = 2, "activate the slot's image at the next reset";
    ACTIVATE_NOW = 3, "activate the slot's image now";
    REPLACE_BOOT_PARTITION = 6, "replace the boot partition";
    ACTIVATE_BOOT_PARTITION = 7, "activate the boot partition";
}

bits! {
    /// Command Dword 10 of Firmware Commit.
    pub struct FirmwareCommitDword10(u32);
    /// Firmware Slot; 0 lets the controller choose.
    fs / with_fs = [2:0] u8;
    /// Commit Action.
    ca / with_ca = [5:3] u8;
    /// Boot Partition ID.
    bpid / with_bpid = [31:31] bool;
}

/// Firmware Commit. NVMe Base 2.0 §5.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareCommit {
    /// Firmware Slot, 1 to 7; 0 lets the controller choose.
    pub slot: u8,
    /// What to do.
    pub action: CommitAction,
    /// Boot Partition ID, for the actions on those.
    pub boot_partition: bool,
}

impl FirmwareCommit {
    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        let dword10 = FirmwareCommitDword10::from_bits(0)
            .with_fs(self.slot)
            .with_ca(self.action.0)
            .with_bpid(self.boot_partition);
        SubmissionEntry::new(Opcode::FIRMWARE_COMMIT.0).with_cdw10(dword10.bits())
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        let dword10 = FirmwareCommitDword10::from_bits(entry.cdw10());
        Self {
            slot: dword10.fs(),
            action: CommitAction(dword10.ca()),
            boot_partition: dword10.bpid(),
        }
    }
}

/// Firmware Image Download. NVMe Base 2.0 §5.13.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareDownload {
    /// Number of Dwords of this part, 0's based.
    pub numd: u32,
    /// Offset of this part in the image, in dwords.
    pub ofst: u32,
}

impl FirmwareDownload {
    /// A part of `length` bytes at byte `offset`; `None` where either is not a multiple
    /// of 4 or too large, or the length is 0.
    pub fn new(offset: usize, length: usize) -> Option<Self> {
        if !offset.is_multiple_of(4) || !length.is_multiple_of(4) {
            return None;
        }
        let numd = u32::try_from((length / 4).checked_sub(1)?).ok()?;
        Some(Self { numd, ofst: u32::try_from(offset / 4).ok()? })
    }

    /// Length of this part in bytes.
    pub const fn length(self) -> u64 {
        (self.numd as u64 + 1) * 4
    }

    /// Offset of this part in bytes.
    pub const fn offset(self) -> u64 {
        self.ofst as u64 * 4
    }

    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        SubmissionEntry::new(Opcode::FIRMWARE_DOWNLOAD.0)
            .with_cdw10(self.numd)
            .with_cdw11(self.ofst)
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        Self { numd: entry.cdw10(), ofst: entry.cdw11() }
    }
}
