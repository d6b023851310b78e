//! `uniddrv core` and `uniddrv core check`.

mod run;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use uniddrv::address::ModelAddress;
use uniddrv::sysfs::Sysfs;
use uniddrv::{Address, Match};
use uniddrv_core::config::{
    Allow, Config, ConfigError, DeviceConfig, DriverChoice, DriverName, Idle, Limits, LoadError,
    Machine, Priority, Rights, Which, Who,
};
use uniddrv_core::cpus::Cpu;
use uniddrv_core::partition;
use uniddrv_core::program::Program;
use uniddrv_models::{Edu, nvme};

use crate::Context;
use crate::error::Failure;
use crate::output::{Table, warn};

/// Run the one process with privileges, which owns devices and runs their drivers
///
/// In the foreground, until Ctrl-C. Drivers are processes of their own; programs open devices by
/// names such as nvme:0/ns1. Logs go to standard error; UNIDDRV_LOG=debug says more.
#[derive(Debug, clap::Args)]
#[command(subcommand_precedence_over_arg = true)]
pub(crate) struct Core {
    /// Devices beside those of the configuration: 0000:03:00.0, vfio-user:/run/nvme.sock,
    /// model:nvme?size=1G
    #[arg(value_name = "DEVICE")]
    devices: Vec<String>,

    /// Log more; twice: everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,

    /// The configuration [default: /etc/uniddrv/core.toml for root, else uniddrv/core.toml in the
    /// user's folder of configurations; without that file, none]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Check the configuration, and show what would run where
    ///
    /// Prints every error with its file, line and column. Exit status 1 where there is one.
    Check,
}

/// What a configuration was read from, and what came of it.
pub(crate) struct Loaded {
    /// The file; `None` where there is none, so that the defaults hold.
    pub(crate) path: Option<PathBuf>,
    pub(crate) machine: Machine,
    pub(crate) result: Result<Config, LoadError>,
}

/// Reads the configuration that the user names, or else the one in its usual place.
pub(crate) fn load(context: &Context, given: Option<&Path>) -> Loaded {
    let root = &context.root;
    let machine = Machine::read(root, &partition::held(root), check_model);
    let usual = || {
        let path = machine.config_path();
        let below = path.strip_prefix("/").map(|below| root.join(below)).unwrap_or(path);
        // One that is there and cannot be read is no reason to go without.
        below.symlink_metadata().is_ok().then_some(below)
    };
    let path = given.map(Path::to_owned).or_else(usual);
    let result = match &path {
        Some(path) => Config::load(path, &machine),
        None => Ok(Config::unwritten(&machine)),
    };
    Loaded { path, machine, result }
}

/// What is wrong with a model's address.
fn check_model(model: &ModelAddress) -> Result<(), String> {
    let pairs = model.parameters.iter().map(|(key, value)| (&**key, &**value));
    match model.kind.as_str() {
        "nvme" => nvme::Params::from_pairs(pairs).map(drop).map_err(|error| error.to_string()),
        "edu" => Edu::with_parameters(&model.parameters).map(drop).map_err(|e| e.to_string()),
        kind => Err(format!("there is no model `{kind}`; there are: nvme, edu")),
    }
}

impl Core {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.what {
            None => run::run(context, self.config.as_deref(), &self.devices, self.verbose),
            Some(What::Check) if !self.devices.is_empty() => {
                let text = "`check` is for the configuration, and takes no devices";
                Err(Failure::usage(anyhow::Error::msg(text)))
            }
            Some(What::Check) => check(context, self.config.as_deref()),
        }
    }
}

