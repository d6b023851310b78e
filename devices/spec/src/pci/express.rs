//! The PCI Express capability. PCI Express Base 4.0 §7.5.3.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The part of the PCI Express capability that every device with a link has, 20 bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Express {
    /// Capability ID: 10h.
    pub id: u8,
    /// Next capability.
    pub next: u8,
    /// PCI Express Capabilities.
    pub capabilities: U16,
    /// Device Capabilities.
    pub device_capabilities: U32,
    /// Device Control.
    pub device_control: U16,
    /// Device Status.
    pub device_status: U16,
    /// Link Capabilities.
    pub link_capabilities: U32,
    /// Link Control.
    pub link_control: U16,
    /// Link Status.
    pub link_status: U16,
}

const _: () = assert!(size_of::<Express>() == 20);

impl Express {
    /// PCI Express Capabilities.
    pub const fn capabilities(&self) -> ExpressCapabilities {
        ExpressCapabilities::from_bits(self.capabilities.get())
    }

    /// Device Capabilities.
    pub const fn device_capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities::from_bits(self.device_capabilities.get())
    }

    /// Device Control.
    pub const fn device_control(&self) -> DeviceControl {
        DeviceControl::from_bits(self.device_control.get())
    }

    /// Device Status.
    pub const fn device_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits(self.device_status.get())
    }

    /// Link Capabilities.
    pub const fn link_capabilities(&self) -> LinkCapabilities {
        LinkCapabilities::from_bits(self.link_capabilities.get())
    }

    /// Link Status.
    pub const fn link_status(&self) -> LinkStatus {
        LinkStatus::from_bits(self.link_status.get())
    }
}

bits! {
    /// PCI Express Capabilities, at offset 2. PCI Express Base 4.0 §7.5.3.2.
    pub struct ExpressCapabilities(u16) @ 0x02;
    /// Capability Version.
    version / with_version = [3:0] u8;
    /// Device/Port Type: 0 endpoint, 1 legacy endpoint, 9 root complex integrated endpoint.
    kind / with_kind = [7:4] u8;
    /// Slot Implemented.
    slot / with_slot = [8:8] bool;
    /// Interrupt Message Number.
    interrupt / with_interrupt = [13:9] u8;
}

bits! {
    /// Device Capabilities, at offset 4. PCI Express Base 4.0 §7.5.3.3.
    pub struct DeviceCapabilities(u32) @ 0x04;
    /// Max_Payload_Size Supported: `128 << max_payload` bytes.
    max_payload / with_max_payload = [2:0] u8;
    /// Phantom Functions Supported.
    phantom_functions / with_phantom_functions = [4:3] u8;
    /// Extended Tag Field Supported.
    extended_tag / with_extended_tag = [5:5] bool;
    /// Endpoint L0s Acceptable Latency.
    l0s_latency / with_l0s_latency = [8:6] u8;
    /// Endpoint L1 Acceptable Latency.
    l1_latency / with_l1_latency = [11:9] u8;
    /// Role-Based Error Reporting.
    role_based_errors / with_role_based_errors = [15:15] bool;
    /// Captured Slot Power Limit Value.
    slot_power / with_slot_power = [25:18] u8;
    /// Captured Slot Power Limit Scale.
    slot_power_scale / with_slot_power_scale = [27:26] u8;
    /// Function Level Reset Capability.
    flr / with_flr = [28:28] bool;
}

bits! {
    /// Device Control, at offset 8. PCI Express Base 4.0 §7.5.3.4.
    pub struct DeviceControl(u16) @ 0x08;
    /// Correctable Error Reporting Enable.
    correctable / with_correctable = [0:0] bool;
    /// Non-Fatal Error Reporting Enable.
    non_fatal / with_non_fatal = [1:1] bool;
    /// Fatal Error Reporting Enable.
    fatal / with_fatal = [2:2] bool;
    /// Unsupported Request Reporting Enable.
    unsupported_request / with_unsupported_request = [3:3] bool;
    /// Enable Relaxed Ordering.
    relaxed_ordering / with_relaxed_ordering = [4:4] bool;
    /// Max_Payload_Size: `128 << max_payload` bytes.
    max_payload / with_max_payload = [7:5] u8;
    /// Extended Tag Field Enable.
    extended_tag / with_extended_tag = [8:8] bool;
    /// Phantom Functions Enable.
    phantom_functions / with_phantom_functions = [9:9] bool;
    /// Aux Power PM Enable.
    aux_power / with_aux_power = [10:10] bool;
    /// Enable No Snoop.
    no_snoop / with_no_snoop = [11:11] bool;
    /// Max_Read_Request_Size: `128 << max_read_request` bytes.
    max_read_request / with_max_read_request = [14:12] u8;
    /// Initiate Function Level Reset; reads as 0.
    initiate_flr / with_initiate_flr = [15:15] bool;
}

impl DeviceControl {
    /// Milliseconds to leave a device alone after a function level reset. PCI Express Base
    /// 4.0 §6.6.2.
    pub const FLR_DELAY_MS: u64 = 100;
}

bits! {
    /// Device Status, at offset 0xa. PCI Express Base 4.0 §7.5.3.5. The error bits are
    /// cleared by writing a 1.
    pub struct DeviceStatus(u16) @ 0x0a;
    /// Correctable Error Detected.
    correctable / with_correctable = [0:0] bool;
    /// Non-Fatal Error Detected.
    non_fatal / with_non_fatal = [1:1] bool;
    /// Fatal Error Detected.
    fatal / with_fatal = [2:2] bool;
    /// Unsupported Request Detected.
    unsupported_request / with_unsupported_request = [3:3] bool;
    /// AUX Power Detected.
    aux_power / with_aux_power = [4:4] bool;
    /// Transactions Pending: not all requests of the device were answered.
    transactions_pending / with_transactions_pending = [5:5] bool;
}

