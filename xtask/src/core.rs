//! `uniddrv core` with one device, for as long as a task needs it.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tempfile::TempDir;

use crate::run::{self, Running};
use crate::uniddrv::Uniddrv;

/// How long the core may take until its device can be opened.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is asked how it is.
const PAUSE: Duration = Duration::from_millis(100);
/// The environment variable that tells programs where a core listens.
const SOCKET: &str = "UNIDDRV_CORE";
/// What the core calls its device's first namespace.
pub(crate) const NAME: &str = "nvme:0/ns1";

/// A running core. It ends when this is dropped, and its drivers with it.
pub(crate) struct Core<'a> {
    process: Running,
    folder: TempDir,
    configuration: String,
    uniddrv: &'a Uniddrv,
}

/// What is to be run.
pub(crate) struct Plan<'a> {
    /// The device.
    pub(crate) address: &'a str,
    /// The driver's CPU; the core's choice without one.
    pub(crate) driver_cpu: Option<usize>,
    /// The CPU of the core; any without one.
    pub(crate) cpu: Option<usize>,
    /// Where it logs to.
    pub(crate) log: &'a Path,
}

/// What `uniddrv status --json` prints, as far as tasks use it.
#[derive(Deserialize)]
pub(crate) struct Status {
    /// The driver's process.
    pub(crate) pid: u32,
    asleep: bool,
    /// Whether a successor is ready to take over.
    warm: bool,
}

impl<'a> Core<'a> {
    /// Starts a core, and waits until its names can be opened.
    pub(crate) fn start(uniddrv: &'a Uniddrv, plan: &Plan<'_>) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("uniddrv-")
            .tempdir()
            .context("making a folder for the core's socket")?;
        let file = folder.path().join("core.toml");
        let configuration = configuration(plan, &socket(folder.path()));
        fs::write(&file, &configuration).with_context(|| format!("writing {}", file.display()))?;
        let mut command = uniddrv.command(&["core", "--config"]);
        command.arg(file).stdout(Stdio::piped()).stderr(log(plan.log)?);
        // Ctrl-C on the terminal is for this task; the core goes last.
        command.process_group(0);
        let mut process = Running::start(&mut command)?;
        run::wait_for_word(&mut process, uniddrv.stop(), PATIENCE).with_context(|| {
            format!("the core did not start; it says why in {}", plan.log.display())
        })?;
        Ok(Self { process, folder, configuration, uniddrv })
    }

    /// The core's process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The text of its configuration.
    pub(crate) fn configuration(&self) -> &str {
        &self.configuration
    }

    /// `uniddrv` with `arguments`, to talk to this core.
    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = self.uniddrv.command(arguments);
        command.env(SOCKET, socket(self.folder.path()));
        command
    }

    /// Says what is run, and runs it with its output on ours.
    pub(crate) fn show(&self, arguments: &[impl AsRef<OsStr>]) -> Result<()> {
        self.uniddrv.show_command(self.command(arguments))
    }

    /// What `uniddrv` with `arguments` prints.
    pub(crate) fn output(&self, arguments: &[impl AsRef<OsStr>]) -> Result<String> {
        run::output(&mut self.command(arguments), self.uniddrv.stop(), |_| {})
    }

    /// Waits until its driver sleeps, and a successor is ready to take over.
    pub(crate) fn settle(&self) -> Result<Status> {
        let started = Instant::now();
        loop {
            let text = self.output(&["status", "--json"])?;
            let all: Vec<Status> =
                serde_json::from_str(&text).context("reading the core's status")?;
            let status = all.into_iter().next().context("the core has no driver")?;
            if status.asleep && status.warm {
                return Ok(status);
            }
            if started.elapsed() > PATIENCE {
                bail!("after {} s the driver has no successor, or works", PATIENCE.as_secs());
            }
            thread::sleep(PAUSE);
        }
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("core.sock")
}

fn log(path: &Path) -> Result<File> {
    let opened: io::Result<File> = File::create(path);
    opened.with_context(|| format!("creating {}", path.display()))
}

/// The text of the core's configuration.
fn configuration(plan: &Plan<'_>, socket: &Path) -> String {
    let mut text = format!("[core]\nsocket = {:?}\n", socket.display().to_string());
    // Writing to a string cannot fail.
    if let Some(cpu) = plan.cpu {
        let _ = writeln!(text, "cpu = {cpu}");
    }
    let _ = write!(text, "\n[[device]]\naddress = {:?}\nname = \"nvme:0\"\n", plan.address);
    if let Some(cpu) = plan.driver_cpu {
        let _ = writeln!(text, "cpu = {cpu}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_what_is_planned() {
        let mut plan = Plan {
            address: "model:nvme?size=1G",
            driver_cpu: None,
            cpu: None,
            log: Path::new("log"),
        };
        let head = "[core]\nsocket = \"/t/core.sock\"\n";
        let device = "\n[[device]]\naddress = \"model:nvme?size=1G\"\nname = \"nvme:0\"\n";
        let text = |plan: &Plan<'_>| configuration(plan, Path::new("/t/core.sock"));
        assert_eq!(text(&plan), format!("{head}{device}"));
        (plan.driver_cpu, plan.cpu) = (Some(1), Some(0));
        assert_eq!(text(&plan), format!("{head}cpu = 0\n{device}cpu = 1\n"));
    }

    #[test]
    fn a_status_is_read() {
        let text = r#"[{"name": "nvme:0", "pid": 7, "asleep": true, "warm": false, "ios": 3}]"#;
        let all: Vec<Status> = serde_json::from_str(text).unwrap();
        assert_eq!((all[0].pid, all[0].asleep, all[0].warm), (7, true, false));
    }
}
