//! A core in a process of its own, with the real driver on a model.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use tempfile::TempDir;
use uniddrv::client::{Core, DriverStatus};
use uniddrv_tests::programs;
use uniddrv_tests::wait::{PATIENCE, until};

/// Bytes of each of the two namespaces.
pub(crate) const SIZE: u64 = 32 << 20;

/// A folder with a configuration and programs that every user may execute.
pub(crate) struct Setup {
    pub(crate) folder: TempDir,
    device: String,
    rest: String,
    limit: Option<String>,
}

impl Setup {
    /// One device, driven by the program `driver` of this package's.
    pub(crate) fn new(driver: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut setup = Self { folder, device: String::new(), rest: String::new(), limit: None };
        let program = setup.program(driver);
        setup.device = format!(
            "address = \"model:nvme?namespaces=2&size={SIZE}\"\nname = \"nvme:0\"\n\
             driver = \"{}\"\n",
            program.display()
        );
        setup
    }

    /// The driver of this project.
    pub(crate) fn nvme() -> Self {
        Self::new(env!("CARGO_BIN_EXE_nvme_driver"))
    }

    /// Adds a line on the device.
    pub(crate) fn device(mut self, line: &str) -> Self {
        self.device += line;
        self.device.push('\n');
        self
    }

    /// Adds lines at the end.
    pub(crate) fn rest(mut self, lines: &str) -> Self {
        self.rest += lines;
        self.rest.push('\n');
        self
    }

    /// Has the core run under limits that a shell sets: `ulimit -n 300`.
    pub(crate) fn limit(mut self, script: &str) -> Self {
        self.limit = Some(script.into());
        self
    }

    /// A copy of a program where other users find it.
    pub(crate) fn program(&self, program: &str) -> PathBuf {
        let name = Path::new(program).file_name().unwrap();
        let copy = self.folder.path().join(name);
        if !copy.exists() {
            programs::copy(program, &copy);
        }
        copy
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("core.sock")
    }

    /// Starts a core.
    pub(crate) fn start(self) -> Host {
        let config = self.folder.path().join("core.toml");
        let spin = if self.device.contains("spin") { "" } else { "spin = \"100us\"" };
        let text = format!(
            "[core]\nsocket = \"{}\"\nhuge_pages = false\n[[device]]\n{}\n{spin}\n{}\n",
            self.socket().display(),
            self.device,
            self.rest
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("/bin/sh");
        let limit = self.limit.as_deref().unwrap_or(":");
        command.arg("-c").arg(format!("{limit}; exec \"$0\" \"$@\""));
        command.arg(env!("CARGO_BIN_EXE_core_host")).arg("run").arg(&config);
        // What it warns of is meant.
        let level = std::env::var("CORE_LOG").unwrap_or_else(|_| "error".into());
        let mut process = command.env("CORE_LOG", level).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Host { setup: self, process, lines }
    }

    /// Starts a core and waits until it has brought its device up.
    pub(crate) fn run(self) -> Host {
        let host = self.start();
        host.ready();
        host
    }
}

/// A core that runs. Killed at the end.
pub(crate) struct Host {
    pub(crate) setup: Setup,
    process: Child,
    lines: Receiver<String>,
}

impl Host {
    /// Waits until it is ready: the names that there are.
    pub(crate) fn ready(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE).expect("the core gets ready");
        line.strip_prefix("ready").unwrap().trim().to_owned()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.setup.socket()
    }

    /// A connection, as soon as there is a core.
    pub(crate) fn core(&self) -> Core {
        until("there is no core", || Core::connect_to(self.socket()).ok())
    }

    pub(crate) fn connect(&self) -> Core {
        Core::connect_to(self.socket()).unwrap()
    }

    /// The core's process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The model's process, which the core has started.
    pub(crate) fn model(&self) -> u32 {
        let parent = format!("--parent\0{}\0", self.pid());
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut models = processes.filter_map(|entry| {
            let command = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            command.contains(&parent).then(|| entry.file_name().to_str()?.parse().ok())?
        });
        models.next().expect("there is a model")
    }

    /// How many file descriptors the core has.
    pub(crate) fn files(&self) -> usize {
        uniddrv_tests::files::of_core(self.pid())
    }

    /// Waits until the core has no more file descriptors than it had once.
    pub(crate) fn has_files(&self, before: usize) {
        until("file descriptors are left", || (self.files() <= before).then_some(()));
    }

    /// The state of the only driver, once there is a successor for it.
    pub(crate) fn driver(&self) -> DriverStatus {
        let core = self.connect();
        until("no driver is ready to take over", || {
            let status = core.status("").unwrap().pop().unwrap();
            (status.state == "running" && status.warm).then_some(status)
        })
    }

    /// The driver is the process `before.pid` still, and none has died.
    pub(crate) fn same_driver(&self, before: &DriverStatus) {
        let after = self.driver();
        assert_eq!(
            (after.pid, after.restarts, after.resets),
            (before.pid, before.restarts, before.resets),
            "{:?}",
            after.deaths
        );
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
