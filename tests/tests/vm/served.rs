//! `uniddrv core` with the NVMe driver as a process of its own, on QEMU's controller through VFIO.
//! Linux's driver is the judge of what is on the drive, QEMU's trace of what was done to the
//! controller.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use uniddrv::client::{self, DriverStatus};

use super::{DATA, block_device, eventually};

mod cpus;
mod ends;
mod kills;
mod load;
mod stray;
mod users;

/// What QEMU writes down of its NVMe controllers.
const TRACE: &str = "/run/uniddrv-vm/trace/nvme";
/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A core in a process of its own. Killed at the end.
struct Core {
    process: Child,
    lines: Receiver<String>,
    folder: TempDir,
}

impl Core {
    /// Starts a core with these devices and this configuration, and waits until it is ready.
    fn start(devices: &[&str], config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("core.toml");
        fs::write(&path, config).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut process = Command::new(program("uniddrv"))
            .arg("core")
            .args(devices)
            .arg("--config")
            .arg(path)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let core = Self { process, lines, folder };
        let line = core.lines.recv_timeout(PATIENCE).expect("the core gets ready");
        assert!(line.starts_with("ready on "), "{line}");
        core
    }

    /// Ends it as Ctrl-C does.
    fn end(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.process), Signal::INT).unwrap();
        self.wait()
    }

    /// Kills it.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.wait();
    }

    fn wait(&mut self) -> ExitStatus {
        eventually("end of the core", || self.process.try_wait().unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("the core's log:\n{}", self.log());
        }
    }
}

/// A connection to the core, at the socket where everybody looks for it.
fn connect() -> client::Core {
    client::Core::connect().unwrap()
}

/// A program of this build.
fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build -p uniddrv-cli -p storage-poll",
        path.display()
    );
    path
}

/// Runs `uniddrv` and gives what it prints.
fn uniddrv(arguments: &[&str]) -> String {
    let output = Command::new(program("uniddrv")).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "uniddrv {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// What the core says of a driver.
fn status(core: &client::Core, name: &str) -> DriverStatus {
    core.status(name).unwrap().into_iter().next().expect("the core has the driver")
}

/// Lines of QEMU's trace so far: one for each write to Controller Configuration and each reset of
/// the function.
fn trace() -> usize {
    fs::read_to_string(TRACE).expect("QEMU's trace").lines().count()
}

/// What is in a namespace, as Linux reads it.
fn as_linux_reads(nsid: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open(block_device(DATA, nsid)).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
