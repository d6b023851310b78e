//! What `uniddrv bench --json` prints, as far as tasks use it.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::table::{Table, duration, thousands};

/// One measurement.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Measurement {
    pub(crate) qd: u32,
    pub(crate) iops: f64,
    pub(crate) mib_s: f64,
    pub(crate) lat_ns: Latency,
    pub(crate) errors: u64,
    /// Blocks whose content was checked.
    pub(crate) verified: u64,
    pub(crate) mismatches: u64,
    /// The same through Linux's own driver.
    #[serde(default)]
    pub(crate) native: Vec<Native>,
    #[serde(default)]
    pub(crate) calibration: Option<Calibration>,
}

/// A latency's percentiles, in nanoseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
}

/// What fio measured on Linux's block device.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Native {
    /// `io_uring` or `libaio`.
    pub(crate) engine: String,
    pub(crate) iops: f64,
    pub(crate) mib_s: f64,
    pub(crate) lat_ns: Latency,
}

/// What the machine itself costs, measured in the same run.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Calibration {
    /// The measuring loop without a device, nanoseconds a request.
    pub(crate) loop_ns: f64,
    #[serde(default)]
    pub(crate) round_trip: Option<RoundTrip>,
}

/// A cache line's way to another CPU and back.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct RoundTrip {
    pub(crate) cpus: (u32, u32),
    pub(crate) ns: f64,
}

impl Measurement {
    /// Requests a second beside those of one of fio's engines.
    pub(crate) fn factor(&self, engine: &str) -> Option<f64> {
        let native = self.native.iter().find(|native| native.engine == engine)?;
        (native.iops > 0.0).then(|| self.iops / native.iops)
    }
}

/// The measurements in `text`, in which nothing must have gone wrong.
pub(crate) fn parse(text: &str) -> Result<Vec<Measurement>> {
    let mut value: Value = serde_json::from_str(text).context("reading what was measured")?;
    let measurements: Vec<Measurement> = match value.get_mut("results") {
        Some(results) => serde_json::from_value(results.take()),
        None => serde_json::from_value(value).map(|one| vec![one]),
    }
    .context("reading what was measured")?;
    if measurements.is_empty() {
        bail!("nothing was measured");
    }
    for Measurement { qd, errors, mismatches, .. } in &measurements {
        if errors + mismatches > 0 {
            bail!("queue depth {qd}: {errors} requests failed, {mismatches} brought wrong data");
        }
    }
    Ok(measurements)
}

/// uniddrv and Linux's own driver side by side.
pub(crate) fn beside_linux(measurements: &[Measurement]) -> Table {
    let headings = ["queue depth", "driver", "IOPS", "median", "99 %", "uniddrv is faster by"];
    let mut table = Table::new(2, &headings);
    for one in measurements {
        let mut row = |driver: String, iops: f64, lat: Latency, factor: Option<f64>| {
            table.row([
                one.qd.to_string(),
                driver,
                thousands(iops),
                duration(lat.p50),
                duration(lat.p99),
                factor.map_or_else(String::new, |factor| format!("{factor:.1} times")),
            ]);
        };
        for native in &one.native {
            let driver = format!("Linux, {}", native.engine);
            row(driver, native.iops, native.lat_ns, one.factor(&native.engine));
        }
        row("uniddrv".to_owned(), one.iops, one.lat_ns, None);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"target": "0000:00:11.0", "qd": 32, "iops": 200.0, "mib_s": 0.8,
        "lat_ns": {"min": 1, "p50": 2, "p90": 2, "p99": 3, "p999": 4, "p9999": 4, "max": 9},
        "errors": 0, "verified": 0, "mismatches": 0,
        "native": [{"engine": "io_uring", "iops": 20.0, "mib_s": 0.1,
            "lat_ns": {"p50": 5, "p99": 6, "p999": 7}}]}"#;

    #[test]
    fn one_measurement_and_several_are_read() {
        let one = parse(ONE).unwrap();
        assert_eq!((one[0].qd, one[0].lat_ns.p999), (32, 4));
        assert_eq!(one[0].factor("io_uring"), Some(10.0));
        assert_eq!(one[0].factor("libaio"), None);
        let several = parse(&format!(r#"{{"results": [{ONE}, {ONE}]}}"#)).unwrap();
        assert_eq!(several.len(), 2);
    }

    #[test]
    fn both_sides_are_shown() {
        let text = beside_linux(&parse(ONE).unwrap()).text();
        let wanted = ["32  Linux, io_uring  20 5 ns 6 ns 10.0 times", "32  uniddrv 200 2 ns 3 ns"];
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let rows = text.lines().skip(2).map(squeeze);
        assert_eq!(rows.collect::<Vec<_>>(), wanted.map(squeeze));
    }

    #[test]
    fn a_failed_request_is_an_error() {
        let failed = ONE.replace(r#""errors": 0"#, r#""errors": 2"#);
        let error = parse(&failed).unwrap_err().to_string();
        assert_eq!(error, "queue depth 32: 2 requests failed, 0 brought wrong data");
        assert!(parse(r#"{"results": []}"#).is_err());
        assert!(parse("").is_err());
    }
}
