//! The core as a whole: what it is made of, in which order it comes up, and how it ends.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use mio::{Poll, Waker};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use uniddrv::Address;
use uniddrv::process::set_fifo;
use uniddrv::sysfs::{Sysfs, VFIO_PCI};
use uniddrv_abi::message::Name;

use crate::config::{Config, Which};
use crate::context::Shared;
use crate::event_loop::{EventLoop, Parts, identity};
use crate::ids::Source;
use crate::mailbox::{Chores, Mailbox};
use crate::partition::{Partition, Shortfall, Wants};
use crate::placement::Placement;
use crate::sandbox::{SpawnError, Spawner};
use crate::signals::Signals;
use crate::socket::{Listener, Lock, SocketError, beside};

/// How a core is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the machine's tree (`sys`, `proc`, `run`) is: `/`, but in tests.
    pub root: PathBuf,
    /// Devices beside those of the configuration.
    pub devices: Vec<Address>,
    /// The program that is the sandbox's launcher, and that serves models. It begins with
    /// [`launch_if_asked`](crate::sandbox::launch_if_asked) and has the subcommand `model`.
    pub program: PathBuf,
    /// Whether SIGTERM and SIGINT end the core cleanly.
    pub signals: bool,
}

impl Default for Options {
    /// This machine, this program, and signals.
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
            devices: Vec::new(),
            program: PathBuf::from("/proc/self/exe"),
            signals: true,
        }
    }
}

/// A core that could not be run.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// It cannot listen.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// It cannot spawn driver processes.
    #[error(transparent)]
    Spawner(#[from] SpawnError),
    /// The system refused something.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What came back.
        #[source]
        error: io::Error,
    },
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> CoreError {
    move |error| CoreError::System { what, error }
}

/// The one privileged process: it owns devices, memory, CPUs and names, and supervises drivers.
pub struct Core {
    event_loop: EventLoop,
    partition: Arc<Mutex<Partition>>,
    shortfalls: Vec<Shortfall>,
    matching: Vec<Address>,
    options: Options,
}

/// What whoever runs a core may want to know.
#[derive(Clone, Copy, Debug)]
pub enum Milestone<'a> {
    /// Every device of the configuration runs, or cannot: the names that there are.
    Ready(&'a [Name]),
    /// It was told to end.
    Ending,
}