bits! {
    /// Link Capabilities, at offset 0xc. PCI Express Base 4.0 §7.5.3.6.
    pub struct LinkCapabilities(u32) @ 0x0c;
    /// Max Link Speed; see [`megatransfers`].
    speed / with_speed = [3:0] u8;
    /// Maximum Link Width in lanes.
    width / with_width = [9:4] u8;
    /// ASPM Support: bit 0 L0s, bit 1 L1.
    aspm / with_aspm = [11:10] u8;
    /// Port Number.
    port / with_port = [31:24] u8;
}

bits! {
    /// Link Status, at offset 0x12. PCI Express Base 4.0 §7.5.3.8.
    pub struct LinkStatus(u16) @ 0x12;
    /// Current Link Speed; see [`megatransfers`].
    speed / with_speed = [3:0] u8;
    /// Negotiated Link Width in lanes.
    width / with_width = [9:4] u8;
    /// Link Training.
    training / with_training = [11:11] bool;
    /// Slot Clock Configuration.
    slot_clock / with_slot_clock = [12:12] bool;
    /// Data Link Layer Link Active.
    active / with_active = [13:13] bool;
}

/// Megatransfers a second and lane of a link speed as the link registers hold it; `None`
/// for a speed unknown here.
pub const fn megatransfers(speed: u8) -> Option<u32> {
    match speed {
        1 => Some(2500),
        2..=6 => Some(if speed == 2 { 5000 } else { 1000 << speed }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn fields_stand_alone() {
        check_fields!(
            ExpressCapabilities,
            DeviceCapabilities,
            DeviceControl,
            DeviceStatus,
            LinkCapabilities,
            LinkStatus
        );
        assert_eq!(DeviceCapabilities::default().with_flr(true).bits(), 1 << 28);
        assert_eq!(DeviceControl::default().with_initiate_flr(true).bits(), 0x8000);
        assert_eq!(DeviceControl::default().with_max_read_request(0xff).bits(), 0x7000);
        assert_eq!(DeviceControl::default().with_max_payload(0xff).bits(), 0xe0);
        assert_eq!(DeviceStatus::default().with_transactions_pending(true).bits(), 0x20);
        assert_eq!(LinkStatus::default().with_width(0xff).bits(), 0x3f0);
    }

    #[test]
    fn golden_bytes_both_ways() {
        let bytes = [
            0x10, 0xb0, 0x02, 0x00, 0xc1, 0x8f, 0x00, 0x10, 0x30, 0x29, 0x20, 0x00, 0x43, 0x00,
            0x00, 0x01, 0x00, 0x00, 0x43, 0x10,
        ];
        let read = Express::read_from_bytes(&bytes).unwrap();
        assert_eq!((read.capabilities().version(), read.capabilities().kind()), (2, 0));
        assert!(read.device_capabilities().flr() && read.device_capabilities().role_based_errors());
        assert_eq!(read.device_control().max_payload(), 1);
        assert_eq!(read.device_control().max_read_request(), 2);
        assert!(read.device_status().transactions_pending());
        assert_eq!(read.link_capabilities().port(), 1);
        assert_eq!((read.link_status().speed(), read.link_status().width()), (3, 4));
        let built = Express {
            id: 0x10,
            next: 0xb0,
            capabilities: 2.into(),
            device_capabilities: DeviceCapabilities::default()
                .with_max_payload(1)
                .with_l0s_latency(7)
                .with_l1_latency(7)
                .with_role_based_errors(true)
                .with_flr(true)
                .bits()
                .into(),
            device_control: DeviceControl::default()
                .with_relaxed_ordering(true)
                .with_max_payload(1)
                .with_extended_tag(true)
                .with_no_snoop(true)
                .with_max_read_request(2)
                .bits()
                .into(),
            device_status: DeviceStatus::default().with_transactions_pending(true).bits().into(),
            link_capabilities: LinkCapabilities::default()
                .with_speed(3)
                .with_width(4)
                .with_port(1)
                .bits()
                .into(),
            link_control: 0.into(),
            link_status: LinkStatus::default()
                .with_speed(3)
                .with_width(4)
                .with_slot_clock(true)
                .bits()
                .into(),
        };
        assert_eq!(built.as_bytes(), bytes);
    }

    #[test]
    fn registers_are_at_their_offsets() {
        assert_eq!(offset_of!(Express, capabilities), ExpressCapabilities::OFFSET);
        assert_eq!(offset_of!(Express, device_capabilities), DeviceCapabilities::OFFSET);
        assert_eq!(offset_of!(Express, device_control), DeviceControl::OFFSET);
        assert_eq!(offset_of!(Express, device_status), DeviceStatus::OFFSET);
        assert_eq!(offset_of!(Express, link_capabilities), LinkCapabilities::OFFSET);
        assert_eq!(offset_of!(Express, link_status), LinkStatus::OFFSET);
    }

    #[test]
    fn speeds() {
        let speeds = [2500, 5000, 8000, 16000, 32000, 64000];
        for (code, speed) in (1..).zip(speeds) {
            assert_eq!(megatransfers(code), Some(speed));
        }
        assert_eq!((megatransfers(0), megatransfers(7)), (None, None));
    }
}
