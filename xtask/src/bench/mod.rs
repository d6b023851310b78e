//! `cargo xtask bench`: the figures of docs/benchmarks.md in one run.

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::measured::{self, Measurement};
use crate::model::{Cpus, Model};
use crate::packages::{self, query};
use crate::run::{self, Stop};
use crate::uniddrv::{Uniddrv, virtual_machine};

mod callgrind;
mod driver;
mod kills;
mod report;
mod served;

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Options {
    /// Measure each figure for a second or two: a look, not a result.
    #[arg(long)]
    quick: bool,
    /// How often a driver is killed, about.
    #[arg(long, value_name = "N", default_value_t = 1_200)]
    kills: u32,
    /// Leave the virtual machine out.
    #[arg(long)]
    no_vm: bool,
}

/// All that was measured.
#[derive(Serialize)]
struct Results {
    machine: Machine,
    /// The driver alone.
    driver: driver::Driver,
    /// A model in another process that keeps nothing.
    null: Vec<Measurement>,
    /// One that keeps data in memory.
    ram: Vec<Measurement>,
    attach: Attach,
    /// A driver under a core.
    served: served::Served,
    /// The same, killed again and again.
    kills: kills::Outcome,
    /// Killed so that its successor has to reset the device.
    resets: kills::Outcome,
    /// QEMU's controller through Linux's VFIO, and Linux's own driver.
    vm: Vec<Measurement>,
}

/// Where and when.
#[derive(Serialize)]
struct Machine {
    date: String,
    commit: String,
    processor: String,
    cpus: usize,
    kernel: String,
}

/// What a program costs beside its requests.
#[derive(Serialize)]
struct Attach {
    /// From the start of a program to its end, one read in between: the median of several.
    whole_program_ms: f64,
    /// Resident memory at queue depth 128, the arena (which is shared memory) left out.
    resident_mib: f64,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let stop = Stop::watch()?;
    packages::ensure(&["valgrind"])?;
    if !options.no_vm {
        packages::ensure(&["fio"])?;
        crate::vm::prepare()?;
    }
    eprintln!("building for release");
    let uniddrv = Uniddrv::build(&stop)?;
    let target = uniddrv.target()?;
    let folder = target.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;

    let seconds = if options.quick { "1" } else { "5" };
    eprintln!("measuring the driver alone");
    let driver = driver::measure(target, options.quick, &stop)?;
    eprintln!("measuring against a model in another process");
    let (null, attach) = null(&uniddrv, seconds)?;
    let ram = ram(&uniddrv, seconds)?;
    eprintln!("measuring under a core");
    let served = served::measure(&uniddrv, &folder.join("core.log"), options.quick)?;
    eprintln!("killing drivers");
    let kills = if options.quick { options.kills.min(40) } else { options.kills };
    let resets = kills::measure(&uniddrv, &folder, &kills::SCRAMBLE, (kills / 20).max(2))?;
    let kills = kills::measure(&uniddrv, &folder, &kills::KILL, kills)?;
    let vm = if options.no_vm {
        Vec::new()
    } else {
        eprintln!("measuring in the virtual machine");
        let results = folder.join("vm.json");
        let mut command = virtual_machine(&["--timeout", "600", "--writable"])?;
        command.arg(&folder).args(["--", "sh", "-c", "exec \"$@\" >\"$0\""]).arg(&results);
        command.arg(&uniddrv.program).args(["bench", "0000:00:11.0", "--compare", "native"]);
        command.args(READS).args(["--qd", "1,32", "--time", seconds, "--json"]);
        let status = run::to_end(&mut command, &stop, |_| {})?;
        if !status.success() {
            bail!("the measurement failed in the virtual machine: {status}");
        }
        let text = fs::read_to_string(&results)
            .with_context(|| format!("reading {}", results.display()))?;
        measured::parse(&text)?
    };

