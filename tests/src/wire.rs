//! A client without the client library.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketType, connect, sendmsg, socket,
};
use uniddrv::control::{Control, ControlError};
use uniddrv::shared::SharedWords;
use uniddrv_abi::Words as _;
use uniddrv_abi::message::{FromCore, Refusal, Rights, ToCore, VERSION};
use uniddrv_abi::queue::{self, Reaper, Submitter};

use crate::wait::PATIENCE;

/// The most file descriptors that Linux passes at once. unix(7), SCM_MAX_FD.
pub const MOST_FDS: usize = 253;

/// A connection.
pub struct Wire {
    /// It.
    pub control: Control,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Without a word.
    Silent,
    /// After it was told why.
    Refused(Refusal),
}

impl Wire {
    /// Connects, and says nothing.
    pub fn new(path: &Path) -> Self {
        let address = SocketAddrUnix::new(path).unwrap();
        let fd = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        connect(&fd, &address).unwrap();
        Self { control: Control::new(fd) }
    }

    /// Connects and says hello.
    pub fn greeted(path: &Path) -> Self {
        let mut wire = Self::new(path);
        assert!(matches!(wire.ask(&hello()), FromCore::Welcome { .. }));
        wire
    }

    /// Sends a message.
    pub fn send(&self, message: &ToCore) -> Result<(), ControlError> {
        self.control.send(message, &[])
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, message: &ToCore) -> FromCore {
        self.control.ask::<_, FromCore>(message, PATIENCE).unwrap().0
    }

    /// Sends bytes with file descriptors. Whether there was room, and somebody to send it to.
    pub fn throw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        throw(&self.control, bytes, fds)
    }

    /// The connection ends: how.
    pub fn end(mut self) -> End {
        let mut end = End::Silent;
        loop {
            match self.control.receive_within::<FromCore>(PATIENCE) {
                Ok((FromCore::Refused { code, .. }, _)) => end = End::Refused(code),
                Ok(_) => {}
                Err(ControlError::Closed) => return end,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Whether the core still listens to it.
    pub fn is_alive(&mut self) -> bool {
        let question = ToCore::List { prefix: "nothing begins so".into() };
        self.control.ask::<_, FromCore>(&question, PATIENCE).is_ok()
    }

    /// Opens a name: its handle and queues; or why not.
    pub fn open(&mut self, message: &ToCore) -> Result<Opened, Refusal> {
        let (answer, fds) = self.control.ask::<_, FromCore>(message, PATIENCE).unwrap();
        let FromCore::Opened { handle, arena, depth, .. } = answer else {
            let FromCore::Refused { code, .. } = answer else { panic!("{answer:?}") };
            return Err(code);
        };
        let mut fds = fds.into_iter();
        let memory = fds.next().unwrap();
        let mut queues = Vec::new();
        while let (Some(memory), Some(wake)) = (fds.next(), fds.next()) {
            let words = SharedWords::map(memory.as_fd(), queue::words_for(depth) * 8).unwrap();
            queues.push(Queue { words, memory, wake });
        }
        Ok(Opened { handle, arena, memory, depth, queues })
    }
}

/// Sends bytes with file descriptors. Whether there was room, and somebody to send it to.
pub fn throw(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags).is_ok()
}

/// What was opened.
pub struct Opened {
    /// To close it by.
    pub handle: u32,
    /// Bytes of the arena.
    pub arena: u64,
    /// The arena.
    pub memory: OwnedFd,
    /// Entries of a ring.
    pub depth: u32,
    /// Its queues.
    pub queues: Vec<Queue>,
}

/// A queue, without anything that keeps to the rules.
pub struct Queue {
    /// Its memory.
    pub words: SharedWords,
    /// The file of that.
    pub memory: OwnedFd,
    /// The socket to wake and be woken by.
    pub wake: OwnedFd,
}

impl Queue {
    /// Writes a word.
    pub fn store(&self, index: usize, value: u64) {
        self.words.store(index, value, Ordering::SeqCst);
    }

    /// Reads a word.
    pub fn load(&self, index: usize) -> u64 {
        self.words.load(index, Ordering::SeqCst)
    }

    /// The client's end of the rings, as of a new queue.
    pub fn rings(&self, depth: u32) -> (Submitter<SharedWords>, Reaper<SharedWords>) {
        let words = || self.words.clone();
        (
            Submitter::new(words(), queue::submission(depth), 0),
            Reaper::new(words(), queue::completion(depth), 0),
        )
    }

    /// Wakes the driver.
    pub fn wake(&self) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = rustix::net::send(&self.wake, &[1], flags);
    }
}

/// Says hello.
pub fn hello() -> ToCore {
    ToCore::Hello { version: VERSION, program: "hostile".into() }
}

/// Opens `name` with so many queues of so many entries.
pub fn open(name: &str, queues: u8, depth: u32) -> ToCore {
    ToCore::Open { name: name.into(), rights: Rights::Write, queues, depth, arena: 1 << 21 }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

/// Numbers that look random and are the same each time.
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// The next one.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// Some bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// A value that somebody might not expect.
    pub fn odd(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::from(u32::MAX),
            3 => self.below(4096),
            4 => 1 << self.below(64),
            5 => (self.next() as u32).into(),
            6 => u64::MAX - self.below(4096),
            _ => self.next(),
        }
    }
}
