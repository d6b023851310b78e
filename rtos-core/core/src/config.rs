//! The configuration of the core: a TOML file, checked whole before anything is done.
//!
//! ```toml
//! [core]                              # all of it optional
//! socket = "/run/uniddrv/core.sock"
//! cpu = 0                             # the CPU of the core itself
//!
//! [[device]]
//! address = "0000:03:00.0"            # or match = { class = 0x010802 }
//! name = "nvme:0"
//! cpu = 2
//!
//! [[allow]]
//! name = "nvme:0/ns1"                 # or "nvme:0/*"
//! user = "ann"                        # or group, uid, gid
//! rights = "write"
//! ```
//!
//! Of the `[[allow]]` entries the first that fits decides. Root and the user that runs the core
//! may open what no entry decides on; nobody else may.
//!
//! [`Config::parse`] reports all errors at once, each with its line and column. It depends on
//! nothing but its arguments.
//!
//! | file | what it knows |
//! |---|---|
//! | `device`, `driver` | `[[device]]` |
//! | `allow` | `[[allow]]` |
//! | `name` | names of services and patterns of them |
//! | `values` | sizes, durations, priorities |
//! | `machine`, `accounts` | what is checked against: CPUs, users, folders |
//! | `source`, `error` | places in the text, and what is wrong there |

mod accounts;
mod allow;
mod device;
mod driver;
mod error;
mod machine;
mod name;
mod source;
#[cfg(test)]
mod tests;
mod values;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::DeTable;
use uniddrv::Address;
use uniddrv::peer::Peer;

pub use accounts::Accounts;
pub use allow::{Allow, Grant, Limits, Who};
pub use device::{DeviceConfig, Idle, Restart, Which};
pub use driver::{DriverChoice, DriverName};
pub use error::{ConfigError, LoadError, Place, Problem};
pub use machine::Machine;
pub use name::{DISK, Name, Pattern};
pub use uniddrv_abi::message::Rights;
pub use values::{ByteSize, Depth, Priority, Time};

use crate::cpus::{Cpu, Cpus};
use device::Entry;
use source::{Found, Section, Source};

/// The most bytes of a configuration file.
const MAX_FILE: u64 = 1 << 20;

/// What the core is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The core itself.
    pub core: CoreConfig,
    /// The devices, in the order of the file.
    pub devices: Vec<DeviceConfig>,
    /// Who may open what, in the order of the file.
    pub allow: Vec<Allow>,
    /// What is allowed, and hardly meant.
    pub warnings: Vec<ConfigError>,
    /// The user that runs the core.
    pub owner: u32,
}

/// `[core]`: the core itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreConfig {
    /// The socket that it listens on.
    pub socket: PathBuf,
    /// The CPU that it runs on; any without one.
    pub cpu: Option<Cpu>,
    /// Whether arenas are made of huge pages, as far as there are any.
    pub huge_pages: bool,
    /// Whether a driver is refused that cannot be sandboxed.
    pub require_sandbox: bool,
    /// Where driver programs are.
    pub drivers: PathBuf,
}

