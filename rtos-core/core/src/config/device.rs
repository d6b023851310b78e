//! `[[device]]`: a device, its driver, and how that runs.

use std::ops::Range;
use std::time::Duration;

use uniddrv::{Address, Match};
use uniddrv_abi::message::Settings;

use super::driver::{DriverChoice, DriverName};
use super::error::{Place, Problem};
use super::machine::Machine;
use super::name::Name;
use super::source::{Found, Section, Source};
use super::values::{ByteSize, Depth, Priority, duration};
use crate::cpus::Cpu;

pub(super) const NAME: &str = "[[device]]";
pub(super) const KEYS: &[&str] = &[
    "address",
    "match",
    "driver",
    "name",
    "cpu",
    "memory",
    "idle",
    "spin",
    "hang",
    "timeout",
    "reconnect",
    "realtime",
    "depth",
    "restart",
];

/// The most entries.
pub(super) const MOST: usize = 256;

/// One device, or all devices that match, and how the driver of each runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Where its entry stands.
    pub place: Place,
    /// Which device.
    pub which: Which,
    /// Its driver.
    pub driver: DriverChoice,
    /// The name of the instance. An entry with a name takes one device: with a match, the first
    /// that is found. Without one, instances are numbered in the order of the entries.
    pub name: Option<Name>,
    /// The CPU that the driver runs on; any without one.
    pub cpu: Option<Cpu>,
    /// Memory for the driver's queues and buffers.
    pub memory: ByteSize,
    /// What the driver does when there is nothing to do.
    pub idle: Idle,
    /// After how long without a sign of life the driver counts as hung.
    pub hang: Duration,
    /// How long the device may take for a command.
    pub timeout: Duration,
    /// How long a vfio-user server may be away.
    pub reconnect: Duration,
    /// The driver's real-time priority, if it is to have one. An ordinary thread on a CPU of its
    /// own is the better choice: Linux stops real-time threads that spin for 5 % of the time.
    pub realtime: Option<Priority>,
    /// Requests in flight in the driver.
    pub depth: Depth,
    /// When the driver is started again after its death.
    pub restart: Restart,
}

/// Which device an entry is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// This one.
    Address(Address),
    /// Those given to the core that match, and that no entry names by address.
    Match(Match),
}

/// What a driver does without work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// It polls on for `spin`, then sleeps until there is some.
    Sleep {
        /// How long it polls on.
        spin: Duration,
    },
    /// It polls for ever.
    Poll,
}

/// When a driver that died is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Deaths with no request completed in between, after which it stays dead.
    pub deaths: u32,
    /// The wait before the second start in a row; doubled each time.
    pub backoff: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self { deaths: 5, backoff: Duration::from_millis(100), longest: Duration::from_secs(10) }
    }
}

impl DeviceConfig {
    /// Polls on for a millisecond, then sleeps.
    pub const DEFAULT_IDLE: Idle = Idle::Sleep { spin: Duration::from_millis(1) };

    /// What holds for a device that no entry is for.
    pub fn unwritten(address: Address) -> Self {
        let driver = default_driver(&address).unwrap_or(DriverChoice::ByClass);
        Self::new(Place { line: 0, column: 0 }, Which::Address(address), driver)
    }

    fn new(place: Place, which: Which, driver: DriverChoice) -> Self {
        Self {
            place,
            which,
            driver,
            name: None,
            cpu: None,
            memory: ByteSize::new(4 << 20),
            idle: Self::DEFAULT_IDLE,
            hang: Duration::from_millis(100),
            timeout: Duration::from_secs(30),
            reconnect: Duration::from_secs(10),
            realtime: None,
            depth: Depth::DEFAULT,
            restart: Restart::default(),
        }
    }

    /// As the driver is told.
    pub fn settings(&self) -> Settings {
        let spin = match self.idle {
            Idle::Sleep { spin } => spin,
            Idle::Poll => Duration::ZERO,
        };
        Settings {
            depth: self.depth.get().into(),
            timeout_ms: self.timeout.as_millis() as u64,
            sleep: self.sleeps(),
            spin_us: spin.as_micros() as u64,
        }
    }

    /// Whether the driver sleeps when there is nothing to do.
    pub fn sleeps(&self) -> bool {
        matches!(self.idle, Idle::Sleep { .. })
    }
}

