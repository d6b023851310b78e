//! The programs that a task runs: waited for, and ended when the task ends.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How often a running program is looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// How long a program that was asked to end may take before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The task was asked to end before it was done.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Whether somebody wants this task to end: Ctrl-C, for one.
#[derive(Clone)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on the signals that end a program only set the flag.
    pub(crate) fn watch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("watching signals")?;
        }
        Ok(Self(flag))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once the flag is set.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() {
            return Err(Interrupted.into());
        }
        Ok(())
    }
}

/// A program that ends with the task, however the task ends.
pub(crate) struct Running(Child);

impl Running {
    /// Starts `command`.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self(child))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Its stdout, where that is a pipe and has not been taken.
    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.0.stdout.take()
    }

    /// How it ended, if it has.
    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("asking after a program")
    }

    fn wait(&mut self, stop: &Stop, mut glance: impl FnMut(u32)) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.ended()? {
                // What Ctrl-C has ended is no failure of its own.
                stop.check()?;
                return Ok(status);
            }
            if stop.is_set() {
                self.end();
            }
            glance(self.id());
            thread::sleep(GLANCE);
        }
    }

    /// Asks it to end, and makes it end where it does not.
    fn end(&mut self) {
        // The process is ours and not waited for yet: nobody else has its number. The call
        // fails only when it has ended.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(GLANCE);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

/// Waits for the first line that a program prints on its stdout, a pipe: it is ready then.
pub(crate) fn wait_for_word(running: &mut Running, stop: &Stop, patience: Duration) -> Result<()> {
    let stdout = running.stdout().context("the program has no stdout")?;
    let (word, heard) = mpsc::channel();
    thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        // Nobody waits for the word any more, or none came: both show below.
        if let Ok(1..) = stdout.read_line(&mut line) {
            let _ = word.send(());
        }
        // What else it prints has to go somewhere.
        let _ = io::copy(&mut stdout, &mut io::sink());
    });
    let started = Instant::now();
    loop {
        stop.check()?;
        match heard.recv_timeout(GLANCE) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => bail!("it ended before it was ready"),
            Err(RecvTimeoutError::Timeout) if started.elapsed() > patience => {
                bail!("it is not ready after {} s", patience.as_secs());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Runs `command` to its end, `glance` being called now and then with its process id.
///
/// When the task is to stop, so is the command, and that is an error.
pub(crate) fn to_end(
    command: &mut Command,
    stop: &Stop,
    glance: impl FnMut(u32),
) -> Result<ExitStatus> {
    stop.check()?;
    Running::start(command)?.wait(stop, glance)
}

/// What `command` prints on stdout. An exit status other than 0 is an error.
pub(crate) fn output(
    command: &mut Command,
    stop: &Stop,
    glance: impl FnMut(u32),
) -> Result<String> {
    stop.check()?;
    let mut running = Running::start(command.stdout(Stdio::piped()))?;
    let reader = running.stdout().map(read);
    let status = running.wait(stop, glance)?;
    let text = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    if !status.success() {
        bail!("{}: {status}", shown(command));
    }
    Ok(text)
}

fn read(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what there is.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// `command` as one would type it, the program without its folder.
pub(crate) fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut text = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        text.push(' ');
        if argument.contains([' ', '\'', '"', '$', '&', '?', '*', ';']) || argument.is_empty() {
            text.push('\'');
            text.push_str(&argument.replace('\'', "'\\''"));
            text.push('\'');
        } else {
            text.push_str(&argument);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(set: bool) -> Stop {
        Stop(Arc::new(AtomicBool::new(set)))
    }

    #[test]
    fn output_is_read_and_failure_is_an_error() {
        let text = output(Command::new("sh").args(["-c", "echo here"]), &stop(false), |_| {});
        assert_eq!(text.unwrap(), "here\n");
        let error = output(Command::new("sh").args(["-c", "exit 3"]), &stop(false), |_| {});
        assert!(error.unwrap_err().to_string().contains("sh -c 'exit 3': exit status: 3"));
    }

    #[test]
    fn a_stop_ends_what_runs() {
        let stop = stop(false);
        let mut glances = 0;
        let ended = to_end(Command::new("sleep").arg("60"), &stop, |_| {
            glances += 1;
            stop.0.store(true, Ordering::Relaxed);
        });
        assert_eq!(ended.unwrap_err().to_string(), "interrupted");
        assert!(glances >= 1);
        assert!(to_end(&mut Command::new("true"), &stop, |_| {}).is_err());
    }

    #[test]
    fn a_word_is_waited_for() {
        let script = |text: &str| {
            let mut command = Command::new("sh");
            Running::start(command.args(["-c", text]).stdout(Stdio::piped())).unwrap()
        };
        let wait = |text: &str, patience| {
            wait_for_word(&mut script(text), &stop(false), patience).map_err(|e| e.to_string())
        };
        let long = Duration::from_mins(1);
        assert_eq!(wait("echo ready; exec sleep 60", long), Ok(()));
        assert_eq!(wait("true", long), Err("it ended before it was ready".into()));
        assert_eq!(wait("exec sleep 60", Duration::ZERO), Err("it is not ready after 0 s".into()));
        assert!(wait_for_word(&mut script("exec sleep 60"), &stop(true), long).is_err());
    }

    #[test]
    fn what_is_dropped_ends() {
        let running = Running::start(Command::new("sleep").arg("60")).unwrap();
        let process = format!("/proc/{}", running.id());
        assert!(std::fs::exists(&process).unwrap());
        drop(running);
        assert!(!std::fs::exists(&process).unwrap());
    }
}