impl Config {
    /// What holds without a configuration file.
    pub fn unwritten(machine: &Machine) -> Self {
        Self {
            core: CoreConfig::unwritten(machine),
            devices: Vec::new(),
            allow: Vec::new(),
            warnings: Vec::new(),
            owner: machine.uid,
        }
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// When it cannot be read, or is wrong.
    pub fn load(path: &Path, machine: &Machine) -> Result<Self, LoadError> {
        let read = |error| LoadError::Read { path: path.into(), error };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(read)?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(read)?;
        let too_large = bytes.len() as u64 > MAX_FILE;
        let whole = |problem| {
            let place = Place { line: 1, column: 1 };
            LoadError::Wrong(vec![ConfigError {
                path: path.into(),
                place,
                text: String::new(),
                problem,
            }])
        };
        if too_large {
            return Err(whole(Problem::TooLarge { most: ByteSize::new(MAX_FILE) }));
        }
        let text = String::from_utf8(bytes).map_err(|_| whole(Problem::NotText))?;
        Self::parse(&text, path, machine).map_err(LoadError::Wrong)
    }

    /// Understands the text of a configuration file; `path` is for messages alone.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the lines.
    pub fn parse(text: &str, path: &Path, machine: &Machine) -> Result<Self, Vec<ConfigError>> {
        let mut source = Source::new(text, path);
        let (document, syntax) = DeTable::parse_recoverable(text);
        for error in syntax {
            let span = error.span().unwrap_or(text.len()..text.len());
            source.error(&span, Problem::Syntax(error.message().to_owned()));
        }
        // What was made of a broken text is not worth a second opinion.
        if !source.errors.is_empty() {
            return Err(sorted(source.errors));
        }
        let config = read(document.get_ref(), machine, &mut source);
        if !source.errors.is_empty() {
            return Err(sorted(source.errors));
        }
        Ok(Self { warnings: sorted(source.warnings), ..config })
    }

    /// What `peer` may do with `name`: what the first entry says that fits; else everything for
    /// root and for the user that runs the core, and nothing for others.
    pub fn grant(&self, name: &Name, peer: &Peer) -> Option<Grant> {
        let entry = self.allow.iter().find(|entry| entry.fits(name, peer));
        let all = Grant { rights: Rights::Write, limits: Limits::NONE };
        entry.map(|entry| entry.grant).or_else(|| self.rules(peer).then_some(all))
    }

    /// Whether `peer` may give the core orders: root, and the user that runs it.
    pub fn rules(&self, peer: &Peer) -> bool {
        peer.uid == 0 || peer.uid == self.owner
    }

    /// The CPUs that drivers run on.
    pub fn driver_cpus(&self) -> Cpus {
        self.devices.iter().filter_map(|device| device.cpu).collect()
    }

    /// The entry of a device, by its address.
    pub fn device(&self, address: &Address) -> Option<&DeviceConfig> {
        let is_it = |which: &Which| matches!(which, Which::Address(this) if this == address);
        self.devices.iter().find(|device| is_it(&device.which))
    }
}

impl CoreConfig {
    fn unwritten(machine: &Machine) -> Self {
        Self {
            socket: machine.socket(),
            cpu: None,
            huge_pages: true,
            require_sandbox: true,
            drivers: machine.program_folder.clone(),
        }
    }
}

fn sorted(mut errors: Vec<ConfigError>) -> Vec<ConfigError> {
    errors.sort_by_key(|error| error.place);
    errors
}

fn read(document: &DeTable<'_>, machine: &Machine, source: &mut Source<'_>) -> Config {
    let keys = &["core", "device", "allow"];
    let top = Section::new(document, 0..0, "a configuration", keys, source);
    let mut config = Config::unwritten(machine);
    let keys = &["socket", "cpu", "huge_pages", "require_sandbox", "drivers"];
    let core = top.table("core", "[core]", keys, source);
    if let Some(core) = &core {
        read_core(&mut config.core, core, machine, source);
    }
    let entries: Vec<Entry> = top
        .tables("device", device::NAME, device::KEYS, device::MOST, source)
        .iter()
        .filter_map(|section| device::read(section, machine, source))
        .collect();
    check_devices(&entries, &config.core, source);
    config.devices = entries.into_iter().map(|entry| entry.device).collect();
    for section in top.tables("allow", allow::NAME, allow::KEYS, allow::MOST, source) {
        if let Some(entry) = allow::read(&section, machine, source) {
            check_allow(&entry, &config.allow, &section, source);
            config.allow.push(entry);
        }
    }
    config
}

fn read_core(
    config: &mut CoreConfig,
    section: &Section<'_, '_>,
    machine: &Machine,
    source: &mut Source<'_>,
) {
    config.cpu = section.get("cpu", source, |found| device::cpu(found, machine));
    if let Some(socket) = section.get("socket", source, |found| socket_path(found)) {
        config.socket = socket;
    }
    if let Some(drivers) = section.get("drivers", source, |found| {
        absolute(found).ok_or(Problem::Path("the absolute path of the folder of driver programs"))
    }) {
        config.drivers = drivers;
    }
    let mut flag = |key, value: &mut bool| {
        *value = section.get(key, source, Found::boolean).unwrap_or(*value);
    };
    flag("huge_pages", &mut config.huge_pages);
    flag("require_sandbox", &mut config.require_sandbox);
}

fn absolute(found: &Found<'_, '_>) -> Option<PathBuf> {
    let path = found.string().ok().filter(|text| !text.contains('\0')).map(PathBuf::from)?;
    path.is_absolute().then_some(path)
}

/// A path that fits into a socket's address. unix(7): 108 bytes with the final zero.
fn socket_path(found: &Found<'_, '_>) -> Result<PathBuf, Problem> {
    found.string()?;
    absolute(found)
        .filter(|path| path.as_os_str().len() <= 107 && path.file_name().is_some())
        .ok_or(Problem::Path("the absolute path of a socket, of 107 bytes at most"))
}

/// What is wrong between devices.
fn check_devices(entries: &[Entry], core: &CoreConfig, source: &mut Source<'_>) {
    for (index, entry) in entries.iter().enumerate() {
        let device = &entry.device;
        let earlier = || entries.iter().take(index).map(|entry| &entry.device);
        // Models are made anew for each entry.
        let is_made = matches!(&device.which, Which::Address(Address::Model(_)));
        if let Some(first) = earlier().find(|first| first.which == device.which && !is_made) {
            source.error(&entry.which, Problem::SameDevice { first: first.place });
        }
        if let Some(name) = &device.name
            && let Some(first) = earlier().find(|first| first.name.as_ref() == Some(name))
        {
            let problem = Problem::SameName { name: name.clone(), first: first.place };
            source.error(&entry.name, problem);
        }
        let Some(cpu) = device.cpu else { continue };
        let rival =
            earlier().find(|first| first.cpu == Some(cpu) && !(first.sleeps() && device.sleeps()));
        if let Some(first) = rival {
            source.warning(&entry.cpu, Problem::SameCpu { cpu, first: first.place });
        }
        if core.cpu == Some(cpu) && !device.sleeps() {
            source.warning(&entry.cpu, Problem::CoreCpu(cpu));
        }
    }
}

/// What is wrong between an entry and earlier ones.
fn check_allow(
    entry: &Allow,
    earlier: &[Allow],
    section: &Section<'_, '_>,
    source: &mut Source<'_>,
) {
    if let Some(first) = earlier.iter().find(|first| first.includes(entry)) {
        let problem = Problem::Unreachable { pattern: entry.pattern.clone(), first: first.place };
        source.warning(&section.span, problem);
    }
}
