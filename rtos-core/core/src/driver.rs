//! A driver process: its life from the spawning to the end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::process::Signal;
use uniddrv::control::{Control, ControlError};
use uniddrv_abi::message::{Beginning, FromDriver, ToDriver};

use crate::context::monotonic;
use crate::death::Cause;
use crate::device::DriverId;
use crate::ids::Source;
use crate::program::Program;
use crate::sandbox::Child;

/// Messages of one driver that are read in one turn of the event loop.
const TURN: u32 = 64;
/// Messages a second that no honest driver sends.
const FLOOD: u32 = 20_000;
/// Lines a second of a driver that are logged.
const LINES: u32 = 50;

/// How long a process may take to end that says that it does.
const LAST_BREATH: Duration = Duration::from_secs(5);
/// A process that waited for so long started well.
const LONG: Duration = Duration::from_secs(10);

/// What the spawning of a process yields.
pub(crate) struct Spawned {
    pub(crate) child: Child,
    pub(crate) control: OwnedFd,
    pub(crate) device: OwnedFd,
    pub(crate) program: Arc<Program>,
}

/// How far a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It maps what it was given.
    Preparing,
    /// It is ready, and is being put on its CPU: until that is done, its number stays its own.
    Placing,
    /// It waits to be told to begin.
    Ready,
    /// It was told to begin.
    Begun(Beginning),
    /// It runs the device.
    Up,
}

/// A driver process.
pub(crate) struct Process {
    pub(crate) id: DriverId,
    pub(crate) program: Arc<Program>,
    pub(crate) stage: Stage,
    /// When it counts as hung unless its stage has changed.
    pub(crate) deadline: Option<Instant>,
    /// Why the core ended it, or has it end.
    pub(crate) cause: Option<Cause>,
    /// When the core harmed it, in nanoseconds of the monotonic clock.
    pub(crate) harmed_at: Option<u64>,
    /// When the core killed it.
    pub(crate) killed_at: Option<u64>,
    /// Since when it is in its stage.
    since: Instant,
    child: Child,
    control: Control,
    /// Whether messages may wait that the event loop will not be told of again.
    pub(crate) unread: bool,
    second: Instant,
    messages: u32,
    lines: u32,
}

/// What a look at a process's control socket found.
pub(crate) enum Heard {
    /// Nothing more.
    Nothing,
    /// A message.
    Message(FromDriver),
    /// What ends it.
    Violation(Cause),
}

