//! The CPUs and memory that the core holds.
//!
//! | file | what it knows |
//! |---|---|
//! | `cgroup` | the control group whose CPUs are the drivers' alone |
//! | `interrupts` | interrupts that go to other CPUs |
//! | `limits` | huge pages, locked memory, real-time threads: what is checked, not changed |
//! | `state` | what is to be put back, in a file that outlives the core |
//! | `kernel` | everything that changes the machine, as a trait |
//! | `shortfall` | what could not be had |
//!
//! All of it works below a root folder, `/` or a test's. What was changed is put back when the
//! partition is dropped, or by the next core at the same socket where this one was killed.

mod cgroup;
mod interrupts;
mod kernel;
mod limits;
mod shortfall;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::config::{Config, Which};
use crate::cpus::{Cpu, Cpus};
use cgroup::Hierarchy;
use interrupts::Interrupts;
use kernel::{Kernel, Linux};
use state::State;

pub use cgroup::Kind;
pub use shortfall::Shortfall;

/// What a configuration needs of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The CPUs that drivers alone run on.
    pub cpus: Cpus,
    /// Bytes in huge pages; 0 where none are wanted.
    pub huge: u64,
    /// Bytes that devices reach through VFIO.
    pub locked: u64,
    /// Whether a driver has a real-time priority.
    pub real_time: bool,
}

impl Wants {
    /// What `config` needs. Clients' memory is not known yet and not counted.
    pub fn of(config: &Config) -> Self {
        let bytes = |counts: fn(&Which) -> bool| {
            let devices = config.devices.iter().filter(|device| counts(&device.which));
            devices.fold(0_u64, |sum, device| sum.saturating_add(device.memory.bytes()))
        };
        let is_vfio = |which: &Which| {
            matches!(which, Which::Match(_) | Which::Address(uniddrv::Address::Pci(_)))
        };
        Self {
            // One that the core runs on cannot be kept from it.
            cpus: config.driver_cpus().without(&config.core.cpu.into_iter().collect()),
            huge: if config.core.huge_pages { bytes(|_| true) } else { 0 },
            locked: bytes(is_vfio),
            real_time: config.devices.iter().any(|device| device.realtime.is_some()),
        }
    }
}

/// The CPUs that are the drivers', and what else was changed on the machine for them.
#[derive(Debug)]
pub struct Partition {
    root: PathBuf,
    /// The file of `state`.
    record: PathBuf,
    state: State,
    hierarchy: Option<Hierarchy>,
    kind: Kind,
    cpus: Cpus,
    /// `/dev/cpu_dma_latency`, open while a driver polls.
    latency: Option<File>,
    kernel: Box<dyn Kernel>,
}

impl Partition {
    /// Takes what `wants` names from the machine whose tree is below `root`, after putting back
    /// what a core that was killed has left behind. `record` is a file beside the core's socket,
    /// whose lock the caller holds.
    ///
    /// Nothing of it is indispensable: what could not be had is in the list.
    pub fn take(root: &Path, record: &Path, wants: &Wants) -> (Self, Vec<Shortfall>) {
        Self::take_by(Box::new(Linux), root, record, wants)
    }

    fn take_by(
        mut kernel: Box<dyn Kernel>,
        root: &Path,
        record: &Path,
        wants: &Wants,
    ) -> (Self, Vec<Shortfall>) {
        let mut shortfalls: Vec<_> =
            clean_up(kernel.as_mut(), root, record).err().into_iter().collect();
        let mut partition = Self {
            root: root.to_owned(),
            record: record.to_owned(),
            state: State { boot: boot(root), ..State::default() },
            hierarchy: None,
            kind: Kind::Affinity,
            cpus: wants.cpus.clone(),
            latency: None,
            kernel,
        };
        // With the record of a dead core still there, another one would bury what it says.
        if !wants.cpus.is_empty() && shortfalls.is_empty() {
            partition.isolate(&mut shortfalls);
        }
        shortfalls.extend(limits::check(root, wants));
        (partition, shortfalls)
    }

