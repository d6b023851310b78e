//! A device and its drivers: one that runs it, one that waits to take over.
//!
//! Everything that happens changes what is wanted or what there is; [`Supervisor::advance`] then
//! does whatever leads from the one to the other. What is urgent, a successor's taking over, is
//! done before anything else (`succession`).
//!
//! | file | what it does |
//! |---|---|
//! | `succession` | a driver process has ended: the next one, at once |
//! | `hearing` | what driver processes say |
//! | `watch` | heartbeats, progress and deadlines |
//! | `opening` | clients' names: opening, closing, revoking |
//! | `spawning` | processes, until they wait to take over |
//! | `reports` | what is told of deaths |
//! | `ending` | drivers, clients and device let go, in that order |
//! | `orders` | restart, upgrade, kill, remove, stop |
//! | `holding` | what the worker of the device says |
//! | `status` | what is told of it all |

mod ending;
mod hearing;
mod holding;
mod opening;
mod orders;
mod reports;
mod spawning;
mod status;
mod succession;
mod watch;

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uniddrv::Address;
use uniddrv_abi::message::{Beginning, Death, FromCore, Refusal, Target};

use crate::attachment::{Attachments, Numbers};
use crate::config::{DeviceConfig, DriverChoice, DriverName, Name};
use crate::context::{Context, Effect, Event};
use crate::death::{Cause, Report};
use crate::device::{DeviceId, DriverId, Opened, Worker};
use crate::driver::Process;
use crate::ids::ClientId;
use crate::ledger::{LedgerMemory, Totals};
use crate::program::Program;
use watch::Watch;

pub(crate) use status::Snapshot;

/// How long a device may take to come up, beside what its commands may take.
const BRING_UP: Duration = Duration::from_secs(150);
/// How long a hand-over may take that somebody asked for.
const HAND_OVER: Duration = Duration::from_mins(1);
/// A driver that ran for so long did not fail for what its predecessors died of.
const LONG: Duration = Duration::from_mins(5);

/// What is wanted of a device and its drivers.
#[derive(Debug)]
pub(crate) enum State {
    /// The worker opens the device.
    Opening,
    /// A driver is to run.
    Serving,
    /// The device's server is away, and awaited.
    Away,
    /// Drivers and clients have to end first.
    Ending {
        /// What follows.
        then: Then,
        /// How far that is.
        step: Step,
    },
    /// No driver runs, until somebody asks for it.
    Stopped(String),
    /// The device is let go.
    Gone,
}

/// What follows once drivers and clients have ended.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    /// The device stays, and waits for `restart`.
    Stop(String),
    /// It is let go.
    Go(String),
}

/// How far an ending is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Processes are to end.
    Processes,
    /// The device's DMA is being stopped.
    Fencing,
    /// Arenas are being unmapped.
    Unmapping,
    /// The device is being let go.
    Closing,
}

/// A beginning that a successor is to make.
#[derive(Clone, Copy, Debug)]
struct Pending {
    how: Beginning,
    not_before: Option<Instant>,
}

/// A hand-over that somebody asked for.
#[derive(Debug)]
struct HandOver {
    client: Option<ClientId>,
    cause: Cause,
    program: Arc<Program>,
    quiesced: bool,
    deadline: Instant,
}

/// An upgrade whose program is being read, and who waits for it.
#[derive(Debug)]
struct Upgrade {
    client: Option<ClientId>,
}

/// A spawning under way.
#[derive(Debug)]
struct Spawning {
    process: DriverId,
    unwanted: bool,
}

