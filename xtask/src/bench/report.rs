//! The figures as Markdown, in the form of docs/benchmarks.md.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::Results;
use super::kills::{Stats, Times};
use crate::measured::{self, Measurement, RoundTrip};
use crate::table::{Table, duration, thousands};

/// All tables, under their headings.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = String::new();
    let machine = &results.machine;
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "Measured on {}: {}, {} CPUs, Linux {}; commit {}.\n",
        machine.date, machine.processor, machine.cpus, machine.kernel, machine.commit
    );
    driver(&mut text, results);
    process(&mut text, results);
    served(&mut text, results);
    kills(&mut text, results);
    if !results.vm.is_empty() {
        text.push_str(
            "### QEMU's NVMe controller in the virtual machine, beside Linux's driver\n\n",
        );
        text.push_str(&measured::beside_linux(&results.vm).markdown());
    }
    text
}

fn driver(text: &mut String, results: &Results) {
    text.push_str("### Driver alone, on a device inside the process\n\n");
    let headings = ["device", "queue depth", "ns a request", "requests a second"];
    let mut table = Table::new(1, &headings);
    let times = &results.driver.ns;
    for (device, times) in
        [("does nothing but complete", &times.driver), ("NVMe model, keeps nothing", &times.model)]
    {
        for (depth, ns) in times {
            table.row([
                device.to_owned(),
                depth.to_string(),
                format!("{ns:.0}"),
                thousands(1e9 / ns),
            ]);
        }
    }
    text.push_str(&table.markdown());
    let one = results.driver.instructions;
    let _ = writeln!(
        text,
        "\nInstructions a request at queue depth 32 on the first of these, by callgrind: {:.0} in the \
         driver, {:.0} in the device, {:.0} in the benchmark's loop.\n",
        one.driver, one.device, one.benchmark
    );
}

fn process(text: &mut String, results: &Results) {
    text.push_str("### Software device in another process, a CPU each\n\n");
    let headings = ["device", "queue depth", "IOPS", "median", "99 %", "99.9 %"];
    let mut table = Table::new(1, &headings);
    for (device, measurements) in [("keeps nothing", &results.null), ("RAM", &results.ram)] {
        for one in measurements {
            table.row([
                device.to_owned(),
                one.qd.to_string(),
                thousands(one.iops),
                duration(one.lat_ns.p50),
                duration(one.lat_ns.p99),
                duration(one.lat_ns.p999),
            ]);
        }
    }
    text.push_str(&table.markdown());
    text.push('\n');
    let calibration = |measurements: &[Measurement]| measurements.first()?.calibration;
    if let Some(calibration) = calibration(&results.null) {
        let _ = writeln!(
            text,
            "The measuring loop without a device takes {:.1} ns a request.",
            calibration.loop_ns
        );
    }
    let trips: Vec<RoundTrip> = [&results.null, &results.ram]
        .into_iter()
        .filter_map(|measurements| calibration(measurements)?.round_trip)
        .collect();
    if !trips.is_empty() {
        let figures: Vec<_> = trips.iter().map(|trip| format!("{:.0} ns", trip.ns)).collect();
        let _ = writeln!(
            text,
            "A cache line to the other CPU and back, after each of the two runs: {}.",
            figures.join(", ")
        );
    }
    let _ = writeln!(
        text,
        "A whole program from its start to its end, one read in between: {:.0} ms. Resident \
         memory beside the arena: {:.1} MiB.\n",
        results.attach.whole_program_ms, results.attach.resident_mib
    );
}

fn served(text: &mut String, results: &Results) {
    text.push_str("### Driver in a process of its own, on a device that only completes\n\n");
    let headings =
        ["queue depth", "embedded", "bare rings", "served", "more than both", "requests a second"];
    let mut table = Table::new(0, &headings);
    for cost in &results.served.costs {
        // Rounded first, so that a little less than nothing is 0 and not -0.
        let ns = |value: f64| format!("{} ns", value.round() as i64);
        table.row([
            cost.depth.to_string(),
            ns(cost.embedded_ns),
            ns(cost.rings_ns),
            ns(cost.served_ns),
            ns(cost.overhead_ns),
            thousands(1e9 / cost.served_ns),
        ]);
    }
    text.push_str(&table.markdown());
    let (start, idle) = (&results.served.start, &results.served.idle);
    let _ = writeln!(
        text,
        "\nFrom the start of `uniddrv core` until a name can be opened: {:.0} ms; until a program \
         that was started then has read a block, and has ended: {:.0} ms.\n\
         CPU time over {:.0} s in which there was nothing to do: core {:.3} %, driver {:.3} %.\n",
        start.ready_ms, start.first_read_ms, idle.seconds, idle.core, idle.driver
    );
}

