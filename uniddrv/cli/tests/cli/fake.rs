//! A core in the test's process: it answers as one does, and drives a disk in memory.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen,
    send, socket_with,
};
use uniddrv::arena::Arena;
use uniddrv::control::{Control, ControlError, pair};
use uniddrv::dma::{DmaMemory, DmaSpace};
use uniddrv::shared::{self, SharedWords};
use uniddrv_abi::block::{Completion, Opcode, Outcome, Submission};
use uniddrv_abi::message::{
    Death, DriverStatus, FromCore, Harm, Holder, Name, Refusal, Rights, Target, ToCore, VERSION,
};
use uniddrv_abi::queue::{self, Poster, Side, Taker};
use uniddrv_spec::nvme::identify::{IdentifyController, IdentifyNamespace};
use zerocopy::{FromZeros, IntoBytes};

use crate::support::{read, uniddrv};

pub(crate) const BLOCK: u32 = 512;
pub(crate) const BLOCKS: u64 = 32 << 10;
pub(crate) const DEVICE: &str = "vfio-user:/run/nvme.sock";
pub(crate) const SERVICE: &str = "nvme:0/ns1";
/// The driver's process at the start; each successor's number is the next.
pub(crate) const PID: i32 = 4_000_001;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It never ends.
    Lose,
    /// It ends twice.
    Repeat,
    /// It reads another byte than was written, and so does every read after it: which request
    /// reads what was written before depends on how far a busy machine gets.
    Corrupt,
}

/// What the core knows and does.
pub(crate) struct State {
    pub(crate) names: Vec<Name>,
    pub(crate) drivers: Vec<DriverStatus>,
    pub(crate) asked: Vec<ToCore>,
    /// Answers in place of the usual ones, each used once, to the first question that is like it.
    pub(crate) answers: Vec<(ToCore, FromCore)>,
    /// Goes wrong after so many requests.
    pub(crate) fault: Option<(Fault, u64)>,
    /// Whether the device can write zeroes.
    pub(crate) write_zeroes: bool,
    pub(crate) disk: Vec<u8>,
    /// No driver takes or posts anything before.
    dead_until: Instant,
    served: u64,
}

pub(crate) struct FakeCore {
    folder: tempfile::TempDir,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeCore {
    /// A core with one device of one namespace.
    pub(crate) fn new() -> Self {
        let state = State {
            names: vec![name("nvme:0", false), name(SERVICE, true)],
            drivers: vec![driver()],
            asked: Vec::new(),
            answers: Vec::new(),
            fault: None,
            write_zeroes: true,
            disk: vec![0; BLOCKS as usize * BLOCK as usize],
            dead_until: Instant::now(),
            served: 0,
        };
        let folder = tempfile::tempdir().unwrap();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(folder.path().join("core.sock")).unwrap()).unwrap();
        listen(&listener, 8).unwrap();
        let (state, stop) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (state.clone(), stop.clone());
        let thread = std::thread::spawn(move || accept(&listener, &shared, &stopped));
        Self { folder, state, stop, thread: Some(thread) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("core.sock")
    }

    /// `command`, with this core.
    pub(crate) fn with(&self, mut command: Command) -> Command {
        command.env("UNIDDRV_CORE", self.socket());
        command
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.with(uniddrv());
        command.args(arguments);
        command
    }

    /// Exit status, standard output, standard error.
    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        read(&self.command(arguments).output().unwrap())
    }

    /// Exit status, JSON, standard error.
    pub(crate) fn json(&self, arguments: &[&str]) -> (i32, serde_json::Value, String) {
        let (status, stdout, stderr) = self.run(&[arguments, &["--json"]].concat());
        let value = serde_json::from_str(&stdout).unwrap_or_else(|error| {
            panic!("{arguments:?}: {error} in {stdout:?}, which came with {stderr:?}")
        });
        (status, value, stderr)
    }

    /// Whether it was asked this.
    pub(crate) fn was_asked(&self, question: &ToCore) -> bool {
        self.state().asked.contains(question)
    }
}

