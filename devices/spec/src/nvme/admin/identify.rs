//! Identify. NVMe Base 2.0 §5.17. What it returns is in
//! [`nvme::identify`](crate::nvme::identify).

use super::Opcode;
use crate::nvme::entry::SubmissionEntry;

codes! {
    /// Controller or Namespace Structure (CNS). NVMe Base 2.0 §5.17.
    pub struct Cns(u8);
    NAMESPACE = 0x00, "Identify Namespace";
    CONTROLLER = 0x01, "Identify Controller";
    ACTIVE_NAMESPACES = 0x02, "Active Namespace ID List";
    NAMESPACE_DESCRIPTORS = 0x03, "Namespace Identification Descriptor List";
    NVM_SETS = 0x04, "NVM Set List";
    COMMAND_SET_NAMESPACE = 0x05, "I/O Command Set specific Identify Namespace";
    COMMAND_SET_CONTROLLER = 0x06, "I/O Command Set specific Identify Controller";
    COMMAND_SET_ACTIVE_NAMESPACES = 0x07, "I/O Command Set specific Active Namespace ID List";
    INDEPENDENT_NAMESPACE = 0x08, "I/O Command Set Independent Identify Namespace";
    ALLOCATED_NAMESPACES = 0x10, "Allocated Namespace ID List";
    ALLOCATED_NAMESPACE = 0x11, "Identify Namespace of an allocated namespace";
    NAMESPACE_CONTROLLERS = 0x12, "Namespace Attached Controller List";
    CONTROLLERS = 0x13, "Controller List";
    PRIMARY_CONTROLLER = 0x14, "Primary Controller Capabilities";
    SECONDARY_CONTROLLERS = 0x15, "Secondary Controller List";
    NAMESPACE_GRANULARITY = 0x16, "Namespace Granularity List";
    UUIDS = 0x17, "UUID List";
    DOMAINS = 0x18, "Domain List";
    ENDURANCE_GROUPS = 0x19, "Endurance Group List";
    COMMAND_SET_ALLOCATED_NAMESPACES = 0x1a, "I/O Command Set specific Allocated Namespace ID List";
    COMMAND_SET_ALLOCATED_NAMESPACE = 0x1b, "I/O Command Set specific Identify of an allocated namespace";
    COMMAND_SETS = 0x1c, "Identify I/O Command Set";
}

bits! {
    /// Command Dword 10 of Identify.
    pub struct IdentifyDword10(u32);
    /// Controller or Namespace Structure.
    cns / with_cns = [7:0] u8;
    /// Controller Identifier.
    cntid / with_cntid = [31:16] u16;
}

bits! {
    /// Command Dword 11 of Identify.
    pub struct IdentifyDword11(u32);
    /// CNS Specific Identifier.
    cnssid / with_cnssid = [15:0] u16;
    /// Command Set Identifier: 0 NVM, 1 key value, 2 zoned namespace.
    csi / with_csi = [31:24] u8;
}

/// Identify. NVMe Base 2.0 §5.17. The data is 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Identify {
    /// What to return.
    pub cns: Cns,
    /// Namespace, or where a list begins: after this one.
    pub nsid: u32,
    /// Controller Identifier, or where a list of controllers begins.
    pub cntid: u16,
    /// CNS Specific Identifier.
    pub cnssid: u16,
    /// Command Set Identifier: 0 NVM.
    pub csi: u8,
}

impl Identify {
    /// What the controller says of itself.
    pub const fn controller() -> Self {
        Self::of(Cns::CONTROLLER, 0)
    }

    /// What the controller says of an active namespace.
    pub const fn namespace(nsid: u32) -> Self {
        Self::of(Cns::NAMESPACE, nsid)
    }

    /// The active namespaces whose identifier is greater than `after`.
    pub const fn active_namespaces(after: u32) -> Self {
        Self::of(Cns::ACTIVE_NAMESPACES, after)
    }

    /// The identifiers of a namespace: UUID, NGUID, EUI64.
    pub const fn namespace_descriptors(nsid: u32) -> Self {
        Self::of(Cns::NAMESPACE_DESCRIPTORS, nsid)
    }

    const fn of(cns: Cns, nsid: u32) -> Self {
        Self { cns, nsid, cntid: 0, cnssid: 0, csi: 0 }
    }

    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        let dword10 = IdentifyDword10::from_bits(0).with_cns(self.cns.0).with_cntid(self.cntid);
        let dword11 = IdentifyDword11::from_bits(0).with_cnssid(self.cnssid).with_csi(self.csi);
        SubmissionEntry::new(Opcode::IDENTIFY.0)
            .with_nsid(self.nsid)
            .with_cdw10(dword10.bits())
            .with_cdw11(dword11.bits())
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        let dword10 = IdentifyDword10::from_bits(entry.cdw10());
        let dword11 = IdentifyDword11::from_bits(entry.cdw11());
        Self {
            cns: Cns(dword10.cns()),
            nsid: entry.nsid(),
            cntid: dword10.cntid(),
            cnssid: dword11.cnssid(),
            csi: dword11.csi(),
        }
    }
}
