//! What the parts of the event loop share, and what they ask of it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mio::{Registry, Waker};
use uniddrv::Arena;
use uniddrv_abi::message::FromCore;

use crate::attachment::Made;
use crate::config::{Config, DeviceConfig};
use crate::device::{self, DeviceId, DriverId};
use crate::driver::Spawned;
use crate::ids::ClientId;
use crate::mailbox::{Chores, Mailbox};
use crate::partition::Partition;
use crate::program::Program;
use crate::sandbox::Spawner;

/// What comes from other threads.
pub(crate) enum Event {
    /// The memory and the sockets for an open name.
    Made { device: DeviceId, handle: u32, result: Result<Made, String> },
    /// A program was read.
    Loaded { device: DeviceId, result: Result<Arc<Program>, String> },
    /// A driver process was spawned.
    Spawned { device: DeviceId, process: DriverId, result: Result<Spawned, String> },
    /// A process that is ready was put on its CPU, or could not be.
    Placed { device: DeviceId, process: DriverId, result: Result<(), String> },
}

/// What a supervisor wants done outside of its device.
pub(crate) enum Effect {
    /// Answers what a client waits for.
    Answer(ClientId, FromCore),
    /// Answers a client's request to open a name.
    Opened {
        client: ClientId,
        message: FromCore,
        arena: Arc<Arena>,
        memories: Vec<Arc<OwnedFd>>,
        ends: Vec<OwnedFd>,
    },
    /// The arena of a connection is there.
    Arena(ClientId, Arc<Arena>),
    /// What a client has open was taken from it. Its connection stays: what it has at other devices
    /// is nothing that a driver of this one has a say in.
    Taken { client: ClientId, handle: u32, text: String },
    /// The device has a name, or other targets than before.
    Names(DeviceId),
    /// The device has settled: it runs, or it does not and will not by itself.
    Settled,
    /// The device is no longer the core's.
    Gone(DeviceId),
}

/// What does not change while the event loop runs.
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// Where other threads leave what they have done.
    pub(crate) mailbox: Mailbox<Event>,
    /// Where the workers of devices leave what they have done.
    pub(crate) events: Sender<(DeviceId, device::Event)>,
    /// Wakes the event loop.
    pub(crate) waker: Arc<Waker>,
    /// Spawns driver processes; they end when this is dropped.
    pub(crate) spawner: Arc<Spawner>,
    /// Has the spawner spawn, and waits for that.
    pub(crate) midwife: Chores,
    /// Makes memory, gives it back, reads and writes files.
    pub(crate) maker: Chores,
    /// The drivers' CPUs.
    pub(crate) partition: Arc<Mutex<Partition>>,
    /// The folder of reports on deaths.
    pub(crate) reports: PathBuf,
    /// The folder of the sockets of models.
    pub(crate) models: PathBuf,
    /// The program that serves models.
    pub(crate) program: PathBuf,
}

impl Shared {
    /// How a device is held.
    pub(crate) fn device_settings(&self, config: &DeviceConfig) -> device::Settings {
        let arena = usize::try_from(config.memory.bytes()).unwrap_or(usize::MAX);
        let settings = device::Settings::new(arena, self.models.clone());
        device::Settings { program: self.program.clone(), ..settings }
    }
}

/// Which process belongs to which device.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    next: u64,
    devices: HashMap<DriverId, DeviceId>,
}

impl Processes {
    /// A number for a new process of `device`.
    pub(crate) fn add(&mut self, device: DeviceId) -> DriverId {
        self.next += 1;
        let process = DriverId(self.next);
        self.devices.insert(process, device);
        process
    }

    /// Forgets a process.
    pub(crate) fn remove(&mut self, process: DriverId) {
        self.devices.remove(&process);
    }

    /// The device of a process.
    pub(crate) fn device(&self, process: DriverId) -> Option<DeviceId> {
        self.devices.get(&process).copied()
    }
}

/// What is at hand in one turn of the event loop.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) shared: &'a Shared,
    pub(crate) registry: &'a Registry,
    pub(crate) processes: &'a mut Processes,
    pub(crate) effects: &'a mut Vec<Effect>,
}

pub(crate) use uniddrv::clock::monotonic_nanoseconds as monotonic;
