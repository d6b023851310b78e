//! Driver processes, from the wish for one until it waits to take over.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use uniddrv::control;
use uniddrv::serve::{CONTROL, DEVICE, FIRST_WINDOW};
use uniddrv_abi::ledger::QUEUES;
use uniddrv_abi::message::{ToDriver, VERSION};

use super::{Spawning, State, Supervisor};
use crate::context::{Context, Event};
use crate::death::Cause;
use crate::device::DriverId;
use crate::driver::{Process, Spawned};
use crate::sandbox::{Confinement, Scheduling, Window};

/// How long a driver process may take to map what it is given.
const READY: Duration = Duration::from_secs(10);
/// Memory that a driver process may lock beside its arena, in bytes.
const OWN_MEMORY: u64 = 64 << 20;

/// File descriptors of a driver process: a socket for each queue, as many again on their way,
/// and its own.
const FILES: u32 = 2 * QUEUES as u32 + 64;

/// As much of `wanted` as a process of this one's may lock.
fn lockable(wanted: u64) -> u64 {
    getrlimit(Resource::Memlock).maximum.map_or(wanted, |most| most.min(wanted))
}

impl Supervisor {
    /// Has a process spawned.
    pub(super) fn spawn(&mut self, cx: &mut Context<'_>) {
        self.spawn_after = None;
        let planned = self.hand_over.as_ref().map(|hand_over| &hand_over.program);
        let (Some(program), Some(held)) = (planned.or(self.program.as_ref()), &self.held) else {
            return;
        };
        let program = program.clone();
        let mut windows = Vec::new();
        let mut files = Vec::new();
        for (number, (window, file)) in (FIRST_WINDOW..).zip(&held.windows) {
            windows.push(Window { number, offset: window.offset, len: window.len });
            match file.try_clone() {
                Ok(file) => files.push((file, number)),
                Err(error) => return self.not_spawned(&format!("a window: {error}"), cx),
            }
        }
        let confinement = Confinement {
            files: FILES,
            locked: lockable(self.config.memory.bytes().saturating_add(OWN_MEMORY)),
            scheduling: self
                .config
                .realtime
                .map_or(Scheduling::Ordinary, |priority| Scheduling::Fifo(priority.get())),
            windows,
            partial: !cx.shared.config.core.require_sandbox,
            ..Confinement::default()
        };
        let process = cx.processes.add(self.id);
        self.spawning = Some(Spawning { process, unwanted: false });
        let (mailbox, spawner, device) =
            (cx.shared.mailbox.clone(), cx.shared.spawner.clone(), self.id);
        cx.shared.midwife.run(move || {
            let spawn = || {
                let pair = || control::pair().map_err(|error| format!("socketpair: {error}"));
                let (control, theirs) = pair()?;
                let (worker, device) = pair()?;
                let mut inherited = vec![(theirs.as_fd(), CONTROL), (device.as_fd(), DEVICE)];
                inherited.extend(files.iter().map(|(file, number)| (file.as_fd(), *number)));
                let child = spawner
                    .spawn(&program, &[], &confinement, &inherited)
                    .map_err(|error| error.to_string())?;
                Ok(Spawned { child, control, device: worker, program })
            };
            mailbox.post(Event::Spawned { device, process, result: spawn() });
        });
    }

    /// A process was spawned, or could not be.
    pub(crate) fn spawned(
        &mut self,
        id: DriverId,
        result: Result<Spawned, String>,
        cx: &mut Context<'_>,
    ) {
        let Some(spawning) = self.spawning.take_if(|spawning| spawning.process == id) else {
            return cx.processes.remove(id);
        };
        let spawned = match result {
            Ok(spawned) => spawned,
            Err(text) => {
                cx.processes.remove(id);
                if !spawning.unwanted {
                    self.not_spawned(&text, cx);
                }
                return self.advance(cx);
            }
        };
        for missing in spawned.child.missing() {
            tracing::warn!(name = self.label(), "a layer of the sandbox is missing: {missing}");
        }
        let Spawned { child, control, device, program } = spawned;
        match Process::new(id, child, control, program, cx.registry, cx.now) {
            Ok(mut process) => {
                if spawning.unwanted || !matches!(self.state, State::Serving) {
                    process.kill(Cause::Unwanted);
                    self.ending.push(process);
                } else {
                    self.worker.serve(id, device);
                    self.prepare(&mut process, cx);
                    self.successor = Some(process);
                }
            }
            Err((error, child)) => {
                cx.processes.remove(id);
                cx.shared.maker.run(move || drop(child));
                self.not_spawned(&format!("watch over it: {error}"), cx);
            }
        }
        self.advance(cx);
    }

    /// Gives a process what it is to serve with.
    pub(super) fn prepare(&mut self, process: &mut Process, cx: &Context<'_>) {
        let (Some(held), Some(ledger)) = (&self.held, &self.ledger) else { return };
        process.deadline = Some(cx.now + READY);
        let prepare = ToDriver::Prepare {
            version: VERSION,
            address: self.address.to_string(),
            arena_iova: held.arena_iova,
            arena_len: held.arena.len() as u64,
            windows: held.windows.iter().map(|(window, _)| *window).collect(),
            settings: self.config.settings(),
        };
        process.tell(&prepare, &[ledger.file(), held.arena.fd()]);
        for attachment in self.attachments.values().filter(|one| one.is_attached()) {
            attachment.attach_at(process, false);
        }
    }

    /// There is no process: another try, later each time.
    pub(super) fn not_spawned(&mut self, text: &str, cx: &mut Context<'_>) {
        self.stillborn += 1;
        tracing::error!(name = self.label(), tries = self.stillborn, "no driver process: {text}");
        if self.fail_hand_over(text, cx) {
            self.stillborn = 0;
        }
        self.spawn_after = Some(cx.now + self.back_off(self.stillborn));
    }

    /// How long to wait after the `count`th failure in a row.
    pub(super) fn back_off(&self, count: u32) -> Duration {
        let restart = &self.config.restart;
        let doubled = 2_u32.saturating_pow(count.saturating_sub(2));
        if count < 2 {
            Duration::ZERO
        } else {
            restart.backoff.saturating_mul(doubled).min(restart.longest)
        }
    }

    /// Kills the process that waits.
    pub(super) fn discard_successor(&mut self) {
        if let Some(mut process) = self.successor.take() {
            process.kill(Cause::Unwanted);
            self.ending.push(process);
        }
        if let Some(spawning) = &mut self.spawning {
            spawning.unwanted = true;
        }
    }
}
