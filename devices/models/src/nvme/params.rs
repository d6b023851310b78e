//! What a controller is made like, from `key=value` parameters.

use std::path::PathBuf;

use super::fault::{FaultPlan, PlanError};

/// How to make a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// The namespaces, in the order of their identifiers from 1 up.
    pub namespaces: Vec<NamespaceParams>,
    /// Bytes of each namespace that names no size of its own; where `None`, the size of the
    /// backing file, or 1 GiB.
    pub size: Option<u64>,
    /// Where the blocks are kept.
    pub backing: BackingParams,
    /// The faults to make.
    pub faults: Option<FaultPlan>,
    /// The most I/O queue pairs, 1 to 65,535.
    pub queues: u16,
    /// The most entries of a queue, 2 to 65,536.
    pub entries: u32,
    /// The most bytes of one command's data, a power of two of 8 KiB (MDTS 0 means no limit) to 32 MiB.
    pub max_transfer: u32,
    /// Whether Doorbell Buffer Config is offered.
    pub shadow_doorbells: bool,
    /// Whether SGLs are offered.
    pub sgl: bool,
    /// How long the driver should wait for the controller to get ready, in milliseconds; told
    /// in CAP.TO in steps of 500.
    pub ready_timeout: u32,
    /// Serial number, 20 characters at most.
    pub serial: String,
}

/// A namespace to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceParams {
    /// Bytes of a logical block: 512 or 4096.
    pub block_size: u32,
    /// Bytes in all.
    pub size: Option<u64>,
}

/// Where the blocks of the namespaces are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackingParams {
    /// In memory, zero at first.
    Ram,
    /// In a file, the namespaces one after the other.
    File(PathBuf),
    /// Nowhere: writes are dropped, reads leave the buffer as it is.
    Null,
}

/// A parameter that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    /// There is no such parameter.
    #[error("the NVMe model has no parameter `{key}`; it has: {}", keys())]
    Unknown {
        /// What was given.
        key: String,
    },
    /// The value is not what the parameter takes.
    #[error("`{key}={value}` is malformed: expected {expected}; the parameters are: {}", keys())]
    Value {
        /// The parameter.
        key: String,
        /// What was given.
        value: String,
        /// What is taken.
        expected: &'static str,
    },
    /// The fault plan is malformed.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// The most namespaces.
pub const MAX_NAMESPACES: usize = 1024;

/// The parameters and what they take.
pub const PARAMETERS: &[(&str, &str)] = &[
    ("namespaces", "how many (1 to 1024), or BLOCK:SIZE,BLOCK:SIZE such as 512:1G,4096:4G"),
    ("size", "bytes of each namespace, such as 512M or 1G"),
    ("block", "512 or 4096, for namespaces given as a number"),
    ("backing", "ram, null or file:PATH"),
    ("fault", "a fault plan such as seed=7,drop=0.01,delay=0.05:2ms"),
    ("queues", "the most I/O queue pairs, 1 to 65535"),
    ("entries", "the most entries of a queue, 2 to 65536"),
    ("mdts", "the most bytes of one transfer: a power of two, 8k to 32M"),
    ("shadow-doorbells", "on or off"),
    ("sgl", "on or off"),
    ("ready-timeout", "milliseconds, 500 to 127500"),
    ("serial", "1 to 20 printable ASCII characters"),
];

fn keys() -> String {
    PARAMETERS.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(", ")
}

impl Default for Params {
    fn default() -> Self {
        Self {
            namespaces: vec![NamespaceParams { block_size: 512, size: None }],
            size: None,
            backing: BackingParams::Ram,
            faults: None,
            queues: 64,
            entries: 4096,
            max_transfer: 128 << 10,
            shadow_doorbells: false,
            sgl: true,
            ready_timeout: 5000,
            serial: "UNIDDRV0001".to_owned(),
        }
    }
}

impl Params {
    /// The default with `pairs` applied in order, as they stand in a model's address.
    ///
    /// # Errors
    /// When a key is unknown or a value malformed.
    pub fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ParamError> {
        let mut params = Self::default();
        for (key, value) in pairs {
            params.set(key, value)?;
        }
        Ok(params)
    }

