//! What a benchmark prints: an object for programs, tables for people.

use std::fmt::Write as _;

use serde::Serialize;

use super::calibrate::Calibration;
use super::latency::{Distribution, LatencyNs};
use super::run::Outcome;
use super::size;
use super::workload::Rw;
use crate::output::Table;

/// The device that was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Target {
    #[serde(rename = "target")]
    pub(crate) address: String,
    pub(crate) transport: String,
    /// Whether the core drives it: the target is a name.
    pub(crate) served: bool,
    pub(crate) model: String,
    pub(crate) serial: String,
    pub(crate) namespace: u32,
    /// Bytes in a block.
    pub(crate) block_size: u32,
    /// Bytes of the namespace.
    pub(crate) size: u64,
}

/// One measurement. What it holds beyond the benchmark's own promise may grow.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measurement {
    #[serde(flatten)]
    pub(crate) target: Target,
    pub(crate) rw: &'static str,
    /// Bytes in a request.
    pub(crate) bs: u64,
    pub(crate) qd: usize,
    pub(crate) cores: usize,
    pub(crate) cpus: Vec<u32>,
    pub(crate) seconds: f64,
    pub(crate) ios: u64,
    pub(crate) iops: f64,
    pub(crate) mib_s: f64,
    pub(crate) lat_ns: LatencyNs,
    pub(crate) mean_ns: f64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) errors: u64,
    pub(crate) error_samples: Vec<String>,
    /// Blocks whose content was checked.
    pub(crate) verified: u64,
    pub(crate) mismatches: u64,
    pub(crate) mismatch_samples: Vec<String>,
    pub(crate) interrupted: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) native: Vec<Native>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) calibration: Option<Calibration>,
    #[serde(skip)]
    pub(crate) curve: Vec<(f64, u64)>,
}

/// The same workload through Linux's own driver, measured by fio.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Native {
    /// fio's engine: `io_uring` or `libaio`.
    pub(crate) engine: &'static str,
    pub(crate) seconds: f64,
    pub(crate) ios: u64,
    pub(crate) iops: f64,
    pub(crate) mib_s: f64,
    pub(crate) lat_ns: LatencyNs,
    #[serde(skip)]
    pub(crate) curve: Vec<(f64, u64)>,
}

/// Several measurements of one device.
#[derive(Serialize)]
pub(crate) struct Several<'a> {
    #[serde(flatten)]
    target: &'a Target,
    rw: &'static str,
    bs: u64,
    cores: usize,
    results: &'a [Measurement],
}

impl Measurement {
    /// What a phase came to, in rates.
    pub(crate) fn new(
        target: &Target,
        (rw, bs, qd): (Rw, u64, usize),
        (cores, cpus): (usize, &[u32]),
        outcome: &Outcome,
    ) -> Self {
        let ios = outcome.ios();
        let iops = rate(ios, outcome.seconds);
        let Distribution { lat_ns, mean_ns, curve } = outcome.latency.clone();
        Self {
            target: target.clone(),
            rw: rw.name(),
            bs,
            qd,
            cores,
            cpus: cpus.to_vec(),
            seconds: outcome.seconds,
            ios,
            iops,
            mib_s: mib_s(iops, bs),
            lat_ns,
            mean_ns,
            reads: outcome.reads,
            writes: outcome.writes,
            errors: outcome.errors,
            error_samples: outcome.error_samples.iter().map(ToString::to_string).collect(),
            verified: outcome.verified,
            mismatches: outcome.mismatches,
            mismatch_samples: outcome.mismatch_samples.iter().map(ToString::to_string).collect(),
            interrupted: outcome.interrupted,
            native: Vec::new(),
            calibration: None,
            curve,
        }
    }
}

/// Requests a second.
pub(crate) fn rate(ios: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { ios as f64 / seconds } else { 0.0 }
}

/// MiB a second at `iops` requests of `bs` bytes.
pub(crate) fn mib_s(iops: f64, bs: u64) -> f64 {
    iops * bs as f64 / f64::from(1 << 20)
}

