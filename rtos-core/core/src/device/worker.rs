//! The handle of a device's thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use uniddrv::{Address, Arena};

use super::opener::{Open, Opener};
use super::work::Work;
use super::{DeviceId, DriverId, Event, Settings, Token};

/// A device's thread. Nothing here ever waits: each method is a command that is carried out in
/// its turn, and answered by an [`Event`]. Dropped, the device is closed.
#[derive(Debug)]
pub struct Worker {
    id: DeviceId,
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

/// What the core asks of a worker.
#[derive(Debug)]
pub(super) enum Command {
    Open,
    Serve(DriverId, OwnedFd),
    Activate(DriverId),
    StopServing(DriverId),
    Map(Token, Arc<Arena>),
    Unmap(Token),
    Fence,
    Reset,
    Reopen(Instant),
    Close,
}

/// Where a worker's events go.
pub(super) struct Reports {
    id: DeviceId,
    events: Sender<(DeviceId, Event)>,
    notify: Box<dyn Fn() + Send>,
}

/// The commands that came, and the file that shows that there are some.
pub(super) struct Orders {
    pub(super) commands: Receiver<Command>,
    pub(super) wake: Arc<OwnedFd>,
}

impl Reports {
    pub(super) fn send(&self, event: Event) {
        // Without a receiver the core is ending, and nobody wants to know.
        let _ = self.events.send((self.id, event));
        (self.notify)();
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        if thread::panicking() {
            let reason = "its worker in the core panicked, which is a defect of the core".into();
            self.send(Event::Lost { reason });
        }
        self.send(Event::Closed);
    }
}

impl Worker {
    /// A thread for the device at `address`. Its events go to `events`, with `id`; `notify` is
    /// called after each one.
    ///
    /// # Errors
    /// When no thread or no file descriptor is to be had.
    pub fn spawn(
        id: DeviceId,
        address: Address,
        settings: &Settings,
        notify: impl Fn() + Send + 'static,
        events: Sender<(DeviceId, Event)>,
    ) -> io::Result<Self> {
        let opener = Opener::new(id, &address, settings);
        Self::spawn_with(id, address, Box::new(opener), settings.arena, notify, events)
    }

    pub(super) fn spawn_with(
        id: DeviceId,
        address: Address,
        opener: Box<dyn Open>,
        arena: usize,
        notify: impl Fn() + Send + 'static,
        events: Sender<(DeviceId, Event)>,
    ) -> io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (sender, receiver) = channel();
        let orders = Orders { commands: receiver, wake: wake.clone() };
        let reports = Reports { id, events, notify: Box::new(notify) };
        thread::Builder::new()
            .name(format!("device-{}", id.0))
            .spawn(move || Work::new(address, opener, arena, orders, reports).run())?;
        Ok(Self { id, commands: sender, wake })
    }

    /// The device's number.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// Takes the device, makes the driver's arena and maps it. Answered by `Opened` or `Failed`;
    /// after the latter it can be tried again.
    pub fn open(&self) {
        self.send(Command::Open);
    }

    /// Answers what comes on `socket`, the device socket of a driver process. Two can be
    /// connected at a time; until one is activated it can only wait.
    pub fn serve(&self, driver: DriverId, socket: OwnedFd) {
        self.send(Command::Serve(driver, socket));
    }

    /// From now on this driver process drives, and no other one.
    pub fn activate(&self, driver: DriverId) {
        self.send(Command::Activate(driver));
    }

    /// Disconnects a driver process. Nothing that it wrote and nobody has read is carried out.
    pub fn stop_serving(&self, driver: DriverId) {
        self.send(Command::StopServing(driver));
    }

    /// Lets the device reach a client's arena. Answered by `Mapped` or `MapFailed`.
    pub fn map(&self, arena: Arc<Arena>, token: Token) {
        self.send(Command::Map(token, arena));
    }

    /// Takes a client's arena away from the device. Answered by `Unmapped`; the worker holds the
    /// memory until then, and longer where it says so.
    pub fn unmap(&self, token: Token) {
        self.send(Command::Unmap(token));
    }

    /// Stops the device's DMA, and disarms the driver process that drives: none does until the
    /// next one is activated. A software device is reset too. Answered by `Fenced`.
    pub fn fence(&self) {
        self.send(Command::Fence);
    }

    /// Resets the function. Answered by `WasReset`.
    pub fn reset(&self) {
        self.send(Command::Reset);
    }

    /// Connects again to the server of a software device, which died or is about to: with
    /// retries until `deadline`. A model of the core's own is started again where it ended.
    /// Answered by `Reopened` or `Failed`.
    pub fn reopen(&self, deadline: Instant) {
        self.send(Command::Reopen(deadline));
    }

    /// Fences the device, takes all memory away from it, and lets it go. Answered by `Closed`.
    pub fn close(&self) {
        self.send(Command::Close);
    }

    fn send(&self, command: Command) {
        // A worker that has ended said `Closed`.
        if self.commands.send(command).is_ok() {
            self.wake();
        }
    }

    fn wake(&self) {
        // It fails where the counter is full, that is, where the worker is to wake anyway.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.send(Command::Close);
    }
}
