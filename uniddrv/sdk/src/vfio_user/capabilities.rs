//! What the two ends of a vfio-user connection tell each other they can do.

use serde_json::{Map, Value};
use zerocopy::IntoBytes;

use super::protocol::{MAJOR, MINOR, Version};

/// The capabilities in a VERSION message. What a peer leaves out has the protocol's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// How many fds it can receive in one message.
    pub max_msg_fds: u64,
    /// How many bytes of data a REGION or DMA access may move.
    pub max_data_xfer_size: u64,
    /// Page sizes in DMA_MAP, a bit each.
    pub pgsizes: u64,
    /// How many DMA mappings can exist at once.
    pub max_dma_maps: u64,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { max_msg_fds: 1, max_data_xfer_size: 1 << 20, pgsizes: 4096, max_dma_maps: 65_535 }
    }
}

impl Capabilities {
    /// The payload of a VERSION message with these capabilities.
    pub fn version_payload(&self, minor: u16) -> Vec<u8> {
        let mut payload = Version { major: MAJOR, minor }.as_bytes().to_vec();
        let json = format!(
            "{{\"capabilities\":{{\"max_msg_fds\":{},\"max_data_xfer_size\":{},\
             \"pgsizes\":{},\"max_dma_maps\":{},\"write_multiple\":false}}}}\0",
            self.max_msg_fds, self.max_data_xfer_size, self.pgsizes, self.max_dma_maps
        );
        payload.extend_from_slice(json.as_bytes());
        payload
    }

    /// Checks the payload of a VERSION message: the minor version, at most ours, and the
    /// capabilities.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_version(payload: &[u8]) -> Result<(u16, Self), String> {
        let (version, json) = payload
            .split_first_chunk::<4>()
            .ok_or_else(|| format!("a version of {} bytes, at least 4 needed", payload.len()))?;
        let Version { major, minor } = zerocopy::transmute!(*version);
        if major != MAJOR {
            return Err(format!("version {major}.{minor}, and {MAJOR}.{MINOR} is spoken here"));
        }
        Ok((minor.min(MINOR), Self::parse_json(json)?))
    }

    fn parse_json(json: &[u8]) -> Result<Self, String> {
        let mut capabilities = Self::default();
        let json = json.strip_suffix(b"\0").unwrap_or(json);
        if json.is_empty() {
            return Ok(capabilities);
        }
        let json: Value =
            serde_json::from_slice(json).map_err(|error| format!("version data: {error}"))?;
        let object = json.as_object().ok_or("version data that is no JSON object")?;
        let Some(object) = object.get("capabilities") else { return Ok(capabilities) };
        let object = object.as_object().ok_or("capabilities that are no JSON object")?;
        for (name, field) in [
            ("max_msg_fds", &mut capabilities.max_msg_fds),
            ("max_data_xfer_size", &mut capabilities.max_data_xfer_size),
            ("pgsizes", &mut capabilities.pgsizes),
            ("max_dma_maps", &mut capabilities.max_dma_maps),
        ] {
            *field = number(object, name, *field)?;
        }
        Ok(capabilities)
    }
}

/// The positive number `name`, or `default` where there is none.
fn number(object: &Map<String, Value>, name: &str, default: u64) -> Result<u64, String> {
    let Some(value) = object.get(name) else { return Ok(default) };
    value
        .as_u64()
        .filter(|&number| number > 0)
        .ok_or_else(|| format!("the capability {name} is {value:.60}, not a positive number"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str) -> Result<(u16, Capabilities), String> {
        Capabilities::parse_version(&[&[0, 0, 1, 0], json.as_bytes()].concat())
    }

    #[test]
    fn what_is_said_is_understood() {
        let capabilities = Capabilities {
            max_msg_fds: 16,
            max_data_xfer_size: 65536,
            pgsizes: 0x20_1000,
            max_dma_maps: 9,
        };
        let payload = capabilities.version_payload(0);
        assert_eq!(payload.last(), Some(&0));
        assert_eq!(Capabilities::parse_version(&payload), Ok((0, capabilities)));
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        for json in
            ["", "\0", "{}", "{}\0", r#"{"capabilities":{}}"#, r#"{"capabilities":{"x":[]}}"#]
        {
            assert_eq!(parse(json), Ok((1, Capabilities::default())), "{json}");
        }
        let (_, some) =
            parse(r#"{"capabilities":{"max_msg_fds":8,"migration":{"pgsize":4096}}}"#).unwrap();
        assert_eq!(some, Capabilities { max_msg_fds: 8, ..Capabilities::default() });
    }

    #[test]
    fn nonsense_is_refused() {
        for json in [
            "x",
            "{",
            "[]",
            "{}\0\0",
            r#"{"capabilities":7}"#,
            r#"{"capabilities":{"max_msg_fds":-1}}"#,
            r#"{"capabilities":{"max_msg_fds":0}}"#,
            r#"{"capabilities":{"pgsizes":"4096"}}"#,
            r#"{"capabilities":{"max_data_xfer_size":1e99}}"#,
            &"[".repeat(100_000),
        ] {
            assert!(parse(json).is_err(), "{json:.80}");
        }
        assert!(Capabilities::parse_version(&[0, 0, 1]).is_err());
        assert!(Capabilities::parse_version(&[1, 0, 0, 0]).unwrap_err().contains("1.0"));
        assert_eq!(Capabilities::parse_version(&[0, 0, 9, 0]).unwrap().0, MINOR);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
            let _ = Capabilities::parse_version(&bytes);
        }
    }
}