impl Drop for FakeCore {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(!matches!(ended, Some(Err(_))) || std::thread::panicking());
    }
}

fn target() -> Target {
    Target {
        path: "ns1".into(),
        id: 1,
        block_size: BLOCK,
        blocks: BLOCKS,
        max_transfer: 128 << 10,
        volatile_write_cache: true,
    }
}

/// A name of the device.
pub(crate) fn name(name: &str, opens: bool) -> Name {
    let holder = Holder {
        client: 3,
        pid: 77,
        uid: 0,
        program: "evil\u{1b}[2Jname".into(),
        rights: Rights::Write,
        queues: 4,
        ios: 1_234_567,
    };
    Name {
        name: name.into(),
        address: DEVICE.into(),
        target: opens.then(target),
        holders: if opens { vec![holder] } else { Vec::new() },
    }
}

fn driver() -> DriverStatus {
    DriverStatus {
        name: "nvme:0".into(),
        address: DEVICE.into(),
        driver: "uniddrv-nvme".into(),
        state: "running".into(),
        pid: PID,
        cpu: None,
        warm: true,
        asleep: false,
        in_flight: 5,
        ios: 1_000,
        errors: 2,
        bytes_read: 4 << 20,
        bytes_written: 8 << 20,
        elapsed_ns: 12_000_000_000,
        iops: 123_456.0,
        bytes_per_second: f64::from(512 << 20),
        latency_ns: [1_000, 20_000, 300_000, 4_000_000],
        restarts: 1,
        adoptions: 1,
        resets: 0,
        deaths: vec![death(PID - 1, "killed by SIGSEGV")],
        holders: name(SERVICE, true).holders,
    }
}

fn death(pid: i32, cause: &str) -> Death {
    Death {
        time: 951_782_461,
        pid,
        cause: cause.into(),
        last_words: Some("panicked at queue.rs:7\nnot\u{1b}[2J".into()),
        request: Some("read of 8 blocks at 4096".into()),
        recovery: "adopted".into(),
        detection_ns: 20_000,
        hand_over_ns: 30_000,
        adoption_ns: 40_000,
        first_completion_ns: 5_000,
    }
}

