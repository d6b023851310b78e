//! What crosses a vfio-user socket: the header, the commands and their payloads.
//!
//! Version 0.1 of the vfio-user protocol as libvfio-user, SPDK and QEMU speak it
//! (`docs/vfio-user.rst` of libvfio-user). All fields are in the byte order of the host, and
//! each message is a [`Header`] followed by the payload that its command says. The payloads
//! that VFIO has too are those of Linux's `<linux/vfio.h>`, `argsz` included.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The major version of the protocol: both ends have to have the same.
pub const MAJOR: u16 = 0;
/// The minor version: the lower one of both ends is spoken.
pub const MINOR: u16 = 1;

/// Index of the region that is PCI configuration space; 0 to 5 are the BARs.
pub const CONFIG_REGION: u32 = 7;
/// How many regions a PCI device has: six BARs, the ROM, configuration space, VGA.
pub const REGIONS: u32 = 9;
/// How many kinds of interrupt a PCI device has: INTx, MSI, MSI-X, error, request.
pub const IRQ_KINDS: u32 = 5;

/// What a message asks for, or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Client to server, first: versions and capabilities.
    Version = 1,
    /// Client to server: memory that the device may reach.
    DmaMap = 2,
    /// Client to server: memory that it may no longer reach.
    DmaUnmap = 3,
    /// Client to server: what kind of device it is.
    DeviceGetInfo = 4,
    /// Client to server: a BAR or configuration space.
    DeviceGetRegionInfo = 5,
    /// Client to server: fds that stand for register writes.
    DeviceGetRegionIoFds = 6,
    /// Client to server: how many interrupts of a kind there are.
    DeviceGetIrqInfo = 7,
    /// Client to server: eventfds for interrupts.
    DeviceSetIrqs = 8,
    /// Client to server: a read of registers.
    RegionRead = 9,
    /// Client to server: a write of registers.
    RegionWrite = 10,
    /// Server to client: a read of memory that was mapped without an fd.
    DmaRead = 11,
    /// Server to client: a write of such memory.
    DmaWrite = 12,
    /// Client to server: reset of the function.
    DeviceReset = 13,
    /// Client to server: several small writes of registers.
    RegionWriteMulti = 15,
}

impl Command {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Version,
        Self::DmaMap,
        Self::DmaUnmap,
        Self::DeviceGetInfo,
        Self::DeviceGetRegionInfo,
        Self::DeviceGetRegionIoFds,
        Self::DeviceGetIrqInfo,
        Self::DeviceSetIrqs,
        Self::RegionRead,
        Self::RegionWrite,
        Self::DmaRead,
        Self::DmaWrite,
        Self::DeviceReset,
        Self::RegionWriteMulti,
    ];

    /// The command of this number; nothing for one that the protocol does not have.
    pub fn from_raw(raw: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|&command| command as u16 == raw)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "VERSION",
            Self::DmaMap => "DMA_MAP",
            Self::DmaUnmap => "DMA_UNMAP",
            Self::DeviceGetInfo => "DEVICE_GET_INFO",
            Self::DeviceGetRegionInfo => "DEVICE_GET_REGION_INFO",
            Self::DeviceGetRegionIoFds => "DEVICE_GET_REGION_IO_FDS",
            Self::DeviceGetIrqInfo => "DEVICE_GET_IRQ_INFO",
            Self::DeviceSetIrqs => "DEVICE_SET_IRQS",
            Self::RegionRead => "REGION_READ",
            Self::RegionWrite => "REGION_WRITE",
            Self::DmaRead => "DMA_READ",
            Self::DmaWrite => "DMA_WRITE",
            Self::DeviceReset => "DEVICE_RESET",
            Self::RegionWriteMulti => "REGION_WRITE_MULTI",
        })
    }
}

/// Bits of [`Header::flags`].
pub mod header_flags {
    /// Which bits hold the type.
    pub const TYPE_MASK: u32 = 0xf;
    /// Type: a command.
    pub const COMMAND: u32 = 0;
    /// Type: the reply to a command.
    pub const REPLY: u32 = 1;
    /// In a command: no reply is wanted.
    pub const NO_REPLY: u32 = 1 << 4;
    /// In a reply: the command failed; the errno says why.
    pub const ERROR: u32 = 1 << 5;
}

/// The start of every message.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Header {
    /// Chosen by who sends a command, echoed in its reply.
    pub id: u16,
    /// A [`Command`].
    pub command: u16,
    /// Bytes of the whole message, this header included.
    pub size: u32,
    /// [`header_flags`].
    pub flags: u32,
    /// In an error reply: the errno, or 0.
    pub error: u32,
}

impl Header {
    /// Length in bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// A command followed by `payload` bytes.
    pub fn command(id: u16, command: Command, payload: usize) -> Self {
        Self {
            id,
            command: command as u16,
            size: (Self::SIZE + payload) as u32,
            flags: header_flags::COMMAND,
            error: 0,
        }
    }

