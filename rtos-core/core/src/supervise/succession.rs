//! A driver process has ended: the next one, at once.

use std::time::{Duration, Instant};

use uniddrv::process::Ended;
use uniddrv_abi::message::{Beginning, ToDriver};

use super::hearing::shorten;
use super::{BRING_UP, LONG, Pending, State, Supervisor};
use crate::attachment::{self, Attachment};
use crate::context::{Context, Effect, monotonic};
use crate::death::Cause;
use crate::device::DriverId;
use crate::driver::{Process, Stage};
use crate::ledger::LedgerMemory;

/// By SIGKILL: by the core, or from outside.
const KILLED: Ended = Ended::Signaled(9);

/// Deaths by its own fault in a minute after which the next driver waits before it begins, longer
/// each time, whatever the last one says that it has done.
const OFTEN: u32 = 100;
const MINUTE: Duration = Duration::from_mins(1);

impl Supervisor {
    /// The process `id` may have ended.
    pub(crate) fn ended(&mut self, id: DriverId, cx: &mut Context<'_>) {
        let detected = monotonic();
        // What it said last comes first: it may say why.
        self.listen(id, cx);
        let Some(process) = self.process(id) else { return };
        if process.stage == Stage::Placing {
            return;
        }
        let Some(ended) = process.ended() else { return };
        cx.processes.remove(id);
        if let Some(active) = self.active.take_if(|active| active.id == id) {
            self.succeed(&active, ended, detected, cx);
        } else if let Some(successor) = self.successor.take_if(|successor| successor.id == id) {
            self.waiting_one_ended(&successor, ended, cx);
        } else {
            self.ending.retain(|process| process.id != id);
        }
        self.worker.stop_serving(id);
        self.advance(cx);
    }

    fn cause(&self, process: &Process, ended: Ended) -> Cause {
        match (&process.cause, &self.hand_over) {
            // Its heart beat no more because it was ending by itself, which can take a while.
            (Some(Cause::Hung), _) if ended != KILLED => Cause::Ended(ended),
            (Some(cause), _) => cause.clone(),
            (None, Some(hand_over)) if hand_over.quiesced && ended == Ended::Exited(0) => {
                hand_over.cause.clone()
            }
            _ => Cause::Ended(ended),
        }
    }

    /// The driver that ran has ended: another takes over.
    fn succeed(&mut self, dead: &Process, ended: Ended, detected: u64, cx: &mut Context<'_>) {
        let cause = self.cause(dead, ended);
        let breadcrumb = self.ledger.as_ref().and_then(|memory| memory.ledger.breadcrumb());
        let last_sign = match cause {
            Cause::Hung => Some(self.watch.last_sign()),
            _ => dead.harmed_at,
        };
        let earlier = self.take_report();
        let (words, suspicions) = self.prepare_succession(dead, &cause, cx);
        // Nothing else between here and there: a client may wait.
        self.begin_pending(cx);
        if let Some(report) = earlier {
            self.file(report);
        }
        self.tell_of_death(dead, &cause, (last_sign, detected), breadcrumb, words);
        if suspicions > 0 {
            let name = self.label();
            tracing::warn!(name, suspicions, "the request being worked on is suspected");
        }
        let was_successor = self.hand_over.as_ref().is_some_and(|hand_over| hand_over.quiesced)
            && matches!(dead.stage, Stage::Begun(_));
        if was_successor {
            let text = format!("the new process ended while it took over: {cause}");
            self.fail_hand_over(&text, cx);
        }
    }

    /// Says how a successor is to begin, and when. Its predecessor's last words, and how often the
    /// request was suspected.
    fn prepare_succession(
        &mut self,
        dead: &Process,
        cause: &Cause,
        cx: &mut Context<'_>,
    ) -> (Option<String>, u64) {
        if std::mem::take(&mut self.scramble) {
            self.keep_counts();
            self.ledger.iter().for_each(LedgerMemory::scramble);
        }
        let Some(memory) = &self.ledger else { return (None, 0) };
        let words = memory.ledger.last_words().map(shorten);
        if !matches!(self.state, State::Serving) {
            return (words, 0);
        }
        let suspicions = if cause.is_fault() { memory.ledger.suspect_breadcrumb() } else { 0 };
        memory.ledger.set_last_words(&[]);
        let how = match self.beginning() {
            _ if matches!(cause, Cause::Unreadable(_)) => Beginning::Renew,
            // Nobody has begun with it, it says, and that is not so, or only the rings were begun
            // to be started over.
            Beginning::Fresh if dead.stage != Stage::Begun(Beginning::Fresh) => Beginning::Renew,
            Beginning::Adopt if cause.needs_reset() => Beginning::Reset,
            how => how,
        };
        let completed = memory.ledger.completed();
        let delay = self.count_death(dead, cause, completed, cx.now);
        if how == Beginning::Renew && !self.renew_ledger(cx) {
            return (words, suspicions);
        }
        let Some(delay) = delay else {
            let text = format!(
                "{} drivers in a row died without completing a request, the last one {cause}; \
                 `uniddrv restart {}` tries again",
                self.deaths_in_row,
                self.label()
            );
            self.stop(text, cx);
            return (words, suspicions);
        };
        (self.stillborn, self.spawn_after) = (0, None);
        self.pending = Some(Pending { how, not_before: delay });
        (words, suspicions)
    }

