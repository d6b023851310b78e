//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

use uniddrv::address::{Address, ParseAddressError};

use super::name::{Name, Pattern};
use super::values::{ByteSize, Time};
use crate::cpus::{Cpu, Cpus};

/// Something wrong at one place of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub place: Place,
    /// What stands there, up to the end of the line; empty at the end of the file.
    pub text: String,
    /// What is wrong, and what would be right.
    pub problem: Problem,
}

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line, from 1.
    pub line: u32,
    /// The character in it, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.path.display(), self.place)?;
        if !self.text.is_empty() {
            write!(f, "`{}`: ", self.text)?;
        }
        self.problem.fmt(f)
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is no TOML.
    #[error("not TOML: {0}")]
    Syntax(String),
    /// The key does not exist.
    #[error("{section} has no such key{}; its keys: {}", meant(*near), keys.join(", "))]
    UnknownKey {
        /// The section that the key stands in.
        section: &'static str,
        /// A key that looks like it.
        near: Option<&'static str>,
        /// The keys that there are.
        keys: &'static [&'static str],
    },
    /// The value is of another type.
    #[error("a {found} here; expected {expected}")]
    Kind {
        /// What was expected.
        expected: &'static str,
        /// What stands there.
        found: &'static str,
    },
    /// A needed key is missing.
    #[error("{section} needs {needed}")]
    Missing {
        /// The section.
        section: &'static str,
        /// What it needs, with an example.
        needed: &'static str,
    },
    /// Keys that exclude one another.
    #[error("only one of {0} can stand in an entry")]
    Excluded(&'static str),
    /// A number outside its range.
    #[error("expected a whole number from {least} to {most}")]
    Range {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// No size, or one outside its range.
    #[error("expected a size from {least} to {most}: a number with k, M, G or T, such as \"64M\"")]
    Size {
        /// The least.
        least: ByteSize,
        /// The most.
        most: ByteSize,
    },
    /// No duration, or one outside its range.
    #[error(
        "expected a duration from {least} to {most}: a number with us, ms, s, m or h, such as \"100ms\""
    )]
    Duration {
        /// The least.
        least: Time,
        /// The most.
        most: Time,
    },
    /// No range of durations.
    #[error("expected the first and the longest back-off, such as \"100ms..10s\"")]
    Backoff,
    /// None of the words that are taken.
    #[error("expected one of {0}")]
    Word(&'static str),
    /// No path that can be used.
    #[error("expected {0}")]
    Path(&'static str),
    /// No name of a service.
    #[error("expected a name such as \"nvme:0/ns1\": SCHEME:INSTANCE, perhaps with /PATH")]
    Name,
    /// No pattern of names.
    #[error(
        "expected a name such as \"nvme:0/ns1\", or the beginning of one and a star: \"nvme:0/*\", \"*\""
    )]
    Pattern,
    /// A device's name that names a service of it.
    #[error("a device's name has no path; write \"{instance}\"")]
    NameWithPath {
        /// The name without the path.
        instance: String,
    },
    /// A device's name with a scheme that its driver does not serve.
    #[error("the driver {driver} serves names of the scheme `{scheme}`, such as \"{scheme}:0\"")]
    Scheme {
        /// The driver.
        driver: String,
        /// Its scheme.
        scheme: String,
    },
    /// No driver's name or path.
    #[error("expected a driver's name such as \"nvme\", or the absolute path of a driver program")]
    Driver,
    /// No address of a device.
    #[error("{0}")]
    Address(#[from] ParseAddressError),
    /// An address of a kind that is not served.
    #[error("{0} cannot be served by the core; it serves PCI, vfio-user: and model: addresses")]
    Unserved(Address),
    /// A model that cannot be made.
    #[error("{0}")]
    Model(String),
    /// A match that matches nothing.
    #[error("expected {{ vendor = 0x1b36, device = 0x0010 }} or {{ class = 0x010802 }}")]
    Match,
    /// A device that an earlier entry has.
    #[error("the entry at line {} has this device already; remove one of the two", first.line)]
    SameDevice {
        /// Where the earlier entry stands.
        first: Place,
    },
    /// A name that an earlier device has.
    #[error("the device at line {} is named {name} already; give this one another name", first.line)]
    SameName {
        /// The name.
        name: Name,
        /// Where the earlier entry stands.
        first: Place,
    },
    /// A CPU that another driver spins on.
    #[error(
        "the driver at line {} runs on CPU {cpu} too, and they would take turns; give each a CPU of its own, or both idle = \"sleep\"",
        first.line
    )]
    SameCpu {
        /// The CPU.
        cpu: Cpu,
        /// Where the other entry stands.
        first: Place,
    },
    /// A driver that spins on the core's CPU.
    #[error(
        "the core itself runs on CPU {0}, and a driver that spins would starve it; choose another CPU for one of them"
    )]
    CoreCpu(Cpu),
    /// A CPU that the machine does not have.
    #[error("there is no such CPU; this machine has {online}")]
    NoCpu {
        /// The CPUs that there are.
        online: Cpus,
    },
    /// A CPU that this process may not use.
    #[error("this CPU may not be used here (a cpuset or container says so); CPUs {allowed} may")]
    ForbiddenCpu {
        /// The CPUs that may be used.
        allowed: Cpus,
    },
    /// No user of that name.
    #[error("there is no such user in /etc/passwd; a number can be given as uid = 1000")]
    NoUser,
    /// No group of that name.
    #[error("there is no such group in /etc/group; a number can be given as gid = 1000")]
    NoGroup,
    /// An entry that can never apply.
    #[error(
        "never applies: the entry at line {} is for the same user and covers {pattern}, and the first that fits decides",
        first.line
    )]
    Unreachable {
        /// What this entry is for.
        pattern: Pattern,
        /// Where the earlier entry stands.
        first: Place,
    },
    /// More entries than are taken.
    #[error("more than {most} entries {what}")]
    TooMany {
        /// The entries.
        what: &'static str,
        /// The most.
        most: usize,
    },
    /// The file is too large to be read.
    #[error("the file is larger than {most}; a configuration is not")]
    TooLarge {
        /// The most.
        most: ByteSize,
    },
    /// The file is no text.
    #[error("not UTF-8")]
    NotText,
}

fn meant(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

/// A configuration that could not be read, or is wrong.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// It was read and is wrong: every error of it, in the order of the lines.
    #[error("{}", lines(.0))]
    Wrong(Vec<ConfigError>),
}

fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
