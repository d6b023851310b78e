//! Registers. §10.

/// How many queues there are in each direction. §7.1.10.
pub const QUEUES: usize = 2;

/// Offsets of registers that are a plain number.
pub mod offset {
    /// Multicast Table Array: 128 words of 32 bits. §10.2.5.18.
    pub const MTA: usize = 0x5200;
    /// Words of [`MTA`].
    pub const MTA_WORDS: usize = 128;
    /// Receive Address Low of the first of 16 filters: four bytes of a MAC address. §10.2.5.19.
    pub const RAL: usize = 0x5400;
}

bits! {
    /// Device Control. §10.2.2.1.
    pub struct DeviceControl(u32) @ 0x0000;
    /// Full duplex.
    full_duplex / with_full_duplex = [0:0] bool;
    /// No further requests on the bus (GIO Master Disable).
    master_disable / with_master_disable = [2:2] bool;
    /// Speed is what the PHY has agreed on (Auto-Speed Detection Enable).
    detect_speed / with_detect_speed = [5:5] bool;
    /// The link may come up (Set Link Up).
    set_link_up / with_set_link_up = [6:6] bool;
    /// Speed where it is forced.
    speed / with_speed = [9:8] u8;
    /// Speed is [`speed`](Self::speed).
    force_speed / with_force_speed = [11:11] bool;
    /// Duplex is [`full_duplex`](Self::full_duplex).
    force_duplex / with_force_duplex = [12:12] bool;
    /// Resets everything but PHY and PCI configuration; reads as 0 again when done.
    reset / with_reset = [26:26] bool;
    /// Pause frames received are obeyed.
    receive_flow_control / with_receive_flow_control = [27:27] bool;
    /// Pause frames are sent.
    transmit_flow_control / with_transmit_flow_control = [28:28] bool;
    /// VLAN tags are stripped and inserted.
    vlan / with_vlan = [30:30] bool;
    /// Resets the PHY.
    phy_reset / with_phy_reset = [31:31] bool;
}

/// How fast a link is. §10.2.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// 10 Mbit/s.
    Ten,
    /// 100 Mbit/s.
    Hundred,
    /// 1,000 Mbit/s.
    Thousand,
}

impl Speed {
    /// In Mbit/s.
    pub const fn megabits(self) -> u32 {
        match self {
            Self::Ten => 10,
            Self::Hundred => 100,
            Self::Thousand => 1_000,
        }
    }
}

bits! {
    /// Device Status. §10.2.2.2.
    pub struct DeviceStatus(u32) @ 0x0008;
    /// The link is full duplex.
    full_duplex / with_full_duplex = [0:0] bool;
    /// There is a link.
    link_up / with_link_up = [1:1] bool;
    /// Sending is paused by the other side.
    transmission_paused / with_transmission_paused = [4:4] bool;
    /// Speed: 0, 1, and 2 or 3 for 10, 100, 1,000 Mbit/s.
    speed_bits / with_speed_bits = [7:6] u8;
    /// Requests on the bus may be made or are under way (GIO Master Enable Status).
    master_enabled / with_master_enabled = [19:19] bool;
}

impl DeviceStatus {
    /// How fast the link is.
    pub const fn speed(self) -> Speed {
        match self.speed_bits() {
            0 => Speed::Ten,
            1 => Speed::Hundred,
            _ => Speed::Thousand,
        }
    }
}

bits! {
    /// EEPROM Read: a word of the NVM. §10.2.2.4.
    pub struct EepromRead(u32) @ 0x0014;
    /// Starts a read.
    start / with_start = [0:0] bool;
    /// The word is there.
    done / with_done = [1:1] bool;
    /// Which word.
    address / with_address = [15:2] u16;
    /// The word.
    data / with_data = [31:16] u16;
}

bits! {
    /// MDI Control: registers of the PHY. §10.2.2.7.
    pub struct MdiControl(u32) @ 0x0020;
    /// The value.
    data / with_data = [15:0] u16;
    /// Which register.
    register / with_register = [20:16] u8;
    /// Which PHY.
    phy / with_phy = [25:21] u8;
    /// 1 writes, 2 reads.
    operation / with_operation = [27:26] u8;
    /// It is done.
    ready / with_ready = [28:28] bool;
    /// It could not be done.
    error / with_error = [30:30] bool;
}