    /// The reply to `self`, followed by `payload` bytes.
    #[must_use]
    pub fn reply(&self, payload: usize) -> Self {
        Self {
            id: self.id,
            command: self.command,
            size: (Self::SIZE + payload) as u32,
            flags: header_flags::REPLY,
            error: 0,
        }
    }

    /// The reply to `self` that says that it failed.
    #[must_use]
    pub fn error_reply(&self, errno: u32) -> Self {
        let flags = header_flags::REPLY | header_flags::ERROR;
        Self { flags, error: errno, ..self.reply(0) }
    }

    /// Whether the type is a command.
    pub fn is_command(&self) -> bool {
        self.flags & header_flags::TYPE_MASK == header_flags::COMMAND
    }

    /// Whether the type is a reply.
    pub fn is_reply(&self) -> bool {
        self.flags & header_flags::TYPE_MASK == header_flags::REPLY
    }

    /// Whether this command wants no reply.
    pub fn wants_no_reply(&self) -> bool {
        self.flags & header_flags::NO_REPLY != 0
    }

    /// Whether this reply says that the command failed.
    pub fn is_error(&self) -> bool {
        self.flags & header_flags::ERROR != 0
    }
}

/// VERSION, both ways; the [`Capabilities`](super::capabilities::Capabilities) follow as JSON.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Version {
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
}

/// Bits of [`DmaMap::flags`].
pub mod dma_flags {
    /// The device may read.
    pub const READ: u32 = 1 << 0;
    /// The device may write.
    pub const WRITE: u32 = 1 << 1;
}

/// DMA_MAP; the fd comes along. The reply is empty.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct DmaMap {
    /// Bytes of this structure.
    pub argsz: u32,
    /// [`dma_flags`].
    pub flags: u32,
    /// Where in the file it begins.
    pub offset: u64,
    /// Its first I/O virtual address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// Bits of [`DmaUnmap::flags`].
pub mod dma_unmap_flags {
    /// The reply is to bring a bitmap of dirty pages.
    pub const GET_DIRTY_BITMAP: u32 = 1 << 0;
    /// Everything is unmapped; address and size are 0.
    pub const ALL: u32 = 1 << 1;
}

/// DMA_UNMAP; the reply echoes it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct DmaUnmap {
    /// How many bytes the reply's payload may have.
    pub argsz: u32,
    /// [`dma_unmap_flags`].
    pub flags: u32,
    /// Its first I/O virtual address, as it was mapped.
    pub address: u64,
    /// Bytes, as it was mapped.
    pub size: u64,
}

/// Bits of [`DeviceInfo::flags`].
pub mod device_flags {
    /// DEVICE_RESET is offered.
    pub const RESET: u32 = 1 << 0;
    /// It is a PCI device.
    pub const PCI: u32 = 1 << 1;
}

/// DEVICE_GET_INFO, both ways.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct DeviceInfo {
    /// In the command, how many bytes the reply's payload may have; in the reply, how many a
    /// full one has.
    pub argsz: u32,
    /// [`device_flags`].
    pub flags: u32,
    /// How many regions there are.
    pub num_regions: u32,
    /// How many kinds of interrupt there are.
    pub num_irqs: u32,
}

/// Bits of [`RegionInfo::flags`].
pub mod region_flags {
    /// It can be read.
    pub const READ: u32 = 1 << 0;
    /// It can be written.
    pub const WRITE: u32 = 1 << 1;
    /// It, or the areas that a capability names, can be mapped; the fd comes along.
    pub const MMAP: u32 = 1 << 2;
    /// Capabilities follow.
    pub const CAPS: u32 = 1 << 3;
}

/// DEVICE_GET_REGION_INFO, both ways; in the reply, capabilities may follow.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RegionInfo {
    /// As in [`DeviceInfo`]; capabilities count.
    pub argsz: u32,
    /// [`region_flags`].
    pub flags: u32,
    /// Which region.
    pub index: u32,
    /// Where the first capability is, from the start of this structure; 0 where none.
    pub cap_offset: u32,
    /// Bytes; 0 where the device does not have it.
    pub size: u64,
    /// Where in the file the region begins.
    pub offset: u64,
}

/// The start of a capability of a region.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CapabilityHeader {
    /// Which capability.
    pub id: u16,
    /// Its version.
    pub version: u16,
    /// Where the next one is, from the start of the [`RegionInfo`]; 0 where none.
    pub next: u32,
}

/// [`CapabilityHeader::id`] of the list of areas that can be mapped.
pub const CAP_SPARSE_MMAP: u16 = 1;

