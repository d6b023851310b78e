//! Who may do what, how much of it, and what is no message at all.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType, connect, send, socket};
use uniddrv::client::OpenOptions;
use uniddrv::control::{Control, ControlError};
use uniddrv::shared::SharedWords;
use uniddrv_abi::message::{FromCore, Refusal, Rights, ToCore, VERSION, encode};
use uniddrv_abi::queue;
use uniddrv_tests::programs;

use crate::User;
use crate::host::{Host, PATIENCE, Setup, status, until};

fn raw(path: &Path) -> OwnedFd {
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

fn control(host: &Host) -> Control {
    Control::new(raw(&host.setup.socket()))
}

fn ask(control: &mut Control, question: &ToCore) -> FromCore {
    control.ask::<_, FromCore>(question, PATIENCE).unwrap().0
}

fn hello() -> ToCore {
    ToCore::Hello { version: VERSION, program: "test".into() }
}

/// The connection ends, perhaps after an answer: which.
fn end(control: &mut Control) -> Option<Refusal> {
    let mut refused = None;
    loop {
        match control.receive_within::<FromCore>(PATIENCE) {
            Ok((FromCore::Refused { code, .. }, _)) => refused = Some(code),
            Ok((other, _)) => panic!("{other:?}"),
            Err(ControlError::Closed) => return refused,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_is_no_message_ends_its_connection_and_nothing_else() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let good = encode(&ToCore::List { prefix: String::new() }).unwrap();
    let mut bad: Vec<Vec<u8>> = vec![vec![0xff; 10], vec![0x7f], vec![0; 100_000]];
    let open = ToCore::Open {
        name: "nvme:0/ns1".into(),
        rights: Rights::Write,
        queues: 1,
        depth: 8,
        arena: 1 << 21,
    };
    let bytes = encode(&open).unwrap();
    bad.extend((1..bytes.len()).map(|len| bytes[..len].to_vec()));
    bad.push([good.as_slice(), &[0]].concat());
    for bytes in bad {
        for greeted in [false, true] {
            let mut control = control(&host);
            if greeted {
                assert!(matches!(ask(&mut control, &hello()), FromCore::Welcome { .. }));
            }
            send(&control, &bytes, SendFlags::empty()).unwrap();
            assert_eq!(end(&mut control), Some(Refusal::Protocol), "{bytes:x?}");
        }
    }
    User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap()).once();
}

#[test]
fn messages_out_of_order_end_their_connection() {
    let host = Setup::new("honest").start();
    host.ready();
    let mut first = control(&host);
    first.send(&ToCore::Stop, &[]).unwrap();
    assert_eq!(end(&mut first), Some(Refusal::Protocol));
    let mut twice = control(&host);
    assert!(matches!(ask(&mut twice, &hello()), FromCore::Welcome { version: VERSION, .. }));
    twice.send(&hello(), &[]).unwrap();
    assert_eq!(end(&mut twice), Some(Refusal::Protocol));
    let mut other = control(&host);
    other.send(&ToCore::Hello { version: VERSION + 1, program: String::new() }, &[]).unwrap();
    assert_eq!(end(&mut other), Some(Refusal::Version));
    let mut fds = control(&host);
    assert!(matches!(ask(&mut fds, &hello()), FromCore::Welcome { .. }));
    let file = std::io::stderr();
    fds.send(&ToCore::List { prefix: String::new() }, &[file.as_fd()]).unwrap();
    assert_eq!(end(&mut fds), Some(Refusal::Protocol));
    // An empty datagram reads as the end of the connection.
    let empty = control(&host);
    let _ = send(&empty, &[], SendFlags::empty());
    let mut silent = control(&host);
    assert_eq!(end(&mut silent), None, "one that says nothing is closed");
    assert_eq!(status(&host.connect()).state, "running");
}

#[test]
fn wishes_that_cannot_be_are_refused() {
    let host = Setup::new("honest").start();
    host.ready();
    let mut control = control(&host);
    ask(&mut control, &hello());
    let open = |queues, depth, arena| ToCore::Open {
        name: "nvme:0/ns1".into(),
        rights: Rights::Write,
        queues,
        depth,
        arena,
    };
    for question in [
        open(0, 8, 1),
        open(17, 8, 1),
        open(255, 8, 1),
        open(1, 0, 1),
        open(1, 3, 1),
        open(1, 2048, 1),
        open(1, u32::MAX, 1),
        open(1, 8, u64::MAX),
        open(1, 8, 1 << 50),
    ] {
        let answer = ask(&mut control, &question);
        let limit = matches!(answer, FromCore::Refused { code: Refusal::Limit, .. });
        assert!(limit, "{question:?}: {answer:?}");
    }
    for question in [ToCore::Close { handle: 0 }, ToCore::Close { handle: 77 }] {
        let answer = ask(&mut control, &question);
        assert!(matches!(answer, FromCore::Refused { code: Refusal::NotFound, .. }), "{answer:?}");
    }
    let FromCore::Opened { handle, arena, .. } = ask(&mut control, &open(1, 1, 0)) else {
        panic!("not opened");
    };
    assert_eq!(arena, 2 << 20);
    // A later name has to fit into the arena that is there.
    let answer = ask(&mut control, &open(1, 8, 4 << 20));
    assert!(matches!(answer, FromCore::Refused { code: Refusal::Limit, .. }), "{answer:?}");
    let mut other = crate::limits::control(&host);
    ask(&mut other, &hello());
    let answer = ask(&mut other, &ToCore::Close { handle });
    assert!(matches!(answer, FromCore::Refused { .. }), "another's handle: {answer:?}");
    assert_eq!(ask(&mut control, &ToCore::Close { handle }), FromCore::Done);
    let answer = ask(&mut control, &ToCore::Close { handle });
    assert!(matches!(answer, FromCore::Refused { .. }), "{answer:?}");
}

#[test]
fn a_client_that_never_reads_is_sent_away() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let control = control(&host);
    control.send(&hello(), &[]).unwrap();
    let sent = (0..1_000_000).find_map(|_| {
        match control.send(&ToCore::Status { prefix: String::new() }, &[]) {
            Ok(()) => None,
            Err(ControlError::Full) => {
                std::thread::sleep(Duration::from_millis(1));
                None
            }
            Err(error) => Some(error),
        }
    });
    assert!(matches!(sent, Some(ControlError::Closed)), "{sent:?}");
    User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap()).once();
}