bits! {
    /// Interrupt causes: those that are there at [`CAUSES`](Self::CAUSES), where reading clears
    /// them; to be raised at [`SET`](Self::SET); which interrupt at [`MASK`](Self::MASK), and
    /// which no more at [`CLEAR`](Self::CLEAR). §10.2.4.1 to §10.2.4.7.
    pub struct Causes(u32);
    /// Descriptors were written back.
    transmitted / with_transmitted = [0:0] bool;
    /// The transmit queue is empty.
    transmit_empty / with_transmit_empty = [1:1] bool;
    /// The link has changed.
    link_changed / with_link_changed = [2:2] bool;
    /// Few receive descriptors are left.
    receive_low / with_receive_low = [4:4] bool;
    /// A packet found no descriptor or no room.
    receive_overrun / with_receive_overrun = [6:6] bool;
    /// Packets were received.
    received / with_received = [7:7] bool;
    /// With MSI-X: receive queue 0.
    receive_queue0 / with_receive_queue0 = [20:20] bool;
    /// With MSI-X: receive queue 1.
    receive_queue1 / with_receive_queue1 = [21:21] bool;
    /// With MSI-X: all else.
    other / with_other = [24:24] bool;
    /// An interrupt was raised for these.
    asserted / with_asserted = [31:31] bool;
}

impl Causes {
    /// ICR.
    pub const CAUSES: usize = 0xc0;
    /// ICS.
    pub const SET: usize = 0xc8;
    /// IMS.
    pub const MASK: usize = 0xd0;
    /// IMC.
    pub const CLEAR: usize = 0xd8;
}

bits! {
    /// Receive Control. §10.2.5.1.
    pub struct ReceiveControl(u32) @ 0x0100;
    /// Receives.
    enable / with_enable = [1:1] bool;
    /// Passes frames with errors on.
    store_bad / with_store_bad = [2:2] bool;
    /// Takes frames to whatever unicast address.
    all_unicast / with_all_unicast = [3:3] bool;
    /// Takes all multicast frames.
    all_multicast / with_all_multicast = [4:4] bool;
    /// Takes frames of more than 1,522 bytes.
    long_packets / with_long_packets = [5:5] bool;
    /// Loopback: 0 none, 1 in the MAC.
    loopback / with_loopback = [7:6] u8;
    /// Which bits of a multicast address select the bit of the table.
    multicast_offset / with_multicast_offset = [13:12] u8;
    /// Takes broadcast frames.
    broadcast / with_broadcast = [15:15] bool;
    /// How long buffers are: 0 to 3 for 2,048, 1,024, 512 and 256 bytes; with
    /// [`size_extension`](Self::size_extension) 1 to 3 for 16,384, 8,192 and 4,096.
    size / with_size = [17:16] u8;
    /// Takes what is in the VLAN table alone.
    vlan_filter / with_vlan_filter = [18:18] bool;
    /// Drops pause frames.
    drop_pause / with_drop_pause = [22:22] bool;
    /// Buffers are 16 times as long.
    size_extension / with_size_extension = [25:25] bool;
    /// Strips the frame check sequence.
    strip_crc / with_strip_crc = [26:26] bool;
}

impl ReceiveControl {
    /// How long buffers are, in bytes; nothing for what is reserved.
    pub const fn buffer_size(self) -> Option<usize> {
        match (self.size(), self.size_extension()) {
            (0, true) => None,
            (size, false) => Some(2_048 >> size),
            (size, true) => Some(32_768 >> size),
        }
    }

    /// With buffers of `bytes` bytes; nothing where that is no size of its.
    pub const fn with_buffer_size(self, bytes: usize) -> Option<Self> {
        let (size, extension) = match bytes {
            2_048 => (0, false),
            1_024 => (1, false),
            512 => (2, false),
            256 => (3, false),
            16_384 => (1, true),
            8_192 => (2, true),
            4_096 => (3, true),
            _ => return None,
        };
        Some(self.with_size(size).with_size_extension(extension))
    }
}

bits! {
    /// Receive Checksum Control. §10.2.5.15.
    pub struct ChecksumControl(u32) @ 0x5000;
    /// IPv4 header checksums are verified.
    ip / with_ip = [8:8] bool;
    /// Those of TCP and UDP are.
    tcp_udp / with_tcp_udp = [9:9] bool;
    /// No packet checksum but a hash in descriptors.
    no_packet_checksum / with_no_packet_checksum = [13:13] bool;
}

bits! {
    /// Receive Address High. §10.2.5.20.
    pub struct AddressHigh(u32) @ 0x5404;
    /// The last two bytes of a MAC address.
    address / with_address = [15:0] u16;
    /// Frames to the address are taken.
    valid / with_valid = [31:31] bool;
}

