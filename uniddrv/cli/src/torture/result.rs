//! What a torture prints: an object for programs, tables for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use uniddrv::client::Death;

use super::harm::{Event, Kind};
use super::load::{Counts, Wrongs};
use super::stats::Stats;
use crate::bench::result::{Target, counted, describe_target, duration, thousands};
use crate::bench::size;
use crate::output::Table;

/// The widest bar of a histogram in text, in letters.
const WIDEST: u64 = 40;

/// How a driver was taken over, which decides how long that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Path {
    /// A successor that was ready adopted the running device.
    Adopted,
    /// So too, but the driver hung, which had to be noticed first.
    Hung,
    /// So too, but no successor was ready yet.
    Cold,
    /// The device was reset.
    Reset,
    /// The successor was harmed as well, while it took over.
    Repeated,
}

impl Path {
    /// The path that an event went.
    pub(crate) fn of(event: &Event) -> Self {
        match event {
            Event { again: Some(_), .. } => Self::Repeated,
            event if event.recovery() == "reset" => Self::Reset,
            Event { warm: false, .. } => Self::Cold,
            Event { kind: Kind::Hang, .. } => Self::Hung,
            _ => Self::Adopted,
        }
    }

    /// In words.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Adopted => "adopted by a successor that was ready",
            Self::Hung => "adopted after a hang",
            Self::Cold => "adopted, no successor was ready",
            Self::Reset => "the device was reset",
            Self::Repeated => "the successor was harmed too",
        }
    }
}

/// Times of one path, in nanoseconds: the client's, and the parts of it that the core reports.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Times {
    /// From before the order to harm the driver to the successor's first completion.
    #[serde(rename = "gap_ns")]
    pub(crate) gap: Stats,
    /// From the harm, or the last sign of life, until it was noticed.
    #[serde(rename = "detection_ns")]
    pub(crate) detection: Stats,
    /// From there until the successor had the word.
    #[serde(rename = "hand_over_ns")]
    pub(crate) hand_over: Stats,
    /// From there until it ran the device.
    #[serde(rename = "adoption_ns")]
    pub(crate) adoption: Stats,
    /// From there to the first completion.
    #[serde(rename = "first_completion_ns")]
    pub(crate) first_completion: Stats,
}

impl Times {
    fn of(events: &[&Event]) -> Self {
        // Where drivers die in a row, the parts of one are not those of the gap.
        let parts = |part: fn(&Death) -> u64| {
            let single = events.iter().filter(|event| event.deaths.len() == 1);
            let times = single.filter_map(|event| Some(part(event.deaths.first()?)));
            // What the core could not tell is 0.
            Stats::of(times.filter(|&ns| ns > 0).collect())
        };
        Self {
            gap: Stats::of(events.iter().filter_map(|event| event.gap_ns).collect()),
            detection: parts(|death| death.detection_ns),
            hand_over: parts(|death| death.hand_over_ns),
            adoption: parts(|death| death.adoption_ns),
            first_completion: parts(|death| death.first_completion_ns),
        }
    }

    /// All with their names, the gap first.
    pub(crate) fn parts(&self) -> [(&'static str, &Stats); 5] {
        [
            ("gap", &self.gap),
            ("detection", &self.detection),
            ("hand-over", &self.hand_over),
            ("adoption", &self.adoption),
            ("first completion", &self.first_completion),
        ]
    }
}

/// What was done to whom.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Given {
    #[serde(flatten)]
    pub(crate) target: Target,
    /// The kinds of harm, and how often each came.
    pub(crate) harm: String,
    pub(crate) kills_per_second: f64,
    pub(crate) qd: usize,
    /// Bytes at the start of the device that were written and read.
    pub(crate) worked_on: u64,
    /// Whether the device could write zeroes.
    pub(crate) writes_zeroes: bool,
    pub(crate) seed: u64,
}

