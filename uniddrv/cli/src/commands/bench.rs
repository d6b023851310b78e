//! `uniddrv bench ADDRESS` and `uniddrv bench NAME`.

mod compare;
mod measure;
mod served;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use uniddrv::Address;

use crate::Context;
use crate::bench::result::{self, Measurement, Object, counted};
use crate::bench::session::Plan;
use crate::bench::workload::Rw;
use crate::bench::{cpu, loss, machine, report, size};
use crate::controller::resolve;
use crate::error::Failure;
use crate::output::warn;
use crate::served::is_name;
use crate::signals::stop_flag;
pub(super) use served::{content, describe};

/// The time that is measured where neither --time nor --ios says.
const SECONDS: f64 = 10.0;
/// The longest that can be asked for: a year.
const LONGEST: f64 = 31_536_000.0;

/// Measure an NVMe device: requests a second and latencies
///
/// Drives the device by polling, one thread and one queue pair on each core, and prints IOPS,
/// throughput and latency percentiles. Ctrl-C ends it early: what was measured is printed, and
/// the device is left in order.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// The device: 0000:03:00.0 (bound by `uniddrv bind`), vfio-user:/path/to/socket,
    /// model:nvme?size=1G, or a name that the core serves, such as nvme:0/ns1; with --compare
    /// native one that Linux has: 0000:03:00.0, nvme0n1
    address: String,

    /// The workload
    #[arg(long, value_enum, default_value = "randread")]
    rw: Rw,

    /// Bytes in a request, such as 4k
    #[arg(long, value_name = "SIZE", default_value = "4k", value_parser = size::parse)]
    bs: u64,

    /// Requests on their way at once on each core; a list such as 1,4,32 measures each
    #[arg(long, value_name = "DEPTH", default_value = "32", value_delimiter = ',')]
    qd: Vec<usize>,

    /// How many threads, each with a queue pair and a CPU of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    cores: usize,

    /// The CPUs to use, such as 2,4-7; else the most suitable ones are chosen
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,

    /// Seconds to measure for, at each queue depth [default: 10, or as long as --ios takes]
    #[arg(long, value_name = "SECONDS")]
    time: Option<f64>,

    /// Requests to measure, at each queue depth
    #[arg(long, value_name = "N")]
    ios: Option<u64>,

    /// The namespace [default: the first]
    #[arg(long, value_name = "N")]
    namespace: Option<u32>,

    /// Work on this many bytes at the start of the namespace [default: all; with --verify 1G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    size: Option<u64>,

    /// Check what is read against what was written, by pattern and checksum. Reading workloads
    /// write what they read first, and so need --overwrite too
    #[arg(long)]
    verify: bool,

    /// Allow writing to a device: what it holds is lost
    #[arg(long)]
    overwrite: bool,
    /// Use shadow doorbells where the controller offers them
    #[arg(long)]
    shadow_doorbells: bool,

    /// Go on after requests that fail and data that does not match; both are counted
    #[arg(long)]
    keep_going: bool,

    /// Measure Linux's own driver first, with fio on the same device, then take the device,
    /// measure, and give it back
    #[arg(long, value_name = "WHAT", value_enum)]
    compare: Option<Compare>,

    /// Write a report with plots, one HTML file that needs no network
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,

    /// Also measure what the measuring loop alone costs, and a cache line's way between two CPUs
    #[arg(long)]
    calibrate: bool,

    /// Seconds that a request may take before it is aborted
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,

    /// Where random numbers start [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// What to compare with.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Compare {
    /// Linux's own driver, by fio
    Native,
}

/// What was measured, and how it ended.
struct Measured {
    measurements: Vec<Measurement>,
    verdict: Result<(), Failure>,
}