fn check(context: &Context, given: Option<&Path>) -> Result<(), Failure> {
    let Loaded { path, machine, result } = load(context, given);
    let named = path.as_ref().map(|path| path.display().to_string());
    let (mut config, mut problems) = match result {
        Ok(config) => (Some(config), Vec::new()),
        Err(LoadError::Wrong(errors)) => (None, errors.iter().map(Problem::from).collect()),
        Err(error @ LoadError::Read { .. }) => return Err(error.into()),
    };
    if let Some(config) = &mut config {
        choose_drivers(config, context);
        problems.extend(missing_drivers(config, context, named.as_deref()));
    }
    let warnings = config.as_ref().map(|config| warnings(config, context)).unwrap_or_default();
    let report = Report::new(named, config.as_ref(), &machine, problems, warnings);
    for warning in &report.warnings {
        warn(warning);
    }
    if report.ok {
        return context.out.data(&report, || report.text());
    }
    // As JSON the problems are data; else they are messages.
    context.out.data(&report, || {
        for problem in &report.errors {
            anstream::eprintln!("{}", problem.message);
        }
        String::new()
    })?;
    let count = report.errors.len();
    let errors = if count == 1 { "error" } else { "errors" };
    let place = report.file.as_deref().unwrap_or("the defaults");
    Err(Failure::new(format!("{count} {errors} in {place}")))
}

/// An error in the JSON output.
#[derive(Serialize)]
struct Problem {
    line: u32,
    column: u32,
    message: String,
}

impl From<&ConfigError> for Problem {
    fn from(error: &ConfigError) -> Self {
        let (line, column) = (error.place.line, error.place.column);
        Self { line, column, message: error.to_string() }
    }
}

/// Drivers by class, where the class can be seen already.
fn choose_drivers(config: &mut Config, context: &Context) {
    let sysfs = Sysfs::new(&context.root);
    for device in &mut config.devices {
        if let (DriverChoice::ByClass, Which::Address(Address::Pci(address))) =
            (&device.driver, &device.which)
            && let Ok(function) = sysfs.function(*address)
            && let Some(driver) = DriverName::for_class(function.class.code())
        {
            device.driver = DriverChoice::Named(driver);
        }
    }
}

/// Devices without a driver, and driver programs that cannot be run, each told once.
fn missing_drivers(config: &Config, context: &Context, file: Option<&str>) -> Vec<Problem> {
    let sysfs = Sysfs::new(&context.root);
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for device in &config.devices {
        let what = match device.driver.program(&config.core.drivers) {
            Some(path) if seen.insert(path.clone()) => {
                Program::load(&path).err().map(|error| error.to_string())
            }
            Some(_) => None,
            None => match device.which {
                Which::Address(Address::Pci(address)) => sysfs.function(address).ok().map(|found| {
                    let class = found.class;
                    format!("{address}: no driver is known for {class}; name one by driver = \"...\"")
                }),
                _ => None,
            },
        };
        if let Some(what) = what {
            let (line, column) = (device.place.line, device.place.column);
            let message = format!("{}:{line}:{column}: {what}", file.unwrap_or_default());
            problems.push(Problem { line, column, message });
        }
    }
    problems
}

fn warnings(config: &Config, context: &Context) -> Vec<String> {
    let mut warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    let sysfs = Sysfs::new(&context.root);
    for device in &config.devices {
        if let Which::Address(Address::Pci(address)) = device.which
            && let Err(error) = sysfs.function(address)
        {
            warnings.push(format!("line {}: {error}", device.place.line));
        }
    }
    warnings
}