/// Runs a client as user `uid`: what it printed. Nothing without the right to become another
/// user.
fn client(host: &Host, uid: u32, arguments: [&str; 2]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be other users");
        return None;
    }
    // Where it is, others may not go.
    let program = host.setup.folder.path().join("client");
    if !program.exists() {
        programs::copy(env!("CARGO_BIN_EXE_core_host"), &program);
    }
    let output = std::process::Command::new(program)
        .current_dir("/")
        .arg("open")
        .arg(host.setup.socket())
        .args(arguments)
        .uid(uid)
        .gid(uid)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn users_get_what_the_configuration_grants() {
    let setup = Setup::new("honest")
        .rest("[[allow]]\nname = \"nvme:0/ns1\"\nuid = 7777\nrights = \"read\"\nqueues = 1")
        .rest("[[allow]]\nname = \"nvme:0/ns2\"\ngid = 8888\nrights = \"write\"");
    let host = setup.start();
    host.ready();
    let core = host.connect();
    let mut mine = User::new(core.open("nvme:0/ns2", &OpenOptions::default()).unwrap());
    let Some(text) = client(&host, 7777, ["nvme:0/ns1", "read"]) else { return };
    assert!(text.starts_with("opened\nsees disk:0 nvme:0/ns1\n"), "{text}");
    // Orders are not for them.
    for order in ["revoke", "kill", "stop"] {
        let line = text.lines().find(|line| line.starts_with(order)).unwrap();
        assert!(line.contains("only root"), "{line}");
    }
    let text = client(&host, 7777, ["nvme:0/ns1", "write"]).unwrap();
    assert!(text.contains("may not write to nvme:0/ns1"), "{text}");
    let text = client(&host, 7777, ["nvme:0/ns2", "read"]).unwrap();
    assert!(text.contains("may not open nvme:0/ns2"), "{text}");
    let text = client(&host, 7777, ["disk:1", "read"]).unwrap();
    assert!(text.contains("may not open nvme:0/ns2"), "{text}");
    let text = client(&host, 8888, ["nvme:0/ns2", "write"]).unwrap();
    assert!(text.starts_with("opened\nsees disk:1 nvme:0/ns2\n"), "{text}");
    let text = client(&host, 9999, ["nvme:0/ns1", "read"]).unwrap();
    assert!(text.contains("may not open") && text.contains("sees \n"), "{text}");
    mine.once();
    assert_eq!(status(&core).restarts, 0);
}

