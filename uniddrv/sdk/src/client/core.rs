//! The core, as a client sees it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use uniddrv_abi::message::{DriverStatus, FromCore, Harm, Name, Refusal, ToCore, VERSION};

use super::capability::ClientArena;
use super::error::CoreError;
use super::link::Link;
use super::path::{VARIABLE, socket_path};
use crate::peer::Peer;

/// How long the core may take to answer what it knows.
const QUESTION: Duration = Duration::from_secs(10);
/// How long it may take to do what involves a device.
const WORK: Duration = Duration::from_mins(1);

/// A connection to the core. Any thread may use it; questions wait for each other.
///
/// All that is opened over one connection has one arena.
pub struct Core {
    pub(super) link: Arc<Link>,
    pub(super) arena: Mutex<Option<Arc<ClientArena>>>,
    client: u32,
    question: Duration,
    work: Duration,
}

impl Core {
    /// Connects to the core at [`socket_path`].
    ///
    /// # Errors
    /// When none runs there, this user may not connect, or, unless the environment names the
    /// socket, somebody else than root and this user runs it.
    pub fn connect() -> Result<Self, CoreError> {
        let path = socket_path();
        let fd = reach(&path)?;
        if std::env::var_os(VARIABLE).is_none_or(|value| value.is_empty()) {
            let peer = Peer::of(&fd).map_err(|e| CoreError::io("see who runs the core", e))?;
            if peer.uid != 0 && peer.uid != rustix::process::geteuid().as_raw() {
                return Err(CoreError::Stranger { path, uid: peer.uid });
            }
        }
        Self::over(fd)
    }

    /// Connects to the core at `path`.
    ///
    /// # Errors
    /// When none runs there or this user may not connect.
    pub fn connect_to(path: impl AsRef<Path>) -> Result<Self, CoreError> {
        Self::over(reach(path.as_ref())?)
    }

    /// Speaks over a SOCK_SEQPACKET socket that is connected to a core.
    ///
    /// # Errors
    /// When whoever is at the other end does not greet back as a core of this version does.
    pub fn over(fd: OwnedFd) -> Result<Self, CoreError> {
        const ACTION: &str = "greet the core";
        let link = Arc::new(Link::new(fd).map_err(|e| CoreError::io(ACTION, e))?);
        let program = std::env::args_os().next().unwrap_or_default();
        let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
        let hello =
            ToCore::Hello { version: VERSION, program: name.chars().take(64).collect::<String>() };
        match link.ask(ACTION, &hello, QUESTION) {
            Ok((FromCore::Welcome { version: VERSION, client }, _)) => {
                let arena = Mutex::default();
                Ok(Self { link, arena, client, question: QUESTION, work: WORK })
            }
            Ok((FromCore::Welcome { version, .. }, _)) => {
                Err(CoreError::Version { theirs: version })
            }
            Ok((other, _)) => Err(unexpected(&link, ACTION, &other)),
            Err(error) => Err(error),
        }
    }

    /// From now on the core may take `question` to answer what it knows, and `work` for what
    /// involves a device: opening, replacing a driver, adding and removing.
    pub fn set_deadlines(&mut self, question: Duration, work: Duration) {
        (self.question, self.work) = (question, work);
    }

    /// The number that listings know this connection by.
    pub fn client(&self) -> u32 {
        self.client
    }

    /// The names that begin with `prefix`, what is behind them, and who holds them.
    ///
    /// # Errors
    /// When the core does not answer.
    pub fn names(&self, prefix: &str) -> Result<Vec<Name>, CoreError> {
        let action = "list the names";
        match self.ask(action, &ToCore::List { prefix: prefix.into() }, self.question)? {
            FromCore::Names(names) => Ok(names),
            other => Err(unexpected(&self.link, action, &other)),
        }
    }

    /// What goes on at the drivers whose names begin with `prefix`. Rates are over the time since
    /// this connection asked last.
    ///
    /// # Errors
    /// When the core does not answer.
    pub fn status(&self, prefix: &str) -> Result<Vec<DriverStatus>, CoreError> {
        let action = "ask for the status";
        match self.ask(action, &ToCore::Status { prefix: prefix.into() }, self.question)? {
            FromCore::Status(status) => Ok(status),
            other => Err(unexpected(&self.link, action, &other)),
        }
    }

    /// What kind of device `name` is behind, and what it says of itself: for `nvme`, Identify
    /// Controller and an Identify Namespace for each namespace, 4,096 bytes each.
    ///
    /// # Errors
    /// When there is no such name, or its driver is not up.
    pub fn identify(&self, name: &str) -> Result<(String, Vec<u8>), CoreError> {
        let action = format!("identify {name}");
        match self.ask(&action, &ToCore::Identify { name: name.into() }, self.question)? {
            FromCore::Identity { kind, bytes } => Ok((kind, bytes)),
            other => Err(unexpected(&self.link, &action, &other)),
        }
    }

    /// Replaces the driver of `name` by a new process of the same program. Clients see a pause.
    ///
    /// # Errors
    /// When there is no such name, this user may not, or the successor does not come up.
    pub fn restart(&self, name: &str) -> Result<(), CoreError> {
        self.order(&format!("restart {name}"), &ToCore::Restart { name: name.into() })
    }