/// What came of it. What it holds may grow.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    #[serde(flatten)]
    pub(crate) given: Given,
    pub(crate) seconds: f64,
    /// Drivers that were harmed.
    pub(crate) kills: u64,
    /// Successors that took the running device over.
    pub(crate) adoptions: u64,
    /// Resets of the device.
    pub(crate) resets: u64,
    /// Requests that ended while drivers were harmed.
    pub(crate) ios: u64,
    pub(crate) iops: f64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) write_zeroes: u64,
    pub(crate) flushes: u64,
    /// Blocks that were read and checked, byte for byte.
    pub(crate) verified: u64,
    /// Requests that never ended.
    pub(crate) lost: u64,
    /// Completions too many.
    pub(crate) duplicated: u64,
    /// Reads that brought something else than was written.
    pub(crate) corrupted: u64,
    /// Requests that ended with an error.
    pub(crate) errors: u64,
    /// Those among them that were given up because drivers died of them.
    pub(crate) poisoned: u64,
    pub(crate) samples: Vec<String>,
    pub(crate) error_samples: Vec<String>,
    /// As for the path `adopted`.
    pub(crate) gap_ns: Stats,
    /// How often each kind of harm was done.
    pub(crate) by_harm: BTreeMap<Kind, u64>,
    pub(crate) paths: BTreeMap<Path, Times>,
    /// Deaths that nobody asked for.
    pub(crate) other_deaths: Vec<String>,
    pub(crate) interrupted: bool,
}

/// What the requests came to.
pub(crate) struct Traffic<'a> {
    pub(crate) seconds: f64,
    /// Of the time when drivers were harmed.
    pub(crate) counts: Counts,
    /// Of all the time.
    pub(crate) errors: (u64, u64),
    pub(crate) wrongs: &'a Wrongs,
    pub(crate) error_samples: &'a [String],
    pub(crate) verified: u64,
}

impl Outcome {
    /// Of what happened to a driver, and to the requests; `(adoptions, resets)` as the core
    /// counted them.
    pub(crate) fn new(
        given: Given,
        events: &[Event],
        (adoptions, resets): (u64, u64),
        traffic: &Traffic<'_>,
        interrupted: bool,
    ) -> Self {
        let Traffic { seconds, counts, wrongs, verified, .. } = *traffic;
        let mut by_harm = BTreeMap::new();
        for kind in events.iter().flat_map(|event| [Some(event.kind), event.again]).flatten() {
            *by_harm.entry(kind).or_insert(0) += 1;
        }
        let mut paths = BTreeMap::new();
        for path in events.iter().map(Path::of) {
            paths.entry(path).or_insert_with(|| {
                let same = events.iter().filter(|event| Path::of(event) == path);
                Times::of(&same.collect::<Vec<_>>())
            });
        }
        // The last deaths are those that were asked for.
        let others = events.iter().flat_map(|event| {
            let asked = 1 + usize::from(event.again.is_some());
            let more = event.deaths.len().saturating_sub(asked);
            event.deaths.iter().take(more).map(|death| death.cause.clone())
        });
        let (errors, poisoned) = traffic.errors;
        Self {
            given,
            seconds,
            kills: by_harm.values().sum(),
            adoptions,
            resets,
            ios: counts.ios(),
            iops: crate::bench::result::rate(counts.ios(), seconds),
            reads: counts.reads,
            writes: counts.writes,
            write_zeroes: counts.zeroes,
            flushes: counts.flushes,
            verified,
            lost: wrongs.lost,
            duplicated: wrongs.duplicated,
            corrupted: wrongs.corrupted,
            errors,
            poisoned,
            samples: wrongs.samples.clone(),
            error_samples: traffic.error_samples.to_vec(),
            gap_ns: paths
                .get(&Path::Adopted)
                .map(|times: &Times| times.gap.clone())
                .unwrap_or_default(),
            by_harm,
            paths,
            other_deaths: others.collect(),
            interrupted,
        }
    }

    /// What must not have happened, in words; nothing where all is well.
    pub(crate) fn complaint(&self) -> Option<String> {
        let wrongs = [
            (self.lost, "lost"),
            (self.duplicated, "duplicated"),
            (self.corrupted, "corrupted"),
            (self.errors.saturating_sub(self.poisoned), "failed"),
        ];
        let wrongs: Vec<String> = wrongs
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{} {what}", counted(*count as usize, "request")))
            .collect();
        (!wrongs.is_empty()).then(|| wrongs.join(", "))
    }
}

