//! The runtime against a core in the same process, with a driver whose device is a vector.

mod beginnings;
mod messages;
mod sleep;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use uniddrv_abi::Words;
use uniddrv_abi::block::{Completion, Opcode, Outcome, Submission};
use uniddrv_abi::message::{FromDevice, Limits, Rights, Target, ToDevice};
use uniddrv_abi::queue::{Reaper, Side, Submitter};

use super::*;
use crate::control::{Control, ControlError, pair};
use crate::driver::{AttachError, Match, Progress};
use crate::serve::{AdoptError, Undisturbed, Work};

/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);
const IOVA: u64 = 0x1_0000_0000;
const BLOCKS: u64 = 1024;

/// What a test sees of its driver, and how it tells it what to do: by the device's address.
#[derive(Default)]
struct Tale {
    begun: Mutex<Vec<String>>,
    refuse_adoption: AtomicBool,
    refuse_attach: AtomicBool,
    gone: AtomicBool,
    /// Requests stay with the device.
    hold: AtomicBool,
    polls: AtomicU32,
    dropped: AtomicBool,
    shut_down: AtomicBool,
}

static TALES: Mutex<Option<HashMap<String, Arc<Tale>>>> = Mutex::new(None);

fn tale(address: &str) -> Arc<Tale> {
    let mut tales = TALES.lock().unwrap_or_else(PoisonError::into_inner);
    tales.get_or_insert_default().entry(address.to_owned()).or_default().clone()
}

/// A driver that carries out requests at the next poll. What it holds is in no memory but the
/// ledger: a successor issues it again.
struct Ram {
    tale: Arc<Tale>,
    device: Device,
    work: Vec<Work>,
    held: Vec<Work>,
}

impl Ram {
    fn new(tale: Arc<Tale>, device: Device) -> Self {
        Self { tale, device, work: Vec::new(), held: Vec::new() }
    }
}

/// The tale of `device`, of a driver that begins in this way.
fn begun(device: &Device, how: &str) -> Arc<Tale> {
    let tale = tale(&device.address().to_string());
    tale.begun.lock().unwrap().push(how.to_owned());
    tale
}

impl Drop for Ram {
    fn drop(&mut self) {
        self.tale.dropped.store(true, Ordering::Relaxed);
    }
}

impl BlockDriver for Ram {
    type Steps = Undisturbed;
    const MATCHES: &'static [Match] = &[];

    fn attach(device: Device, ledger: &DriverLedger, _: &Settings) -> Result<Self, AttachError> {
        assert_eq!(ledger.phase(), Ok(Phase::BringingUp));
        let tale = begun(&device, "attach");
        if tale.refuse_attach.load(Ordering::Relaxed) {
            let claim = "it is made of wood".to_owned();
            return Err(AttachError::Device { address: device.address().clone(), claim });
        }
        // What the device cannot be reached for without the core.
        assert_eq!(device.identity().unwrap().vendor, 0x1b36);
        Ok(Self::new(tale, device))
    }

    fn adopt(
        device: Device,
        ledger: &DriverLedger,
        _: &Settings,
        table: &mut Table,
    ) -> Result<Self, (AdoptError, Device)> {
        assert_eq!(ledger.phase(), Ok(Phase::Running));
        let tale = begun(&device, "adopt");
        if tale.refuse_adoption.load(Ordering::Relaxed) {
            return Err((AdoptError::Device("it is on fire".into()), device));
        }
        for (slot, ..) in table.submissions() {
            table.submit_again(slot);
        }
        Ok(Self::new(tale, device))
    }

    fn recover(
        device: Device,
        ledger: &DriverLedger,
        _: &Settings,
        table: &mut Table,
    ) -> Result<Self, AttachError> {
        assert_eq!(ledger.phase(), Ok(Phase::BringingUp));
        for (slot, ..) in table.submissions() {
            table.submit_again(slot);
        }
        let tale = begun(&device, "recover");
        Ok(Self::new(tale, device))
    }

    fn targets(&self) -> Vec<Target> {
        vec![Target {
            path: "ns1".into(),
            id: 1,
            block_size: 512,
            blocks: BLOCKS,
            max_transfer: 1 << 20,
            volatile_write_cache: false,
        }]
    }

    fn identity(&self) -> (&'static str, Vec<u8>) {
        ("ram", vec![7; 200 << 10])
    }

