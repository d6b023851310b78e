//! A queue whose requests are futures.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::blocking::RequestError;
use super::queue::ClientQueue;
use super::reactor;
use super::requests::Requests;
use crate::block::{BlockInfo, BlockQueue, Operation, SubmitError};
use crate::dma::{DmaBuf, DmaError};

/// A queue for any number of tasks, on any executor. Clones are the same queue.
///
/// Futures poll the queue when they are polled: for a moment (as long as
/// [`OpenOptions::spin`](super::OpenOptions::spin) at most) they ask their executor to come back
/// at once, then they sleep until a thread of this library, which sleeps for all queues of the
/// process, wakes them.
///
/// A future that is dropped cancels nothing: the request goes on, and its buffer stays out of
/// reach until it has ended. A future that was never polled does nothing.
#[derive(Clone)]
pub struct AsyncQueue {
    shared: Arc<Shared>,
    info: BlockInfo,
}

/// What the clones of a queue, its futures and the reactor share.
pub(super) struct Shared {
    requests: Mutex<Requests>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver or the core has said something. Whether nobody can wake this queue any more.
    pub(super) fn attend(&self, of_core: bool) -> bool {
        let mut requests = self.lock();
        requests.queue.sleep.drain();
        if of_core && requests.queue.capability.closed().is_some() {
            requests.queue.lost = true;
        }
        requests.attend();
        let deaf = requests.queue.sleep.is_deaf();
        finish(requests);
        deaf
    }
}

/// Ends a visit: sees to it that sleepers are woken, those whose time has come at once, without
/// the lock.
fn finish(mut requests: MutexGuard<'_, Requests>) {
    requests.settle();
    let (wake, stale) = requests.concerned();
    drop(requests);
    drop(stale);
    wake.into_iter().for_each(Waker::wake);
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The reactor lets go of the sockets.
        reactor::alarm();
    }
}

impl AsyncQueue {
    /// An asynchronous queue over `queue`, whose requests so far have all ended.
    ///
    /// # Errors
    /// When there can be no thread or file descriptor more.
    pub fn new(queue: ClientQueue) -> io::Result<Self> {
        let (info, link) = (queue.info(), queue.capability.link.clone());
        let wake = queue.sleep.socket()?;
        let shared = Arc::new(Shared { requests: Mutex::new(Requests::new(queue)) });
        reactor::add(&shared, link, wake)?;
        Ok(Self { shared, info })
    }

    /// What the device is like.
    pub fn info(&self) -> BlockInfo {
        self.info
    }

    /// A zeroed buffer of `len` bytes from the client's arena.
    ///
    /// # Errors
    /// When the arena has no room for it.
    pub fn buffer(&self, len: usize) -> Result<DmaBuf, DmaError> {
        let mut requests = self.shared.lock();
        match requests.queue.buffer(len) {
            Err(DmaError::Full { .. }) => {}
            other => return other,
        }
        // Buffers of futures that were dropped may have come back.
        requests.drive();
        let buffer = requests.queue.buffer(len);
        finish(requests);
        buffer
    }

    /// How many requests are on their way.
    pub fn in_flight(&self) -> usize {
        self.shared.lock().queue.in_flight()
    }

    /// Why nothing is taken any more, once that is so.
    pub fn closed(&self) -> Option<String> {
        self.shared.lock().queue.closed()
    }

    /// Fills `buffer` from `lba` on.
    pub fn read(&self, lba: u64, buffer: DmaBuf) -> DataFuture {
        self.data(Operation::Read { lba }, buffer)
    }

    /// Writes `buffer` to `lba` and on.
    pub fn write(&self, lba: u64, buffer: DmaBuf) -> DataFuture {
        self.data(Operation::Write { lba, fua: false }, buffer)
    }

    /// Writes `buffer` to `lba` and on; done once it is on the medium.
    pub fn write_through(&self, lba: u64, buffer: DmaBuf) -> DataFuture {
        self.data(Operation::Write { lba, fua: true }, buffer)
    }

    /// Puts what was written on the medium.
    pub fn flush(&self) -> RequestFuture {
        self.without_data(Operation::Flush)
    }

    /// The `blocks` blocks from `lba` on, 65,536 at most, may be forgotten.
    pub fn discard(&self, lba: u64, blocks: u32) -> RequestFuture {
        self.without_data(Operation::Discard { lba, blocks })
    }

