//! What those who may give the core orders want of a driver.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use uniddrv_abi::message::{Beginning, FromCore, Harm, Refusal, ToDriver};

use super::{HAND_OVER, HandOver, Pending, State, Supervisor, Then, Upgrade};
use crate::context::{Context, Effect, monotonic};
use crate::death::Cause;
use crate::driver::{Process, Stage};
use crate::ids::ClientId;
use crate::ledger::LedgerMemory;
use crate::program::Program;

impl Supervisor {
    /// Has the driver replaced without a reset, or started where it is stopped. Answered when the
    /// next one runs.
    pub(crate) fn restart(&mut self, client: ClientId, cx: &mut Context<'_>) {
        match self.state {
            State::Serving if self.hand_over.is_some() || self.upgrade.is_some() => {
                let text = format!("{} is being handed over already", self.label());
                Self::refuse(Some(client), Refusal::NotReady, text, cx);
            }
            State::Serving if self.active.is_some() => {
                let Some(program) = self.program.clone() else { return };
                self.stillborn = 0;
                self.plan_hand_over(program, Cause::Restart, Some(client), cx);
            }
            State::Serving => {
                // It waits after too many deaths: no longer.
                self.waiting.push(client);
                (self.stillborn, self.spawn_after, self.deaths_in_row) = (0, None, 0);
                if let Some(pending) = &mut self.pending {
                    pending.not_before = None;
                }
            }
            State::Stopped(_) => {
                self.waiting.push(client);
                self.start_again(cx);
            }
            // As soon as it has stopped.
            State::Ending { then: Then::Stop(_), .. } => self.waiting.push(client),
            _ => {
                let text = self.why_not();
                Self::refuse(Some(client), Refusal::NotReady, text, cx);
            }
        }
        self.advance(cx);
    }

    /// Starts what was stopped.
    pub(super) fn start_again(&mut self, cx: &mut Context<'_>) {
        (self.stillborn, self.spawn_after, self.deaths_in_row) = (0, None, 0);
        if let Some(path) = self.config.driver.program(&cx.shared.config.core.drivers)
            && self.program.is_none()
        {
            self.load(path, cx);
        }
        if self.held.is_none() || self.program.is_none() {
            self.state = State::Opening;
            if self.held.is_none() {
                self.worker.open();
            }
            return;
        }
        match LedgerMemory::new() {
            Ok(memory) => {
                self.keep_counts();
                self.ledger = Some(memory);
                // What the device was doing, nobody knows any more.
                self.pending = Some(Pending { how: Beginning::Renew, not_before: None });
                self.completed = 0;
                self.state = State::Serving;
            }
            Err(error) => {
                let text = format!("cannot make a ledger: {error}");
                for client in std::mem::take(&mut self.waiting) {
                    Self::refuse(Some(client), Refusal::Failed, text.clone(), cx);
                }
            }
        }
    }

    /// Has the driver replaced by a new program, or by the same file read anew.
    pub(crate) fn upgrade(
        &mut self,
        program: Option<PathBuf>,
        client: ClientId,
        cx: &mut Context<'_>,
    ) {
        let running = matches!(self.state, State::Serving) && self.active.is_some();
        if !running || self.hand_over.is_some() || self.upgrade.is_some() {
            let text = if running {
                format!("{} is being handed over already", self.label())
            } else {
                self.why_not()
            };
            return Self::refuse(Some(client), Refusal::NotReady, text, cx);
        }
        let same = || self.program.as_ref().map(|program| program.path().to_owned());
        let Some(path) = program.or_else(same) else { return };
        self.upgrade = Some(Upgrade { client: Some(client) });
        self.load(path, cx);
    }

    pub(super) fn upgrade_to(
        &mut self,
        program: Arc<Program>,
        client: Option<ClientId>,
        cx: &mut Context<'_>,
    ) {
        tracing::info!(name = self.label(), build = program.build(), "upgrading the driver");
        // The one that waits is of the old program.
        self.discard_successor();
        self.stillborn = 0;
        self.spawn_after = None;
        self.plan_hand_over(program, Cause::Upgrade, client, cx);
    }

    fn plan_hand_over(
        &mut self,
        program: Arc<Program>,
        cause: Cause,
        client: Option<ClientId>,
        cx: &Context<'_>,
    ) {
        let deadline = cx.now + HAND_OVER;
        self.hand_over = Some(HandOver { client, cause, program, quiesced: false, deadline });
    }

