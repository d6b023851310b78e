//! What driver processes say. Each of it is a claim; one that cannot be ends the process.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use uniddrv_abi::message::{FromCore, FromDriver, MAX_TEXT, Target};

use super::opening::ATTACH;
use super::{State, Supervisor};
use crate::attachment;
use crate::config::Name;
use crate::context::{Context, Effect, Event, monotonic};
use crate::death::Cause;
use crate::device::DriverId;
use crate::driver::{Heard, Process, Stage};

/// The most targets of a device.
const TARGETS: usize = 256;
/// Lines that are remembered, so that successors need not repeat them.
const SAID: usize = 64;
/// The most bytes of a block, as clients believe it.
const MAX_BLOCK: u32 = 1 << 20;
/// The most characters of a text of a driver's that is logged or passed on.
const TEXT: usize = 512;
/// How long a driver that took over is left alone before its own successor is started.
const REST: Duration = Duration::from_millis(10);

impl Supervisor {
    /// Reads what the process `id` says.
    pub(crate) fn listen(&mut self, id: DriverId, cx: &mut Context<'_>) {
        let mut turn = 0;
        while let Some(process) = self.process(id) {
            let violation = match process.hear(&mut turn, cx.now) {
                Heard::Nothing => break,
                Heard::Violation(cause) => Some(cause),
                Heard::Message(message) => self.hear(id, message, cx).err().map(Cause::Violation),
            };
            if let Some(cause) = violation {
                if let Some(process) = self.process(id) {
                    process.kill(cause);
                }
                break;
            }
        }
    }

    /// Whether messages may wait that nobody will be told of again.
    pub(crate) fn unread(&self) -> Vec<DriverId> {
        let processes = self.active.iter().chain(&self.successor).chain(&self.ending);
        processes.filter(|process| process.unread).map(|process| process.id).collect()
    }

    fn hear(
        &mut self,
        id: DriverId,
        mut message: FromDriver,
        cx: &mut Context<'_>,
    ) -> Result<(), String> {
        if message.cut_text() {
            return Err(format!("it sent a text of more than {MAX_TEXT} bytes"));
        }
        let active = self.active.as_ref().filter(|active| active.id == id);
        let is_active = active.is_some();
        let begun = active.is_some_and(|active| matches!(active.stage, Stage::Begun(_)));
        match message {
            FromDriver::Ready => self.is_ready(id, cx),
            FromDriver::Up { adopted, reason, targets, kind, identity } if begun => {
                self.check_targets(&targets)?;
                if adopted && self.are_others(&targets) {
                    let text = "it took over a device that has other names than before";
                    if let Some(active) = &mut self.active {
                        active.kill(Cause::Unreadable(text.into()));
                    }
                    return Ok(());
                }
                if !identity.is_empty() {
                    (self.kind, self.identity) = (shorten(kind), identity);
                }
                self.is_up(adopted, reason, targets, cx);
                Ok(())
            }
            FromDriver::Up { .. } => Err("it says that it runs, and was not to begin".into()),
            FromDriver::Attached { client } => {
                if is_active {
                    self.attached(client, cx);
                }
                Ok(())
            }
            FromDriver::Detached { client } if is_active => self.detached(client, cx),
            // One that waits forgets at once, and need not say so.
            FromDriver::Detached { .. } => Ok(()),
            FromDriver::Hostile { client, text } if is_active => {
                self.hostile(id, client, &shorten(text), cx);
                Ok(())
            }
            // It could not take over what it cannot attach.
            FromDriver::Hostile { client, text } => {
                Err(format!("it cannot attach client {client}: {}", shorten(text)))
            }
            FromDriver::Poisoned { client, text } => {
                if self.may_log(id) {
                    let (name, text) = (self.label(), shorten(text));
                    tracing::error!(name, client, "a poisoned request: {text}");
                }
                Ok(())
            }
            FromDriver::Unreadable { text } if is_active => {
                let cause = Cause::Unreadable(shorten(text));
                if let Some(active) = &mut self.active {
                    active.kill(cause);
                }
                Ok(())
            }
            FromDriver::Unreadable { text } => {
                Err(format!("it cannot read a ledger that it was not to read: {}", shorten(text)))
            }
            FromDriver::Quiesced => match &self.hand_over {
                Some(hand_over) if is_active && hand_over.quiesced => Ok(()),
                _ => Err("it stopped, and was not asked to".into()),
            },
            FromDriver::Failed { gone, text } => {
                let text = shorten(text);
                if self.may_log(id) {
                    tracing::error!(name = self.label(), gone, "the driver gives up: {text}");
                }
                if let Some(process) = self.process(id) {
                    process.fails(Cause::Failed(text), cx.now);
                }
                Ok(())
            }
            FromDriver::Awake => {
                if let Some(memory) = self.ledger.as_ref().filter(|_| is_active) {
                    self.watch.start(&memory.ledger, cx.now);
                }
                Ok(())
            }
            FromDriver::Log { level, text } => {
                self.log(id, level, text);
                Ok(())
            }
        }
    }

