//! The signals that ask the core to end, as something that can be waited for.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, unregister};

/// SIGTERM and SIGINT. Dropped, they do again what they did before.
#[derive(Debug)]
pub(crate) struct Signals {
    reader: UnixStream,
    registered: Vec<SigId>,
}

impl Signals {
    /// From now on they can be waited for, and end nothing.
    ///
    /// # Errors
    /// EMFILE.
    pub(crate) fn catch() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        let mut registered = Vec::new();
        for signal in [SIGTERM, SIGINT] {
            registered.push(pipe::register(signal, writer.try_clone()?)?);
        }
        Ok(Self { reader, registered })
    }

    /// Whether one came since this was asked last.
    pub(crate) fn came(&mut self) -> bool {
        let mut bytes = [0; 64];
        let mut came = false;
        while matches!(self.reader.read(&mut bytes), Ok(count) if count > 0) {
            came = true;
        }
        came
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            unregister(id);
        }
    }
}
