//! `uniddrv status`.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use uniddrv::client::{Death, DriverStatus};
use uniddrv_core::config::Accounts;

use crate::Context;
use crate::bench::machine;
use crate::bench::result::{counted, duration, thousands};
use crate::bench::size;
use crate::error::Failure;
use crate::output::{self, HEADING, printable};
use crate::served::{self, HolderRow};
use crate::signals::stop_flag;

/// How often it is looked whether Ctrl-C was pressed.
const TICK: Duration = Duration::from_millis(50);
/// The longest time between two looks that can be asked for: a day.
const LONGEST: f64 = 86_400.0;

/// Show what the drivers do: throughput, latencies, who uses them, how they died and recovered
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Only the driver of this name, such as nvme:0
    name: Option<String>,

    /// Show it again and again, with rates since the last time; with --json a line each time
    #[arg(long, value_name = "SECONDS")]
    watch: Option<f64>,
}

/// A driver in the JSON output.
#[derive(Serialize)]
struct Row {
    name: String,
    address: String,
    driver: String,
    state: String,
    pid: i32,
    cpu: Option<u32>,
    warm: bool,
    asleep: bool,
    iops: f64,
    mib_s: f64,
    latency_ns: Latency,
    in_flight: u64,
    ios: u64,
    errors: u64,
    bytes_read: u64,
    bytes_written: u64,
    seconds: f64,
    restarts: u64,
    adoptions: u64,
    resets: u64,
    deaths: Vec<DeathRow>,
    holders: Vec<HolderRow>,
}

#[derive(Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// The end of a driver process in the JSON output.
#[derive(Serialize)]
pub(super) struct DeathRow {
    time: u64,
    pid: i32,
    cause: String,
    last_words: Option<String>,
    request: Option<String>,
    recovery: String,
    detection_ns: u64,
    hand_over_ns: u64,
    adoption_ns: u64,
    first_completion_ns: u64,
}

impl DeathRow {
    pub(super) fn new(death: &Death) -> Self {
        let Death {
            time, pid, detection_ns, hand_over_ns, adoption_ns, first_completion_ns, ..
        } = *death;
        Self {
            time,
            pid,
            cause: death.cause.clone(),
            last_words: death.last_words.clone(),
            request: death.request.clone(),
            recovery: death.recovery.clone(),
            detection_ns,
            hand_over_ns,
            adoption_ns,
            first_completion_ns,
        }
    }
}

impl Row {
    fn new(status: &DriverStatus, accounts: &Accounts) -> Self {
        let [p50, p99, p999, max] = status.latency_ns;
        Self {
            name: status.name.clone(),
            address: status.address.clone(),
            driver: status.driver.clone(),
            state: status.state.clone(),
            pid: status.pid,
            cpu: status.cpu,
            warm: status.warm,
            asleep: status.asleep,
            iops: finite(status.iops),
            mib_s: mib_s(status),
            latency_ns: Latency { p50, p99, p999, max },
            in_flight: status.in_flight,
            ios: status.ios,
            errors: status.errors,
            bytes_read: status.bytes_read,
            bytes_written: status.bytes_written,
            seconds: Duration::from_nanos(status.elapsed_ns).as_secs_f64(),
            restarts: status.restarts,
            adoptions: status.adoptions,
            resets: status.resets,
            deaths: status.deaths.iter().map(DeathRow::new).collect(),
            holders: status.holders.iter().map(|one| HolderRow::new(one, accounts)).collect(),
        }
    }
}

/// A rate as JSON can tell it.
fn finite(rate: f64) -> f64 {
    if rate.is_finite() { rate } else { 0.0 }
}

fn mib_s(status: &DriverStatus) -> f64 {
    finite(status.bytes_per_second) / f64::from(1 << 20)
}

