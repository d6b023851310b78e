//! Connecting and opening, and a core that answers what it should not.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen};
use uniddrv::client::{Core, CoreError, Harm, OpenOptions, Refusal};
use uniddrv::control::{Control, pair};
use uniddrv::shared;
use uniddrv_abi::message::{FromCore, ToCore, VERSION};

use crate::fake::{Behaviour, Fake, Script, Style, Tamper, target};
use crate::polled::{finish, options, submit};

#[test]
fn over_a_socket_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core.sock");
    let Err(error) = Core::connect_to(&path) else { panic!("nobody listens") };
    assert!(matches!(error, CoreError::NotRunning { .. }));
    assert!(error.to_string().contains("`uniddrv core`"), "{error}");
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let socket = socket.unwrap();
    bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    // A core that has died leaves its socket behind.
    assert!(matches!(Core::connect_to(&path), Err(CoreError::NotRunning { .. })));
    listen(&socket, 4).unwrap();
    let thread =
        std::thread::spawn(move || Fake::on(accept(&socket).unwrap(), Behaviour::default()));
    let core = Core::connect_to(&path).unwrap();
    let mut fake = thread.join().unwrap();
    let client = core.open("disk:0", &options()).unwrap();
    fake.serve(Style::default());
    let mut queue = client.take_queue().unwrap();
    submit(&mut queue, uniddrv::block::Operation::Flush, None, 1);
    finish(&mut queue, 1);
    assert_eq!(core.client(), 7);
    let hello = fake.asked.lock().unwrap()[0].clone();
    let ToCore::Hello { version: VERSION, program } = hello else { panic!("{hello:?}") };
    assert!(program.starts_with("client"), "{program}");
}

#[test]
fn questions_and_their_answers() {
    let (core, fake) = Fake::start();
    assert!(core.names("disk").unwrap().is_empty());
    assert!(core.status("").unwrap().is_empty());
    let (kind, bytes) = core.identify("disk:0").unwrap();
    assert_eq!((kind.as_str(), bytes.len()), ("nvme", 8192));
    core.upgrade("disk:0", Some("/bin/true")).unwrap();
    core.revoke("disk:0", Some(3)).unwrap();
    core.add("model:nvme", None).unwrap();
    core.remove("model:nvme").unwrap();
    core.kill("disk:0", Harm::Hang).unwrap();
    core.stop().unwrap();
    let error = core.restart("disk:9").unwrap_err();
    assert_eq!(error.code(), Some(Refusal::NotFound));
    assert!(error.is_not_found());
    let text = "restart disk:9: there is no disk:9; `uniddrv ls` lists what there is";
    assert_eq!(error.to_string(), text);
    assert!(core.open("disk:9", &options()).err().unwrap().is_not_found());
    assert_eq!(fake.asked.lock().unwrap().len(), 12);
}

#[test]
fn options_that_cannot_be_are_not_sent() {
    let (core, fake) = Fake::start();
    for bad in [
        OpenOptions { queues: 0, ..options() },
        OpenOptions { queues: 17, ..options() },
        OpenOptions { depth: 0, ..options() },
        OpenOptions { depth: 3, ..options() },
        OpenOptions { depth: 2048, ..options() },
        OpenOptions { arena: 0, ..options() },
    ] {
        let Err(error) = core.open("disk:0", &bad) else { panic!("{bad:?}") };
        assert!(matches!(&error, CoreError::Options(text) if text.contains("disk:0")), "{error}");
    }
    let name = "x".repeat(200 << 10);
    assert!(matches!(core.open(&name, &options()), Err(CoreError::Options(_))));
    core.names("").unwrap();
    assert_eq!(fake.asked.lock().unwrap().len(), 2);
}

fn scripted(script: Script) -> (Core, Fake) {
    Fake::with(Behaviour { script: Some(script), ..Behaviour::default() })
}

fn greeted(answer: &FromCore) -> CoreError {
    let (ours, theirs) = pair().unwrap();
    Control::new(ours.try_clone().unwrap()).send(answer, &[]).unwrap();
    Core::over(theirs).err().unwrap()
}

