//! The thread of a device.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use uniddrv::device::Identity;
use uniddrv::transport::TransportError;
use uniddrv::{Address, Arena, Transport};

use super::attached::Attached;
use super::domain::Domain;
use super::opener::Open;
use super::seats::{Outcome, Seats};
use super::worker::{Command, Orders, Reports};
use super::{DriverId, Event, Opened, Token};

/// The first and the longest pause between two attempts to connect.
const PAUSE_LEAST: Duration = Duration::from_millis(1);
const PAUSE_MOST: Duration = Duration::from_millis(50);
/// How long the thread waits when the system refuses to tell it what there is to do.
const HICCUP: Duration = Duration::from_millis(10);

/// What the thread works with.
pub(super) struct Work {
    address: Address,
    arena: usize,
    orders: Orders,
    seats: Seats,
    connecting: Option<Connecting>,
    // From here on in the order in which they have to go: the device first, then what it may
    // reach, then the process that serves it, and the last event at the end.
    device: Option<Attached>,
    domain: Domain,
    // What the device was when it was opened first.
    identity: Option<Identity>,
    opener: Box<dyn Open>,
    reports: Reports,
}

/// Attempts to connect.
#[derive(Clone, Copy)]
struct Connecting {
    again: bool,
    deadline: Instant,
    next: Instant,
    pause: Duration,
}

/// An attempt that failed.
struct Failure {
    text: String,
    // Whether trying again has no point.
    is_final: bool,
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        let is_final = matches!(error, TransportError::Unsupported(_));
        Self { text: error.to_string(), is_final }
    }
}

/// What there is to do.
#[derive(Default)]
struct Ready {
    hung_up: bool,
    seats: BTreeSet<DriverId>,
}

impl Work {
    pub(super) fn new(
        address: Address,
        opener: Box<dyn Open>,
        arena: usize,
        orders: Orders,
        reports: Reports,
    ) -> Self {
        Self {
            address,
            arena,
            orders,
            seats: Seats::default(),
            connecting: None,
            device: None,
            domain: Domain::default(),
            identity: None,
            opener,
            reports,
        }
    }

    /// Works until the device is closed.
    pub(super) fn run(mut self) {
        loop {
            let ready = self.wait();
            // Commands come before messages of driver processes: one of them may be that such a
            // process has ended.
            while let Some(command) = self.next_command() {
                if self.execute(command).is_break() {
                    return;
                }
            }
            self.look_for_loss(ready.hung_up);
            for driver in ready.seats {
                self.serve(driver);
            }
            self.connect();
        }
    }

