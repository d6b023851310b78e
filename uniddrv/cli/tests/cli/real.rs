//! The command against `uniddrv core` itself, with the real NVMe driver and a software device, each
//! in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{read, uniddrv};

const DEVICE: &str = "model:nvme?size=16M";

/// The folder with the program `uniddrv-nvme`, built like this test.
fn drivers() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let program = Path::new(env!("CARGO_BIN_EXE_uniddrv"));
        let folder = program.parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "storage-poll", "--bin", "uniddrv-nvme"]);
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
        assert!(built.success() && folder.join("uniddrv-nvme").exists());
        folder.to_owned()
    })
}

/// `uniddrv core` with one device.
struct Core {
    process: Child,
    folder: tempfile::TempDir,
}

impl Core {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("core.toml");
        let socket = folder.path().join("core.sock");
        let (socket, drivers) = (socket.display(), drivers().display());
        let text = format!("[core]\nsocket = \"{socket}\"\ndrivers = \"{drivers}\"\n");
        std::fs::write(&file, text).unwrap();
        let mut command = uniddrv();
        command.args(["core", "--config"]).arg(&file).arg(DEVICE).stdout(Stdio::piped());
        command.env("UNIDDRV_LOG", "error");
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // Its names come after that line.
        let ready = lines.map_while(Result::ok).any(|line| line.contains("nvme:0/ns1"));
        assert!(ready, "the core did not get ready: {:?}", process.try_wait());
        Self { process, folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = uniddrv();
        command.env("UNIDDRV_CORE", self.folder.path().join("core.sock")).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        read(&self.command(arguments).output().unwrap())
    }

    fn json(&self, arguments: &[&str]) -> (i32, Value, String) {
        let (status, stdout, stderr) = self.run(&[arguments, &["--json"]].concat());
        let value = serde_json::from_str(&stdout).unwrap_or_else(|error| {
            panic!("{arguments:?}: {error} in {stdout:?}, which came with {stderr:?}")
        });
        (status, value, stderr)
    }

    fn status(&self) -> Value {
        let (status, mut value, stderr) = self.json(&["status", "nvme:0"]);
        assert_eq!(status, 0, "{stderr}");
        value[0].take()
    }

