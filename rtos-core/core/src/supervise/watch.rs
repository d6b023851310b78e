//! Heartbeats, progress and deadlines. While the driver sleeps and nothing is awaited there is
//! nothing to watch, and no timer.

use std::fs;
use std::time::{Duration, Instant};

use mio::Registry;
use uniddrv_abi::ledger::Phase;
use uniddrv_abi::message::ToDriver;

use super::opening::ATTACH;
use super::{State, Supervisor};
use crate::attachment;
use crate::context::{Context, monotonic};
use crate::death::Cause;
use crate::driver::{Process, Stage};
use crate::ledger::DriverLedger;

/// Looks without a beat in between, a quarter of the time allowed apart, that make a hang.
const LOOKS: u32 = 3;
/// As many while a successor adopts, which takes a moment without a beat.
const ADOPTION: u32 = 8;
/// How often that is doubled at most: once for each death in a row, after the first, without a
/// completed request.
const MOST_DOUBLINGS: u32 = 5;
/// How often in a row a process may be excused for want of a CPU.
const EXCUSES: u32 = 40;
/// How long an answer about the device may take, which the driver itself waits for as long.
const ANSWER: Duration = Duration::from_secs(35);
/// How often a look is taken at whether requests end.
const SCAN: Duration = Duration::from_secs(1);

/// What is known of the life of the driver that runs.
#[derive(Debug)]
pub(super) struct Watch {
    /// When to look next; nothing while the driver sleeps.
    next: Option<Instant>,
    beats: u64,
    /// The next look is the first one.
    first: bool,
    /// Looks without a beat in between.
    looks: u32,
    excuses: u32,
    /// Looks at which it waited for an answer of ours.
    questions: u32,
    /// CPU time that the process had had at the first of them, in nanoseconds.
    cpu: Option<u64>,
    /// When its heart was seen to beat last, in nanoseconds of the monotonic clock.
    last_sign: u64,
    /// It was harmed: being asleep is no excuse.
    suspicious: bool,
    completed: u64,
    scan: Instant,
    stalled: Option<Instant>,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next: None,
            beats: 0,
            first: true,
            looks: 0,
            excuses: 0,
            questions: 0,
            cpu: None,
            last_sign: 0,
            suspicious: false,
            completed: 0,
            scan: now,
            stalled: None,
        }
    }

    /// Starts over: the driver has given a sign of life.
    pub(super) fn start(&mut self, ledger: &DriverLedger, now: Instant) {
        let completed = ledger.completed();
        let stalled = self.stalled.filter(|_| completed == self.completed);
        *self = Self {
            next: Some(now),
            beats: ledger.beats(),
            last_sign: monotonic(),
            completed,
            scan: now + SCAN,
            stalled,
            ..Self::new(now)
        };
    }

    /// Nothing is to be watched.
    pub(super) fn stop(&mut self) {
        self.next = None;
        self.stalled = None;
    }

    /// Has a driver watched that may be asleep and is to wake.
    pub(super) fn suspect(&mut self, ledger: &DriverLedger, now: Instant) {
        self.start(ledger, now);
        self.suspicious = true;
    }

    /// When its heart was seen to beat last, in nanoseconds of the monotonic clock.
    pub(super) fn last_sign(&self) -> u64 {
        self.last_sign
    }

    /// One more look. Whether the process `pid` hangs; `most` looks without a beat are allowed.
    fn look(&mut self, ledger: &DriverLedger, pid: i32, most: u32, interval: Duration) -> bool {
        let patience = (ANSWER.as_nanos() / interval.as_nanos().max(1)) as u32;
        let beats = ledger.beats();
        if beats != self.beats {
            self.beats = beats;
            (self.looks, self.excuses, self.questions, self.cpu) = (0, 0, 0, None);
            self.suspicious = false;
            self.last_sign = monotonic();
            return false;
        }
        if ledger.asking() && self.questions < patience && !matches!(state(pid), Some('T' | 't')) {
            // It waits for our own answer, which takes as long as the device does.
            self.questions += 1;
            return false;
        }
        if std::mem::take(&mut self.first) {
            return false;
        }
        self.looks += 1;
        if self.looks == 1 {
            self.cpu = cpu_time(pid);
        }
        if self.looks < most {
            return false;
        }
        // Nor does one that is ending already, however long that takes.
        if is_ending(pid) {
            return false;
        }
        // One that would run and gets no CPU does not hang. Linux knows.
        let had = self.cpu.zip(cpu_time(pid)).map(|(before, now)| now.saturating_sub(before));
        let starved =
            had.is_some_and(|had| u128::from(had) < interval.as_nanos()) && wants_cpu(pid);
        self.excuses += 1;
        !starved || self.excuses > EXCUSES
    }

    /// One more look at a driver whose heart need not beat, since it waits for its device. Whether
    /// the process is stopped, which no device is the reason of.
    fn look_for_a_stop(&mut self, pid: i32, most: u32) -> bool {
        let stopped = matches!(state(pid), Some('T' | 't'));
        self.looks = if stopped { self.looks + 1 } else { 0 };
        self.looks >= most
    }
}

