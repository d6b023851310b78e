//! The figures as Markdown, in the form of docs/benchmarks.md.

use std::fmt::Write as _;

use super::Results;
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