/// What is called at each milestone.
pub type OnMilestone = Box<dyn FnMut(Milestone<'_>)>;

impl Core {
    /// A core that listens at its socket and has nothing yet.
    ///
    /// # Errors
    /// When another core runs, or the system refuses something.
    pub fn new(config: Config, options: Options, told: OnMilestone) -> Result<Self, CoreError> {
        let socket = config.core.socket.clone();
        let lock = Lock::take(&socket)?;
        raise_locked_memory();
        let (partition, shortfalls) =
            Partition::take(&options.root, &beside(&socket, "partition"), &Wants::of(&config));
        let partition = Arc::new(Mutex::new(partition));
        let poll = Poll::new().map_err(failed("wait for events"))?;
        let waker = Waker::new(poll.registry(), Source::Mailbox.token());
        let waker = Arc::new(waker.map_err(failed("wait for events"))?);
        let (mailbox, letters) = Mailbox::new(waker.clone());
        let (sender, events) = channel();
        let reports = beside(&socket, "deaths");
        let models = beside(&socket, "models");
        for folder in [&reports, &models] {
            make_folder(folder).map_err(failed("make a folder beside the socket"))?;
        }
        let sysfs = Sysfs::new(&options.root);
        let shared = Shared {
            mailbox,
            events: sender,
            waker,
            spawner: Arc::new(Spawner::with_launcher(&options.program)?),
            midwife: Chores::start("midwife").map_err(failed("start a thread"))?,
            maker: Chores::start("maker").map_err(failed("start a thread"))?,
            partition: partition.clone(),
            reports,
            models,
            program: options.program.clone(),
            config,
        };
        let matching = bound(&shared.config, &sysfs);
        let signals = options.signals.then(Signals::catch).transpose();
        let signals = signals.map_err(failed("catch signals"))?;
        let listener = Listener::with_lock(&socket, lock)?;
        let parts = Parts { shared, poll, listener, signals, letters, events, sysfs, told };
        let event_loop = EventLoop::new(parts).map_err(failed("wait for events"))?;
        Ok(Self { event_loop, partition, shortfalls, matching, options })
    }

    /// What of the partition could not be had, to be told once.
    pub fn shortfalls(&self) -> &[Shortfall] {
        &self.shortfalls
    }

    /// Runs until it is told to end: by a signal, or by a client that may. Drivers have shut their
    /// devices down then, and the devices are fenced and let go.
    ///
    /// # Errors
    /// Where waiting for events fails.
    pub fn run(mut self) -> Result<(), CoreError> {
        leave_to_drivers(&self.event_loop.shared.config, &self.event_loop.placement);
        let configured = self.event_loop.shared.config.devices.clone();
        let entries = configured.iter().filter_map(|entry| match &entry.which {
            Which::Address(address) => Some((address.clone(), entry.clone())),
            Which::Match(_) => None,
        });
        let mut taken: Vec<_> = entries.collect();
        for address in self.options.devices.iter().chain(&self.matching) {
            taken.push((address.clone(), self.event_loop.device_config(address)));
        }
        for (address, config) in taken {
            if let Err(text) = self.event_loop.take(&address, config) {
                tracing::error!(%address, "{text}");
            }
        }
        self.event_loop.all_taken();
        let result = self.event_loop.run().map_err(failed("wait for events"));
        drop(self.event_loop);
        drop(self.partition);
        result
    }
}

/// The functions that `uniddrv bind` gave away and an entry of the configuration matches, unless
/// one names it.
fn bound(config: &Config, sysfs: &Sysfs) -> Vec<Address> {
    let matches: Vec<_> = config
        .devices
        .iter()
        .filter_map(|entry| match &entry.which {
            Which::Match(wanted) => Some(*wanted),
            Which::Address(_) => None,
        })
        .collect();
    if matches.is_empty() {
        return Vec::new();
    }
    let functions = sysfs.functions().unwrap_or_default();
    let ours = functions.iter().filter(|one| one.driver.as_deref() == Some(VFIO_PCI));
    ours.filter(|one| matches.iter().any(|wanted| wanted.includes(&identity(one))))
        .map(|one| Address::Pci(one.address))
        .filter(|address| config.device(address).is_none())
        .collect()
}

fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(path)?;
            if metadata.is_dir() { Ok(()) } else { Err(error) }
        }
        other => other,
    }
}

/// Raises the limit on locked memory as far as it may be: no driver process gets more than that.
/// One without the privilege for it keeps what it has, which the partition has told.
fn raise_locked_memory() {
    let Rlimit { current, .. } = getrlimit(Resource::Memlock);
    if let Err(error) = setrlimit(Resource::Memlock, Rlimit { current, maximum: None }) {
        tracing::debug!("the limit on locked memory stays: {error}");
    }
}

/// Takes the core's threads off the drivers' CPUs, and lets the calling one run at once when
/// something happens, even where clients spin.
fn leave_to_drivers(config: &Config, placement: &Placement) {
    let drivers = config.driver_cpus().union(&placement.cpus());
    let affinity = || -> io::Result<()> {
        let mut others = sched_getaffinity(None)?;
        drivers.iter().for_each(|cpu| others.unset(cpu.number() as usize));
        // Processes that the others start begin there too. On a single CPU they would wait
        // behind this thread.
        if others.count() > 1 {
            confine_threads(&others)?;
        }
        if let Some(cpu) = config.core.cpu {
            others = CpuSet::new();
            others.set(cpu.number() as usize);
        }
        if others.count() == 0 { Ok(()) } else { Ok(sched_setaffinity(None, &others)?) }
    };
    if let Err(error) = affinity() {
        tracing::warn!("cannot keep the core off the drivers' CPUs {drivers}: {error}");
    }
    if let Err(error) = set_fifo(gettid(), 1) {
        tracing::info!(
            "the core has no real-time priority, and may be late where CPUs are busy: {error}"
        );
    }
}

/// Confines all threads of this process to `cpus`.
fn confine_threads(cpus: &CpuSet) -> io::Result<()> {
    for thread in fs::read_dir("/proc/self/task")?.flatten() {
        let number = thread.file_name().to_str().and_then(|name| name.parse().ok());
        match sched_setaffinity(number.and_then(Pid::from_raw), cpus) {
            // It has ended.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