    fn next_command(&self) -> Option<Command> {
        match self.orders.commands.try_recv() {
            Ok(command) => Some(command),
            Err(std::sync::mpsc::TryRecvError::Empty) => None,
            // The handle says so itself before it goes; without it there is nothing to wait for.
            Err(std::sync::mpsc::TryRecvError::Disconnected) => Some(Command::Close),
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> Ready {
        let timeout = self.connecting.map(|connecting| {
            let left = connecting.next.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let present = self.device.as_ref().filter(|device| device.lost.is_none());
        let hang_up = present.and_then(|device| device.transport().hang_up());
        let mut fds = vec![PollFd::new(&*self.orders.wake, PollFlags::IN)];
        let mut drivers = Vec::new();
        for (driver, socket) in self.seats.sockets() {
            drivers.push(driver);
            fds.push(PollFd::from_borrowed_fd(socket, PollFlags::IN));
        }
        let alarms = fds.len();
        fds.extend(hang_up.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)));
        fds.extend(
            present
                .into_iter()
                .flat_map(Attached::alarms)
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ready::default(),
            Err(error) => {
                tracing::warn!(%error, address = %self.address, "poll");
                std::thread::sleep(HICCUP);
                return Ready::default();
            }
        }
        let fired = |fd: &PollFd<'_>| !fd.revents().is_empty();
        // The counter alone tells nothing that the queue of commands does not.
        if fds.first().is_some_and(fired) {
            let _ = rustix::io::read(&*self.orders.wake, &mut [0; 8]);
        }
        let seats = drivers
            .into_iter()
            .zip(fds.iter().skip(1))
            .filter(|(_, fd)| fired(fd))
            .map(|(driver, _)| driver)
            .collect();
        Ready { hung_up: fds.iter().skip(alarms).any(fired), seats }
    }

    fn execute(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Open if self.device.is_some() => {
                self.reports.send(Event::Failed { text: "it is open already".into(), gone: false });
            }
            Command::Open => self.start_connecting(false, Instant::now() + self.opener.patience()),
            Command::Serve(driver, socket) => {
                if let Err(text) = self.seats.add(driver, socket) {
                    self.reports.send(Event::Unserved { driver, reason: Some(text) });
                }
            }
            Command::Activate(driver) => self.seats.activate(driver),
            Command::StopServing(driver) => self.seats.remove(driver),
            Command::Map(token, arena) => self.map(token, arena),
            Command::Unmap(token) => self.unmap(token),
            Command::Fence => self.fence(),
            Command::Reset => self.reset(),
            Command::Reopen(deadline) => self.reopen(deadline),
            Command::Close => {
                self.close();
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// The device, unless it is known to be gone.
    fn present(&self) -> Option<&Attached> {
        self.device.as_ref().filter(|device| device.lost.is_none())
    }

    /// Why there is no device.
    fn absence(&self) -> String {
        match self.device.as_ref().and_then(|device| device.lost.as_deref()) {
            Some(reason) => format!("{} is gone: {reason}", self.address),
            None => format!("{} is not open", self.address),
        }
    }

    fn map(&mut self, token: Token, arena: Arc<Arena>) {
        let mapped = match self.device.as_ref().filter(|device| device.lost.is_none()) {
            Some(device) => self.domain.map(device.transport(), token, arena),
            None => Err(self.absence()),
        };
        self.reports.send(match mapped {
            Ok(iova) => Event::Mapped { token, iova },
            Err(text) => Event::MapFailed { token, text },
        });
        self.look_for_loss(false);
    }

    fn unmap(&mut self, token: Token) {
        let transport = self.device.as_ref().filter(|device| device.lost.is_none());
        let kept = self.domain.unmap(transport.map(Attached::transport), token);
        if let Some(reason) = &kept {
            tracing::warn!(address = %self.address, reason, "a client's memory is kept");
        }
        self.reports.send(Event::Unmapped { token, kept });
        self.look_for_loss(false);
    }

    fn fence(&mut self) {
        self.seats.disarm();
        let fenced = self.present().map_or(Ok(()), Attached::fence);
        if fenced.is_ok()
            && let Some(device) = self.device.as_ref().filter(|device| device.lost.is_none())
        {
            let kept = self.domain.unmap_kept(device.transport());
            if kept > 0 {
                tracing::warn!(address = %self.address, kept, "memory stays kept");
            }
        }
        self.reports.send(Event::Fenced(fenced.map_err(|error| error.to_string())));
        self.look_for_loss(false);
    }

    fn reset(&mut self) {
        let reset = match self.present() {
            Some(device) => device.device.reset().map_err(|error| error.to_string()),
            None => Err(self.absence()),
        };
        self.reports.send(Event::WasReset(reset));
        self.look_for_loss(false);
    }

    /// Tells the core once that the device is gone, if it is: because something `fired` that
    /// tells its end, or because its connection is broken.
    fn look_for_loss(&mut self, fired: bool) {
        let Some(device) = self.device.as_mut().filter(|device| device.lost.is_none()) else {
            return;
        };
        let alarm = if fired { device.alarmed() } else { None };
        // Without a sign of it, a real device would be read to ask.
        let asks = fired || device.transport().hang_up().is_some();
        let lost =
            alarm.map(str::to_owned).or_else(|| asks.then(|| device.device.lost()).flatten());
        if let Some(reason) = lost {
            device.lost = Some(reason.clone());
            self.reports.send(Event::Lost { reason });
        }
    }

    fn serve(&mut self, driver: DriverId) {
        let absence = self.absence();
        let device = self.device.as_ref().filter(|device| device.lost.is_none());
        match self.seats.serve(driver, device.ok_or(&*absence)) {
            Outcome::Answered => {}
            Outcome::Refused(text) => self.reports.send(Event::Refused { driver, text }),
            Outcome::Failed => self.look_for_loss(true),
            Outcome::Left(reason) => self.reports.send(Event::Unserved { driver, reason }),
        }
    }

    fn reopen(&mut self, deadline: Instant) {
        if !self.opener.comes_back() {
            let text = format!("{} does not come back by itself", self.address);
            self.reports.send(Event::Failed { text, gone: true });
            return;
        }
        let reason = "the device was lost, and with it the registers that this process maps";
        for driver in self.seats.remove_all() {
            self.reports.send(Event::Unserved { driver, reason: Some(reason.to_owned()) });
        }
        if let Some(device) = self.present() {
            // It did not hang up, so it hangs: nothing is asked of it any more.
            device.transport().disconnect("it is connected anew");
            self.opener.give_up();
        }
        // A server has one client: the former connection must be no more.
        self.device = None;
        self.start_connecting(true, deadline);
    }

    fn start_connecting(&mut self, again: bool, deadline: Instant) {
        self.connecting =
            Some(Connecting { again, deadline, next: Instant::now(), pause: PAUSE_LEAST });
    }

    /// Tries to connect, if it is time.
    fn connect(&mut self) {
        let now = Instant::now();
        let Some(connecting) = self.connecting.filter(|connecting| connecting.next <= now) else {
            return;
        };
        let left = connecting.deadline.saturating_duration_since(now);
        let limit = if connecting.again { left } else { Duration::MAX };
        let again = connecting.again;
        let failure = match self.opener.open(limit).map_err(Failure::from) {
            Ok(transport) => match self.attach(transport) {
                Ok(opened) => {
                    self.connecting = None;
                    let opened = Box::new(opened);
                    let event = if again { Event::Reopened(opened) } else { Event::Opened(opened) };
                    self.reports.send(event);
                    return;
                }
                Err(failure) => {
                    self.device = None;
                    failure
                }
            },
            Err(failure) => failure,
        };
        let now = Instant::now();
        if failure.is_final || now + connecting.pause >= connecting.deadline {
            self.connecting = None;
            let text = format!("cannot open {}: {}", self.address, failure.text);
            self.reports.send(Event::Failed { text, gone: again });
            return;
        }
        let pause = (connecting.pause * 2).min(PAUSE_MOST);
        self.connecting = Some(Connecting { next: now + connecting.pause, pause, ..connecting });
    }

    fn attach(&mut self, transport: Arc<dyn Transport>) -> Result<Opened, Failure> {
        let device = Attached::new(transport, self.address.clone())?;
        let identity = *self.identity.get_or_insert(device.identity);
        if identity != device.identity {
            let text = format!(
                "another device answers there now: {:x?} instead of {identity:x?}",
                device.identity
            );
            return Err(Failure { text, is_final: true });
        }
        let device = self.device.insert(device);
        let temporary = |text| Failure { text, is_final: false };
        if self.domain.own().is_some() {
            self.domain.map_again(device.transport()).map_err(temporary)?;
        } else {
            let arena = Arena::new(self.arena).map_err(|error| temporary(error.to_string()))?;
            self.domain.map_own(device.transport(), Arc::new(arena)).map_err(temporary)?;
        }
        let own = self.domain.own().ok_or_else(|| temporary("its arena is missing".into()))?;
        Ok(device.opened(own.arena.clone(), own.iova)?)
    }

    fn close(&mut self) {
        self.seats.remove_all();
        self.connecting = None;
        let device = self.device.take();
        let present = device.as_ref().filter(|device| device.lost.is_none());
        if let Some(Err(error)) = present.map(Attached::fence) {
            tracing::warn!(%error, address = %self.address, "not fenced; its memory is unmapped");
        }
        let transport = present.map(Attached::transport);
        let tokens = self.domain.tokens();
        let unmapped: Vec<_> =
            tokens.into_iter().map(|token| (token, self.domain.unmap(transport, token))).collect();
        if let Some(transport) = transport {
            self.domain.unmap_own(transport);
        }
        drop(device);
        // Nothing maps anything any more.
        self.domain = Domain::default();
        for (token, _) in unmapped {
            self.reports.send(Event::Unmapped { token, kept: None });
        }
    }
}
