//! The event loop: waits for whatever happens, and has it dealt with. It never blocks.
//!
//! Ends of driver processes come first in each turn, since clients wait for their successors.
//! There is a timeout only while some driver is awake, something is to be tried again, or an
//! answer is awaited.

mod effects;
mod guests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc::Receiver;
use std::sync::{Once, PoisonError};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use uniddrv::Address;
use uniddrv::device::Identity;
use uniddrv::sysfs::{PciFunction, Sysfs};

use crate::clients::Clients;
use crate::config::DeviceConfig;
use crate::context::{Context, Effect, Event, Processes, Shared};
use crate::core::{Milestone, OnMilestone};
use crate::device::{self, Assignments, DeviceId};
use crate::ids::Source;
use crate::names::Names;
use crate::placement::Placement;
use crate::signals::Signals;
use crate::socket::Listener;
use crate::supervise::Supervisor;

/// File descriptors that are kept for a device and its drivers.
const FILES_OF_DEVICE: usize = 32;
/// How long the end of all drivers and devices may take.
const END: Duration = Duration::from_secs(45);

/// The event loop, and all that it knows.
pub(crate) struct EventLoop {
    pub(crate) shared: Shared,
    pub(crate) now: Instant,
    pub(crate) clients: Clients,
    pub(crate) names: Names,
    pub(crate) supervisors: BTreeMap<DeviceId, Supervisor>,
    pub(crate) sysfs: Sysfs,
    poll: Poll,
    listener: Listener,
    signals: Option<Signals>,
    letters: Receiver<Event>,
    events: Receiver<(DeviceId, device::Event)>,
    assignments: Assignments,
    pub(crate) placement: Placement,
    processes: Processes,
    effects: Vec<Effect>,
    more_guests: bool,
    /// Whether a driver polls.
    polling: bool,
    next_handle: u32,
    next_device: u32,
    told: OnMilestone,
    ready: bool,
    /// Since when it ends.
    ending: Option<Instant>,
}

/// What an event loop is made from.
pub(crate) struct Parts {
    pub(crate) shared: Shared,
    pub(crate) poll: Poll,
    pub(crate) listener: Listener,
    pub(crate) signals: Option<Signals>,
    pub(crate) letters: Receiver<Event>,
    pub(crate) events: Receiver<(DeviceId, device::Event)>,
    pub(crate) sysfs: Sysfs,
    pub(crate) told: OnMilestone,
}

