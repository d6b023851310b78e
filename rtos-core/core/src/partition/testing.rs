//! For tests: a tree that looks like a machine's, and a kernel that reacts to what is written to
//! it and can refuse, fail or end the core at any step.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::kernel::{Kernel, Linux};
use crate::cpus::{Cpu, Cpus};

/// A temporary folder with `sys`, `proc` and `dev` of a machine of four CPUs.
#[derive(Debug)]
pub(super) struct Tree {
    folder: tempfile::TempDir,
}

impl Tree {
    pub(super) fn new() -> Self {
        let tree = Self { folder: tempfile::tempdir().unwrap() };
        for (path, text) in [
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory\n"),
            ("sys/fs/cgroup/cgroup.subtree_control", "cpu memory\n"),
            ("sys/fs/cgroup/system.slice/cgroup.procs", "1\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "40\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "32\n"),
            ("proc/sys/kernel/random/boot_id", "11-22\n"),
            ("proc/sys/kernel/sched_rt_runtime_us", "950000\n"),
            ("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n"),
            ("proc/self/limits", "Max locked memory         8388608   8388608   bytes\n"),
            ("proc/irq/default_smp_affinity", "f\n"),
            // Nobody uses it, so it goes where the default says.
            ("proc/irq/3/smp_affinity_list", "0-3\n"),
            ("proc/77/comm", "bash\n"),
            ("run/folder", ""),
            ("dev/cpu_dma_latency", ""),
        ] {
            tree.write(path, text);
        }
        for (number, affinity) in [(1, "0-3"), (24, "2"), (25, "0"), (30, "1-2")] {
            tree.interrupt(number, affinity);
        }
        tree
    }

    pub(super) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The file of the state.
    pub(super) fn record(&self) -> PathBuf {
        self.root().join("run/core.sock.partition")
    }

    pub(super) fn interrupt(&self, number: u32, affinity: &str) {
        let folder = format!("proc/irq/{number}");
        self.write(&format!("{folder}/smp_affinity_list"), &format!("{affinity}\n"));
        fs::create_dir_all(self.root().join(folder).join("handler")).unwrap();
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        fs::remove_file(self.root().join(path)).unwrap();
    }

    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap().trim().to_owned()
    }

    pub(super) fn affinity(&self, number: u32) -> String {
        self.read(&format!("proc/irq/{number}/smp_affinity_list"))
    }

    /// Every file with what it holds, but for the device's.
    pub(super) fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.root().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    files.insert(path.clone(), String::new());
                    folders.push(path);
                } else if !path.ends_with("cpu_dma_latency") {
                    let text = fs::read_to_string(&path).unwrap();
                    let text = if path.ends_with("default_smp_affinity") {
                        Cpus::from_mask(&text).unwrap().to_string()
                    } else {
                        text.trim().to_owned()
                    };
                    files.insert(path, text);
                }
            }
        }
        files
    }
}

/// How the machine fails. Steps count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Never,
    /// This step is refused, and has no effect.
    At(usize),
    /// The core is killed before this step: nothing happens from here on.
    Killed(usize),
}

#[derive(Debug)]
struct Inner {
    fault: Fault,
    steps: usize,
    /// The kinds of partition that this kernel can make.
    kinds: Vec<&'static str>,
    /// Files that refuse to be written to.
    refused: Vec<&'static str>,
    pinned: Vec<(u32, u32)>,
}

/// A kernel that keeps its state in a [`Tree`].
#[derive(Clone, Debug)]
pub(super) struct Simulated(Arc<Mutex<Inner>>);

impl Simulated {
    pub(super) fn new(fault: Fault) -> Self {
        let kinds = vec!["isolated", "root"];
        Self(Arc::new(Mutex::new(Inner {
            fault,
            steps: 0,
            kinds,
            refused: Vec::new(),
            pinned: Vec::new(),
        })))
    }

