//! A driver program that lies. About what, the serial number in its device's address says:
//! `model:nvme?serial=LIE`. It has no use for the device.
#![forbid(unsafe_code)]

use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendFlags, send};
use uniddrv::control::{Control, ControlError};
use uniddrv::process::take_inherited;
use uniddrv::serve::{CONTROL, DEVICE};
use uniddrv::shared::SharedWords;
use uniddrv_abi::Words as _;
use uniddrv_abi::block::{Completion, Outcome, Submission};
use uniddrv_abi::ledger::{BYTES, Ledger, Phase};
use uniddrv_abi::message::{Client, FromDriver, Target, ToDevice, ToDriver, encode};
use uniddrv_abi::queue::{self, Poster, Taker};
use uniddrv_tests::wire::Random;

/// Between two looks for work: shorter than anybody waits, and the CPU is left to others.
const PAUSE: Duration = Duration::from_micros(10);

struct Queue {
    client: u32,
    depth: u32,
    words: SharedWords,
    taker: Taker<SharedWords>,
    poster: Poster<SharedWords>,
    wake: OwnedFd,
    /// Tags of requests that were taken and not answered.
    owed: Vec<u64>,
}

struct Liar {
    lie: String,
    control: Control,
    device: Control,
    ledger: Ledger<SharedWords>,
    attached: Vec<(Client, Vec<OwnedFd>)>,
    queues: Vec<Queue>,
    running: bool,
    random: Random,
    count: u64,
}

type Outcomes<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcomes<()> {
    let mut control = Control::new(take_inherited(CONTROL)?);
    let device = Control::new(take_inherited(DEVICE)?);
    let (message, fds) = control.receive_within::<ToDriver>(Duration::from_secs(10))?;
    let ToDriver::Prepare { address, .. } = message else { return Err("no Prepare".into()) };
    let lie = address.split("serial=").nth(1).unwrap_or_default().to_owned();
    let ledger = fds.first().ok_or("no ledger")?;
    let ledger = Ledger::new(SharedWords::map(ledger.as_fd(), BYTES)?)?;
    control.send(&FromDriver::Ready, &[])?;
    Liar {
        lie,
        control,
        device,
        ledger,
        attached: Vec::new(),
        queues: Vec::new(),
        running: false,
        random: Random::new(std::process::id().into()),
        count: 0,
    }
    .run()
}

fn hang() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn target(path: &str) -> Target {
    Target {
        path: path.into(),
        id: 1,
        block_size: 512,
        blocks: 1 << 20,
        max_transfer: 1 << 20,
        volatile_write_cache: false,
    }
}

