//! What the tests of this folder share: servers, workers, and the driver's end of a socket.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::SendFlags;
use tempfile::TempDir;
use uniddrv::control::{Control, pair};
use uniddrv::vfio_user::Timeouts;
use uniddrv::{Address, Arena};
use uniddrv_abi::message::{FromDevice, ToDevice};
use uniddrv_models::vfio_user::Server;
use uniddrv_models::{NvmeModel, nvme};

use super::opener::Open;
use super::{DeviceId, DriverId, Event, Opened, Settings, Token, Worker};

/// Longer than anything here takes on the slowest machine.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// A server of an NVMe model on a thread of its own.
pub(super) struct Served {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Serves the model with `parameters` at `path`.
    pub(super) fn new(path: &Path, parameters: &[(&str, &str)]) -> Self {
        let params = nvme::Params::from_pairs(parameters.iter().copied()).unwrap();
        let mut model = NvmeModel::new(params).unwrap();
        let server = Server::bind(path).unwrap().yielding();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = Some(thread::spawn(move || server.run(&mut model, &seen).unwrap()));
        Self { stop, thread }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

/// A worker, and what it says.
pub(super) struct Bench {
    pub(super) worker: Worker,
    pub(super) events: Receiver<(DeviceId, Event)>,
    pub(super) notified: Arc<AtomicU32>,
}

impl Bench {
    /// A worker for the server at `path`.
    pub(super) fn new(path: &Path) -> Self {
        Self::of(Address::VfioUser(path.to_owned()))
    }

    pub(super) fn of(address: Address) -> Self {
        let mut settings = Settings::new(1, PathBuf::from("/nowhere"));
        settings.timeouts =
            Timeouts { exchange: Duration::from_secs(20), slow: Duration::from_secs(20) };
        let (events, receiver) = channel();
        let notified = Arc::new(AtomicU32::new(0));
        let count = notified.clone();
        let notify = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let worker = Worker::spawn(DeviceId(3), address, &settings, notify, events).unwrap();
        Self { worker, events: receiver, notified }
    }

    /// A worker for whatever `opener` opens.
    pub(super) fn with(opener: Box<dyn Open>) -> Self {
        let (events, receiver) = channel();
        let address = "0000:03:00.0".parse().unwrap();
        let id = DeviceId(3);
        let worker = Worker::spawn_with(id, address, opener, 1, || {}, events).unwrap();
        Self { worker, events: receiver, notified: Arc::default() }
    }

    /// The next event.
    pub(super) fn next(&self) -> Event {
        let (id, event) = self.events.recv_timeout(PATIENCE).unwrap();
        assert_eq!(id, DeviceId(3));
        event
    }

    pub(super) fn opened(&self) -> Opened {
        match self.next() {
            Event::Opened(opened) => *opened,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn reopened(&self) -> Opened {
        match self.next() {
            Event::Reopened(opened) => *opened,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn open(&self) -> Opened {
        self.worker.open();
        self.opened()
    }

    pub(super) fn map(&self, arena: &Arc<Arena>, token: u64) -> u64 {
        self.worker.map(arena.clone(), Token(token));
        match self.next() {
            Event::Mapped { token: mapped, iova } if mapped == Token(token) => iova,
            other => panic!("{other:?}"),
        }
    }

    /// Connects a driver process, which drives from now on.
    pub(super) fn drive(&self, driver: u64) -> Process {
        let process = self.wait_to_drive(driver);
        self.worker.activate(DriverId(driver));
        process
    }

    /// Connects a driver process, which waits.
    pub(super) fn wait_to_drive(&self, driver: u64) -> Process {
        let (ours, theirs) = pair().unwrap();
        self.worker.serve(DriverId(driver), theirs);
        Process(Control::new(ours))
    }

    /// The text with which driver `driver` was refused something.
    pub(super) fn refused(&self, driver: u64) -> String {
        match self.next() {
            Event::Refused { driver: refused, text } if refused == DriverId(driver) => text,
            other => panic!("{other:?}"),
        }
    }

    /// Why driver `driver` is connected no longer.
    pub(super) fn unserved(&self, driver: u64) -> Option<String> {
        match self.next() {
            Event::Unserved { driver: left, reason } if left == DriverId(driver) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// Closes the device: every event until the last.
    pub(super) fn close(&self) -> Vec<Event> {
        self.worker.close();
        let mut events = Vec::new();
        loop {
            match self.next() {
                Event::Closed => return events,
                event => events.push(event),
            }
        }
    }
}

/// A driver process's end of its device socket.
pub(super) struct Process(pub(super) Control);

impl Process {
    pub(super) fn ask(&mut self, question: &ToDevice) -> FromDevice {
        self.0.ask(question, PATIENCE).unwrap().0
    }

    pub(super) fn read32(&mut self, offset: u64) -> u32 {
        match self.ask(&ToDevice::ReadBar { bar: 0, offset, len: 4 }) {
            FromDevice::Data(data) => u32::from_le_bytes(data.try_into().unwrap()),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn write32(&mut self, offset: u64, value: u32) {
        let data = value.to_le_bytes().to_vec();
        assert_eq!(self.ask(&ToDevice::WriteBar { bar: 0, offset, data }), FromDevice::Done);
    }

    /// Asks what is refused: why.
    pub(super) fn refused(&mut self, question: &ToDevice) -> String {
        match self.ask(question) {
            FromDevice::Refused { gone: false, text } => text,
            other => panic!("{question:?}: {other:?}"),
        }
    }

    /// Why the device is gone.
    pub(super) fn gone(&mut self, question: &ToDevice) -> String {
        match self.ask(question) {
            FromDevice::Refused { gone: true, text } => text,
            other => panic!("{question:?}: {other:?}"),
        }
    }

    /// Sends bytes that need not be a message.
    pub(super) fn send(&self, bytes: &[u8]) {
        rustix::net::send(self.0.as_fd(), bytes, SendFlags::NOSIGNAL).unwrap();
    }
}

/// A folder with a place for a socket.
pub(super) fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    (folder, socket)
}