/// A device and its drivers.
pub(crate) struct Supervisor {
    pub(crate) id: DeviceId,
    pub(crate) name: Option<Name>,
    pub(crate) address: Address,
    pub(crate) config: DeviceConfig,
    pub(crate) state: State,
    pub(crate) targets: Vec<Target>,
    pub(crate) attachments: Attachments,
    kind: String,
    identity: Vec<u8>,
    worker: Worker,
    held: Option<Box<Opened>>,
    program: Option<Arc<Program>>,
    loading: bool,
    ledger: Option<LedgerMemory>,
    active: Option<Process>,
    successor: Option<Process>,
    ending: Vec<Process>,
    spawning: Option<Spawning>,
    /// When a process may be spawned again, after one that did not get ready.
    spawn_after: Option<Instant>,
    /// Processes in a row that did not get ready.
    stillborn: u32,
    pending: Option<Pending>,
    hand_over: Option<HandOver>,
    /// A program is being read for an upgrade.
    upgrade: Option<Upgrade>,
    /// Who waits for the device to run, or to be gone.
    waiting: Vec<ClientId>,
    numbers: Numbers,
    watch: Watch,
    scramble: bool,
    /// Requests that had ended when a driver died last, and deaths since one ended.
    completed: u64,
    deaths_in_row: u32,
    /// Deaths by a driver's own fault in the last minute.
    faults: VecDeque<Instant>,
    up_since: Option<Instant>,
    began: Instant,
    pub(crate) totals: Totals,
    restarts: u64,
    adoptions: u64,
    resets: u64,
    reports: VecDeque<Death>,
    report: Option<Report>,
    /// Reports that are to be written to files.
    unwritten: Vec<String>,
    /// When the last successor was told to begin.
    begun: Option<u64>,
    /// Somebody waits for its first driver: without one it is not kept.
    on_trial: bool,
    /// What was logged for its drivers already.
    said: BTreeSet<String>,
    /// Resets that were seen, beside those that the ledger counts.
    resets_seen: u64,
    /// Reports that were written.
    reported: u64,
}

impl Supervisor {
    /// Takes the device at `address`.
    ///
    /// # Errors
    /// In words, when there is no thread for it.
    pub(crate) fn new(
        id: DeviceId,
        address: Address,
        config: DeviceConfig,
        cx: &mut Context<'_>,
    ) -> Result<Self, String> {
        let settings = cx.shared.device_settings(&config);
        let waker = cx.shared.waker.clone();
        let notify = move || {
            let _ = waker.wake();
        };
        let events = cx.shared.events.clone();
        let worker = Worker::spawn(id, address.clone(), &settings, notify, events)
            .map_err(|error| format!("cannot start a thread for {address}: {error}"))?;
        let mut this = Self {
            id,
            name: config.name.clone(),
            address,
            config,
            state: State::Opening,
            targets: Vec::new(),
            attachments: Attachments::new(),
            kind: String::new(),
            identity: Vec::new(),
            worker,
            held: None,
            program: None,
            loading: false,
            ledger: None,
            active: None,
            successor: None,
            ending: Vec::new(),
            spawning: None,
            spawn_after: None,
            stillborn: 0,
            pending: None,
            hand_over: None,
            upgrade: None,
            waiting: Vec::new(),
            numbers: Numbers::default(),
            watch: Watch::new(cx.now),
            scramble: false,
            completed: 0,
            deaths_in_row: 0,
            faults: VecDeque::new(),
            up_since: None,
            began: cx.now,
            totals: Totals::default(),
            restarts: 0,
            adoptions: 0,
            resets: 0,
            reports: VecDeque::new(),
            report: None,
            unwritten: Vec::new(),
            begun: None,
            on_trial: false,
            said: BTreeSet::new(),
            resets_seen: 0,
            reported: 0,
        };
        this.worker.open();
        if let Some(path) = this.config.driver.program(&cx.shared.config.core.drivers) {
            this.load(path, cx);
        }
        Ok(this)
    }

    /// The device's name as people know it: its address while it has none.
    pub(crate) fn label(&self) -> String {
        self.name.as_ref().map_or_else(|| self.address.to_string(), ToString::to_string)
    }

    /// The scheme of its name, as soon as that is known.
    pub(crate) fn scheme(&self) -> Option<String> {
        match &self.config.driver {
            DriverChoice::Named(name) => Some(name.scheme().to_owned()),
            DriverChoice::ByClass => {
                let class = self.held.as_ref()?.identity.class;
                DriverName::for_class(class).map(|name| name.scheme().to_owned())
            }
            DriverChoice::Program(path) => {
                // As for a driver of that name in the folder of drivers.
                let name = path.file_name()?.to_str()?;
                Some(name.strip_prefix("uniddrv-").unwrap_or(name).to_ascii_lowercase())
            }
        }
    }

