//! An I/O queue pair, owned by one thread.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uniddrv::block::SubmitError;
use uniddrv::{DmaBuf, Interrupt, clock};
use uniddrv_spec::nvme::status::Status;

use crate::error::{CommandError, ControllerError};
use crate::namespace::Command;
use crate::queue::{QueuePair, Reaped};
use crate::shared::{Phase, Shared, State};

/// Ticks of a queue's clock in the time that a command may take.
const TICKS: u32 = 8;
/// The longest tick: how late a removal is noticed at most.
const LONGEST_TICK: Duration = Duration::from_millis(100);
/// Polls between two looks at the clock; powers of two. Polls that find nothing have the time.
const BUSY_POLLS: u32 = 1024;
const IDLE_POLLS: u32 = 16;
/// The most bytes of metadata of one command, in formats that keep them apart.
const METADATA: usize = 16 << 20;
/// Commands that are appended at most before the doorbell is rung for them.
const BATCH: u32 = 16;

/// A queue pair for commands on any namespace. It shares no lock with other queues on the data
/// path; `submit` and `poll` make no system call and allocate nothing, unless a command takes
/// too long.
pub struct IoQueue {
    pair: QueuePair,
    shared: Arc<Shared>,
    id: u16,
    vector: Option<(u16, Interrupt)>,
    /// The state in which this queue exists in the controller.
    state: State,
    /// Whether the controller refused the queue after a reset.
    refused: bool,
    /// Appended since the doorbell was rung.
    unrung: u32,
    /// Where metadata come from and go to in formats that keep them apart: a part that holds
    /// zeroes, and a part of the same length for what is read.
    metadata: Option<DmaBuf>,
    polls: u32,
    clock: Clock,
    spin: Spin,
}

/// When the next tick is, and how long one lasts, in ticks of the CPU.
struct Clock {
    next: u64,
    period: u64,
    /// How many of our ticks a command has, and an aborted one from then on.
    timeout: u32,
    grace: u32,
    /// What had completed at the last look.
    completed: u64,
}

/// How long waits spin, in ticks of the CPU: longer while that pays, shorter while not.
struct Spin {
    now: u64,
    most: u64,
}

/// A command that has ended. Each that was accepted ends exactly once.
#[derive(Debug)]
pub struct Completed {
    /// What the submitter called it.
    pub tag: u64,
    /// Dword 0 of the completion, or how it failed.
    pub result: Result<u32, CommandError>,
    /// Its buffer.
    pub buffer: Option<DmaBuf>,
}

