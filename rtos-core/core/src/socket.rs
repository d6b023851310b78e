//! The socket that clients come to: `SOCK_SEQPACKET`, open to every user, since who may do what
//! is asked of each peer's credentials.
//!
//! A lock file beside it (`core.sock.lock`) belongs to the core that is alive, so two cores never
//! run with one socket, and a socket that a dead core left behind is known for what it is.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use uniddrv::peer::Peer;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A socket that the core could not listen on, or accept from.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another core is alive.
    #[error(
        "a core runs already{}: it holds {}; stop it first, or give this one a socket of its own",
        process.map(|process| format!(" (process {process})")).unwrap_or_default(),
        lock.display()
    )]
    Running {
        /// The lock that it holds.
        lock: PathBuf,
        /// Its process ID, as it wrote it there.
        process: Option<u32>,
    },
    /// Another program listens there.
    #[error("another program listens on {}; give the core another socket", .0.display())]
    Taken(PathBuf),
    /// What is there is no socket, and is not removed.
    #[error("{} is there and no socket; remove it, or give the core another path", .0.display())]
    NotASocket(PathBuf),
    /// Others could put a socket of theirs in its place.
    #[error(
        "{} belongs to user {owner} (mode {mode:o}), so others could take the socket's place; use a folder that only root or this user writes to",
        folder.display()
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
    /// A file operation failed.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What came back.
        #[source]
        error: io::Error,
    },
    /// There is no file descriptor left: the connection was closed again.
    #[error(
        "a client was turned away, as this process has no file descriptor left; raise its limit (LimitNOFILE= of the service, or ulimit -n)"
    )]
    Full,
    /// Accepting failed.
    #[error("cannot accept a client: {0}")]
    Accept(#[source] Errno),
}

/// The socket, and the right to it. Dropping it removes the socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the socket's file.
    identity: (u64, u64),
    /// Given up to turn somebody away when no other file descriptor is left.
    spare: Option<File>,
    _lock: Lock,
}

/// The right to a socket, and to what else one core keeps beside it. Held until dropped, and no
/// longer than this process lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the socket at `path`, and makes the folder that it is in.
    ///
    /// # Errors
    /// `Running` when another core has it, `Folder` when others could get in between.
    pub fn take(path: &Path) -> Result<Self, SocketError> {
        make_folder(path)?;
        let lock = beside(path, "lock");
        let failed = |what| {
            let path = lock.clone();
            move |error: Errno| SocketError::File { what, path, error: error.into() }
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&lock, flags, Mode::RUSR | Mode::WUSR).map_err(failed("open"))?;
        let mut file = File::from(fd);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN) => {
                let process = read_process(&mut file);
                return Err(SocketError::Running { lock, process });
            }
            Err(error) => return Err(failed("lock")(error)),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        written.map_err(|error| SocketError::File { what: "write", path: lock, error })?;
        Ok(Self { _file: file })
    }
}

impl Listener {
    /// Listens at `path`.
    ///
    /// # Errors
    /// When another core or program does, or a file operation fails.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        Self::with_lock(path, Lock::take(path)?)
    }

    /// Listens at `path`, whose lock is `lock`.
    ///
    /// # Errors
    /// When another program does, or a file operation fails.
    pub fn with_lock(path: &Path, lock: Lock) -> Result<Self, SocketError> {
        let failed =
            |what| move |error: io::Error| SocketError::File { what, path: path.to_owned(), error };
        remove_stale(path)?;
        let address = SocketAddrUnix::new(path).map_err(|e| failed("listen on")(e.into()))?;
        let socket = new_socket().map_err(|e| failed("listen on")(e.into()))?;
        bind(&socket, &address).map_err(|e| failed("listen on")(e.into()))?;
        // Nobody can connect before `listen`, so the time between is nobody's chance.
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed("open up"))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("look at"))?;
        listen(&socket, BACKLOG).map_err(|e| failed("listen on")(e.into()))?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            spare: spare(),
            _lock: lock,
        })
    }

    /// Accepts a client that waits; `None` where none does. Never blocks.
    ///
    /// # Errors
    /// `Full` where a client had to be turned away, `Accept` for what else the system says. Other
    /// clients may wait: the next call tells.
    pub fn accept(&mut self) -> Result<Option<(OwnedFd, Peer)>, SocketError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            match accept_with(&self.socket, flags) {
                Ok(client) => match Peer::of(&client) {
                    Ok(peer) => return Ok(Some((client, peer))),
                    Err(error) => return Err(SocketError::Accept(error)),
                },
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE) => {
                    // Without this the connection would stay, and wake the core for ever.
                    drop(self.spare.take());
                    let turned_away = accept_with(&self.socket, flags).map(drop);
                    self.spare = spare();
                    // Linux looks for a descriptor before it looks for a client.
                    return match turned_away {
                        Ok(()) => Err(SocketError::Full),
                        Err(Errno::AGAIN) => Ok(None),
                        // There was none to give up: others have taken all.
                        Err(error) => Err(SocketError::Accept(error)),
                    };
                }
                Err(error) => return Err(SocketError::Accept(error)),
            }
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// A file that a core keeps beside its socket: `core.sock.lock`.
pub fn beside(socket: &Path, what: &str) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Makes the folder of the socket, which others can read and only its owner can write to.
fn make_folder(socket: &Path) -> Result<(), SocketError> {
    let folder = match socket.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let failed = |what| move |error| SocketError::File { what, path: folder.to_owned(), error };
    if let Some(above) = folder.parent().filter(|above| *above != Path::new("")) {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755).create(above).map_err(failed("make the folder"))?;
    }
    match DirBuilder::new().mode(0o755).create(folder) {
        // Clients of other users must get through, whatever the umask.
        Ok(()) => {
            fs::set_permissions(folder, Permissions::from_mode(0o755))
                .map_err(failed("open up"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("make the folder")(error)),
    }
    let metadata = fs::metadata(folder).map_err(failed("look at"))?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let trusted = owner == 0 || owner == rustix::process::geteuid().as_raw();
    // In a sticky folder others can add files, and not replace ours.
    let sticky_or_private = mode & 0o022 == 0 || mode & 0o1000 != 0;
    if trusted && sticky_or_private {
        return Ok(());
    }
    Err(SocketError::Folder { folder: folder.to_owned(), owner, mode })
}

/// Removes the socket that a dead core left behind. The caller holds the lock.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |what| move |error| SocketError::File { what, path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let probe = new_socket().map_err(|error| failed("connect to")(error.into()))?;
    let address = SocketAddrUnix::new(path).map_err(|error| failed("connect to")(error.into()))?;
    match connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed("remove")),
        Err(Errno::NOENT) => Ok(()),
        // Connected, full, or of another type: somebody is there, and it is no core of ours.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(SocketError::Taken(path.to_owned())),
        Err(error) => Err(failed("connect to")(error.into())),
    }
}

