//! Descriptors, 16 bytes each. §7.1.4, §7.2.10.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bits! {
    /// Status byte of a receive descriptor. §7.1.4.1.3.
    pub struct ReceiveStatus(u8);
    /// The device is done with it.
    done / with_done = [0:0] bool;
    /// The last one of its frame.
    end_of_packet / with_end_of_packet = [1:1] bool;
    /// Checksums were not looked at.
    ignore_checksum / with_ignore_checksum = [2:2] bool;
    /// It had a VLAN tag.
    vlan / with_vlan = [3:3] bool;
    /// The UDP checksum was calculated.
    udp_checksum / with_udp_checksum = [4:4] bool;
    /// The TCP or UDP checksum was calculated.
    tcp_checksum / with_tcp_checksum = [5:5] bool;
    /// The IPv4 header checksum was calculated.
    ip_checksum / with_ip_checksum = [6:6] bool;
    /// The address matched a filter that is not exact.
    inexact / with_inexact = [7:7] bool;
}

bits! {
    /// Errors byte of a receive descriptor; valid where it ends its frame. §7.1.4.1.4.
    pub struct ReceiveErrors(u8);
    /// Frame check sequence, or alignment.
    crc / with_crc = [0:0] bool;
    /// A symbol.
    symbol / with_symbol = [1:1] bool;
    /// A sequence.
    sequence / with_sequence = [2:2] bool;
    /// The TCP or UDP checksum is wrong.
    tcp / with_tcp = [5:5] bool;
    /// The IPv4 header checksum is wrong.
    ip / with_ip = [6:6] bool;
    /// The data.
    data / with_data = [7:7] bool;
}

impl ReceiveErrors {
    /// Whether the frame itself is damaged, which it only is passed on with if that was asked for.
    pub const fn is_damaged(self) -> bool {
        self.crc() || self.symbol() || self.sequence() || self.data()
    }
}

/// Receive descriptor, legacy format. §7.1.4.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(16))]
pub struct ReceiveDescriptor {
    /// Where the buffer is.
    pub address: U64,
    /// How many bytes are in it.
    pub length: U16,
    /// Checksum of the whole packet.
    pub checksum: U16,
    /// [`ReceiveStatus`].
    pub status: u8,
    /// [`ReceiveErrors`].
    pub errors: u8,
    /// VLAN tag.
    pub special: U16,
}

impl ReceiveDescriptor {
    /// The 32-bit word that the status is in.
    pub const STATUS_WORD: usize = 12;

    /// For a buffer at `address`.
    pub const fn buffer(address: u64) -> Self {
        Self {
            address: U64::new(address),
            length: U16::ZERO,
            checksum: U16::ZERO,
            status: 0,
            errors: 0,
            special: U16::ZERO,
        }
    }

    /// What the device says of it.
    pub const fn status(&self) -> ReceiveStatus {
        ReceiveStatus::from_bits(self.status)
    }

    /// What was wrong.
    pub const fn errors(&self) -> ReceiveErrors {
        ReceiveErrors::from_bits(self.errors)
    }
}

bits! {
    /// Command byte of a transmit descriptor. §7.2.10.1.3, §7.2.11.
    pub struct TransmitCommand(u8);
    /// The last one of its frame.
    end_of_packet / with_end_of_packet = [0:0] bool;
    /// Appends the frame check sequence.
    insert_crc / with_insert_crc = [1:1] bool;
    /// Sends a large segment in parts.
    segment / with_segment = [2:2] bool;
    /// Reports that it is done (RS).
    report / with_report = [3:3] bool;
    /// It is no legacy descriptor (DEXT).
    extended / with_extended = [5:5] bool;
    /// Inserts a VLAN tag.
    vlan / with_vlan = [6:6] bool;
    /// Delays the interrupt.
    delay / with_delay = [7:7] bool;
}

bits! {
    /// Status byte of a transmit descriptor. §7.2.10.1.4.
    pub struct TransmitStatus(u8);
    /// The device is done with it.
    done / with_done = [0:0] bool;
}

/// Transmit data descriptor. §7.2.12.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(16))]
pub struct TransmitData {
    /// Where the bytes are.
    pub address: U64,
    /// How many (20 bits), [`kind`](Self::DATA) (4 bits) and [`TransmitCommand`] (8 bits).
    pub length_command: U32,
    /// [`TransmitStatus`].
    pub status: u8,
    /// [`IP_CHECKSUM`](Self::IP_CHECKSUM), [`L4_CHECKSUM`](Self::L4_CHECKSUM).
    pub options: u8,
    /// VLAN tag.
    pub special: U16,
}

impl TransmitData {
    /// The kind of a data descriptor; a context's is 0.
    pub const DATA: u8 = 1;
    /// The 32-bit word that the status is in.
    pub const STATUS_WORD: usize = 12;
    /// The longest piece of a frame in one descriptor, in bytes.
    pub const MOST: usize = (1 << 20) - 1;
    /// Options: insert the IPv4 header checksum.
    pub const IP_CHECKSUM: u8 = 1;
    /// Options: insert the TCP or UDP checksum.
    pub const L4_CHECKSUM: u8 = 2;

