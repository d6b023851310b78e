//! MAC addresses.

use std::fmt;
use std::str::FromStr;

/// A MAC address of 48 bits. IEEE 802 §8.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

/// A text that is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no MAC address; one looks like 52:54:00:12:34:56")]
pub struct MacError(String);

impl MacAddress {
    /// Whoever is there.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// From three little-endian words, as controllers keep it.
    pub const fn from_words(words: [u16; 3]) -> Self {
        let (first, second, third) =
            (words[0].to_le_bytes(), words[1].to_le_bytes(), words[2].to_le_bytes());
        Self([first[0], first[1], second[0], second[1], third[0], third[1]])
    }

    /// As three little-endian words.
    pub const fn to_words(self) -> [u16; 3] {
        let bytes = self.0;
        [
            u16::from_le_bytes([bytes[0], bytes[1]]),
            u16::from_le_bytes([bytes[2], bytes[3]]),
            u16::from_le_bytes([bytes[4], bytes[5]]),
        ]
    }

    /// Whether it is a group's, broadcast included.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether a station can have it: it is not a group's, and not 0.
    pub fn is_station(self) -> bool {
        !self.is_multicast() && self != Self::default()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

impl FromStr for MacAddress {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(hex).ok_or_else(error)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() { Err(error()) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_both_ways() {
        let text = "52:54:00:12:34:5f";
        let address: MacAddress = text.parse().unwrap();
        assert_eq!(address, MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x5f]));
        assert_eq!(address.to_string(), text);
        assert_eq!(address.to_words(), [0x5452, 0x1200, 0x5f34]);
        assert_eq!(MacAddress::from_words(address.to_words()), address);
        assert!(address.is_station() && !address.is_multicast());
        assert!(MacAddress::BROADCAST.is_multicast() && !MacAddress::default().is_station());
    }

    #[test]
    fn what_is_no_address_is_told() {
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:5f:00",
            "5:54:00:12:34:5f",
            "zz:54:00:12:34:5f",
            "+1:54:00:12:34:5f",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }
}