    /// Sets one parameter from text.
    ///
    /// # Errors
    /// When the key is unknown or the value malformed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ParamError> {
        let Some(&(_, expected)) = PARAMETERS.iter().find(|(known, _)| *known == key) else {
            return Err(ParamError::Unknown { key: key.to_owned() });
        };
        if key == "fault" {
            self.faults = Some(value.parse()?);
            return Ok(());
        }
        self.parse(key, value).ok_or_else(|| ParamError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            expected,
        })
    }

    fn parse(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "namespaces" => self.namespaces = self.parse_namespaces(value)?,
            "size" => self.size = Some(parse_size(value).filter(|&size| size > 0)?),
            "block" => {
                let block_size = parse_block(value)?;
                for namespace in &mut self.namespaces {
                    namespace.block_size = block_size;
                }
            }
            "backing" => {
                self.backing = match value.split_once(':') {
                    None if value == "ram" => BackingParams::Ram,
                    None if value == "null" => BackingParams::Null,
                    Some(("file", path)) if !path.is_empty() => BackingParams::File(path.into()),
                    _ => return None,
                }
            }
            "queues" => self.queues = value.parse().ok().filter(|&queues| queues > 0)?,
            "entries" => {
                self.entries = value.parse().ok().filter(|n| (2..=65_536).contains(n))?;
            }
            "mdts" => {
                let size = parse_size(value).filter(|size| size.is_power_of_two());
                self.max_transfer = size.filter(|size| (8 << 10..=32 << 20).contains(size))? as u32;
            }
            "shadow-doorbells" => self.shadow_doorbells = parse_switch(value)?,
            "sgl" => self.sgl = parse_switch(value)?,
            "ready-timeout" => {
                self.ready_timeout = value.parse().ok().filter(|n| (500..=127_500).contains(n))?;
            }
            "serial" => {
                let fits = (1..=20).contains(&value.len());
                let printable = value.bytes().all(|byte| byte.is_ascii_graphic());
                self.serial = (fits && printable).then(|| value.to_owned())?;
            }
            _ => return None,
        }
        Some(())
    }

    fn parse_namespaces(&self, value: &str) -> Option<Vec<NamespaceParams>> {
        if let Ok(count) = value.parse::<usize>() {
            let block_size = self.namespaces.first().map_or(512, |first| first.block_size);
            let namespace = NamespaceParams { block_size, size: None };
            return (1..=MAX_NAMESPACES).contains(&count).then(|| vec![namespace; count]);
        }
        let parse = |one: &str| {
            let (block, size) = one.split_once(':')?;
            let size = parse_size(size).filter(|&size| size > 0)?;
            Some(NamespaceParams { block_size: parse_block(block)?, size: Some(size) })
        };
        let namespaces: Vec<_> = value.split(',').map(parse).collect::<Option<_>>()?;
        (namespaces.len() <= MAX_NAMESPACES).then_some(namespaces)
    }
}

fn parse_block(text: &str) -> Option<u32> {
    parse_size(text).filter(|size| matches!(size, 512 | 4096)).map(|size| size as u32)
}

fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "on" | "true" | "1" => Some(true),
        "off" | "false" | "0" => Some(false),
        _ => None,
    }
}

/// A number of bytes: digits with k, M, G or T, powers of 1,024, after them or nothing.
fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        b'T' | b't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Params, ParamError> {
        Params::from_pairs(pairs.iter().copied())
    }

    #[test]
    fn every_parameter_is_set() {
        let params = parse(&[
            ("namespaces", "512:1G,4096:4G"),
            ("backing", "file:/tmp/x:y"),
            ("fault", "seed=1,drop=0.5"),
            ("queues", "3"),
            ("entries", "64"),
            ("mdts", "8k"),
            ("shadow-doorbells", "on"),
            ("sgl", "off"),
            ("ready-timeout", "500"),
            ("serial", "S1"),
            ("size", "1T"),
        ])
        .unwrap();
        let second = NamespaceParams { block_size: 4096, size: Some(4 << 30) };
        assert_eq!(params.namespaces[1], second);
        assert_eq!(params.backing, BackingParams::File("/tmp/x:y".into()));
        assert!(params.faults.is_some() && params.shadow_doorbells && !params.sgl);
        assert_eq!((params.queues, params.entries, params.max_transfer), (3, 64, 8192));
        assert_eq!(params.size, Some(1 << 40));
        let params = parse(&[("block", "4096"), ("namespaces", "2")]).unwrap();
        assert_eq!(params.namespaces, [NamespaceParams { block_size: 4096, size: None }; 2]);
    }

    #[test]
    fn malformed_values_are_errors_that_list_what_there_is() {
        for (key, value) in [
            ("namespaces", "0"),
            ("namespaces", "1025"),
            ("namespaces", "512"),
            ("namespaces", "512:0"),
            ("namespaces", "1000:1G"),
            ("namespaces", "512:1G,"),
            ("size", "0"),
            ("size", "1X"),
            ("size", "G"),
            ("size", ""),
            ("size", "+1"),
            ("size", "99999999T"),
            ("block", "1024"),
            ("backing", "ramdisk"),
            ("backing", "file:"),
            ("backing", "null:1"),
            ("fault", "x"),
            ("queues", "0"),
            ("queues", "65536"),
            ("entries", "1"),
            ("mdts", "3k"),
            ("mdts", "4k"),
            ("mdts", "64M"),
            ("sgl", "maybe"),
            ("ready-timeout", "1"),
            ("serial", ""),
            ("serial", "123456789012345678901"),
        ] {
            let result = parse(&[(key, value)]);
            let expected = (key, value) == ("namespaces", "512");
            assert_eq!(result.is_ok(), expected, "{key}={value}: {result:?}");
        }
        let error = parse(&[("sizes", "1G")]).unwrap_err().to_string();
        assert!(error.contains("`sizes`") && error.contains("namespaces, size"), "{error}");
        let error = parse(&[("size", "1X")]).unwrap_err().to_string();
        assert!(error.contains("`size=1X`") && error.contains("512M"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_value_is_parsed_without_a_panic(index in 0..PARAMETERS.len(), text in ".*") {
            let _ = Params::default().set(PARAMETERS[index].0, &text);
        }
    }
}
