//! A sandboxed process, as the core holds it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use uniddrv::process::{Ended, Pidfd};

use super::Missing;

/// How long a killed process may take to end.
pub(super) const BURIAL: Duration = Duration::from_secs(1);

/// The namespaces of a process that has ended, which go when this is dropped.
#[derive(Debug)]
pub(super) struct Grave {
    pub(super) since: Instant,
    #[expect(dead_code, reason = "keeps them")]
    namespaces: Vec<File>,
}

/// A sandboxed process. Killed when dropped.
#[derive(Debug)]
pub struct Child {
    process: Pidfd,
    missing: Vec<Missing>,
    /// Its tree of mounts and its network. Were they its own alone, they would be taken down at
    /// its end: before anybody is told of it, or while its successor takes over.
    namespaces: Option<(Vec<File>, Sender<Grave>)>,
}

impl Child {
    pub(super) fn new(process: Pidfd) -> Self {
        Self { process, missing: Vec::new(), namespaces: None }
    }

    /// Keeps its namespaces, for `undertaker` to take down once the process has ended.
    pub(super) fn keep(&mut self, namespaces: Vec<File>, undertaker: Sender<Grave>) {
        self.namespaces = Some((namespaces, undertaker));
    }

    pub(super) fn lacks(&mut self, missing: Vec<Missing>) {
        self.missing = missing;
    }

    /// Its number among the core's processes.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// The layers of the sandbox that could not be had; none unless the confinement was
    /// [`partial`](super::Confinement::partial).
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Sends it a signal. Only SIGKILL and SIGSTOP are certain to have an effect: the first
    /// process of a namespace ignores what it has no handler for.
    ///
    /// # Errors
    /// See [`Pidfd::kill`].
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        self.process.kill(signal)
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// See [`Pidfd::try_wait`].
    pub fn try_wait(&mut self) -> io::Result<Option<Ended>> {
        self.process.try_wait()
    }

    /// Waits until it has ended, but no longer than `patience`.
    ///
    /// # Errors
    /// See [`Pidfd::wait`].
    pub fn wait(&mut self, patience: Duration) -> io::Result<Option<Ended>> {
        self.process.wait(patience)
    }
}

impl AsFd for Child {
    /// Polls readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let pid = self.process.pid();
        let ended = self.process.kill(Signal::KILL).and_then(|()| self.process.wait(BURIAL));
        match ended {
            Ok(Some(_)) => {}
            Ok(None) => tracing::error!(?pid, "a killed driver process does not end"),
            Err(error) => tracing::error!(?pid, %error, "cannot end a driver process"),
        }
        if let Some((namespaces, undertaker)) = self.namespaces.take() {
            // Where there is no such thread any more, everything is ending.
            let _ = undertaker.send(Grave { since: Instant::now(), namespaces });
        }
    }
}
