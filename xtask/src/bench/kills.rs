//! Drivers killed under load: `uniddrv torture`'s figures.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::core::{Core, NAME, Plan};
use crate::model::Cpus;
use crate::uniddrv::Uniddrv;

/// A device that keeps data, as all of it is checked.
const DEVICE: &str = "model:nvme?size=1G";
/// What `uniddrv torture --json` prints, as far as tasks use it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Outcome {
    pub(super) seconds: f64,
    pub(super) kills: u64,
    pub(super) adoptions: u64,
    pub(super) resets: u64,
    pub(super) ios: u64,
    pub(super) verified: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) corrupted: u64,
    pub(super) errors: u64,
    /// By the way in which the device was taken over.
    pub(super) paths: BTreeMap<String, Times>,
}

/// Times of one way, in nanoseconds.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Times {
    #[serde(rename = "gap_ns")]
    pub(super) gap: Stats,
    #[serde(rename = "detection_ns")]
    pub(super) detection: Stats,
    #[serde(rename = "hand_over_ns")]
    pub(super) hand_over: Stats,
    #[serde(rename = "adoption_ns")]
    pub(super) adoption: Stats,
    #[serde(rename = "first_completion_ns")]
    pub(super) first_completion: Stats,
}

/// A distribution, in nanoseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Stats {
    pub(super) count: u64,
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
    /// Where each bin begins, ten in a decade, and how many times are in it.
    pub(super) histogram: Vec<(u64, u64)>,
}

impl Times {
    /// All with their names, the gap first.
    pub(super) fn parts(&self) -> [(&'static str, &Stats); 5] {
        [
            ("in all, as a client sees it", &self.gap),
            ("detection", &self.detection),
            ("hand-over", &self.hand_over),
            ("adoption", &self.adoption),
            ("first completion", &self.first_completion),
        ]
    }
}

/// How a driver is harmed.
pub(super) struct Harm {
    /// As `uniddrv torture` calls it.
    pub(super) kind: &'static str,
    /// In a second: a successor is there again by the next.
    pub(super) rate: u32,
}

/// The successor adopts the device.
pub(super) const KILL: Harm = Harm { kind: "kill", rate: 8 };
/// The successor has to reset it.
pub(super) const SCRAMBLE: Harm = Harm { kind: "scramble", rate: 1 };

/// Harms the driver about `count` times, in one way.
///
/// With two CPUs the driver has one, and client, device and core share the other.
/// A page with plots is left at `folder/HARM.html`.
pub(super) fn measure(
    uniddrv: &Uniddrv,
    folder: &Path,
    harm: &Harm,
    count: u32,
) -> Result<Outcome> {
    let cpus = Cpus::choose()?;
    let log = folder.join("core.log");
    let plan =
        Plan { address: DEVICE, driver_cpu: Some(cpus.model), cpu: Some(cpus.driver), log: &log };
    let core = Core::start(uniddrv, &plan)?;
    core.settle()?;
    let (seconds, rate) = (count.div_ceil(harm.rate).to_string(), harm.rate.to_string());
    let torture = ["torture", NAME, "--yes", "--json", "--harm", harm.kind, "--qd", "32"];
    let page = folder.join(format!("{}.html", harm.kind));
    let page = page.to_str().context("the target folder's path is not UTF-8")?;
    let times = ["--seconds", &seconds, "--kills-per-second", &rate, "--report", page];
    parse(&core.output(&[torture.as_slice(), &times].concat())?)
}

fn parse(text: &str) -> Result<Outcome> {
    let kills: Outcome = serde_json::from_str(text).context("reading what was tortured")?;
    let Outcome { lost, duplicated, corrupted, errors, .. } = kills;
    if lost + duplicated + corrupted + errors > 0 {
        bail!(
            "{lost} requests lost, {duplicated} duplicated, {corrupted} corrupted, {errors} failed"
        );
    }
    if kills.kills == 0 {
        bail!("no driver was killed");
    }
    Ok(kills)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"seconds": 2.0, "kills": 3, "adoptions": 3, "resets": 0, "ios": 1000,
        "verified": 500, "lost": 0, "duplicated": 0, "corrupted": 0, "errors": 0,
        "paths": {"adopted": {
            "gap_ns": {"count": 3, "min": 1, "p50": 300, "p90": 400, "p99": 500, "max": 600,
                "histogram": [[251, 2], [501, 1]]},
            "detection_ns": {"count": 3, "min": 1, "p50": 30, "p90": 40, "p99": 50, "max": 60, "histogram": []},
            "hand_over_ns": {"count": 0, "min": 0, "p50": 0, "p90": 0, "p99": 0, "max": 0, "histogram": []},
            "adoption_ns": {"count": 0, "min": 0, "p50": 0, "p90": 0, "p99": 0, "max": 0, "histogram": []},
            "first_completion_ns": {"count": 0, "min": 0, "p50": 0, "p90": 0, "p99": 0, "max": 0, "histogram": []}
        }}}"#;

    #[test]
    fn figures_are_read_and_wrongs_are_errors() {
        let kills = parse(ONE).unwrap();
        let parts = kills.paths["adopted"].parts();
        assert_eq!((kills.kills, parts[0].1.p99, parts[1].1.p50), (3, 500, 30));
        let lost = parse(&ONE.replace(r#""lost": 0"#, r#""lost": 1"#)).unwrap_err();
        assert!(lost.to_string().starts_with("1 requests lost"), "{lost}");
        assert!(parse(&ONE.replace(r#""kills": 3"#, r#""kills": 0"#)).is_err());
    }
}