#[test]
fn a_greeting_that_is_none() {
    let newer = greeted(&FromCore::Welcome { version: VERSION + 1, client: 1 });
    assert!(matches!(newer, CoreError::Version { theirs } if theirs == VERSION + 1));
    assert_eq!(newer.code(), Some(Refusal::Version));
    assert!(matches!(greeted(&FromCore::Done), CoreError::Protocol { .. }));
    let refused = FromCore::Refused { code: Refusal::Limit, text: "too many clients".into() };
    assert_eq!(greeted(&refused).code(), Some(Refusal::Limit));
    let (ours, theirs) = pair().unwrap();
    rustix::net::send(&ours, &[0xff; 40], rustix::net::SendFlags::empty()).unwrap();
    assert!(matches!(Core::over(theirs), Err(CoreError::Protocol { .. })));
    let (ours, theirs) = pair().unwrap();
    drop(ours);
    assert!(matches!(Core::over(theirs), Err(CoreError::Ended { .. })));
}

#[test]
fn a_core_that_does_not_answer() {
    // It answers neither of the first two questions after the greeting, and both before the third.
    let mut count = 0;
    let script: Script = Box::new(move |question| match question {
        ToCore::List { .. } | ToCore::Identify { .. } => {
            count += 1;
            match count {
                1 | 2 => Some(Vec::new()),
                3 => Some(vec![
                    FromCore::Names(Vec::new()),
                    FromCore::Opened {
                        handle: 44,
                        target: target(),
                        arena: 0,
                        depth: 1,
                        in_flight: 1,
                        queues: 1,
                    },
                    FromCore::Identity { kind: "third".into(), bytes: Vec::new() },
                ]),
                _ => None,
            }
        }
        _ => None,
    });
    let (mut core, fake) = scripted(script);
    let limit = Duration::from_millis(50);
    core.set_deadlines(limit, limit);
    for _ in 0..2 {
        let start = Instant::now();
        let error = core.names("").unwrap_err();
        assert!(matches!(error, CoreError::TimedOut { .. }), "{error}");
        assert!(start.elapsed() >= limit);
    }
    core.set_deadlines(Duration::from_secs(20), limit);
    // Late answers are nobody's; what was opened for nobody is closed.
    assert_eq!(core.identify("x").unwrap().0, "third");
    core.names("").unwrap();
    core.names("").unwrap();
    let asked = fake.asked.lock().unwrap();
    assert!(asked.iter().any(|question| matches!(question, ToCore::Close { handle: 44 })));
}

#[test]
fn a_core_that_talks_without_end_is_not_listened_to_for_ever() {
    let flood = || vec![FromCore::Closed { handle: 3, text: "x".repeat(100) }; 100];
    let script: Script = Box::new(move |question| match question {
        ToCore::List { .. } => Some(flood()),
        _ => None,
    });
    let (mut core, _fake) = scripted(script);
    core.set_deadlines(Duration::from_millis(100), Duration::from_secs(1));
    for _ in 0..20 {
        assert!(matches!(core.names(""), Err(CoreError::TimedOut { .. })));
    }
}

#[test]
fn an_answer_to_another_question_ends_the_connection() {
    let script: Script = Box::new(|question| match question {
        ToCore::List { .. } => {
            Some(vec![FromCore::Identity { kind: "?".into(), bytes: vec![7; 9000] }])
        }
        _ => None,
    });
    let (core, _fake) = scripted(script);
    let error = core.names("").unwrap_err();
    assert!(matches!(error, CoreError::Protocol { .. }));
    assert!(error.to_string().len() < 400, "{error}");
    assert!(matches!(core.status(""), Err(CoreError::Ended { .. })));
}

#[test]
fn an_answer_that_nobody_asked_for_ends_the_connection() {
    let (core, mut fake) = Fake::start();
    let client = core.open("disk:0", &options()).unwrap();
    fake.serve(Style::default());
    fake.say(FromCore::Done);
    let end = Instant::now() + crate::polled::PATIENCE;
    let reason = loop {
        if let Some(reason) = client.closed() {
            break reason;
        }
        assert!(Instant::now() < end);
    };
    assert!(reason.contains("nobody asked"), "{reason}");
}

/// Opens with what `tamper` makes of the answer: the name is closed again, the connection goes on.
fn tampered(tamper: impl Fn(&mut FromCore, &mut Vec<OwnedFd>) + Send + 'static) -> CoreError {
    let tamper: Tamper = Box::new(move |answer, fds| {
        if matches!(answer, FromCore::Opened { .. }) {
            tamper(answer, fds);
        }
    });
    let (core, fake) = Fake::with(Behaviour { tamper: Some(tamper), ..Behaviour::default() });
    let Err(error) = core.open("disk:0", &OpenOptions { queues: 2, depth: 256, ..options() })
    else {
        panic!("it was opened")
    };
    assert!(matches!(error, CoreError::Protocol { .. }), "{error}");
    core.names("").unwrap();
    assert!(fake.asked.lock().unwrap().iter().any(|q| matches!(q, ToCore::Close { .. })));
    error
}

