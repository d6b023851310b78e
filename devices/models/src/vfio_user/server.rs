//! The socket, and the loop that drives the model.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};

use super::session::Session;
use crate::host::Host;
use crate::model::Model;

/// How many clients may wait to be accepted, or turned away.
const BACKLOG: i32 = 16;
/// How long a client may take until the version is negotiated.
const NEGOTIATION: Duration = Duration::from_secs(5);
/// How long another server that starts in the same folder may take.
const BINDING: Duration = Duration::from_secs(5);
/// How often the sockets are looked at while there is work, and while there is none.
const LOOK_BUSY: Duration = Duration::from_micros(100);
const LOOK_IDLE: Duration = Duration::from_micros(10);
/// How many times the model is polled between two looks at the clock.
const POLLS: u32 = 16;
/// How long the model is polled without a break after its last work; the CPU is offered to
/// others from the first of these times on (at once by a server that yields), and slept on after
/// the second.
const YIELD_AFTER: Duration = Duration::from_micros(100);
const SLEEP_AFTER: Duration = Duration::from_millis(2);
/// So often it has to have looked in vain before it sleeps: where others have the CPU in between,
/// time alone says little.
const SLEEP_AFTER_LOOKS: u32 = 64;
/// The first and the longest sleep between two polls of an idle model. A doorbell is memory:
/// it wakes nobody.
const SLEEP_LEAST: Duration = Duration::from_micros(50);
const SLEEP_MOST: Duration = Duration::from_millis(1);
/// How long a wait for the next client may hide that the server is to stop.
const STOP_LATENCY: Duration = Duration::from_millis(50);

/// A model cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another server has the socket.
    #[error("{path} is served already, by another process")]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// There is something else at this path.
    #[error("{path} exists and is no socket; choose another path, or remove it")]
    NoSocket {
        /// Where.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot serve {path}: {action}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What it said.
        #[source]
        error: io::Error,
    },
}

/// A listening socket. Removed when dropped.
#[derive(Debug)]
pub struct Server {
    listener: OwnedFd,
    path: PathBuf,
    // Device and inode of the socket, so that another server's is not removed.
    identity: Option<(u64, u64)>,
    negotiation: Duration,
    yield_after: Duration,
}

/// What there is to do at the sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ready {
    listener: bool,
    client: bool,
}

