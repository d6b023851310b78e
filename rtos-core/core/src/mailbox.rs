//! What other threads tell the event loop, and a thread that does for it what may block.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use mio::Waker;

/// Where other threads leave `T` for the event loop.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    letters: Sender<T>,
    waker: Arc<Waker>,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self { letters: self.letters.clone(), waker: self.waker.clone() }
    }
}

impl<T> Mailbox<T> {
    /// A mailbox, and the event loop's end of it.
    pub(crate) fn new(waker: Arc<Waker>) -> (Self, Receiver<T>) {
        let (letters, receiver) = channel();
        (Self { letters, waker }, receiver)
    }

    /// Leaves `letter` there. How many there can be is bounded by what the event loop asked for.
    pub(crate) fn post(&self, letter: T) {
        // After the end of the event loop nobody reads letters; what they hold is let go.
        if self.letters.send(letter).is_ok()
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "cannot wake the event loop");
        }
    }
}

type Chore = Box<dyn FnOnce() + Send>;

/// A thread that does one chore after the other: what may block, and so is not for the event
/// loop. It lives as long as this does.
#[derive(Debug)]
pub(crate) struct Chores {
    chores: Option<Sender<Chore>>,
    thread: Option<JoinHandle<()>>,
}

impl Chores {
    /// Starts the thread.
    ///
    /// # Errors
    /// EAGAIN where there are too many.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let (chores, receiver) = channel::<Chore>();
        let thread = Builder::new().name(name.into()).spawn(move || {
            for chore in receiver {
                // The end of this thread would be the end of every driver that it spawned.
                if catch_unwind(AssertUnwindSafe(chore)).is_err() {
                    tracing::error!("a chore has panicked");
                }
            }
        })?;
        Ok(Self { chores: Some(chores), thread: Some(thread) })
    }

    /// Has `chore` done, after those before it.
    pub(crate) fn run(&self, chore: impl FnOnce() + Send + 'static) {
        let sent = self.chores.as_ref().map(|chores| chores.send(Box::new(chore)));
        if !matches!(sent, Some(Ok(()))) {
            tracing::error!("a thread of the core has ended before its time");
        }
    }
}

impl Drop for Chores {
    fn drop(&mut self) {
        self.chores = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
