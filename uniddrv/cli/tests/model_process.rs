//! Models as processes that the core starts, restarts and ends: the command `uniddrv model
//! serve` with the core's device workers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use uniddrv::Arena;
use uniddrv_core::device::{DeviceId, Event, Opened, Settings, Token, Worker};

/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_mins(1);

struct Bench {
    worker: Worker,
    events: Receiver<(DeviceId, Event)>,
    folder: TempDir,
}

impl Bench {
    fn new(address: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = address.replace("FOLDER", folder.path().to_str().unwrap());
        let mut settings = Settings::new(1, folder.path().to_owned());
        settings.program = PathBuf::from(env!("CARGO_BIN_EXE_uniddrv"));
        let (sender, events) = channel();
        let address = address.parse().unwrap();
        let worker = Worker::spawn(DeviceId(9), address, &settings, || {}, sender).unwrap();
        worker.open();
        Self { worker, events, folder }
    }

    fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).unwrap().1
    }

    fn opened(&self) -> Opened {
        match self.next() {
            Event::Opened(opened) | Event::Reopened(opened) => *opened,
            other => panic!("{other:?}"),
        }
    }

    fn failed(&self) -> String {
        match self.next() {
            Event::Failed { text, .. } => text,
            other => panic!("{other:?}"),
        }
    }

    fn lost(&self) {
        let event = self.next();
        assert!(matches!(event, Event::Lost { .. }), "{event:?}");
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("model-9.sock")
    }

    /// The model's process.
    fn process(&self) -> Pid {
        serving(&self.socket()).expect("a process serves the model")
    }
}

/// The process that has `socket` as an argument.
fn serving(socket: &Path) -> Option<Pid> {
    let socket = socket.to_str().unwrap().as_bytes();
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
        let found = arguments.split(|&byte| byte == 0).any(|argument| argument == socket);
        if found { Pid::from_raw(pid) } else { None }
    })
}

fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_model_is_started_restarted_and_ended_with_its_device() {
    let bench = Bench::new("model:nvme?size=1M&backing=file:FOLDER/blocks");
    let first = bench.opened();
    assert_eq!(first.identity.class, 0x01_0802);
    let process = bench.process();
    let arena = Arc::new(Arena::new(1).unwrap());
    bench.worker.map(arena, Token(1));
    assert!(matches!(bench.next(), Event::Mapped { .. }));

    kill_process(process, Signal::KILL).unwrap();
    bench.lost();
    bench.worker.reopen(Instant::now() + PATIENCE);
    let again = bench.opened();
    assert_eq!((again.identity, again.arena_iova), (first.identity, first.arena_iova));
    assert_ne!(bench.process(), process);

    bench.worker.close();
    assert!(matches!(bench.next(), Event::Unmapped { token: Token(1), kept: None }));
    assert!(matches!(bench.next(), Event::Closed));
    assert_eq!(serving(&bench.socket()), None);
    assert!(!bench.socket().exists());
    assert_eq!(std::fs::metadata(bench.folder.path().join("blocks")).unwrap().len(), 1 << 20);
}

#[test]
fn a_model_that_does_not_answer_is_replaced() {
    let bench = Bench::new("model:edu");
    bench.opened();
    let process = bench.process();
    kill_process(process, Signal::STOP).unwrap();
    bench.worker.reopen(Instant::now() + PATIENCE);
    bench.opened();
    assert!(test_kill_process(process).is_err());
}

#[test]
fn a_model_that_cannot_be_says_why() {
    for (address, says) in [
        ("model:nvme?sizes=1G", "no parameter `sizes`"),
        ("model:nvme?backing=file:/nowhere/x&size=1M", "/nowhere/x"),
        ("model:nvme?socket=/tmp/x", "no parameter `socket`"),
        ("model:cpu", "there is no model `cpu`"),
    ] {
        let bench = Bench::new(address);
        let text = bench.failed();
        assert!(text.contains(says) && text.contains(address), "{text}");
        bench.worker.close();
        assert!(matches!(bench.next(), Event::Closed));
    }
}

#[test]
fn a_model_ends_with_the_process_that_started_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    // The shell starts the model as the core does, and then waits to be killed.
    let script = "\"$0\" model serve model:edu --yield --parent $$ --socket \"$1\" & wait";
    let mut shell = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_uniddrv")])
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    soon("the model serves", || socket.exists());
    shell.kill().unwrap();
    shell.wait().unwrap();
    soon("the model ends", || serving(&socket).is_none());
}

#[test]
fn a_process_that_is_not_the_parent_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_uniddrv"))
        .args(["model", "serve", "model:edu", "--parent", "1", "--socket"])
        .arg(folder.path().join("socket"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("did not start this one"), "{text}");
}
