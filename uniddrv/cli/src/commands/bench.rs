//! `uniddrv bench ADDRESS`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use storage_poll::{Controller, Namespace, Options};
use uniddrv::sysfs::{BindOptions, Sysfs, VFIO_PCI};
use uniddrv::{Address, PciAddress, TransportKind};

use crate::Context;
use crate::bench::calibrate::{self, Calibration};
use crate::bench::disk::{Disk, DiskError, Loan};
use crate::bench::loss::{self, Refusal};
use crate::bench::progress::Bar;
use crate::bench::result::{self, Measurement, Native, Target};
use crate::bench::run::Outcome;
use crate::bench::session::{self, Plan, Session};
use crate::bench::workload::Rw;
use crate::bench::{cpu, machine, native, report, size};
use crate::controller::{attach, namespace, resolve};
use crate::error::Failure;
use crate::output::warn;
use crate::signals::stop_flag;

/// The time that is measured where neither --time nor --ios says.
const SECONDS: f64 = 10.0;
/// The longest that can be asked for: a year.
const LONGEST: f64 = 31_536_000.0;
/// What the first blocks are read with.
const PEEK: u32 = 32 << 10;

/// Measure an NVMe device: requests a second and latencies
///
/// Drives the device by polling, one thread and one queue pair on each core, and prints IOPS,
/// throughput and latency percentiles. Ctrl-C ends it early: what was measured is printed, and
/// the device is left in order.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// The device: 0000:03:00.0 (bound by `uniddrv bind`), vfio-user:/path/to/socket or
    /// model:nvme?size=1G; with --compare native one that Linux has: 0000:03:00.0, nvme0n1
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