    fn poll(&mut self, table: &mut Table) -> Progress {
        self.tale.polls.fetch_add(1, Ordering::Relaxed);
        self.work.clear();
        table.take(16, &mut self.work);
        for work in &self.work {
            table.begin(work.slot);
            table.submitted(work.slot, 0);
            self.held.push(*work);
        }
        let busy = !self.work.is_empty();
        if !self.tale.hold.load(Ordering::Relaxed) {
            for work in self.held.drain(..) {
                let slot = table.lookup(work.cid).unwrap();
                table.finish(slot, Outcome::Success);
            }
            table.end();
        }
        table.publish();
        table.release();
        if busy { Progress::Busy } else { Progress::Idle }
    }

    fn gone(&self) -> Option<String> {
        self.tale.gone.load(Ordering::Relaxed).then(|| "it ran away".into())
    }

    fn shut_down(self) {
        self.device.set_bus_master(false).unwrap();
        self.tale.shut_down.store(true, Ordering::Relaxed);
    }
}

/// The core's side of a driver.
struct FakeCore {
    address: String,
    tale: Arc<Tale>,
    ledger_fd: OwnedFd,
    ledger: DriverLedger,
    arena: Arena,
    settings: Settings,
}

/// A driver process, which is a thread here.
struct Process {
    control: Control,
    thread: Option<JoinHandle<End>>,
    worker: Option<JoinHandle<Vec<ToDevice>>>,
    over: Arc<AtomicBool>,
    /// What its device was asked, once it has ended.
    asked: Vec<ToDevice>,
}

impl FakeCore {
    fn new(name: &str) -> Self {
        let address = format!("model:{name}");
        let ledger_fd = crate::shared::create("ledger", ledger::BYTES).unwrap();
        let words = SharedWords::map(ledger_fd.as_fd(), ledger::BYTES).unwrap();
        let ledger = DriverLedger::new(words).unwrap();
        ledger.initialise();
        let settings = Settings { depth: 64, timeout_ms: 100, sleep: false, spin_us: 100 };
        let tale = tale(&address);
        Self { tale, address, ledger_fd, ledger, arena: Arena::new(1).unwrap(), settings }
    }

    fn prepare(&self) -> ToDriver {
        ToDriver::Prepare {
            version: VERSION,
            address: self.address.clone(),
            arena_iova: IOVA,
            arena_len: self.arena.len() as u64,
            windows: vec![BarWindow { bar: 0, start: 0x1000, len: 0x1000, offset: 0x1000 }],
            settings: self.settings,
        }
    }

    fn spawn_ready(&self) -> Process {
        let mut process = Process::spawn();
        let fds = [self.ledger_fd.as_fd(), self.arena.fd(), self.arena.fd()];
        process.control.send(&self.prepare(), &fds).unwrap();
        assert_eq!(process.hear(), FromDriver::Ready);
        process
    }

    /// A process that serves.
    fn spawn_up(&self, beginning: Beginning, clients: &[&FakeClient]) -> Process {
        let mut process = self.spawn_ready();
        for client in clients {
            process.attach(client, false);
        }
        process.control.send(&ToDriver::Begin(beginning), &[]).unwrap();
        assert!(matches!(process.hear(), FromDriver::Up { .. }));
        for client in clients {
            assert_eq!(process.hear(), FromDriver::Attached { client: client.message.client });
        }
        assert_eq!(self.ledger.phase(), Ok(Phase::Running));
        process
    }

    /// Another ledger, as where the old one did not check out.
    fn renew_ledger(&mut self) {
        self.ledger_fd = crate::shared::create("ledger", ledger::BYTES).unwrap();
        let words = SharedWords::map(self.ledger_fd.as_fd(), ledger::BYTES).unwrap();
        self.ledger = DriverLedger::new(words).unwrap();
        self.ledger.initialise();
    }

    fn begun(&self) -> Vec<String> {
        self.tale.begun.lock().unwrap().clone()
    }

    fn say(&self, process: &Process, message: &ToDriver) {
        process.control.send(message, &[]).unwrap();
        self.ledger.call_attention();
    }
}

/// A worker of the device, until it is `over`. What it was asked.
fn answer(mut control: Control, over: &AtomicBool) -> Vec<ToDevice> {
    let mut asked = Vec::new();
    loop {
        let last = over.load(Ordering::Relaxed);
        let question = match control.receive_within::<ToDevice>(Duration::from_millis(20)) {
            Ok((question, _)) => question,
            Err(ControlError::TimedOut(_)) if !last => continue,
            Err(_) => break,
        };
        asked.push(question.clone());
        let answer = match question {
            ToDevice::ReadConfig { offset: 0, .. } => FromDevice::Data(vec![0x36, 0x1b, 0x10, 0]),
            ToDevice::ReadConfig { len, .. } => FromDevice::Data(vec![0; len.into()]),
            ToDevice::Bar { .. } => FromDevice::Bar { size: 0x4000 },
            ToDevice::Lost => FromDevice::Lost(None),
            _ => FromDevice::Done,
        };
        if control.send(&answer, &[]).is_err() {
            break;
        }
    }
    asked
}

