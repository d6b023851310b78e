//! A core and a driver in this process, behind the same sockets and shared memory as real ones,
//! with a disk in plain memory.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use uniddrv::arena::Arena;
use uniddrv::client::{Core, Rights, Target};
use uniddrv::control::{Control, ControlError, pair};
use uniddrv::dma::{DmaMemory, DmaSpace};
use uniddrv::shared::{self, SharedWords};
use uniddrv_abi::Words;
use uniddrv_abi::block::{Completion, Opcode, Outcome, Submission};
use uniddrv_abi::message::{FromCore, Refusal, ToCore, VERSION};
use uniddrv_abi::queue::{self, Poster, Side, Taker};

pub(crate) const BLOCK: u32 = 512;
pub(crate) const BLOCKS: u64 = 4096;
pub(crate) const MAX_TRANSFER: u32 = 64 << 10;
/// What the core thread answers a question with; nothing for what it would answer itself.
pub(crate) type Script = Box<dyn FnMut(&ToCore) -> Option<Vec<FromCore>> + Send>;
/// Changes what the core answers and hands over.
pub(crate) type Tamper = Box<dyn FnMut(&mut FromCore, &mut Vec<OwnedFd>) + Send>;

pub(crate) type Disk = Arc<Mutex<Vec<u8>>>;

/// How the fake core behaves.
#[derive(Default)]
pub(crate) struct Behaviour {
    pub(crate) script: Option<Script>,
    pub(crate) tamper: Option<Tamper>,
    /// The most requests in flight; 0 for the depth.
    pub(crate) in_flight: u32,
}

pub(crate) struct Fake {
    pub(crate) disk: Disk,
    /// The driver's ends of the queues that were opened.
    pub(crate) queues: Receiver<FakeQueue>,
    orders: Sender<FromCore>,
    stop: Arc<AtomicBool>,
    /// What was asked of the core.
    pub(crate) asked: Arc<Mutex<Vec<ToCore>>>,
    thread: Option<JoinHandle<()>>,
    drivers: Vec<JoinHandle<FakeQueue>>,
}

impl Fake {
    pub(crate) fn start() -> (Core, Self) {
        Self::with(Behaviour::default())
    }

    pub(crate) fn with(behaviour: Behaviour) -> (Core, Self) {
        let (ours, theirs) = pair().unwrap();
        let fake = Self::on(ours, behaviour);
        (Core::over(theirs).unwrap(), fake)
    }

    /// The core at this end of a connection.
    pub(crate) fn on(fd: OwnedFd, mut behaviour: Behaviour) -> Self {
        let disk: Disk = Arc::new(Mutex::new(vec![0; BLOCKS as usize * BLOCK as usize]));
        let (sender, queues) = channel();
        let (orders, received) = channel::<FromCore>();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut connection = Connection {
            control: Control::new(fd),
            arena: None,
            disk: disk.clone(),
            queues: sender,
            handles: 0,
            in_flight: behaviour.in_flight,
        };
        let (stopped, log) = (stop.clone(), asked.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                while let Ok(message) = received.try_recv() {
                    connection.control.send(&message, &[]).unwrap();
                }
                match connection.control.receive_within::<ToCore>(Duration::from_millis(1)) {
                    Ok((question, _)) => {
                        log.lock().unwrap().push(question.clone());
                        connection.answer(&question, &mut behaviour);
                    }
                    Err(ControlError::TimedOut(_)) => {}
                    Err(_) => break,
                }
            }
        });
        Self { disk, queues, orders, stop, asked, thread: Some(thread), drivers: Vec::new() }
    }

    /// Has a thread serve each queue that was opened, as long as `self` lives.
    pub(crate) fn serve(&mut self, style: Style) {
        while let Ok(queue) = self.queues.try_recv() {
            self.serve_queue(queue, style);
        }
    }

    pub(crate) fn serve_queue(&mut self, mut queue: FakeQueue, style: Style) {
        let stop = self.stop.clone();
        self.drivers.push(std::thread::spawn(move || {
            queue.serve(style, &stop);
            queue
        }));
    }

    /// The driver's end of the next queue.
    pub(crate) fn queue(&self) -> FakeQueue {
        self.queues.recv_timeout(Duration::from_secs(5)).unwrap()
    }

    /// Has the core say something unasked.
    pub(crate) fn say(&self, message: FromCore) {
        self.orders.send(message).unwrap();
    }

    /// The core and the driver end.
    pub(crate) fn hang_up(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        for driver in self.drivers.drain(..) {
            driver.join().unwrap();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic of a thread is the test's.
        for driver in self.drivers.drain(..) {
            assert!(driver.join().is_ok() || std::thread::panicking());
        }
        let core = self.thread.take().map(JoinHandle::join);
        assert!(!matches!(core, Some(Err(_))) || std::thread::panicking());
    }
}

