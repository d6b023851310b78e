//! The thread that sleeps for the futures of this process, on the sockets by which drivers and
//! the core wake it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::async_queue::Shared;
use super::link::Link;
use super::wait::DEAF;

/// The reactor of this process, once there is one.
static REACTOR: OnceLock<Reactor> = OnceLock::new();
/// Locked while it is started.
static START: Mutex<()> = Mutex::new(());

struct Reactor {
    /// Ends its sleep.
    alarm: OwnedFd,
    entries: Mutex<Vec<Arc<Entry>>>,
}

/// A queue that is slept for.
struct Entry {
    queue: Weak<Shared>,
    link: Arc<Link>,
    wake: OwnedFd,
    /// The connection to the core has ended: nothing is to be expected of either socket.
    over: AtomicBool,
    /// Nobody can wake it by its socket any more.
    deaf: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is complete before anything that can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the reactor sleep for `queue`, which is woken by `wake` and is of the connection `link`.
/// Starts it where it does not run.
///
/// # Errors
/// When there can be no thread or file descriptor more.
pub(super) fn add(queue: &Arc<Shared>, link: Arc<Link>, wake: OwnedFd) -> io::Result<()> {
    let reactor = started()?;
    let entry = Entry {
        queue: Arc::downgrade(queue),
        link,
        wake,
        over: AtomicBool::new(false),
        deaf: AtomicBool::new(false),
    };
    lock(&reactor.entries).push(Arc::new(entry));
    alarm();
    Ok(())
}

fn started() -> io::Result<&'static Reactor> {
    let _start = lock(&START);
    if let Some(reactor) = REACTOR.get() {
        return Ok(reactor);
    }
    let alarm = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let mine = alarm.try_clone()?;
    std::thread::Builder::new().name("uniddrv-reactor".into()).spawn(move || {
        // It may be faster than whoever started it.
        REACTOR.wait().run(&mine);
    })?;
    Ok(REACTOR.get_or_init(|| Reactor { alarm, entries: Mutex::default() }))
}

/// Has the reactor look at everything, if there is one: for news that came by no socket of its
/// own, and for queues that are gone.
pub(super) fn alarm() {
    if let Some(reactor) = REACTOR.get() {
        // It can only be full, and then it rings.
        let _ = rustix::io::write(&reactor.alarm, &1_u64.to_ne_bytes());
    }
}

impl Reactor {
    fn run(&self, alarm: &OwnedFd) {
        loop {
            let entries = {
                let mut entries = lock(&self.entries);
                entries.retain(|entry| entry.queue.strong_count() > 0);
                entries.clone()
            };
            sleep(alarm, &entries);
        }
    }
}

/// Sleeps once, and attends to whoever was woken.
fn sleep(alarm: &OwnedFd, entries: &[Arc<Entry>]) {
    let mut fds = vec![PollFd::new(alarm, PollFlags::IN)];
    let mut owners = Vec::new();
    let mut deaf = false;
    for entry in entries.iter().filter(|entry| !entry.over.load(Ordering::Relaxed)) {
        fds.push(PollFd::from_borrowed_fd(entry.link.as_fd(), PollFlags::IN));
        owners.push((entry, true));
        if entry.deaf.load(Ordering::Relaxed) {
            deaf = true;
        } else {
            fds.push(PollFd::new(&entry.wake, PollFlags::IN));
            owners.push((entry, false));
        }
    }
    let tick = Timespec { tv_sec: 0, tv_nsec: DEAF.subsec_nanos().into() };
    let woken = match poll(&mut fds, deaf.then_some(&tick)) {
        Ok(woken) => woken,
        Err(rustix::io::Errno::INTR) => return,
        Err(error) => {
            // Out of memory, at worst: it is better to be slow than to be gone.
            tracing::warn!(%error, "the reactor cannot sleep");
            std::thread::sleep(DEAF);
            0
        }
    };
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let alarmed = ready.next() == Some(true);
    if alarmed {
        let mut count = [0; 8];
        let _ = rustix::io::read(alarm, &mut count);
    }
    // Without a socket that says so, it may be anybody.
    let all = alarmed || woken == 0;
    for ((entry, of_core), ready) in owners.into_iter().zip(ready) {
        if ready || all {
            entry.attend(of_core);
        }
    }
}

impl Entry {
    fn attend(&self, of_core: bool) {
        let Some(queue) = self.queue.upgrade() else { return };
        let deaf = queue.attend(of_core);
        self.deaf.store(deaf, Ordering::Relaxed);
        if of_core && self.link.ended().is_some() {
            self.over.store(true, Ordering::Relaxed);
        }
    }
}