#[test]
fn what_was_opened_is_checked() {
    macro_rules! opened {
        (|$($field:ident),+| $change:block) => {
            tampered(|answer, _| {
                if let FromCore::Opened { $($field,)+ .. } = answer $change
            })
        };
    }
    for size in [0, 1, 511, 513, 768, 1 << 21, u32::MAX] {
        tampered(move |answer, _| {
            if let FromCore::Opened { target, .. } = answer {
                target.block_size = size;
            }
        });
    }
    opened!(|target| { target.blocks = u64::MAX });
    opened!(|target| { target.max_transfer = 511 });
    opened!(|depth| { *depth = 12 });
    opened!(|depth| { *depth = 0 });
    opened!(|depth| { *depth = 2048 });
    opened!(|in_flight| { *in_flight = 0 });
    // The memory is for fewer.
    opened!(|depth| { *depth = 1024 });
    opened!(|queues| { *queues = 0 });
    opened!(|queues| { *queues = 1 });
    opened!(|queues| { *queues = 3 });
    let error = opened!(|arena| { *arena = (4 << 20) + 1 });
    assert!(error.to_string().contains("4194304 bytes that is said to have 4194305"), "{error}");
    opened!(|arena| { *arena = 0 });
}

#[test]
fn file_descriptors_are_checked() {
    for change in [
        |fds: &mut Vec<OwnedFd>| fds.clear(),
        |fds: &mut Vec<OwnedFd>| drop(fds.pop()),
        |fds: &mut Vec<OwnedFd>| fds.push(fds[0].try_clone().unwrap()),
        // Sockets where memory should be, and the other way round.
        |fds: &mut Vec<OwnedFd>| fds.reverse(),
        |fds: &mut Vec<OwnedFd>| fds.swap(1, 2),
        |fds: &mut Vec<OwnedFd>| fds.swap(0, 2),
        // One memory for two purposes.
        |fds: &mut Vec<OwnedFd>| fds[3] = fds[1].try_clone().unwrap(),
        |fds: &mut Vec<OwnedFd>| fds[1] = fds[0].try_clone().unwrap(),
        |fds: &mut Vec<OwnedFd>| fds[1] = shared::create("short", 100).unwrap(),
        // What could become shorter.
        |fds: &mut Vec<OwnedFd>| {
            let flags = rustix::fs::MemfdFlags::ALLOW_SEALING;
            let fd = rustix::fs::memfd_create("open", flags).unwrap();
            rustix::fs::ftruncate(&fd, 4 << 20).unwrap();
            fds[0] = fd;
        },
    ] {
        tampered(move |_, fds| change(fds));
    }
}

#[test]
fn another_arena_while_the_first_is_in_use_is_refused() {
    let opens = AtomicUsize::new(0);
    let tamper: Tamper = Box::new(move |answer, fds| {
        if matches!(answer, FromCore::Opened { .. }) && opens.fetch_add(1, Ordering::Relaxed) == 1 {
            fds[0] = uniddrv::Arena::new(4 << 20).unwrap().fd().try_clone_to_owned().unwrap();
        }
    });
    let (core, _fake) = Fake::with(Behaviour { tamper: Some(tamper), ..Behaviour::default() });
    let first = core.open("disk:0", &options()).unwrap();
    let Err(error) = core.open("disk:0", &options()) else { panic!("it was opened") };
    assert!(error.to_string().contains("another arena"), "{error}");
    core.open("disk:0", &options()).unwrap();
    assert!(first.closed().is_none());
}

#[test]
fn a_full_table_of_file_descriptors_is_an_error() {
    let (core, mut fake) = Fake::start();
    let (ours, theirs) = pair().unwrap();
    let control = Control::new(ours);
    // More descriptors than a message may have are cut off by the kernel.
    let fds = vec![theirs.as_fd(); 100];
    assert!(control.send(&FromCore::Done, &fds).is_err());
    fake.hang_up();
    assert!(matches!(core.open("disk:0", &options()), Err(CoreError::Ended { .. })));
}
