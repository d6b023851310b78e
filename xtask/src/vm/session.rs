//! Follows a running guest: passes on what the command prints, waits for its
//! exit status, and notices when there will be none.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGABRT, SIGBUS, SIGHUP, SIGINT, SIGSEGV, SIGTERM};
use signal_hook::iterator::Signals;

use super::machine::Machine;

/// How many lines of the console an error shows.
const CONSOLE_LINES: usize = 60;
/// QEMU warns of a hub with nothing but the guest's NICs on it, which is what
/// we want.
const HUB_WARNING: &str = "hub 0 is not connected to host network";
/// How often QEMU's own end is looked for.
const GLANCE: Duration = Duration::from_millis(100);

/// How a guest ended.
pub(crate) enum Outcome {
    /// The command ended with this status.
    Exited(u8),
    /// We were told to stop by this signal.
    Signal(u8),
    /// The deadline passed.
    TimedOut,
    /// QEMU ended first: a panic, or a command line that QEMU refuses.
    Died(ExitStatus),
    /// Nobody reads our output any more.
    OutputClosed(io::Error),
}

/// What is known at the end.
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    /// When the command started.
    pub(crate) booted: Option<Instant>,
    /// The last lines of the guest's console and of QEMU's complaints.
    pub(crate) console: String,
}

impl Report {
    /// How QEMU crashed, if it has: nothing in the guest should be able to make it.
    pub(crate) fn crash(&self) -> Option<ExitStatus> {
        match self.outcome {
            Outcome::Died(status)
                if matches!(status.signal(), Some(SIGSEGV | SIGABRT | SIGBUS)) =>
            {
                Some(status)
            }
            _ => None,
        }
    }

    /// Whether the guest's kernel panicked before the command had begun.
    pub(crate) fn panicked_early(&self) -> bool {
        self.booted.is_none()
            && matches!(self.outcome, Outcome::Died(_))
            && self.console.contains("Kernel panic - not syncing")
    }
}

enum Event {
    Booted,
    Exited(u8),
    Signal(u8),
    OutputClosed(io::Error),
}

/// Waits until the command has ended or `deadline` has passed. QEMU has ended
/// when this returns.
pub(crate) fn follow(mut machine: Machine, deadline: Instant, verbose: bool) -> Result<Report> {
    let (events, inbox) = mpsc::channel();
    let console = Console::new(verbose);
    let mut readers = vec![
        console.keep(machine.console.try_clone()?),
        pass_on(machine.out.try_clone()?, io::stdout(), events.clone()),
        pass_on(machine.err.try_clone()?, io::stderr(), events.clone()),
        read_status(machine.status.try_clone()?, events.clone()),
    ];
    if let Some(complaints) = machine.qemu.stderr.take() {
        readers.push(console.keep(complaints));
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("watching for signals")?;
    let watching = signals.handle();
    let watcher = thread::spawn(move || {
        for signal in signals.forever() {
            // The receiver is gone only when everything has ended anyway.
            let _ = events.send(Event::Signal(signal as u8));
        }
    });

    let mut booted = None;
    let mut outcome = loop {
        match inbox.recv_timeout(GLANCE) {
            Ok(Event::Booted) => booted = Some(Instant::now()),
            Ok(Event::Exited(status)) => break Outcome::Exited(status),
            Ok(Event::Signal(signal)) => break Outcome::Signal(signal),
            Ok(Event::OutputClosed(error)) => break Outcome::OutputClosed(error),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                if let Some(status) = machine.qemu.try_wait().context("asking after QEMU")? {
                    break Outcome::Died(status);
                }
            }
        }
        if Instant::now() >= deadline {
            break Outcome::TimedOut;
        }
    };
    // QEMU's end closes the lines, and with them the readers end.
    drop(machine);
    watching.close();
    for reader in readers.into_iter().chain([watcher]) {
        // A reader that panicked has said so on stderr.
        let _ = reader.join();
    }
    // QEMU may have ended between the guest's last words and our reading them.
    for event in inbox.try_iter() {
        match event {
            Event::Exited(status) if matches!(outcome, Outcome::Died(_)) => {
                outcome = Outcome::Exited(status);
            }
            Event::Booted => booted = Some(Instant::now()),
            _ => {}
        }
    }
    Ok(Report { outcome, booted, console: console.text() })
}

/// Copies what the guest prints, as it comes.
fn pass_on(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    events: Sender<Event>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        // An error of reading is the end of the line, as QEMU's death is.
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let written = to.write_all(buffer.get(..count).unwrap_or_default());
            if let Err(error) = written.and_then(|()| to.flush()) {
                // The receiver is gone only when everything has ended anyway.
                let _ = events.send(Event::OutputClosed(error));
                return;
            }
        }
    })
}

/// Reads the guest's own reports: `up`, then `exit STATUS`.
fn read_status(from: impl Read + Send + 'static, events: Sender<Event>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let event = if line == "up" {
                Event::Booted
            } else if let Some(status) = exit_status(&line) {
                Event::Exited(status)
            } else {
                eprintln!("vm: the guest reported {line:?}, which is not known");
                continue;
            };
            if events.send(event).is_err() {
                return;
            }
        }
    })
}

fn exit_status(line: &str) -> Option<u8> {
    line.strip_prefix("exit ")?.parse().ok()
}

/// The last lines of the guest's console, shared by those who read them.
#[derive(Clone)]
struct Console {
    lines: Arc<Mutex<VecDeque<String>>>,
    verbose: bool,
}

impl Console {
    fn new(verbose: bool) -> Self {
        Self { lines: Arc::default(), verbose }
    }

    fn keep(&self, from: impl Read + Send + 'static) -> JoinHandle<()> {
        let console = self.clone();
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while let Ok(1..) = from.read_until(b'\n', &mut line) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if text.ends_with(HUB_WARNING) {
                    continue;
                }
                if console.verbose {
                    eprintln!("{text}");
                }
                console.push(text);
            }
        })
    }

    fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == CONSOLE_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_reports_its_exit_status() {
        assert_eq!(exit_status("exit 0"), Some(0));
        assert_eq!(exit_status("exit 255"), Some(255));
        assert_eq!(exit_status("exit 256"), None);
        assert_eq!(exit_status("up"), None);
    }

    #[test]
    fn the_console_keeps_its_last_lines() {
        let console = Console::new(false);
        let text = (0..100).map(|number| format!("line {number}\r\n"));
        let text = text.collect::<String>();
        console.keep(io::Cursor::new(text)).join().unwrap();
        let kept = console.text();
        assert_eq!(kept.lines().count(), CONSOLE_LINES);
        assert_eq!(kept.lines().last(), Some("line 99"));
    }
}