/// Takes connections until it is over; each has a thread.
fn accept(listener: &OwnedFd, state: &Arc<Mutex<State>>, stop: &Arc<AtomicBool>) {
    let mut threads = Vec::new();
    let mut clients = 10;
    while !stop.load(Ordering::Relaxed) {
        let Ok(fd) = accept_with(listener, SocketFlags::CLOEXEC) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        clients += 1;
        let (state, stop) = (state.clone(), stop.clone());
        threads.push(std::thread::spawn(move || {
            let control = Control::new(fd);
            Connection { control, client: clients, state, stop, arena: None, handles: 0 }.serve();
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

struct Connection {
    control: Control,
    client: u32,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    arena: Option<(OwnedFd, Arc<DmaMemory>)>,
    handles: u32,
}

impl Connection {
    fn serve(mut self) {
        // Queues end with their connection.
        let over = Arc::new(AtomicBool::new(false));
        let mut drivers = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            match self.control.receive_within::<ToCore>(Duration::from_millis(10)) {
                Ok((question, _)) => {
                    let (answer, fds, queues) = self.answer(&question);
                    self.state.lock().unwrap().asked.push(question);
                    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                    // The client may be gone already.
                    let _ = self.control.send(&answer, &fds);
                    for mut queue in queues {
                        let over = over.clone();
                        drivers.push(std::thread::spawn(move || queue.drive(&over)));
                    }
                }
                Err(ControlError::TimedOut(_)) => {}
                Err(_) => break,
            }
        }
        over.store(true, Ordering::Relaxed);
        for driver in drivers {
            driver.join().unwrap();
        }
    }

    fn answer(&mut self, question: &ToCore) -> (FromCore, Vec<OwnedFd>, Vec<Queue>) {
        let mut state = self.state.lock().unwrap();
        if let Some(at) = state.answers.iter().position(|(asked, _)| asked == question) {
            return (state.answers.remove(at).1, Vec::new(), Vec::new());
        }
        if let ToCore::Open { name, queues, depth, arena, .. } = question
            && name == SERVICE
        {
            drop(state);
            return self.open(*queues, *depth, *arena);
        }
        let begins = |name: &str, prefix: &String| name.starts_with(prefix.as_str());
        let answer = match question {
            ToCore::Hello { .. } => FromCore::Welcome { version: VERSION, client: self.client },
            ToCore::List { prefix } => {
                let names = state.names.iter().filter(|name| begins(&name.name, prefix));
                FromCore::Names(names.cloned().collect())
            }
            ToCore::Status { prefix } => {
                let drivers = state.drivers.iter().filter(|one| begins(&one.name, prefix));
                FromCore::Status(drivers.cloned().collect())
            }
            ToCore::Identify { .. } => {
                FromCore::Identity { kind: "nvme".into(), bytes: identity() }
            }
            ToCore::Restart { .. } => state.replace("restart", Duration::ZERO),
            ToCore::Upgrade { .. } => state.replace("upgrade", Duration::ZERO),
            ToCore::Kill { how: Harm::Hang, .. } => {
                state.replace("hung", Duration::from_millis(20))
            }
            ToCore::Kill { .. } => state.replace("killed by SIGKILL", Duration::from_millis(2)),
            ToCore::Add { address, .. } => {
                let address = address.clone();
                for (text, opens) in [("nvme:1", false), ("nvme:1/ns1", true)] {
                    state.names.push(Name { address: address.clone(), ..name(text, opens) });
                }
                FromCore::Done
            }
            ToCore::Open { .. } => refused(Refusal::NotFound, "there is no such name"),
            ToCore::Remove { address } => {
                let before = state.names.len();
                state.names.retain(|name| name.address != *address);
                if state.names.len() == before {
                    refused(Refusal::NotFound, "the core has no such device")
                } else {
                    FromCore::Done
                }
            }
            _ => FromCore::Done,
        };
        (answer, Vec::new(), Vec::new())
    }

    fn open(&mut self, queues: u8, depth: u32, arena: u64) -> (FromCore, Vec<OwnedFd>, Vec<Queue>) {
        let (fd, memory) = self.arena.get_or_insert_with(|| {
            let arena = Arena::new(arena as usize).unwrap();
            let fd = arena.fd().try_clone_to_owned().unwrap();
            (fd, DmaSpace::of_offsets(Arc::new(arena)).current().unwrap())
        });
        let arena = memory.arena().len() as u64;
        let mut fds = vec![fd.try_clone().unwrap()];
        let mut ends = Vec::new();
        for _ in 0..queues {
            let words = shared::create("queue", queue::words_for(depth) * 8).unwrap();
            let (ours, theirs) = pair().unwrap();
            ends.push(Queue::new(&words, ours, depth, memory.clone(), self.state.clone()));
            fds.extend([words, theirs]);
        }
        self.handles += 1;
        let handle = self.handles;
        let in_flight = depth * u32::from(queues);
        let opened = FromCore::Opened { handle, target: target(), arena, depth, in_flight, queues };
        (opened, fds, ends)
    }
}

pub(crate) fn refused(code: Refusal, text: &str) -> FromCore {
    FromCore::Refused { code, text: text.into() }
}

impl State {
    /// Another process drives the device after a pause.
    fn replace(&mut self, cause: &str, pause: Duration) -> FromCore {
        self.dead_until = Instant::now() + pause;
        let Some(driver) = self.drivers.first_mut() else { return FromCore::Done };
        driver.deaths.push(death(driver.pid, cause));
        if driver.deaths.len() > 16 {
            driver.deaths.remove(0);
        }
        driver.pid += 1;
        driver.restarts += 1;
        driver.adoptions += 1;
        FromCore::Done
    }
}

/// Identify Controller, and Identify Namespace of the only one.
fn identity() -> Vec<u8> {
    let mut controller = IdentifyController::new_zeroed();
    controller.mn.copy_from_slice(format!("{:<40}", "Fake <model>").as_bytes());
    controller.sn.copy_from_slice(format!("{:<20}", "S-1").as_bytes());
    let mut namespace = IdentifyNamespace::new_zeroed();
    namespace.nsze.set(BLOCKS);
    namespace.ncap.set(BLOCKS);
    if let Some(format) = namespace.lbaf.first_mut() {
        format.lbads = 9;
    }
    [controller.as_bytes(), namespace.as_bytes()].concat()
}

/// The driver's end of a queue.
struct Queue {
    words: SharedWords,
    taker: Taker<SharedWords>,
    poster: Poster<SharedWords>,
    wake: OwnedFd,
    memory: Arc<DmaMemory>,
    state: Arc<Mutex<State>>,
}

impl Queue {
    fn new(
        fd: &OwnedFd,
        wake: OwnedFd,
        depth: u32,
        memory: Arc<DmaMemory>,
        state: Arc<Mutex<State>>,
    ) -> Self {
        let words = SharedWords::map(fd.as_fd(), 0).unwrap();
        let taker = Taker::new(words.clone(), queue::submission(depth), 0);
        let poster = Poster::new(words.clone(), queue::completion(depth), 0);
        Self { words, taker, poster, wake, memory, state }
    }

    fn drive(&mut self, over: &AtomicBool) {
        let state = self.state.clone();
        let mut waiting = VecDeque::new();
        while !over.load(Ordering::Relaxed) {
            std::thread::yield_now();
            let mut state = state.lock().unwrap();
            if Instant::now() < state.dead_until {
                continue;
            }
            for _ in 0..self.taker.available().unwrap() {
                waiting.push_back(Submission::from_words(self.taker.pop().unwrap()).unwrap());
            }
            self.taker.publish();
            if waiting.is_empty() {
                continue;
            }
            while let Some(submission) = waiting.pop_front() {
                self.end(&submission, &mut state);
            }
            self.poster.publish();
            if queue::must_wake(&self.words, Side::Client) {
                let _ = send(&self.wake, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            }
        }
    }

    fn end(&mut self, submission: &Submission, state: &mut State) {
        state.served += 1;
        let served = state.served;
        let now = |&(fault, at): &(Fault, u64)| match fault {
            Fault::Lose | Fault::Repeat => at == served,
            Fault::Corrupt => at <= served,
        };
        let fault = state.fault.filter(now).map(|(fault, _)| fault);
        if fault == Some(Fault::Lose) {
            return;
        }
        let outcome = self.carry_out(submission, fault, state);
        let completion = Completion { tag: submission.tag, outcome }.to_words();
        self.poster.push(completion);
        if fault == Some(Fault::Repeat) {
            self.poster.push(completion);
        }
    }

    fn carry_out(
        &self,
        submission: &Submission,
        fault: Option<Fault>,
        state: &mut State,
    ) -> Outcome {
        let len = submission.blocks as usize * BLOCK as usize;
        let start = submission.lba as usize * BLOCK as usize;
        let Some(data) = state.disk.get_mut(start..start + len) else { return Outcome::OutOfRange };
        match submission.opcode {
            Opcode::WriteZeroes if !state.write_zeroes => return Outcome::Device(1),
            Opcode::Flush => {}
            Opcode::Discard | Opcode::WriteZeroes => data.fill(0),
            Opcode::Read | Opcode::Write => {
                let buffer = self.memory.buffer_at(submission.offset as usize, len);
                let Some(mut buffer) = buffer else { return Outcome::Invalid };
                if submission.opcode == Opcode::Read {
                    buffer.as_mut_slice().copy_from_slice(data);
                    if fault == Some(Fault::Corrupt) {
                        buffer.as_mut_slice()[len / 2] ^= 0x10;
                    }
                } else {
                    data.copy_from_slice(buffer.as_slice());
                }
            }
        }
        Outcome::Success
    }
}
