//! Where a model runs, and how a single command is carried out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use storage_poll::{Command, CommandError, Completed, Controller, IoQueue, Options};
use tempfile::TempDir;
use uniddrv::{Address, Device, DmaBuf};
use uniddrv_models::nvme::{FaultCounts, NvmeModel, Params};
use uniddrv_models::vfio_user::{ServeError, Server};
use uniddrv_models::{Host, Inline};

/// How long anything may take before a test gives up: far more than it does.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Where the model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// In this process: a doorbell returns when its commands are carried out.
    Inline,
    /// Behind a socket, on a thread of its own.
    Served,
}

pub(crate) const GROUNDS: [Ground; 2] = [Ground::Inline, Ground::Served];

/// A model that runs. The device that leads to it has to be dropped first.
pub(crate) enum Model {
    Inline(Arc<Inline<NvmeModel>>),
    Served {
        folder: TempDir,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<(NvmeModel, Result<(), ServeError>)>>,
    },
}

/// A model made like an address says: `namespaces=2&size=1M`.
pub(crate) fn model(parameters: &str) -> NvmeModel {
    let pairs = parameters.split('&').filter_map(|pair| pair.split_once('='));
    NvmeModel::new(Params::from_pairs(pairs).unwrap()).unwrap()
}

impl Model {
    pub(crate) fn start(ground: Ground, parameters: &str) -> Self {
        let mut model = model(parameters);
        if ground == Ground::Inline {
            return Self::Inline(Arc::new(Inline::new(model)));
        }
        let folder = tempfile::tempdir().unwrap();
        let server = Server::bind(&folder.path().join("socket")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::spawn(move || {
            let served = server.run(&mut model, &flag);
            (model, served)
        });
        Self::Served { folder, stop, thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> Address {
        match self {
            Self::Inline(_) => "model:nvme".parse().unwrap(),
            Self::Served { folder, .. } => Address::VfioUser(folder.path().join("socket")),
        }
    }

    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Inline(inline) => Device::new(inline.clone(), self.address()),
            Self::Served { .. } => Device::open(&self.address()).unwrap(),
        }
    }

    pub(crate) fn attach(&self, options: Options) -> Controller {
        Controller::attach_with(self.device(), options).unwrap()
    }

    /// Lets a model in this process go on with what it has delayed.
    pub(crate) fn poll(&self) {
        match self {
            Self::Inline(inline) => {
                inline.poll();
            }
            Self::Served { .. } => std::thread::yield_now(),
        }
    }

    /// The next command that ends, also one that the model delays.
    pub(crate) fn next(&self, queue: &mut IoQueue) -> Completed {
        let mut result = None;
        wait_for("a command ends", || {
            self.poll();
            result = queue.poll();
            result.is_some()
        });
        result.unwrap()
    }

    /// The model itself, in this process.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut NvmeModel, &mut Host) -> R) -> R {
        match self {
            Self::Inline(inline) => inline.with(f),
            Self::Served { .. } => panic!("the model belongs to its server"),
        }
    }

    /// The faults that it has made, at its end.
    pub(crate) fn finish(mut self) -> FaultCounts {
        match &mut self {
            Self::Inline(inline) => inline.with(|model, _| model.fault_counts()),
            Self::Served { stop, thread, .. } => {
                stop.store(true, Ordering::Relaxed);
                let (model, served) = thread.take().unwrap().join().unwrap();
                served.unwrap();
                model.fault_counts()
            }
        }
        .unwrap_or_default()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        if let Self::Served { stop, thread: Some(_), .. } = self {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Carries out one command. How it ended, and its buffer.
pub(crate) fn execute(
    queue: &mut IoQueue,
    command: &Command,
    buffer: Option<DmaBuf>,
) -> (Result<u32, CommandError>, Option<DmaBuf>) {
    let tag = 0x5eed;
    queue.submit(command, buffer, tag).map_err(|(error, _)| error).unwrap();
    let done = next(queue);
    assert_eq!(done.tag, tag);
    (done.result, done.buffer)
}

/// The next command that ends.
pub(crate) fn next(queue: &mut IoQueue) -> Completed {
    let mut result = None;
    wait_for("a command ends", || {
        result = queue.poll();
        result.is_some()
    });
    result.unwrap()
}

/// Waits until `done` says so.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    let mut rounds = 0u32;
    while !done() {
        rounds += 1;
        if rounds.is_multiple_of(64) {
            assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
            // Tests share the machine with each other and with the models that they wait for.
            std::thread::yield_now();
        }
    }
}
