//! `list`, `bind`, `unbind` and `doctor` on a machine made of plain files.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Machine, NIC, NVME, read};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn list_prints_a_table_and_json() {
    let machine = Machine::new();
    machine.write("proc/self/mountinfo", "30 1 259:0 / /data rw - ext4 /dev/nvme0n1 rw\n");
    let (status, stdout, stderr) = machine.run(&["list"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> =
        stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0][0], "ADDRESS");
    assert_eq!(lines[1][..7], [NVME, "1b36:0010", "NVMe", "nvme", "7", "-", "nvme0"]);
    assert!(stdout.contains("nvme0n1 is mounted at /data"));
    let (_, all, _) = machine.run(&["list", "--all"]);
    assert!(all.contains("Host bridge"));

    let (status, stdout, _) = machine.run(&["list", "--json"]);
    assert_eq!(status, 0);
    let devices = json(&stdout);
    let device = &devices[0];
    assert_eq!(device["address"], NVME);
    assert_eq!(device["vendor"], "0x1b36");
    assert_eq!(device["class_name"], "NVMe");
    assert_eq!(device["driver"], "nvme");
    assert_eq!(device["iommu_group"], 7);
    assert_eq!(device["numa_node"], Value::Null);
    assert_eq!(device["names"], serde_json::json!(["nvme0", "nvme0n1"]));
    assert_eq!(device["in_use"], true);
    assert_eq!(device["taken"], false);
    assert_eq!(devices[1]["iommu_group"], Value::Null);
}

#[test]
fn a_machine_without_pci_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let (status, stdout, stderr) = crate::support::run(&["--root", root, "list", "--json"]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("error: cannot read "), "{stderr}");
}

#[test]
fn what_cannot_be_bound_says_why_and_what_helps() {
    let machine = Machine::new();
    machine.write("proc/swaps", "Filename\n/dev/nvme0n1 partition 1 0 -2\n");
    for (device, error, help) in [
        ("0000:7f:00.0", "there is no PCI device 0000:7f:00.0", "uniddrv list"),
        ("nvme9n1", "no device named `nvme9n1`", "uniddrv list"),
        ("0000:00:00.0", "is a Host bridge", "uniddrv list"),
        ("nvme0n1", "0000:03:00.0 is in use: nvme0n1 is swap space", "--force"),
        ("eth0", "0000:04:00.0 is in no IOMMU group", "uniddrv doctor"),
        ("model:nvme?size=1G", "cannot bind model:nvme?size=1G: it is a software", "identify"),
        ("vfio-user:/run/x.sock", "cannot bind vfio-user:/run/x.sock", "identify"),
    ] {
        let (status, stdout, stderr) = machine.run(&["bind", device]);
        assert_eq!((status, stdout.as_str()), (1, ""), "{device}");
        let mut lines = stderr.lines();
        let first = lines.next().unwrap();
        assert!(first.starts_with("error: ") && first.contains(error), "{stderr}");
        let second = lines.next().unwrap();
        assert!(second.starts_with("help: ") && second.contains(help), "{stderr}");
        assert_eq!(lines.next(), None);
    }
    assert!(!machine.path("run").exists(), "a check changed something");
}

#[test]
fn a_dry_run_prints_the_steps_and_changes_nothing() {
    let machine = Machine::new();
    let (status, stdout, _) = machine.run(&["bind", "nvme0", "--dry-run", "--persist"]);
    assert_eq!(status, 0);
    assert_eq!(stdout.lines().count(), 4);
    assert!(
        stdout.starts_with("echo vfio-pci > /sys/bus/pci/devices/0000:03:00.0/driver_override")
    );
    let (_, stdout, _) = machine.run(&["bind", "nvme0", "--dry-run", "--json"]);
    assert_eq!(json(&stdout).as_array().unwrap().len(), 3);
    assert!(!machine.path("run").exists());
    assert!(!machine.path("etc").exists());
}

#[test]
fn a_kernel_that_does_not_hand_the_device_over_leaves_it_where_it_was() {
    // Plain files do not react: after the writes nvme still has the device.
    let machine = Machine::new();
    let (status, _, stderr) = machine.run(&["bind", NVME]);
    assert_eq!(status, 1);
    assert!(stderr.contains("should now be with the driver vfio-pci and is with nvme"), "{stderr}");
    assert_eq!(machine.driver(NVME).as_deref(), Some("nvme"));
    assert!(!machine.path("run/uniddrv/0000:03:00.0.toml").exists());
}

#[test]
fn binding_what_is_bound_is_no_error() {
    let machine = Machine::new();
    machine.set_driver(NVME, "vfio-pci");
    let (status, stdout, _) = machine.run(&["bind", NVME]);
    assert_eq!(status, 0);
    assert_eq!(stdout, "0000:03:00.0 is bound to vfio-pci already (/dev/vfio/7)\n");
    let (_, stdout, _) = machine.run(&["bind", NVME, "--json"]);
    assert_eq!(json(&stdout)[0]["already"], true);
}