fn read_process(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn client(path: &Path) -> Result<OwnedFd, Errno> {
        let socket = new_socket()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    }

    #[test]
    fn clients_are_accepted_with_their_credentials() {
        let folder = folder();
        let path = folder.path().join("a/b/core.sock");
        let mut listener = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o755);
        assert!(listener.accept().unwrap().is_none(), "nobody is there");
        let _client = client(&path).unwrap();
        let (_fd, peer) = listener.accept().unwrap().unwrap();
        assert_eq!(peer.process, Some(std::process::id()));
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert!(listener.accept().unwrap().is_none());
        drop(listener);
        assert!(!path.exists(), "the socket is removed");
        assert!(Listener::bind(&path).is_ok(), "and can be made again");
    }

    #[test]
    fn a_second_core_is_told_of_the_first() {
        let folder = folder();
        let path = folder.path().join("core.sock");
        let first = Listener::bind(&path).unwrap();
        let error = Listener::bind(&path).unwrap_err();
        let me = std::process::id();
        assert!(matches!(&error, SocketError::Running { process: Some(id), .. } if *id == me));
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("a core runs already (process {me}): it holds ")),
            "{text}"
        );
        assert!(client(&path).is_ok(), "the first is not disturbed");
        drop(first);
        assert!(Listener::bind(&path).is_ok());
    }

    #[test]
    fn a_socket_left_behind_is_replaced() {
        let folder = folder();
        let path = folder.path().join("core.sock");
        let dead = new_socket().unwrap();
        bind(&dead, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        drop(dead);
        assert_eq!(client(&path).unwrap_err(), Errno::CONNREFUSED);
        let _listener = Listener::bind(&path).unwrap();
        assert!(client(&path).is_ok());
    }

    #[test]
    fn what_is_not_ours_is_not_removed() {
        let folder = folder();
        let path = folder.path().join("core.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");

        let path = folder.path().join("stream.sock");
        let _stream = UnixListener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(SocketError::Taken(_))));
        assert!(path.exists());

        let path = folder.path().join("datagram.sock");
        let _datagram = UnixDatagram::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(SocketError::Taken(_))));
        assert!(path.exists());

        let path = folder.path().join("other.sock");
        let listener = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody else's").unwrap();
        drop(listener);
        assert!(path.exists(), "another file has the name now");
    }

    #[test]
    fn a_folder_that_others_write_to_is_refused() {
        let folder = folder();
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        let path = open.join("core.sock");
        let error = Listener::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::Folder { mode: 0o777, .. }), "{error}");
        assert!(!path.exists() && !beside(&path, "lock").exists(), "nothing was made in it");
        fs::set_permissions(&open, Permissions::from_mode(0o1777)).unwrap();
        assert!(Listener::bind(&path).is_ok(), "sticky, as /tmp is");
    }

    #[test]
    fn a_lock_file_that_is_a_link_is_refused() {
        let folder = folder();
        let path = folder.path().join("core.sock");
        let victim = folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, beside(&path, "lock")).unwrap();
        assert!(matches!(Listener::bind(&path), Err(SocketError::File { what: "open", .. })));
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn a_path_that_is_too_long_is_an_error() {
        let folder = folder();
        let path = folder.path().join("x".repeat(120));
        assert!(matches!(Listener::bind(&path), Err(SocketError::File { .. })));
    }
}