struct Connection {
    control: Control,
    arena: Option<(OwnedFd, Arc<DmaMemory>)>,
    disk: Disk,
    queues: Sender<FakeQueue>,
    handles: u32,
    in_flight: u32,
}

pub(crate) fn target() -> Target {
    Target {
        path: "ns1".into(),
        id: 1,
        block_size: BLOCK,
        blocks: BLOCKS,
        max_transfer: MAX_TRANSFER,
        volatile_write_cache: true,
    }
}

impl Connection {
    fn answer(&mut self, question: &ToCore, behaviour: &mut Behaviour) {
        if let Some(answers) = behaviour.script.as_mut().and_then(|script| script(question)) {
            for answer in answers {
                self.control.send(&answer, &[]).unwrap();
            }
            return;
        }
        let (mut answer, mut fds) = self.answer_to(question);
        if let Some(tamper) = &mut behaviour.tamper {
            tamper(&mut answer, &mut fds);
        }
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        // The client may be gone already.
        let _ = self.control.send(&answer, &fds);
    }

    fn answer_to(&mut self, question: &ToCore) -> (FromCore, Vec<OwnedFd>) {
        let answer = match question {
            ToCore::Hello { .. } => FromCore::Welcome { version: VERSION, client: 7 },
            ToCore::Open { name, rights, queues, depth, arena } if name == "disk:0" => {
                return self.open(*rights, *queues, *depth, *arena);
            }
            ToCore::List { .. } => FromCore::Names(Vec::new()),
            ToCore::Status { .. } => FromCore::Status(Vec::new()),
            ToCore::Identify { .. } => {
                FromCore::Identity { kind: "nvme".into(), bytes: vec![1; 8192] }
            }
            ToCore::Open { name, .. } | ToCore::Restart { name } => FromCore::Refused {
                code: Refusal::NotFound,
                text: format!("there is no {name}; `uniddrv ls` lists what there is"),
            },
            _ => FromCore::Done,
        };
        (answer, Vec::new())
    }

    fn open(
        &mut self,
        rights: Rights,
        queues: u8,
        depth: u32,
        arena: u64,
    ) -> (FromCore, Vec<OwnedFd>) {
        let (fd, memory) = self.arena.get_or_insert_with(|| {
            let arena = Arena::new(arena as usize).unwrap();
            let fd = arena.fd().try_clone_to_owned().unwrap();
            (fd, DmaSpace::of_offsets(Arc::new(arena)).current().unwrap())
        });
        let len = memory.arena().len() as u64;
        let mut fds = vec![fd.try_clone().unwrap()];
        for _ in 0..queues {
            let words = shared::create("queue", queue::words_for(depth) * 8).unwrap();
            let (ours, theirs) = pair().unwrap();
            let queue = FakeQueue::new(&words, ours, depth, memory.clone(), self.disk.clone());
            let _ = self.queues.send(FakeQueue { writable: rights == Rights::Write, ..queue });
            fds.extend([words, theirs]);
        }
        self.handles += 1;
        let in_flight = if self.in_flight == 0 { depth } else { self.in_flight };
        let handle = self.handles;
        let target = target();
        (FromCore::Opened { handle, target, arena: len, depth, in_flight, queues }, fds)
    }
}

/// How a driver serves.
#[derive(Clone, Copy, Default)]
pub(crate) struct Style {
    /// Requests are answered last first, in batches of at least this many (or what there is).
    pub(crate) shuffle: bool,
    /// It sleeps whenever there is nothing to do.
    pub(crate) sleepy: bool,
    /// It completes without looking at data or disk.
    pub(crate) null: bool,
    /// It offers the CPU to others when there is nothing to do.
    pub(crate) yields: bool,
}

/// The driver's end of a queue.
pub(crate) struct FakeQueue {
    pub(crate) words: SharedWords,
    pub(crate) taker: Taker<SharedWords>,
    pub(crate) poster: Poster<SharedWords>,
    pub(crate) wake: OwnedFd,
    depth: u32,
    memory: Arc<DmaMemory>,
    disk: Disk,
    writable: bool,
    /// Requests that it has carried out.
    pub(crate) served: u64,
}

