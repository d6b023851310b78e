//! A driver program without a device: it completes requests at once, and misbehaves on command.
//!
//! How it behaves from the start on stands in [`BEHAVIOUR`], which tests change in a copy of the
//! program. What it does later is told by writes to a first block from [`COMMAND`] on.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use uniddrv::control::{Control, ControlError};
use uniddrv::process::take_inherited;
use uniddrv::serve::CONTROL;
use uniddrv::shared::SharedWords;
use uniddrv_abi::Words as _;
use uniddrv_abi::block::{Completion, Outcome, Submission};
use uniddrv_abi::ledger::{BYTES, Breadcrumb, Count, Ledger, Phase, State};
use uniddrv_abi::message::{
    Beginning, Client, FromDriver, Settings, Target, ToDriver, VERSION, encode,
};
use uniddrv_abi::queue::{self, Poster, Side, Taker};

/// How it behaves; the rest is spaces.
static BEHAVIOUR: [u8; 64] = *b"FAKE-BEHAVIOUR: honest                                         .";
/// The first block of a write that is a command, plus its number.
const COMMAND: u64 = 0xc0de_0000;
/// Between two looks for work: shorter than anybody waits, and the CPU is left to others.
const PAUSE: Duration = Duration::from_micros(10);
/// Wake-ups taken at once.
const WAKES: usize = 16;

struct Queue {
    number: u8,
    words: SharedWords,
    taker: Taker<SharedWords>,
    poster: Poster<SharedWords>,
    wake: OwnedFd,
    renewing: bool,
}

struct Fake {
    behaviour: String,
    control: Control,
    ledger: Ledger<SharedWords>,
    settings: Settings,
    clients: BTreeMap<u32, (Client, Vec<(SharedWords, OwnedFd)>)>,
    queues: BTreeMap<u32, Vec<Queue>>,
    running: bool,
    renewing: bool,
    lazy: bool,
    clinging: bool,
    deaf: bool,
    slot: usize,
}

type Outcomes<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcomes<()> {
    let text = String::from_utf8_lossy(black_box(&BEHAVIOUR)).into_owned();
    let behaviour = text.trim_start_matches("FAKE-BEHAVIOUR:").trim_matches([' ', '.']).to_owned();
    let control = take_inherited(CONTROL)?;
    let mut control = Control::new(control);
    match behaviour.as_str() {
        "die-at-start" => std::process::exit(9),
        "never-ready" => hang(),
        "garbage" => {
            send(&control, &[0xff; 40], SendFlags::empty())?;
            hang();
        }
        "up-at-once" => {
            control.send(&up(false), &[])?;
            hang();
        }
        _ => {}
    }
    let (message, fds) = control.receive_within::<ToDriver>(Duration::from_secs(10))?;
    let ToDriver::Prepare { version, settings, .. } = message else {
        return Err("no Prepare".into());
    };
    assert_eq!(version, VERSION);
    let ledger = fds.first().ok_or("no ledger")?;
    let ledger = Ledger::new(SharedWords::map(ledger.as_fd(), BYTES)?)?;
    control.send(&FromDriver::Ready, &[])?;
    Fake {
        behaviour,
        control,
        ledger,
        settings,
        clients: BTreeMap::new(),
        queues: BTreeMap::new(),
        running: false,
        renewing: false,
        lazy: false,
        clinging: false,
        deaf: false,
        slot: 0,
    }
    .run()
}

fn hang() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn up(adopted: bool) -> FromDriver {
    let target = |path: &str, id| Target {
        path: path.into(),
        id,
        block_size: 512,
        blocks: 1 << 40,
        max_transfer: 1 << 20,
        volatile_write_cache: false,
    };
    let targets = vec![target("ns1", 1), target("ns2", 2)];
    let identity = if adopted { Vec::new() } else { b"fake".to_vec() };
    FromDriver::Up { adopted, reason: None, targets, kind: "fake".into(), identity }
}

impl Fake {
    fn tell(&self, message: &FromDriver) {
        let _ = self.control.send(message, &[]);
    }

