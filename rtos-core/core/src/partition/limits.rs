//! What the core needs and cannot make: huge pages, locked memory, time for real-time threads.

use std::fs;
use std::path::Path;

use super::Wants;
use super::shortfall::Shortfall;
use crate::config::ByteSize;

/// Bytes of a huge page.
const HUGE_PAGE: u64 = 2 << 20;

/// The bit of CAP_IPC_LOCK in a mask of capabilities. capabilities(7).
const IPC_LOCK: u64 = 1 << 14;

/// What is missing of what `wants` needs.
pub(super) fn check(root: &Path, wants: &Wants) -> Vec<Shortfall> {
    [
        huge_pages(root, wants),
        locked_memory(root, wants),
        real_time(root, wants),
        balancer(root, wants),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn huge_pages(root: &Path, wants: &Wants) -> Option<Shortfall> {
    let needed = wants.huge.div_ceil(HUGE_PAGE);
    if needed == 0 {
        return None;
    }
    let folder = root.join("sys/kernel/mm/hugepages/hugepages-2048kB");
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
    };
    let what = "drivers get small pages, which are slower";
    let (Some(all), Some(free)) = (number("nr_hugepages"), number("free_hugepages")) else {
        let mend = "use a kernel with CONFIG_HUGETLBFS";
        return Some(Shortfall::new(what, "this kernel has no huge pages of 2 MiB", mend));
    };
    if free >= needed {
        return None;
    }
    let why = format!("{needed} huge pages of 2 MiB are needed and {free} of {all} are free");
    let more = all.saturating_add(needed - free);
    Some(Shortfall::new(what, why, format!("run: sysctl -w vm.nr_hugepages={more}")))
}

/// VFIO counts the memory that a device may reach as locked.
fn locked_memory(root: &Path, wants: &Wants) -> Option<Shortfall> {
    if wants.locked == 0 || has_capability(root, IPC_LOCK) {
        return None;
    }
    let limits = fs::read_to_string(root.join("proc/self/limits")).ok()?;
    // The soft limit is the first number; `unlimited` is no number.
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    if limit >= wants.locked {
        return None;
    }
    let (needed, limit) = (ByteSize::new(wants.locked), ByteSize::new(limit));
    Some(Shortfall::new(
        "devices may not get their memory",
        format!("{needed} must be locked, clients' memory not counted, and the limit is {limit}"),
        "run the core as root or with CAP_IPC_LOCK, or raise the limit (LimitMEMLOCK= of the service, ulimit -l)",
    ))
}

pub(super) fn has_capability(root: &Path, bit: u64) -> bool {
    let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & bit != 0)
}

/// sched(7): by default, real-time threads leave 5 % of each second to the others.
fn real_time(root: &Path, wants: &Wants) -> Option<Shortfall> {
    let path = root.join("proc/sys/kernel/sched_rt_runtime_us");
    let runtime: i64 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    if !wants.real_time || runtime < 0 {
        return None;
    }
    Some(Shortfall::new(
        "drivers with real-time priority are stopped again and again",
        format!("Linux gives such threads {runtime} us of each period (sched_rt_runtime_us)"),
        "run: sysctl -w kernel.sched_rt_runtime_us=-1; or leave realtime out, on a CPU of its own it gains little",
    ))
}

/// A daemon that spreads interrupts over all CPUs, again and again.
fn balancer(root: &Path, wants: &Wants) -> Option<Shortfall> {
    if wants.cpus.is_empty() {
        return None;
    }
    let processes = fs::read_dir(root.join("proc")).ok()?.flatten();
    let mut names = processes.filter_map(|process| {
        process.file_name().to_str()?.parse::<u32>().ok()?;
        fs::read_to_string(process.path().join("comm")).ok()
    });
    let cpus = &wants.cpus;
    names.any(|name| name.trim() == "irqbalance").then(|| {
        Shortfall::new(
            format!("interrupts may come back to CPUs {cpus}"),
            "irqbalance runs",
            format!("set IRQBALANCE_BANNED_CPULIST={cpus} in /etc/default/irqbalance and restart it, or stop it"),
        )
    })
}