/// What would run where: the JSON output.
#[derive(Serialize)]
struct Report {
    file: Option<String>,
    ok: bool,
    socket: Option<String>,
    cpu: Option<u32>,
    devices: Vec<DeviceRow>,
    allow: Vec<AllowRow>,
    errors: Vec<Problem>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct DeviceRow {
    name: Option<String>,
    device: String,
    driver: String,
    cpu: Option<u32>,
    idle: &'static str,
    memory: u64,
    realtime: Option<u8>,
}

#[derive(Serialize)]
struct AllowRow {
    name: String,
    who: String,
    rights: &'static str,
    limits: Option<String>,
}

impl Report {
    fn new(
        file: Option<String>,
        config: Option<&Config>,
        machine: &Machine,
        errors: Vec<Problem>,
        warnings: Vec<String>,
    ) -> Self {
        let devices = config.map(|config| config.devices.as_slice()).unwrap_or_default();
        let mut allow: Vec<_> = config
            .map(|config| config.allow.as_slice())
            .unwrap_or_default()
            .iter()
            .map(|entry| AllowRow::new(entry, machine))
            .collect();
        if let Some(config) = config {
            let owner = user(config.owner, machine);
            let who = if config.owner == 0 { owner } else { format!("user root, {owner}") };
            allow.push(AllowRow { name: "*".into(), who, rights: "write", limits: None });
        }
        Self {
            file,
            ok: errors.is_empty(),
            socket: config.map(|config| config.core.socket.display().to_string()),
            cpu: config.and_then(|config| config.core.cpu).map(Cpu::number),
            devices: devices.iter().map(DeviceRow::from).collect(),
            allow,
            errors,
            warnings,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let file = self.file.as_deref().unwrap_or("no configuration, so the defaults hold");
        let socket = self.socket.as_deref().unwrap_or_default();
        let cpu = self.cpu.map_or("any CPU".into(), |cpu| format!("CPU {cpu}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{file}: nothing is wrong");
        let _ = writeln!(text, "the core runs on {cpu} and listens on {socket}\n");
        let mut devices = Table::new(&["NAME", "DEVICE", "DRIVER", "CPU", "IDLE", "MEMORY"]);
        for device in &self.devices {
            devices.row([
                device.name.clone().unwrap_or("numbered".into()),
                device.device.clone(),
                device.driver.clone(),
                device.cpu.map_or("any".into(), |cpu| cpu.to_string()),
                device.idle.into(),
                uniddrv_core::config::ByteSize::new(device.memory).to_string(),
            ]);
        }
        if self.devices.is_empty() {
            text.push_str("no devices yet: `uniddrv bind` gives the core one\n");
        } else {
            text.push_str(&devices.render());
        }
        let mut allow = Table::new(&["NAMES", "WHO", "RIGHTS", "LIMITS"]);
        for entry in &self.allow {
            let limits = entry.limits.clone().unwrap_or_default();
            allow.row([entry.name.clone(), entry.who.clone(), entry.rights.into(), limits]);
        }
        text.push('\n');
        text.push_str(&allow.render());
        text
    }
}

impl From<&DeviceConfig> for DeviceRow {
    fn from(device: &DeviceConfig) -> Self {
        let which = match &device.which {
            Which::Address(address) => address.to_string(),
            Which::Match(Match::Device { vendor, device }) => format!("{vendor:04x}:{device:04x}"),
            Which::Match(Match::Class(class)) => format!("class {class:06x}"),
        };
        Self {
            name: device.name.as_ref().map(ToString::to_string),
            device: which,
            driver: device.driver.to_string(),
            cpu: device.cpu.map(Cpu::number),
            idle: match device.idle {
                Idle::Sleep { .. } => "sleep",
                Idle::Poll => "poll",
            },
            memory: device.memory.bytes(),
            realtime: device.realtime.map(Priority::get),
        }
    }
}

impl AllowRow {
    fn new(entry: &Allow, machine: &Machine) -> Self {
        let who = match entry.who {
            Who::Everyone => "everyone".to_owned(),
            Who::User(uid) => user(uid, machine),
            Who::Group(gid) => match machine.accounts.group_name(gid) {
                Some(name) => format!("group {name}"),
                None => format!("group {gid}"),
            },
        };
        let limits = limits(&entry.grant.limits);
        Self {
            name: entry.pattern.to_string(),
            who,
            rights: match entry.grant.rights {
                Rights::Read => "read",
                Rights::Write => "write",
            },
            limits: (!limits.is_empty()).then(|| limits.join(", ")),
        }
    }
}

fn user(uid: u32, machine: &Machine) -> String {
    match machine.accounts.user_name(uid) {
        Some(name) => format!("user {name}"),
        None => format!("user {uid}"),
    }
}

fn limits(limits: &Limits) -> Vec<String> {
    let weight = (limits.weight != Limits::NONE.weight).then_some(limits.weight);
    [
        limits.in_flight.map(|count| format!("{count} in flight")),
        limits.iops.map(|count| format!("{count} IOPS")),
        limits.bytes_per_second.map(|size| format!("{size}/s")),
        limits.queues.map(|count| format!("{count} queues")),
        limits.memory.map(|size| format!("{size} of memory")),
        weight.map(|weight| format!("weight {weight}")),
    ]
    .into_iter()
    .flatten()
    .collect()
}
