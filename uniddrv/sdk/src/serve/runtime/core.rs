//! The connection of a driver process to the core.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use uniddrv_abi::message::{FromDriver, ToDriver};

use super::End;
use crate::control::{Control, ControlError};
use crate::serve::log;

/// Messages that wait for room in the control socket; beyond that, what is only told is dropped.
const MOST_WAITING: usize = 256;
/// How long the last message may wait for room.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// The connection to the core.
pub(super) struct Core {
    pub(super) control: Control,
    /// What there was no room for.
    pub(super) waiting: VecDeque<FromDriver>,
}

impl Core {
    pub(super) fn new(control: OwnedFd) -> Self {
        Self { control: Control::new(control), waiting: VecDeque::new() }
    }

    /// Tells the core something, at once or as soon as there is room.
    pub(super) fn tell(&mut self, mut message: FromDriver) {
        message.cut_text();
        self.flush();
        if self.waiting.is_empty() {
            match self.control.send(&message, &[]) {
                Err(ControlError::Full) => {}
                // Whether it is gone shows when it is listened to.
                _ => return,
            }
        }
        let droppable = matches!(message, FromDriver::Log { .. } | FromDriver::Awake);
        if !droppable || self.waiting.len() < MOST_WAITING {
            self.waiting.push_back(message);
        }
    }

    pub(super) fn log(&mut self, level: u8, text: String) {
        self.tell(FromDriver::Log { level, text });
    }

    /// Whether there is something to be sent.
    #[inline]
    pub(super) fn has_more(&self) -> bool {
        !self.waiting.is_empty() || log::is_waiting()
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush(&mut self) {
        if log::is_waiting() {
            let room = MOST_WAITING.saturating_sub(self.waiting.len());
            let lines = log::take().into_iter().take(room);
            self.waiting.extend(lines.map(|(level, text)| {
                let mut line = FromDriver::Log { level, text };
                line.cut_text();
                line
            }));
        }
        while let Some(message) = self.waiting.front() {
            if matches!(self.control.send(message, &[]), Err(ControlError::Full)) {
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// Tells the core something and waits a little until it is said, since nothing follows.
    pub(super) fn tell_last(&mut self, message: FromDriver) {
        self.tell(message);
        let end = Instant::now() + LAST_WAIT;
        while !self.waiting.is_empty() && Instant::now() < end {
            let wait = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            let _ = poll(&mut [PollFd::new(&self.control, PollFlags::OUT)], Some(&wait));
            self.flush();
        }
    }

    /// Why this process cannot go on. The device is not gone.
    pub(super) fn fail(&mut self, text: impl Into<String>) -> End {
        self.tell_last(FromDriver::Failed { gone: false, text: text.into() });
        End::Failed
    }

    /// The next message, if there is one.
    pub(super) fn hear(&mut self) -> Result<Option<(ToDriver, Vec<OwnedFd>)>, End> {
        match self.control.receive() {
            Ok(message) => Ok(message),
            Err(ControlError::Closed) => Err(End::Orphaned),
            Err(error) => Err(self.fail(format!("what the core said: {error}"))),
        }
    }

    /// The next message, however long it takes.
    pub(super) fn wait(&mut self) -> Result<(ToDriver, Vec<OwnedFd>), End> {
        loop {
            self.flush();
            if let Some(message) = self.hear()? {
                return Ok(message);
            }
            let mut events = PollFlags::IN;
            if !self.waiting.is_empty() {
                events |= PollFlags::OUT;
            }
            // Fails only where it is interrupted.
            let _ = poll(&mut [PollFd::new(&self.control, events)], None);
        }
    }
}
