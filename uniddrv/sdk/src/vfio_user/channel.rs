//! Whole messages, with the file descriptors that come along, over a UNIX stream socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use zerocopy::IntoBytes;

use super::protocol::Header;

/// The most fds that Linux lets along with one message (SCM_MAX_FD).
pub const MAX_FDS: usize = 253;

/// One end of a connection. It never waits past the deadline it is given.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// A message that could not be sent or received. The stream is of no use after it.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The peer closed its end between two messages.
    #[error("the peer hung up")]
    HungUp,
    /// The peer closed its end inside a message.
    #[error("the peer hung up after {got} of {len} bytes")]
    Truncated {
        /// Bytes that came.
        got: usize,
        /// Bytes that were to come.
        len: usize,
    },
    /// The deadline passed first.
    #[error("{got} of {len} bytes went through in time")]
    TimedOut {
        /// Bytes that came or went.
        got: usize,
        /// Bytes that were to come or go.
        len: usize,
    },
    /// The header says a size that cannot be.
    #[error("a message of {size} bytes, {} to {max} are possible", Header::SIZE)]
    Size {
        /// What it says.
        size: u32,
        /// The most that is taken.
        max: usize,
    },
    /// More file descriptors than this side takes.
    #[error("{got} file descriptors came along, {max} are the most")]
    Fds {
        /// How many came.
        got: usize,
        /// The most that are taken.
        max: usize,
    },
    /// The system failed.
    #[error("{0}")]
    System(#[source] Errno),
}

impl Channel {
    /// A channel over a connected stream socket.
    pub fn new(stream: UnixStream) -> Self {
        Self { socket: stream.into() }
    }