#[test]
fn unbind_refuses_what_is_not_bound_or_held() {
    let machine = Machine::new();
    let (status, _, stderr) = machine.run(&["unbind", NIC]);
    assert_eq!(status, 1);
    assert!(stderr.contains("is not bound to vfio-pci: the driver e1000e has it"), "{stderr}");
    let (status, _, stderr) = machine.run(&["unbind", "model:nvme"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("cannot unbind model:nvme"), "{stderr}");
    machine.set_driver(NVME, "vfio-pci");
    machine.write("proc/4000000/comm", "spdk\n");
    fs::create_dir_all(machine.path("proc/4000000/fd")).unwrap();
    std::os::unix::fs::symlink("/dev/vfio/7", machine.path("proc/4000000/fd/5")).unwrap();
    let (status, _, stderr) = machine.run(&["unbind", NVME]);
    assert_eq!(status, 1);
    assert!(stderr.contains("in use through /dev/vfio/7 by spdk (process 4000000)"), "{stderr}");
}

#[test]
fn a_device_that_is_gone_is_forgotten() {
    let machine = Machine::new();
    let record = "run/uniddrv/0000:7f:00.0.toml";
    machine.write(record, "vendor = \"0x1b36\"\ndevice = \"0x0010\"\n");
    let (status, stdout, _) = machine.run(&["unbind", "0000:7f:00.0", "--json"]);
    assert_eq!(status, 0);
    assert_eq!(json(&stdout)["present"], false);
    assert!(!machine.path(record).exists());
}

#[test]
fn doctor_reports_and_fails_only_when_asked_to_check() {
    let machine = Machine::new();
    let (status, stdout, _) = machine.run(&["doctor"]);
    assert_eq!(status, 0);
    assert!(stdout.contains("missing  /dev/vfio/vfio"), "{stdout}");
    let (status, stdout, stderr) = machine.run(&["doctor", "--json", "--check"]);
    assert_eq!(status, 1);
    assert!(stderr.starts_with("error: missing: /dev/vfio/vfio"), "{stderr}");
    let report = json(&stdout);
    assert_eq!(report["ready"], false);
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(checks[0]["name"], "IOMMU");
    assert_eq!(checks[0]["state"], "ok");
    for check in checks {
        assert_eq!(check["state"] == "ok", check["mend"].is_null(), "{check}");
    }
    machine.write("dev/vfio/vfio", "");
    machine.write("proc/self/limits", "Max locked memory unlimited unlimited bytes\n");
    let (status, stdout, _) = machine.run(&["doctor", "--json", "--check"]);
    assert_eq!(status, 0);
    assert_eq!(json(&stdout)["ready"], true);
}

/// A bind that hangs in the kernel: the driver's `unbind` is a pipe that nobody
/// reads, so that writing it waits.
struct Hanging {
    machine: Machine,
    child: Child,
}

impl Hanging {
    fn new() -> Self {
        let machine = Machine::new();
        let unbind = machine.path("sys/bus/pci/drivers/nvme/unbind");
        fs::remove_file(&unbind).unwrap();
        assert!(Command::new("mkfifo").arg(&unbind).status().unwrap().success());
        // Until the look at whether the file can be written, which opens it
        // too, is over.
        machine.write("run/uniddrv/lock", "");
        let lock = fs::File::options().write(true).open(machine.path("run/uniddrv/lock")).unwrap();
        lock.lock().unwrap();
        let child = machine
            .command(&["bind", NVME])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(fs::File::open(&unbind).unwrap());
        drop(lock);
        let hanging = Self { machine, child };
        let deadline = Instant::now() + Duration::from_mins(1);
        while !hanging.overridden() {
            assert!(Instant::now() < deadline, "bind does not get to unbind");
            std::thread::sleep(Duration::from_millis(5));
        }
        hanging
    }

    fn overridden(&self) -> bool {
        let path = self.machine.path(&format!("sys/bus/pci/devices/{NVME}/driver_override"));
        fs::read_to_string(path).unwrap().starts_with("vfio-pci")
    }

    fn signal(&self, name: &str) {
        let process = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &process]).status().unwrap().success());
    }

    /// The kernel goes on.
    fn go_on(self) -> (Machine, std::process::Output) {
        let unbind = self.machine.path("sys/bus/pci/drivers/nvme/unbind");
        let reader = std::thread::spawn(move || fs::read_to_string(unbind).unwrap());
        let output = self.child.wait_with_output().unwrap();
        assert_eq!(reader.join().unwrap(), NVME);
        (self.machine, output)
    }
}

#[test]
fn ctrl_c_during_bind_puts_everything_back() {
    for signal in ["INT", "TERM", "HUP"] {
        let hanging = Hanging::new();
        hanging.signal(signal);
        let (machine, output) = hanging.go_on();
        let (status, _, stderr) = read(&output);
        assert_eq!(status, 1);
        assert_eq!(stderr, "error: interrupted: 0000:03:00.0 is as it was\n");
        assert_eq!(machine.driver(NVME).as_deref(), Some("nvme"));
        assert!(!machine.path("run/uniddrv/0000:03:00.0.toml").exists());
    }
}

#[test]
fn a_bind_that_was_killed_is_mended_by_unbind() {
    let mut hanging = Hanging::new();
    hanging.signal("KILL");
    hanging.child.wait().unwrap();
    let machine = &hanging.machine;
    let record = machine.path("run/uniddrv/0000:03:00.0.toml");
    assert!(record.exists());
    let (status, stdout, stderr) = machine.run(&["unbind", NVME]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(stdout, "0000:03:00.0 is with the driver nvme again\n");
    assert!(!record.exists());
    assert!(!hanging.overridden());
}