/// `kill=5,hang=1, 2 a second; queue depth 32, 64 MiB, 60.0 s, seed 7`.
pub(crate) fn describe_work(outcome: &Outcome) -> String {
    let Given { harm, kills_per_second, qd, worked_on, seed, .. } = &outcome.given;
    let (size, seconds) = (size::show(*worked_on), outcome.seconds);
    format!(
        "{harm}, {kills_per_second} a second; queue depth {qd}, {size}, {seconds:.1} s, seed {seed}"
    )
}

/// All of it.
pub(crate) fn text(outcome: &Outcome) -> String {
    let mut text =
        format!("{}\n{}\n\n", describe_target(&outcome.given.target), describe_work(outcome));
    let headings = [
        "KILLS",
        "ADOPTIONS",
        "RESETS",
        "REQUESTS",
        "IOPS",
        "VERIFIED",
        "LOST",
        "DUPLICATED",
        "CORRUPTED",
        "FAILED",
    ];
    let mut table = Table::new(&headings);
    let o = outcome;
    let cells = [
        o.kills as f64,
        o.adoptions as f64,
        o.resets as f64,
        o.ios as f64,
        o.iops,
        o.verified as f64,
        o.lost as f64,
        o.duplicated as f64,
        o.corrupted as f64,
        o.errors as f64,
    ];
    table.row(cells.map(thousands));
    text.push_str(&table.render());
    for (path, times) in &outcome.paths {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n{}:", path.name());
        let mut table = Table::new(&["TIME", "COUNT", "MIN", "P50", "P90", "P99", "MAX"]);
        for (name, stats) in times.parts().iter().filter(|(_, stats)| stats.count > 0) {
            let Stats { count, min, p50, p90, p99, max, .. } = **stats;
            let mut row = vec![(*name).to_owned(), count.to_string()];
            row.extend([min, p50, p90, p99, max].map(duration));
            table.row(row);
        }
        text.push_str(&table.render());
    }
    if let Some((path, times)) = outcome.paths.first_key_value() {
        let _ = write!(text, "\ngaps, {}:\n{}", path.name(), histogram(&times.gap));
    }
    for note in notes(outcome) {
        let _ = write!(text, "\n{note}\n");
    }
    text
}

/// Bars of letters.
fn histogram(stats: &Stats) -> String {
    let bins = stats.bins();
    let most = bins.iter().map(|bin| bin.2).max().unwrap_or(1).max(1);
    let mut text = String::new();
    for (begin, end, count) in bins {
        let length = (count * WIDEST).div_ceil(most) as usize;
        let range = format!("{} to {}", duration(begin), duration(end));
        let _ = writeln!(text, "  {range:<22} {} {count}", "█".repeat(length));
    }
    text
}