fn kills(text: &mut String, results: &Results) {
    text.push_str("### Drivers killed under verified load, queue depth 32\n\n");
    let headings = [
        "successor",
        "kills",
        "adoptions",
        "resets",
        "requests",
        "lost",
        "duplicated",
        "corrupted",
    ];
    let mut table = Table::new(1, &headings);
    let both = [("adopts the device", &results.kills), ("resets the device", &results.resets)];
    for (successor, kills) in both {
        let counts = [
            kills.kills,
            kills.adoptions,
            kills.resets,
            kills.ios,
            kills.lost,
            kills.duplicated,
            kills.corrupted,
        ];
        let counts = counts.map(|count| thousands(count as f64));
        table.row([successor.to_owned()].into_iter().chain(counts));
    }
    text.push_str(&table.markdown());
    text.push('\n');
    let headings = ["the device is", "time", "kills", "median", "90 %", "99 %", "longest"];
    let mut table = Table::new(2, &headings);
    let adopted = results.kills.paths.iter().map(|(path, times)| (way(path, "adopted"), times));
    let reset = results.resets.paths.iter().map(|(path, times)| (way(path, "reset"), times));
    for (way, times) in adopted.chain(reset) {
        for (part, stats) in times.parts().iter().filter(|(_, stats)| stats.count > 0) {
            let mut row = vec![way.clone(), (*part).to_owned(), stats.count.to_string()];
            row.extend([stats.p50, stats.p90, stats.p99, stats.max].map(duration));
            table.row(row);
        }
    }
    text.push_str(&table.markdown());
    for (what, times) in [
        ("Kills where the device was adopted", results.kills.paths.get("adopted")),
        ("Kills where it was reset", results.resets.paths.get("reset")),
    ] {
        let Some(times) = times else { continue };
        let _ = writeln!(text, "\n{what}, by how long each part took:\n");
        text.push_str(&parts(times).markdown());
    }
    if let Some(adopted) = results.kills.paths.get("adopted") {
        text.push_str("\nAll pauses where the device was adopted, as a client sees them:\n\n```\n");
        text.push_str(&histogram(&adopted.gap.histogram));
        text.push_str("```\n\n");
    }
}

/// How many kills are in each bin, for each part of their pauses.
fn parts(times: &Times) -> Table {
    let parts = times.parts();
    let mut headings = vec!["from"];
    headings.extend(parts.iter().map(|(part, _)| *part));
    let mut table = Table::new(0, &headings);
    let bins = parts.iter().flat_map(|(_, stats)| stats.histogram.iter().map(|bin| bin.0));
    for begin in bins.collect::<BTreeSet<_>>() {
        let count = |stats: &Stats| {
            let bin = stats.histogram.iter().find(|bin| bin.0 == begin);
            bin.map(|bin| bin.1.to_string()).unwrap_or_default()
        };
        let counts = parts.iter().map(|(_, stats)| count(stats));
        table.row([duration(begin)].into_iter().chain(counts));
    }
    table
}

/// A bar for each bin, which holds what took from its time to that of the next, ten in a decade.
fn histogram(bins: &[(u64, u64)]) -> String {
    const WIDEST: u64 = 50;
    let most = bins.iter().map(|bin| bin.1).max().unwrap_or(1).max(1);
    let mut text = String::new();
    for &(begin, count) in bins {
        let bar = "█".repeat((count * WIDEST).div_ceil(most) as usize);
        let _ = writeln!(text, "from {:>7}  {bar} {count}", duration(begin));
    }
    text
}

/// `uniddrv torture`'s name of a way in which a device is taken over, in words; `how` a successor
/// has to do it.
fn way(path: &str, how: &str) -> String {
    match path {
        "cold" => format!("{how}, no successor was ready"),
        "hung" => format!("{how} after a hang"),
        "repeated" => format!("{how} by the second, as the first was killed too"),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_as_wide_as_its_fullest_bin() {
        let text = histogram(&[(251_000, 200), (1_000_000, 1)]);
        let bar = "█".repeat(50);
        assert_eq!(text, format!("from  251 µs  {bar} 200\nfrom 1.00 ms  █ 1\n"));
        assert_eq!(histogram(&[]), "");
    }

    #[test]
    fn every_bin_of_every_part_has_a_line() {
        let stats = |histogram| Stats { count: 1, p50: 1, p90: 1, p99: 1, max: 1, histogram };
        let times = Times {
            gap: stats(vec![(1_000_000, 2)]),
            detection: stats(vec![(251_000, 1), (1_000_000, 1)]),
            hand_over: stats(vec![]),
            adoption: stats(vec![(251_000, 2)]),
            first_completion: stats(vec![]),
        };
        let text = parts(&times).markdown();
        let lines: Vec<Vec<_>> =
            text.lines().skip(2).map(|line| line.split('|').map(str::trim).collect()).collect();
        let expected =
            [["", "251 µs", "", "1", "", "2", "", ""], ["", "1.00 ms", "2", "1", "", "", "", ""]];
        assert_eq!(lines, expected);
    }
}