impl Liar {
    fn run(mut self) -> Outcomes<()> {
        loop {
            if !self.running {
                poll(&mut [PollFd::new(&self.control, PollFlags::IN)], None)?;
            }
            while let Some((message, fds)) = match self.control.receive::<ToDriver>() {
                Err(ControlError::Closed) => return Ok(()),
                other => other?,
            } {
                self.hear(message, fds)?;
            }
            if self.running {
                self.ledger.beat();
                self.work();
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn hear(&mut self, message: ToDriver, fds: Vec<OwnedFd>) -> Outcomes<()> {
        match message {
            ToDriver::Begin(_) => {
                self.ledger.set_phase(Phase::Running);
                self.ledger.set_asleep(false);
                self.control.send(&self.up(), &[])?;
                self.running = true;
                for (client, fds) in std::mem::take(&mut self.attached) {
                    self.attach(&client, fds)?;
                }
                if self.lie == "dies-busy" {
                    // Much was done, it says.
                    self.ledger.count_completed(1 + self.random.below(1000));
                    std::process::abort();
                }
                self.flood()?;
            }
            ToDriver::Attach(client) if self.running => self.attach(&client, fds)?,
            ToDriver::Attach(client) => self.attached.push((client, fds)),
            ToDriver::Detach { client } => {
                self.queues.retain(|queue| queue.client != client);
                self.attached.retain(|(one, _)| one.client != client);
                self.control.send(&FromDriver::Detached { client }, &[])?;
            }
            ToDriver::Quiesce => {
                self.ledger.set_phase(Phase::Quiesced);
                self.control.send(&FromDriver::Quiesced, &[])?;
                std::process::exit(0);
            }
            ToDriver::Stop => std::process::exit(0),
            ToDriver::Prepare { .. } | ToDriver::Wake => {}
        }
        Ok(())
    }

    /// What it says that it is.
    fn up(&self) -> FromDriver {
        let mut targets = vec![target("ns1"), target("ns2")];
        let mut kind = "lie".to_owned();
        let mut identity = b"lie".to_vec();
        match self.lie.as_str() {
            "no-block" => targets[0].block_size = 0,
            "odd-block" => targets[0].block_size = 777,
            "huge-block" => targets[0].block_size = 1 << 31,
            "no-transfer" => targets[0].max_transfer = 0,
            "endless" => targets[0].blocks = u64::MAX,
            "too-many" => {
                targets = (0..1000).map(|number| target(&format!("ns{number}"))).collect();
            }
            "same-path" => targets[1].path = "ns1".into(),
            "no-path" => targets[0].path = String::new(),
            "upwards" => targets[0].path = "../../etc/passwd".into(),
            "terminal" => targets[0].path = "\u{1b}[2Jns1".into(),
            "long-path" => targets[0].path = "x".repeat(60_000),
            "long-kind" => kind = "\u{1b}]0;x\u{7}".repeat(10_000),
            "much" => identity = vec![0xff; 120_000],
            "largest" => {
                targets[0].block_size = 1 << 20;
                targets[0].max_transfer = u32::MAX;
                targets[0].blocks = u64::MAX >> 20;
            }
            _ => {}
        }
        FromDriver::Up { adopted: true, reason: None, targets, kind, identity }
    }

    fn attach(&mut self, client: &Client, fds: Vec<OwnedFd>) -> Outcomes<()> {
        let bytes = queue::words_for(client.depth) * 8;
        let mut fds = fds.into_iter();
        let mut numbers = client.queues.iter();
        while let (Some(memory), Some(wake), Some(&number)) =
            (fds.next(), fds.next(), numbers.next())
        {
            let words = SharedWords::map(memory.as_fd(), bytes)?;
            let (consumer, producer) = self.ledger.indices(number);
            let taker = Taker::new(words.clone(), queue::submission(client.depth), consumer);
            let poster = Poster::new(words.clone(), queue::completion(client.depth), producer);
            let (client, depth) = (client.client, client.depth);
            let owed = Vec::new();
            self.queues.push(Queue { client, depth, words, taker, poster, wake, owed });
        }
        self.control.send(&FromDriver::Attached { client: client.client }, &[])?;
        Ok(())
    }

    /// Talks without end, where that is its lie.
    fn flood(&mut self) -> Outcomes<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let end = Instant::now() + Duration::from_secs(20);
        let client = 1;
        let text = || "\u{1b}[31mnoise\r\n".repeat(2000);
        while Instant::now() < end {
            self.ledger.beat();
            let message = match self.lie.as_str() {
                "says-poison" => FromDriver::Poisoned { client, text: text() },
                "says-hostile" => FromDriver::Hostile { client: 0xffff, text: text() },
                "says-awake" => FromDriver::Awake,
                "says-attached" => FromDriver::Attached { client: 0xffff },
                "asks-without-end" => {
                    let question = match self.random.below(4) {
                        0 => ToDevice::ReadConfig { offset: self.random.next() as u32, len: 4 },
                        1 => ToDevice::WriteBar {
                            bar: self.random.next() as u8,
                            offset: self.random.odd(),
                            data: vec![0xff; 8],
                        },
                        2 => ToDevice::WriteConfig { offset: 0x10, data: vec![0xff; 4] },
                        _ => ToDevice::Lost,
                    };
                    let _ = send(&self.device, &encode(&question)?, flags);
                    continue;
                }
                "babbles-at-device" => {
                    let bytes = self.random.bytes(100);
                    let _ = send(&self.device, &bytes, flags);
                    continue;
                }
                "babbles" => {
                    let bytes = self.random.bytes(100);
                    let _ = send(&self.control, &bytes, flags);
                    hang();
                }
                _ => return Ok(()),
            };
            let _ = self.control.send(&message, &[]);
        }
        Ok(())
    }

    fn work(&mut self) {
        let tags: Vec<u64> = self.queues.iter().flat_map(|queue| queue.owed.clone()).collect();
        for queue in &mut self.queues {
            while queue.taker.available().unwrap_or(0) > 0
                && let Some(words) = queue.taker.pop()
            {
                queue.owed.push(Submission::from_words(words).map_or(0, |it| it.tag));
            }
            queue.taker.publish();
            self.count += 1;
            lie_to(queue, &self.lie, &tags, &mut self.random);
            if self.count.is_multiple_of(64) {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let _ = send(&queue.wake, &[1], flags);
            }
        }
        self.ledger.count_completed(1);
    }
}

/// Posts one completion, if there is room.
fn post(queue: &mut Queue, tag: u64, outcome: Outcome) {
    if queue.poster.room(1).unwrap_or(0) > 0 {
        queue.poster.push(Completion { tag, outcome }.to_words());
    }
}

fn lie_to(queue: &mut Queue, lie: &str, tags: &[u64], random: &mut Random) {
    let good = Outcome::Success;
    match lie {
        // What nobody asked for, and nothing else: a slot is not used so often.
        "unknown-tags" => post(queue, random.odd() | 1 << 63, good),
        // Somebody else's, as far as it is not one's own by chance.
        "others-tags" => {
            let number = random.below(tags.len() as u64) as usize;
            let tag = tags.get(number).copied().unwrap_or_default();
            if !queue.owed.contains(&tag) {
                post(queue, tag, good);
            }
        }
        "garbage" => {
            let word = random.below(queue.words.count() as u64) as usize;
            queue.words.store(word, random.odd(), std::sync::atomic::Ordering::SeqCst);
        }
        "index-ahead" => store(&queue.words, queue::completion(queue.depth).tail, 1 << 20),
        "index-back" => store(&queue.words, queue::completion(queue.depth).tail, u64::MAX),
        "takes-ahead" => store(&queue.words, queue::submission(queue.depth).head, 77),
        "epochs" => queue::renew(&queue.words),
        "closes" => queue::close(&queue.words, 7),
        _ => {}
    }
    // Most are answered well too, some more than once.
    let honest = !matches!(lie, "unknown-tags" | "others-tags" | "silent");
    if honest
        && queue.poster.room(3).unwrap_or(0) >= 3
        && let Some(tag) = queue.owed.pop()
    {
        post(queue, tag, good);
        if lie == "twice" {
            post(queue, tag, good);
            post(queue, tag, Outcome::Gone);
        }
    }
    queue.poster.publish();
}

fn store(words: &SharedWords, word: usize, value: u64) {
    words.store(word, value, std::sync::atomic::Ordering::SeqCst);
}