    /// As [`restart`](Self::restart), with the program in the file `program`, or the present one's
    /// file read anew.
    ///
    /// # Errors
    /// As for [`restart`](Self::restart), and when there is no such program.
    pub fn upgrade(&self, name: &str, program: Option<&str>) -> Result<(), CoreError> {
        let question = ToCore::Upgrade { name: name.into(), program: program.map(str::to_owned) };
        self.order(&format!("upgrade {name}"), &question)
    }

    /// Takes `name` from the client with this number, or from all who hold it.
    ///
    /// # Errors
    /// When there is no such name or holder, or this user may not.
    pub fn revoke(&self, name: &str, client: Option<u32>) -> Result<(), CoreError> {
        self.order(&format!("revoke {name}"), &ToCore::Revoke { name: name.into(), client })
    }

    /// Gives the device at `address` to the core, with a driver of this name or whichever matches.
    ///
    /// # Errors
    /// When this user may not, or the device does not come up.
    pub fn add(&self, address: &str, driver: Option<&str>) -> Result<(), CoreError> {
        let question = ToCore::Add { address: address.into(), driver: driver.map(str::to_owned) };
        self.order(&format!("give {address} to the core"), &question)
    }

    /// Takes the device at `address` from the core; its driver has ended then.
    ///
    /// # Errors
    /// When the core does not have it, or this user may not.
    pub fn remove(&self, address: &str) -> Result<(), CoreError> {
        let question = ToCore::Remove { address: address.into() };
        self.order(&format!("take {address} from the core"), &question)
    }

    /// Harms the driver of `name`, to see it recover.
    ///
    /// # Errors
    /// When there is no such name, or this user may not.
    pub fn kill(&self, name: &str, how: Harm) -> Result<(), CoreError> {
        self.order(&format!("harm the driver of {name}"), &ToCore::Kill { name: name.into(), how })
    }

    /// Asks the core to end. It may take a moment after that.
    ///
    /// # Errors
    /// When this user may not.
    pub fn stop(&self) -> Result<(), CoreError> {
        match self.order("stop the core", &ToCore::Stop) {
            // It may be gone before it has answered.
            Err(CoreError::Ended { .. }) => Ok(()),
            other => other,
        }
    }

    /// Asks for what changes something.
    fn order(&self, action: &str, question: &ToCore) -> Result<(), CoreError> {
        match self.ask(action, question, self.work)? {
            FromCore::Done => Ok(()),
            other => Err(unexpected(&self.link, action, &other)),
        }
    }

    fn ask(&self, action: &str, question: &ToCore, limit: Duration) -> Result<FromCore, CoreError> {
        Ok(self.link.ask(action, question, limit)?.0)
    }

    pub(super) fn ask_to_open(
        &self,
        action: &str,
        question: &ToCore,
    ) -> Result<(FromCore, Vec<OwnedFd>), CoreError> {
        self.link.ask(action, question, self.work)
    }

    /// The connection's arena: the one that is behind `fd`, of at least `len` bytes.
    pub(super) fn arena(&self, fd: OwnedFd, len: u64) -> Result<Arc<ClientArena>, String> {
        let mut arena = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        match &*arena {
            Some(arena) if arena.is(&fd) => {
                arena.check(len)?;
                Ok(arena.clone())
            }
            // All that is open has to be of one arena; an earlier one may have ended with the
            // last name that was open.
            Some(earlier) if Arc::strong_count(earlier) > 1 => {
                Err("another arena than the connection's".into())
            }
            _ => {
                let new = Arc::new(ClientArena::new(fd, len)?);
                *arena = Some(new.clone());
                Ok(new)
            }
        }
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Core(client {})", self.client)
    }
}

/// The core answered what is no answer: nothing that it says from now on can be relied on.
pub(super) fn unexpected(link: &Link, action: &str, answer: &FromCore) -> CoreError {
    let mut claim = format!("it answered {answer:?}");
    if claim.len() > 200 {
        claim = claim.chars().take(200).collect::<String>() + "...";
    }
    link.end(&format!("the core broke the protocol: {claim}"));
    CoreError::protocol(action, claim)
}

/// A socket that is connected to `path`.
fn reach(path: &Path) -> Result<OwnedFd, CoreError> {
    const ACTION: &str = "connect to the core";
    let address = SocketAddrUnix::new(path)
        .map_err(|_| CoreError::Options(format!("{} is no path of a socket", path.display())))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let end = Instant::now() + QUESTION;
    loop {
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|e| CoreError::io(ACTION, e))?;
        let path = path.to_owned();
        match connect(&fd, &address) {
            Ok(()) => return Ok(fd),
            // Too many wait to be accepted.
            Err(Errno::AGAIN | Errno::INTR) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::AGAIN) => {
                return Err(CoreError::TimedOut { action: ACTION.into(), limit: QUESTION });
            }
            Err(error @ (Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR)) => {
                return Err(CoreError::NotRunning { path, error: error.into() });
            }
            Err(error @ (Errno::ACCESS | Errno::PERM)) => {
                return Err(CoreError::Forbidden { path, error: error.into() });
            }
            Err(error) => return Err(CoreError::io(ACTION, error)),
        }
    }
}

impl CoreError {
    /// Whether the core said that there is no such name or device.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Refusal::NotFound)
    }
}
