//! A driver program as the core runs it, without its sandbox: what is told of its end, and that a
//! successor goes on.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use uniddrv::control::{Control, pair};
use uniddrv::process::{Birth, Ended, Namespaces, Pidfd};
use uniddrv::serve::{CONTROL, DEVICE, DriverLedger, Step};
use uniddrv::shared::{self, SharedWords};
use uniddrv::{Arena, clock};
use uniddrv_abi::block::{Completion, Opcode, Outcome, Submission};
use uniddrv_abi::ledger;
use uniddrv_abi::message::{
    Beginning, Client, FromDriver, Limits, Rights, Settings, ToDriver, VERSION,
};
use uniddrv_abi::queue::{self, Reaper, Submitter};

const PATIENCE: Duration = Duration::from_mins(1);
const PROGRAM: &str = env!("CARGO_BIN_EXE_null_driver");
const DEPTH: u32 = 32;

/// What outlives drivers.
struct World {
    ledger_fd: OwnedFd,
    ledger: DriverLedger,
    arena: Arena,
    memory: OwnedFd,
    submitter: Submitter<SharedWords>,
    reaper: Reaper<SharedWords>,
    wake: (OwnedFd, OwnedFd),
}

struct Driver {
    process: Pidfd,
    control: Control,
    logged: Vec<(u8, String)>,
}

impl World {
    fn new() -> Self {
        let ledger_fd = shared::create("ledger", ledger::BYTES).unwrap();
        let words = SharedWords::map(ledger_fd.as_fd(), ledger::BYTES).unwrap();
        let ledger = DriverLedger::new(words).unwrap();
        ledger.initialise();
        let memory = shared::create("queue", queue::words_for(DEPTH) * 8).unwrap();
        let words = SharedWords::map(memory.as_fd(), 0).unwrap();
        Self {
            ledger_fd,
            ledger,
            arena: Arena::new(1).unwrap(),
            memory,
            submitter: Submitter::new(words.clone(), queue::submission(DEPTH), 0),
            reaper: Reaper::new(words, queue::completion(DEPTH), 0),
            wake: pair().unwrap(),
        }
    }