/// What a reader has to know beside the figures.
pub(crate) fn notes(outcome: &Outcome) -> Vec<String> {
    let lines =
        |samples: &[String]| samples.iter().fold(String::new(), |all, one| all + "\n  " + one);
    let mut notes = Vec::new();
    if outcome.interrupted {
        notes.push(format!("interrupted after {:.1} s", outcome.seconds));
    }
    if !outcome.samples.is_empty() {
        notes.push(format!("what went wrong, the first of each kind:{}", lines(&outcome.samples)));
    }
    if outcome.errors > 0 {
        let Outcome { errors, poisoned, error_samples, .. } = outcome;
        let errors = counted(*errors as usize, "request");
        notes.push(format!(
            "{errors} failed, {poisoned} of them given up as drivers had died of them:{}",
            lines(error_samples)
        ));
    }
    if !outcome.other_deaths.is_empty() {
        let deaths = counted(outcome.other_deaths.len(), "driver");
        notes.push(format!("{deaths} died unasked:{}", lines(&outcome.other_deaths)));
    }
    if !outcome.given.writes_zeroes {
        notes.push("the device does not write zeroes, so that was left out".into());
    }
    if cfg!(debug_assertions) {
        notes.push("a debug build: its times say nothing about speed".into());
    }
    notes
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn death(recovery: &str) -> Death {
        Death {
            time: 1,
            pid: 7,
            cause: "killed by SIGKILL".into(),
            last_words: None,
            request: None,
            recovery: recovery.into(),
            detection_ns: 100_000,
            hand_over_ns: 20_000,
            adoption_ns: 30_000,
            first_completion_ns: 4_000,
        }
    }

    pub(crate) fn event(kind: Kind, gap_ns: u64) -> Event {
        let (deaths, gap_ns) = (vec![death("adopted")], Some(gap_ns));
        Event { kind, again: None, sent: 1_000, warm: true, gap_ns, deaths }
    }

    pub(crate) fn outcome(events: &[Event], wrongs: &Wrongs) -> Outcome {
        let target = Target {
            address: "nvme:0/ns1".into(),
            transport: "vfio-user".into(),
            served: true,
            model: "Model <1>".into(),
            serial: "S1".into(),
            namespace: 1,
            block_size: 512,
            size: 1 << 30,
        };
        let given = Given {
            target,
            harm: "kill=1".into(),
            kills_per_second: 2.0,
            qd: 32,
            worked_on: 64 << 20,
            writes_zeroes: true,
            seed: 7,
        };
        let counts =
            Counts { reads: 60, writes: 30, zeroes: 8, flushes: 2, errors: 0, poisoned: 0 };
        let traffic = Traffic {
            seconds: 2.0,
            counts,
            errors: (1, 1),
            wrongs,
            error_samples: &["read of LBA 7: given up".into()],
            verified: 1234,
        };
        Outcome::new(given, events, (3, 1), &traffic, false)
    }

    #[test]
    fn the_object_has_what_was_promised() {
        let mut events: Vec<_> = (1..=100).map(|ms| event(Kind::Kill, ms * 1_000_000)).collect();
        events.push(event(Kind::Hang, 900_000_000));
        events.push(Event { again: Some(Kind::Fault), ..event(Kind::Kill, 800_000_000) });
        events.push(Event { warm: false, ..event(Kind::Abort, 700_000_000) });
        events.push(Event { deaths: vec![death("reset")], ..event(Kind::Kill, 600_000_000) });
        events[1].deaths[0].first_completion_ns = 0;
        events[0].deaths.insert(0, Death { cause: "hung".into(), ..death("adopted") });
        let outcome = outcome(&events, &Wrongs::default());
        let value = serde_json::to_value(&outcome).unwrap();
        for (key, wanted) in [
            ("kills", 105),
            ("adoptions", 3),
            ("resets", 1),
            ("ios", 100),
            ("lost", 0),
            ("duplicated", 0),
            ("corrupted", 0),
            ("poisoned", 1),
            ("verified", 1234),
        ] {
            assert_eq!(value[key].as_u64(), Some(wanted), "{key} in {value}");
        }
        assert_eq!((&value["target"], &value["served"]), (&"nvme:0/ns1".into(), &true.into()));
        let gap = &value["gap_ns"];
        assert_eq!(gap["count"], 100);
        assert_eq!(
            (gap["p50"].as_u64(), gap["max"].as_u64()),
            (Some(50_000_000), Some(100_000_000))
        );
        assert_eq!(value["paths"]["adopted"]["detection_ns"]["count"], 99);
        assert_eq!(value["paths"]["adopted"]["first_completion_ns"]["count"], 98);
        for path in ["hung", "repeated", "cold", "reset"] {
            assert_eq!(value["paths"][path]["gap_ns"]["count"], 1, "{path}");
        }
        assert_eq!(value["by_harm"]["hang"], 1);
        assert_eq!(value["other_deaths"], serde_json::json!(["hung"]));
        assert_eq!(outcome.complaint(), None, "giving up is by design");
        let text = anstream::adapter::strip_str(&text(&outcome)).to_string();
        for part in [
            "KILLS  ADOPTIONS",
            "adopted by a successor that was ready:",
            "50.0 ms",
            "first completion",
            "the successor was harmed too",
            "█",
            "1 driver died unasked:\n  hung",
            "1 request failed, 1 of them given up",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn what_must_not_happen_is_complained_of() {
        let mut wrongs = Wrongs::default();
        (wrongs.lost, wrongs.duplicated, wrongs.corrupted) = (2, 1, 3);
        let complaint = outcome(&[], &wrongs).complaint().unwrap();
        assert_eq!(complaint, "2 requests lost, 1 request duplicated, 3 requests corrupted");
    }

    #[test]
    fn nothing_harmed_does_no_harm() {
        let outcome = outcome(&[], &Wrongs::default());
        assert_eq!((outcome.kills, outcome.gap_ns.count), (0, 0));
        assert!(text(&outcome).contains("KILLS"));
    }
}