    /// The `blocks` blocks from `lba` on, 65,536 at most, are to read as zeroes.
    pub fn write_zeroes(&self, lba: u64, blocks: u32) -> RequestFuture {
        self.without_data(Operation::WriteZeroes { lba, blocks })
    }

    fn data(&self, operation: Operation, buffer: DmaBuf) -> DataFuture {
        DataFuture(Progress::new(&self.shared, operation, Some(buffer)))
    }

    fn without_data(&self, operation: Operation) -> RequestFuture {
        RequestFuture(Progress::new(&self.shared, operation, None))
    }
}

/// A read or write: how it ended, and its buffer.
#[must_use = "futures do nothing unless they are polled"]
pub struct DataFuture(Progress);

/// A request without data: how it ended.
#[must_use = "futures do nothing unless they are polled"]
pub struct RequestFuture(Progress);

impl Future for DataFuture {
    type Output = (Result<(), RequestError>, DmaBuf);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context).map(|(result, buffer)| {
            let Some(buffer) = buffer else { unreachable!("the buffer comes back with its end") };
            (result, buffer)
        })
    }
}

impl Future for RequestFuture {
    type Output = Result<(), RequestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context).map(|(result, _)| result)
    }
}

/// How far a request is.
struct Progress {
    shared: Arc<Shared>,
    state: State,
}

enum State {
    /// Not submitted.
    New(Operation, Option<DmaBuf>),
    /// Not submitted, as there was no room.
    Waiting(Operation, Option<DmaBuf>, u64),
    /// Submitted, with this number.
    Submitted(usize),
    Over,
}

impl Progress {
    fn new(shared: &Arc<Shared>, operation: Operation, buffer: Option<DmaBuf>) -> Self {
        Self { shared: shared.clone(), state: State::New(operation, buffer) }
    }

    fn poll(&mut self, context: &Context<'_>) -> Poll<(Result<(), RequestError>, Option<DmaBuf>)> {
        let Self { shared, state } = self;
        let former = std::mem::replace(state, State::Over);
        assert!(!matches!(former, State::Over), "a future was polled after it had ended");
        let mut requests = shared.lock();
        let (operation, buffer) = match former {
            State::New(operation, buffer) => (operation, buffer),
            State::Waiting(operation, buffer, ticket) => {
                requests.give_up_ticket(ticket);
                (operation, buffer)
            }
            State::Submitted(number) => {
                requests.awake(number);
                return Self::finish(state, requests, number, context);
            }
            State::Over => return Poll::Pending,
        };
        // Room may be there and nobody has looked.
        requests.look();
        match requests.submit(operation, buffer) {
            Ok(number) => Self::finish(state, requests, number, context),
            Err((SubmitError::Full | SubmitError::NotReady, buffer)) => {
                let ticket = requests.wait_for_room(context.waker());
                *state = State::Waiting(operation, buffer, ticket);
                // Nothing that ends will make room.
                let alone = requests.queue.in_flight() == 0;
                finish(requests);
                if alone {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Err((error, buffer)) => {
                finish(requests);
                Poll::Ready((Err(error.into()), buffer))
            }
        }
    }

    /// Looks whether request `number` has ended, and goes to sleep if it has not.
    fn finish(
        state: &mut State,
        mut requests: MutexGuard<'_, Requests>,
        number: usize,
        context: &Context<'_>,
    ) -> Poll<(Result<(), RequestError>, Option<DmaBuf>)> {
        requests.look();
        let mut ended = requests.take(number);
        let mut at_once = false;
        if ended.is_none() {
            at_once = requests.looks_on();
            if !at_once {
                requests.sleep(number, context.waker());
                // It may end while the driver is told that we sleep.
                requests.settle();
                ended = requests.take(number);
            }
        }
        finish(requests);
        if let Some((result, buffer)) = ended {
            return Poll::Ready((result.map_err(Into::into), buffer));
        }
        *state = State::Submitted(number);
        if at_once {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut requests = match self.state {
            State::New(..) | State::Over => return,
            State::Waiting(..) | State::Submitted(_) => self.shared.lock(),
        };
        let mut ended = None;
        match self.state {
            State::Waiting(_, _, ticket) => requests.drop_ticket(ticket),
            State::Submitted(number) => ended = requests.abandon(number),
            State::New(..) | State::Over => {}
        }
        finish(requests);
        drop(ended);
    }
}