    /// One that can make these kinds of partition only.
    pub(super) fn with_kinds(kinds: &[&'static str]) -> Self {
        let kernel = Self::new(Fault::Never);
        kernel.0.lock().unwrap().kinds = kinds.to_vec();
        kernel
    }

    /// One in which files that end so cannot be written.
    pub(super) fn refusing(files: &[&'static str]) -> Self {
        let kernel = Self::new(Fault::Never);
        kernel.0.lock().unwrap().refused = files.to_vec();
        kernel
    }

    /// How many changes were asked for.
    pub(super) fn steps(&self) -> usize {
        self.0.lock().unwrap().steps
    }

    /// Processes with the CPUs that they were pinned to.
    pub(super) fn pinned(&self) -> Vec<(u32, u32)> {
        self.0.lock().unwrap().pinned.clone()
    }

    pub(super) fn boxed(&self) -> Box<dyn Kernel> {
        Box::new(self.clone())
    }

    fn step<T>(&self, path: &Path, effect: impl FnOnce(&Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.0.lock().unwrap();
        let step = inner.steps;
        inner.steps += 1;
        let fails = match inner.fault {
            Fault::Never => false,
            Fault::At(at) => step == at,
            Fault::Killed(at) => step >= at,
        };
        if fails || inner.refused.iter().any(|refused| path.ends_with(refused)) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        effect(&inner)
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn has_children(group: &Path) -> bool {
    fs::read_dir(group).unwrap().any(|entry| entry.unwrap().path().is_dir())
}

impl Kernel for Simulated {
    fn write(&mut self, path: &Path, value: &str) -> io::Result<()> {
        self.step(path, |inner| {
            if !path.exists() {
                return Err(io::ErrorKind::NotFound.into());
            }
            let group = path.parent().unwrap();
            let text = match path.file_name().unwrap().to_str().unwrap() {
                "cgroup.subtree_control" => {
                    let mut words: Vec<_> =
                        read(path).split_whitespace().map(String::from).collect();
                    words.retain(|word| word != "cpuset");
                    if value == "+cpuset" {
                        words.push("cpuset".into());
                    }
                    words.join(" ")
                }
                "cpuset.cpus.partition" => {
                    let cpus: Cpus = read(&group.join("cpuset.cpus")).parse().unwrap();
                    if cpus == "0-3".parse().unwrap() {
                        format!("{value} invalid (Parent has no CPU left)")
                    } else if inner.kinds.contains(&value) {
                        value.to_owned()
                    } else {
                        return Err(io::ErrorKind::InvalidInput.into());
                    }
                }
                "cgroup.kill" => {
                    for group in [group, &group.join("drivers")] {
                        if group.is_dir() {
                            fs::write(group.join("cgroup.procs"), "").unwrap();
                        }
                    }
                    return Ok(());
                }
                _ => value.to_owned(),
            };
            fs::write(path, text + "\n")
        })
    }

    fn make_group(&mut self, path: &Path) -> io::Result<()> {
        self.step(path, |_| {
            fs::create_dir(path)?;
            let mut files = vec!["cgroup.procs", "cgroup.kill", "cgroup.subtree_control"];
            let parent = read(&path.parent().unwrap().join("cgroup.subtree_control"));
            if parent.contains("cpuset") {
                files.extend(["cpuset.cpus", "cpuset.cpus.partition"]);
            }
            for file in files {
                fs::write(path.join(file), "")?;
            }
            Ok(())
        })
    }

    fn remove_group(&mut self, path: &Path) -> io::Result<()> {
        self.step(path, |_| {
            if !path.exists() {
                return Err(io::ErrorKind::NotFound.into());
            }
            if has_children(path) || !read(&path.join("cgroup.procs")).is_empty() {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            fs::remove_dir_all(path)
        })
    }

    fn open(&mut self, path: &Path) -> io::Result<File> {
        self.step(path, |_| Linux.open(path))
    }

    fn pin(&mut self, process: u32, cpu: Cpu) -> io::Result<()> {
        self.step(Path::new("/"), |_| Ok(()))?;
        self.0.lock().unwrap().pinned.push((process, cpu.number()));
        Ok(())
    }

    fn keep(&mut self, path: &Path, text: &str) -> io::Result<()> {
        self.step(path, |_| Linux.keep(path, text))
    }

    fn forget(&mut self, path: &Path) -> io::Result<()> {
        self.step(path, |_| Linux.forget(path))
    }
}