/// What follows the header of a sparse-mmap capability; `nr_areas` [`SparseArea`] follow it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SparseMmap {
    /// How many areas follow.
    pub nr_areas: u32,
    /// 0.
    pub reserved: u32,
}

/// A part of a region that can be mapped.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SparseArea {
    /// Where it begins in the region.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// Bits of [`IrqInfo::flags`].
pub mod irq_flags {
    /// Eventfds can be given.
    pub const EVENTFD: u32 = 1 << 0;
    /// They can be masked.
    pub const MASKABLE: u32 = 1 << 1;
    /// They mask themselves when they fire.
    pub const AUTOMASKED: u32 = 1 << 2;
    /// All are set at once; more need the whole kind to be disabled first.
    pub const NORESIZE: u32 = 1 << 3;
}

/// DEVICE_GET_IRQ_INFO, both ways.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct IrqInfo {
    /// As in [`DeviceInfo`].
    pub argsz: u32,
    /// [`irq_flags`].
    pub flags: u32,
    /// Which kind.
    pub index: u32,
    /// How many there are.
    pub count: u32,
}

/// Bits of [`IrqSet::flags`]: one of the data and one of the actions.
pub mod irq_set_flags {
    /// No data follows.
    pub const DATA_NONE: u32 = 1 << 0;
    /// A byte per interrupt follows.
    pub const DATA_BOOL: u32 = 1 << 1;
    /// An eventfd per interrupt comes along.
    pub const DATA_EVENTFD: u32 = 1 << 2;
    /// Mask.
    pub const ACTION_MASK: u32 = 1 << 3;
    /// Unmask.
    pub const ACTION_UNMASK: u32 = 1 << 4;
    /// Trigger, or signal these eventfds when triggered.
    pub const ACTION_TRIGGER: u32 = 1 << 5;
}

/// DEVICE_SET_IRQS; the fds come along. The reply is empty.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct IrqSet {
    /// Bytes of this structure and what follows it.
    pub argsz: u32,
    /// [`irq_set_flags`].
    pub flags: u32,
    /// Which kind.
    pub index: u32,
    /// The first interrupt.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// REGION_READ and REGION_WRITE, both ways; data follows in a write and in the reply to a
/// read.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RegionAccess {
    /// Where in the region.
    pub offset: u64,
    /// Which region.
    pub region: u32,
    /// Bytes.
    pub count: u32,
}

/// One write of REGION_WRITE_MULTI: the count of writes, 8 bytes, comes first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SingleWrite {
    /// Where and how much; 8 bytes at most.
    pub access: RegionAccess,
    /// The bytes.
    pub data: [u8; 8],
}

