//! `identify`, `smart`, `bench` and `model` on software devices.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Machine, NIC, NVME, read, run, uniddrv};

const DEVICE: &str = "model:nvme?size=16M";

/// Exit status, JSON and standard error.
fn json(arguments: &[&str]) -> (i32, Value, String) {
    let (status, stdout, stderr) = run(&[arguments, &["--json"]].concat());
    let value = serde_json::from_str(&stdout).unwrap_or_else(|error| {
        panic!("{arguments:?}: {error} in {stdout:?}, which came with {stderr:?}")
    });
    (status, value, stderr)
}

/// `uniddrv model` in a process of its own.
struct Served {
    process: Child,
    folder: tempfile::TempDir,
}

impl Served {
    fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = uniddrv();
        command.arg("model").args(arguments).arg("--socket").arg(folder.path().join("socket"));
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("vfio-user:"), "{line}");
        Self { process, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn address(&self) -> String {
        format!("vfio-user:{}", self.socket().display())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have been killed by the test.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn interrupt(process: &Child) {
    kill_process(Pid::from_child(process), Signal::INT).unwrap();
}

/// Starts `uniddrv` and gives it time to get to work.
fn start(arguments: &[&str]) -> Child {
    let mut command = uniddrv();
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    child
}

#[test]
fn a_controller_is_identified() {
    let (status, value, _) = json(&["identify", "model:nvme?namespaces=512:16M,4096:8M"]);
    assert_eq!((status, value["transport"].as_str()), (0, Some("inline")));
    let namespaces = value["namespaces"].as_array().unwrap();
    assert_eq!(namespaces.len(), 2);
    assert_eq!(namespaces[0]["size"], 16 << 20);
    assert_eq!(
        (&namespaces[1]["block_size"], &namespaces[1]["blocks"]),
        (&4096.into(), &2048.into())
    );
    let (_, text, _) = run(&["identify", DEVICE]);
    for word in ["model", "serial", "largest transfer", "NSID", "16 MiB"] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
}

#[test]
fn health_errors_and_firmware_are_shown() {
    let (status, value, _) = json(&["smart", DEVICE]);
    assert_eq!(status, 0);
    assert!(value["health"]["temperature_celsius"].is_i64(), "{value}");
    assert!(value["errors"].is_array());
    assert_eq!(value["firmware"]["active_slot"], 1);
    let (_, text, _) = run(&["smart", DEVICE]);
    assert!(text.contains("available spare") && text.contains("firmware slot 1"), "{text}");
}

#[test]
fn one_measurement_is_one_object() {
    let (status, value, stderr) =
        json(&["bench", DEVICE, "--rw", "randread", "--bs", "4k", "--qd", "4", "--ios", "2000"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!((value["target"].as_str(), value["qd"].as_u64()), (Some(DEVICE), Some(4)));
    assert_eq!((value["ios"].as_u64(), value["reads"].as_u64()), (Some(2000), Some(2000)));
    for key in ["transport", "rw", "bs", "cores", "seconds", "iops", "mib_s"] {
        assert!(!value[key].is_null(), "{key} is missing in {value}");
    }
    let lat = &value["lat_ns"];
    let keys = ["min", "p50", "p90", "p99", "p999", "p9999", "max"];
    let lat: Vec<u64> = keys.iter().map(|key| lat[key].as_u64().unwrap()).collect();
    assert!(lat[0] > 0 && lat.is_sorted(), "{lat:?}");
}

#[test]
fn several_depths_are_an_array_and_a_report_has_it_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    let report = path.to_str().unwrap();
    let (status, value, _) =
        json(&["bench", DEVICE, "--qd", "1,8", "--ios", "500", "--report", report]);
    assert_eq!(status, 0);
    let depths: Vec<_> = value["results"].as_array().unwrap().iter().map(|r| &r["qd"]).collect();
    assert_eq!(depths, [1, 8]);
    let page = std::fs::read_to_string(&path).unwrap();
    for part in ["<svg", "QD 8", "Requests a second", "Kernel", "--ios 500"] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    assert!(!page.contains("<script") && !page.contains("src="));
}

#[test]
fn every_workload_is_verified() {
    for rw in ["randread", "randwrite", "randrw", "read", "write"] {
        for cores in ["1", "2"] {
            let (status, value, stderr) = json(&[
                "bench", DEVICE, "--rw", rw, "--verify", "--ios", "5000", "--bs", "8k", "--cores",
                cores,
            ]);
            assert_eq!(status, 0, "{rw}: {stderr}");
            assert_eq!(
                (value["mismatches"].as_u64(), value["ios"].as_u64()),
                (Some(0), Some(5000))
            );
            assert!(value["verified"].as_u64().unwrap() >= 10_000, "{rw}: {value}");
        }
    }
}

#[test]
fn a_device_that_fails_is_an_error_with_the_figures() {
    let device = "model:nvme?size=16M&fault=seed=3,status=0.01:0x281";
    let (status, value, stderr) = json(&["bench", device, "--ios", "5000"]);
    assert_eq!(status, 1);
    assert!(
        stderr.contains("Unrecovered Read Error") && stderr.contains("--keep-going"),
        "{stderr}"
    );
    assert!(value["errors"].as_u64().unwrap() >= 1 && value["ios"].as_u64().unwrap() < 5000);
    let (status, value, stderr) = json(&["bench", device, "--ios", "5000", "--keep-going"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let (ios, errors) = (value["ios"].as_u64().unwrap(), value["errors"].as_u64().unwrap());
    assert_eq!(ios + errors, 5000);
    assert!((10..200).contains(&errors), "{errors}");
}

#[test]
fn lost_completions_end_in_an_error_not_in_a_hang() {
    let device = "model:nvme?size=16M&fault=drop=1,after=1000";
    let begin = Instant::now();
    let (status, _, stderr) = json(&["bench", device, "--time", "60", "--timeout", "1"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("failed"), "{stderr}");
    assert!(begin.elapsed() < Duration::from_secs(50));
}

#[test]
fn arguments_that_do_not_fit_change_nothing() {
    for (arguments, status, says) in [
        (&["--rw", "sideways"][..], 2, "randread"),
        (&["--qd", "0"], 2, "--qd 0"),
        (&["--qd", "1,0"], 2, "--qd 0"),
        (&["--qd", "many"], 2, "many"),
        (&["--qd", "100000"], 1, "--qd 100000"),
        (&["--cores", "0"], 2, "--cores 0"),
        (&["--cores", "65"], 1, "granted 64"),
        (&["--cores", "70000"], 2, "65,535"),
        (&["--cpus", "4000"], 2, "`4000`"),
        (&["--cpus", "1000"], 2, "not there"),
        (&["--cpus", "x"], 2, "`x`"),
        (&["--bs", "0"], 2, "--bs 0"),
        (&["--bs", "1000"], 1, "512"),
        (&["--bs", "64M"], 1, "128 KiB"),
        (&["--bs", "4q"], 2, "`q`"),
        (&["--time", "0"], 2, "--time 0"),
        (&["--time", "-1"], 2, "-1"),
        (&["--time", "NaN"], 2, "NaN"),
        (&["--time", "1e30"], 2, "year"),
        (&["--ios", "0"], 2, "--ios 0"),
        (&["--timeout", "0"], 2, "--timeout 0"),
        (&["--size", "1k"], 1, "--size 1 KiB"),
        (&["--size", "1T"], 1, "16 MiB"),
        (&["--namespace", "9"], 1, "namespace 9"),
        (&["--namespace", "0"], 1, "namespace 0"),
        (&["--report", "/"], 1, "folder"),
        (&["--report", "/no/such/folder/report.html"], 1, "no such folder"),
        (&["--compare", "native"], 2, "nvme0n1"),
        (&["--verify", "--size", "64k", "--qd", "32"], 1, "128 KiB"),
    ] {
        let arguments = [&["bench", DEVICE], arguments].concat();
        let (found, stdout, stderr) = run(&arguments);
        assert_eq!((found, stdout.as_str()), (status, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
}

#[test]
fn addresses_that_lead_nowhere_say_why() {
    for command in ["bench", "identify", "smart"] {
        for (address, status, says) in [
            ("", 2, "empty"),
            ("FOO:bar", 2, "FOO:bar"),
            ("model:toaster", 1, "toaster"),
            ("model:nvme?size=1X", 1, "size"),
            ("model:edu", 1, "no device for this driver"),
            ("vfio-user:/no/such/socket", 1, "no such socket"),
            ("vhost-user:/no/such/socket", 1, "virtio"),
            ("model:nvme?fault=never-ready&ready-timeout=500", 1, "CSTS.RDY"),
        ] {
            let (found, stdout, stderr) = run(&[command, address]);
            assert_eq!((found, stdout.as_str()), (status, ""), "{command} {address}: {stderr}");
            assert!(stderr.contains(says), "{command} {address}: {stderr}");
        }
    }
}

#[test]
fn devices_of_linux_are_refused_with_what_to_do() {
    let machine = Machine::new();
    for (arguments, says) in [
        (&["bench", NVME][..], "uniddrv bind"),
        (&["identify", "nvme0n1"], "uniddrv bind"),
        (&["smart", NIC], "no NVMe controller: Ethernet"),
        (&["bench", "0000:55:00.0"], "no PCI device"),
        (&["bench", "nvme7n1"], "nvme7n1"),
        (&["bench", NIC, "--compare", "native"], "e1000e"),
    ] {
        let (status, stdout, stderr) = machine.run(arguments);
        assert_eq!((status, stdout.as_str()), (1, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
    assert_eq!(machine.driver(NVME).as_deref(), Some("nvme"));
}

#[test]
fn comparing_without_fio_names_the_package() {
    let machine = Machine::new();
    let mut command = machine.command(&["bench", "nvme0n1", "--compare", "native"]);
    let (status, _, stderr) = read(&command.env("PATH", "/no/such/folder").output().unwrap());
    assert_eq!(status, 1);
    assert!(stderr.contains("apt-get install fio"), "{stderr}");
}

#[test]
fn writing_to_linux_disk_names_what_would_be_lost() {
    // A program that is enough of fio to be found.
    let machine = Machine::new();
    let bin = machine.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink("/bin/true", bin.join("fio")).unwrap();
    machine.write("sys/class/block/nvme0n1/size", "131072\n");
    machine.write("sys/class/block/nvme0n1/nsid", "1\n");
    machine.write("sys/class/block/nvme0n1/device/model", "Fast 9\n");
    machine.write("sys/class/block/nvme0n1/device/serial", "S9\n");
    machine.write("dev/nvme0n1", "XFSB and more");
    let mut command =
        machine.command(&["bench", "nvme0n1", "--compare", "native", "--rw", "write"]);
    let (status, stdout, stderr) = read(&command.env("PATH", &bin).output().unwrap());
    assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
    for part in ["Fast 9", "serial S9", "64 MiB", "an XFS filesystem", "--overwrite"] {
        assert!(stderr.contains(part), "{part} is missing in {stderr}");
    }
    assert_eq!(machine.driver(NVME).as_deref(), Some("nvme"));
}

#[test]
fn files_and_served_devices_are_not_overwritten_unless_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let mut disk = vec![0; 1 << 20];
    disk[..4].copy_from_slice(b"XFSB");
    std::fs::write(&path, &disk).unwrap();
    let device = format!("model:nvme?backing=file:{}", path.display());
    for extra in [&["--rw", "randwrite"][..], &["--rw", "randrw"], &["--verify"]] {
        let (status, _, stderr) = run(&[&["bench", &device, "--ios", "100"], extra].concat());
        assert_eq!(status, 1, "{extra:?}");
        for part in ["would destroy", "serial", "1 MiB", "an XFS filesystem", "--overwrite"] {
            assert!(stderr.contains(part), "{extra:?}: {part} is missing in {stderr}");
        }
        assert!(std::fs::read(&path).unwrap() == disk, "{extra:?} changed the file");
    }
    let (status, _, stderr) =
        run(&["bench", &device, "--rw", "write", "--verify", "--overwrite", "--ios", "300"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(std::fs::read(&path).unwrap() != disk);

    let missing = folder.path().join("missing");
    let device = format!("model:nvme?backing=file:{}&size=1M", missing.display());
    let (status, _, stderr) = run(&["bench", &device, "--rw", "write", "--ios", "10"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("does not exist yet"), "{stderr}");
    assert!(!missing.exists(), "a refusal made a file");

    let served = Served::new(&["nvme", "--size", "16M"]);
    let (status, _, stderr) = run(&["bench", &served.address(), "--rw", "write", "--ios", "10"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("would destroy"), "{stderr}");
    let (status, _, stderr) = run(&["bench", "model:nvme?backing=null", "--verify"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("throws away"), "{stderr}");
}

#[test]
fn ctrl_c_prints_what_was_measured_and_leaves_the_device_in_order() {
    let served = Served::new(&["nvme", "--size", "16M"]);
    let address = served.address();
    let bench = start(&["bench", &address, "--time", "60", "--json", "--qd", "4"]);
    interrupt(&bench);
    let (status, stdout, stderr) = read(&bench.wait_with_output().unwrap());
    assert_eq!(status, 130, "{stderr}");
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(value["interrupted"], true);
    assert!(value["ios"].as_u64().unwrap() > 0);
    let (status, _, stderr) = json(&["bench", &address, "--ios", "100"]);
    assert_eq!(status, 0, "{stderr}");
}

#[test]
fn a_server_that_dies_ends_the_benchmark() {
    let mut served = Served::new(&["nvme", "--size", "16M"]);
    let bench = start(&["bench", &served.address(), "--time", "60", "--keep-going"]);
    served.process.kill().unwrap();
    let begin = Instant::now();
    let (status, _, stderr) = read(&bench.wait_with_output().unwrap());
    assert_eq!(status, 1);
    assert!(stderr.contains("the device is gone"), "{stderr}");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_model_is_served_until_it_is_interrupted() {
    let mut served = Served::new(&["nvme", "--namespaces", "4096:16M,512:8M", "--serial", "S-7"]);
    let (status, value, _) = json(&["identify", &served.address()]);
    assert_eq!((status, value["transport"].as_str()), (0, Some("vfio-user")));
    assert_eq!(value["controller"]["serial"], "S-7");
    assert_eq!(value["namespaces"].as_array().unwrap().len(), 2);
    let second =
        uniddrv().args(["model", "nvme", "--socket"]).arg(served.socket()).output().unwrap();
    let (status, _, stderr) = read(&second);
    assert_eq!(status, 1);
    assert!(stderr.contains("served already"), "{stderr}");
    interrupt(&served.process);
    assert!(served.process.wait().unwrap().success());
    assert!(!served.socket().exists());
}

#[test]
fn models_that_cannot_be_say_why() {
    let socket = |folder: &Path| folder.join("socket").to_str().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let socket = socket(folder.path());
    for (arguments, status, says) in [
        (&["nvme"][..], 2, "--socket"),
        (&["toaster", "--socket", &socket], 2, "toaster"),
        (&["nvme", "--socket", &socket, "--size", "1X"], 2, "1X"),
        (&["nvme", "--socket", &socket, "--namespaces", "0"], 2, "namespaces"),
        (&["nvme", "--socket", &socket, "--backing", "tape"], 2, "ram, null or file:PATH"),
        (&["nvme", "--socket", &socket, "--fault", "x"], 2, "drop"),
        (&["nvme", "--socket", &socket, "--backing", "file:/no/such/file"], 1, "/no/such/file"),
        (&["nvme", "--socket", &socket, "--cpu", "100000"], 1, "--cpu 100000"),
        (&["edu", "--socket", &socket, "--fault", "x"], 2, "dma"),
        (&["edu", "--socket", "/no/such/folder/socket"], 1, "/no/such/folder"),
    ] {
        let (found, stdout, stderr) = run(&[&["model"], arguments].concat());
        assert_eq!((found, stdout.as_str()), (status, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
    assert!(!Path::new(&socket).exists());
    // A file stands where the socket should be.
    std::fs::write(&socket, "precious").unwrap();
    let (status, _, stderr) = run(&["model", "edu", "--socket", &socket]);
    assert_eq!(status, 1);
    assert!(stderr.contains("no socket"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}

#[test]
fn nothing_but_the_object_goes_to_standard_output() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uniddrv"));
    command.args(["bench", DEVICE, "--ios", "100", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(text.starts_with('{') && text.trim_end().ends_with('}'));
    assert!(!text.contains('\u{1b}'));
}