bits! {
    /// Transmit Control. §10.2.6.1.
    pub struct TransmitControl(u32) @ 0x0400;
    /// Sends.
    enable / with_enable = [1:1] bool;
    /// Pads frames to 64 bytes.
    pad_short / with_pad_short = [3:3] bool;
    /// How often a collision is tried again.
    collision_threshold / with_collision_threshold = [11:4] u8;
    /// Collision distance, in byte times.
    collision_distance / with_collision_distance = [21:12] u16;
}

bits! {
    /// Transmit Inter Packet Gap. §10.2.6.2.
    pub struct TransmitGap(u32) @ 0x0410;
    /// Between frames back to back.
    transmit / with_transmit = [9:0] u16;
    /// First part, half duplex.
    first / with_first = [19:10] u16;
    /// Second part, half duplex.
    second / with_second = [29:20] u16;
}

impl TransmitGap {
    /// What IEEE 802.3 asks for on copper. §10.2.6.2.
    pub const COPPER: Self = Self::from_bits(0x0060_2006);
}

bits! {
    /// Transmit Descriptor Control. §10.2.6.11.
    pub struct TransmitDescriptorControl(u32);
    /// Fetches descriptors when fewer than this are left.
    prefetch / with_prefetch = [5:0] u8;
    /// And when at least this many are there.
    host / with_host = [13:8] u8;
    /// Writes back so many at once; 0 writes each back that asks for it.
    write_back / with_write_back = [21:16] u8;
    /// Has to be set.
    counted / with_counted = [22:22] bool;
    /// All these are descriptors, not cache lines.
    descriptors / with_descriptors = [24:24] bool;
}

/// Where the registers of a queue are. §10.2.5.4, §10.2.6.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue(usize);

impl Queue {
    /// Receive queue `number`, 0 or 1; nothing for another.
    pub const fn receive(number: usize) -> Option<Self> {
        if number < QUEUES { Some(Self(0x2800 + 0x100 * number)) } else { None }
    }

    /// Transmit queue `number`, 0 or 1; nothing for another.
    pub const fn transmit(number: usize) -> Option<Self> {
        if number < QUEUES { Some(Self(0x3800 + 0x100 * number)) } else { None }
    }

    /// The ring's address, low half.
    pub const fn base_low(self) -> usize {
        self.0
    }

    /// The ring's address, high half.
    pub const fn base_high(self) -> usize {
        self.0 + 4
    }

    /// The ring's length in bytes.
    pub const fn length(self) -> usize {
        self.0 + 8
    }

    /// The index that the device works at.
    pub const fn head(self) -> usize {
        self.0 + 0x10
    }

    /// The index at which it stops.
    pub const fn tail(self) -> usize {
        self.0 + 0x18
    }

    /// [`TransmitDescriptorControl`] where it is a transmit queue.
    pub const fn control(self) -> usize {
        self.0 + 0x28
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_alone() {
        check_fields!(
            DeviceControl,
            DeviceStatus,
            EepromRead,
            MdiControl,
            Causes,
            ReceiveControl,
            ChecksumControl,
            AddressHigh,
            TransmitControl,
            TransmitGap,
            TransmitDescriptorControl
        );
        assert_eq!(DeviceControl::default().with_reset(true).bits(), 0x0400_0000);
        assert_eq!(ReceiveControl::default().with_enable(true).bits(), 2);
        assert_eq!(TransmitDescriptorControl::default().with_counted(true).bits(), 0x0040_0000);
    }

    #[test]
    fn buffer_sizes_go_both_ways() {
        for bytes in [256, 512, 1_024, 2_048, 4_096, 8_192, 16_384] {
            let control = ReceiveControl::default().with_buffer_size(bytes).unwrap();
            assert_eq!(control.buffer_size(), Some(bytes));
        }
        assert_eq!(ReceiveControl::default().with_buffer_size(1_500), None);
        assert_eq!(ReceiveControl::default().with_size_extension(true).buffer_size(), None);
    }

    #[test]
    fn queues_are_0x100_apart() {
        let (first, second) = (Queue::receive(0).unwrap(), Queue::receive(1).unwrap());
        assert_eq!((first.base_low(), first.tail(), second.head()), (0x2800, 0x2818, 0x2910));
        assert_eq!(Queue::transmit(1).unwrap().control(), 0x3928);
        assert_eq!((Queue::receive(2), Queue::transmit(usize::MAX)), (None, None));
    }

    #[test]
    fn speeds() {
        let speed = |bits| DeviceStatus::default().with_speed_bits(bits).speed().megabits();
        assert_eq!([0, 1, 2, 3].map(speed), [10, 100, 1_000, 1_000]);
    }
}