impl Bench {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let address = resolve(&context.root, &self.address)?;
        let plan = self.plan(context, &address)?;
        self.check_report()?;
        if plan.verify && loss::forgets(&address) {
            let message = format!("--verify: {address} throws away what is written to it");
            return Err(Failure::usage(anyhow::Error::msg(message)));
        }
        let stop = stop_flag()?;
        let (mut measurements, verdict) = match (self.compare, &address) {
            (None, _) => self.measure(context, &address, &plan, self.namespace, &stop)?,
            (Some(Compare::Native), Address::Pci(pci)) => {
                self.compare(context, *pci, &plan, &stop)?
            }
            (Some(Compare::Native), _) => {
                let message = format!("--compare native: Linux has no driver for {address}");
                let help = "give a PCI device that Linux has: 0000:03:00.0, nvme0n1";
                return Err(Failure::usage(anyhow::Error::msg(message)).with_help(help));
            }
        };
        measurements.retain(|measurement| measurement.ios + measurement.errors > 0);
        if !measurements.is_empty() {
            let object = result::json(&measurements)?;
            // A report that cannot be written costs nobody the results.
            let written = self.write_report(context, &measurements);
            context.out.data(&object, || {
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

    /// What the arguments come to, as far as that shows without the device.
    fn plan(&self, context: &Context, address: &Address) -> Result<Plan, Failure> {
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
        let (cpus, crowded) = self.choose_cpus(context, address).map_err(usage)?;
        let seconds = self.time.or(if self.ios.is_some() { None } else { Some(SECONDS) });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Plan {
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
        })
    }

    /// The CPUs to run on, and whether there are fewer than would want to spin.
    fn choose_cpus(
        &self,
        context: &Context,
        address: &Address,
    ) -> Result<(Vec<u32>, bool), String> {
        let allowed = cpu::allowed();
        let chosen: Vec<u32> = if let Some(list) = &self.cpus {
            let cpus = cpu::parse(list)?;
            if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
                return Err(format!("--cpus: CPU {cpu} is not there or not for this process"));
            }
            cpus.into_iter().cycle().take(self.cores).collect()
        } else {
            let near = if let Address::Pci(address) = address {
                cpu::near(&context.root, &address.to_string())
            } else {
                Vec::new()
            };
            cpu::choose(&context.root, &allowed, &near, self.cores)
        };
        // The other end of a socket is a process of this machine, and polls too.
        let others = usize::from(address.socket().is_some());
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

    /// Finds out before the measurement that the report would have no place.
    fn check_report(&self) -> Result<(), Failure> {
        let Some(path) = &self.report else { return Ok(()) };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| std::path::Path::new("."));
        if path.is_dir() {
            return Err(Failure::new(format!("--report {}: it is a folder", path.display())));
        }
        if !folder.is_dir() {
            let message = format!("--report {}: there is no such folder", path.display());
            return Err(Failure::new(message));
        }
        Ok(())
    }

    fn write_report(&self, context: &Context, measurements: &[Measurement]) -> Result<(), Failure> {
        let Some(path) = &self.report else { return Ok(()) };
        let command = std::env::args().map(quote).collect::<Vec<_>>().join(" ");
        let page = report::html(measurements, &machine::facts(&context.root), &command);
        std::fs::write(path, page)
            .with_context(|| format!("cannot write the report to {}", path.display()))?;
        Ok(())
    }

    /// Measures through our own driver. What was measured, and how it ended.
    fn measure(
        &self,
        context: &Context,
        address: &Address,
        plan: &Plan,
        nsid: Option<u32>,
        stop: &AtomicBool,
    ) -> Result<(Vec<Measurement>, Result<(), Failure>), Failure> {
        let options = Options {
            queues: self.cores as u16,
            timeout: Duration::from_secs(self.timeout),
            ..Options::default()
        };
        let (timeout, admin_timeout) = (options.timeout, options.admin_timeout);
        let controller = attach(&context.root, address, options)?;
        let namespace = namespace(&controller, nsid)?;
        // The driver gives a request up by its own deadlines: time out, abort, reset. Only
        // when that fails too is it for the benchmark to end.
        let reset = Duration::from_millis(controller.capabilities().timeout_ms().into());
        let patience = timeout + admin_timeout * 2 + reset * 2 + Duration::from_secs(5);
        let plan = Plan { patience, ..plan.clone() };
        plan.check(&namespace.info(), controller.max_depth()).map_err(Failure::from)?;
        let granted = controller.granted_queues();
        if plan.cores > granted {
            let message = format!(
                "--cores {}: the controller granted {}",
                plan.cores,
                counted(granted, "I/O queue")
            );
            return Err(Failure::new(message));
        }
        let target = describe(&controller, &namespace);
        self.check_loss(&controller, &namespace, &target, address)?;

        let depth = plan.depths.iter().copied().max().unwrap_or(1);
        let queues = (0..plan.cores)
            .map(|_| controller.block_queue(namespace.nsid(), depth))
            .collect::<Result<Vec<_>, _>>()?;
        let mut bar = Bar::new(plan.time);
        let session = session::run(
            &plan,
            queues,
            |len| controller.device().dma_buffer(len),
            stop,
            &mut |progress| bar.show(plan.rw, progress),
        )?;
        bar.clear();
        for cpu in &session.not_pinned {
            warn(&format!("a thread could not be put on CPU {cpu}; it ran anywhere"));
        }
        let mut measurements: Vec<Measurement> = session
            .runs
            .iter()
            .map(|run| {
                let workload = (plan.rw, plan.bs, run.depth);
                Measurement::new(&target, workload, (plan.cores, &plan.cpus), &run.outcome)
            })
            .collect();
        if self.calibrate && !stop.load(Ordering::Relaxed) {
            let calibration = calibrate(&controller, &plan)?;
            for measurement in &mut measurements {
                measurement.calibration = Some(calibration);
            }
        }
        Ok((measurements, verdict(&session, address, plan.keep_going)))
    }

    fn check_loss(
        &self,
        controller: &Controller,
        namespace: &Namespace,
        target: &Target,
        address: &Address,
    ) -> Result<(), Failure> {
        if !self.destroys() || self.overwrite || loss::is_expendable(address) {
            return Ok(());
        }
        // A look at the first blocks; without one the refusal is as good.
        let len = (PEEK.min(namespace.info().max_transfer) as usize)
            .min(namespace.info().bytes() as usize);
        let content = controller
            .block_queue(namespace.nsid(), 1)
            .ok()
            .zip(controller.device().dma_buffer(len).ok())
            .and_then(|(mut queue, buffer)| loss::content(&mut queue, buffer));
        Err(self.refusal(target, content))
    }

    /// Whether what the device holds is overwritten.
    fn destroys(&self) -> bool {
        self.rw.writes() || self.verify
    }

    fn refusal(&self, target: &Target, content: Option<&str>) -> Failure {
        let verify = if self.rw.writes() { "" } else { " --verify" };
        let what = format!("--rw {}{verify}", self.rw);
        Failure::from(Refusal::new(what, target, content))
            .with_help("if nothing on it is needed, add --overwrite")
    }

    /// Measures Linux's driver, takes the device, measures ours, gives it back.
    fn compare(
        &self,
        context: &Context,
        address: PciAddress,
        plan: &Plan,
        stop: &AtomicBool,
    ) -> Result<(Vec<Measurement>, Result<(), Failure>), Failure> {
        native::check()
            .map_err(|error| Failure::from(error).with_help("install it: apt-get install fio"))?;
        let sysfs = Sysfs::new(&context.root);
        let function = sysfs.function(address)?;
        let disk = Disk::of(&context.root, &function, self.namespace, &self.address);
        let disk = disk.map_err(|error| {
            let ours = matches!(&error, DiskError::Driver { driver, .. } if driver == VFIO_PCI);
            let failure = Failure::from(error);
            let help = format!("give it to Linux first: uniddrv unbind {address}");
            if ours { failure.with_help(help) } else { failure }
        })?;
        // All that could stop us later is found now, while nothing has been done.
        plan.check(&disk.info(), usize::MAX).map_err(Failure::from)?;
        sysfs.plan_bind(&[address], &BindOptions::default())?;
        if self.destroys() && !self.overwrite {
            return Err(self.refusal(&disk.target, disk.content().ok().flatten()));
        }
        let natives = measure_native(&disk, plan, stop)?;
        if stop.load(Ordering::Relaxed) {
            let message = format!("interrupted before {address} was taken; it is as it was");
            return Err(Failure::interrupted(message));
        }
        let loan = Loan::take(&sysfs, address, stop)?;
        let nsid = Some(disk.target.namespace);
        let measured = self.measure(context, &Address::Pci(address), plan, nsid, stop);
        let returned = loan.give_back();
        let (mut measurements, verdict) = measured?;
        for measurement in &mut measurements {
            let same = natives.iter().filter(|(depth, _)| *depth == measurement.qd);
            measurement.native = same.map(|(_, native)| native.clone()).collect();
        }
        Ok((measurements, verdict.and(returned.map_err(Failure::from))))
    }
}

/// Every engine of fio at every queue depth.
fn measure_native(
    disk: &Disk,
    plan: &Plan,
    stop: &AtomicBool,
) -> Result<Vec<(usize, Native)>, Failure> {
    let mut natives = Vec::new();
    let mut bar = Bar::new(plan.time);
    for &depth in &plan.depths {
        for engine in native::ENGINES {
            if stop.load(Ordering::Relaxed) {
                return Ok(natives);
            }
            bar.wait(&format!("Linux {engine}, queue depth {depth}"));
            let size = disk.target.size;
            let measured = native::measure(engine, &disk.path, plan, depth, size, stop);
            // What an interrupted fio says is of no use: all is measured, or nothing.
            if stop.load(Ordering::Relaxed) {
                return Ok(natives);
            }
            natives.push((depth, measured?));
        }
    }
    bar.clear();
    Ok(natives)
}

fn describe(controller: &Controller, namespace: &Namespace) -> Target {
    Target {
        address: controller.device().address().to_string(),
        transport: controller.device().transport().to_string(),
        model: controller.identity().model().to_string(),
        serial: controller.identity().serial().to_string(),
        namespace: namespace.nsid(),
        block_size: namespace.block_size(),
        size: namespace.info().bytes(),
    }
}

/// What the loop and the machine cost, measured where the benchmark ran.
fn calibrate(controller: &Controller, plan: &Plan) -> Result<Calibration, Failure> {
    let buffers = (0..32)
        .map(|_| controller.device().dma_buffer(4096))
        .collect::<Result<Vec<_>, _>>()
        .context("no memory to calibrate with")?;
    let ours = plan.cpus.first().copied();
    let loop_ns = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Where it cannot be pinned it runs anywhere, as the benchmark did.
            let _ = ours.map(cpu::pin);
            calibrate::loop_cost(buffers, calibrate::IOS)
        });
        thread.join().unwrap_or(f64::NAN)
    });
    let other = cpu::allowed().into_iter().find(|cpu| !plan.cpus.contains(cpu));
    let pair = ours.zip(other.or_else(|| plan.cpus.iter().copied().find(|&c| Some(c) != ours)));
    let round_trip = pair.and_then(|cpus| calibrate::round_trip(cpus, calibrate::ROUNDS));
    if controller.device().transport() != TransportKind::Inline && round_trip.is_none() {
        warn("a cache line's way between two CPUs could not be measured");
    }
    Ok(Calibration { loop_ns, round_trip })
}

