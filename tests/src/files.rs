//! File descriptors of other processes.

use std::fs;
use std::path::Path;

/// How many file descriptors the core in process `pid` has for what others do: not counting
/// `/dev/cpu_dma_latency`, which it has while a driver polls.
///
/// # Panics
/// When there is no such process.
pub fn of_core(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the core runs").flatten();
    let latency = Path::new("/dev/cpu_dma_latency");
    entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|file| file != latency)).count()
}
