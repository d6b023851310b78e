//! A software NVMe controller in a process of its own, for as long as a task needs it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity};
use tempfile::TempDir;

use crate::run::{self, Running};
use crate::uniddrv::{Uniddrv, announce};

/// How long the process may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// The CPUs of the model and of the driver: two where this process may use as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpus {
    pub(crate) model: usize,
    pub(crate) driver: usize,
}

impl Cpus {
    /// The last and the first that this process may use.
    pub(crate) fn choose() -> Result<Self> {
        let set = sched_getaffinity(None).context("asking which CPUs this process may use")?;
        let mut allowed = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu));
        let driver = allowed.next().context("this process may use no CPU")?;
        Ok(Self { model: allowed.next_back().unwrap_or(driver), driver })
    }

    pub(crate) fn are_shared(self) -> bool {
        self.model == self.driver
    }
}

/// A running model. It ends when this is dropped.
pub(crate) struct Model {
    process: Running,
    folder: TempDir,
}

impl Model {
    /// Starts `uniddrv model nvme` with `options`, and waits until it listens.
    pub(crate) fn start(uniddrv: &Uniddrv, cpus: Cpus, options: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("uniddrv-")
            .tempdir()
            .context("making a folder for the model's socket")?;
        let mut command = uniddrv.command(&["model", "nvme", "--socket"]);
        command.arg(folder.path().join(SOCKET)).args(["--cpu", &cpus.model.to_string()]);
        command.args(options).stdout(Stdio::piped());
        announce(&command)?;
        // Ctrl-C on the terminal is for this task and for the driver; the model goes last.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = Running::start(&mut command)?;
        run::wait_for_word(&mut process, uniddrv.stop(), PATIENCE).context("starting the model")?;
        Ok(Self { process, folder })
    }

    /// The address that a driver reaches it by.
    pub(crate) fn address(&self) -> String {
        format!("vfio-user:{}", self.socket().display())
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }
}

const SOCKET: &str = "nvme.sock";
