//! The connection to the core: one question at a time, each with its answer in order, and what
//! the core says unasked.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use uniddrv_abi::message::{FromCore, ToCore};

use super::error::CoreError;
use super::reactor;
use crate::control::{Control, ControlError};
use crate::dma::DmaBuf;

/// Names taken from us whose reason is kept.
const REASONS: usize = 1024;
/// Messages that are taken at once.
const MESSAGES: usize = 64;

/// A connection to the core.
pub(super) struct Link {
    /// The same socket, to be looked at without the lock.
    watch: OwnedFd,
    wire: Mutex<Wire>,
    state: Mutex<State>,
    dead: AtomicBool,
}

/// Locked while a question waits for its answer.
struct Wire {
    control: Control,
    /// Answers to come that nobody waits for, with what must be kept until then.
    owed: VecDeque<Vec<DmaBuf>>,
    /// What must be kept for good: the core could not be told to let go of it.
    kept: Vec<DmaBuf>,
}

/// Never locked for long; after `wire` where both are.
#[derive(Default)]
struct State {
    /// Names that were taken from us, and why.
    closed: Vec<(u32, String)>,
    /// What to close, with the buffers that a device may reach until it is.
    closing: Vec<(u32, Vec<DmaBuf>)>,
    /// Why the connection has ended.
    dead: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is complete before anything that can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn new(fd: OwnedFd) -> std::io::Result<Self> {
        let watch = fd.try_clone()?;
        let control = Control::new(fd);
        let wire = Wire { control, owed: VecDeque::new(), kept: Vec::new() };
        Ok(Self {
            watch,
            wire: Mutex::new(wire),
            state: Mutex::default(),
            dead: AtomicBool::new(false),
        })
    }

    /// Asks, and waits `limit` at most for the answer. `action` is for errors.
    pub(super) fn ask(
        &self,
        action: &str,
        question: &ToCore,
        limit: Duration,
    ) -> Result<(FromCore, Vec<OwnedFd>), CoreError> {
        let answer = self.exchange(&mut lock(&self.wire), action, question, limit);
        self.settle();
        match answer? {
            (FromCore::Refused { code, text }, _) => {
                Err(CoreError::Refused { action: action.into(), code, text })
            }
            answer => Ok(answer),
        }
    }

    fn exchange(
        &self,
        wire: &mut Wire,
        action: &str,
        question: &ToCore,
        limit: Duration,
    ) -> Result<(FromCore, Vec<OwnedFd>), CoreError> {
        let ended = |reason| CoreError::Ended { action: action.into(), reason };
        if let Some(reason) = self.ended() {
            return Err(ended(reason));
        }
        match wire.control.send(question, &[]) {
            Ok(()) => {}
            // A question that is too long is no fault of the connection.
            Err(ControlError::Message(error)) => {
                return Err(CoreError::Options(format!("{action}: {error}")));
            }
            Err(ControlError::Closed) => return Err(ended(self.end("the core has closed it"))),
            Err(error) => return Err(CoreError::protocol(action, error.to_string())),
        }
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match wire.control.receive_within::<FromCore>(left) {
                Ok((message, fds)) => {
                    if let Some(answer) = self.sort(wire, message) {
                        return Ok((answer, fds));
                    }
                    // Whatever it says unasked does not keep us longer.
                    if Instant::now() < end {
                        continue;
                    }
                }
                Err(ControlError::TimedOut(_)) => {}
                Err(error) => return Err(self.broken(action, error)),
            }
            // Should the answer still come, it is nobody's.
            wire.owed.push_back(Vec::new());
            return Err(CoreError::TimedOut { action: action.into(), limit });
        }
    }

    fn broken(&self, action: &str, error: ControlError) -> CoreError {
        match error {
            ControlError::Message(error) => {
                self.end(&format!("the core broke the protocol: {error}"));
                CoreError::protocol(action, error.to_string())
            }
            ControlError::Closed => {
                let reason = self.end("the core has closed it");
                CoreError::Ended { action: action.into(), reason }
            }
            error => {
                let reason = self.end(&error.to_string());
                CoreError::Ended { action: action.into(), reason }
            }
        }
    }

    /// Takes what is no answer to a present question; gives back what is.
    fn sort(&self, wire: &mut Wire, message: FromCore) -> Option<FromCore> {
        if let FromCore::Closed { handle, text } = message {
            let mut state = lock(&self.state);
            if state.closed.len() == REASONS {
                state.closed.remove(0);
            }
            state.closed.push((handle, text));
            drop(state);
            reactor::alarm();
            return None;
        }
        let Some(kept) = wire.owed.pop_front() else { return Some(message) };
        drop(kept);
        if let FromCore::Opened { handle, .. } = message {
            // It came too late for whoever asked.
            lock(&self.state).closing.push((handle, Vec::new()));
        }
        None
    }

    /// Ends the connection on this side. The reason, or that of an earlier end.
    pub(super) fn end(&self, reason: &str) -> String {
        let reason = lock(&self.state).dead.get_or_insert_with(|| reason.into()).clone();
        if !self.dead.swap(true, Ordering::AcqRel) {
            reactor::alarm();
        }
        reason
    }

    /// Why the connection has ended, if it has.
    pub(super) fn ended(&self) -> Option<String> {
        if !self.dead.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.state).dead.clone()
    }

    /// Takes what the core has said unasked. Does not wait.
    pub(super) fn look(&self) {
        if self.dead.load(Ordering::Acquire) {
            return;
        }
        let mut fds = [PollFd::new(&self.watch, PollFlags::IN)];
        if !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..)) {
            return;
        }
        match self.wire.try_lock() {
            Ok(mut wire) => self.pump(&mut wire),
            Err(TryLockError::Poisoned(poisoned)) => self.pump(&mut poisoned.into_inner()),
            // Whoever has it waits for an answer and takes this along.
            Err(TryLockError::WouldBlock) => return,
        }
        self.settle();
    }

    fn pump(&self, wire: &mut Wire) {
        for _ in 0..MESSAGES {
            match wire.control.receive::<FromCore>() {
                Ok(Some((message, _))) => {
                    if self.sort(wire, message).is_some() {
                        self.end("the core broke the protocol: an answer that nobody asked for");
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    self.broken("look at what the core says", error);
                    return;
                }
            }
        }
    }

    /// Why `handle` was taken from us, if it was.
    pub(super) fn closed(&self, handle: u32) -> Option<String> {
        let state = lock(&self.state);
        let taken = state.closed.iter().find(|(closed, _)| *closed == handle);
        taken.map(|(_, text)| text.clone()).or_else(|| state.dead.clone())
    }

    /// Closes `handle`, without waiting for it. `buffers` are given back to the arena once the
    /// core says that it is done.
    pub(super) fn close(&self, handle: u32, buffers: Vec<DmaBuf>) {
        lock(&self.state).closing.push((handle, buffers));
        self.settle();
    }

    /// Sends what is to be closed. Whoever has the wire looks for more once he has let go of it.
    fn settle(&self) {
        while !lock(&self.state).closing.is_empty() {
            let mut wire = match self.wire.try_lock() {
                Ok(wire) => wire,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let closing = std::mem::take(&mut lock(&self.state).closing);
            for (handle, buffers) in closing {
                match wire.control.send(&ToCore::Close { handle }, &[]) {
                    Ok(()) => wire.owed.push_back(buffers),
                    Err(_) => wire.kept.extend(buffers),
                }
            }
        }
    }
}

/// The socket, to wait for what the core says.
impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