/// What `--json` prints: one object for one measurement; for several, one with `results`.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Object<'a> {
    One(&'a Measurement),
    Several(Several<'a>),
    None {},
}

impl<'a> Object<'a> {
    pub(crate) fn new(measurements: &'a [Measurement]) -> Self {
        match measurements {
            [] => Self::None {},
            [one] => Self::One(one),
            [first, ..] => Self::Several(Several {
                target: &first.target,
                rw: first.rw,
                bs: first.bs,
                cores: first.cores,
                results: measurements,
            }),
        }
    }
}

/// What was measured, a table, and what went wrong.
pub(crate) fn text(measurements: &[Measurement]) -> String {
    let Some(first) = measurements.first() else { return String::new() };
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}\n{}\n", describe_target(&first.target), describe_workload(first));
    let compare = measurements.iter().any(|m| !m.native.is_empty());
    let mut headings = vec!["QD"];
    if compare {
        headings.push("DRIVER");
    }
    headings.extend(["IOPS", "MiB/s", "MIN", "P50", "P90", "P99", "P99.9", "P99.99", "MAX"]);
    if compare {
        headings.push("RATIO");
    }
    let mut table = Table::new(&headings);
    for m in measurements {
        let ours = (format!("uniddrv {}", m.target.transport), m.iops, m.mib_s, m.lat_ns, None);
        let natives = m.native.iter().map(|native| {
            let ratio = if native.iops > 0.0 { Some(m.iops / native.iops) } else { None };
            (format!("Linux {}", native.engine), native.iops, native.mib_s, native.lat_ns, ratio)
        });
        for (driver, iops, mib_s, lat, ratio) in std::iter::once(ours).chain(natives) {
            let mut row = vec![m.qd.to_string()];
            if compare {
                row.push(driver);
            }
            row.extend([thousands(iops), format!("{mib_s:.1}")]);
            row.extend(percentiles(&lat).map(|(_, ns)| duration(ns)));
            row.extend(ratio.map(|ratio| format!("{ratio:.1}x")));
            table.row(row);
        }
    }
    text.push_str(&table.render());
    for note in notes(measurements) {
        let _ = write!(text, "\n{note}\n");
    }
    text
}

/// `0000:03:00.0 (vfio): QEMU NVMe Ctrl, serial 1, namespace 1: 1 GiB in blocks of 512 B`.
pub(crate) fn describe_target(target: &Target) -> String {
    let Target { address, transport, model, serial, namespace, block_size, size, .. } = target;
    let served = if target.served { ", driven by the core" } else { "" };
    format!(
        "{address} ({transport}{served}): {model}, serial {serial}, namespace {namespace}: {} in blocks of {}",
        size::show(*size),
        size::show((*block_size).into()),
    )
}

/// `randread, 4 KiB, 1 core (CPU 1), 10.0 s`.
pub(crate) fn describe_workload(m: &Measurement) -> String {
    let cores = if m.cores == 1 { "1 core".into() } else { format!("{} cores", m.cores) };
    let cpus = m.cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let cpus = if cpus.is_empty() { String::new() } else { format!(" (CPU {cpus})") };
    format!("{}, {}, {cores}{cpus}, {:.1} s", m.rw, size::show(m.bs), m.seconds)
}

/// What a reader has to know beside the figures.
pub(crate) fn notes(measurements: &[Measurement]) -> Vec<String> {
    let mut notes = Vec::new();
    for m in measurements {
        let at = if measurements.len() > 1 {
            format!(" at queue depth {}", m.qd)
        } else {
            String::new()
        };
        if m.interrupted {
            notes.push(format!("interrupted{at} after {:.1} s: partial results", m.seconds));
        }
        if m.errors > 0 {
            notes.push(format!("{} requests failed{at}:{}", m.errors, lines(&m.error_samples)));
        }
        if m.mismatches > 0 {
            let samples = lines(&m.mismatch_samples);
            notes.push(format!("{} reads brought wrong data{at}:{samples}", m.mismatches));
        } else if m.verified > 0 {
            notes.push(format!("{} blocks verified{at}", thousands(m.verified as f64)));
        }
    }
    // Measured once, whatever was measured beside it.
    if let Some(Calibration { loop_ns, round_trip }) =
        measurements.first().and_then(|m| m.calibration)
    {
        let mut note = format!("the measuring loop alone: {loop_ns:.1} ns a request");
        if let Some(trip) = round_trip {
            let (one, other) = trip.cpus;
            let _ = write!(note, "; a cache line CPU {one}-{other}-{one}: {:.0} ns", trip.ns);
        }
        notes.push(note);
    }
    notes
}

fn lines(samples: &[String]) -> String {
    samples.iter().fold(String::new(), |text, sample| text + "\n  " + sample)
}