    /// Waits until `done` says so of the driver's status.
    fn until(&self, done: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + Duration::from_mins(1);
        loop {
            let status = self.status();
            if done(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if let Ok(Some(_)) = self.process.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        assert!(std::thread::panicking(), "the core did not end");
    }
}

#[test]
fn names_are_listed_identified_and_measured() {
    let core = Core::new();
    let (status, value, _) = core.json(&["ls"]);
    assert_eq!(status, 0);
    let names: Vec<_> =
        value.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["disk:0", "nvme:0", "nvme:0/ns1"]);
    assert_eq!(value[2]["target"]["size"], 16 << 20);

    for name in ["nvme:0", "disk:0"] {
        let (status, value, stderr) = core.json(&["identify", name]);
        assert_eq!(status, 0, "{stderr}");
        assert_eq!(value["namespaces"][0]["blocks"], 32 << 10, "{name}");
        assert!(value["controller"]["model"].as_str().unwrap().contains("NVMe"), "{name}");
    }

    for cores in ["1", "2"] {
        let arguments = ["--rw", "randrw", "--verify", "--overwrite", "--ios", "3000", "--cores"];
        let (status, value, stderr) =
            core.json(&[&["bench", "nvme:0"], &arguments[..], &[cores]].concat());
        assert_eq!(status, 0, "{stderr}");
        assert_eq!((&value["target"], &value["ios"]), (&"nvme:0/ns1".into(), &3000.into()));
        assert_eq!((&value["served"], &value["mismatches"]), (&true.into(), &0.into()));
    }
    let status = core.status();
    assert!(status["ios"].as_u64().unwrap() >= 6000 && status["errors"] == 0, "{status}");
    assert!(status["latency_ns"]["p50"].as_u64() > Some(0), "{status}");
}

#[test]
fn a_driver_is_tortured_and_nothing_is_lost() {
    let core = Core::new();
    let (status, value, stderr) = core.json(&[
        "torture",
        "nvme:0",
        "--yes",
        "--seconds",
        "6",
        "--kills-per-second",
        "4",
        "--size",
        "4M",
        "--harm",
        "kill=4,fault=2,abort=2,hang=1,scramble=1",
    ]);
    assert_eq!(status, 0, "{stderr}\n{value:#}");
    for key in ["lost", "duplicated", "corrupted"] {
        assert_eq!(value[key], 0, "{value:#}");
    }
    let number = |key: &str| value[key].as_u64().unwrap();
    assert!(number("kills") >= 5 && number("adoptions") > 0, "{value:#}");
    assert!(number("ios") > 0 && number("verified") > 8192, "{value:#}");
    let gap = value["gap_ns"]["p50"].as_u64().unwrap();
    assert!(value["gap_ns"]["count"] == 0 || gap > 10_000, "{value:#}");
    let status = core.status();
    // Not as many as kills: one that was killed while it took over is a kill more, and no restart;
    // on a machine that is busy enough, one may be found hanging that nobody harmed.
    let [restarts, adoptions, resets] =
        ["restarts", "adoptions", "resets"].map(|key| status[key].as_u64().unwrap());
    assert_eq!(restarts, adoptions + resets, "{status:#}");
    assert_eq!(restarts, number("adoptions") + number("resets"), "{status:#}\n{value:#}");
    assert!(restarts * 2 > number("kills"), "{status:#}\n{value:#}");
}

#[test]
fn a_running_driver_is_replaced() {
    let core = Core::new();
    let before = core.until(|status| status["warm"] == true)["pid"].as_i64();
    let (status, value, stderr) = core.json(&["restart", "nvme:0/ns1"]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(value["previous_pid"].as_i64(), before);
    assert_ne!(value["pid"].as_i64(), before);
    assert_eq!(value["succession"]["recovery"], "adopted", "{value}");
    let program = drivers().join("uniddrv-nvme");
    let copy = core.folder.path().join("next");
    std::fs::copy(program, &copy).unwrap();
    let (status, value, stderr) =
        core.json(&["upgrade", "nvme:0", "--program", copy.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(value["succession"]["cause"], "upgrade", "{value}");
    let status = core.status();
    assert_eq!((&status["adoptions"], &status["resets"]), (&2.into(), &0.into()), "{status:#}");
    let (status, _, stderr) = core.run(&["upgrade", "nvme:0", "--program", "/dev/null"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("/dev/null"), "{stderr}");
}

#[test]
fn a_name_that_is_revoked_ends_whoever_holds_it() {
    let core = Core::new();
    let mut command = core.command(&["bench", "nvme:0/ns1", "--time", "60"]);
    let bench = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = core.until(|status| status["holders"][0]["ios"].as_u64() > Some(0));
    let holder = &status["holders"][0];
    assert_eq!(holder["pid"].as_u64(), Some(bench.id().into()), "{status}");
    let client = holder["client"].to_string();
    let (code, stdout, stderr) = core.run(&["revoke", "nvme:0/ns1", "--client", &client]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stdout, format!("nvme:0/ns1 was taken from client {client}\n"));
    let (code, _, stderr) = read(&bench.wait_with_output().unwrap());
    assert_eq!(code, 1);
    assert!(stderr.contains("gone") && stderr.contains("help: "), "{stderr}");
    // The driver may still be letting go of it.
    core.until(|status| status["holders"].as_array().is_some_and(Vec::is_empty));
    let (code, _, stderr) = core.run(&["revoke", "nvme:0/ns1", "--client", "9999"]);
    assert!(code == 1 && stderr.contains("9999"), "{stderr}");
}

#[test]
fn a_software_device_comes_and_goes() {
    let core = Core::new();
    let address = "model:nvme?size=8M&serial=SECOND";
    let (status, value, stderr) = core.json(&["bind", address]);
    assert_eq!(status, 0, "{stderr}");
    let names = serde_json::json!(["disk:1", "nvme:1", "nvme:1/ns1"]);
    assert_eq!(value[0]["names"], names);
    let (status, value, _) = core.json(&["identify", "nvme:1"]);
    assert_eq!((status, &value["controller"]["serial"]), (0, &"SECOND".into()));
    let (status, stdout, stderr) = core.run(&["unbind", address]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(stdout, format!("the core has let go of {address}\n"));
    let (status, _, stderr) = core.run(&["identify", "nvme:1"]);
    assert!(status == 1 && stderr.contains("nvme:1"), "{stderr}");
    let (status, _, stderr) = core.run(&["bind", "model:nvme?size=0"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("model:nvme?size=0"), "{stderr}");
}