/// The driver of a model by its kind; others by their class.
fn default_driver(address: &Address) -> Option<DriverChoice> {
    match address {
        Address::Model(model) => DriverName::for_model(&model.kind).map(DriverChoice::Named),
        _ => Some(DriverChoice::ByClass),
    }
}

/// An entry, and where the values stand that other entries are compared with.
pub(super) struct Entry {
    pub(super) device: DeviceConfig,
    pub(super) which: Range<usize>,
    pub(super) name: Range<usize>,
    pub(super) cpu: Range<usize>,
}

/// Reads one entry. `None` without a device, which is reported.
pub(super) fn read(
    section: &Section<'_, '_>,
    machine: &Machine,
    source: &mut Source<'_>,
) -> Option<Entry> {
    // Values are read even where there is no device, so that all errors are found at once.
    let which = which(section, machine, source);
    let driver = section.get("driver", source, |found| DriverChoice::parse(found.string()?));
    let place = source.place(section.span.start);
    let mut device = DeviceConfig::new(
        place,
        which.clone().unwrap_or(Which::Match(Match::class(0))),
        driver.clone().unwrap_or(DriverChoice::ByClass),
    );
    if let (None, Some(which)) = (driver, &which)
        && !section.has("driver")
    {
        match default_choice(which) {
            Some(choice) => device.driver = choice,
            None => section.missing("a driver, as none is known for this model", source),
        }
    }
    device.name = section.get("name", source, |found| name(found.string()?, &device.driver));
    device.cpu = section.get("cpu", source, |found| cpu(found, machine));
    read_running(&mut device, section, source);
    which.is_some().then(|| Entry {
        device,
        which: section.span_of(if section.has("address") { "address" } else { "match" }),
        name: section.span_of("name"),
        cpu: section.span_of("cpu"),
    })
}

fn default_choice(which: &Which) -> Option<DriverChoice> {
    match which {
        Which::Address(address) => default_driver(address),
        Which::Match(Match::Class(class)) => {
            Some(DriverName::for_class(*class).map_or(DriverChoice::ByClass, DriverChoice::Named))
        }
        Which::Match(Match::Device { .. }) => Some(DriverChoice::ByClass),
    }
}

fn which(section: &Section<'_, '_>, machine: &Machine, source: &mut Source<'_>) -> Option<Which> {
    match (section.has("address"), section.has("match")) {
        (true, true) => {
            source.error(&section.span_of("match"), Problem::Excluded("address and match"));
            None
        }
        (true, false) => section.get("address", source, |found| address(found.string()?, machine)),
        (false, true) => {
            const KEYS: &[&str] = &["vendor", "device", "class"];
            let table = section.table("match", "match", KEYS, source)?;
            read_match(&table, source)
        }
        (false, false) => {
            section.missing(
                "an address, such as address = \"0000:03:00.0\", or a match, such as match = { class = 0x010802 }",
                source,
            );
            None
        }
    }
}

fn address(text: &str, machine: &Machine) -> Result<Which, Problem> {
    let address: Address = text.parse()?;
    match &address {
        Address::Model(model) => (machine.check_model)(model).map_err(Problem::Model)?,
        Address::VhostUser(_) => return Err(Problem::Unserved(address)),
        Address::VfioUser(path) if !path.is_absolute() => {
            // Relative to what? The core's folder is not the reader's.
            return Err(Problem::Path("the absolute path of a socket: vfio-user:/run/nvme.sock"));
        }
        Address::VfioUser(_) | Address::Pci(_) => {}
    }
    Ok(Which::Address(address))
}

fn read_match(table: &Section<'_, '_>, source: &mut Source<'_>) -> Option<Which> {
    let vendor = table.get("vendor", source, |found| found.integer(0, 0xffff));
    let device = table.get("device", source, |found| found.integer(0, 0xffff));
    let class = table.get("class", source, |found| found.integer(0, 0xff_ffff));
    match (table.has("vendor"), table.has("device"), table.has("class")) {
        // Each has been reported where it is `None`.
        (true, true, false) => Some(Match::device(vendor? as u16, device? as u16)),
        (false, false, true) => Some(Match::class(class? as u32)),
        _ => {
            source.error(&table.span, Problem::Match);
            None
        }
    }
    .map(Which::Match)
}

fn name(text: &str, driver: &DriverChoice) -> Result<Name, Problem> {
    let name: Name = text.parse()?;
    if !name.path().is_empty() {
        return Err(Problem::NameWithPath { instance: name.instance().to_owned() });
    }
    match driver {
        DriverChoice::Named(driver) if driver.scheme() != name.scheme() => {
            Err(Problem::Scheme { driver: driver.to_string(), scheme: driver.scheme().to_owned() })
        }
        _ => Ok(name),
    }
}