impl Status {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let given = self.name.as_deref();
        let Some(seconds) = self.watch else {
            let core = served::connect()?;
            let drivers = served::drivers(&core, given)?;
            let accounts = served::accounts(&context.root);
            let rows: Vec<Row> = drivers.iter().map(|one| Row::new(one, &accounts)).collect();
            return context.out.data(&rows, || text(&drivers, &accounts));
        };
        if !(seconds > 0.0 && seconds <= LONGEST) {
            let message = format!("--watch {seconds}: more than 0 and at most a day is needed");
            return Err(Failure::usage(anyhow::Error::msg(message)));
        }
        self.watch(context, Duration::from_secs_f64(seconds))
    }

    /// Prints until Ctrl-C or until nobody reads it any more. Rates are of one connection.
    fn watch(&self, context: &Context, interval: Duration) -> Result<(), Failure> {
        let stop = stop_flag()?;
        let core = served::connect()?;
        let accounts = served::accounts(&context.root);
        // Where a person looks, the new takes the place of the old.
        let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let left = next.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                std::thread::sleep(left.min(TICK));
                continue;
            }
            next = Instant::now() + interval;
            let drivers = served::drivers(&core, self.name.as_deref())?;
            let page = if context.out.is_json() {
                let rows: Vec<Row> = drivers.iter().map(|one| Row::new(one, &accounts)).collect();
                serde_json::to_string(&rows)? + "\n"
            } else {
                let now = machine::now();
                format!("{clear}{HEADING}{now}{HEADING:#}\n\n{}\n", text(&drivers, &accounts))
            };
            if !output::page(&page)? {
                break;
            }
        }
        Ok(())
    }
}

fn text(drivers: &[DriverStatus], accounts: &Accounts) -> String {
    if drivers.is_empty() {
        return "the core has no driver that this user may see; to give it a device: uniddrv bind \
                ADDRESS\n"
            .into();
    }
    let texts: Vec<String> = drivers.iter().map(|driver| describe(driver, accounts)).collect();
    texts.join("\n")
}

fn describe(status: &DriverStatus, accounts: &Accounts) -> String {
    let [p50, p99, p999, max] = status.latency_ns.map(duration);
    let process = match status.pid {
        0 => "no process".to_owned(),
        pid => format!("process {pid}"),
    };
    let cpu = status.cpu.map_or_else(String::new, |cpu| format!(" on CPU {cpu}"));
    let asleep = if status.asleep { ", asleep" } else { "" };
    let successor = if status.warm { "a successor is ready" } else { "no successor is ready" };
    let bytes = size::show;
    let seconds = Duration::from_nanos(status.elapsed_ns).as_secs_f64();
    let style = Style::new().fg_color(Some(match status.state.as_str() {
        "running" => AnsiColor::Green.into(),
        "stopped" => AnsiColor::Red.into(),
        _ => AnsiColor::Yellow.into(),
    }));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{HEADING}{}{HEADING:#}  {style}{}{style:#}  {}",
        printable(&status.name),
        printable(&status.state),
        printable(&status.address)
    );
    let driver = printable(&status.driver);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<11}{value}");
    };
    line("driver", format!("{driver}, {process}{cpu}{asleep}; {successor}"));
    line(
        "now",
        format!(
            "{} IOPS, {} MiB/s, {} in flight",
            thousands(finite(status.iops)),
            thousands(mib_s(status)),
            status.in_flight
        ),
    );
    line("latency", format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}"));
    line(
        "in all",
        format!(
            "{} requests, {} failed, {} read, {} written, in {seconds:.0} s",
            thousands(status.ios as f64),
            thousands(status.errors as f64),
            bytes(status.bytes_read),
            bytes(status.bytes_written)
        ),
    );
    line(
        "replaced",
        format!(
            "{}: {}, {} of the device",
            counted(status.restarts as usize, "time"),
            counted(status.adoptions as usize, "adoption"),
            counted(status.resets as usize, "reset")
        ),
    );
    for holder in &status.holders {
        line(
            "held by",
            format!(
                "client {}: {} of {} (process {}), to {}, {}, {}",
                holder.client,
                printable(&holder.program),
                served::user(accounts, holder.uid),
                holder.pid,
                served::rights(holder.rights),
                counted(holder.queues.into(), "queue"),
                counted(holder.ios as usize, "request")
            ),
        );
    }
    for death in status.deaths.iter().rev() {
        line("death", death_line(death));
        for (name, said) in [("last words", &death.last_words), ("request", &death.request)] {
            if let Some(said) = said {
                line("", format!("{name}: {}", printable(said)));
            }
        }
    }
    text
}

fn death_line(death: &Death) -> String {
    let Death { time, pid, cause, .. } = death;
    let time = machine::moment(*time);
    format!("{time}: process {pid}: {}; {}", printable(cause), recovery(death))
}

/// How a device was taken over, and how long each part of that took.
pub(super) fn recovery(death: &Death) -> String {
    let times = [
        ("detection", death.detection_ns),
        ("hand-over", death.hand_over_ns),
        ("adoption", death.adoption_ns),
        ("first completion", death.first_completion_ns),
    ];
    let times: Vec<String> =
        times.iter().map(|(name, ns)| format!("{name} {}", duration(*ns))).collect();
    format!("{} ({})", printable(&death.recovery), times.join(", "))
}