    fn spawn(&self, namespaces: Namespaces, beginning: Beginning) -> Option<Driver> {
        let program = File::open(PROGRAM).unwrap();
        // Nobody is at the other end of the second: this driver has nothing to ask.
        let ((control, theirs), (_, its)) = (pair().unwrap(), pair().unwrap());
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        let inherited = [
            (null.as_fd(), 0),
            (null.as_fd(), 1),
            (null.as_fd(), 2),
            (theirs.as_fd(), CONTROL),
            (its.as_fd(), DEVICE),
        ];
        let birth = Birth {
            program: program.as_fd(),
            arguments: &[c"null_driver"],
            environment: &[],
            inherited: &inherited,
            namespaces,
        };
        let process = match birth.spawn() {
            Ok(process) => process,
            Err(error) if !namespaces.is_empty() => {
                eprintln!("SKIPPED: no namespaces for a driver: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        drop((theirs, its));
        let mut driver = Driver { process, control: Control::new(control), logged: Vec::new() };
        let prepare = ToDriver::Prepare {
            version: VERSION,
            address: "model:null".into(),
            arena_iova: 1 << 32,
            arena_len: self.arena.len() as u64,
            windows: Vec::new(),
            settings: Settings { depth: 64, timeout_ms: 1000, sleep: false, spin_us: 0 },
        };
        let client = Client {
            client: 1,
            target: 1,
            rights: Rights::Write,
            arena_iova: 1 << 33,
            arena_len: 1 << 20,
            depth: DEPTH,
            queues: vec![0],
            limits: Limits::default(),
            new: beginning == Beginning::Fresh,
        };
        driver.control.send(&prepare, &[self.ledger_fd.as_fd(), self.arena.fd()]).unwrap();
        assert_eq!(driver.hear(), FromDriver::Ready);
        let queue = [self.memory.as_fd(), self.wake.0.as_fd()];
        driver.control.send(&ToDriver::Attach(client), &queue).unwrap();
        driver.control.send(&ToDriver::Begin(beginning), &[]).unwrap();
        assert!(matches!(driver.hear(), FromDriver::Up { .. }));
        assert_eq!(driver.hear(), FromDriver::Attached { client: 1 });
        Some(driver)
    }

    fn submit(&mut self, tag: u64) {
        let request =
            Submission { opcode: Opcode::Write, fua: false, blocks: 1, lba: tag, offset: 0, tag };
        assert!(self.submitter.room(1).unwrap() > 0);
        self.submitter.push(request.to_words());
        self.submitter.publish();
    }

    fn completion(&mut self) -> Option<u64> {
        if self.reaper.available().unwrap() == 0 {
            return None;
        }
        let Completion { tag, outcome } = Completion::from_words(self.reaper.pop().unwrap());
        self.reaper.publish();
        assert_eq!(outcome, Outcome::Success);
        Some(tag)
    }

    fn exchange(&mut self, tag: u64) {
        self.submit(tag);
        let end = Instant::now() + PATIENCE;
        while self.reaper.available() == Ok(0) {
            assert!(Instant::now() < end, "request {tag} does not end");
        }
        assert_eq!(self.completion(), Some(tag));
    }
}

impl Driver {
    fn hear(&mut self) -> FromDriver {
        loop {
            match self.control.receive_within(PATIENCE).unwrap().0 {
                FromDriver::Log { level, text } => self.logged.push((level, text)),
                message => return message,
            }
        }
    }

    fn end(&mut self) -> Ended {
        self.process.wait(PATIENCE).unwrap().expect("it does not end")
    }
}

/// How a driver that is to end in some way ends, and its last words.
fn told(namespaces: Namespaces, how: u64) -> Option<(Ended, Option<String>)> {
    let mut world = World::new();
    let mut driver = world.spawn(namespaces, Beginning::Fresh)?;
    world.exchange(1);
    assert_eq!(world.ledger.last_words(), None);
    world.ledger.arm(how << 32 | Step::SubmissionRecorded as u64, 1);
    world.submit(2);
    let ended = driver.end();
    let words = world.ledger.last_words();
    // Whatever it was, a successor goes on.
    world.ledger.arm(0, 0);
    let mut driver = world.spawn(Namespaces::empty(), Beginning::Adopt)?;
    let end = Instant::now() + PATIENCE;
    while world.completion() != Some(2) {
        assert!(Instant::now() < end, "request 2 does not end");
    }
    driver.control.send(&ToDriver::Stop, &[]).unwrap();
    world.ledger.call_attention();
    assert_eq!(driver.end(), Ended::Exited(0));
    Some((ended, words))
}

/// The first process of a PID namespace cannot be ended by its own SIGABRT, but by a fault.
const FAULTS: [i32; 2] = [libc::SIGSEGV, libc::SIGILL];

#[test]
fn a_panic_leaves_its_message_and_place() {
    let (ended, words) = told(Namespaces::empty(), 0).unwrap();
    assert_eq!(ended, Ended::Signaled(libc::SIGABRT));
    let words = words.unwrap();
    assert!(words.starts_with("armed at SubmissionRecorded, at "), "{words}");
    assert!(words.contains("null_driver.rs:"), "{words}");
    if let Some((ended, in_namespace)) = told(Namespaces::USER | Namespaces::PID, 0) {
        assert!(matches!(ended, Ended::Signaled(signal) if FAULTS.contains(&signal)), "{ended}");
        assert_eq!(in_namespace.unwrap(), words);
    }
}

#[test]
fn an_abort_leaves_a_word() {
    let (ended, words) = told(Namespaces::empty(), 1).unwrap();
    assert_eq!(ended, Ended::Signaled(libc::SIGABRT));
    assert!(words.unwrap().starts_with("SIGABRT (ip 0x"));
    if let Some((ended, words)) = told(Namespaces::USER | Namespaces::PID, 1) {
        assert!(matches!(ended, Ended::Signaled(signal) if FAULTS.contains(&signal)), "{ended}");
        assert!(words.unwrap().starts_with("SIGABRT (ip 0x"));
    }
}

#[test]
fn a_fault_leaves_its_address() {
    for namespaces in [Namespaces::empty(), Namespaces::USER | Namespaces::PID] {
        for (how, signal, name) in [(2, libc::SIGSEGV, "SIGSEGV"), (3, libc::SIGBUS, "SIGBUS")] {
            let Some((ended, words)) = told(namespaces, how) else { return };
            assert_eq!(ended, Ended::Signaled(signal));
            let words = words.unwrap();
            assert!(words.starts_with(&format!("{name} at address 0x")), "{words}");
            assert!(words.contains("(ip 0x") && !words.contains("ip 0x0"), "{words}");
        }
    }
}

#[test]
fn an_exit_leaves_its_status() {
    assert_eq!(told(Namespaces::empty(), 4), Some((Ended::Exited(3), None)));
}

/// Signals that the core sends: from outside, and not raised by the CPU.
#[test]
fn signals_from_outside_end_it() {
    for namespaces in [Namespaces::empty(), Namespaces::USER | Namespaces::PID] {
        for (signal, name) in [
            (Signal::SEGV, "SIGSEGV"),
            (Signal::BUS, "SIGBUS"),
            (Signal::ILL, "SIGILL"),
            (Signal::ABORT, "SIGABRT"),
            (Signal::FPE, "SIGFPE"),
        ] {
            let mut world = World::new();
            let Some(mut driver) = world.spawn(namespaces, Beginning::Fresh) else { return };
            world.exchange(1);
            driver.process.kill(signal).unwrap();
            let ended = driver.end();
            let expected = if namespaces.is_empty() { &[signal.as_raw()][..] } else { &FAULTS };
            let right = matches!(ended, Ended::Signaled(number) if expected.contains(&number));
            assert!(right, "{name}: {ended}");
            let words = world.ledger.last_words().unwrap();
            assert!(words.starts_with(&format!("{name} (ip 0x")), "{words}");
        }
    }
}

#[test]
fn killed_again_and_again_it_loses_nothing() {
    let mut world = World::new();
    let mut driver = world.spawn(Namespaces::empty(), Beginning::Fresh).unwrap();
    let (mut next, mut waiting) = (0, Vec::new());
    for kill in 0..100_u64 {
        let until = clock::ticks() + clock::to_ticks(Duration::from_micros(kill * 37 % 3000));
        while clock::ticks() < until || waiting.is_empty() {
            if waiting.len() < DEPTH as usize && world.submitter.room(1).unwrap() > 0 {
                world.submit(next);
                waiting.push(next);
                next += 1;
            }
            while let Some(tag) = world.completion() {
                let at =
                    waiting.iter().position(|&waiting| waiting == tag).expect("completed twice");
                waiting.swap_remove(at);
            }
        }
        driver.process.kill(Signal::KILL).unwrap();
        assert_eq!(driver.end(), Ended::Signaled(libc::SIGKILL));
        driver = world.spawn(Namespaces::empty(), Beginning::Adopt).unwrap();
    }
    let end = Instant::now() + PATIENCE;
    while !waiting.is_empty() {
        assert!(Instant::now() < end, "{waiting:?} are lost");
        if let Some(tag) = world.completion() {
            let at = waiting.iter().position(|&waiting| waiting == tag).expect("completed twice");
            waiting.swap_remove(at);
        }
    }
    assert!(next > 1000, "{next} requests");
    driver.process.kill(Signal::KILL).unwrap();
    driver.end();
}

#[test]
fn what_it_says_is_told() {
    let world = World::new();
    let mut driver = world.spawn(Namespaces::empty(), Beginning::Fresh).unwrap();
    driver.control.send(&ToDriver::Quiesce, &[]).unwrap();
    world.ledger.call_attention();
    assert_eq!(driver.hear(), FromDriver::Quiesced);
    assert_eq!(driver.end(), Ended::Exited(0));
    let line = (3, "nothing was brought up address=model:null".to_owned());
    assert!(driver.logged.contains(&line), "{:?}", driver.logged);
}

#[test]
fn started_by_hand_it_says_what_it_is() {
    let output = Command::new(PROGRAM).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("uniddrv core"), "{text}");
}
