//! Who is at the other end of a UNIX socket.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// The credentials that a process had when it connected, as the kernel vouches for them.
/// unix(7), SO_PEERCRED.
///
/// They stay what they were: a process that hands its connection on, or runs another program,
/// has shared its rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process ID; `None` for a process that this one's PID namespace does not know.
    pub process: Option<u32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
}

/// The most groups of a process. credentials(7), NGROUPS_MAX.
const MOST_GROUPS: usize = 65_536;

impl Peer {
    /// The peer of a connected socket.
    ///
    /// # Errors
    /// ENOTSOCK and the like for what is no UNIX socket.
    pub fn of(socket: impl AsFd) -> Result<Self, Errno> {
        let socket = socket.as_fd();
        // Not by rustix, whose type for the process ID cannot hold the 0 that stands for "none".
        let mut credentials = [0_u32; 3];
        let filled = option(socket, libc::SO_PEERCRED, &mut credentials)?;
        let [process, uid, gid] = credentials;
        if filled != 3 {
            return Err(Errno::NOTCONN);
        }
        Ok(Self { process: (process != 0).then_some(process), uid, gid, groups: groups(socket)? })
    }

    /// This process, as a peer of it would see it.
    ///
    /// # Errors
    /// None that is known.
    pub fn myself() -> Result<Self, Errno> {
        let groups = rustix::process::getgroups()?;
        Ok(Self {
            process: Some(std::process::id()),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: groups.into_iter().map(rustix::process::Gid::as_raw).collect(),
        })
    }

    /// Whether `gid` is one of its groups.
    pub fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

fn groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut groups = vec![0; 32];
    loop {
        match option(socket, libc::SO_PEERGROUPS, &mut groups) {
            Ok(count) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(Errno::RANGE) if groups.len() < MOST_GROUPS => groups.resize(MOST_GROUPS, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Reads a socket option that is made of 32-bit numbers into `values`; how many there were.
fn option(socket: BorrowedFd<'_>, name: c_int, values: &mut [u32]) -> Result<usize, Errno> {
    let mut len = size_of_val(values) as libc::socklen_t;
    // SAFETY: `values` is exclusively borrowed for the call, `len` says its size in bytes and the
    // kernel writes no more than that; any bits make a u32. `socket` is open while it is borrowed.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            values.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if status != 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok((len as usize / size_of::<u32>()).min(values.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (one, _other) = crate::control::pair().unwrap();
        let mut myself = Peer::myself().unwrap();
        let mut peer = Peer::of(&one).unwrap();
        peer.groups.sort_unstable();
        myself.groups.sort_unstable();
        assert_eq!(peer, myself);
        assert!(peer.is_in(peer.gid));
    }

    #[test]
    fn what_has_no_peer_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(Peer::of(&file), Err(Errno::NOTSOCK));
    }

    #[test]
    fn groups_are_looked_at() {
        let peer = Peer { process: None, uid: 1, gid: 2, groups: vec![5, 6] };
        assert!(peer.is_in(2) && peer.is_in(6) && !peer.is_in(1));
    }
}