    /// Has the driver stop at a clean point, if it is to be replaced and a successor is ready.
    pub(super) fn quiesce(&mut self, cx: &mut Context<'_>) {
        let Some(hand_over) = &mut self.hand_over else { return };
        let ready = |process: &Process| {
            process.is_ready() && Arc::ptr_eq(&process.program, &hand_over.program)
        };
        let (Some(active), Some(successor)) = (&mut self.active, &self.successor) else { return };
        if hand_over.quiesced || !active.is_up() || !ready(successor) {
            return;
        }
        hand_over.quiesced = true;
        active.tell(&ToDriver::Quiesce, &[]);
        active.deadline = Some(cx.now + Duration::from_secs(1) + self.config.hang);
        self.call_attention();
    }

    /// A hand-over has failed. Whether there was one.
    pub(super) fn fail_hand_over(&mut self, text: &str, cx: &mut Context<'_>) -> bool {
        let Some(hand_over) = self.hand_over.take() else { return false };
        tracing::error!(name = self.label(), "{} failed: {text}", hand_over.cause);
        let message = format!("{} of {} failed: {text}", hand_over.cause, self.label());
        Self::refuse(hand_over.client, Refusal::Failed, message, cx);
        let current = self.program.as_ref();
        let of_current = |process: &Process| {
            current.is_some_and(|program| Arc::ptr_eq(program, &process.program))
        };
        if self.successor.as_ref().is_some_and(|process| !of_current(process)) {
            self.discard_successor();
        }
        if let Some(spawning) = &mut self.spawning
            && hand_over.cause == Cause::Upgrade
        {
            spawning.unwanted = true;
        }
        true
    }

    /// As [`fail_hand_over`](Self::fail_hand_over), where the device is taken away.
    pub(super) fn hand_over_ends(&mut self, text: &str, cx: &mut Context<'_>) {
        self.fail_hand_over(text, cx);
        if let Some(Upgrade { client }) = self.upgrade.take() {
            Self::refuse(client, Refusal::Failed, text.to_owned(), cx);
        }
    }

    /// Harms the driver.
    ///
    /// # Errors
    /// When none runs.
    pub(crate) fn harm(&mut self, how: Harm, cx: &Context<'_>) -> Result<(), String> {
        let (Some(active), Some(memory)) = (&mut self.active, &self.ledger) else {
            return Err(format!("{} has no driver that runs", self.label()));
        };
        let ledger = &memory.ledger;
        tracing::info!(name = %self.address, pid = active.pid(), ?how, "harming the driver");
        match how {
            Harm::Arm { step, count } => {
                ledger.arm(step, count);
                ledger.call_attention();
                return Ok(());
            }
            Harm::Scramble => self.scramble = true,
            Harm::Kill | Harm::Fault | Harm::Abort | Harm::Hang => {}
        }
        if !matches!(active.stage, Stage::Begun(_) | Stage::Up) {
            return Err(format!("{} has no driver that runs", self.address));
        }
        active.harmed_at = Some(monotonic());
        active.signal(match how {
            Harm::Fault => Signal::SEGV,
            Harm::Abort => Signal::ABORT,
            Harm::Hang => Signal::STOP,
            _ => Signal::KILL,
        });
        if how == Harm::Hang {
            // One that slept does not wake any more.
            self.watch.suspect(ledger, cx.now);
            active.tell(&ToDriver::Wake, &[]);
            ledger.call_attention();
        }
        Ok(())
    }

    /// Takes the device away from the core. Answered once it is gone.
    pub(crate) fn remove(&mut self, client: Option<ClientId>, text: &str, cx: &mut Context<'_>) {
        self.waiting.extend(client);
        match &mut self.state {
            State::Ending { then, .. } => *then = Then::Go(text.to_owned()),
            State::Gone => {}
            _ => self.finish(Then::Go(text.to_owned()), Cause::Unwanted, cx),
        }
        self.advance(cx);
    }

    /// Answers `client` once the driver runs, or cannot.
    pub(crate) fn await_running(&mut self, client: ClientId, cx: &mut Context<'_>) {
        match self.state {
            State::Stopped(_) | State::Ending { .. } | State::Gone => {
                let text = self.why_not();
                Self::refuse(Some(client), Refusal::Failed, text, cx);
            }
            _ => {
                self.waiting.push(client);
                self.on_trial = true;
            }
        }
    }

    /// Ends what is ending without waiting for it to end well.
    pub(crate) fn hurry(&mut self) {
        if let Some(active) = &mut self.active {
            active.kill(Cause::Unwanted);
        }
    }

    /// The device is gone: whoever waited for that is told.
    pub(super) fn gone(&mut self, cx: &mut Context<'_>) {
        for client in std::mem::take(&mut self.waiting) {
            cx.effects.push(Effect::Answer(client, FromCore::Done));
        }
        self.finish_report();
        self.state = State::Gone;
        cx.effects.push(Effect::Gone(self.id));
        cx.effects.push(Effect::Settled);
    }
}
