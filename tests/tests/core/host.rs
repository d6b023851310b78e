//! A core in a process of its own, and driver programs that behave as tests want.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use uniddrv::client::{Core, Death, DriverStatus};

/// Longer than anything here takes on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A folder with a configuration and driver programs.
pub(crate) struct Setup {
    pub(crate) folder: TempDir,
    pub(crate) device: String,
    pub(crate) core: String,
    pub(crate) rest: String,
}

impl Setup {
    /// One device, whose driver is the fake one and behaves so.
    pub(crate) fn new(behaviour: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Clients of other users come here too.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut setup =
            Self { folder, device: String::new(), core: String::new(), rest: String::new() };
        let program = setup.program("driver", behaviour);
        write!(
            setup.device,
            "address = \"model:nvme?size=1M\"\nname = \"nvme:0\"\ndriver = \"{}\"\n",
            program.display()
        )
        .unwrap();
        setup
    }

    /// Adds a line on the device.
    pub(crate) fn device(mut self, line: &str) -> Self {
        self.device += line;
        self.device.push('\n');
        self
    }

    /// Adds a line at the end.
    pub(crate) fn rest(mut self, line: &str) -> Self {
        self.rest += line;
        self.rest.push('\n');
        self
    }

    /// A copy of the fake driver that behaves so.
    pub(crate) fn program(&self, name: &str, behaviour: &str) -> PathBuf {
        let mut bytes = fs::read(env!("CARGO_BIN_EXE_fake_driver")).unwrap();
        let marker = b"FAKE-BEHAVIOUR: honest";
        let place = bytes.windows(marker.len()).position(|window| window == marker).unwrap();
        let text = format!("{behaviour:<47}");
        bytes[place + 16..place + 63].copy_from_slice(text.as_bytes());
        let path = self.folder.path().join(name);
        // Never change a program that may be being read.
        let fresh = self.folder.path().join(format!("{name}.new"));
        fs::write(&fresh, bytes).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&fresh, &path).unwrap();
        path
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("core.sock")
    }

    fn write_config(&self) -> PathBuf {
        let path = self.folder.path().join("core.toml");
        let socket = self.socket();
        let text = format!(
            "[core]\nsocket = \"{}\"\nhuge_pages = false\n{}\n[[device]]\n{}\n{}\n",
            socket.display(),
            self.core,
            self.device,
            self.rest
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// Starts a core.
    pub(crate) fn start(self) -> Host {
        Host::start(self, &mut core_host())
    }
}

/// The program that is a core, a client or a model.
pub(crate) fn core_host() -> Command {
    Command::new(env!("CARGO_BIN_EXE_core_host"))
}

/// A core that runs. Killed at the end.
pub(crate) struct Host {
    pub(crate) setup: Setup,
    pub(crate) process: Child,
    lines: Receiver<String>,
}

impl Host {
    pub(crate) fn start(setup: Setup, command: &mut Command) -> Self {
        let config = setup.write_config();
        let mut process = command.arg("run").arg(config).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { setup, process, lines }
    }

    /// Waits until it is ready: the names that there are.
    pub(crate) fn ready(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE).expect("the core gets ready");
        line.strip_prefix("ready").unwrap().trim().to_owned()
    }

    pub(crate) fn connect(&self) -> Core {
        connect(&self.setup.socket())
    }

    /// How many file descriptors it has.
    pub(crate) fn files(&self) -> usize {
        uniddrv_tests::files::of_core(self.process.id())
    }

    /// Nanoseconds of CPU time and voluntary context switches of all its threads.
    pub(crate) fn activity(&self) -> (u64, u64) {
        let (mut time, mut switches) = (0, 0);
        for task in fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap() {
            let task = task.unwrap().path();
            let stat = fs::read_to_string(task.join("schedstat")).unwrap();
            time += stat.split_whitespace().next().unwrap().parse::<u64>().unwrap();
            let status = fs::read_to_string(task.join("status")).unwrap();
            let line =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            switches += line.unwrap().trim().parse::<u64>().unwrap();
        }
        (time, switches)
    }

    /// Ends it as SIGTERM does.
    pub(crate) fn terminate(mut self) -> (ExitStatus, Setup) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = wait(&mut self.process);
        let setup = std::mem::replace(&mut self.setup, Setup::new("honest"));
        (status, setup)
    }

    /// Kills it.
    pub(crate) fn kill(mut self) -> Setup {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::mem::replace(&mut self.setup, Setup::new("honest"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn connect(socket: &Path) -> Core {
    let end = Instant::now() + PATIENCE;
    loop {
        match Core::connect_to(socket) {
            Ok(core) => return core,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for a process to end.
pub(crate) fn wait(process: &mut Child) -> ExitStatus {
    until(|| process.try_wait().unwrap())
}

/// Waits until there is something.
pub(crate) fn until<T>(mut there: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(it) = there() {
            return it;
        }
        assert!(Instant::now() < end, "it takes too long");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The status of the only driver.
pub(crate) fn status(core: &Core) -> DriverStatus {
    core.status("").unwrap().pop().unwrap()
}

/// Waits until the driver is in `state` and has died `deaths` times. The last death.
pub(crate) fn after_death(core: &Core, deaths: usize, state: &str) -> Death {
    until(|| {
        let mut status = status(core);
        let there = status.deaths.len() >= deaths && status.state == state;
        there.then(|| status.deaths.pop()).flatten()
    })
}