impl FakeQueue {
    fn new(fd: &OwnedFd, wake: OwnedFd, depth: u32, memory: Arc<DmaMemory>, disk: Disk) -> Self {
        let words = SharedWords::map(fd.as_fd(), 0).unwrap();
        let taker = Taker::new(words.clone(), queue::submission(depth), 0);
        let poster = Poster::new(words.clone(), queue::completion(depth), 0);
        Self { words, taker, poster, wake, depth, memory, disk, writable: true, served: 0 }
    }

    /// Takes what was submitted.
    pub(crate) fn take(&mut self) -> Vec<Submission> {
        let mut taken = Vec::new();
        for _ in 0..self.taker.available().unwrap() {
            taken.push(Submission::from_words(self.taker.pop().unwrap()).unwrap());
        }
        self.taker.publish();
        taken
    }

    /// Takes `count` requests, however long they take to come.
    pub(crate) fn take_all(&mut self, count: usize) -> Vec<Submission> {
        let mut taken = self.take();
        for _ in 0..5_000 {
            if taken.len() >= count {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            taken.extend(self.take());
        }
        assert_eq!(taken.len(), count);
        taken
    }

    /// Carries a request out.
    pub(crate) fn carry_out(&mut self, submission: &Submission) -> Outcome {
        self.served += 1;
        let len = submission.blocks as usize * BLOCK as usize;
        let start = submission.lba as usize * BLOCK as usize;
        if start + len > BLOCKS as usize * BLOCK as usize {
            return Outcome::OutOfRange;
        }
        if submission.opcode.writes() && !self.writable {
            return Outcome::Denied;
        }
        let mut disk = self.disk.lock().unwrap();
        let data = &mut disk[start..start + len];
        match submission.opcode {
            Opcode::Flush => {}
            Opcode::Discard | Opcode::WriteZeroes => data.fill(0),
            Opcode::Read | Opcode::Write => {
                let Some(mut buffer) = self.memory.buffer_at(submission.offset as usize, len)
                else {
                    return Outcome::Invalid;
                };
                if submission.opcode == Opcode::Read {
                    buffer.as_mut_slice().copy_from_slice(data);
                } else {
                    data.copy_from_slice(buffer.as_slice());
                }
            }
        }
        Outcome::Success
    }

    /// Posts a completion, without saying so.
    pub(crate) fn post(&mut self, tag: u64, outcome: Outcome) {
        self.poster.push(Completion { tag, outcome }.to_words());
    }

    /// Says what was posted, and wakes the client if it sleeps.
    pub(crate) fn publish(&mut self) {
        self.poster.publish();
        if queue::must_wake(&self.words, Side::Client) {
            self.wake_client();
        }
    }

    pub(crate) fn wake_client(&self) {
        let _ = send(&self.wake, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Starts the rings over, as a successor that has lost what its predecessor knew.
    pub(crate) fn renew(&mut self) {
        queue::renew(&self.words);
        if queue::must_wake(&self.words, Side::Client) {
            self.wake_client();
        }
        self.taker = Taker::new(self.words.clone(), queue::submission(self.depth), 0);
        self.poster = Poster::new(self.words.clone(), queue::completion(self.depth), 0);
    }

    fn serve(&mut self, style: Style, stop: &AtomicBool) {
        let mut waiting = VecDeque::new();
        while !stop.load(Ordering::Relaxed) {
            if !queue::renewed(&self.words) {
                std::thread::yield_now();
                continue;
            }
            let Ok(available) = self.taker.available() else { return };
            if available == 0 && style.sleepy {
                self.sleep();
                continue;
            }
            if available == 0 && style.yields {
                std::thread::yield_now();
                continue;
            }
            for _ in 0..available {
                let taken = self.taker.pop().and_then(Submission::from_words);
                waiting.extend(taken);
            }
            self.taker.publish();
            while let Some(submission) =
                if style.shuffle { waiting.pop_back() } else { waiting.pop_front() }
            {
                let outcome = if style.null {
                    self.served += 1;
                    Outcome::Success
                } else {
                    self.carry_out(&submission)
                };
                self.post(submission.tag, outcome);
            }
            if available > 0 {
                self.publish();
            }
        }
    }

    fn sleep(&mut self) {
        queue::announce_sleep(&self.words, Side::Driver);
        if matches!(self.taker.look(), Ok(0)) {
            let timeout = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            let _ = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], Some(&timeout));
            let mut bytes = [0; 64];
            while matches!(recv(&self.wake, &mut bytes, RecvFlags::DONTWAIT), Ok((_, 1..))) {}
        }
        queue::awake(&self.words, Side::Driver);
    }

    /// The word in which the driver says where it is in a ring.
    pub(crate) fn store(&self, index: usize, value: u64) {
        self.words.store(index, value, Ordering::Release);
    }
}
