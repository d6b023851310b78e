//! The core's partition on Linux's own control groups and interrupts.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use uniddrv_core::cpus::{Cpu, Cpus};
use uniddrv_core::partition::{Kind, Partition, Shortfall, Wants, held};

use super::{eventually, guest};

/// Tells the process that it is to be a core which gets killed, and where its record is.
const VICTIM: &str = "UNIDDRV_PARTITION_VICTIM";

/// A process that stands for a driver.
struct Driver(Child);

impl Driver {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cpu(number: u32) -> Cpu {
    Cpu::new(number).unwrap()
}

fn take(record: &Path, cpus: &str) -> (Partition, Vec<Shortfall>) {
    let wants = Wants { cpus: cpus.parse().unwrap(), ..Wants::default() };
    Partition::take(Path::new("/"), record, &wants)
}

/// What the partition changes: affinities by file, and the CPUs of a fresh process.
fn machine() -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir("/proc/irq").unwrap().flatten() {
        for path in [entry.path().join("smp_affinity_list"), entry.path()] {
            if path.is_file() {
                files.insert(path.clone(), fs::read_to_string(path).unwrap());
            }
        }
    }
    for file in ["cpuset.cpus.effective", "cgroup.subtree_control"] {
        let path = Path::new("/sys/fs/cgroup").join(file);
        files.insert(path.clone(), fs::read_to_string(path).unwrap_or_default());
    }
    files.insert("a process".into(), allowed(Driver::start().id()).to_string());
    files
}

/// The CPUs that a process may use.
fn allowed(process: u32) -> Cpus {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_cpu_is_isolated_and_given_back() {
    let Some(_guest) = guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("partition");
    let before = machine();
    let (mut partition, shortfalls) = take(&record, "1");
    assert_eq!(partition.kind(), Kind::Isolated, "{shortfalls:?}");
    assert_eq!(held(Path::new("/")).to_string(), "1");

    let stranger = Driver::start();
    assert_eq!(allowed(stranger.id()).to_string(), "0");
    assert!(cpu(1).pin(Some(stranger.id())).is_err(), "Linux keeps others away");
    let driver = Driver::start();
    partition.place(driver.id(), cpu(1)).unwrap();
    assert_eq!(allowed(driver.id()).to_string(), "1");

    let default = fs::read_to_string("/proc/irq/default_smp_affinity").unwrap();
    assert_eq!(Cpus::from_mask(&default).unwrap().to_string(), "0");
    let said: Vec<_> = shortfalls.iter().map(|shortfall| shortfall.what.as_str()).collect();
    for entry in fs::read_dir("/proc/irq").unwrap().flatten() {
        let used = fs::read_dir(entry.path())
            .is_ok_and(|mut files| files.any(|file| file.unwrap().path().is_dir()));
        let list = fs::read_to_string(entry.path().join("effective_affinity_list"));
        let name = entry.file_name().into_string().unwrap();
        if used && let Ok(list) = list {
            let stays = said.iter().any(|what| what.split([' ', ',']).any(|word| word == name));
            assert!(stays || list.trim() != "1", "interrupt {name} is on CPU {list}: {said:?}");
        }
    }

    partition.set_polling(true).unwrap();
    partition.set_polling(false).unwrap();
    drop(driver);
    drop(partition);
    assert_eq!(machine(), before);
    assert!(!record.exists());
}

#[test]
fn all_cpus_cannot_be_had() {
    let Some(_guest) = guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let before = machine();
    let (partition, shortfalls) = take(&folder.path().join("partition"), &online);
    assert_eq!(partition.kind(), Kind::Affinity);
    assert!(shortfalls[0].why.contains("invalid"), "Linux's own reason: {shortfalls:?}");
    assert!(shortfalls[0].mend.contains("leave Linux a CPU"), "{shortfalls:?}");
    drop(partition);
    assert_eq!(machine(), before);
}

#[test]
fn what_a_killed_core_leaves_is_put_back_by_the_next() {
    if let Some(record) = env::var_os(VICTIM) {
        let (mut partition, _) = take(Path::new(&record), "1");
        let driver = Driver::start();
        partition.place(driver.id(), cpu(1)).unwrap();
        fs::write(Path::new(&record).with_extension("ready"), "").unwrap();
        thread::sleep(Duration::from_mins(10));
        panic!("was not killed");
    }
    let Some(_guest) = guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let before = machine();
    let mut core = Command::new(env::current_exe().unwrap())
        .args(["--exact", "partition::what_a_killed_core_leaves_is_put_back_by_the_next"])
        .env(VICTIM, &record)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("partition of the other core", || {
        record.with_extension("ready").exists().then_some(())
    });
    assert_ne!(machine(), before);
    core.kill().unwrap();
    core.wait().unwrap();
    assert_eq!(held(Path::new("/")).to_string(), "1", "nobody has put it back yet");

    let (partition, shortfalls) = take(&record, "1");
    assert_eq!(partition.kind(), Kind::Isolated, "{shortfalls:?}");
    let groups: Vec<_> = fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.starts_with("uniddrv-"))
        .collect();
    assert_eq!(groups, [format!("uniddrv-{}", std::process::id())]);
    drop(partition);
    assert_eq!(machine(), before);
}
