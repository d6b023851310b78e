//! `uniddrv torture NAME`.

mod run;

use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use uniddrv::client::Core;

use super::bench::{check_report, command_line, content, describe};
use crate::Context;
use crate::bench::result::Target;
use crate::bench::{machine, size};
use crate::error::Failure;
use crate::output::warn;
use crate::served::{self, Service};
use crate::signals::stop_flag;
use crate::torture::harm::Weights;
use crate::torture::{report, result};
use run::{Ended, Work};

/// The longest that can be asked for: a day.
const LONGEST: f64 = 86_400.0;
/// The most harm in a second.
const MOST: f64 = 1000.0;

/// Kill and hang the driver of a name at random while requests go through it, and check them all
///
/// Writes, reads, flushes and writes zeroes, checks each byte that is read, and that each request
/// ends exactly once, while the driver is killed again and again and successors take the device
/// over. Overwrites data, so it asks first. Exit status 1 where anything was lost, duplicated,
/// corrupted or failed.
#[derive(Debug, clap::Args)]
pub(crate) struct Torture {
    /// The name, such as nvme:0/ns1
    name: String,

    /// For how long
    #[arg(long, value_name = "N", default_value_t = 60.0)]
    seconds: f64,

    /// How often the driver is harmed, on average
    #[arg(long, value_name = "F", default_value_t = 2.0)]
    kills_per_second: f64,

    /// How it is harmed: some of kill, fault (SIGSEGV), abort, hang, and scramble (killed, and a
    /// successor finds nothing to go on with, so that the device is reset); with weights
    #[arg(long, value_name = "KIND=N,...", default_value = "kill=5,fault=2,abort=2,hang=1")]
    harm: Weights,

    /// Requests on their way at once
    #[arg(long, value_name = "DEPTH", default_value_t = 32)]
    qd: u16,

    /// Work on this many bytes at the start
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size::parse)]
    size: u64,

    /// The namespace, where the name has several
    #[arg(long, value_name = "N")]
    namespace: Option<u32>,

    /// Seconds without any completion after which requests count as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    patience: f64,

    /// Where random numbers start [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Write a report with plots, one HTML file that needs no network
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,

    /// Do not ask whether data may be overwritten
    #[arg(long)]
    yes: bool,
}

impl Torture {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        self.check()?;
        check_report(self.report.as_deref())?;
        let core = served::connect_for(&self.name)?;
        let service = served::service(&core, &self.name, self.namespace)?;
        let target = describe(&core, &service);
        let work = Work::new(&self, &service)?;
        self.ask(&core, &service, &target, work.bytes())?;
        let stop = stop_flag()?;
        let Ended { outcome, events, timeline, verdict } =
            run::run(context, &self, &core, &service, target, &work, &stop)?;
        let written = self.report.as_ref().map_or(Ok(()), |path| {
            let facts = machine::facts(&context.root);
            let page = report::html(&outcome, &events, &timeline, &facts, &command_line());
            std::fs::write(path, page)
                .with_context(|| format!("cannot write the report to {}", path.display()))
        });
        context.out.data(&outcome, || {
            let mut text = result::text(&outcome);
            if let (Some(path), Ok(())) = (&self.report, &written) {
                text.extend(["\nreport: ", &path.to_string_lossy(), "\n"]);
            }
            text
        })?;
        verdict?;
        if let Some(complaint) = outcome.complaint() {
            return Err(Failure::new(format!("{}: {complaint}", outcome.given.target.address)));
        }
        written?;
        if stop.load(Ordering::Relaxed) {
            return Err(Failure::interrupted("interrupted; all that was on its way has ended"));
        }
        Ok(())
    }

    /// Whether the arguments make sense.
    fn check(&self) -> Result<(), Failure> {
        let usage = |message: String| Err(Failure::usage(anyhow::Error::msg(message)));
        for (name, value, most) in [
            ("--seconds", self.seconds, LONGEST),
            ("--patience", self.patience, LONGEST),
            ("--kills-per-second", self.kills_per_second, MOST),
        ] {
            if !(value > 0.0 && value <= most) {
                return usage(format!("{name} {value}: more than 0 and at most {most} is needed"));
            }
        }
        if self.qd == 0 {
            return usage("--qd 0: at least one request has to be on its way".into());
        }
        served::ring(self.qd.into()).map(drop)
    }

    /// Asks whether data may be overwritten.
    fn ask(
        &self,
        core: &Core,
        service: &Service,
        target: &Target,
        bytes: u64,
    ) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        let Target { address, model, serial, namespace, size, .. } = target;
        let holds = content(core, service);
        let holds = holds.map_or_else(String::new, |what| format!("; it holds {what}"));
        let what = format!(
            "the first {} of {address} ({model}, serial {serial}, namespace {namespace}, {}){holds}",
            size::show(bytes),
            size::show(*size)
        );
        if !std::io::stdin().is_terminal() {
            let message =
                format!("this would overwrite {what}, and there is no terminal to ask at");
            return Err(Failure::new(message).with_help("if nothing there is needed, add --yes"));
        }
        warn(&format!("this overwrites {what}, and its driver is killed again and again"));
        anstream::eprint!("Go on? Type yes: ");
        // Standard error is not buffered; what cannot be shown is not answered.
        let _ = std::io::stderr().flush();
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
        if answer.trim() == "yes" {
            return Ok(());
        }
        Err(Failure::new("nothing was done"))
    }

    /// Where random numbers start.
    fn seed(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.seed.unwrap_or(now.as_nanos() as u64)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.patience)
    }
}

/// A flag that nobody has set.
const fn unset() -> AtomicBool {
    AtomicBool::new(false)
}