impl IoQueue {
    /// A queue that exists in the controller already, since `state`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        id: u16,
        pair: QueuePair,
        vector: Option<(u16, Interrupt)>,
        state: State,
    ) -> Self {
        let tick = (shared.options.timeout / TICKS).clamp(Duration::from_millis(1), LONGEST_TICK);
        let in_ticks = |time: Duration| {
            u32::try_from(time.as_nanos().div_ceil(tick.as_nanos())).unwrap_or(u32::MAX / 4)
        };
        let period = clock::to_ticks(tick);
        let most = clock::to_ticks(shared.options.spin.min(Duration::from_secs(1)));
        Self {
            pair,
            id,
            vector,
            state,
            refused: false,
            unrung: 0,
            metadata: None,
            polls: 0,
            clock: Clock {
                next: clock::ticks() + period,
                period: period.max(1),
                timeout: in_ticks(shared.options.timeout),
                grace: in_ticks(shared.options.admin_timeout),
                completed: 0,
            },
            spin: Spin { now: most, most },
            shared,
        }
    }

    /// Its identifier in the controller, from 1.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// How many commands may be on their way at once.
    pub fn depth(&self) -> usize {
        self.pair.depth()
    }

    /// How many are.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.pair.in_flight()
    }

    /// Completions that the controller posted for no command that was on its way: duplicates,
    /// or wrong identifiers. They were ignored.
    pub fn unknown_completions(&self) -> u64 {
        self.pair.unknown()
    }

    /// Takes a command, with the buffer for its data where it moves any (at least as long as
    /// what it moves). It starts with the next [`poll`](Self::poll) that finds nothing, with
    /// [`ring`](Self::ring), or once 16 are waiting. `tag` comes back with its completion.
    ///
    /// # Errors
    /// With the buffer, when it cannot be accepted: nothing was done.
    #[inline]
    pub fn submit(
        &mut self,
        command: &Command,
        buffer: Option<DmaBuf>,
        tag: u64,
    ) -> Result<(), (SubmitError, Option<DmaBuf>)> {
        if self.shared.state() != self.state || self.refused {
            return Err((self.why_not(), buffer));
        }
        let available = buffer.as_ref().map_or(0, DmaBuf::len);
        if command.len > available || (command.len == 0 && buffer.is_some()) {
            return Err((SubmitError::Buffer, buffer));
        }
        if command.len > self.pair.max_transfer() {
            // Of a namespace of another controller.
            let max = self.pair.max_transfer() as u32;
            return Err((SubmitError::TooLarge { len: command.len, max }, buffer));
        }
        let mut entry = command.entry;
        if command.metadata > 0 {
            match self.metadata_address(command) {
                Some(address) => entry = entry.with_mptr(address),
                None => return Err((SubmitError::Unsupported, buffer)),
            }
        }
        match self.pair.submit(entry, buffer, command.len, tag) {
            Ok(_) => {
                self.unrung += 1;
                if self.unrung >= BATCH {
                    self.ring();
                }
                Ok(())
            }
            Err(buffer) => Err((SubmitError::Full, buffer)),
        }
    }

    #[cold]
    fn why_not(&self) -> SubmitError {
        if self.refused || self.shared.state().phase() == Phase::Gone {
            SubmitError::Gone
        } else {
            SubmitError::NotReady
        }
    }

    /// Starts all commands that were submitted.
    #[inline]
    pub fn ring(&mut self) {
        if self.unrung > 0 && self.shared.state() == self.state {
            self.unrung = 0;
            self.pair.rings().ring();
        }
    }

    /// The next command that has ended. When there is none, starts what was submitted.
    #[inline]
    pub fn poll(&mut self) -> Option<Completed> {
        if self.shared.state() != self.state {
            return self.poll_stopped();
        }
        self.polls = self.polls.wrapping_add(1);
        if let Some(reaped) = self.pair.reap() {
            self.pair.rings().acknowledge();
            if self.polls.is_multiple_of(BUSY_POLLS) {
                self.look_at_clock();
            }
            return Some(completed(reaped));
        }
        self.ring();
        self.pair.rings().acknowledge();
        if self.polls.is_multiple_of(IDLE_POLLS) {
            self.look_at_clock();
        }
        None
    }

    /// Waits until [`poll`](Self::poll) has something to say, `timeout` at most: spins first,
    /// then sleeps until the queue's interrupt, where it has one. Whether it has.
    ///
    /// # Errors
    /// When the interrupt cannot be waited for.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        // A year is as good as for ever, and can be added to any time.
        let timeout = timeout.min(Duration::from_hours(365 * 24));
        let end = Instant::now() + timeout;
        self.ring();
        let spin_end = clock::ticks() + self.spin.now.min(clock::to_ticks(timeout));
        while clock::ticks() < spin_end {
            if self.has_news() {
                self.spin.now = (self.spin.now * 2).min(self.spin.most);
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        self.spin.now = (self.spin.now / 2).max(self.spin.most / 16);
        loop {
            // A controller need not interrupt for entries while others are unacknowledged.
            if self.shared.state() == self.state {
                self.pair.rings().acknowledge_now();
            }
            if self.has_news() {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            match &self.vector {
                Some((_, interrupt)) => {
                    interrupt.wait(left.min(LONGEST_TICK))?;
                }
                None => std::thread::sleep(left.min(Duration::from_micros(50))),
            }
            self.look_at_clock();
        }
    }

    fn has_news(&self) -> bool {
        let stopped = self.shared.state() != self.state;
        // A queue that is lost and has ended every command says nothing more.
        (stopped && (self.pair.in_flight() > 0 || self.why_not() == SubmitError::NotReady))
            || self.pair.pending()
    }

    /// The controller was reset, is being reset, or is gone.
    #[cold]
    fn poll_stopped(&mut self) -> Option<Completed> {
        // What it completed before counts, also while it is being stopped.
        if let Some(reaped) = self.pair.reap() {
            return Some(completed(reaped));
        }
        let state = self.shared.state();
        let error = match state.phase() {
            Phase::Resetting => return None,
            Phase::Running => CommandError::Reset,
            Phase::Gone => CommandError::Gone,
        };
        // It has stopped, so nothing is completed any more and no buffer is in its reach.
        if let Some(reaped) = self.pair.reap() {
            return Some(completed(reaped));
        }
        if let Some((tag, buffer)) = self.pair.give_up_one() {
            return Some(Completed { tag, result: Err(error), buffer });
        }
        if state.phase() == Phase::Running && !self.refused {
            self.attach_again();
        }
        None
    }

    /// Makes the queue anew in a controller that was reset.
    fn attach_again(&mut self) {
        let vector = self.vector.as_ref().map(|(vector, _)| *vector);
        self.unrung = 0;
        let mut admin = self.shared.lock();
        match admin.create_queue(&self.shared, self.id, self.pair.rings(), vector) {
            Ok(()) => {
                // Unless it was lost since: the old state leads to the right end then.
                let state = self.shared.state();
                if state.phase() == Phase::Running {
                    self.state = state;
                }
            }
            // It was reset again: there is another try.
            Err(
                ControllerError::Timeout { .. }
                | ControllerError::Fatal { .. }
                | ControllerError::Gone { .. },
            ) => {}
            Err(error) => {
                tracing::error!(%error, queue = self.id, "the queue is lost");
                self.refused = true;
            }
        }
    }

    /// Once in a tick: is the controller there and well, and has no command taken too long?
    #[cold]
    fn look_at_clock(&mut self) {
        let now = clock::ticks();
        if now < self.clock.next || self.shared.state() != self.state {
            return;
        }
        // As many ticks as have passed: for a queue that is polled seldom, too.
        let passed = (now - self.clock.next) / self.clock.period + 1;
        self.clock.next = now + self.clock.period;
        self.pair.tick = self.pair.tick.wrapping_add(passed.min(u64::from(u32::MAX)) as u32);
        if self.pair.completed != self.clock.completed {
            self.clock.completed = self.pair.completed;
            self.shared.made_progress();
        }
        if self.pair.in_flight() == 0 {
            return;
        }
        let csts = self.shared.csts();
        if csts.is_gone() {
            self.shared.lose(&self.shared.removal());
        } else if csts.cfs() {
            self.reset("controller fatal status");
        } else if !csts.rdy() {
            self.reset("somebody else has stopped the controller");
        } else {
            self.look_for_late_commands();
        }
    }

    fn look_for_late_commands(&mut self) {
        let tick = self.pair.tick;
        // What has completed but is not reaped yet is late only by our own doing; a queue that
        // never runs empty gets twice the time for it.
        let factor = if self.pair.pending() { 2 } else { 1 };
        let grace = self.clock.grace.saturating_mul(factor);
        let timeout = self.clock.timeout.saturating_mul(factor);
        let late = self.pair.busy().find(|(_, slot)| {
            tick.wrapping_sub(slot.tick) > if slot.abort_sent { grace } else { timeout }
        });
        let Some((cid, slot)) = late else { return };
        if slot.abort_sent {
            return self.reset("an aborted command did not end");
        }
        // Without the admin queue, which somebody has for longer: the next tick will do.
        let Some(mut admin) = self.shared.try_lock() else { return };
        if self.shared.state() != self.state {
            return;
        }
        (slot.abort_sent, slot.tick) = (true, tick);
        tracing::warn!(queue = self.id, cid, "a command takes too long: abort");
        if let Err(error) = admin.abort(&self.shared, self.id, cid) {
            tracing::warn!(%error, "abort failed");
        }
    }

    fn reset(&self, why: &str) {
        if let Some(mut admin) = self.shared.try_lock()
            && self.shared.state() == self.state
        {
            admin.reset(&self.shared, why);
        }
    }

    /// Where the metadata of `command` lie. Prepared by [`prepare_metadata`](Self::prepare_metadata).
    fn metadata_address(&self, command: &Command) -> Option<u64> {
        let buffer = self.metadata.as_ref()?;
        let half = buffer.len() / 2;
        let offset = if command.writes { 0 } else { half };
        (command.metadata <= half).then_some(buffer.iova() + offset as u64)
    }

    /// Makes room for the metadata of commands on namespaces that keep them apart, `len` bytes
    /// a command at most.
    pub(crate) fn prepare_metadata(&mut self, len: usize) -> Result<(), ControllerError> {
        if len > METADATA {
            return Err(ControllerError::Unsupported {
                address: self.shared.address(),
                reason: format!("{len} bytes of metadata a command; {METADATA} are possible"),
            });
        }
        let len = len.next_multiple_of(uniddrv::dma::PAGE);
        self.metadata = Some(self.shared.device.dma_buffer(2 * len)?);
        Ok(())
    }
}

#[inline]
fn completed(Reaped { tag, entry, buffer }: Reaped) -> Completed {
    let status = entry.status();
    let result = if status.is_success() {
        Ok(entry.dw0())
    } else if status.code() == Status::ABORT_REQUESTED {
        Err(CommandError::Aborted)
    } else {
        Err(CommandError::Status(status))
    };
    Completed { tag, result, buffer }
}

impl Drop for IoQueue {
    fn drop(&mut self) {
        let mut admin = self.shared.lock();
        let exists = self.shared.state() == self.state && !self.refused;
        if exists && let Err(error) = admin.delete_queue(&self.shared, self.id) {
            // Buffers may still be in the controller's reach: it has to be stopped before they
            // are given back. If it cannot be, its DMA is.
            tracing::warn!(%error, queue = self.id, "the queue could not be deleted");
            if self.shared.state() == self.state {
                admin.reset(&self.shared, "a queue could not be deleted");
            }
        }
        admin.return_queue(self.id, self.vector.take());
    }
}