impl Bench {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        if is_name(&self.address) {
            return self.run_served(context);
        }
        let address = resolve(&context.root, &self.address)?;
        let near = if let Address::Pci(address) = address {
            cpu::near(&context.root, &address.to_string())
        } else {
            Vec::new()
        };
        // The other end of a socket is a process of this machine, and polls too.
        let others = usize::from(address.socket().is_some());
        let (plan, _) = self.plan(context, &near, &cpu::allowed(), others)?;
        check_report(self.report.as_deref())?;
        if self.destroys()
            && !self.overwrite
            && let Some(path) = loss::would_make(&address)
        {
            // Before anything is opened: a refusal leaves no file behind.
            return Err(Failure::new(format!("{} does not exist yet", path.display()))
                .with_help("to have it made and written to, add --overwrite"));
        }
        if plan.verify && loss::forgets(&address) {
            let message = format!("--verify: {address} throws away what is written to it");
            return Err(Failure::usage(anyhow::Error::msg(message)));
        }
        let stop = stop_flag()?;
        let measured = match (self.compare, &address) {
            (None, _) => self.measure(context, &address, &plan, self.namespace, &stop)?,
            (Some(Compare::Native), Address::Pci(pci)) => {
                self.compare(context, *pci, &plan, &stop)?
            }
            (Some(Compare::Native), _) => return Err(no_comparison(&self.address)),
        };
        self.tell(context, measured)
    }

    /// Prints what was measured, and how it ended.
    fn tell(&self, context: &Context, measured: Measured) -> Result<(), Failure> {
        let Measured { mut measurements, verdict } = measured;
        measurements.retain(|measurement| measurement.ios + measurement.errors > 0);
        if !measurements.is_empty() {
            // A report that cannot be written costs nobody the results.
            let written = self.write_report(context, &measurements);
            context.out.data(&Object::new(&measurements), || {
                let mut text = result::text(&measurements);
                if let (Some(path), Ok(())) = (&self.report, &written) {
                    text.extend(["\nreport: ", &path.to_string_lossy(), "\n"]);
                }
                text
            })?;
            written?;
        }
        verdict
    }

    /// What the arguments come to, as far as that shows without the device, and whether there
    /// are fewer CPUs than would want to spin. `near`: the CPUs near the device; `allowed`: those
    /// that may be used; `others`: how many others of this machine poll.
    fn plan(
        &self,
        context: &Context,
        near: &[u32],
        allowed: &[u32],
        others: usize,
    ) -> Result<(Plan, bool), Failure> {
        let usage = |message: String| Failure::usage(anyhow::Error::msg(message));
        if self.qd.is_empty() || self.qd.contains(&0) {
            return Err(usage("--qd 0: at least one request has to be on its way".into()));
        }
        if self.cores == 0 {
            return Err(usage("--cores 0: at least one thread has to run".into()));
        }
        if self.cores > usize::from(u16::MAX) {
            return Err(usage(format!("--cores {}: NVMe has 65,535 queues at most", self.cores)));
        }
        if self.bs == 0 {
            return Err(usage("--bs 0: a request has to move something".into()));
        }
        if self.ios == Some(0) {
            return Err(usage("--ios 0: at least one request is needed".into()));
        }
        if let Some(time) = self.time.filter(|time| !(*time > 0.0 && *time <= LONGEST)) {
            return Err(usage(format!("--time {time}: more than 0 and at most a year is needed")));
        }
        if self.timeout == 0 || self.timeout > 86_400 {
            return Err(usage(format!("--timeout {}: 1 s to a day is needed", self.timeout)));
        }
        let (cpus, crowded) = self.choose_cpus(context, near, allowed, others).map_err(usage)?;
        let seconds = self.time.or(if self.ios.is_some() { None } else { Some(SECONDS) });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let plan = Plan {
            rw: self.rw,
            bs: self.bs,
            depths: self.qd.clone(),
            cores: self.cores,
            cpus,
            time: seconds.map(Duration::from_secs_f64),
            ios: self.ios,
            size: self.size,
            verify: self.verify,
            keep_going: self.keep_going,
            patience: Duration::ZERO,
            spin: if crowded { Duration::ZERO } else { Duration::from_millis(1) },
            seed: self.seed.unwrap_or(now.as_nanos() as u64),
        };
        Ok((plan, crowded))
    }

    /// The CPUs to run on, and whether there are fewer than would want to spin.
    fn choose_cpus(
        &self,
        context: &Context,
        near: &[u32],
        allowed: &[u32],
        others: usize,
    ) -> Result<(Vec<u32>, bool), String> {
        let chosen: Vec<u32> = if let Some(list) = &self.cpus {
            let cpus = cpu::parse(list)?;
            if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
                return Err(format!("--cpus: CPU {cpu} is not there or not for this process"));
            }
            cpus.into_iter().cycle().take(self.cores).collect()
        } else {
            cpu::choose(&context.root, allowed, near, self.cores)
        };
        let mut distinct = chosen.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let crowded = distinct.len() < self.cores || allowed.len() < self.cores + others;
        if crowded {
            warn(&format!(
                "{} for {} that poll{}: they take turns, and the figures say little",
                counted(distinct.len().min(allowed.len()), "CPU"),
                counted(self.cores, "thread"),
                if others == 0 { "" } else { " and the process that serves the device" },
            ));
        }
        Ok((chosen, crowded))
    }

    fn write_report(&self, context: &Context, measurements: &[Measurement]) -> Result<(), Failure> {
        let Some(path) = &self.report else { return Ok(()) };
        let page = report::html(measurements, &machine::facts(&context.root), &command_line());
        std::fs::write(path, page)
            .with_context(|| format!("cannot write the report to {}", path.display()))?;
        Ok(())
    }
}

fn no_comparison(device: &str) -> Failure {
    let message = format!("--compare native: Linux has no driver for {device}");
    let help = "give a PCI device that Linux has: 0000:03:00.0, nvme0n1";
    Failure::usage(anyhow::Error::msg(message)).with_help(help)
}

/// Finds out before the work that the report would have no place.
pub(super) fn check_report(path: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    if path.is_dir() {
        return Err(Failure::new(format!("--report {}: it is a folder", path.display())));
    }
    if !folder.is_dir() {
        let message = format!("--report {}: there is no such folder", path.display());
        return Err(Failure::new(message));
    }
    Ok(())
}

/// This command, for a shell.
pub(super) fn command_line() -> String {
    let arguments = std::env::args().skip(1).map(quote);
    std::iter::once("uniddrv".into()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// An argument as a shell takes it.
fn quote(argument: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,%+@".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_where_a_shell_needs_it() {
        let quoted =
            ["bench", "model:nvme?size=1G&backing=null", "it's", ""].map(|a| quote(a.into()));
        assert_eq!(quoted, ["bench", "'model:nvme?size=1G&backing=null'", r"'it'\''s'", "''"]);
    }
}
