//! `uniddrv bench --compare native` on QEMU's NVMe devices, with Linux's driver
//! and fio, and the command with a core that drives them. These tests run
//! inside the virtual machine: `cargo xtask test` has cargo start this program
//! there. On any other machine each of them says that it was skipped, since
//! they write to drives.

mod served;

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write, stderr};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The controller that keeps data: namespace 1 has blocks of 512 bytes, namespace 2 of 4096.
const DATA: &str = "0000:00:10.0";
/// The one that keeps nothing.
const NULL: &str = "0000:00:11.0";

/// The guest's devices, for one test at a time; nothing outside of it.
fn guest() -> Option<MutexGuard<'static, ()>> {
    static DEVICES: Mutex<()> = Mutex::new(());
    let skip = |why: &str| {
        // Not by a macro, whose words the test harness would keep to itself.
        stderr().write_all(format!("skipped, {why}\n").as_bytes()).unwrap();
    };
    if env::var_os("UNIDDRV_VM").is_none() {
        skip("outside the virtual machine: use `cargo xtask test`");
        return None;
    }
    if Command::new("fio").arg("--version").output().is_err() {
        skip("without fio: apt-get install fio");
        return None;
    }
    Some(DEVICES.lock().unwrap_or_else(PoisonError::into_inner))
}

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uniddrv"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Exit status, standard output, standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    read(&start(arguments).wait_with_output().unwrap())
}

