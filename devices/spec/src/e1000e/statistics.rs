//! Statistics registers: counters that reading clears, and that stick at their highest value.
//! §10.2.7.

/// A counter of 32 bits, or of 64 in two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Frames with a wrong frame check sequence.
    CrcErrors,
    /// Frames with a symbol error.
    ReceiveErrors,
    /// Frames that found no room in the device.
    MissedPackets,
    /// Frames that found no descriptor.
    NoBuffer,
    /// Frames shorter than 64 bytes with a good frame check sequence.
    Undersized,
    /// Frames shorter than 64 bytes with a bad one.
    Fragments,
    /// Frames that are too long, with a good one.
    Oversized,
    /// Frames that are too long, with a bad one.
    Jabber,
    /// Good frames received.
    GoodReceived,
    /// Good broadcast frames received.
    BroadcastReceived,
    /// Good multicast frames received.
    MulticastReceived,
    /// Good frames sent.
    GoodSent,
    /// Bytes of good frames received, frame check sequences included: two registers.
    GoodBytesReceived,
    /// Bytes of good frames sent, frame check sequences included: two registers.
    GoodBytesSent,
    /// All frames received.
    TotalReceived,
    /// All frames sent.
    TotalSent,
    /// Good broadcast frames sent.
    BroadcastSent,
    /// Good multicast frames sent.
    MulticastSent,
}

impl Counter {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::CrcErrors,
        Self::ReceiveErrors,
        Self::MissedPackets,
        Self::NoBuffer,
        Self::Undersized,
        Self::Fragments,
        Self::Oversized,
        Self::Jabber,
        Self::GoodReceived,
        Self::BroadcastReceived,
        Self::MulticastReceived,
        Self::GoodSent,
        Self::GoodBytesReceived,
        Self::GoodBytesSent,
        Self::TotalReceived,
        Self::TotalSent,
        Self::BroadcastSent,
        Self::MulticastSent,
    ];

    /// Offset of its register, of the low one of two.
    pub const fn offset(self) -> usize {
        match self {
            Self::CrcErrors => 0x4000,
            Self::ReceiveErrors => 0x400c,
            Self::MissedPackets => 0x4010,
            Self::GoodReceived => 0x4074,
            Self::BroadcastReceived => 0x4078,
            Self::MulticastReceived => 0x407c,
            Self::GoodSent => 0x4080,
            Self::GoodBytesReceived => 0x4088,
            Self::GoodBytesSent => 0x4090,
            Self::NoBuffer => 0x40a0,
            Self::Undersized => 0x40a4,
            Self::Fragments => 0x40a8,
            Self::Oversized => 0x40ac,
            Self::Jabber => 0x40b0,
            Self::TotalReceived => 0x40d0,
            Self::TotalSent => 0x40d4,
            Self::MulticastSent => 0x40f0,
            Self::BroadcastSent => 0x40f4,
        }
    }

    /// Whether it has 64 bits: the low register is read first, reading the high one clears both.
    pub const fn is_wide(self) -> bool {
        matches!(self, Self::GoodBytesReceived | Self::GoodBytesSent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_share_a_register() {
        let registers = |counter: Counter| {
            let offset = counter.offset();
            [Some(offset), counter.is_wide().then_some(offset + 4)].into_iter().flatten()
        };
        let all: std::collections::BTreeSet<_> =
            Counter::ALL.into_iter().flat_map(registers).collect();
        assert_eq!(all.len(), 20);
        assert!(all.iter().all(|offset| (0x4000..0x4100).contains(offset)));
    }
}