    /// For `length` bytes at `address`; what does not fit into 20 bits is dropped.
    #[inline]
    pub const fn new(address: u64, length: u32, command: TransmitCommand, options: u8) -> Self {
        let command = command.with_extended(true).bits() as u32;
        Self {
            address: U64::new(address),
            length_command: U32::new(
                (length & 0xf_ffff) | (Self::DATA as u32) << 20 | command << 24,
            ),
            status: 0,
            options,
            special: U16::ZERO,
        }
    }

    /// How many bytes.
    pub const fn length(&self) -> u32 {
        self.length_command.get() & 0xf_ffff
    }

    /// What kind of descriptor it is, where it is an extended one.
    pub const fn kind(&self) -> u8 {
        (self.length_command.get() >> 20 & 0xf) as u8
    }

    /// What is to be done.
    pub const fn command(&self) -> TransmitCommand {
        TransmitCommand::from_bits((self.length_command.get() >> 24) as u8)
    }
}

/// Transmit context descriptor: where checksums are in the frames that follow. §7.2.11.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(16))]
pub struct TransmitContext {
    /// Where the IPv4 header starts.
    pub ip_start: u8,
    /// Where its checksum is.
    pub ip_offset: u8,
    /// The last byte of it.
    pub ip_end: U16,
    /// Where the header of TCP or UDP starts.
    pub l4_start: u8,
    /// Where its checksum is.
    pub l4_offset: u8,
    /// The last byte that it is over; 0 for the end of the frame.
    pub l4_end: U16,
    /// Length of the payload (20 bits), kind (4), command (8).
    pub length_command: U32,
    /// [`TransmitStatus`].
    pub status: u8,
    /// Length of the headers, with large segments.
    pub header_length: u8,
    /// Largest segment.
    pub segment: U16,
}

/// What a context's command byte says of its frames. §7.2.11.4.
impl TransmitContext {
    /// TCP, not UDP.
    pub const TCP: u8 = 1;
    /// IPv4, not IPv6.
    pub const IPV4: u8 = 2;

    /// A context for TCP or UDP (`kinds`: [`TCP`](Self::TCP), [`IPV4`](Self::IPV4)).
    pub const fn checksums(
        (ip_start, ip_end): (u8, u16),
        (l4_start, l4_offset): (u8, u8),
        kinds: u8,
    ) -> Self {
        let command = TransmitCommand::default_extended().bits() | kinds;
        Self {
            ip_start,
            ip_offset: ip_start.wrapping_add(10),
            ip_end: U16::new(ip_end),
            l4_start,
            l4_offset,
            l4_end: U16::ZERO,
            length_command: U32::new((command as u32) << 24),
            status: 0,
            header_length: 0,
            segment: U16::ZERO,
        }
    }
}

/// Both kinds share a ring.
impl From<TransmitContext> for TransmitData {
    fn from(context: TransmitContext) -> Self {
        zerocopy::transmute!(context)
    }
}

impl TransmitCommand {
    const fn default_extended() -> Self {
        Self::from_bits(0).with_extended(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_alone() {
        check_fields!(ReceiveStatus, ReceiveErrors, TransmitCommand, TransmitStatus);
    }

    #[test]
    fn bytes_of_a_receive_descriptor() {
        let mut bytes = [0, 0x10, 0, 0, 1, 0, 0, 0, 60, 0, 0x34, 0x12, 0x23, 0x40, 0x05, 0];
        let descriptor = ReceiveDescriptor::read_from_bytes(&bytes).unwrap();
        assert_eq!((descriptor.address.get(), descriptor.length.get()), (0x1_0000_1000, 60));
        assert!(descriptor.status().done() && descriptor.status().end_of_packet());
        assert!(descriptor.status().tcp_checksum() && !descriptor.status().ip_checksum());
        assert!(descriptor.errors().ip() && !descriptor.errors().is_damaged());
        assert_eq!(descriptor.as_bytes(), bytes);
        bytes[13] = 1;
        assert!(ReceiveDescriptor::read_from_bytes(&bytes).unwrap().errors().is_damaged());
        let empty = ReceiveDescriptor::buffer(0x1_0000_1000);
        assert_eq!(empty.as_bytes(), [0, 0x10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn bytes_of_a_data_descriptor() {
        let command = TransmitCommand::default()
            .with_end_of_packet(true)
            .with_insert_crc(true)
            .with_report(true);
        let descriptor = TransmitData::new(0x20_0000, 1_514, command, TransmitData::L4_CHECKSUM);
        assert_eq!(
            descriptor.as_bytes(),
            [0, 0, 0x20, 0, 0, 0, 0, 0, 0xea, 0x05, 0x10, 0x2b, 0, 2, 0, 0]
        );
        assert_eq!((descriptor.length(), descriptor.kind()), (1_514, TransmitData::DATA));
        assert_eq!(descriptor.command(), command.with_extended(true));
        assert_eq!(TransmitData::new(0, u32::MAX, command, 0).length(), 0xf_ffff);
    }

    #[test]
    fn bytes_of_a_context() {
        let kinds = TransmitContext::TCP | TransmitContext::IPV4;
        let context = TransmitContext::checksums((14, 33), (34, 50), kinds);
        assert_eq!(context.as_bytes(), [14, 24, 33, 0, 34, 50, 0, 0, 0, 0, 0, 0x23, 0, 0, 0, 0]);
    }
}