fn read(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn driver(address: &str) -> Option<String> {
    let link = fs::read_link(format!("/sys/bus/pci/devices/{address}/driver")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits until Linux's driver has lost the device.
fn await_taken(address: &str) {
    let begin = Instant::now();
    while driver(address).as_deref() != Some("vfio-pci") {
        assert!(begin.elapsed() < Duration::from_mins(2), "{address} was never taken");
        thread::sleep(Duration::from_millis(20));
    }
    // To be in the midst of the measurement, not of the start.
    thread::sleep(Duration::from_millis(1500));
}

/// Linux's driver has the device, and it works.
fn assert_with_linux(address: &str) {
    assert_eq!(driver(address).as_deref(), Some("nvme"));
    let path = disk(address, 1);
    let mut block = [0; 4096];
    File::open(&path).unwrap().read_exact(&mut block).unwrap();
    let forced = format!("/sys/bus/pci/devices/{address}/driver_override");
    assert_eq!(fs::read_to_string(forced).unwrap().trim(), "(null)");
}

/// Linux's node of a namespace; it takes a moment to appear.
fn disk(address: &str, nsid: u32) -> String {
    let begin = Instant::now();
    loop {
        for entry in fs::read_dir("/sys/class/block").unwrap() {
            let entry = entry.unwrap();
            let ours = fs::read_link(entry.path())
                .is_ok_and(|link| link.to_string_lossy().contains(address));
            let id = fs::read_to_string(entry.path().join("nsid")).unwrap_or_default();
            let node = format!("/dev/{}", entry.file_name().to_string_lossy());
            if ours && id.trim() == nsid.to_string() && fs::exists(&node).unwrap() {
                return node;
            }
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "no disk of {address}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn both_drivers_are_measured_and_the_device_goes_back() {
    let Some(_turn) = guest() else { return };
    let node = disk(NULL, 1);
    let (status, stdout, stderr) =
        run(&["bench", &node, "--compare", "native", "--qd", "1,16", "--time", "1", "--json"]);
    assert_eq!(status, Some(0), "{stderr}");
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((value["target"].as_str(), value["transport"].as_str()), (Some(NULL), Some("vfio")));
    for result in value["results"].as_array().unwrap() {
        assert!(result["iops"].as_f64().unwrap() > 0.0);
        let engines: Vec<_> = result["native"].as_array().unwrap().iter().collect();
        assert_eq!(
            (&engines[0]["engine"], &engines[1]["engine"]),
            (&"io_uring".into(), &"libaio".into())
        );
        assert!(engines.iter().all(|engine| engine["iops"].as_f64().unwrap() > 0.0));
        assert!(engines.iter().all(|engine| engine["lat_ns"]["p50"].as_u64().unwrap() > 0));
    }
    assert_with_linux(NULL);
}

#[test]
fn nothing_is_written_unless_told() {
    let Some(_turn) = guest() else { return };
    let node = disk(DATA, 1);
    let mut start = vec![0u8; 4096];
    start[..4].copy_from_slice(b"XFSB");
    let mut file = File::options().write(true).open(&node).unwrap();
    file.write_all(&start).unwrap();
    file.sync_all().unwrap();
    drop(file);
    for extra in [&["--compare", "native"][..], &[]] {
        // The first is refused before the device is taken, the second after `bind`.
        if extra.is_empty() {
            assert_eq!(run(&["bind", DATA]).0, Some(0));
        }
        let arguments = [&["bench", DATA, "--rw", "randwrite", "--namespace", "1"], extra].concat();
        let (status, stdout, stderr) = run(&arguments);
        assert_eq!((status, stdout.as_str()), (Some(1), ""), "{stderr}");
        for part in ["QEMU NVMe Ctrl", "uniddrv-data", "1 GiB", "an XFS filesystem", "--overwrite"]
        {
            assert!(stderr.contains(part), "{part} is missing in {stderr}");
        }
    }
    assert_eq!(run(&["unbind", DATA]).0, Some(0));
    let mut found = vec![0; 4096];
    File::open(disk(DATA, 1)).unwrap().read_exact(&mut found).unwrap();
    assert!(found == start, "the disk was written to");
    assert_with_linux(DATA);
}

#[test]
fn data_is_verified_on_each_block_size() {
    let Some(_turn) = guest() else { return };
    assert_eq!(run(&["bind", DATA]).0, Some(0));
    for nsid in ["1", "2"] {
        let (status, stdout, stderr) = run(&[
            "bench",
            DATA,
            "--namespace",
            nsid,
            "--rw",
            "randrw",
            "--bs",
            "16k",
            "--verify",
            "--overwrite",
            "--size",
            "32M",
            "--ios",
            "3000",
            "--cores",
            "2",
            "--qd",
            "8",
            "--json",
        ]);
        assert_eq!(status, Some(0), "{stderr}");
        let value: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((value["ios"].as_u64(), value["mismatches"].as_u64()), (Some(3000), Some(0)));
        assert!(value["verified"].as_u64().unwrap() > 0);
    }
    assert_eq!(run(&["unbind", DATA]).0, Some(0));
    assert_with_linux(DATA);
}

#[test]
fn ctrl_c_gives_the_device_back() {
    let Some(_turn) = guest() else { return };
    let arguments = ["bench", NULL, "--compare", "native", "--time", "4", "--json"];
    // While fio runs: the device was not taken yet.
    let bench = start(&arguments);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(driver(NULL).as_deref(), Some("nvme"));
    signal(&bench, Signal::INT);
    let (status, stdout, stderr) = read(&bench.wait_with_output().unwrap());
    assert_eq!((status, stdout.as_str()), (Some(130), ""), "{stderr}");
    assert!(stderr.contains("as it was"), "{stderr}");
    assert_with_linux(NULL);

    // While our driver runs.
    let bench = start(&arguments);
    await_taken(NULL);
    signal(&bench, Signal::INT);
    let (status, stdout, stderr) = read(&bench.wait_with_output().unwrap());
    assert_eq!(status, Some(130), "{stderr}");
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(value["interrupted"], true);
    assert!(value["ios"].as_u64().unwrap() > 0);
    assert_with_linux(NULL);
}

#[test]
fn after_a_kill_unbind_gives_the_device_back() {
    let Some(_turn) = guest() else { return };
    let bench = start(&["bench", NULL, "--compare", "native", "--time", "3"]);
    await_taken(NULL);
    signal(&bench, Signal::KILL);
    assert_eq!(read(&bench.wait_with_output().unwrap()).0, None);
    assert_eq!(driver(NULL).as_deref(), Some("vfio-pci"));
    let (status, _, stderr) = run(&["unbind", NULL]);
    assert_eq!(status, Some(0), "{stderr}");
    assert_with_linux(NULL);
}
