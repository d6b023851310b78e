//! The other end of a vfio-user connection, played by the fuzzer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{Shutdown, shutdown};
use uniddrv::vfio_user::channel::Channel;

/// One end, and what it may send along.
pub struct Peer {
    channel: Channel,
}

/// Files to send along: one of 64 KiB and one of half a page.
fn files() -> &'static [OwnedFd; 2] {
    static FILES: OnceLock<[OwnedFd; 2]> = OnceLock::new();
    FILES.get_or_init(|| {
        [0x10000, 0x800].map(|len| {
            let file = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memfd");
            ftruncate(&file, len).expect("ftruncate");
            file
        })
    })
}

impl Peer {
    /// A connection: this end and the other one.
    pub fn pair() -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        (Self { channel: Channel::new(ours) }, theirs)
    }

    /// Sends `bytes` and `fds` files, every fourth of them a short one. Whether the other end
    /// took them.
    pub fn send(&self, bytes: &[u8], fds: usize) -> bool {
        let fds: Vec<BorrowedFd<'_>> =
            (1..=fds).map(|index| files()[usize::from(index % 4 == 0)].as_fd()).collect();
        self.channel.send(bytes, &fds, Instant::now() + Duration::from_millis(1)).is_ok()
    }

    /// Sends nothing more.
    pub fn finish(&self) {
        let _ = shutdown(&self.channel, Shutdown::Write);
    }

    /// Takes what the other end sent, so that its next message finds room.
    pub fn drain(&self) {
        let mut payload = Vec::new();
        while self.channel.is_readable().unwrap_or(false) {
            let now = Instant::now();
            if self.channel.receive(&mut payload, 1 << 20, 253, now).is_err() {
                break;
            }
        }
    }
}