/// The CPU time that a process has had, in nanoseconds.
fn cpu_time(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Whether a process would run if it had a CPU.
fn wants_cpu(pid: i32) -> bool {
    state(pid) == Some('R')
}

/// Whether a process is on its way out: PF_EXITING among its flags. proc_pid_stat(5).
fn is_ending(pid: i32) -> bool {
    const EXITING: u64 = 4;
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let flags = text.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse().ok());
    flags.is_some_and(|flags: u64| flags & EXITING != 0)
}

/// The state of a process: `R` runs or would, `S` sleeps, `T` is stopped. proc_pid_stat(5).
fn state(pid: i32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
}

impl Supervisor {
    /// For how long a driver may carry out nothing: commands that take too long are aborted, and
    /// the device is reset if that does not help.
    pub(super) fn stall_limit(&self) -> Duration {
        self.config.timeout * 2 + Duration::from_secs(1)
    }

    /// When there is something to look at; nothing while there is not.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let processes = self.active.iter().chain(&self.successor);
        let running = self.active.as_ref().is_some_and(Process::is_up);
        let attachments = self.attachments.values().filter(|_| running);
        let spawn = self.spawn_after.filter(|_| {
            self.successor.is_none()
                && self.spawning.is_none()
                && self.stillborn < self.config.restart.deaths
                && matches!(self.state, State::Serving)
        });
        let pending = self.pending.and_then(|pending| pending.not_before);
        let waits = self.successor.as_ref().is_some_and(Process::is_ready);
        processes
            .filter_map(|process| process.deadline)
            .chain(attachments.filter_map(|attachment| attachment.deadline))
            .chain(spawn)
            .chain(pending.filter(|_| waits))
            .chain(self.hand_over.as_ref().map(|hand_over| hand_over.deadline))
            .chain(self.report.as_ref().and_then(|report| report.deadline))
            .chain(self.watch.next.filter(|_| self.active.is_some()))
            .min()
    }

    /// Looks at whatever is due.
    pub(crate) fn tick(&mut self, cx: &mut Context<'_>) {
        self.check_processes(cx);
        if self.watch.next.is_some_and(|next| next <= cx.now) {
            for attachment in self.attachments.values_mut() {
                attachment.watch_again(cx.registry);
            }
            self.watch(cx);
        }
        if self.hand_over.as_ref().is_some_and(|hand_over| hand_over.deadline <= cx.now) {
            self.fail_hand_over("it took too long", cx);
        }
        self.look_for_completion(cx.now);
        self.advance(cx);
    }

    fn check_processes(&mut self, cx: &mut Context<'_>) {
        let late = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= cx.now);
        if let Some(successor) = &mut self.successor
            && late(successor.deadline)
        {
            let what = if successor.stage == Stage::Ready { "end" } else { "get ready" };
            successor.kill(Cause::Late(what));
        }
        let limit = self.stall_limit();
        let Some(active) = &mut self.active else { return };
        if late(active.deadline) {
            let what = if active.stage == Stage::Up { "stop" } else { "bring the device up" };
            active.kill(active.cause.clone().unwrap_or(Cause::Late(what)));
        }
        if !active.is_up() {
            return;
        }
        let phase = self.ledger.as_ref().map(|memory| memory.ledger.phase());
        let runs = matches!(phase, Some(Ok(Phase::Running | Phase::Quiesced)));
        let overdue = self.attachments.values().find(|attachment| late(attachment.deadline));
        match overdue.map(|attachment| attachment.stage) {
            Some(attachment::Stage::Detaching) => active.kill(Cause::Holds(limit)),
            // While it resets the device, it may have to wait for that.
            Some(_) if !runs => {
                for attachment in self.attachments.values_mut() {
                    if attachment.stage == attachment::Stage::Attaching {
                        attachment.deadline = Some(cx.now + ATTACH);
                    }
                }
            }
            Some(_) => active.kill(Cause::Late("attach a client")),
            None => {}
        }
    }

    /// A look at the driver that runs.
    fn watch(&mut self, cx: &mut Context<'_>) {
        let interval = self.look_interval();
        let (Some(active), Some(memory)) = (&mut self.active, &self.ledger) else {
            return self.watch.stop();
        };
        let ledger = &memory.ledger;
        self.watch.next = Some(cx.now + interval);
        if active.cause.is_some() {
            return self.watch.stop();
        }
        // While it brings its device up or resets it, it may wait for that.
        let beats = matches!(ledger.phase(), Ok(Phase::Running | Phase::Quiesced));
        let asleep = ledger.asleep() && !self.watch.suspicious;
        let most = if active.stage == Stage::Up { LOOKS } else { ADOPTION };
        // Where one after the other seems to hang, it may be the machine that is slow.
        let progress = active.stage == Stage::Up && ledger.completed() != self.completed;
        let in_row = if progress { 0 } else { self.deaths_in_row.saturating_sub(1) };
        let most = most << in_row.min(MOST_DOUBLINGS);
        let hangs = if beats {
            !asleep && self.watch.look(ledger, active.pid(), most, interval)
        } else {
            self.watch.look_for_a_stop(active.pid(), most)
        };
        if hangs {
            return active.kill(Cause::Hung);
        }
        if self.watch.suspicious && self.watch.looks == 1 {
            // A client may have made noise that an honest driver does not hear.
            active.tell(&ToDriver::Wake, &[]);
            ledger.call_attention();
        }
        let up = active.is_up();
        if !asleep && self.watch.scan > cx.now {
            return;
        }
        self.watch.scan = cx.now + SCAN;
        let completed = ledger.completed();
        let waits =
            up && (memory.is_busy() || self.attachments.values().any(|one| one.waiting(ledger)));
        if !waits || completed != self.watch.completed {
            self.watch.completed = completed;
            self.watch.stalled = None;
        } else {
            let since = *self.watch.stalled.get_or_insert(cx.now);
            if cx.now - since >= self.stall_limit()
                && let Some(active) = &mut self.active
            {
                active.kill(Cause::Idle(cx.now - since));
            }
        }
        if asleep {
            // It sleeps although something is to be done: a client has not woken it, or it is not
            // honest. Which, shows when it is woken.
            self.watch.next = waits.then(|| cx.now + SCAN);
            if waits && let Some(active) = &mut self.active {
                active.tell(&ToDriver::Wake, &[]);
                ledger.call_attention();
            }
        }
    }

    /// Whether a driver polls, as far as is known.
    pub(crate) fn polls(&self) -> bool {
        self.watch.next.is_some() && self.active.is_some()
    }

    /// Has the driver looked at, should it pretend to sleep: a client may be waiting for it.
    pub(crate) fn doubt(&mut self, now: Instant) {
        if self.watch.next.is_none() && self.active.as_ref().is_some_and(Process::is_up) {
            self.watch.next = Some(now);
        }
    }

    /// A client has woken the driver: should it sleep on, it hangs.
    pub(crate) fn is_woken(&mut self, handle: u32, now: Instant, registry: &Registry) {
        self.suspect_sleep(now);
        // Until the next look that is all there is to know, however often the client does it. Where
        // no driver runs, the next one is looked at as soon as it does.
        if let Some(attachment) = self.attachments.get_mut(&handle) {
            attachment.unwatch(registry);
        }
    }

    fn suspect_sleep(&mut self, now: Instant) {
        let Some(memory) = self.ledger.as_ref().filter(|memory| memory.ledger.asleep()) else {
            return self.doubt(now);
        };
        if !self.watch.suspicious && self.active.as_ref().is_some_and(Process::is_up) {
            self.watch.suspect(&memory.ledger, now);
            self.watch.next = Some(now + self.look_interval());
        }
    }

    /// The time between two looks.
    fn look_interval(&self) -> Duration {
        (self.config.hang / (LOOKS + 1)).max(Duration::from_millis(1))
    }

    /// The report on the last death tells when the first request was completed after it.
    pub(super) fn look_for_completion(&mut self, now: Instant) {
        let (Some(report), Some(memory)) = (&mut self.report, &self.ledger) else { return };
        let completed = report.look(memory.ledger.adoption().2, monotonic());
        if completed || report.deadline.is_some_and(|deadline| deadline <= now) {
            self.finish_report();
        }
    }
}
