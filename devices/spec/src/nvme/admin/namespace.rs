//! Format NVM, Namespace Management and Namespace Attachment. NVMe Base 2.0 §5.14,
//! §5.23, §5.22; NVM Command Set 1.0 §4.1.2.

use super::Opcode;
use crate::nvme::entry::SubmissionEntry;

codes! {
    /// Secure Erase Settings of Format NVM. NVMe Base 2.0 §5.14.
    pub struct SecureErase(u8);
    NONE = 0, "no secure erase";
    USER_DATA = 1, "user data erase";
    CRYPTOGRAPHIC = 2, "cryptographic erase";
}

bits! {
    /// Command Dword 10 of Format NVM. NVMe Base 2.0 §5.14.
    pub struct FormatDword10(u32);
    /// LBA Format, low 4 bits of its index.
    lbafl / with_lbafl = [3:0] u8;
    /// Metadata Settings: at the end of each logical block, not in a buffer of its own.
    mset / with_mset = [4:4] bool;
    /// Protection Information: 0 none, else type 1 to 3.
    pi / with_pi = [7:5] u8;
    /// Protection Information Location: the first bytes of metadata, not the last.
    pil / with_pil = [8:8] bool;
    /// Secure Erase Settings.
    ses / with_ses = [11:9] u8;
    /// LBA Format, high 2 bits of its index.
    lbafu / with_lbafu = [13:12] u8;
}

/// Format NVM: all data of the namespace is lost. NVMe Base 2.0 §5.14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatNvm {
    /// Namespace, or `u32::MAX` for all.
    pub nsid: u32,
    /// Index of the LBA format, 0 to 63.
    pub format: u8,
    /// Whether user data is erased too.
    pub erase: SecureErase,
    /// Metadata lies at the end of each logical block.
    pub extended: bool,
    /// Protection Information: 0 none, else type 1 to 3.
    pub protection: u8,
    /// Protection information is the first bytes of metadata.
    pub protection_first: bool,
}

impl FormatNvm {
    /// To LBA format `format`, without protection information.
    pub const fn new(nsid: u32, format: u8, erase: SecureErase) -> Self {
        Self { nsid, format, erase, extended: false, protection: 0, protection_first: false }
    }

    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        let dword10 = FormatDword10::from_bits(0)
            .with_lbafl(self.format)
            .with_lbafu(self.format >> 4)
            .with_mset(self.extended)
            .with_pi(self.protection)
            .with_pil(self.protection_first)
            .with_ses(self.erase.0);
        SubmissionEntry::new(Opcode::FORMAT_NVM.0).with_nsid(self.nsid).with_cdw10(dword10.bits())
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        let dword10 = FormatDword10::from_bits(entry.cdw10());
        Self {
            nsid: entry.nsid(),
            format: dword10.lbafl() | (dword10.lbafu() << 4),
            erase: SecureErase(dword10.ses()),
            extended: dword10.mset(),
            protection: dword10.pi(),
            protection_first: dword10.pil(),
        }
    }
}

bits! {
    /// Command Dword 10 of Namespace Management and Namespace Attachment.
    pub struct NamespaceDword10(u32);
    /// Select.
    sel / with_sel = [3:0] u8;
}

bits! {
    /// Command Dword 11 of Namespace Management.
    pub struct NamespaceDword11(u32);
    /// Command Set Identifier.
    csi / with_csi = [31:24] u8;
}

codes! {
    /// Select field of Namespace Management. NVMe Base 2.0 §5.23.
    pub struct ManagementSelect(u8);
    CREATE = 0, "create";
    DELETE = 1, "delete";
}

/// Namespace Management. NVMe Base 2.0 §5.23. To create, the data is an
/// [`IdentifyNamespace`](crate::nvme::identify::IdentifyNamespace) with the fields
/// that the host chooses, and completion Dword 0 has the new identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceManagement {
    /// Namespace to delete, or `u32::MAX` for all; 0 to create.
    pub nsid: u32,
    /// What to do.
    pub select: ManagementSelect,
    /// Command set of a new namespace: 0 NVM.
    pub csi: u8,
}

impl NamespaceManagement {
    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        SubmissionEntry::new(Opcode::NAMESPACE_MANAGEMENT.0)
            .with_nsid(self.nsid)
            .with_cdw10(NamespaceDword10::from_bits(0).with_sel(self.select.0).bits())
            .with_cdw11(NamespaceDword11::from_bits(0).with_csi(self.csi).bits())
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        Self {
            nsid: entry.nsid(),
            select: ManagementSelect(NamespaceDword10::from_bits(entry.cdw10()).sel()),
            csi: NamespaceDword11::from_bits(entry.cdw11()).csi(),
        }
    }
}

codes! {
    /// Select field of Namespace Attachment. NVMe Base 2.0 §5.22.
    pub struct AttachmentSelect(u8);
    ATTACH = 0, "attach";
    DETACH = 1, "detach";
}

/// Namespace Attachment. NVMe Base 2.0 §5.22. The data is a
/// [`ControllerList`](crate::nvme::identify::ControllerList).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceAttachment {
    /// Namespace.
    pub nsid: u32,
    /// What to do.
    pub select: AttachmentSelect,
}

impl NamespaceAttachment {
    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        SubmissionEntry::new(Opcode::NAMESPACE_ATTACHMENT.0)
            .with_nsid(self.nsid)
            .with_cdw10(NamespaceDword10::from_bits(0).with_sel(self.select.0).bits())
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        Self {
            nsid: entry.nsid(),
            select: AttachmentSelect(NamespaceDword10::from_bits(entry.cdw10()).sel()),
        }
    }
}
