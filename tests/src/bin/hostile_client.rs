//! A client that tests run as other users, and that takes what it can get:
//! `hostile_client SOCKET ACTION ...`. It says what came of it, and what it has it keeps until its
//! input ends.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt::Display;
use std::fs;
use std::io::{Read as _, stdin};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, test_kill_process};
use uniddrv::client::Core;
use uniddrv_abi::message::{FromCore, Harm, Refusal, Rights, ToCore};
use uniddrv_tests::bystander::Bystander;
use uniddrv_tests::wait::{PATIENCE, pause};
use uniddrv_tests::wire::{Opened, Wire, hello, open};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let [socket, rest @ ..] = words.as_slice() else { return Err("no socket".into()) };
    let socket = Path::new(socket);
    match rest {
        ["connect", count] => connect(socket, count.parse()?),
        ["arenas", count, bytes, name] => arenas(socket, count.parse()?, bytes.parse()?, name),
        ["queues", name] => queues(socket, name),
        ["hold", name] => hold(socket, name),
        ["see"] => see(socket),
        ["snoop", name, processes @ ..] => snoop(socket, name, processes),
        _ => Err(format!("what is {rest:?}?").into()),
    }
}

fn keep<T>(kept: T) {
    let _ = stdin().read_to_end(&mut Vec::new());
    drop(kept);
}

/// Connects so many times.
fn connect(socket: &Path, count: usize) -> Outcome {
    let mut guests = Vec::new();
    let mut refused = 0;
    for _ in 0..count {
        let mut wire = Wire::new(socket);
        let _ = wire.send(&hello());
        match wire.control.receive_within::<FromCore>(PATIENCE)?.0 {
            FromCore::Welcome { .. } => guests.push(wire),
            FromCore::Refused { code: Refusal::Limit, .. } => refused += 1,
            other => return Err(format!("{other:?}").into()),
        }
    }
    println!("{} in, {refused} refused", guests.len());
    keep(guests);
    Ok(())
}

/// Asks for so many arenas at once.
fn arenas(socket: &Path, count: usize, arena: u64, name: &str) -> Outcome {
    let wires: Vec<_> = (0..count).map(|_| Wire::greeted(socket)).collect();
    let question =
        ToCore::Open { name: name.into(), rights: Rights::Read, queues: 1, depth: 1, arena };
    for wire in &wires {
        wire.send(&question)?;
    }
    let (mut opened, mut refused) = (0, 0);
    let mut kept = Vec::new();
    for mut wire in wires {
        match wire.control.receive_within::<FromCore>(PATIENCE)? {
            (FromCore::Opened { .. }, fds) => {
                opened += 1;
                kept.push((wire, fds));
            }
            (FromCore::Refused { code: Refusal::Limit, .. }, _) => refused += 1,
            other => return Err(format!("{other:?}").into()),
        }
    }
    println!("{opened} opened, {refused} refused");
    keep(kept);
    Ok(())
}

/// Opens as many queues as it gets.
fn queues(socket: &Path, name: &str) -> Outcome {
    let mut kept: Vec<(Wire, Opened)> = Vec::new();
    for queues in [16, 8, 4, 2, 1] {
        loop {
            let mut wire = Wire::greeted(socket);
            match wire.open(&open(name, queues, 1)) {
                Ok(opened) => kept.push((wire, opened)),
                Err(Refusal::Limit) => break,
                Err(other) => return Err(format!("{other:?}").into()),
            }
        }
    }
    let all: usize = kept.iter().map(|(_, opened)| opened.queues.len()).sum();
    println!("{all} queues");
    keep(kept);
    Ok(())
}

/// Uses a name as it should be used.
#[expect(clippy::unnecessary_wraps, reason = "as all that it can do")]
fn hold(socket: &Path, name: &str) -> Outcome {
    let bystander = Bystander::new(socket, name);
    bystander.goes_on(10);
    println!("open");
    keep(());
    bystander.goes_on(10);
    println!("{} ended", bystander.end());
    Ok(())
}

/// What it is shown.
fn see(socket: &Path) -> Outcome {
    let core = Core::connect_to(socket)?;
    for name in core.names("")? {
        let users: Vec<_> = name.holders.iter().map(|holder| holder.uid.to_string()).collect();
        println!("{} held by [{}]", name.name, users.join(" "));
    }
    for status in core.status("")? {
        let users: Vec<_> = status.holders.iter().map(|holder| holder.uid.to_string()).collect();
        let requests = status.deaths.iter().filter(|death| death.request.is_some()).count();
        println!("status of {}: [{}], {requests} requests", status.name, users.join(" "));
    }
    Ok(())
}

/// Says what it could do that it should not be able to.
fn report(what: &str, of: impl Display, result: &Result<impl Sized, impl Display>) {
    if result.is_ok() {
        println!("could {what} {of}");
    }
}

/// Tries to get at what others hold: at `name`, and at their processes.
fn snoop(socket: &Path, name: &str, processes: &[&str]) -> Outcome {
    let mut wire = Wire::greeted(socket);
    for rights in [Rights::Read, Rights::Write] {
        let question = ToCore::Open { name: name.into(), rights, queues: 1, depth: 1, arena: 1 };
        report("open", name, &wire.open(&question).map_err(|code| format!("{code:?}")));
    }
    let name = || name.to_owned();
    let orders = [
        ToCore::Restart { name: name() },
        ToCore::Upgrade { name: name(), program: None },
        ToCore::Revoke { name: name(), client: None },
        ToCore::Add { address: "model:nvme".into(), driver: None },
        ToCore::Remove { address: "model:nvme".into() },
        ToCore::Kill { name: name(), how: Harm::Kill },
        ToCore::Kill { name: name(), how: Harm::Scramble },
        ToCore::Stop,
    ];
    let handles = (0..200).map(|handle| ToCore::Close { handle });
    for question in orders.into_iter().chain(handles) {
        match wire.ask(&question) {
            FromCore::Refused { .. } => {}
            other => println!("could {question:?}: {other:?}"),
        }
    }
    for process in processes {
        snoop_at(process)?;
    }
    // What is shared has no name in any folder.
    for folder in ["/dev/shm", "/dev/hugepages"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().contains("uniddrv") {
                println!("could see {}", name.display());
            }
        }
    }
    println!("nothing more");
    Ok(())
}

fn snoop_at(process: &str) -> Outcome {
    let folder = format!("/proc/{process}");
    for file in ["mem", "environ", "maps", "fd", "fdinfo", "map_files"] {
        let path = format!("{folder}/{file}");
        let found = fs::metadata(&path).and_then(|found| {
            if found.is_dir() {
                fs::read_dir(&path).map(drop)
            } else {
                fs::File::open(&path).map(drop)
            }
        });
        // Linux opens some of them for anybody, and shows nothing.
        let shown = found.and_then(|()| match fs::read(&path) {
            Ok(bytes) if bytes.is_empty() => Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => Ok(()),
            Err(error) => Err(error),
        });
        report("look at", path, &shown);
    }
    for fd in 0..64 {
        report("open", fd, &fs::File::open(format!("{folder}/fd/{fd}")));
    }
    let pid = Pid::from_raw(process.parse()?).ok_or("no process")?;
    report("signal", process, &test_kill_process(pid));
    report("stop", process, &kill_process(pid, Signal::STOP));
    if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
        for fd in 0..64 {
            let flags = rustix::process::PidfdGetfdFlags::empty();
            report("take", fd, &rustix::process::pidfd_getfd(&pidfd, fd, flags));
        }
    }
    pause(1);
    Ok(())
}
