use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, pipe};
use std::os::fd::{AsFd, IntoRawFd};
use std::time::Duration;

use rustix::process::Signal;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn shell() -> File {
    File::open("/bin/sh").unwrap()
}

fn run(script: &CStr, inherited: &[(BorrowedFd<'_>, RawFd)]) -> Pidfd {
    let birth = Birth {
        program: shell().as_fd(),
        arguments: &[c"sh", c"-c", script],
        environment: &[c"GREETING=hello"],
        inherited,
        namespaces: Namespaces::empty(),
    }
    .spawn();
    birth.unwrap()
}

fn output(reader: PipeReader, writer: PipeWriter) -> String {
    drop(writer);
    let mut text = String::new();
    let mut reader = reader;
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn it_has_what_it_was_given_and_nothing_else() {
    let (reader, writer) = pipe().unwrap();
    // One that is open without FD_CLOEXEC, and must not be passed on all the same.
    let stray = rustix::io::dup(shell()).unwrap();
    let fds = [(writer.as_fd(), 1), (writer.as_fd(), 9)];
    let mut child = run(c"echo $GREETING; echo /proc/self/fd/*; echo nine >&9", &fds);
    assert_eq!(child.wait(PATIENCE).unwrap(), Some(Ended::Exited(0)));
    drop(stray);
    let text = output(reader, writer);
    // The shell has its folder open while it looks.
    assert!(text.starts_with("hello\n/proc/self/fd/"), "{text}");
    let numbers: Vec<&str> = text.lines().nth(1).unwrap().split(' ').collect();
    assert!(numbers.len() <= 3, "{text}");
    assert!(numbers.contains(&"/proc/self/fd/1") && numbers.contains(&"/proc/self/fd/9"), "{text}");
    assert!(text.ends_with("nine\n"), "{text}");
}

#[test]
fn numbers_may_cross() {
    let (first_reader, first) = pipe().unwrap();
    let (second_reader, second) = pipe().unwrap();
    let numbers = (first.as_raw_fd(), second.as_raw_fd());
    // A shell knows numbers of one digit only.
    let script =
        format!("echo 1 >/proc/self/fd/{}; echo 2 >/proc/self/fd/{}", numbers.1, numbers.0);
    let script = std::ffi::CString::new(script).unwrap();
    let fds = [(first.as_fd(), numbers.1), (second.as_fd(), numbers.0)];
    assert_eq!(run(&script, &fds).wait(PATIENCE).unwrap(), Some(Ended::Exited(0)));
    assert_eq!(output(first_reader, first), "1\n");
    assert_eq!(output(second_reader, second), "2\n");
}

#[test]
fn the_end_is_told() {
    let mut child = run(c"exit 7", &[]);
    assert_eq!(child.wait(PATIENCE).unwrap(), Some(Ended::Exited(7)));
    // Told again, and a signal to what has ended is no error.
    assert_eq!(child.try_wait().unwrap(), Some(Ended::Exited(7)));
    child.kill(Signal::KILL).unwrap();

    let (reader, writer) = pipe().unwrap();
    let mut child = run(c"read nothing", &[(reader.as_fd(), 0)]);
    assert_eq!(child.try_wait().unwrap(), None);
    assert_eq!(child.wait(Duration::from_millis(5)).unwrap(), None);
    child.kill(Signal::TERM).unwrap();
    assert_eq!(child.wait(PATIENCE).unwrap(), Some(Ended::Signaled(libc::SIGTERM)));
    drop(writer);
    assert_eq!(Ended::Signaled(libc::SIGSYS).to_string(), "killed by SIGSYS");
    assert_eq!(Ended::Signaled(60).to_string(), "killed by signal 60");
    assert_eq!(Ended::Exited(3).to_string(), "exited with status 3");
}

#[test]
fn what_cannot_be_spawned_says_why() {
    let folder = File::open("/").unwrap();
    let spawn = |program: BorrowedFd<'_>, inherited: &[(BorrowedFd<'_>, RawFd)]| {
        let birth = Birth {
            program,
            arguments: &[c"x"],
            environment: &[],
            inherited,
            namespaces: Namespaces::empty(),
        };
        birth.spawn().unwrap_err()
    };
    let error = spawn(folder.as_fd(), &[]);
    assert_eq!((error.step, error.source.raw_os_error()), ("execveat", Some(libc::EACCES)));
    // A thread, but without the signal handlers that threads share.
    let birth = Birth {
        program: folder.as_fd(),
        arguments: &[c"x"],
        environment: &[],
        inherited: &[],
        namespaces: Namespaces::from_bits_retain(libc::CLONE_THREAD),
    };
    let error = birth.spawn().unwrap_err();
    assert_eq!((error.step, error.source.raw_os_error()), ("clone", Some(libc::EINVAL)));
    let twice = [(folder.as_fd(), 3), (folder.as_fd(), 3)];
    for inherited in [&twice[..], &[(folder.as_fd(), -1)], &[(folder.as_fd(), i32::MAX)]] {
        let error = spawn(shell().as_fd(), inherited);
        assert_eq!(error.source.raw_os_error(), Some(libc::EINVAL), "{error}");
    }
    let error = spawn(shell().as_fd(), &[(folder.as_fd(), i32::MAX - 1)]);
    assert_eq!(error.step, "duplicating the program's file descriptor");
}

#[test]
fn inherited_ones_are_taken_once() {
    // As if inherited: open, without FD_CLOEXEC, and without an owner.
    let number = rustix::io::dup(shell()).unwrap().into_raw_fd();
    let taken = take_inherited(number).unwrap();
    assert_eq!(taken.as_raw_fd(), number);
    let refused = |number| take_inherited(number).unwrap_err().raw_os_error();
    assert_eq!(refused(number), Some(libc::EBADF));
    let own = shell();
    for number in [own.as_raw_fd(), -1, 0, 2, 1 << 20] {
        assert_eq!(refused(number), Some(libc::EBADF), "{number}");
    }
}