    /// Whether one more line about the process `id` may be logged in this second.
    fn may_log(&mut self, id: DriverId) -> bool {
        self.process(id).is_some_and(Process::may_log)
    }

    fn log(&mut self, id: DriverId, level: u8, text: String) {
        let name = self.label();
        let Some(process) = self.process(id) else { return };
        if !process.may_log() {
            return;
        }
        let (pid, text) = (process.pid(), shorten(text));
        // What each of its processes says is told once.
        let level = if self.said.contains(&text) { level.max(4) } else { level };
        if level < 4 && self.said.len() < SAID {
            self.said.insert(text.clone());
        }
        match level {
            1 => tracing::error!(name, pid, "driver: {text}"),
            2 => tracing::warn!(name, pid, "driver: {text}"),
            3 => tracing::info!(name, pid, "driver: {text}"),
            _ => tracing::debug!(name, pid, "driver: {text}"),
        }
    }

    fn is_ready(&mut self, id: DriverId, cx: &mut Context<'_>) -> Result<(), String> {
        let cpu = self.config.cpu;
        let Some(process) = self.process(id) else { return Ok(()) };
        if process.stage != Stage::Preparing {
            return Err("it says that it is ready once more".into());
        }
        let Some(cpu) = cpu else {
            process.is_waiting(cx.now);
            self.advance(cx);
            return Ok(());
        };
        (process.stage, process.deadline) = (Stage::Placing, None);
        let number = process.pid().unsigned_abs();
        let (mailbox, partition) = (cx.shared.mailbox.clone(), cx.shared.partition.clone());
        let device = self.id;
        cx.shared.maker.run(move || {
            let mut partition = partition.lock().unwrap_or_else(PoisonError::into_inner);
            let result = partition.place(number, cpu);
            let result = result.map_err(|error| format!("cannot run on CPU {cpu}: {error}"));
            mailbox.post(Event::Placed { device, process: id, result });
        });
        Ok(())
    }

    /// A process that is ready is on its CPU, or could not be put there.
    pub(crate) fn placed(
        &mut self,
        id: DriverId,
        result: Result<(), String>,
        cx: &mut Context<'_>,
    ) {
        let Some(process) = self.process(id) else { return };
        process.is_waiting(cx.now);
        if let Err(text) = result {
            process.kill(Cause::Misplaced(text));
        }
        // It may have ended meanwhile.
        self.ended(id, cx);
        self.advance(cx);
    }

    fn check_targets(&self, targets: &[Target]) -> Result<(), String> {
        if targets.len() > TARGETS {
            return Err(format!("{} targets; {TARGETS} are possible", targets.len()));
        }
        let mut paths = BTreeSet::new();
        for Target { path, block_size, blocks, max_transfer, .. } in targets {
            let instance = self.name.as_ref().map_or("x:0", Name::instance);
            let name = format!("{instance}/{path}").parse::<Name>();
            if !name.is_ok_and(|name| name.path() == path) || !paths.insert(path) {
                return Err(format!("`{}` is no path of a target", shorten(path.clone())));
            }
            let block = block_size.is_power_of_two() && (512..=MAX_BLOCK).contains(block_size);
            if !block || max_transfer < block_size {
                return Err(format!(
                    "{path} has blocks of {block_size} bytes and transfers of {max_transfer}"
                ));
            }
            if blocks.checked_mul((*block_size).into()).is_none() {
                return Err(format!("{path} has {blocks} blocks of {block_size} bytes"));
            }
        }
        Ok(())
    }

