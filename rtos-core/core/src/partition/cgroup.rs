//! The control group whose CPUs are the drivers' alone. Linux's
//! Documentation/admin-guide/cgroup-v2.rst, "Cpuset".
//!
//! ```text
//! /sys/fs/cgroup/uniddrv-PID           the partition: cpuset.cpus, cpuset.cpus.partition
//! /sys/fs/cgroup/uniddrv-PID/drivers   the processes
//! ```
//! Two levels, because a group that hands a controller on keeps it: nobody can take `cpuset` away
//! from the partition while it is in use.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::kernel::Kernel;
use crate::cpus::Cpus;

/// How long the processes of a dead core may take to end.
const ENDING: Duration = Duration::from_secs(2);

/// How the CPUs of the drivers are kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A partition that Linux's scheduler leaves alone: nothing runs there but what is put there.
    Isolated,
    /// A partition of its own, within which the scheduler moves threads about.
    Root,
    /// Drivers are pinned, and other programs may run on their CPUs too.
    Affinity,
}

/// Where control groups are.
#[derive(Clone, Debug)]
pub(super) struct Hierarchy {
    folder: PathBuf,
}

/// The name of a core's group.
pub(super) fn group_name(process: u32) -> String {
    format!("uniddrv-{process}")
}

/// Whether a name is one of [`group_name`].
pub(super) fn is_group_name(name: &str) -> bool {
    let number = name.strip_prefix("uniddrv-");
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

impl Hierarchy {
    /// The version 2 hierarchy, if it can do cpusets.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn find(root: &Path) -> Result<Self, String> {
        let mounts = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];
        let found: Vec<_> = mounts
            .iter()
            .filter_map(|mount| {
                let folder = root.join(mount);
                let controllers = fs::read_to_string(folder.join("cgroup.controllers")).ok()?;
                Some((folder, controllers))
            })
            .collect();
        if found.is_empty() {
            return Err("control groups of version 2 are not mounted".to_owned());
        }
        found
            .into_iter()
            .find(|(_, controllers)| controllers.split_whitespace().any(|one| one == "cpuset"))
            .map(|(folder, _)| Self { folder })
            .ok_or_else(|| "control groups of version 2 are there without `cpuset`".to_owned())
    }

    /// Whether children of the top group can have CPUs already.
    pub(super) fn has_cpuset(&self) -> bool {
        fs::read_to_string(self.folder.join("cgroup.subtree_control"))
            .is_ok_and(|text| text.split_whitespace().any(|one| one == "cpuset"))
    }

    /// Makes the partition; `enable` if children cannot have CPUs yet.
    ///
    /// # Errors
    /// Why there is none. What was made of it is to be removed by [`unmake`](Self::unmake).
    pub(super) fn make(
        &self,
        name: &str,
        cpus: &Cpus,
        enable: bool,
        kernel: &mut dyn Kernel,
    ) -> Result<Kind, String> {
        let group = self.folder.join(name);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| format!("{}: {error}", path.display())
        };
        let mut write =
            |path: PathBuf, value: &str| kernel.write(&path, value).map_err(failed(&path));
        if enable {
            write(self.folder.join("cgroup.subtree_control"), "+cpuset")?;
        }
        kernel.make_group(&group).map_err(failed(&group))?;
        let mut write =
            |path: PathBuf, value: &str| kernel.write(&path, value).map_err(failed(&path));
        write(group.join("cpuset.cpus"), &cpus.to_string())?;
        let partition = group.join("cpuset.cpus.partition");
        let mut refused = String::new();
        let mut made = None;
        for (word, kind) in [("isolated", Kind::Isolated), ("root", Kind::Root)] {
            let written = write(partition.clone(), word);
            let state = fs::read_to_string(&partition).unwrap_or_default();
            if written.is_ok() && state.trim() == word {
                made = Some(kind);
                break;
            }
            // `isolated invalid (Cpu list in cpuset.cpus not exclusive)`
            let reason = match written {
                Ok(()) => state.trim().to_owned(),
                Err(error) => error,
            };
            // The first reason is the one that counts: the second kind wants less.
            if refused.is_empty() {
                refused = reason;
            }
        }
        let kind = made.ok_or(refused)?;
        write(group.join("cgroup.subtree_control"), "+cpuset")?;
        let drivers = group.join("drivers");
        kernel.make_group(&drivers).map_err(failed(&drivers))?;
        Ok(kind)
    }

    /// Removes the partition, with what runs in it. One that is not there is fine.
    pub(super) fn unmake(
        &self,
        name: &str,
        disable: bool,
        kernel: &mut dyn Kernel,
    ) -> io::Result<()> {
        let group = self.folder.join(name);
        if group.is_dir() {
            // Linux 5.14. Older ones have no leftovers either: drivers die with their core.
            let kill = group.join("cgroup.kill");
            if kill.exists() {
                kernel.write(&kill, "1")?;
            }
            for folder in [group.join("drivers"), group] {
                remove(&folder, kernel)?;
            }
        }
        if disable && self.has_cpuset() && !self.is_cpuset_used() {
            kernel.write(&self.folder.join("cgroup.subtree_control"), "-cpuset")?;
        }
        Ok(())
    }

    /// Puts a process there.
    pub(super) fn join(&self, name: &str, process: u32, kernel: &mut dyn Kernel) -> io::Result<()> {
        let path = self.folder.join(name).join("drivers/cgroup.procs");
        kernel.write(&path, &process.to_string())
    }

    /// The CPUs of all cores' partitions.
    pub(super) fn held(&self) -> Cpus {
        let mut held = Cpus::new();
        for name in self.groups().iter().filter(|name| is_group_name(name)) {
            let list = fs::read_to_string(self.folder.join(name).join("cpuset.cpus"));
            let cpus = list.ok().and_then(|list| list.parse().ok());
            held = held.union(&cpus.unwrap_or_default());
        }
        held
    }

    fn groups(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Whether any group was given CPUs: it would lose them.
    fn is_cpuset_used(&self) -> bool {
        self.groups().iter().any(|name| {
            let given = fs::read_to_string(self.folder.join(name).join("cpuset.cpus"));
            given.is_ok_and(|cpus| !cpus.trim().is_empty())
        })
    }
}

/// Removes a group once its last process has ended.
fn remove(folder: &Path, kernel: &mut dyn Kernel) -> io::Result<()> {
    let deadline = Instant::now() + ENDING;
    loop {
        match kernel.remove_group(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}
