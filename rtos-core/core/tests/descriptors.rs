//! A full table of file descriptors. Alone in its program, since the limit is the process's.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use uniddrv_core::socket::{Listener, SocketError};

fn client(path: &Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

#[test]
fn a_client_is_turned_away_when_no_descriptor_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core.sock");
    let mut listener = Listener::bind(&path).unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limit }).unwrap();
    let (first, second) = (client(&path), client(&path));
    let mut fillers: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(fillers.len() > 10, "the limit was met");

    for waiting in [&first, &second] {
        assert!(matches!(listener.accept(), Err(SocketError::Full)));
        let end = recv(waiting, &mut [0; 1], RecvFlags::DONTWAIT).map(|(count, _)| count);
        assert!(matches!(end, Ok(0) | Err(Errno::CONNRESET)), "{end:?}");
    }
    assert!(listener.accept().unwrap().is_none(), "nobody is left to wake the core for ever");

    fillers.truncate(fillers.len() - 2);
    let _third = client(&path);
    assert!(listener.accept().unwrap().is_some(), "there is room again");
}
