//! Control messages over a SOCK_SEQPACKET socket, with file descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send,
    sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uniddrv_abi::message::{MAX_FDS, MAX_MESSAGE, MessageError, decode, encode};

/// A connection that carries messages of [`uniddrv_abi::message`]. Never blocks but in the
/// methods that take a deadline.
#[derive(Debug)]
pub struct Control {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// A message that could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The other side has closed the connection.
    #[error("the other side has closed the connection")]
    Closed,
    /// Nothing came, or nothing more fits in, before the deadline.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// It reads too slowly: the socket is full.
    #[error("the other side does not read what it is sent")]
    Full,
    /// What came is no message, or was cut short.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The system refused.
    #[error("control socket: {0}")]
    Io(#[from] Errno),
}

/// Two connected sockets.
///
/// # Errors
/// EMFILE.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

impl Control {
    /// Speaks over `fd`, a SOCK_SEQPACKET socket that is connected.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, buffer: vec![0; MAX_MESSAGE] }
    }

    /// Sends a message with `fds`.
    ///
    /// # Errors
    /// `Full` where it would have to wait, `Closed` where nobody listens.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ControlError> {
        let bytes = encode(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(MessageError::TooLong(bytes.len()).into());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            // A sandboxed driver has no sendmsg: it could pass its device on.
            let sent = if fds.is_empty() {
                send(&self.fd, &bytes, flags)
            } else {
                sendmsg(&self.fd, &[IoSlice::new(&bytes)], &mut ancillary, flags)
            };
            match sent {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(ControlError::Full),
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                    return Err(ControlError::Closed);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Receives a message with its file descriptors; nothing where none waits.
    ///
    /// # Errors
    /// `Closed` at the end, `Message` for what is no message: it was taken from the socket.
    pub fn receive<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, ControlError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut reset = false;
        let received = loop {
            let mut iov = [IoSliceMut::new(&mut self.buffer)];
            match recvmsg(&self.fd, &mut iov, &mut ancillary, flags) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                // It did not read all that it was sent, which is told once. What it said before is
                // there still: why, perhaps.
                Err(Errno::CONNRESET) if !reset => reset = true,
                Err(Errno::CONNRESET) => return Err(ControlError::Closed),
                Err(error) => return Err(error.into()),
            }
        };
        // Whatever comes is owned from here on, and closed if nobody wants it.
        let fds: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 {
            return Err(ControlError::Closed);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            let text = "cut short: too many bytes or file descriptors, or no descriptor left";
            return Err(MessageError::Malformed(text.into()).into());
        }
        Ok(Some((decode(&self.buffer[..received.bytes])?, fds)))
    }

    /// Receives a message, waiting `limit` at most.
    ///
    /// # Errors
    /// As for [`receive`](Self::receive), and `TimedOut`.
    pub fn receive_within<T: DeserializeOwned>(
        &mut self,
        limit: Duration,
    ) -> Result<(T, Vec<OwnedFd>), ControlError> {
        let end = Instant::now() + limit;
        loop {
            if let Some(received) = self.receive()? {
                return Ok(received);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ControlError::TimedOut(limit));
            }
            let timeout = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends `question` and waits for its answer.
    ///
    /// # Errors
    /// As for sending and receiving.
    pub fn ask<T: Serialize, A: DeserializeOwned>(
        &mut self,
        question: &T,
        limit: Duration,
    ) -> Result<(A, Vec<OwnedFd>), ControlError> {
        self.send(question, &[])?;
        self.receive_within(limit)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use uniddrv_abi::message::{FromCore, ToCore};

    use super::*;

    #[test]
    fn messages_cross_with_their_file_descriptors() {
        let (one, other) = pair().unwrap();
        let (one, mut other) = (Control::new(one), Control::new(other));
        assert!(other.receive::<ToCore>().unwrap().is_none());
        let hello = ToCore::Hello { version: 1, program: "test".into() };
        let fds = [one.as_fd(); MAX_FDS];
        one.send(&hello, &fds).unwrap();
        let (message, received) = other.receive::<ToCore>().unwrap().unwrap();
        assert_eq!((message, received.len()), (hello, MAX_FDS));
        drop(received);
        one.send(&FromCore::Done, &[]).unwrap();
        one.send(&ToCore::Stop, &[]).unwrap();
        assert!(other.receive::<FromCore>().unwrap().is_some());
        drop(one);
        assert!(other.receive::<ToCore>().unwrap().is_some());
        assert!(matches!(other.receive::<ToCore>(), Err(ControlError::Closed)));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (one, other) = pair().unwrap();
        let mut other = Control::new(other);
        rustix::net::send(&one, &[0xff; 100], SendFlags::empty()).unwrap();
        assert!(matches!(other.receive::<ToCore>(), Err(ControlError::Message(_))));
        let limit = Duration::from_millis(1);
        assert!(matches!(other.receive_within::<ToCore>(limit), Err(ControlError::TimedOut(_))));
    }

    #[test]
    fn last_words_are_heard() {
        let (one, mut other) = pair().map(|(a, b)| (Control::new(a), Control::new(b))).unwrap();
        other.send(&ToCore::Stop, &[]).unwrap();
        one.send(&FromCore::Done, &[]).unwrap();
        drop(one);
        assert!(matches!(other.receive::<FromCore>(), Ok(Some((FromCore::Done, _)))));
        assert!(matches!(other.receive::<FromCore>(), Err(ControlError::Closed)));
    }

    #[test]
    fn a_peer_that_never_reads_fills_the_socket() {
        let (one, _other) = pair().unwrap();
        let one = Control::new(one);
        let full = (0..100_000).find_map(|_| one.send(&ToCore::Stop, &[]).err());
        assert!(matches!(full, Some(ControlError::Full)));
    }
}
