//! Which CPUs the threads of a benchmark run on.

use std::fs;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs that this process may use, in order.
pub(crate) fn allowed() -> Vec<u32> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).map(|n| n as u32).collect(),
        Err(_) => Vec::new(),
    }
}

/// Puts the calling thread on one CPU.
///
/// # Errors
/// When the system does not allow it (EINVAL: no such CPU, or not for this process).
pub(crate) fn pin(cpu: u32) -> rustix::io::Result<()> {
    restrict(&[cpu])
}

/// Keeps the calling thread, and those that it starts from now on, on these CPUs.
///
/// # Errors
/// As for [`pin`].
pub(crate) fn restrict(cpus: &[u32]) -> rustix::io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu as usize >= CpuSet::MAX_CPU {
            return Err(rustix::io::Errno::INVAL);
        }
        set.set(cpu as usize);
    }
    sched_setaffinity(None, &set)
}

/// `count` of the CPUs in `allowed`, the best first: isolated from Linux's scheduler, near the
/// device (`near`, when known), alone on their physical core, and CPU 0 last, where most
/// interrupts go. Where there are too few, they are used more than once.
pub(crate) fn choose(root: &Path, allowed: &[u32], near: &[u32], count: usize) -> Vec<u32> {
    let isolated = list(&read(root, "sys/devices/system/cpu/isolated"));
    let mut ranked: Vec<_> = allowed
        .iter()
        .map(|&cpu| {
            let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            let siblings = list(&read(root, &path));
            // The sibling that comes first among the allowed ones, CPU 0's last of all.
            let place = siblings.iter().filter(|s| allowed.contains(s) && **s < cpu).count();
            let beside_zero = cpu == 0 || siblings.contains(&0);
            (
                !isolated.contains(&cpu),
                !near.is_empty() && !near.contains(&cpu),
                place,
                beside_zero,
                cpu,
            )
        })
        .collect();
    ranked.sort_unstable();
    ranked
        .into_iter()
        .map(|(.., cpu)| cpu)
        .cycle()
        .take(if allowed.is_empty() { 0 } else { count })
        .collect()
}

/// The CPUs on the NUMA node of a PCI function (`0000:03:00.0`); none where Linux does not say.
pub(crate) fn near(root: &Path, function: &str) -> Vec<u32> {
    list(&read(root, &format!("sys/bus/pci/devices/{function}/local_cpulist")))
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_default()
}

/// CPUs from Linux's notation, such as `0-3,8`. What is malformed is left out.
fn list(text: &str) -> Vec<u32> {
    parse(text.trim()).unwrap_or_default()
}

/// CPUs from a list such as `0-3,8`, as `--cpus` takes it.
///
/// # Errors
/// What is wrong with `text`.
pub(crate) fn parse(text: &str) -> Result<Vec<u32>, String> {
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u32>().ok().filter(|&n| n < CpuSet::MAX_CPU as u32);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => cpus.extend(first..=last),
            _ => return Err(format!("`{part}` is no CPU or range of CPUs, such as 2 or 2-5")),
        }
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(isolated: &str, siblings: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let cpus = root.path().join("sys/devices/system/cpu");
        for (cpu, list) in siblings.iter().enumerate() {
            let topology = cpus.join(format!("cpu{cpu}/topology"));
            fs::create_dir_all(&topology).unwrap();
            fs::write(topology.join("thread_siblings_list"), list).unwrap();
        }
        fs::write(cpus.join("isolated"), isolated).unwrap();
        root
    }

    #[test]
    fn whole_cores_come_first_and_cpu_0_last() {
        let root = machine("\n", &["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"]);
        let all: Vec<_> = (0..8).collect();
        assert_eq!(choose(root.path(), &all, &[], 8), [1, 2, 3, 0, 5, 6, 7, 4]);
        assert_eq!(choose(root.path(), &all, &[2, 3, 6, 7], 2), [2, 3]);
        assert_eq!(choose(root.path(), &[0, 4, 5], &[], 2), [5, 0]);
    }

    #[test]
    fn isolated_cpus_come_before_all() {
        let root = machine("2-3\n", &["0", "1", "2", "3"]);
        assert_eq!(choose(root.path(), &[0, 1, 2, 3], &[0, 1], 3), [2, 3, 1]);
    }

    #[test]
    fn too_few_are_used_again() {
        let root = machine("", &["0", "1"]);
        assert_eq!(choose(root.path(), &[0, 1], &[], 3), [1, 0, 1]);
        assert!(choose(root.path(), &[], &[], 3).is_empty());
    }

    #[test]
    fn lists_are_parsed() {
        assert_eq!(parse("0-2,5"), Ok(vec![0, 1, 2, 5]));
        for text in ["x", "3-1", "1-", "-1", "1-99999999"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_thread_is_pinned_where_it_may_run() {
        let cpu = *allowed().last().unwrap();
        let now = std::thread::spawn(move || {
            pin(cpu).unwrap();
            allowed()
        });
        assert_eq!(now.join().unwrap(), [cpu]);
        assert!(pin(100_000).is_err());
    }
}