/// How it ended, as an exit status and a message.
fn verdict(session: &Session, address: &Address, keep_going: bool) -> Result<(), Failure> {
    let fill = session.failed_fill.as_ref();
    let Some(outcome) = fill.or(session.runs.last().map(|run| &run.outcome)) else {
        return Ok(());
    };
    let stage = if fill.is_some() { "while writing what was to be read: " } else { "" };
    if outcome.panicked {
        return Err(Failure::new(format!("{address}: {stage}a thread of the benchmark panicked")));
    }
    if let Some(fatal) = &outcome.fatal {
        return Err(Failure::new(format!("{address}: {stage}{fatal}")));
    }
    if outcome.interrupted {
        return Err(Failure::interrupted("interrupted; the device is in order"));
    }
    if keep_going && fill.is_none() {
        return Ok(());
    }
    match failures(outcome) {
        Some(what) => {
            let failure = Failure::new(format!("{address}: {stage}{what}"));
            let help = "to count failures and go on, add --keep-going";
            Err(if fill.is_none() { failure.with_help(help) } else { failure })
        }
        None => Ok(()),
    }
}

fn failures(outcome: &Outcome) -> Option<String> {
    if let Some(mismatch) = outcome.mismatch_samples.first() {
        let count = counted(outcome.mismatches as usize, "read");
        return Some(format!("{count} brought wrong data: {mismatch}"));
    }
    let sample = outcome.error_samples.first()?;
    Some(format!("{} failed: {sample}", counted(outcome.errors as usize, "request")))
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
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
    use crate::bench::engine::{ErrorSample, Fatal};
    use crate::bench::session::Run;
    use uniddrv::block::BlockError;

    fn ended(outcome: Outcome, keep_going: bool) -> Result<(), Failure> {
        let session = Session { runs: vec![Run { depth: 1, outcome }], ..Session::default() };
        verdict(&session, &"model:nvme".parse().unwrap(), keep_going)
    }

    #[test]
    fn each_way_to_end_has_its_verdict() {
        let sample = ErrorSample { write: false, lba: 7, error: BlockError::OutOfRange };
        let failed = Outcome { errors: 2, error_samples: vec![sample], ..Outcome::default() };
        let gone = Outcome { fatal: Some(Fatal::Gone), ..Outcome::default() };
        assert!(ended(Outcome::default(), false).is_ok());
        assert!(ended(failed.clone(), true).is_ok());
        let text = format!("{:?}", ended(failed, false).unwrap_err());
        assert!(text.contains("2 requests failed: read of LBA 7"), "{text}");
        assert!(ended(gone, true).is_err());
        let interrupted = Outcome { interrupted: true, ..Outcome::default() };
        let text = format!("{:?}", ended(interrupted, true).unwrap_err());
        assert!(text.contains("130"), "{text}");
    }

    #[test]
    fn arguments_are_quoted_where_a_shell_needs_it() {
        let quoted =
            ["bench", "model:nvme?size=1G&backing=null", "it's", ""].map(|a| quote(a.into()));
        assert_eq!(quoted, ["bench", "'model:nvme?size=1G&backing=null'", r"'it'\''s'", "''"]);
    }
}