    /// Sends `bytes`, which are a header and a payload, and `fds` along with them.
    ///
    /// # Errors
    /// When the peer is gone, does not read until `deadline`, or the system fails. `len` and
    /// `got` count what the socket took.
    pub fn send(
        &self,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<(), ChannelError> {
        if fds.len() > MAX_FDS {
            return Err(ChannelError::Fds { got: fds.len(), max: MAX_FDS });
        }
        let mut sent = 0;
        while sent < bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            // The fds belong to the first byte.
            if sent == 0 && !fds.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(fds));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.socket, &[IoSlice::new(&bytes[sent..])], &mut ancillary, flags) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self
                    .wait(PollFlags::OUT, deadline)?
                    .then_some(())
                    .ok_or(ChannelError::TimedOut { got: sent, len: bytes.len() })?,
                Err(Errno::PIPE | Errno::CONNRESET) if sent == 0 => {
                    return Err(ChannelError::HungUp);
                }
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    return Err(ChannelError::Truncated { got: sent, len: bytes.len() });
                }
                Err(error) => return Err(ChannelError::System(error)),
            }
        }
        Ok(())
    }

    /// Receives a message of at most `max_size` bytes with at most `max_fds` fds. Its payload
    /// replaces what `payload` holds.
    ///
    /// # Errors
    /// When the peer is gone, sends nothing whole until `deadline`, sends more than this side
    /// takes, or the system fails. Fds that came are closed.
    pub fn receive(
        &self,
        payload: &mut Vec<u8>,
        max_size: usize,
        max_fds: usize,
        deadline: Instant,
    ) -> Result<(Header, Vec<OwnedFd>), ChannelError> {
        let mut header = Header::default();
        let mut fds = Vec::new();
        self.fill(header.as_mut_bytes(), &mut fds, deadline)?;
        let len = (header.size as usize)
            .checked_sub(Header::SIZE)
            .filter(|_| header.size as usize <= max_size)
            .ok_or(ChannelError::Size { size: header.size, max: max_size })?;
        payload.clear();
        payload.resize(len, 0);
        match self.fill(payload, &mut fds, deadline) {
            Err(ChannelError::HungUp) => return Err(ChannelError::Truncated { got: 0, len }),
            other => other?,
        }
        if fds.len() > max_fds {
            return Err(ChannelError::Fds { got: fds.len(), max: max_fds });
        }
        Ok((header, fds))
    }

    /// Fills `bytes`, and adds the fds that come along to `fds`.
    fn fill(
        &self,
        bytes: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        deadline: Instant,
    ) -> Result<(), ChannelError> {
        let len = bytes.len();
        let mut got = 0;
        while got < len {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let mut target = [IoSliceMut::new(&mut bytes[got..])];
            match recvmsg(&self.socket, &mut target, &mut ancillary, flags) {
                Ok(received) if received.bytes == 0 && got == 0 => {
                    return Err(ChannelError::HungUp);
                }
                Ok(received) if received.bytes == 0 => {
                    return Err(ChannelError::Truncated { got, len });
                }
                Ok(received) => {
                    got += received.bytes;
                    for message in ancillary.drain() {
                        if let RecvAncillaryMessage::ScmRights(rights) = message {
                            fds.extend(rights);
                        }
                    }
                    // A peer that puts fds on every byte must not use ours up.
                    if fds.len() > MAX_FDS {
                        return Err(ChannelError::Fds { got: fds.len(), max: MAX_FDS });
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self
                    .wait(PollFlags::IN, deadline)?
                    .then_some(())
                    .ok_or(ChannelError::TimedOut { got, len })?,
                Err(Errno::CONNRESET) if got == 0 => return Err(ChannelError::HungUp),
                Err(Errno::CONNRESET) => return Err(ChannelError::Truncated { got, len }),
                Err(error) => return Err(ChannelError::System(error)),
            }
        }
        Ok(())
    }

    /// Waits until the socket is ready for `what`; false when `deadline` passes first.
    fn wait(&self, what: PollFlags, deadline: Instant) -> Result<bool, ChannelError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            if self.poll(what, left)?.is_some() {
                return Ok(true);
            }
        }
    }

    /// Whether a message, or the end of the connection, can be received without waiting.
    ///
    /// # Errors
    /// When the system fails.
    pub fn is_readable(&self) -> Result<bool, ChannelError> {
        Ok(self.poll(PollFlags::IN, Duration::ZERO)?.is_some())
    }

    /// Whether the peer has closed its end. What it sent before may still be there.
    pub fn is_hung_up(&self) -> bool {
        match self.poll(PollFlags::RDHUP, Duration::ZERO) {
            Ok(ready) => ready.is_some(),
            Err(_) => true,
        }
    }

    /// What of `what` the socket is ready for, hang-ups and errors always included.
    fn poll(&self, what: PollFlags, timeout: Duration) -> Result<Option<PollFlags>, ChannelError> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.socket, what)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => Ok(None),
            Ok(_) => Ok(Some(fds[0].revents())),
            Err(error) => Err(ChannelError::System(error)),
        }
    }

    /// Ends the connection in both directions, so that the peer sees it, too.
    pub fn hang_up(&self) {
        // An error says that the connection has ended already.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::super::protocol::Command;
    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one), Channel::new(other))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    fn message(payload: &[u8]) -> Vec<u8> {
        let header = Header::command(7, Command::RegionRead, payload.len());
        [header.as_bytes(), payload].concat()
    }

    #[test]
    fn messages_and_fds_arrive() {
        let (one, other) = pair();
        let fd = memfd_create("fd", MemfdFlags::CLOEXEC).unwrap();
        one.send(&message(b"first"), &[fd.as_fd(), fd.as_fd()], soon()).unwrap();
        one.send(&message(b""), &[], soon()).unwrap();
        assert!(other.is_readable().unwrap());
        let mut payload = vec![1; 99];
        let (header, fds) = other.receive(&mut payload, 64, 2, soon()).unwrap();
        assert_eq!((header.id, payload.as_slice(), fds.len()), (7, &b"first"[..], 2));
        let (_, fds) = other.receive(&mut payload, 64, 0, soon()).unwrap();
        assert!(payload.is_empty() && fds.is_empty());
        assert!(!other.is_readable().unwrap());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut payload = Vec::new();
        for size in [0, 15, 65, u32::MAX] {
            let (one, other) = pair();
            let header = Header { size, ..Header::command(1, Command::Version, 0) };
            one.send(header.as_bytes(), &[], soon()).unwrap();
            let error = other.receive(&mut payload, 64, 0, soon()).unwrap_err();
            assert!(matches!(error, ChannelError::Size { size: s, max: 64 } if s == size));
        }
        let (one, other) = pair();
        let fd = memfd_create("fd", MemfdFlags::CLOEXEC).unwrap();
        one.send(&message(b""), &[fd.as_fd(), fd.as_fd()], soon()).unwrap();
        let error = other.receive(&mut payload, 64, 1, soon()).unwrap_err();
        assert!(matches!(error, ChannelError::Fds { got: 2, max: 1 }), "{error}");
        let many = vec![fd.as_fd(); MAX_FDS + 1];
        assert!(matches!(one.send(&[0], &many, soon()), Err(ChannelError::Fds { .. })));
    }

    #[test]
    fn fds_on_every_byte_do_not_pile_up() {
        let (one, other) = pair();
        let fd = memfd_create("fd", MemfdFlags::CLOEXEC).unwrap();
        for &byte in &message(b"") {
            one.send(&[byte], &vec![fd.as_fd(); 100], soon()).unwrap();
        }
        let error = other.receive(&mut Vec::new(), 64, 1, soon()).unwrap_err();
        assert!(matches!(error, ChannelError::Fds { got: 300, .. }), "{error}");
    }

    #[test]
    fn hang_up_and_silence_are_told_apart() {
        let mut payload = Vec::new();
        let whole = message(b"abc");
        for cut in 0..whole.len() {
            let (one, other) = pair();
            one.send(&whole[..cut], &[], soon()).unwrap();
            let error = other.receive(&mut payload, 64, 0, soon()).unwrap_err();
            assert!(matches!(error, ChannelError::TimedOut { .. }), "{cut}: {error}");

            let (one, other) = pair();
            one.send(&whole[..cut], &[], soon()).unwrap();
            assert!(!other.is_hung_up());
            drop(one);
            assert!(other.is_hung_up());
            let error = other.receive(&mut payload, 64, 0, soon()).unwrap_err();
            assert_eq!(matches!(error, ChannelError::HungUp), cut == 0, "{cut}: {error}");
        }
        let (one, other) = pair();
        drop(other);
        assert!(matches!(one.send(&whole, &[], soon()), Err(ChannelError::HungUp)));
    }

    #[test]
    fn a_peer_that_does_not_read_is_given_up() {
        let (one, _other) = pair();
        let error = one.send(&vec![0; 16 << 20], &[], soon()).unwrap_err();
        assert!(matches!(error, ChannelError::TimedOut { got: 1.., .. }), "{error}");
    }
}