    /// Whether a device that was only taken over cannot have these targets: its predecessor left
    /// lies about it. A new program may know more of them.
    fn are_others(&self, targets: &[Target]) -> bool {
        let upgraded = self.hand_over.as_ref().is_some_and(|one| one.cause == Cause::Upgrade);
        !upgraded && !self.targets.is_empty() && targets != self.targets
    }

    /// The driver runs the device.
    fn is_up(
        &mut self,
        adopted: bool,
        reason: Option<String>,
        targets: Vec<Target>,
        cx: &mut Context<'_>,
    ) {
        let (Some(active), Some(memory)) = (&mut self.active, &self.ledger) else { return };
        let Stage::Begun(how) = active.stage else { return };
        active.is_running(cx.now);
        self.up_since = Some(cx.now);
        self.on_trial = false;
        self.stillborn = 0;
        self.watch.start(&memory.ledger, cx.now);
        let (_, ended, first) = memory.ledger.adoption();
        let program = active.program.clone();
        let now = monotonic();
        if let Some(report) = &mut self.report {
            let begun = report.begun.unwrap_or(now);
            // What it wrote is a claim, of which only a moment in between makes sense.
            let up = if (begun..=now).contains(&ended) { ended } else { now };
            report.is_up(adopted, up, cx.now);
            report.look(first, now);
        }
        if how == uniddrv_abi::message::Beginning::Fresh {
            tracing::info!(name = self.label(), address = %self.address, "the driver runs");
        } else {
            self.restarts += 1;
            if adopted {
                self.adoptions += 1;
            } else {
                self.resets_seen += 1;
            }
            // What starting the next one takes, this one's clients need now.
            self.spawn_after = Some(cx.now + REST);
            let reason = reason.map(shorten);
            tracing::info!(name = self.label(), adopted, reason, "a successor runs");
        }
        if self.targets != targets {
            self.targets = targets;
            cx.effects.push(Effect::Names(self.id));
        }
        let done =
            |one: &super::HandOver| one.quiesced && std::sync::Arc::ptr_eq(&one.program, &program);
        if let Some(hand_over) = self.hand_over.take_if(|one| done(one)) {
            self.program = Some(hand_over.program);
            if let Some(client) = hand_over.client {
                cx.effects.push(Effect::Answer(client, FromCore::Done));
            }
        }
        let limit = self.stall_limit();
        for attachment in self.attachments.values_mut() {
            attachment.deadline = match attachment.stage {
                attachment::Stage::Attaching => Some(cx.now + ATTACH),
                attachment::Stage::Detaching => Some(cx.now + limit),
                _ => None,
            };
        }
        self.settle(cx);
        self.advance(cx);
    }

    /// A client is attached at the driver that runs.
    fn attached(&mut self, handle: u32, cx: &mut Context<'_>) {
        let Some(attachment) = self.attachments.get_mut(&handle) else { return };
        if attachment.stage != attachment::Stage::Attaching {
            return;
        }
        attachment.stage = attachment::Stage::Open;
        attachment.deadline = None;
        self.opened(handle, cx);
    }

    /// A client is let go by the driver that runs.
    fn detached(&mut self, handle: u32, cx: &mut Context<'_>) -> Result<(), String> {
        let active = self.active.as_ref().map(|active| active.id);
        match self.attachments.get(&handle) {
            Some(attachment) if attachment.told == active && active.is_some() => {
                if attachment.stage == attachment::Stage::Detaching {
                    self.let_go(handle, cx);
                }
                Ok(())
            }
            Some(_) => Err(format!("it let go of client {handle}, and was not asked to")),
            None => Ok(()),
        }
    }

    fn hostile(&mut self, id: DriverId, handle: u32, text: &str, cx: &mut Context<'_>) {
        let Some(attachment) = self.attachments.get(&handle) else { return };
        let client = attachment.request.client;
        if self.may_log(id) {
            tracing::warn!(name = self.label(), %client, "taking the name from a hostile client: {text}");
        }
        if matches!(self.state, State::Serving) {
            self.take_away(handle, &format!("its rings were broken: {text}"), cx);
        }
    }
}

/// A text of a driver's, of bounded length and without what would disturb a terminal.
pub(super) fn shorten(text: String) -> String {
    let clean = |text: &str| !text.chars().any(char::is_control);
    if text.len() <= TEXT && clean(&text) {
        return text;
    }
    text.chars().take(TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
