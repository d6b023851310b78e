//! What a core costs: time for each request, its start, and CPU time when all sleep.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::driver::build;
use crate::core::{Core, NAME, Plan};
use crate::measured;
use crate::run;
use crate::uniddrv::Uniddrv;

/// A device that keeps nothing, in a process of its own.
const DEVICE: &str = "model:nvme?size=1G&backing=null";
/// How often a core is started.
const STARTS: usize = 11;

/// All of it.
#[derive(Serialize)]
pub(super) struct Served {
    pub(super) costs: Vec<Cost>,
    pub(super) start: Start,
    pub(super) idle: Idle,
}

/// Nanoseconds a request, as `storage-poll/benches/served` prints them.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Cost {
    pub(super) depth: u32,
    /// The driver in the client's own process.
    pub(super) embedded_ns: f64,
    /// A pair of rings with nothing behind it.
    pub(super) rings_ns: f64,
    /// The driver in a process of its own.
    pub(super) served_ns: f64,
    /// The last less the other two.
    pub(super) overhead_ns: f64,
}

/// From the start of `uniddrv core`, medians.
#[derive(Serialize)]
pub(super) struct Start {
    /// Until its names can be opened.
    pub(super) ready_ms: f64,
    /// Until a program that was started then has read a block, and has ended.
    pub(super) first_read_ms: f64,
}

/// CPU time when there is nothing to do, in percent of a CPU.
#[derive(Serialize)]
pub(super) struct Idle {
    pub(super) seconds: f64,
    pub(super) core: f64,
    pub(super) driver: f64,
}

/// Measures it.
pub(super) fn measure(uniddrv: &Uniddrv, log: &Path, quick: bool) -> Result<Served> {
    let program = build("served", uniddrv.stop())?;
    let mut command = Command::new(program);
    command.args(["--json", "--rounds", if quick { "1" } else { "7" }]);
    let costs = costs(&run::output(&mut command, uniddrv.stop(), |_| {})?)?;
    let plan = Plan { address: DEVICE, driver_cpu: None, cpu: None, log };
    let start = start(uniddrv, &plan)?;
    let idle = idle(uniddrv, &plan, Duration::from_secs(if quick { 2 } else { 20 }))?;
    Ok(Served { costs, start, idle })
}

/// One object in each line.
fn costs(text: &str) -> Result<Vec<Cost>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("reading `{line}`")))
        .collect()
}

fn start(uniddrv: &Uniddrv, plan: &Plan<'_>) -> Result<Start> {
    let mut ready = Vec::new();
    let mut read = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        let core = Core::start(uniddrv, plan)?;
        ready.push(started.elapsed().as_secs_f64() * 1e3);
        let text = core.output(&["bench", NAME, "--json", "--qd", "1", "--ios", "1"])?;
        read.push(started.elapsed().as_secs_f64() * 1e3);
        measured::parse(&text)?;
    }
    Ok(Start { ready_ms: median(ready), first_read_ms: median(read) })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn idle(uniddrv: &Uniddrv, plan: &Plan<'_>, length: Duration) -> Result<Idle> {
    let core = Core::start(uniddrv, plan)?;
    let driver = core.settle()?.pid;
    // The question itself has cost the core something.
    thread::sleep(Duration::from_millis(200));
    let times = || Ok::<_, anyhow::Error>((cpu_time(core.id())?, cpu_time(driver)?));
    let started = Instant::now();
    let before = times()?;
    while started.elapsed() < length {
        uniddrv.stop().check()?;
        thread::sleep(Duration::from_millis(250));
    }
    let after = times()?;
    let seconds = started.elapsed().as_secs_f64();
    let percent = |before, after| (after - before) / seconds * 100.0;
    Ok(Idle { seconds, core: percent(before.0, after.0), driver: percent(before.1, after.1) })
}

/// Seconds that a process has run for, all threads together: the scheduler's account, which is
/// finer than the ticks in `stat`.
fn cpu_time(process: u32) -> Result<f64> {
    let folder = format!("/proc/{process}/task");
    let mut sum = 0.0;
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))? {
        let file = entry.with_context(|| format!("reading {folder}"))?.path().join("schedstat");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            // The thread has ended: ENOENT, or ESRCH where its file was open already.
            Err(_) if !file.exists() => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", file.display()));
            }
        };
        let ns = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
        sum += ns.with_context(|| format!("{}: no time in `{text}`", file.display()))?;
    }
    Ok(sum / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_read_line_by_line() {
        let line = r#"{"depth": 32, "embedded_ns": 21.0, "rings_ns": 4.5, "served_ns": 30.0, "overhead_ns": 4.5}"#;
        let found = costs(&format!("{line}\n{line}\n")).unwrap();
        assert_eq!((found.len(), found[0].depth), (2, 32));
        assert_eq!(found[1], found[0]);
        assert!(costs("depth embedded").is_err());
    }

    #[test]
    fn medians_and_cpu_times_are_those_of_the_machine() {
        let medians = [median(vec![3.0, 1.0, 2.0]), median(Vec::new())];
        assert_eq!(medians.map(|value| value.to_string()), ["2", "0"]);
        assert!(cpu_time(std::process::id()).unwrap() > 0.0);
        assert!(cpu_time(u32::MAX).is_err());
    }
}
