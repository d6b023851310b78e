//! The header of a device (type 0). PCI Local Bus 3.0 §6.1, §6.2; PCI Express Base 4.0
//! §7.5.1.

use super::class::ClassCode;
use core::fmt;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Type 0 configuration space header, 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Vendor ID; FFFFh where there is no device.
    pub vendor: U16,
    /// Device ID.
    pub device: U16,
    /// Command.
    pub command: U16,
    /// Status.
    pub status: U16,
    /// Revision ID.
    pub revision: u8,
    /// Class Code: programming interface, sub-class, base class.
    pub class: [u8; 3],
    /// Cache Line Size in dwords.
    pub cache_line_size: u8,
    /// Latency Timer.
    pub latency_timer: u8,
    /// Header Type.
    pub header_type: HeaderType,
    /// Built-in Self Test.
    pub bist: u8,
    /// Base Address Registers; see [`bar::decode`](super::bar::decode).
    pub bars: [U32; 6],
    /// Cardbus CIS Pointer.
    pub cis: U32,
    /// Subsystem Vendor ID.
    pub subsystem_vendor: U16,
    /// Subsystem ID.
    pub subsystem: U16,
    /// Expansion ROM Base Address.
    pub rom: U32,
    /// Capabilities Pointer; means something where [`Status::capabilities`] is set.
    pub capabilities: u8,
    reserved_53: [u8; 7],
    /// Interrupt Line.
    pub interrupt_line: u8,
    /// Interrupt Pin: 1 INTA# to 4 INTD#; 0 none.
    pub interrupt_pin: u8,
    /// Min_Gnt.
    pub min_gnt: u8,
    /// Max_Lat.
    pub max_lat: u8,
}

const _: () = assert!(size_of::<Header>() == 64);

impl Header {
    /// Offset of the vendor ID.
    pub const VENDOR: usize = 0x00;
    /// Offset of the device ID.
    pub const DEVICE: usize = 0x02;
    /// Offset of the first base address register; the others follow, 4 bytes each.
    pub const BARS: usize = 0x10;
    /// Offset of the capabilities pointer.
    pub const CAPABILITIES: usize = 0x34;

    /// Whether a device answers: the vendor ID that reads as all ones is nobody's.
    pub const fn is_present(&self) -> bool {
        self.vendor.get() != u16::MAX
    }

    /// Class Code.
    pub const fn class(&self) -> ClassCode {
        let [interface, sub, base] = self.class;
        ClassCode::new(base, sub, interface)
    }

    /// Sets [`class`](Self::class).
    pub const fn set_class(&mut self, class: ClassCode) {
        self.class = [class.interface(), class.sub(), class.base()];
    }

    /// Command.
    pub const fn command(&self) -> Command {
        Command::from_bits(self.command.get())
    }

    /// Status.
    pub const fn status(&self) -> Status {
        Status::from_bits(self.status.get())
    }

    /// The base address registers, raw.
    pub fn bars(&self) -> [u32; 6] {
        self.bars.map(U32::get)
    }

    /// A header of zeroes.
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("vendor", &format_args!("{:#06x}", self.vendor))
            .field("device", &format_args!("{:#06x}", self.device))
            .field("command", &self.command())
            .field("status", &self.status())
            .field("class", &self.class())
            .field("header_type", &self.header_type)
            .field("bars", &format_args!("{:#x?}", self.bars()))
            .finish_non_exhaustive()
    }
}

bits! {
    /// Command. PCI Local Bus 3.0 §6.2.2.
    pub struct Command(u16) @ 0x04;
    /// I/O Space: answer to accesses there.
    io / with_io = [0:0] bool;
    /// Memory Space: answer to accesses there.
    memory / with_memory = [1:1] bool;
    /// Bus Master: DMA and message signalled interrupts.
    bus_master / with_bus_master = [2:2] bool;
    /// Special Cycles.
    special_cycles / with_special_cycles = [3:3] bool;
    /// Memory Write and Invalidate Enable.
    write_invalidate / with_write_invalidate = [4:4] bool;
    /// VGA Palette Snoop.
    vga_snoop / with_vga_snoop = [5:5] bool;
    /// Parity Error Response.
    parity_response / with_parity_response = [6:6] bool;
    /// SERR# Enable.
    serr / with_serr = [8:8] bool;
    /// Fast Back-to-Back Enable.
    fast_back_to_back / with_fast_back_to_back = [9:9] bool;
    /// Interrupt Disable: no INTx.
    interrupt_disable / with_interrupt_disable = [10:10] bool;
}