/// The percentiles of a table, with their names.
pub(crate) fn percentiles(lat: &LatencyNs) -> [(&'static str, u64); 7] {
    let LatencyNs { min, p50, p90, p99, p999, p9999, max } = *lat;
    [
        ("min", min),
        ("p50", p50),
        ("p90", p90),
        ("p99", p99),
        ("p99.9", p999),
        ("p99.99", p9999),
        ("max", max),
    ]
}

/// `1 read`, `2 reads`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Nanoseconds for people, three digits.
pub(crate) fn duration(ns: u64) -> String {
    let value = ns as f64;
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (value / 1e3, "µs"),
        1_000_000..1_000_000_000 => (value / 1e6, "ms"),
        _ => (value / 1e9, "s"),
    };
    let digits = match value {
        0.0..9.995 => 2,
        9.995..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// A rounded number with commas: `1,234,567`.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn measurement(qd: usize, iops: f64) -> Measurement {
        let target = Target {
            address: "model:nvme?size=1G".into(),
            transport: "inline".into(),
            served: false,
            model: "Model <1>".into(),
            serial: "S1".into(),
            namespace: 1,
            block_size: 512,
            size: 1 << 30,
        };
        let ns = (1e9 * qd as f64 / iops) as u64;
        let lat_ns = LatencyNs {
            min: ns / 2,
            p50: ns,
            p90: ns * 2,
            p99: ns * 3,
            p999: ns * 10,
            p9999: ns * 50,
            max: ns * 1000,
        };
        let latency = Distribution {
            lat_ns,
            mean_ns: ns as f64,
            curve: vec![(0.0, ns / 2), (0.5, ns), (0.9, ns * 2), (0.99, ns * 3), (0.999, ns * 10)],
        };
        let outcome =
            Outcome { seconds: 2.0, reads: (iops * 2.0) as u64, latency, ..Outcome::default() };
        Measurement::new(&target, (Rw::RandRead, 4096, qd), (1, &[1]), &outcome)
    }

    pub(crate) fn native(engine: &'static str, iops: f64) -> Native {
        let lat_ns = LatencyNs {
            min: 1,
            p50: 2000,
            p90: 3000,
            p99: 4000,
            p999: 5000,
            p9999: 6000,
            max: 7000,
        };
        let curve = vec![(0.5, 2000), (0.99, 4000)];
        Native { engine, seconds: 2.0, ios: 100, iops, mib_s: 1.0, lat_ns, curve }
    }

    fn json(measurements: &[Measurement]) -> serde_json::Value {
        serde_json::to_value(Object::new(measurements)).unwrap()
    }

    #[test]
    fn the_object_has_what_was_promised() {
        let value = json(&[measurement(32, 1e6)]);
        for key in [
            "target",
            "transport",
            "rw",
            "bs",
            "qd",
            "cores",
            "seconds",
            "ios",
            "iops",
            "mib_s",
            "lat_ns",
        ] {
            assert!(value.get(key).is_some(), "{key} is missing in {value}");
        }
        for key in ["min", "p50", "p90", "p99", "p999", "p9999", "max"] {
            assert!(value["lat_ns"][key].is_u64(), "{key} is missing in {value}");
        }
        assert_eq!((value["ios"].as_u64(), value["bs"].as_u64()), (Some(2_000_000), Some(4096)));
        assert_eq!(value["mib_s"].as_f64(), Some(3906.25));
        assert!(value.get("native").is_none());
    }

    #[test]
    fn several_depths_are_an_array() {
        let mut second = measurement(32, 2e6);
        second.native = vec![native("io_uring", 5e5)];
        let value = json(&[measurement(1, 1e6), second]);
        assert_eq!(value["results"].as_array().unwrap().len(), 2);
        assert_eq!(value["results"][1]["native"][0]["engine"], "io_uring");
        assert_eq!(value["rw"], "randread");
    }

    #[test]
    fn the_table_shows_both_sides() {
        let mut one = measurement(32, 2e6);
        one.native = vec![native("io_uring", 5e5)];
        one.errors = 3;
        one.error_samples = vec!["read of LBA 7: beyond".into()];
        let text = anstream::adapter::strip_str(&text(&[one])).to_string();
        for part in [
            "model:nvme?size=1G (inline)",
            "1 GiB in blocks of 512 B",
            "2,000,000",
            "Linux io_uring",
            "4.0x",
            "3 requests failed:\n  read of LBA 7",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn figures_are_shown_short() {
        assert_eq!(
            [999, 1_000, 12_345, 999_400, 5_000_000, 61_000_000_000].map(duration),
            ["999 ns", "1.00 µs", "12.3 µs", "999 µs", "5.00 ms", "61.0 s"]
        );
        assert_eq!(
            [0.0, 999.0, 1000.0, 1_234_567.8].map(thousands),
            ["0", "999", "1,000", "1,234,568"]
        );
    }
}