/// DMA_READ and DMA_WRITE, both ways; data follows in a write and in the reply to a read.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct DmaAccess {
    /// The I/O virtual address.
    pub address: u64,
    /// Bytes.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_discriminant_is_pinned() {
        let pinned = [
            (1, "VERSION"),
            (2, "DMA_MAP"),
            (3, "DMA_UNMAP"),
            (4, "DEVICE_GET_INFO"),
            (5, "DEVICE_GET_REGION_INFO"),
            (6, "DEVICE_GET_REGION_IO_FDS"),
            (7, "DEVICE_GET_IRQ_INFO"),
            (8, "DEVICE_SET_IRQS"),
            (9, "REGION_READ"),
            (10, "REGION_WRITE"),
            (11, "DMA_READ"),
            (12, "DMA_WRITE"),
            (13, "DEVICE_RESET"),
            (15, "REGION_WRITE_MULTI"),
        ];
        for (raw, name) in pinned {
            assert_eq!(Command::from_raw(raw).unwrap().to_string(), name);
        }
        let known = (0..=u16::MAX).filter(|&raw| Command::from_raw(raw).is_some()).count();
        assert_eq!(known, pinned.len());
    }

    #[test]
    fn vfio_structures_are_those_of_linux() {
        use vfio_bindings::bindings::vfio as linux;
        assert_eq!(size_of::<RegionInfo>(), size_of::<linux::vfio_region_info>());
        assert_eq!(size_of::<IrqInfo>(), size_of::<linux::vfio_irq_info>());
        assert_eq!(size_of::<CapabilityHeader>(), size_of::<linux::vfio_info_cap_header>());
        assert_eq!(size_of::<SparseArea>(), size_of::<linux::vfio_region_sparse_mmap_area>());
        assert_eq!(u32::from(CAP_SPARSE_MMAP), linux::VFIO_REGION_INFO_CAP_SPARSE_MMAP);
        assert_eq!(device_flags::RESET, linux::VFIO_DEVICE_FLAGS_RESET);
        assert_eq!(device_flags::PCI, linux::VFIO_DEVICE_FLAGS_PCI);
        assert_eq!(region_flags::READ, linux::VFIO_REGION_INFO_FLAG_READ);
        assert_eq!(region_flags::WRITE, linux::VFIO_REGION_INFO_FLAG_WRITE);
        assert_eq!(region_flags::MMAP, linux::VFIO_REGION_INFO_FLAG_MMAP);
        assert_eq!(region_flags::CAPS, linux::VFIO_REGION_INFO_FLAG_CAPS);
        assert_eq!(irq_flags::EVENTFD, linux::VFIO_IRQ_INFO_EVENTFD);
        assert_eq!(irq_flags::MASKABLE, linux::VFIO_IRQ_INFO_MASKABLE);
        assert_eq!(irq_flags::AUTOMASKED, linux::VFIO_IRQ_INFO_AUTOMASKED);
        assert_eq!(irq_flags::NORESIZE, linux::VFIO_IRQ_INFO_NORESIZE);
        assert_eq!(irq_set_flags::DATA_NONE, linux::VFIO_IRQ_SET_DATA_NONE);
        assert_eq!(irq_set_flags::DATA_BOOL, linux::VFIO_IRQ_SET_DATA_BOOL);
        assert_eq!(irq_set_flags::DATA_EVENTFD, linux::VFIO_IRQ_SET_DATA_EVENTFD);
        assert_eq!(irq_set_flags::ACTION_MASK, linux::VFIO_IRQ_SET_ACTION_MASK);
        assert_eq!(irq_set_flags::ACTION_UNMASK, linux::VFIO_IRQ_SET_ACTION_UNMASK);
        assert_eq!(irq_set_flags::ACTION_TRIGGER, linux::VFIO_IRQ_SET_ACTION_TRIGGER);
        assert_eq!(dma_unmap_flags::GET_DIRTY_BITMAP, linux::VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP);
        assert_eq!(CONFIG_REGION, linux::VFIO_PCI_CONFIG_REGION_INDEX);
        assert_eq!(REGIONS, linux::VFIO_PCI_NUM_REGIONS);
        assert_eq!(IRQ_KINDS, linux::VFIO_PCI_NUM_IRQS);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn golden_bytes() {
        let header = Header::command(0x1234, Command::RegionWrite, 20);
        assert_eq!(
            header.as_bytes(),
            [0x34, 0x12, 10, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] // 16 bytes
        );
        assert_eq!(
            header.reply(16).as_bytes(),
            [0x34, 0x12, 10, 0, 32, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(
            header.error_reply(22).as_bytes(),
            [0x34, 0x12, 10, 0, 16, 0, 0, 0, 0x21, 0, 0, 0, 22, 0, 0, 0]
        );
        assert_eq!(Version { major: 0, minor: 1 }.as_bytes(), [0, 0, 1, 0]);
        let map =
            DmaMap { argsz: 32, flags: 3, offset: 0x1000, address: 0x20_0000, size: 0x40_0000 };
        assert_eq!(
            map.as_bytes(),
            [
                32, 0, 0, 0, 3, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, // argsz, flags, offset
                0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, // address, size
            ]
        );
        let unmap = DmaUnmap { argsz: 24, flags: 2, address: 0x20_0000, size: 0x40_0000 };
        assert_eq!(
            unmap.as_bytes(),
            [
                24, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, // argsz, flags, address
                0, 0, 0x40, 0, 0, 0, 0, 0, // size
            ]
        );
        let info = DeviceInfo { argsz: 16, flags: 3, num_regions: 9, num_irqs: 5 };
        assert_eq!(info.as_bytes(), [16, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0]);
        let region = RegionInfo {
            argsz: 64,
            flags: 15,
            index: 2,
            cap_offset: 32,
            size: 0x4000,
            offset: 0x0102_0304_0506_0708,
        };
        assert_eq!(
            region.as_bytes(),
            [
                64, 0, 0, 0, 15, 0, 0, 0, 2, 0, 0, 0, 32, 0, 0, 0, // argsz to cap_offset
                0, 0x40, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, // size, offset
            ]
        );
        let capability = CapabilityHeader { id: 1, version: 2, next: 3 };
        assert_eq!(capability.as_bytes(), [1, 0, 2, 0, 3, 0, 0, 0]);
        let set = IrqSet { argsz: 20, flags: 0x24, index: 2, start: 1, count: 8 };
        assert_eq!(
            set.as_bytes(),
            [20, 0, 0, 0, 0x24, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0]
        );
        let access = RegionAccess { offset: 0x1000, region: 7, count: 4 };
        assert_eq!(access.as_bytes(), [0, 0x10, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(SingleWrite { access, data: [9; 8] }.as_bytes()[16..], [9; 8]);
        assert_eq!(size_of::<SingleWrite>(), 24);
        let dma = DmaAccess { address: 1, count: 2 };
        assert_eq!(dma.as_bytes(), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Header::read_from_bytes(header.as_bytes()).unwrap(), header);
    }
}
