//! `--report`: one HTML file with throughput over time, each harm marked, and the gaps.

use std::fmt::Write as _;

use uniddrv::clock;

use super::harm::Event;
use super::load::Timeline;
use super::result::{Outcome, Path, describe_work, notes};
use super::stats::Stats;
use crate::bench::chart::{self, Axis, Column, Mark, Series};
use crate::bench::report::{begin, end, escape, figure, short, show_tiles};
use crate::bench::result::{describe_target, duration, thousands};

/// The most points of a line.
const POINTS: usize = 500;
/// What is shown before and after a typical harm, in nanoseconds.
const BEFORE: u64 = 10_000_000;
const AFTER: u64 = 30_000_000;

/// The page of an outcome.
pub(crate) fn html(
    outcome: &Outcome,
    events: &[Event],
    timeline: &Timeline,
    facts: &[(&'static str, String)],
    command: &str,
) -> String {
    let name = &outcome.given.target.address;
    let heading = format!("{} kills", thousands(outcome.kills as f64));
    let title = format!("{heading}: {name}");
    let target = describe_target(&outcome.given.target);
    let mut page = begin("uniddrv torture", &title, &heading, &target);
    page.push_str(&show_tiles(&tiles(outcome)));
    page.push_str("<div class=\"charts\">\n");
    page.push_str(&throughput(events, timeline));
    page.push_str(&typical(events, timeline));
    for (path, times) in &outcome.paths {
        for (part, stats) in times.parts() {
            // The parts are drawn where there are many.
            if part == "gap" || *path == Path::Adopted {
                page.push_str(&histogram(&format!("{part}: {}", path.name()), stats));
            }
        }
    }
    page.push_str("</div>\n");
    page.push_str(&table(outcome));
    for note in notes(outcome) {
        let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(&note));
    }
    let mut all = facts.to_vec();
    all.push(("Work", describe_work(outcome)));
    page + &end(
        &all,
        command,
        "A gap runs from just before the order to harm the driver is sent until the client sees \
         the first completion of the driver's successor, by the client's clock. Detection, \
         hand-over, adoption and first completion are its parts as the core reports them.",
    )
}

fn tiles(outcome: &Outcome) -> Vec<(String, String)> {
    let Outcome { lost, duplicated, corrupted, gap_ns, .. } = outcome;
    let mut tiles = vec![
        (format!("{lost} / {duplicated} / {corrupted}"), "lost, duplicated, corrupted".into()),
        (thousands(outcome.ios as f64), "requests meanwhile".into()),
        (
            format!("{} / {}", outcome.adoptions, outcome.resets),
            "adoptions and resets of the device".into(),
        ),
    ];
    if gap_ns.count > 0 {
        for (ns, name) in [(gap_ns.p50, "median"), (gap_ns.p99, "99 %"), (gap_ns.max, "longest")] {
            tiles.push((duration(ns), format!("{name} gap")));
        }
    }
    tiles
}

/// Requests a second in each of some parts of a timeline, as points at their middles.
fn rates(timeline: &Timeline, first: usize, steps: usize, group: usize) -> Vec<(f64, f64)> {
    let counts = timeline.counts().iter().skip(first).take(steps).copied().collect::<Vec<u32>>();
    let seconds = clock::to_nanoseconds(timeline.step()) as f64 / 1e9;
    counts
        .chunks(group.max(1))
        .enumerate()
        // A part that was cut short is no whole one.
        .filter(|(_, chunk)| chunk.len() == group.max(1))
        .map(|(at, chunk)| {
            let ended: u64 = chunk.iter().map(|&count| u64::from(count)).sum();
            let length = chunk.len() as f64 * seconds;
            ((at as f64 + 0.5) * length, ended as f64 / length)
        })
        .collect()
}

fn series(points: Vec<(f64, f64)>, label: impl Fn(f64) -> String) -> Series {
    let points = points
        .into_iter()
        .map(|(at, rate)| (at, rate, format!("{}: {} IOPS", label(at), thousands(rate))))
        .collect();
    Series { name: "IOPS".into(), class: "ours".into(), points, marks: false }
}

fn axis_of(points: &[(f64, f64)]) -> Axis {
    Axis::linear("requests a second", points.iter().map(|point| point.1).fold(0.0, f64::max), short)
}

fn marks(events: &[Event], zero: u64) -> impl Iterator<Item = Mark> {
    events.iter().map(move |event| {
        let at = clock::to_nanoseconds(event.sent.saturating_sub(zero)) as f64 / 1e9;
        let again = event.again.map_or_else(String::new, |kind| format!(", then {}", kind.name()));
        let gap = event.gap_ns.map_or_else(String::new, |gap| format!(": gap {}", duration(gap)));
        let title = format!("{at:.3} s: {}{again}{gap}", event.kind.name());
        Mark { at, class: "harm", title }
    })
}

/// All of the time.
fn throughput(events: &[Event], timeline: &Timeline) -> String {
    // Beyond the end nothing was counted.
    let used = timeline.counts().iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
    let points = rates(timeline, 0, used, used.div_ceil(POINTS));
    let Some(last) = points.last() else { return String::new() };
    let x = Axis::linear("seconds", last.0, |at| format!("{at}"));
    let y = axis_of(&points);
    let marks: Vec<Mark> = marks(events, timeline.start()).collect();
    let line = series(points, |at| format!("{at:.2} s"));
    let heading = "Requests a second, and each harm";
    figure(heading, &chart::lines_and_marks(heading, &x, &y, &[line], &marks))
}

/// The moment of the harm with the median gap.
fn typical(events: &[Event], timeline: &Timeline) -> String {
    let mut adopted: Vec<&Event> = events
        .iter()
        .filter(|event| Path::of(event) == Path::Adopted && event.gap_ns.is_some())
        .collect();
    adopted.sort_by_key(|event| event.gap_ns);
    let Some(event) = adopted.get(adopted.len() / 2) else { return String::new() };
    let step = timeline.step().max(1);
    let window = (BEFORE + AFTER + event.gap_ns.unwrap_or(0)) as f64 / 1e6;
    let at = |ns: u64| clock::to_ticks(std::time::Duration::from_nanos(ns));
    let begin = event.sent.saturating_sub(timeline.start()).saturating_sub(at(BEFORE)) / step;
    let steps = (window * 1e6 / clock::to_nanoseconds(step).max(1) as f64) as usize;
    let points: Vec<(f64, f64)> = rates(timeline, begin as usize, steps, 1)
        .into_iter()
        .map(|(seconds, rate)| (seconds * 1e3, rate))
        .collect();
    if points.len() < 2 {
        return String::new();
    }
    let zero = timeline.start() + begin * step;
    let before = clock::to_nanoseconds(event.sent.saturating_sub(zero)) as f64 / 1e6;
    let x = Axis::linear("milliseconds", window, |at| format!("{at}"));
    let y = axis_of(&points);
    let gap = duration(event.gap_ns.unwrap_or(0));
    let title = format!("{}: gap {gap}", event.kind.name());
    let marks = [Mark { at: before, class: "harm", title }];
    let line = series(points, |at| format!("{at:.1} ms"));
    let heading = format!("A typical {}: a gap of {gap}", event.kind.name());
    figure(&heading, &chart::lines_and_marks(&heading, &x, &y, &[line], &marks))
}

fn histogram(heading: &str, stats: &Stats) -> String {
    let bins = stats.bins();
    let (Some(first), Some(last)) = (bins.first(), bins.last()) else { return String::new() };
    let label = |ns: f64| duration(ns as u64).replace(".00 ", " ").replace(".0 ", " ");
    let ends = [first.0 as f64, last.1 as f64];
    let x = Axis::log("time", ends.into_iter(), label);
    let most = bins.iter().map(|bin| bin.2).max().unwrap_or(1);
    // Halves of a time there are none.
    let whole = |count: f64| if count.fract() == 0.0 { format!("{count}") } else { String::new() };
    let y = Axis::linear("how many", most as f64, whole);
    let columns: Vec<Column> = bins
        .iter()
        .map(|&(from, to, count)| Column {
            from: from as f64,
            to: to as f64,
            value: count as f64,
            title: format!("{} to {}: {count}", duration(from), duration(to)),
        })
        .collect();
    figure(heading, &chart::columns(heading, &x, &y, "ours", &columns))
}

fn table(outcome: &Outcome) -> String {
    let mut text = "<div class=\"scroll\"><table>\n<tr><th class=\"left\">Way</th><th \
                    class=\"left\">Time</th><th>Count</th><th>min</th><th>p50</th><th>p90</th>\
                    <th>p99</th><th>max</th></tr>\n"
        .to_owned();
    for (path, times) in &outcome.paths {
        for (part, stats) in times.parts().iter().filter(|(_, stats)| stats.count > 0) {
            let Stats { count, min, p50, p90, p99, max, .. } = **stats;
            let _ = write!(
                text,
                "<tr><td class=\"left\">{}</td><td class=\"left\">{part}</td><td>{count}</td>",
                path.name()
            );
            for ns in [min, p50, p90, p99, max] {
                let _ = write!(text, "<td>{}</td>", duration(ns));
            }
            text.push_str("</tr>\n");
        }
    }
    text + "</table></div>\n"
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::harm::Kind;
    use super::super::load::Wrongs;
    use super::super::result::tests::{event, outcome};
    use super::*;

    fn page(events: &[Event], timeline: &Timeline) -> String {
        let outcome = outcome(events, &Wrongs::default());
        let facts = [("Processor", "A & B".to_owned())];
        let page = html(&outcome, events, timeline, &facts, "uniddrv torture nvme:0");
        for forbidden in ["<script", "http://", "https://", "NaN", "inf,"] {
            let page = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!page.contains(forbidden), "{forbidden} in\n{page}");
        }
        for tag in ["svg", "figure", "table", "tr", "div", "dl", "main", "title", "rect"] {
            let open = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        page
    }

    #[test]
    fn a_page_shows_throughput_harms_and_gaps() {
        let mut timeline = Timeline::new(Duration::from_secs(2), Duration::from_millis(1));
        let start = timeline.start();
        for ms in 0..2000 {
            timeline.count(start + ms * timeline.step(), if ms % 100 < 3 { 0 } else { 50 });
        }
        let at = |ms: u64| start + ms * timeline.step();
        let events: Vec<Event> = (1..20)
            .map(|n| Event { sent: at(n * 100), ..event(Kind::Kill, n * 1_000_000) })
            .chain([Event { sent: at(1950), ..event(Kind::Hang, 120_000_000) }])
            .collect();
        let page = page(&events, &timeline);
        for part in [
            "20 kills",
            "0 / 0 / 0",
            "Requests a second, and each harm",
            "A typical kill: a gap of 10.0 ms",
            "gap: adopted by a successor that was ready",
            "gap: adopted after a hang",
            "first completion: adopted",
            "hang: gap 120 ms",
            "uniddrv torture nvme:0",
            "A &amp; B",
        ] {
            assert!(page.contains(part), "{part} is missing in\n{page}");
        }
        assert_eq!(page.matches("class=\"event harm\"").count(), 21);
        assert!(!page.contains("detection: adopted after a hang"));
    }

    #[test]
    fn nothing_measured_does_no_harm() {
        let page = page(&[], &Timeline::default());
        assert_eq!(page.matches("<svg").count(), 0);
    }
}
