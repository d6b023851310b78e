//! What a client has open at a device: memory, queues, and how far its opening or closing is.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::net::{SendFlags, send};
use uniddrv::Arena;
use uniddrv::control;
use uniddrv::peer::Peer;
use uniddrv::shared::{self, SharedWords};
use uniddrv_abi::Words as _;
use uniddrv_abi::ledger::{Count, QUEUES};
use uniddrv_abi::message::{Client, Holder, Limits, Rights};
use uniddrv_abi::queue;

use crate::driver::Process;
use crate::ids::{ClientId, Source};
use crate::ledger::{DriverLedger, Totals};

/// Why a queue was closed, as its client reads it there: its name was taken from it.
const TAKEN: u32 = 1;

/// What a client wants to open.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) client: ClientId,
    pub(crate) peer: Peer,
    pub(crate) program: String,
    /// The target's path: `ns1`.
    pub(crate) path: String,
    pub(crate) rights: Rights,
    pub(crate) queues: u8,
    pub(crate) depth: u32,
    pub(crate) limits: Limits,
    /// Bytes of the arena, where there is none yet.
    pub(crate) arena_len: usize,
    pub(crate) arena: Option<Arc<Arena>>,
}

/// A client's queue.
#[derive(Debug)]
pub(crate) struct Queue {
    memory: Arc<OwnedFd>,
    words: SharedWords,
    /// What the driver wakes the client by, and is woken by.
    drivers: OwnedFd,
    /// The other end, until the client has it.
    clients: Option<OwnedFd>,
}

/// What opening a name takes and may take a while to make.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) arena: Arc<Arena>,
    pub(crate) queues: Vec<Queue>,
}

impl Made {
    /// Makes it: the arena, if there is none yet, and queues.
    ///
    /// # Errors
    /// In words, when memory or file descriptors run out.
    pub(crate) fn new(
        arena: Option<Arc<Arena>>,
        arena_len: usize,
        queues: u8,
        depth: u32,
    ) -> Result<Self, String> {
        let arena = match arena {
            Some(arena) => arena,
            None => Arc::new(Arena::new(arena_len).map_err(|error| error.to_string())?),
        };
        let queues = (0..queues).map(|_| Queue::new(depth)).collect::<Result<_, _>>();
        let queues = queues.map_err(|error| format!("cannot make a queue: {error}"))?;
        Ok(Self { arena, queues })
    }
}

impl Queue {
    fn new(depth: u32) -> io::Result<Self> {
        let bytes = queue::words_for(depth) * 8;
        let memory = shared::create("uniddrv-queue", bytes)?;
        let words = SharedWords::map(memory.as_fd(), bytes)?;
        let (drivers, clients) = control::pair()?;
        Ok(Self { memory: Arc::new(memory), words, drivers, clients: Some(clients) })
    }

    /// Tells the client that it has ended.
    fn close(&self) {
        queue::close(&self.words, TAKEN);
        // Whether it sleeps or not: it is the last thing that it hears.
        let _ = send(&self.drivers, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// How far an attachment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its memory is being made.
    Making,
    /// Its arena is being mapped for the device.
    Mapping,
    /// The driver was told, and has not answered.
    Attaching,
    /// The client has it.
    Open,
    /// The driver is to let go of it.
    Detaching,
    /// Its arena is being taken away from the device.
    Unmapping,
}

/// What a client has open, from the request until its memory is given back.
pub(crate) struct Attachment {
    pub(crate) handle: u32,
    pub(crate) request: Request,
    pub(crate) stage: Stage,
    /// When the driver counts as hung for what it was told.
    pub(crate) deadline: Option<Instant>,
    /// It is to be closed as soon as that can be.
    pub(crate) abandoned: bool,
    /// The client waits for an answer to its request to open this, or to close it.
    pub(crate) awaited: bool,
    /// Which driver process was told to let go of it.
    pub(crate) told: Option<crate::device::DriverId>,
    /// Its queues' numbers in the ledger.
    pub(crate) numbers: Vec<u8>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) arena: Option<Arc<Arena>>,
    pub(crate) iova: u64,
    target: u32,
    /// The event loop is not told when the client wakes the driver.
    unwatched: bool,
}

impl Attachment {
    pub(crate) fn new(handle: u32, request: Request, target: u32, numbers: Vec<u8>) -> Self {
        Self {
            handle,
            request,
            stage: Stage::Making,
            deadline: None,
            abandoned: false,
            awaited: true,
            told: None,
            numbers,
            queues: Vec::new(),
            arena: None,
            iova: 0,
            target,
            unwatched: false,
        }
    }

    /// Whether a driver process has to know of it.
    pub(crate) fn is_attached(&self) -> bool {
        matches!(self.stage, Stage::Attaching | Stage::Open | Stage::Detaching)
    }

    /// As a driver process is told of it.
    pub(crate) fn message(&self, new: bool) -> Client {
        Client {
            client: self.handle,
            target: self.target,
            rights: self.request.rights,
            arena_iova: self.iova,
            arena_len: self.arena.as_ref().map_or(0, |arena| arena.len() as u64),
            depth: self.request.depth,
            queues: self.numbers.clone(),
            limits: self.request.limits,
            new,
        }
    }

    /// The file descriptors that a driver process gets of it.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.queues.iter().flat_map(|one| [one.memory.as_fd(), one.drivers.as_fd()]).collect()
    }