#[test]
fn a_request_that_nobody_is_woken_for_ends_no_driver() {
    let host = Setup::new("honest").device("timeout = \"100ms\"").start();
    host.ready();
    let core = host.connect();
    let mut sly = control(&host);
    ask(&mut sly, &hello());
    let question = ToCore::Open {
        name: "nvme:0/ns1".into(),
        rights: Rights::Write,
        queues: 1,
        depth: 8,
        arena: 1,
    };
    let (answer, fds) = sly.ask::<_, FromCore>(&question, PATIENCE).unwrap();
    assert!(matches!(answer, FromCore::Opened { .. }), "{answer:?}");
    until(|| status(&core).asleep.then_some(()));
    let words = SharedWords::map(fds[1].as_fd(), 0).unwrap();
    let mut ring = queue::Submitter::new(words, queue::submission(8), 0);
    ring.push([1, 0, 0, 0]);
    ring.publish();
    // The core comes to look, as somebody holds the name and asks for something. Twice the
    // timeout and a second later, a driver that does nothing would be killed.
    for _ in 0..40 {
        ask(&mut sly, &ToCore::List { prefix: String::new() });
        std::thread::sleep(Duration::from_millis(50));
    }
    let now = status(&core);
    assert_eq!((now.restarts, now.ios), (0, 1), "{now:?}");
}

#[test]
fn a_flood_of_wake_ups_keeps_the_core_from_nothing() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let mut noisy = control(&host);
    ask(&mut noisy, &hello());
    let question = ToCore::Open {
        name: "nvme:0/ns1".into(),
        rights: Rights::Read,
        queues: 1,
        depth: 8,
        arena: 1,
    };
    let (_, fds) = noisy.ask::<_, FromCore>(&question, PATIENCE).unwrap();
    let before = host.activity().1;
    let mut sent = 0;
    while sent < 100_000 {
        match send(&fds[2], &[1], SendFlags::DONTWAIT) {
            Ok(_) => sent += 1,
            // The driver has not heard it all yet.
            Err(_) => std::thread::yield_now(),
        }
    }
    let switches = host.activity().1 - before;
    assert!(switches < 20_000, "{switches}");
    User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap()).once();
    assert_eq!(status(&core).restarts, 0);
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let mut command = std::process::Command::new("/bin/sh");
    let script = "ulimit -v 700000; exec \"$0\" \"$@\"";
    command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_core_host"));
    let host = Host::start(Setup::new("honest"), &mut command);
    host.ready();
    let core = host.connect();
    let large = OpenOptions { arena: 640 << 20, ..OpenOptions::default() };
    for _ in 0..3 {
        let error = core.open("nvme:0/ns1", &large).err().unwrap().to_string();
        assert!(error.contains("cannot make an arena"), "{error}");
    }
    User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap()).once();
    assert_eq!(status(&core).restarts, 0);
}

#[test]
fn file_descriptors_run_out_for_clients_alone() {
    let setup = Setup::new("honest");
    let mut command = std::process::Command::new("/bin/sh");
    let script = "ulimit -n 300; exec \"$0\" \"$@\"";
    command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_core_host"));
    let host = Host::start(setup, &mut command);
    host.ready();
    let core = host.connect();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    let mut guests: Vec<Control> = Vec::new();
    let mut refused = 0;
    for _ in 0..400 {
        let mut guest = control(&host);
        let _ = guest.send(&hello(), &[]);
        match guest.receive_within::<FromCore>(PATIENCE) {
            Ok((FromCore::Welcome { .. }, _)) => guests.push(guest),
            Ok((FromCore::Refused { code: Refusal::Limit, .. }, _)) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(guests.len() > 50 && refused > 50, "{} let in, {refused} not", guests.len());
    let open = ToCore::Open {
        name: "nvme:0/ns1".into(),
        rights: Rights::Write,
        queues: 16,
        depth: 8,
        arena: 1,
    };
    let answer = ask(&mut guests[0], &open);
    assert!(matches!(answer, FromCore::Refused { code: Refusal::Limit, .. }), "{answer:?}");
    // Drivers are replaced as ever.
    for _ in 0..3 {
        user.once();
        until(|| status(&core).warm.then_some(()));
        core.kill("nvme:0", uniddrv::client::Harm::Kill).unwrap();
        user.once();
    }
    guests.clear();
    until(|| uniddrv::client::Core::connect_to(host.setup.socket()).ok());
}
