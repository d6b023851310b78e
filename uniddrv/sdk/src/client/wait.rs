//! Waiting on a queue: looking for a while, then sleeping until the driver or the core says
//! something.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use uniddrv_abi::queue::{self, Side};

use super::queue::ClientQueue;
use crate::clock;

/// The longest sleep before the core is looked at again: another thread of this process may have
/// taken the core's word that the queue is closed.
const LONGEST: Duration = Duration::from_secs(1);
/// The longest sleep where nobody can wake us.
pub(super) const DEAF: Duration = Duration::from_millis(5);
/// Wake-ups that are taken from the socket at once.
const WAKES: usize = 64;

/// Who ended a sleep, or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    ByDriver,
    ByCore,
}

/// How a queue sleeps and wakes.
pub(super) struct Sleep {
    socket: OwnedFd,
    /// In ticks: how long to look before sleeping, now and at most. Looking that was worth it
    /// makes it longer, looking in vain shorter.
    spin: u64,
    most: u64,
    /// Whether to offer the CPU to others meanwhile.
    pub(super) yields: bool,
    /// The driver was told that this side sleeps.
    armed: bool,
    /// The other end of the socket was closed.
    deaf: bool,
}

impl Sleep {
    pub(super) fn new(socket: OwnedFd, spin: Duration, yields: bool) -> Self {
        let most = clock::to_ticks(spin.min(LONGEST));
        Self { socket, spin: most, most, yields, armed: false, deaf: false }
    }

    /// Wakes the driver. Where the socket is full, it has been.
    #[cold]
    pub(super) fn wake_driver(&self) {
        let _ = send(&self.socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Whether the driver was told that this side sleeps.
    pub(super) fn is_armed(&self) -> bool {
        self.armed
    }

    /// Whether nobody can wake this side any more.
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// How long to look before sleeping at most, in ticks.
    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// The socket that the driver wakes this side by, once more.
    pub(super) fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Takes the wake-ups that came.
    pub(super) fn drain(&mut self) {
        let mut bytes = [0; 64];
        for _ in 0..WAKES {
            match recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => {
                    self.deaf = true;
                    return;
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.deaf = true;
                    return;
                }
            }
        }
    }
}

impl ClientQueue {
    /// Waits until [`poll`](crate::block::BlockQueue::poll) has something to say, `timeout` at
    /// most: looks for a while first, then sleeps until it is woken. Whether it has; at once
    /// that it has not where the queue has ended and nothing is on its way.
    ///
    /// # Errors
    /// When the system does not let it sleep.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        // A year is as good as for ever, and can be added to any time.
        let timeout = timeout.min(Duration::from_hours(365 * 24));
        let end = Instant::now() + timeout;
        if self.ended || self.lost {
            return Ok(self.in_flight() > 0);
        }
        self.start();
        if self.look_for_news(timeout) {
            return Ok(true);
        }
        loop {
            if !self.arm() {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.disarm();
                return Ok(self.has_news());
            }
            let slept = self.sleep(left);
            self.disarm();
            if slept? == Woken::ByCore && self.capability.closed().is_some() {
                self.lost = true;
                return Ok(self.in_flight() > 0);
            }
        }
    }

    fn look_for_news(&mut self, timeout: Duration) -> bool {
        let start = clock::ticks();
        let budget = self.sleep.spin.min(clock::to_ticks(timeout));
        loop {
            if self.has_news() {
                self.sleep.spin = (self.sleep.spin * 2).clamp(1, self.sleep.most.max(1));
                return true;
            }
            if clock::ticks().wrapping_sub(start) >= budget {
                break;
            }
            if self.sleep.yields {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        self.sleep.spin = (self.sleep.spin / 2).max(self.sleep.most / 16);
        false
    }

    /// Whether a poll would find something.
    #[inline]
    pub(super) fn has_news(&mut self) -> bool {
        let words = self.submitter.words();
        self.ended
            || self.lost
            || queue::closed(words) != 0
            || queue::epoch(words) != self.epoch
            // An index that cannot be is news too.
            || self.reaper.look().map_or(true, |waiting| waiting > 0)
    }

    /// Tells the driver that this side sleeps, unless there is something to be polled. Whether it
    /// was told.
    pub(super) fn arm(&mut self) -> bool {
        self.start();
        queue::announce_sleep(self.submitter.words(), Side::Client);
        self.sleep.armed = true;
        if self.has_news() {
            self.disarm();
            return false;
        }
        true
    }

    /// Tells the driver that this side is awake.
    pub(super) fn disarm(&mut self) {
        if self.sleep.armed {
            self.sleep.armed = false;
            queue::awake(self.submitter.words(), Side::Client);
        }
    }

    /// Sleeps until the driver or the core says something, `left` at most.
    fn sleep(&mut self, left: Duration) -> io::Result<Woken> {
        let left = left.min(if self.sleep.deaf { DEAF } else { LONGEST });
        let timeout =
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let fd = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = [fd(self.capability.link.as_fd()), fd(self.sleep.socket.as_fd())];
        // A socket whose other end is closed would end every sleep at once.
        let watched = if self.sleep.deaf { 1 } else { 2 };
        let woken = match poll(&mut fds[..watched], Some(&timeout)) {
            Ok(count) => count,
            Err(Errno::INTR) => return Ok(Woken::ByDriver),
            Err(error) => return Err(error.into()),
        };
        let [core, driver] = fds.map(|fd| !fd.revents().is_empty());
        if driver {
            self.sleep.drain();
        }
        // Also after a long sleep: the core may have said it to another thread.
        Ok(if core || woken == 0 { Woken::ByCore } else { Woken::ByDriver })
    }
}
