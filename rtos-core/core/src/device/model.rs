//! A model as a process of its own: `uniddrv model serve ADDRESS`, over vfio-user.
//!
//! It ends with the worker's thread that started it (PR_SET_PDEATHSIG, which the process asks
//! for itself), so with the device, and with the core however that ends. What it holds in RAM
//! ends with it: only `backing=file:PATH` survives a model that dies. It offers its CPU to
//! others when it has nothing to do.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};
use uniddrv::address::ModelAddress;
use uniddrv::transport::TransportError;

use super::{DeviceId, Settings};

/// How much of what a model said last is told, in bytes.
const LAST_WORDS: u64 = 2048;

/// A model's process, running or not. Killed when dropped.
#[derive(Debug)]
pub(super) struct ModelProcess {
    address: String,
    socket: PathBuf,
    program: PathBuf,
    cpu: Option<u32>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    // What it writes to standard error. Memory: a pipe that nobody reads would stop it.
    errors: File,
    // Whether it was connected to: it can do what it was asked to.
    served: bool,
    // Attempts to connect since then that failed although it listens.
    failures: u32,
}

impl ModelProcess {
    pub(super) fn new(id: DeviceId, address: &ModelAddress, settings: &Settings) -> Self {
        Self {
            address: address.to_string(),
            socket: settings.runtime.join(format!("model-{}.sock", id.0)),
            program: settings.program.clone(),
            cpu: settings.model_cpu,
            running: None,
        }
    }

    /// Where it listens, once it does.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends it.
    pub(super) fn kill(&mut self) {
        self.running = None;
    }

    /// Starts it, unless it runs.
    ///
    /// # Errors
    /// `Unsupported` for one that ended by itself before anybody was connected to it.
    pub(super) fn run(&mut self) -> Result<(), TransportError> {
        self.look()?;
        if self.running.is_none() {
            let running = self.start().map_err(|error| self.error("start the model", error))?;
            self.running = Some(running);
        }
        Ok(())
    }

    /// Looks whether it has ended.
    fn look(&mut self) -> Result<(), TransportError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let status = match running.child.try_wait() {
            Ok(None) => return Ok(()),
            Ok(Some(status)) => status,
            Err(error) => return Err(self.error("ask after the model", error)),
        };
        let (said, served) = (running.last_words(), running.served);
        self.running = None;
        let text = format!("the process of {} ended ({status}): {said}", self.address);
        // One that somebody killed is started again.
        if !served && status.code().is_some() {
            return Err(TransportError::Unsupported(text));
        }
        tracing::warn!("{text}");
        Ok(())
    }

    fn start(&self) -> io::Result<Running> {
        let errors = File::from(memfd_create("model-errors", MemfdFlags::CLOEXEC)?);
        let mut command = Command::new(&self.program);
        command.args(["model", "serve", &self.address, "--yield", "--parent"]);
        command.arg(std::process::id().to_string()).arg("--socket").arg(&self.socket);
        if let Some(cpu) = self.cpu {
            command.arg("--cpu").arg(cpu.to_string());
        }
        let child = command
            // Ctrl-C at the core's terminal is for the core to heed.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors.try_clone()?)
            .spawn()?;
        tracing::info!(address = self.address, process = child.id(), "model started");
        Ok(Running { child, errors, served: false, failures: 0 })
    }

    /// Somebody is connected to it.
    pub(super) fn is_served(&mut self) {
        if let Some(running) = &mut self.running {
            running.served = true;
            running.failures = 0;
        }
    }

    /// What is behind it that nobody could connect, which is `error` where it is nothing else.
    /// A model that listens but does not answer, twice in a row, is killed.
    pub(super) fn explain(&mut self, error: TransportError) -> TransportError {
        if let Err(end) = self.look() {
            return end;
        }
        let starts = matches!(&error, TransportError::Io { error, .. }
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused));
        if let Some(running) = self.running.as_mut().filter(|_| !starts) {
            running.failures += 1;
            if running.failures > 1 {
                tracing::warn!(address = self.address, %error, "the model is killed");
                self.kill();
            }
        }
        error
    }

    fn error(&self, action: &str, error: io::Error) -> TransportError {
        let program = self.program.display();
        TransportError::io(format!("{action} {} with {program}", self.address), error)
    }
}

impl Running {
    /// The end of what it wrote to standard error.
    fn last_words(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self
            .errors
            .seek(SeekFrom::End(0))
            .and_then(|len| self.errors.seek(SeekFrom::Start(len.saturating_sub(LAST_WORDS))))
            .and_then(|_| self.errors.read_to_end(&mut bytes));
        match read {
            Ok(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
            Err(error) => format!("(what it said cannot be read: {error})"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where this fails.
        if self.child.kill().is_ok()
            && let Err(error) = self.child.wait()
        {
            tracing::warn!(%error, process = self.child.id(), "the end of a model was not seen");
        }
    }
}

impl Drop for ModelProcess {
    fn drop(&mut self) {
        self.running = None;
        if let Err(error) = std::fs::remove_file(&self.socket)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, socket = %self.socket.display(), "a model's socket stays");
        }
    }
}