    /// How the next driver has to begin, by what the ledger says.
    pub(super) fn beginning(&self) -> Beginning {
        match self.ledger.as_ref().and_then(LedgerMemory::beginning) {
            None => Beginning::Renew,
            // It is in place of one that clients' rings belong to, and whoever was to renew these
            // has died before.
            Some(Beginning::Fresh) if self.attachments.values().any(Attachment::is_attached) => {
                Beginning::Renew
            }
            Some(how) => how,
        }
    }

    /// Counts a death against the budget. When the next driver may begin; nothing where there is
    /// to be none.
    #[expect(clippy::option_option, reason = "whether, and when")]
    fn count_death(
        &mut self,
        dead: &Process,
        cause: &Cause,
        completed: u64,
        now: Instant,
    ) -> Option<Option<Instant>> {
        let lived_long = self.up_since.take().is_some_and(|since| now - since >= LONG);
        // Requests that one has ended which never ran are a lie.
        if (completed != self.completed && dead.stage == Stage::Up) || lived_long {
            self.deaths_in_row = 0;
        }
        self.completed = completed;
        // What somebody asked for says nothing of the driver.
        if cause.is_wanted() || dead.harmed_at.is_some() {
            return Some(None);
        }
        self.deaths_in_row += 1;
        if self.deaths_in_row >= self.config.restart.deaths {
            return None;
        }
        // What a driver counts is its own claim: one that dies all the time waits all the same.
        if cause.is_fault() {
            self.faults.push_back(now);
        }
        while self.faults.front().is_some_and(|&at| now - at > MINUTE) {
            self.faults.pop_front();
        }
        let often = u32::try_from(self.faults.len()).unwrap_or(u32::MAX).saturating_sub(OFTEN);
        let delay = self.back_off(self.deaths_in_row.max(often));
        Some((!delay.is_zero()).then(|| now + delay))
    }

    /// Remembers what a ledger counts that is to be replaced, as far as it can be believed.
    pub(super) fn keep_counts(&mut self) {
        let mut resets = std::mem::take(&mut self.resets_seen);
        if let Some(memory) = self.ledger.as_ref().filter(|memory| memory.beginning().is_some()) {
            for attachment in self.attachments.values().filter(|one| one.is_attached()) {
                self.totals.add(&attachment.totals(&memory.ledger));
            }
            resets = resets.max(memory.ledger.resets().0);
        }
        self.resets = self.resets.saturating_add(resets);
    }

    /// A new ledger in place of one that does not check out. What waits has mapped the old one.
    pub(super) fn renew_ledger(&mut self, cx: &mut Context<'_>) -> bool {
        self.keep_counts();
        self.discard_successor();
        self.completed = 0;
        match LedgerMemory::new() {
            Ok(memory) => self.ledger = Some(memory),
            Err(error) => self.stop(format!("cannot make a ledger: {error}"), cx),
        }
        matches!(self.state, State::Serving)
    }

    /// Has the process that waits begin, if one is to.
    pub(super) fn begin_pending(&mut self, cx: &mut Context<'_>) {
        if self.active.is_some() {
            return;
        }
        let Some(Pending { how, not_before }) = self.pending else { return };
        if not_before.is_some_and(|at| at > cx.now) {
            return;
        }
        let Some(mut process) = self.successor.take_if(|process| process.is_ready()) else {
            return;
        };
        self.worker.activate(process.id);
        if let Some(memory) = &self.ledger {
            // Its predecessor may have slept; this one is to be watched from the start.
            memory.ledger.set_asleep(false);
        }
        if !process.tell(&ToDriver::Begin(how), &[]) {
            process.kill(Cause::Unwanted);
            self.ending.push(process);
            return;
        }
        let begun = monotonic();
        process.begin(how, cx.now + BRING_UP + self.config.timeout, cx.now);
        self.pending = None;
        for attachment in self.attachments.values_mut() {
            if attachment.stage == attachment::Stage::Detaching {
                let client = attachment.handle;
                process.tell(&ToDriver::Detach { client }, &[]);
                attachment.told = Some(process.id);
            }
            attachment.deadline = None;
        }
        if let Some(report) = &mut self.report {
            report.has_begun(begun);
        }
        self.begun = Some(begun);
        self.active = Some(process);
        if let Some(memory) = &self.ledger {
            self.watch.start(&memory.ledger, cx.now);
        }
    }

    /// A process that was to take over later has ended before.
    fn waiting_one_ended(&mut self, dead: &Process, ended: Ended, cx: &mut Context<'_>) {
        let cause = self.cause(dead, ended);
        let words = self.ledger.as_ref().and_then(|memory| memory.ledger.last_words());
        let words = words.map(shorten);
        if dead.has_waited_long(cx.now) {
            self.stillborn = 0;
        }
        let said = words.map(|words| format!(" ({words})")).unwrap_or_default();
        // Where another runs, those are its words.
        let said = if self.active.is_none() { said } else { String::new() };
        let stage = if dead.stage == Stage::Ready { "while it waited" } else { "while it started" };
        self.not_spawned(&format!("process {} {cause} {stage}{said}", dead.pid()), cx);
    }

    /// Settles what a new driver's coming up settles.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) {
        for client in std::mem::take(&mut self.waiting) {
            cx.effects.push(Effect::Answer(client, uniddrv_abi::message::FromCore::Done));
        }
        cx.effects.push(Effect::Settled);
    }
}