impl EventLoop {
    /// An event loop that waits for clients.
    ///
    /// # Errors
    /// Where something cannot be waited for: ENOMEM, ENOSPC.
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let Parts { shared, poll, listener, signals, letters, events, sysfs, told } = parts;
        let watch = |fd: i32, source: Source| {
            poll.registry().register(&mut SourceFd(&fd), source.token(), Interest::READABLE)
        };
        watch(listener.as_fd().as_raw_fd(), Source::Listener)?;
        if let Some(signals) = &signals {
            watch(signals.as_fd().as_raw_fd(), Source::Signals)?;
        }
        let placement = Placement::new(&shared.config);
        Ok(Self {
            shared,
            now: Instant::now(),
            clients: Clients::new(),
            names: Names::default(),
            supervisors: BTreeMap::new(),
            assignments: Assignments::new(sysfs.clone()),
            sysfs,
            poll,
            listener,
            signals,
            letters,
            events,
            placement,
            processes: Processes::default(),
            effects: Vec::new(),
            more_guests: true,
            polling: false,
            next_handle: 0,
            next_device: 0,
            told,
            ready: false,
            ending: None,
        })
    }

    /// Takes a device, to be driven as `config` says.
    ///
    /// # Errors
    /// In words, when somebody else has it.
    pub(crate) fn take(
        &mut self,
        address: &Address,
        mut config: DeviceConfig,
    ) -> Result<DeviceId, String> {
        if self.ending.is_some() {
            return Err("the core is ending".into());
        }
        if config.cpu.is_none() {
            config.cpu = self.placement.next();
        }
        self.next_device += 1;
        let id = DeviceId(self.next_device);
        // Models are new devices each time.
        if !matches!(address, Address::Model(_)) {
            let driver = config.driver.to_string();
            let assigned = self.assignments.assign(address, &driver);
            assigned.map_err(|error| error.to_string())?;
        }
        let mut cx = Context {
            now: self.now,
            shared: &self.shared,
            registry: self.poll.registry(),
            processes: &mut self.processes,
            effects: &mut self.effects,
        };
        match Supervisor::new(id, address.clone(), config, &mut cx) {
            Ok(supervisor) => {
                self.supervisors.insert(id, supervisor);
                self.claim_name(id);
                Ok(id)
            }
            Err(text) => {
                self.assignments.revoke(address);
                Err(text)
            }
        }
    }

    /// Gives a device its name: the configuration's, or a number as soon as its scheme is known.
    fn claim_name(&mut self, id: DeviceId) {
        let Some(supervisor) = self.supervisors.get_mut(&id) else { return };
        let scheme = supervisor.scheme();
        if supervisor.name.is_none() && scheme.is_none() {
            return;
        }
        let scheme = scheme.unwrap_or_default();
        match self.names.claim(id, supervisor.name.as_ref(), &scheme) {
            Ok(name) => supervisor.name = Some(name),
            Err(text) => {
                supervisor.name = None;
                tracing::error!(address = %supervisor.address, "{text}");
                self.with(id, |supervisor, cx| supervisor.stop(text, cx));
            }
        }
    }

    /// Does something with a device.
    pub(crate) fn with<T>(
        &mut self,
        device: DeviceId,
        what: impl FnOnce(&mut Supervisor, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let supervisor = self.supervisors.get_mut(&device)?;
        let mut cx = Context {
            now: self.now,
            shared: &self.shared,
            registry: self.poll.registry(),
            processes: &mut self.processes,
            effects: &mut self.effects,
        };
        Some(what(supervisor, &mut cx))
    }

    /// A handle that is not in use.
    pub(crate) fn free_handle(&mut self) -> u32 {
        loop {
            self.next_handle = self.next_handle.wrapping_add(1);
            let handle = self.next_handle;
            let used = |one: &Supervisor| one.attachments.contains_key(&handle);
            if handle != 0 && !self.supervisors.values().any(used) {
                return handle;
            }
        }
    }

    /// File descriptors that devices, drivers and what clients have open take.
    pub(crate) fn files_used(&self) -> usize {
        let devices = self.supervisors.len() * FILES_OF_DEVICE;
        let attachments = self.supervisors.values().flat_map(|one| one.attachments.values());
        let open = attachments.map(|one| 1 + 3 * usize::from(one.request.queues));
        devices + open.sum::<usize>()
    }

    /// Waits and does what is to be done, until the core is to end and has.
    ///
    /// # Errors
    /// Where waiting fails.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            self.settle_effects();
            if self.ending.is_some() && self.supervisors.is_empty() {
                return Ok(());
            }
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.now = Instant::now();
            self.turn(&events);
            if self.ending.is_some_and(|since| self.now - since > END) {
                tracing::error!("drivers or devices do not end, and are left");
                return Ok(());
            }
        }
    }

    fn turn(&mut self, events: &Events) {
        let sources = || events.iter().map(|event| Source::from_token(event.token()));
        for source in sources() {
            if let Source::End(process) = source
                && let Some(device) = self.processes.device(process)
            {
                self.with(device, |supervisor, cx| supervisor.ended(process, cx));
            }
        }
        for event in events {
            match Source::from_token(event.token()) {
                Source::End(_) => {}
                Source::Control(process) => {
                    if let Some(device) = self.processes.device(process) {
                        self.with(device, |supervisor, cx| supervisor.listen(process, cx));
                    }
                }
                Source::Wake(handle) => {
                    let mut all = self.supervisors.values_mut();
                    let its = all.find(|one| one.attachments.contains_key(&handle));
                    if let Some(supervisor) = its {
                        supervisor.is_woken(handle, self.now, self.poll.registry());
                    }
                }
                Source::Mailbox => self.read_letters(),
                Source::Signals => self.read_signals(),
                Source::Listener => self.more_guests = true,
                Source::Client(client) => {
                    // It may be gone while an answer is awaited.
                    let gone = event.is_read_closed();
                    if gone && self.clients.get(client).is_some_and(|one| one.waits) {
                        self.let_out(client);
                    } else if let Some(connection) = self.clients.get_mut(client) {
                        connection.unread = true;
                    }
                }
            }
        }
        self.let_in();
        for client in self.clients.unread() {
            self.listen(client);
        }
        let unread: Vec<_> = self.supervisors.values().flat_map(Supervisor::unread).collect();
        for process in unread {
            if let Some(device) = self.processes.device(process) {
                self.with(device, |supervisor, cx| supervisor.listen(process, cx));
            }
        }
        self.look_at_the_clock();
        self.keep_awake();
    }

    /// While a driver polls, no CPU sleeps deeply.
    fn keep_awake(&mut self) {
        let polling = self.supervisors.values().any(Supervisor::polls);
        if polling == self.polling {
            return;
        }
        self.polling = polling;
        let partition = self.shared.partition.clone();
        self.shared.maker.run(move || {
            let mut partition = partition.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(shortfall) = partition.set_polling(polling) {
                static TOLD: Once = Once::new();
                TOLD.call_once(|| tracing::warn!("{shortfall}"));
            }
        });
    }

    fn timeout(&self) -> Option<Duration> {
        let unread = self.more_guests
            || !self.clients.unread().is_empty()
            || self.supervisors.values().any(|one| !one.unread().is_empty());
        if unread {
            return Some(Duration::ZERO);
        }
        let devices = self.supervisors.values().filter_map(Supervisor::next_deadline);
        let end = self.ending.map(|since| since + END + Duration::from_millis(1));
        let next = devices.chain(self.clients.next_deadline()).chain(end).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn look_at_the_clock(&mut self) {
        let now = self.now;
        let due = |one: &&Supervisor| one.next_deadline().is_some_and(|deadline| deadline <= now);
        let due: Vec<DeviceId> = self.supervisors.values().filter(due).map(|one| one.id).collect();
        for device in due {
            self.with(device, Supervisor::tick);
        }
        self.clients.iter_mut().for_each(|one| one.forgive(now));
        for client in self.clients.silent(now) {
            tracing::debug!(%client, "a client did not say hello");
            self.let_out(client);
        }
    }

    fn read_letters(&mut self) {
        while let Ok(event) = self.letters.try_recv() {
            match event {
                Event::Made { device, handle, result } => {
                    self.with(device, |supervisor, cx| supervisor.made(handle, result, cx));
                }
                Event::Loaded { device, result } => {
                    self.with(device, |supervisor, cx| supervisor.loaded(result, cx));
                }
                Event::Spawned { device, process, result } => {
                    self.with(device, |supervisor, cx| supervisor.spawned(process, result, cx));
                }
                Event::Placed { device, process, result } => {
                    self.with(device, |supervisor, cx| supervisor.placed(process, result, cx));
                }
            }
        }
        while let Ok((device, event)) = self.events.try_recv() {
            self.with(device, |supervisor, cx| supervisor.told(event, cx));
            if self.supervisors.get(&device).is_some_and(|one| one.name.is_none()) {
                self.claim_name(device);
            }
        }
    }

    fn read_signals(&mut self) {
        if self.signals.as_mut().is_some_and(Signals::came) {
            self.stop("a signal asked for it");
        }
    }

    /// Ends everything. The second time, without waiting for drivers to shut down.
    pub(crate) fn stop(&mut self, why: &str) {
        tracing::info!("ending: {why}");
        let again = self.ending.is_some();
        if !again {
            (self.told)(Milestone::Ending);
        }
        self.ending.get_or_insert(self.now);
        let all: Vec<DeviceId> = self.supervisors.keys().copied().collect();
        for device in all {
            self.with(device, |supervisor, cx| {
                if again {
                    supervisor.hurry();
                } else {
                    supervisor.remove(None, "the core ends", cx);
                }
            });
        }
    }

    /// Says that all devices of the configuration were taken.
    pub(crate) fn all_taken(&mut self) {
        self.settle_effects();
        self.look_whether_ready();
    }
}

/// What Linux knows of a function without opening it.
pub(crate) fn identity(function: &PciFunction) -> Identity {
    let class = function.class.code();
    Identity { vendor: function.vendor, device: function.device, class, revision: 0 }
}