impl Server {
    /// Listens at `path`. The socket that a dead server left there is replaced.
    ///
    /// # Errors
    /// When another server listens there, there is something else, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let io = |action| {
            move |error: Errno| ServeError::Io {
                path: path.to_owned(),
                action,
                error: error.into(),
            }
        };
        let address = SocketAddrUnix::new(path).map_err(io("the path"))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let listener = socket().map_err(io("socket"))?;
        // Two servers that find the same dead socket must not remove each other's new one.
        let _lock = lock_folder(path).map_err(io("lock the folder"))?;
        match bind(&listener, &address) {
            Err(Errno::ADDRINUSE) => {
                let kind = fs::symlink_metadata(path).map(|metadata| metadata.file_type());
                if !kind.is_ok_and(|kind| kind.is_socket()) {
                    return Err(ServeError::NoSocket { path: path.to_owned() });
                }
                match connect(socket().map_err(io("socket"))?, &address) {
                    Err(Errno::CONNREFUSED) => {}
                    Ok(()) | Err(Errno::AGAIN) => {
                        return Err(ServeError::InUse { path: path.to_owned() });
                    }
                    Err(error) => return Err(io("ask who listens there")(error)),
                }
                rustix::fs::unlink(path).map_err(io("remove the socket of a dead server"))?;
                bind(&listener, &address).map_err(io("bind"))?;
            }
            other => other.map_err(io("bind"))?,
        }
        listen(&listener, BACKLOG).map_err(io("listen"))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity: identity(path),
            negotiation: NEGOTIATION,
            yield_after: YIELD_AFTER,
        })
    }

    /// Offers the CPU to others whenever the model has nothing to do: for a model that shares
    /// its CPU with who drives it, or with that one's clients.
    #[must_use]
    pub fn yielding(mut self) -> Self {
        self.yield_after = Duration::ZERO;
        self
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves `model`, one client after another, until `stop` is true. When a client leaves,
    /// the model is reset, forgets the client's memory and interrupts, and gets new memory in
    /// place of what the client may still have mapped.
    ///
    /// The calling thread polls the model; it sleeps, a millisecond at a time, when the model
    /// has had nothing to do for a while, and without a client it only waits.
    ///
    /// # Errors
    /// When the system fails. What clients do is no error.
    pub fn run<M: Model>(&self, model: &mut M, stop: &AtomicBool) -> Result<(), ServeError> {
        let mut host = Host::new();
        while !stop.load(Ordering::Relaxed) {
            if !self.wait(None, STOP_LATENCY)?.listener {
                continue;
            }
            let Some(client) = self.accept()? else { continue };
            tracing::info!("client connected");
            let result = self.serve(client, model, &mut host, stop);
            model.reset(&mut host);
            host.clear();
            result?;
            model.revoke().map_err(|error| ServeError::Io {
                path: self.path.clone(),
                action: "take back what the client has mapped",
                error,
            })?;
        }
        Ok(())
    }

    /// Serves one client until it leaves or `stop` is true.
    fn serve<M: Model>(
        &self,
        client: OwnedFd,
        model: &mut M,
        host: &mut Host,
        stop: &AtomicBool,
    ) -> Result<(), ServeError> {
        let mut session = Session::new(client.into());
        let connected = Instant::now();
        let mut last_work = connected;
        let mut last_look = connected;
        let mut sleep = SLEEP_LEAST;
        let mut looks_in_vain = 0u32;
        while !stop.load(Ordering::Relaxed) {
            let mut worked = false;
            for _ in 0..POLLS {
                worked |= model.poll(host);
            }
            let now = Instant::now();
            looks_in_vain = looks_in_vain.saturating_add(1);
            if worked {
                looks_in_vain = 0;
                last_work = now;
                sleep = SLEEP_LEAST;
            }
            let idle = now - last_work;
            let due = if worked { LOOK_BUSY } else { LOOK_IDLE };
            let ready = if idle >= SLEEP_AFTER && looks_in_vain >= SLEEP_AFTER_LOOKS {
                let ready = self.wait(Some(session.as_fd()), sleep)?;
                sleep = (sleep * 2).min(SLEEP_MOST);
                ready
            } else if now - last_look >= due {
                if idle >= self.yield_after && !worked {
                    thread::yield_now();
                }
                self.wait(Some(session.as_fd()), Duration::ZERO)?
            } else {
                match worked {
                    true => {}
                    false if self.yield_after.is_zero() => thread::yield_now(),
                    false => std::hint::spin_loop(),
                }
                continue;
            };
            last_look = now;
            // The client's messages come first: the last of them may be that it has left, and
            // then the one that waits is its successor.
            if ready.listener && !ready.client && self.accept()?.is_some() {
                tracing::info!("second client turned away");
            }
            if ready.client {
                if let Err(end) = session.serve(model, host) {
                    tracing::info!(%end, "client gone");
                    return Ok(());
                }
                // A message is most often followed by another one, or by work.
                last_work = Instant::now();
                sleep = SLEEP_LEAST;
            } else if !session.is_negotiated() && now - connected > self.negotiation {
                tracing::info!("client that never said a word turned away");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until somebody connects or the client sends something, `timeout` at most.
    fn wait(&self, client: Option<BorrowedFd<'_>>, timeout: Duration) -> Result<Ready, ServeError> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let watch = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let listener = self.listener.as_fd();
        // Without a client, the listener stands in its place.
        let mut fds = [watch(listener), watch(client.unwrap_or(listener))];
        let watched = if client.is_some() { 2 } else { 1 };
        let result = poll(&mut fds[..watched], Some(&timeout)).map(|_| {
            let [listener, client] = fds.map(|fd| !fd.revents().is_empty());
            Ready { listener, client }
        });
        match result {
            Err(Errno::INTR) => Ok(Ready::default()),
            other => other.map_err(|error| self.io("poll", error)),
        }
    }

    /// The next client; nothing where it went away again, or this process has no fd for it.
    fn accept(&self) -> Result<Option<OwnedFd>, ServeError> {
        match accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(client) => Ok(Some(client)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)) => {
                tracing::warn!(%error, "a client cannot be accepted now");
                thread::sleep(SLEEP_MOST);
                Ok(None)
            }
            Err(error) => Err(self.io("accept", error)),
        }
    }

    fn io(&self, action: &'static str, error: Errno) -> ServeError {
        ServeError::Io { path: self.path.clone(), action, error: error.into() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.identity.is_some()
            && identity(&self.path) == self.identity
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the socket stays");
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Excludes other servers that start in the same folder, as long as the fd lives.
fn lock_folder(path: &Path) -> Result<OwnedFd, Errno> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    let deadline = Instant::now() + BINDING;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN | Errno::INTR) if Instant::now() < deadline => {
                thread::sleep(SLEEP_MOST);
            }
            other => return other.map(|()| folder),
        }
    }
}

#[cfg(test)]
mod tests;