    /// The CPUs of the drivers, and of no one else.
    fn isolate(&mut self, shortfalls: &mut Vec<Shortfall>) {
        let cpus = &self.cpus;
        let online = fs::read_to_string(self.root.join("sys/devices/system/cpu/online"));
        let online = online.ok().and_then(|text| text.parse::<Cpus>().ok()).unwrap_or_default();
        let shared = format!("other programs may run on CPUs {cpus} and disturb the drivers");
        let hierarchy = match Hierarchy::find(&self.root) {
            Ok(hierarchy) => Some(hierarchy),
            Err(why) => {
                let mend = format!(
                    "boot with `systemd.unified_cgroup_hierarchy=1`, or with `isolcpus=managed_irq,domain,{cpus}`"
                );
                shortfalls.push(Shortfall::new(&shared, why, mend));
                None
            }
        };
        self.state.interrupts = Interrupts::plan(&self.root, cpus, &online);
        if let Some(hierarchy) = &hierarchy {
            self.state.group = Some(cgroup::group_name(std::process::id()));
            self.state.enabled = !hierarchy.has_cpuset();
        }
        if let Err(error) = self.kernel.keep(&self.record, &self.state.to_text()) {
            let why = format!("{}: {error}", self.record.display());
            let mend = "the core changes nothing that it could not put back after being killed; give it a socket in a folder that it can write to";
            shortfalls.push(Shortfall::new(shared, why, mend));
            self.state.interrupts = Interrupts::default();
            self.state.group = None;
            return;
        }
        if let Some(hierarchy) = hierarchy {
            self.make_group(hierarchy, shared, shortfalls);
        }
        let stayed = self.state.interrupts.apply(&self.root, &self.cpus, self.kernel.as_mut());
        if let Some(error) = stayed.error {
            let cpus = &self.cpus;
            let numbers: Vec<_> = stayed.numbers.iter().map(ToString::to_string).collect();
            let which = match numbers.as_slice() {
                [] => "new interrupts".to_owned(),
                numbers => format!("interrupts {}", numbers.join(", ")),
            };
            shortfalls.push(Shortfall::new(
                format!("{which} may come to CPUs {cpus}"),
                error,
                privileged(&self.root).unwrap_or_else(|| {
                    format!("Linux manages some itself: boot with `isolcpus=managed_irq,{cpus}`")
                }),
            ));
        }
    }

    fn make_group(
        &mut self,
        hierarchy: Hierarchy,
        shared: String,
        shortfalls: &mut Vec<Shortfall>,
    ) {
        let kernel = self.kernel.as_mut();
        let name = self.state.group.clone().unwrap_or_default();
        match hierarchy.make(&name, &self.cpus, self.state.enabled, kernel) {
            Ok(kind) => {
                if kind == Kind::Root {
                    shortfalls.push(Shortfall::new(
                        format!("Linux's scheduler looks after CPUs {}", self.cpus),
                        "the control group could not be `isolated`, only a `root` of its own",
                        "use Linux 6.1 or newer",
                    ));
                }
                self.kind = kind;
                self.hierarchy = Some(hierarchy);
            }
            Err(why) => {
                let mend = privileged(&self.root).unwrap_or_else(|| {
                    "leave Linux a CPU, and take these from the other control groups' cpuset.cpus".to_owned()
                });
                shortfalls.push(Shortfall::new(shared, why, mend));
                // What was made of it holds nobody back, but it would be found by the next core.
                if let Err(error) = hierarchy.unmake(&name, self.state.enabled, kernel) {
                    tracing::warn!("cannot remove the control group {name}: {error}");
                }
            }
        }
    }

    /// How the drivers' CPUs are kept from others.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The drivers' CPUs.
    pub fn cpus(&self) -> &Cpus {
        &self.cpus
    }

    /// Puts a process on `cpu`. A CPU of the partition takes in nobody else: the process joins
    /// the control group first.
    ///
    /// # Errors
    /// ESRCH for a process that has ended; EINVAL for a CPU that it may not use.
    pub fn place(&mut self, process: u32, cpu: Cpu) -> io::Result<()> {
        if let (Some(hierarchy), Some(group)) = (&self.hierarchy, &self.state.group)
            && self.cpus.contains(cpu)
        {
            hierarchy.join(group, process, self.kernel.as_mut())?;
        }
        self.kernel.pin(process, cpu)
    }