impl Process {
    /// A process that was not told anything yet.
    fn spawn() -> Self {
        let (ours, theirs) = pair().unwrap();
        let (worker, device) = pair().unwrap();
        let thread = std::thread::spawn(move || {
            let mut core = Core::new(theirs);
            run::<Ram>(&mut core, device, inherited_windows, |_| ())
        });
        let over = Arc::new(AtomicBool::new(false));
        let its_over = over.clone();
        let worker = std::thread::spawn(move || answer(Control::new(worker), &its_over));
        let control = Control::new(ours);
        Self { control, thread: Some(thread), worker: Some(worker), over, asked: Vec::new() }
    }

    /// The next message that is not for a log.
    fn hear(&mut self) -> FromDriver {
        loop {
            match self.control.receive_within(PATIENCE).unwrap().0 {
                FromDriver::Log { .. } => {}
                message => return message,
            }
        }
    }

    fn hears_nothing(&mut self) {
        let heard = self.control.receive_within::<FromDriver>(Duration::from_millis(50));
        assert!(matches!(heard, Err(ControlError::TimedOut(_))), "{heard:?}");
    }

    fn attach(&self, client: &FakeClient, new: bool) {
        let mut message = client.message.clone();
        message.new = new;
        let fds = [client.memory.as_fd(), client.theirs.as_fd()];
        self.control.send(&ToDriver::Attach(message), &fds).unwrap();
    }

    fn end(&mut self) -> End {
        let end = Instant::now() + PATIENCE;
        while !self.thread.as_ref().unwrap().is_finished() {
            assert!(Instant::now() < end, "it does not end");
            std::thread::yield_now();
        }
        let ended = self.thread.take().unwrap().join().unwrap();
        self.over.store(true, Ordering::Relaxed);
        self.asked = self.worker.take().unwrap().join().unwrap();
        ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // The socket's end is the process's.
            self.control = Control::new(pair().unwrap().0);
            let _ = thread.join();
            self.over.store(true, Ordering::Relaxed);
        }
    }
}

/// A client, at the other end of one queue.
struct FakeClient {
    message: message::Client,
    memory: OwnedFd,
    words: SharedWords,
    ours: OwnedFd,
    theirs: OwnedFd,
    submitter: Submitter<SharedWords>,
    reaper: Reaper<SharedWords>,
}

impl FakeClient {
    fn new(number: u32) -> Self {
        let depth = 32;
        let bytes = queue::words_for(depth) * 8;
        let memory = crate::shared::create("queue", bytes).unwrap();
        let words = SharedWords::map(memory.as_fd(), bytes).unwrap();
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let message = message::Client {
            client: number,
            target: 1,
            rights: Rights::Write,
            arena_iova: 0x2_0000_0000,
            arena_len: 1 << 21,
            depth,
            queues: vec![number as u8],
            limits: Limits::default(),
            new: true,
        };
        let submitter = Submitter::new(words.clone(), queue::submission(depth), 0);
        let reaper = Reaper::new(words.clone(), queue::completion(depth), 0);
        Self { message, memory, words, ours, theirs, submitter, reaper }
    }

    fn submit(&mut self, tag: u64) {
        assert!(self.submitter.room(1).unwrap() > 0);
        let request =
            Submission { opcode: Opcode::Read, fua: false, blocks: 8, lba: 8, offset: 4096, tag };
        self.submitter.push(request.to_words());
        self.submitter.publish();
        if queue::must_wake(&self.words, Side::Driver) {
            // A full socket holds wake-ups enough.
            let _ = send(&self.ours, &[1], SendFlags::DONTWAIT);
        }
    }

    fn completion(&mut self) -> Completion {
        let end = Instant::now() + PATIENCE;
        while self.reaper.available().unwrap() == 0 {
            assert!(Instant::now() < end, "no completion");
            std::thread::yield_now();
        }
        let words = self.reaper.pop().unwrap();
        self.reaper.publish();
        Completion::from_words(words)
    }

    fn exchange(&mut self, tag: u64) {
        self.submit(tag);
        assert_eq!(self.completion(), Completion { tag, outcome: Outcome::Success });
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}