    /// Whether nothing more will happen by itself before somebody wants something.
    pub(crate) fn is_settled(&self) -> bool {
        match self.state {
            State::Serving => self.active.as_ref().is_some_and(Process::is_up),
            State::Stopped(_) | State::Gone => true,
            _ => false,
        }
    }

    fn load(&mut self, path: PathBuf, cx: &Context<'_>) {
        self.loading = true;
        let (mailbox, device) = (cx.shared.mailbox.clone(), self.id);
        cx.shared.maker.run(move || {
            let result = Program::load(&path).map(Arc::new).map_err(|error| error.to_string());
            mailbox.post(Event::Loaded { device, result });
        });
    }

    /// A program was read, or could not be.
    pub(crate) fn loaded(&mut self, result: Result<Arc<Program>, String>, cx: &mut Context<'_>) {
        self.loading = false;
        if let Some(Upgrade { client }) = self.upgrade.take() {
            match result {
                Ok(program) => self.upgrade_to(program, client, cx),
                Err(text) => Self::refuse(client, Refusal::Failed, text, cx),
            }
        } else {
            match result {
                Ok(program) => self.program = Some(program),
                Err(text) => self.stop(text, cx),
            }
        }
        self.advance(cx);
    }

    fn refuse(client: Option<ClientId>, code: Refusal, text: String, cx: &mut Context<'_>) {
        if let Some(client) = client {
            cx.effects.push(Effect::Answer(client, FromCore::Refused { code, text }));
        }
    }

    /// Does whatever leads from what there is to what is wanted.
    pub(crate) fn advance(&mut self, cx: &mut Context<'_>) {
        self.write_reports(cx);
        match &self.state {
            State::Opening => self.begin_serving(cx),
            State::Serving => self.serve(cx),
            State::Away => self.come_back(cx),
            State::Ending { .. } => self.end(cx),
            State::Stopped(_) | State::Gone => {}
        }
    }

    /// The device is open and the program read: the first driver.
    fn begin_serving(&mut self, cx: &mut Context<'_>) {
        if self.held.is_none() {
            return;
        }
        if self.program.is_none() {
            if !self.loading {
                self.load_by_class(cx);
            }
            return;
        }
        if self.name.is_none() {
            // It gets one now, or never.
            cx.effects.push(Effect::Names(self.id));
        }
        match LedgerMemory::new() {
            Ok(ledger) => self.ledger = Some(ledger),
            Err(error) => return self.stop(format!("cannot make a ledger: {error}"), cx),
        }
        self.state = State::Serving;
        self.pending = Some(Pending { how: Beginning::Fresh, not_before: None });
        self.serve(cx);
    }

    fn load_by_class(&mut self, cx: &mut Context<'_>) {
        let Some(class) = self.held.as_ref().map(|held| held.identity.class) else { return };
        if let Some(name) = DriverName::for_class(class) {
            return self.load(name.program(&cx.shared.config.core.drivers), cx);
        }
        let text = format!(
            "there is no driver for the class {class:06x} of {}; name one in the configuration",
            self.address
        );
        self.stop(text, cx);
    }

    fn serve(&mut self, cx: &mut Context<'_>) {
        self.begin_pending(cx);
        let running = self.active.as_ref().is_none_or(Process::is_up);
        let wanted = self.successor.is_none() && self.spawning.is_none() && running;
        if wanted && self.stillborn >= self.config.restart.deaths {
            if self.active.is_none() {
                let text =
                    format!("{} driver processes in a row did not get ready", self.stillborn);
                return self.stop(text, cx);
            }
        } else if wanted && self.ending.is_empty() && self.spawn_after.is_none_or(|at| at <= cx.now)
        {
            self.spawn(cx);
        }
        self.quiesce(cx);
    }

    /// Which of its processes has this number.
    fn process(&mut self, id: DriverId) -> Option<&mut Process> {
        let ending = self.ending.iter_mut();
        self.active.iter_mut().chain(self.successor.iter_mut()).chain(ending).find(|p| p.id == id)
    }

    /// Has the driver that runs look at its control socket.
    fn call_attention(&self) {
        if let Some(ledger) = &self.ledger {
            ledger.ledger.call_attention();
        }
    }
}