impl Process {
    /// Watches over a process that was spawned.
    ///
    /// # Errors
    /// Where it cannot be waited for: ENOMEM, ENOSPC.
    pub(crate) fn new(
        id: DriverId,
        child: Child,
        control: OwnedFd,
        program: Arc<Program>,
        registry: &Registry,
        now: Instant,
    ) -> Result<Self, (std::io::Error, Child)> {
        let watch = |fd: BorrowedFd<'_>, source: Source| {
            registry.register(&mut SourceFd(&fd.as_raw_fd()), source.token(), Interest::READABLE)
        };
        let watched = watch(child.as_fd(), Source::End(id))
            .and_then(|()| watch(control.as_fd(), Source::Control(id)));
        if let Err(error) = watched {
            return Err((error, child));
        }
        Ok(Self {
            id,
            program,
            stage: Stage::Preparing,
            deadline: None,
            cause: None,
            harmed_at: None,
            killed_at: None,
            since: now,
            child,
            control: Control::new(control),
            unread: false,
            second: now,
            messages: 0,
            lines: 0,
        })
    }

    /// Its number among Linux's processes.
    pub(crate) fn pid(&self) -> i32 {
        self.child.pid().as_raw_nonzero().get()
    }

    /// Whether it runs the device.
    pub(crate) fn is_up(&self) -> bool {
        self.stage == Stage::Up && self.cause.is_none()
    }

    /// Whether it waits to be told to begin.
    pub(crate) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready && self.cause.is_none()
    }

    /// It waits to be told to begin, from `now` on.
    pub(crate) fn is_waiting(&mut self, now: Instant) {
        (self.stage, self.since, self.deadline) = (Stage::Ready, now, None);
    }

    /// It was told to begin.
    pub(crate) fn begin(&mut self, how: Beginning, deadline: Instant, now: Instant) {
        (self.stage, self.since, self.deadline) = (Stage::Begun(how), now, Some(deadline));
    }

    /// It runs the device, from `now` on.
    pub(crate) fn is_running(&mut self, now: Instant) {
        (self.stage, self.since, self.deadline) = (Stage::Up, now, None);
    }

    /// It says that it fails, and is to end by itself.
    pub(crate) fn fails(&mut self, cause: Cause, now: Instant) {
        self.cause.get_or_insert(cause);
        self.deadline = Some(now + LAST_BREATH);
    }

    /// Whether it has waited for so long that what it ends of now is no matter of its start.
    pub(crate) fn has_waited_long(&self, now: Instant) -> bool {
        self.stage == Stage::Ready && now - self.since > LONG
    }

    /// Sends it a message. One that cannot be told anything is killed.
    pub(crate) fn tell(&mut self, message: &ToDriver, fds: &[BorrowedFd<'_>]) -> bool {
        if self.cause.as_ref().is_some_and(Cause::kills) {
            return false;
        }
        match self.control.send(message, fds) {
            Ok(()) => true,
            // It has ended, or will in a moment: that is told otherwise.
            Err(ControlError::Closed) => false,
            Err(ControlError::Full) => {
                self.kill(Cause::Violation("it does not read what it is told".into()));
                false
            }
            Err(error) => {
                self.kill(Cause::Violation(format!("it cannot be told anything: {error}")));
                false
            }
        }
    }

    /// Reads its next message. `turn` counts those of this turn.
    pub(crate) fn hear(&mut self, turn: &mut u32, now: Instant) -> Heard {
        self.unread = *turn >= TURN;
        if self.unread {
            return Heard::Nothing;
        }
        *turn += 1;
        let (message, fds) = match self.control.receive::<FromDriver>() {
            Ok(Some(received)) => received,
            // Its end is told by its pidfd; what closes its socket and goes on, hangs.
            Ok(None) => return Heard::Nothing,
            Err(ControlError::Closed) => {
                self.deadline.get_or_insert(now + Duration::from_secs(1));
                return Heard::Nothing;
            }
            Err(error) => return Heard::Violation(Cause::Violation(error.to_string())),
        };
        if !fds.is_empty() {
            let text = format!("it sent {} file descriptors", fds.len());
            return Heard::Violation(Cause::Violation(text));
        }
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.messages, self.lines) = (now, 0, 0);
        }
        self.messages += 1;
        if self.messages > FLOOD {
            let text = format!("it sent more than {FLOOD} messages in a second");
            return Heard::Violation(Cause::Violation(text));
        }
        Heard::Message(message)
    }

    /// Whether one more of its lines may be logged in this second.
    pub(crate) fn may_log(&mut self) -> bool {
        self.lines += 1;
        self.lines <= LINES
    }

    /// Ends it, for the first reason that is given.
    pub(crate) fn kill(&mut self, cause: Cause) {
        if !self.cause.as_ref().is_some_and(Cause::kills) {
            tracing::debug!(pid = self.pid(), %cause, "killing a driver process");
            self.cause = Some(cause);
            self.killed_at = Some(monotonic());
        }
        self.deadline = None;
        self.signal(Signal::KILL);
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = self.child.kill(signal) {
            tracing::error!(pid = self.pid(), %error, "cannot signal a driver process");
        }
    }

    /// How it has ended, once it has.
    pub(crate) fn ended(&mut self) -> Option<uniddrv::process::Ended> {
        match self.child.try_wait() {
            Ok(ended) => ended,
            Err(error) => {
                // Nobody else waits for our children; but never wait for one that is gone.
                tracing::error!(pid = self.pid(), %error, "cannot wait for a driver process");
                Some(uniddrv::process::Ended::Exited(-1))
            }
        }
    }
}