/// A CPU that exists and may be used.
pub(super) fn cpu(found: &Found<'_, '_>, machine: &Machine) -> Result<Cpu, Problem> {
    let missing = || Problem::NoCpu { online: machine.online.clone() };
    let number = found.integer(0, u64::from(u32::MAX))?;
    let cpu = Cpu::new(number as u32).filter(|&cpu| machine.online.contains(cpu));
    let cpu = cpu.ok_or_else(missing)?;
    if !machine.allowed.contains(cpu) {
        return Err(Problem::ForbiddenCpu { allowed: machine.allowed.clone() });
    }
    Ok(cpu)
}

/// How the driver runs.
fn read_running(device: &mut DeviceConfig, section: &Section<'_, '_>, source: &mut Source<'_>) {
    const MILLISECOND: Duration = Duration::from_millis(1);
    const MINUTE: Duration = Duration::from_mins(1);
    const HOUR: Duration = Duration::from_hours(1);
    let memory = (ByteSize::new(1 << 20), ByteSize::new(1 << 40));
    let memory = section.get("memory", source, |found| {
        ByteSize::parse(found.quantity("a size such as \"64M\"")?, memory.0, memory.1)
    });
    let mut time = |key, least, most, value: &mut Duration| {
        let found = section.get(key, source, |found| {
            duration(found.quantity("a duration such as \"100ms\"")?, least, most)
        });
        if let Some(found) = found {
            *value = found;
        }
    };
    let mut spin = MILLISECOND;
    time("spin", Duration::ZERO, MINUTE, &mut spin);
    time("hang", 10 * MILLISECOND, MINUTE, &mut device.hang);
    time("timeout", 100 * MILLISECOND, HOUR, &mut device.timeout);
    time("reconnect", Duration::ZERO, 24 * HOUR, &mut device.reconnect);
    device.memory = memory.unwrap_or(device.memory);
    device.idle = Idle::Sleep { spin };
    let idle = section.get("idle", source, |found| match found.string()? {
        "sleep" => Ok(Idle::Sleep { spin }),
        "poll" => Ok(Idle::Poll),
        _ => Err(Problem::Word("\"sleep\", \"poll\"")),
    });
    if idle == Some(Idle::Poll) && section.has("spin") {
        let problem = Problem::Excluded("spin and idle = \"poll\", which never ends to spin,");
        source.error(&section.span_of("spin"), problem);
    }
    device.idle = idle.unwrap_or(device.idle);
    device.realtime = section.get("realtime", source, realtime).flatten();
    let depth = section.get("depth", source, |found| {
        let depth = found.integer(1, u64::from(Depth::MAX))?;
        Depth::new(depth as u16).ok_or(Problem::Range { least: 1, most: u64::from(Depth::MAX) })
    });
    device.depth = depth.unwrap_or(device.depth);
    if let Some(table) = section.table("restart", "restart", &["deaths", "backoff"], source) {
        read_restart(&mut device.restart, &table, source);
    }
}

fn realtime(found: &Found<'_, '_>) -> Result<Option<Priority>, Problem> {
    if found.is_false() {
        return Ok(None);
    }
    if found.boolean().is_ok() {
        return Err(Problem::Word("false, or a priority from 1 to 99"));
    }
    let priority = found.integer(1, 99)?;
    Ok(Priority::new(priority as u8))
}

fn read_restart(restart: &mut Restart, table: &Section<'_, '_>, source: &mut Source<'_>) {
    let deaths = table.get("deaths", source, |found| found.integer(1, 1_000_000));
    restart.deaths = deaths.map_or(restart.deaths, |deaths| deaths as u32);
    let backoff = table.get("backoff", source, |found| {
        let limits = (Duration::ZERO, Duration::from_hours(1));
        let (first, last) = found.string()?.split_once("..").ok_or(Problem::Backoff)?;
        let time = |text: &str| duration(text.trim(), limits.0, limits.1);
        let (first, last) = (time(first)?, time(last)?);
        if first <= last { Ok((first, last)) } else { Err(Problem::Backoff) }
    });
    if let Some((backoff, longest)) = backoff {
        (restart.backoff, restart.longest) = (backoff, longest);
    }
}