    let machine = machine();
    let results = Results { machine, driver, null, ram, attach, served, kills, resets, vm };
    let path = folder.join("results.json");
    fs::write(&path, serde_json::to_vec_pretty(&results)?)
        .with_context(|| format!("writing {}", path.display()))?;
    print!("{}", report::markdown(&results));
    eprintln!("\nall figures: {}", path.display());
    Ok(ExitCode::SUCCESS)
}

const READS: &[&str] = &["--rw", "randread", "--bs", "4k"];

fn null(uniddrv: &Uniddrv, seconds: &str) -> Result<(Vec<Measurement>, Attach)> {
    let cpus = Cpus::choose()?;
    let model = Model::start(uniddrv, cpus, &["--namespaces", "512:64G", "--backing", "null"])?;
    let mut resident: f64 = 0.0;
    let measurements = bench(uniddrv, cpus, &model, "1,32,128", seconds, |process| {
        resident = resident.max(resident_mib(process).unwrap_or(0.0));
    })?;
    let mut times = Vec::new();
    for _ in 0..11 {
        let started = Instant::now();
        let mut command = uniddrv.command(&["bench", &model.address(), "--json", "--qd", "1"]);
        command.args(["--ios", "1", "--cpus", &cpus.driver.to_string()]);
        measured::parse(&run::output(&mut command, uniddrv.stop(), |_| {})?)?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_unstable_by(f64::total_cmp);
    let whole_program_ms = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok((measurements, Attach { whole_program_ms, resident_mib: resident }))
}

fn ram(uniddrv: &Uniddrv, seconds: &str) -> Result<Vec<Measurement>> {
    let cpus = Cpus::choose()?;
    let model = Model::start(uniddrv, cpus, &["--namespaces", "512:1G", "--backing", "ram"])?;
    // Pages that were never written are all the same zeroes: fill them first.
    let mut fill = uniddrv.command(&["bench", &model.address(), "--rw", "write", "--json"]);
    fill.args(["--bs", "64k", "--ios", "16384", "--overwrite"]);
    fill.args(["--cpus", &cpus.driver.to_string()]);
    measured::parse(&run::output(&mut fill, uniddrv.stop(), |_| {})?)?;
    bench(uniddrv, cpus, &model, "1,32,128", seconds, |_| {})
}

fn bench(
    uniddrv: &Uniddrv,
    cpus: Cpus,
    model: &Model,
    depths: &str,
    seconds: &str,
    glance: impl FnMut(u32),
) -> Result<Vec<Measurement>> {
    let mut command = uniddrv.command(&["bench", &model.address(), "--calibrate", "--json"]);
    command.args(READS).args(["--qd", depths, "--time", seconds]);
    command.args(["--cpus", &cpus.driver.to_string()]);
    measured::parse(&run::output(&mut command, uniddrv.stop(), glance)?)
}

/// Resident memory of a process in MiB, without what is shared: the arenas are memfds.
fn resident_mib(process: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    private_kib(&text).map(|kib| kib as f64 / 1024.0)
}

fn private_kib(status: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(field("RssAnon:")? + field("RssFile:")?)
}

fn machine() -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let processor = name.and_then(|line| line.split_once(':')).map_or("unknown", |(_, name)| name);
    let first_line = |text: String| text.lines().next().unwrap_or("unknown").to_owned();
    Machine {
        date: first_line(query("date", &["-u", "+%Y-%m-%d"])),
        commit: first_line(query("git", &["describe", "--always", "--dirty"])),
        processor: processor.trim().to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_left_out() {
        let status = "VmRSS:\t 900 kB\nRssAnon:\t 100 kB\nRssFile:\t 20 kB\nRssShmem:\t 780 kB\n";
        assert_eq!(private_kib(status), Some(120));
        assert_eq!(private_kib("Name:\tx\n"), None);
        assert!(resident_mib(std::process::id()).unwrap() > 0.1);
    }
}