bits! {
    /// Status. PCI Local Bus 3.0 §6.2.3. The error bits are cleared by writing a 1.
    pub struct Status(u16) @ 0x06;
    /// Interrupt Status: an INTx is pending.
    interrupt / with_interrupt = [3:3] bool;
    /// Capabilities List: there is one.
    capabilities / with_capabilities = [4:4] bool;
    /// 66 MHz Capable.
    capable_66_mhz / with_capable_66_mhz = [5:5] bool;
    /// Fast Back-to-Back Capable.
    fast_back_to_back / with_fast_back_to_back = [7:7] bool;
    /// Master Data Parity Error.
    master_parity_error / with_master_parity_error = [8:8] bool;
    /// DEVSEL timing.
    devsel / with_devsel = [10:9] u8;
    /// Signaled Target Abort.
    signaled_target_abort / with_signaled_target_abort = [11:11] bool;
    /// Received Target Abort.
    received_target_abort / with_received_target_abort = [12:12] bool;
    /// Received Master Abort: an access of the device was answered by nobody.
    received_master_abort / with_received_master_abort = [13:13] bool;
    /// Signaled System Error.
    signaled_system_error / with_signaled_system_error = [14:14] bool;
    /// Detected Parity Error.
    detected_parity_error / with_detected_parity_error = [15:15] bool;
}

bits! {
    /// Header Type. PCI Local Bus 3.0 §6.2.1.
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct HeaderType(u8) @ 0x0e;
    /// Layout: 0 a device, 1 a PCI-to-PCI bridge.
    layout / with_layout = [6:0] u8;
    /// The device has more functions than one.
    multi_function / with_multi_function = [7:7] bool;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn fields_stand_alone() {
        check_fields!(Command, Status, HeaderType);
        assert_eq!(Command::default().with_memory(true).with_bus_master(true).bits(), 6);
        assert_eq!(Command::default().with_interrupt_disable(true).bits(), 0x400);
        assert_eq!(Status::default().with_capabilities(true).bits(), 0x10);
        assert_eq!(Status::default().with_devsel(0xff).bits(), 0x600);
        assert_eq!(HeaderType::default().with_multi_function(true).bits(), 0x80);
    }

    #[test]
    fn every_field_is_at_its_offset() {
        macro_rules! offsets {
            ($($field:ident $at:literal,)*) => {
                $(assert_eq!(offset_of!(Header, $field), $at, stringify!($field));)*
            };
        }
        offsets! {
            vendor 0, device 2, command 4, status 6, revision 8, class 9, cache_line_size 0xc,
            latency_timer 0xd, header_type 0xe, bist 0xf, bars 0x10, cis 0x28,
            subsystem_vendor 0x2c, subsystem 0x2e, rom 0x30, capabilities 0x34,
            interrupt_line 0x3c, interrupt_pin 0x3d, min_gnt 0x3e, max_lat 0x3f,
        }
        assert_eq!(offset_of!(Header, command), Command::OFFSET);
        assert_eq!(offset_of!(Header, status), Status::OFFSET);
        assert_eq!(offset_of!(Header, header_type), HeaderType::OFFSET);
        assert_eq!(offset_of!(Header, bars), Header::BARS);
        assert_eq!(offset_of!(Header, capabilities), Header::CAPABILITIES);
    }

    #[test]
    fn golden_bytes_both_ways() {
        let mut bytes = [0u8; 64];
        bytes[..16].copy_from_slice(&[
            0x36, 0x1b, 0x10, 0x00, 0x06, 0x04, 0x10, 0x00, 0x02, 0x02, 0x08, 0x01, 0, 0, 0, 0,
        ]);
        bytes[0x10..0x18].copy_from_slice(&[0x04, 0x40, 0xa0, 0xfe, 0, 0, 0, 0]);
        bytes[0x2c..0x30].copy_from_slice(&[0xf4, 0x1a, 0x00, 0x11]);
        bytes[0x34] = 0x40;
        bytes[0x3d] = 1;
        let header = Header::read_from_bytes(&bytes).unwrap();
        assert!(header.is_present());
        assert_eq!((header.vendor.get(), header.device.get()), (0x1b36, 0x10));
        assert_eq!(header.class(), ClassCode::NVME);
        assert!(header.command().bus_master() && header.command().interrupt_disable());
        assert!(header.status().capabilities());
        assert_eq!(header.bars()[0], 0xfea0_4004);
        let mut built = Header {
            vendor: 0x1b36.into(),
            device: 0x10.into(),
            command: Command::default()
                .with_memory(true)
                .with_bus_master(true)
                .with_interrupt_disable(true)
                .bits()
                .into(),
            status: Status::default().with_capabilities(true).bits().into(),
            revision: 2,
            subsystem_vendor: 0x1af4.into(),
            subsystem: 0x1100.into(),
            capabilities: 0x40,
            interrupt_pin: 1,
            ..Header::zeroed()
        };
        built.set_class(ClassCode::NVME);
        built.bars[0] = 0xfea0_4004.into();
        assert_eq!(built.as_bytes(), bytes);
        assert!(!Header::read_from_bytes(&[0xff; 64]).unwrap().is_present());
    }
}