    /// Says whether a driver polls now: as long as one does, no CPU may sleep so deeply that it
    /// takes time to wake. Linux's Documentation/power/pm_qos_interface.rst.
    ///
    /// # Errors
    /// When that could not be had. Asking again is no use.
    pub fn set_polling(&mut self, polling: bool) -> Result<(), Shortfall> {
        if !polling {
            self.latency = None;
            return Ok(());
        }
        if self.latency.is_some() {
            return Ok(());
        }
        let path = self.root.join("dev/cpu_dma_latency");
        let opened = self.kernel.open(&path).and_then(|mut file| {
            // A latency of 0 us, as long as the file is open.
            file.write_all(&0_i32.to_ne_bytes()).map(|()| file)
        });
        match opened {
            Ok(file) => {
                self.latency = Some(file);
                Ok(())
            }
            Err(error) => Err(Shortfall::new(
                "CPUs may sleep deeply while drivers wait for devices",
                format!("{}: {error}", path.display()),
                privileged(&self.root)
                    .unwrap_or_else(|| "use a kernel with CONFIG_CPU_IDLE".to_owned()),
            )),
        }
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.latency = None;
        if self.state.group.is_none() && self.state.interrupts == Interrupts::default() {
            return;
        }
        if let Err(error) = undo(self.kernel.as_mut(), &self.root, &self.record, &self.state) {
            tracing::warn!("cannot put back what was changed for CPUs {}: {error}", self.cpus);
        }
    }
}

/// The CPUs that cores hold on the machine below `root`: they are missing from what other
/// programs may use.
pub fn held(root: &Path) -> Cpus {
    Hierarchy::find(root).map(|hierarchy| hierarchy.held()).unwrap_or_default()
}

/// Puts back what a core that was killed has left behind.
fn clean_up(kernel: &mut dyn Kernel, root: &Path, record: &Path) -> Result<(), Shortfall> {
    let failed = |error: io::Error| {
        Shortfall::new(
            "CPUs and interrupts are as an earlier core left them",
            format!("{}: {error}", record.display()),
            privileged(root).unwrap_or_else(|| {
                "end what runs in the control group /sys/fs/cgroup/uniddrv-*, and start again"
                    .to_owned()
            }),
        )
    };
    let text = match File::open(record) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(file) => {
            let mut text = String::new();
            file.take(state::MOST).read_to_string(&mut text).map_err(failed)?;
            text
        }
    };
    match State::parse(&text) {
        // Nothing of another boot is left.
        Some(state) if state.boot == boot(root) => {
            undo(kernel, root, record, &state).map_err(failed)
        }
        Some(_) => kernel.forget(record).map_err(failed),
        None => {
            tracing::warn!("{} is no record of a partition; removing it", record.display());
            kernel.forget(record).map_err(failed)
        }
    }
}

/// Puts everything back, and forgets the record when that was done.
fn undo(kernel: &mut dyn Kernel, root: &Path, record: &Path, state: &State) -> io::Result<()> {
    let group = match (&state.group, Hierarchy::find(root)) {
        (Some(group), Ok(hierarchy)) => hierarchy.unmake(group, state.enabled, kernel),
        _ => Ok(()),
    };
    let interrupts = state.interrupts.undo(root, kernel);
    group.and(interrupts)?;
    kernel.forget(record)
}

/// What identifies this boot.
fn boot(root: &Path) -> String {
    let text = fs::read_to_string(root.join("proc/sys/kernel/random/boot_id"));
    let text = text.unwrap_or_default();
    let id = text.trim();
    if id.is_empty() || id.contains(char::is_whitespace) { "unknown".into() } else { id.into() }
}

/// What helps where something was refused to a process that is not root's.
fn privileged(root: &Path) -> Option<String> {
    /// The bit of CAP_SYS_ADMIN.
    const SYS_ADMIN: u64 = 1 << 21;
    (!limits::has_capability(root, SYS_ADMIN)).then(|| "run the core as root".to_owned())
}