    fn run(mut self) -> Outcomes<()> {
        let mut idle = Instant::now();
        let mut seen = self.ledger.attention();
        loop {
            if !self.running {
                self.wait()?;
                self.listen()?;
                continue;
            }
            self.ledger.beat();
            let mut busy = false;
            if self.ledger.attention() != seen && !self.deaf {
                seen = self.ledger.attention();
                self.listen()?;
                busy = true;
            }
            if !self.lazy {
                busy |= self.serve()?;
            }
            if busy {
                idle = Instant::now();
            } else if self.settings.sleep
                && idle.elapsed() > Duration::from_micros(self.settings.spin_us)
                && !self.lazy
                && !self.deaf
            {
                self.sleep(seen)?;
                self.listen()?;
                idle = Instant::now();
            } else {
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn wait(&self) -> Outcomes<()> {
        poll(&mut [PollFd::new(&self.control, PollFlags::IN)], None)?;
        Ok(())
    }

    fn listen(&mut self) -> Outcomes<()> {
        loop {
            match self.control.receive::<ToDriver>() {
                Ok(None) => return Ok(()),
                Ok(Some((message, fds))) => self.hear(message, fds)?,
                Err(ControlError::Closed) => std::process::exit(0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn hear(&mut self, message: ToDriver, fds: Vec<OwnedFd>) -> Outcomes<()> {
        match message {
            ToDriver::Prepare { .. } => return Err("a second Prepare".into()),
            ToDriver::Begin(how) => self.begin(how),
            ToDriver::Attach(client) => {
                let number = client.client;
                let bytes = queue::words_for(client.depth) * 8;
                let mut fds = fds.into_iter();
                let mut queues = Vec::new();
                while let (Some(memory), Some(wake)) = (fds.next(), fds.next()) {
                    queues.push((SharedWords::map(memory.as_fd(), bytes)?, wake));
                }
                self.clients.insert(number, (client, queues));
                if self.running {
                    self.attach(number);
                }
            }
            ToDriver::Detach { client } => {
                if !(self.clinging && self.running) {
                    self.clients.remove(&client);
                    self.queues.remove(&client);
                    self.tell(&FromDriver::Detached { client });
                }
            }
            ToDriver::Quiesce => {
                if self.behaviour == "never-quiet" {
                    return Ok(());
                }
                self.ledger.set_phase(Phase::Quiesced);
                self.tell(&FromDriver::Quiesced);
                std::process::exit(0);
            }
            ToDriver::Stop => {
                if self.behaviour == "never-stops" {
                    return Ok(());
                }
                self.ledger.set_phase(Phase::BringingUp);
                std::process::exit(0);
            }
            ToDriver::Wake => {}
        }
        Ok(())
    }

    fn begin(&mut self, how: Beginning) {
        let adopts = how == Beginning::Adopt;
        match (self.behaviour.as_str(), adopts) {
            ("dies-at-begin", _) | ("dies-adopting", true) => std::process::abort(),
            ("hangs-at-begin", _) | ("hangs-adopting", true) => hang(),
            ("fails", _) | ("fails-adopting", true) => {
                let text = "the fake device does not come up".into();
                self.tell(&FromDriver::Failed { gone: false, text });
                std::process::exit(1);
            }
            ("bad-targets", _) => {
                let FromDriver::Up { mut targets, adopted, reason, kind, identity } = up(false)
                else {
                    return;
                };
                targets[0].path = "../../etc".into();
                self.tell(&FromDriver::Up { adopted, reason, targets, kind, identity });
                hang();
            }
            ("unreadable", true) => {
                self.tell(&FromDriver::Unreadable { text: "says the fake".into() });
                hang();
            }
            _ => {}
        }
        let now = uniddrv::clock::monotonic_nanoseconds();
        self.ledger.adoption_began(now);
        self.ledger.set_asleep(false);
        if !adopts {
            self.ledger.set_phase(Phase::BringingUp);
            if how != Beginning::Fresh {
                self.ledger.count_reset(0);
            }
        }
        self.ledger.set_phase(Phase::Running);
        self.running = true;
        self.renewing = how == Beginning::Renew;
        // What a predecessor kept is given back as done by nobody.
        self.ledger.set_breadcrumb(None);
        self.ledger.adoption_ended(uniddrv::clock::monotonic_nanoseconds());
        self.tell(&up(adopts));
        let clients: Vec<u32> = self.clients.keys().copied().collect();
        for client in clients {
            self.attach(client);
        }
        self.end_left_over();
        self.renewing = false;
    }

    fn attach(&mut self, number: u32) {
        let Some((client, memories)) = self.clients.get_mut(&number) else { return };
        let queues = std::mem::take(memories).into_iter().zip(&client.queues);
        let queues = queues.map(|((words, wake), &number)| {
            let (consumer, producer) = self.ledger.indices(number);
            Queue {
                number,
                taker: Taker::new(words.clone(), queue::submission(client.depth), consumer),
                poster: Poster::new(words.clone(), queue::completion(client.depth), producer),
                words,
                wake,
                renewing: self.renewing,
            }
        });
        let queues: Vec<Queue> = queues.collect();
        for queue in queues.iter().filter(|queue| queue.renewing) {
            queue::renew(&queue.words);
            wake(queue);
        }
        self.queues.insert(number, queues);
        self.tell(&FromDriver::Attached { client: number });
    }

    /// Completes what predecessors took and did not complete.
    fn end_left_over(&mut self) {
        for slot in 0..uniddrv_abi::ledger::SLOTS {
            let Ok(held) = self.ledger.slot(slot) else { continue };
            if held.state == State::Free {
                continue;
            }
            for queue in self.queues.values_mut().flatten().filter(|one| one.number == held.queue) {
                post(&self.ledger, queue, held.request);
            }
            self.ledger.free(slot, 0);
        }
        self.ledger.first_completion(uniddrv::clock::monotonic_nanoseconds());
    }

    fn serve(&mut self) -> Outcomes<bool> {
        let mut taken = Vec::new();
        for (&client, queues) in &mut self.queues {
            for (index, queue) in queues.iter_mut().enumerate() {
                if queue.renewing {
                    queue.renewing = !queue::renewed(&queue.words);
                    continue;
                }
                if queue.taker.available().is_err() || queue.poster.room(1).is_err() {
                    let text = "an index that cannot be".into();
                    let _ = self.control.send(&FromDriver::Hostile { client, text }, &[]);
                    queue.taker = Taker::new(queue.words.clone(), queue::submission(1), 0);
                    continue;
                }
                if queue.poster.room(1).unwrap_or(0) > 0
                    && let Some(request) = queue.taker.pop()
                {
                    let position = queue.taker.position().wrapping_sub(1);
                    self.slot = (self.slot + 1) % uniddrv_abi::ledger::SLOTS;
                    self.ledger.take(self.slot, queue.number, 0, position, request, 0);
                    self.ledger.set_consumer(queue.number, queue.taker.position());
                    queue.taker.publish();
                    let crumb = Breadcrumb { queue: queue.number, position };
                    self.ledger.set_breadcrumb(Some(crumb));
                    taken.push((client, index, self.slot, request));
                }
            }
        }
        let busy = !taken.is_empty();
        for (client, index, slot, request) in taken {
            let command =
                Submission::from_words(request).and_then(|it| it.lba.checked_sub(COMMAND));
            if let Some(command) = command.filter(|&command| command < 100)
                && self.obey(command, client)?
            {
                continue;
            }
            let queue = self.queues.get_mut(&client).and_then(|queues| queues.get_mut(index));
            if let Some(queue) = queue {
                post(&self.ledger, queue, request);
            }
            self.ledger.free(slot, 0);
            self.ledger.set_breadcrumb(None);
        }
        Ok(busy)
    }

    /// Carries out a command. Whether its request is kept.
    fn obey(&mut self, command: u64, client: u32) -> Outcomes<bool> {
        match command {
            1 => std::process::abort(),
            2 => hang(),
            3 => std::process::exit(0),
            4 => std::process::exit(3),
            5 => {
                self.ledger.set_last_words(b"panicked at the fake's own wish");
                std::process::exit(101);
            }
            6 => return Ok(true),
            7 => {
                self.lazy = true;
                return Ok(true);
            }
            8 => send(&self.control, &[0xff; 100], SendFlags::empty()).map(drop)?,
            9 => self.tell(&up(false)),
            10 => self.tell(&FromDriver::Detached { client }),
            11 => loop {
                let text = "noise\u{1b}[2J".repeat(10);
                self.tell(&FromDriver::Log { level: 1, text });
                self.ledger.beat();
            },
            12 => {
                let text = "the fake gives up".into();
                self.tell(&FromDriver::Failed { gone: false, text });
                std::process::exit(1);
            }
            13 => {
                let _ = self.control.send(&FromDriver::Awake, &[self.control.as_fd()]);
            }
            14 => self.tell(&FromDriver::Hostile { client, text: "says the fake".into() }),
            15 => self.tell(&FromDriver::Hostile { client: 0xffff_ffff, text: "nobody".into() }),
            16 => {
                self.ledger.words().store(0, 7, std::sync::atomic::Ordering::SeqCst);
                std::process::abort();
            }
            17 => self.clinging = true,
            23 => self.deaf = true,
            18 => self.tell(&FromDriver::Quiesced),
            19 => self.tell(&FromDriver::Ready),
            20 => self.tell(&FromDriver::Attached { client: 12345 }),
            21 => {
                self.ledger.set_phase(Phase::BringingUp);
                std::process::abort();
            }
            22 => {
                // A ledger full of lies: the core shows what it says, and lives.
                for index in 1..self.ledger.words().count() {
                    self.ledger.words().store(index, u64::MAX, std::sync::atomic::Ordering::SeqCst);
                }
                std::process::abort();
            }
            24 => {
                self.ledger.set_asleep(true);
                hang();
            }
            25 => {
                let bytes = encode(&FromDriver::Log { level: 1, text: "x".repeat(100_000) })?;
                send(&self.control, &bytes[..50_000], SendFlags::empty()).map(drop)?;
            }
            _ => {}
        }
        Ok(false)
    }

    fn sleep(&mut self, seen: u64) -> Outcomes<()> {
        self.ledger.set_asleep(true);
        for queue in self.queues.values().flatten() {
            queue::announce_sleep(&queue.words, Side::Driver);
        }
        self.ledger.words().fence();
        let queues = self.queues.values_mut().flatten();
        let work =
            queues.fold(false, |work, one| work | one.renewing | (one.taker.look() != Ok(0)));
        if !work && self.ledger.attention() == seen {
            let mut fds = vec![PollFd::new(&self.control, PollFlags::IN)];
            let queues = self.queues.values().flatten();
            fds.extend(queues.map(|queue| PollFd::new(&queue.wake, PollFlags::IN)));
            poll(&mut fds, None)?;
        }
        self.ledger.set_asleep(false);
        for queue in self.queues.values().flatten() {
            queue::awake(&queue.words, Side::Driver);
            let mut byte = [0; 16];
            // Whoever wakes it without end keeps it from nothing else.
            for _ in 0..WAKES {
                if !matches!(recv(&queue.wake, &mut byte, RecvFlags::DONTWAIT), Ok((1.., _))) {
                    break;
                }
            }
        }
        self.ledger.beat();
        self.tell(&FromDriver::Awake);
        Ok(())
    }
}

fn post(ledger: &Ledger<SharedWords>, queue: &mut Queue, request: [u64; 4]) {
    let tag = Submission::from_words(request).map_or(0, |it| it.tag);
    if queue.poster.room(1).unwrap_or(0) == 0 {
        return;
    }
    queue.poster.push(Completion { tag, outcome: Outcome::Success }.to_words());
    ledger.set_producer(queue.number, queue.poster.position());
    queue.poster.publish();
    ledger.count_completed(1);
    ledger.add_count(queue.number, Count::Ios, 1);
    ledger.count_latency(queue.number, 1000);
    wake(queue);
}

fn wake(queue: &Queue) {
    if queue::must_wake(&queue.words, Side::Client) {
        let _ = send(&queue.wake, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}