    /// The file descriptors that the client gets: memories, and sockets to wake and be woken by.
    pub(crate) fn for_client(&mut self) -> (Vec<Arc<OwnedFd>>, Vec<OwnedFd>) {
        let memories = self.queues.iter().map(|queue| queue.memory.clone()).collect();
        (memories, self.queues.iter_mut().filter_map(|queue| queue.clients.take()).collect())
    }

    /// Tells the client that it has ended.
    pub(crate) fn close(&self) {
        self.queues.iter().for_each(Queue::close);
    }

    /// Tells `process` of it. Whether it could be told.
    pub(crate) fn attach_at(&self, process: &mut Process, new: bool) -> bool {
        let message = uniddrv_abi::message::ToDriver::Attach(self.message(new));
        process.tell(&message, &self.fds())
    }

    /// Has the event loop told whenever the client wakes the driver.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC.
    pub(crate) fn watch(&mut self, registry: &Registry) -> io::Result<()> {
        self.unwatched = false;
        let token = Source::Wake(self.handle).token();
        self.queues.iter().try_for_each(|queue| {
            let fd = queue.drivers.as_raw_fd();
            registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
        })
    }

    /// Takes back what [`watch`](Self::watch) did. Others have the same sockets, so closing them
    /// is not enough.
    pub(crate) fn unwatch(&mut self, registry: &Registry) {
        self.unwatched = true;
        for queue in &self.queues {
            // One that was not watched is none the worse for it.
            let _ = registry.deregister(&mut SourceFd(&queue.drivers.as_raw_fd()));
        }
    }

    /// Does again what [`watch`](Self::watch) did, if that was taken back. A wake-up that the
    /// driver has not heard yet is told again.
    pub(crate) fn watch_again(&mut self, registry: &Registry) {
        if self.unwatched
            && let Err(error) = self.watch(registry)
        {
            tracing::warn!(handle = self.handle, %error, "cannot watch a client's queues");
        }
    }

    /// Who holds it.
    pub(crate) fn holder(&self, ledger: Option<&DriverLedger>) -> Holder {
        let ios = |number: &u8| ledger.map_or(0, |ledger| ledger.count(*number, Count::Ios));
        Holder {
            client: self.request.client.0,
            pid: self.request.peer.process.map_or(0, u32::cast_signed),
            uid: self.request.peer.uid,
            program: self.request.program.clone(),
            rights: self.request.rights,
            queues: self.request.queues,
            ios: self.numbers.iter().map(ios).fold(0, u64::wrapping_add),
        }
    }

    /// What its queues count in the ledger.
    pub(crate) fn totals(&self, ledger: &DriverLedger) -> Totals {
        let mut totals = Totals::default();
        self.numbers.iter().for_each(|&number| totals.add_queue(ledger, number));
        totals
    }

    /// Whether a request waits in its rings that the driver could take and has not: at which
    /// position, by queue. What the client wrote there is a claim; one who writes nonsense is the
    /// driver's to find out.
    pub(crate) fn waiting(&self, ledger: &DriverLedger) -> bool {
        if self.request.limits.iops != 0 || self.request.limits.bytes_per_second != 0 {
            return false;
        }
        self.queues.iter().zip(&self.numbers).any(|(queue, &number)| {
            let (consumer, producer) = ledger.indices(number);
            let depth = self.request.depth;
            let word = |index| queue.words.load(index, Ordering::Acquire) as u32;
            let tail = word(queue::submission(depth).tail);
            let head = word(queue::completion(depth).head);
            let submitted = tail.wrapping_sub(consumer);
            let unread = producer.wrapping_sub(head);
            (1..=depth).contains(&submitted) && unread < depth && queue::renewed(&queue.words)
        })
    }
}

/// The numbers of queues in a ledger: which are in use.
#[derive(Debug, Default)]
pub(crate) struct Numbers(u64);

const _: () = assert!(QUEUES == 64);

impl Numbers {
    /// Takes `count` free ones.
    pub(crate) fn take(&mut self, count: u8) -> Option<Vec<u8>> {
        if self.0.count_zeros() < u32::from(count) {
            return None;
        }
        let free = (0..QUEUES as u8).filter(|number| self.0 & 1 << number == 0);
        let numbers: Vec<u8> = free.take(count.into()).collect();
        for number in &numbers {
            self.0 |= 1 << number;
        }
        Some(numbers)
    }

    /// Gives them back.
    pub(crate) fn give_back(&mut self, numbers: &[u8]) {
        for number in numbers {
            self.0 &= !(1 << number);
        }
    }
}

/// All attachments of a device, by handle.
pub(crate) type Attachments = BTreeMap<u32, Attachment>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_use_once() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.take(2).unwrap(), [0, 1]);
        assert_eq!(numbers.take(16).unwrap().len(), 16);
        numbers.give_back(&[1]);
        assert_eq!(numbers.take(2).unwrap(), [1, 18]);
        assert_eq!(numbers.take(45).unwrap().last(), Some(&63));
        assert!(numbers.take(1).is_none());
        assert!(numbers.take(0).unwrap().is_empty());
    }

    #[test]
    fn queues_are_made_with_their_files() {
        let made = Made::new(None, 1, 3, 1024).unwrap();
        assert_eq!((made.arena.len(), made.queues.len()), (uniddrv::arena::HUGE_PAGE, 3));
        let again = Made::new(Some(made.arena.clone()), 0, 1, 1).unwrap();
        assert!(Arc::ptr_eq(&again.arena, &made.arena));
        let queue = &again.queues[0];
        queue.close();
        assert_eq!(queue::closed(&queue.words), TAKEN);
        assert!(Made::new(None, usize::MAX, 1, 1).is_err());
    }
}
