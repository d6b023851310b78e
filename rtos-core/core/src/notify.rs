//! What a service tells systemd: that it is ready, what it does, that it ends. sd_notify(3).
//!
//! A datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names. Without one nobody
//! asked, and nothing is sent.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with,
};

/// Whoever started the core and wants to hear from it.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(std::os::fd::OwnedFd, SocketAddrUnix)>,
    watchdog: Option<Duration>,
}

/// A message that did not arrive. The service goes on without.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// `NOTIFY_SOCKET` names no socket that there can be.
    #[error("NOTIFY_SOCKET={} is neither an absolute path nor @NAME", .0.display())]
    Address(OsString),
    /// The system refused.
    #[error("cannot tell the service manager at NOTIFY_SOCKET: {0}")]
    Send(#[from] Errno),
}

impl Notifier {
    /// As the environment says.
    ///
    /// # Errors
    /// When `NOTIFY_SOCKET` is malformed.
    pub fn from_environment() -> Result<Self, NotifyError> {
        let variable = |name| std::env::var_os(name);
        Self::new(
            variable("NOTIFY_SOCKET").as_deref(),
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
        )
    }

    /// From the values of `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    ///
    /// # Errors
    /// When the first is malformed.
    pub fn new(
        socket: Option<&OsStr>,
        watchdog: Option<&OsStr>,
        process: Option<&OsStr>,
    ) -> Result<Self, NotifyError> {
        let number = |text: &OsStr| text.to_str()?.parse::<u64>().ok();
        // Meant for another process where the two differ: this one's parent, say.
        let is_meant =
            process.is_none_or(|process| number(process) == Some(std::process::id().into()));
        let watchdog = watchdog.filter(|_| is_meant).and_then(number).filter(|&time| time > 0);
        let socket = match socket {
            Some(name) => {
                let address = address(name).ok_or_else(|| NotifyError::Address(name.into()))?;
                let flags = SocketFlags::CLOEXEC;
                Some((socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?, address))
            }
            None => None,
        };
        Ok(Self { socket, watchdog: watchdog.map(Duration::from_micros) })
    }

    /// How often systemd wants a sign of life at least, if it does: send one at half that time.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some())
    }

    /// That the core serves.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn ready(&self, status: impl fmt::Display) -> Result<(), NotifyError> {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)))
    }

    /// What the core does, in one line: `systemctl status` shows it.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn status(&self, status: impl fmt::Display) -> Result<(), NotifyError> {
        self.send(&format!("STATUS={}", one_line(status)))
    }

    /// That the core ends.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn stopping(&self) -> Result<(), NotifyError> {
        self.send("STOPPING=1")
    }

    /// A sign of life.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn alive(&self) -> Result<(), NotifyError> {
        self.send("WATCHDOG=1")
    }

    fn send(&self, message: &str) -> Result<(), NotifyError> {
        let Some((socket, address)) = &self.socket else { return Ok(()) };
        // A service manager that does not read must not stop the core.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendto(socket, message.as_bytes(), flags, address)?;
        Ok(())
    }
}

/// A path, or an abstract name after `@`.
fn address(name: &OsStr) -> Option<SocketAddrUnix> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddrUnix::new(name).ok(),
        [b'@', rest @ ..] if !rest.is_empty() => SocketAddrUnix::new_abstract_name(rest).ok(),
        _ => None,
    }
}

/// A line break would begin another assignment.
fn one_line(text: impl fmt::Display) -> String {
    text.to_string().replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[test]
    fn systemd_hears_what_happens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(path.as_os_str()), None, None).unwrap();
        notifier.ready("1 device\nREADY=0").unwrap();
        assert_eq!(receive(&manager), "READY=1\nSTATUS=1 device READY=0");
        notifier.status("2 devices").unwrap();
        assert_eq!(receive(&manager), "STATUS=2 devices");
        notifier.alive().unwrap();
        assert_eq!(receive(&manager), "WATCHDOG=1");
        notifier.stopping().unwrap();
        assert_eq!(receive(&manager), "STOPPING=1");
        drop(manager);
        assert!(matches!(notifier.stopping(), Err(NotifyError::Send(Errno::CONNREFUSED))));
    }

    #[test]
    fn an_abstract_name_is_reached() {
        let name = format!("uniddrv-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let notifier = Notifier::new(Some(format!("@{name}").as_ref()), None, None).unwrap();
        notifier.stopping().unwrap();
        assert_eq!(receive(&manager), "STOPPING=1");
    }

    #[test]
    fn without_a_manager_nothing_is_sent() {
        let notifier = Notifier::new(None, Some("1000".as_ref()), None).unwrap();
        notifier.ready("serving").unwrap();
        assert_eq!(notifier.watchdog(), None);
    }

    #[test]
    fn a_manager_that_does_not_read_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(path.as_os_str()), None, None).unwrap();
        let refused = (0..100_000).find_map(|_| notifier.alive().err());
        assert!(matches!(refused, Some(NotifyError::Send(Errno::AGAIN))));
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let watchdog = |time: &str, process: Option<&str>| {
            let process = process.map(OsStr::new);
            Notifier::new(Some(path.as_os_str()), Some(time.as_ref()), process).unwrap().watchdog()
        };
        let me = std::process::id().to_string();
        assert_eq!(watchdog("2000000", None), Some(Duration::from_secs(2)));
        assert_eq!(watchdog("2000000", Some(&me)), Some(Duration::from_secs(2)));
        assert_eq!(watchdog("2000000", Some("1")), None);
        assert_eq!(watchdog("0", None), None);
        assert_eq!(watchdog("x", None), None);
    }

    #[test]
    fn a_malformed_address_is_an_error() {
        let long = format!("/{}", "x".repeat(200));
        for name in ["", "@", "relative", "vsock:2:1234", &long] {
            let error = Notifier::new(Some(name.as_ref()), None, None).unwrap_err();
            assert!(matches!(error, NotifyError::Address(_)), "{name}");
        }
    }
}
