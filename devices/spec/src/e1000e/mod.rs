//! Intel's 82574L Gigabit Ethernet controller (`e1000e` in Linux and QEMU). Section numbers are
//! those of the 82574 GbE Controller Family datasheet, revision 3.4.
//!
//! BAR 0 is 128 KiB of registers of 4 bytes, accessed as such.

mod descriptor;
mod registers;
mod statistics;

pub use descriptor::{
    ReceiveDescriptor, ReceiveErrors, ReceiveStatus, TransmitCommand, TransmitContext,
    TransmitData, TransmitStatus,
};
pub use registers::{
    AddressHigh, Causes, ChecksumControl, DeviceControl, DeviceStatus, EepromRead, MdiControl,
    QUEUES, Queue, ReceiveControl, Speed, TransmitControl, TransmitDescriptorControl, TransmitGap,
    offset,
};
pub use statistics::Counter;

/// PCI vendor ID of Intel.
pub const VENDOR: u16 = 0x8086;
/// PCI device ID of the 82574L. §4.2.
pub const DEVICE: u16 = 0x10d3;
/// PCI class code: Ethernet controller.
pub const CLASS: u32 = 0x02_0000;
/// Size of BAR 0 in bytes. §10.1.
pub const BAR_SIZE: usize = 128 << 10;
/// The most descriptors of a ring: its length register holds 20 bits. §10.2.5.6.
pub const MOST_DESCRIPTORS: usize = 0x10_0000 / 16 - 8;
/// The longest frame that it receives or sends, in bytes without the frame check sequence: 9,018
/// with that. §3.1 ("jumbo frames").
pub const MOST_FRAME: usize = 9_014;
