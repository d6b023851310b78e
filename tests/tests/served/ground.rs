//! A core in a process of its own, with the NVMe driver and the NVMe model, each in processes of
//! their own too.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use uniddrv::client::{BlockClient, Core, Death, DriverStatus, OpenOptions};
use uniddrv_tests::programs;

/// Longer than anything here takes on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// The device's name, and that of its first namespace.
pub(crate) const DEVICE: &str = "nvme:0";
pub(crate) const NAME: &str = "nvme:0/ns1";
/// The driver program: the NVMe driver, which can be told to die.
pub(crate) const DRIVER: &str = env!("CARGO_BIN_EXE_deadly_nvme");

/// Cores that poll at the same time would disturb each other's heartbeats.
static TURN: Mutex<()> = Mutex::new(());

/// What a core is to be started with.
pub(crate) struct Plan {
    folder: TempDir,
    address: String,
    driver: PathBuf,
    device: String,
    core: String,
    rest: String,
    user: Option<u32>,
    _turn: MutexGuard<'static, ()>,
}

impl Plan {
    /// An NVMe model with these parameters.
    pub(crate) fn new(parameters: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        // Processes of other users come here too.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let address = format!("model:nvme?{parameters}").replace("FOLDER", path(folder.path()));
        Self {
            folder,
            address,
            driver: DRIVER.into(),
            device: String::new(),
            core: String::new(),
            rest: String::new(),
            user: None,
            _turn: turn,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another device.
    pub(crate) fn address(mut self, address: String) -> Self {
        self.address = address;
        self
    }

    /// Another driver program.
    pub(crate) fn driver(mut self, driver: PathBuf) -> Self {
        self.driver = driver;
        self
    }

    /// A line on the device.
    pub(crate) fn device(mut self, line: &str) -> Self {
        self.device += line;
        self.device.push('\n');
        self
    }

    /// A line at the end.
    pub(crate) fn rest(mut self, line: &str) -> Self {
        self.rest += line;
        self.rest.push('\n');
        self
    }

    /// The core runs as this user.
    pub(crate) fn user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// Runs a core until it is ready.
    pub(crate) fn start(self) -> Ground {
        let host = Host::start(&self);
        let core = connect(&self.socket());
        Ground { host, core, plan: self }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder().join("core.sock")
    }

    fn log(&self) -> PathBuf {
        self.folder().join("core.log")
    }

    fn write_config(&self) -> PathBuf {
        let file = self.folder().join("core.toml");
        let Self { address, driver, device, core, rest, .. } = self;
        let (socket, driver) = (self.socket(), path(driver));
        let mut text = String::new();
        writeln!(text, "[core]\nsocket = \"{}\"\nhuge_pages = false\n{core}", path(&socket))
            .unwrap();
        writeln!(text, "[[device]]\naddress = \"{address}\"\nname = \"{DEVICE}\"").unwrap();
        writeln!(text, "driver = \"{driver}\"\n{device}\n{rest}").unwrap();
        fs::write(&file, text).unwrap();
        file
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The core's process. Killed at the end.
struct Host {
    process: Child,
    lines: Mutex<Receiver<String>>,
}

impl Host {
    fn start(plan: &Plan) -> Self {
        let config = plan.write_config();
        let log = File::options().create(true).append(true).open(plan.log()).unwrap();
        let mut program = PathBuf::from(env!("CARGO_BIN_EXE_core_host"));
        let mut command = Command::new(&program);
        if let Some(user) = plan.user {
            // Where the build is, others may not look.
            program = plan.folder().join("core_host");
            if !program.exists() {
                programs::copy(env!("CARGO_BIN_EXE_core_host"), &program);
            }
            command = Command::new(&program);
            command.uid(user).gid(user);
        }
        command.arg("run").arg(config).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { process, lines: Mutex::new(lines) }
    }

    fn ready(&self) -> String {
        let line = self.lines.lock().unwrap().recv_timeout(PATIENCE).expect("the core gets ready");
        line.strip_prefix("ready").unwrap().trim().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A core that runs, and a connection to it.
pub(crate) struct Ground {
    host: Host,
    pub(crate) core: Core,
    pub(crate) plan: Plan,
}

impl Ground {
    /// Waits until the devices run: the names that there are.
    pub(crate) fn ready(&self) -> String {
        self.host.ready()
    }

    /// Opens the first namespace over a connection of its own, with queues of `depth`.
    pub(crate) fn open(&self, queues: u8, depth: u32) -> (Core, BlockClient) {
        let core = connect(&self.plan.socket());
        let client = core.open(NAME, &options(queues, depth)).unwrap();
        (core, client)
    }

    pub(crate) fn status(&self) -> DriverStatus {
        self.core.status(DEVICE).unwrap().pop().unwrap()
    }

    /// Waits until there is a successor that is ready.
    pub(crate) fn warm(&self) -> DriverStatus {
        until(|| {
            let status = self.status();
            (status.warm && status.state == "running").then_some(status)
        })
    }

    /// Waits until the driver is in `state`.
    pub(crate) fn state(&self, state: &str) -> DriverStatus {
        until(|| {
            let status = self.status();
            (status.state == state).then_some(status)
        })
    }

    /// The core's process.
    pub(crate) fn pid(&self) -> u32 {
        self.host.process.id()
    }

    /// The processes that serve the core's models.
    pub(crate) fn models(&self) -> Vec<i32> {
        children(self.pid())
            .into_iter()
            .filter(|&pid| command_line(pid).contains("model"))
            .collect()
    }

    /// The driver processes: the one that runs, and others.
    pub(crate) fn drivers(&self) -> Vec<i32> {
        children(self.pid())
            .into_iter()
            .filter(|&pid| !command_line(pid).contains("model"))
            .collect()
    }

    /// File descriptors of the core, and shared memory that each process has mapped.
    pub(crate) fn footprint(&self) -> Vec<usize> {
        let core = self.pid().cast_signed();
        let files = uniddrv_tests::files::of_core(self.pid());
        let mapped = |pid: i32| {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            maps.lines().filter(|line| line.contains("memfd:")).count()
        };
        let mut all = vec![files, mapped(core)];
        all.extend(self.models().into_iter().map(mapped));
        let mut drivers: Vec<_> = self.drivers().into_iter().map(mapped).collect();
        drivers.sort_unstable();
        all.extend(drivers);
        all
    }

    /// Kills the core.
    pub(crate) fn kill_core(&mut self) {
        let _ = self.host.process.kill();
        let _ = self.host.process.wait();
    }

    /// Starts another core in place of one that has ended.
    pub(crate) fn start_again(&mut self) {
        self.host = Host::start(&self.plan);
        self.core = connect(&self.plan.socket());
    }

    /// What the core logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.plan.log()).unwrap_or_default()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = lines.len().saturating_sub(40);
            eprintln!("the core's log ends with\n{}", lines[last..].join("\n"));
        }
    }
}

/// How names are opened here: the CPU is shared with the driver and the device.
pub(crate) fn options(queues: u8, depth: u32) -> OpenOptions {
    OpenOptions { queues, depth, arena: 4 << 20, yield_when_idle: true, ..OpenOptions::default() }
}

/// Connects to a core, as soon as it listens.
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

/// The last death that was reported.
pub(crate) fn last_death(status: &DriverStatus) -> &Death {
    status.deaths.last().expect("a death")
}

/// Sends a signal from outside.
pub(crate) fn signal(pid: i32, signal: Signal) {
    // It may have ended by itself.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

/// Whether there is such a process; one that has ended and was not waited for is none.
pub(crate) fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(_, state)| state != 'Z')
}

fn children(parent: u32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| matches!(stat(pid), Some((of, state)) if of == parent && state != 'Z'))
        .collect()
}

/// The parent of a process and its state. proc_pid_stat(5).
fn stat(pid: i32) -> Option<(u32, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = text.rsplit_once(") ")?.1.split(' ');
    let state = rest.next()?.chars().next()?;
    Some((rest.next()?.parse().ok()?, state))
}

fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}
