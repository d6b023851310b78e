//! How a person names a device.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A device, named by how it is reached.
///
/// | text | reached through |
/// |---|---|
/// | `0000:03:00.0`, `03:00.0` | VFIO |
/// | `vfio-user:/run/nvme.sock` | a vfio-user server behind a UNIX socket |
/// | `vhost-user:/run/net.sock` | a vhost-user back end behind a UNIX socket |
/// | `model:nvme?size=1G&backing=null` | a software device inside this process |
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A PCI function of this machine.
    Pci(PciAddress),
    /// The path of a vfio-user server's socket.
    VfioUser(PathBuf),
    /// The path of a vhost-user back end's socket.
    VhostUser(PathBuf),
    /// A model in this process.
    Model(ModelAddress),
}

/// A PCI function: domain, bus, device (0 to 31), function (0 to 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// PCI domain (segment group).
    pub domain: u16,
    /// Bus number.
    pub bus: u8,
    /// Device number on the bus, 0 to 31.
    pub device: u8,
    /// Function number of the device, 0 to 7.
    pub function: u8,
}

/// The kind of a model and its parameters, in the order given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelAddress {
    /// `nvme`, `edu`.
    pub kind: String,
    /// `key=value` pairs after the `?`; the models know their meaning.
    pub parameters: Vec<(String, String)>,
}

/// A text that is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    /// Nothing was given.
    #[error(
        "the address is empty; give one such as 0000:03:00.0, vfio-user:/path/to/socket or model:nvme"
    )]
    Empty,
    /// The text before the colon is no scheme, and the whole no PCI address.
    #[error(
        "`{0}` is no device address; give one such as 0000:03:00.0, vfio-user:/path/to/socket or model:nvme"
    )]
    Unknown(String),
    /// A PCI address with a part that is not a hexadecimal number in range.
    #[error(
        "`{0}` is no PCI address: expected DOMAIN:BUS:DEVICE.FUNCTION in hexadecimal, such as 0000:03:00.0"
    )]
    Pci(String),
    /// A socket scheme without a path.
    #[error("`{0}` lacks the path of a socket after the colon")]
    NoPath(String),
    /// A model address without a kind or with a parameter that is not `key=value`.
    #[error("`{0}` is no model address: expected model:KIND?key=value&key=value")]
    Model(String),
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseAddressError::Empty);
        }
        let path = |path: &str| match path {
            "" => Err(ParseAddressError::NoPath(text.to_owned())),
            path => Ok(PathBuf::from(path)),
        };
        match text.split_once(':') {
            Some(("vfio-user", rest)) => path(rest).map(Self::VfioUser),
            Some(("vhost-user", rest)) => path(rest).map(Self::VhostUser),
            Some(("model", rest)) => rest.parse().map(Self::Model),
            Some((scheme, _)) if !scheme.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Err(ParseAddressError::Unknown(text.to_owned()))
            }
            Some(_) => text.parse().map(Self::Pci),
            None => Err(ParseAddressError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => address.fmt(f),
            Self::VfioUser(path) => write!(f, "vfio-user:{}", path.display()),
            Self::VhostUser(path) => write!(f, "vhost-user:{}", path.display()),
            Self::Model(model) => model.fmt(f),
        }
    }
}

impl Address {
    /// The socket of a device that is reached through one.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::VfioUser(path) | Self::VhostUser(path) => Some(path),
            Self::Pci(_) | Self::Model(_) => None,
        }
    }
}

impl FromStr for PciAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (rest, function) = text.rsplit_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
            Some(Self {
                domain: hexadecimal(domain, 4, 0xffff)?,
                bus: hexadecimal(bus, 2, 0xff)? as u8,
                device: hexadecimal(device, 2, 0x1f)? as u8,
                function: hexadecimal(function, 1, 7)? as u8,
            })
        };
        parse().ok_or_else(|| ParseAddressError::Pci(text.to_owned()))
    }
}

/// A number of at most `digits` digits and at most `max`; no sign, unlike `from_str_radix`.
fn hexadecimal(text: &str, digits: usize, max: u16) -> Option<u16> {
    if text.len() > digits || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(text, 16).ok().filter(|&value| value <= max)
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl FromStr for ModelAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseAddressError::Model(format!("model:{text}"));
        let (kind, parameters) = text.split_once('?').unwrap_or((text, ""));
        if kind.is_empty() || !kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(malformed());
        }
        let parameters = parameters
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
                _ => Err(malformed()),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { kind: kind.to_owned(), parameters })
    }
}

impl fmt::Display for ModelAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model:{}", self.kind)?;
        for (index, (key, value)) in self.parameters.iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            write!(f, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_parsed_and_printed_back() {
        for text in [
            "0000:03:00.0",
            "ffff:ff:1f.7",
            "vfio-user:/run/nvme.sock",
            "vhost-user:/run/net.sock",
            "model:nvme",
            "model:nvme?size=1G&backing=null",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("03:00.0".parse::<Address>().unwrap().to_string(), "0000:03:00.0");
    }

    #[test]
    fn malformed_addresses_are_errors() {
        for text in [
            "",
            "nvme",
            ":",
            "::",
            "0000:03:00",
            "0000:03:20.0",
            "0000:03:00.8",
            "+000:03:00.0",
            "00000:03:00.0",
            "0:0:0:0.0",
            "03:00.",
            "vfio-user:",
            "vhost-user:",
            "model:",
            "model:?a=b",
            "model:nvme?size",
            "model:nvme?=1",
            "http://x",
            "model:a b",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?} was accepted");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in ".*") {
            if let Ok(address) = text.parse::<Address>() {
                proptest::prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
            }
        }
    }
}
