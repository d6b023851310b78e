//! `--report`: one HTML file with everything in it, to be looked at without a network.

use std::fmt::Write as _;

use super::chart::{self, Axis, Series};
use super::latency::LatencyNs;
use super::result::{self, Measurement, duration, thousands};
use super::size;

const STYLE: &str = include_str!("report.css");
/// Colours of the style sheet for lines that have an order.
const STEPS: usize = 6;

/// The page for `measurements`, made by `command` on a machine with these `facts`.
pub(crate) fn html(
    measurements: &[Measurement],
    facts: &[(&'static str, String)],
    command: &str,
) -> String {
    let Some(first) = measurements.first() else { return String::new() };
    let title = format!("{} {}: {}", first.rw, size::show(first.bs), first.target.address);
    let heading = format!("{} {}", first.rw, size::show(first.bs));
    let mut page =
        begin("uniddrv bench", &title, &heading, &result::describe_target(&first.target));
    page.push_str(&tiles(measurements));
    page.push_str("<div class=\"charts\">\n");
    page.push_str(&throughput(measurements));
    page.push_str(&latencies(measurements));
    page.push_str("</div>\n");
    page.push_str(&table(measurements));
    for note in result::notes(measurements) {
        let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(&note));
    }
    let workload = [("Workload", result::describe_workload(first))];
    let linux = if has_native(measurements) {
        " Linux's are fio's total latencies (submission and completion) on the same device \
         with the same parameters, direct I/O, before the device was taken from Linux."
    } else {
        ""
    };
    let small = format!(
        "A latency runs from before the batch that a request was submitted with until its \
         completion was seen.{linux}"
    );
    page + &end(&[facts, &workload].concat(), command, &small)
}

/// The start of a page: which command made it, the tab's title, what is shown, of what.
pub(crate) fn begin(kind: &str, title: &str, heading: &str, target: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta \
         name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta \
         name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<main>\n<p class=\"kind\">{}</p>\n<h1>{}</h1>\n<p \
         class=\"target\">{}</p>\n",
        escape(title),
        escape(kind),
        escape(heading),
        escape(target),
    )
}

/// The end of a page: facts by name, the command, and what else is to be known.
pub(crate) fn end(facts: &[(&'static str, String)], command: &str, small: &str) -> String {
    let mut page = "<h2>How it was measured</h2>\n<dl>\n".to_owned();
    for (name, value) in facts {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(value));
    }
    let (command, small) = (escape(command), escape(small));
    let _ = write!(
        page,
        "</dl>\n<pre>{command}</pre>\n<p class=\"small\">{small}</p>\n</main>\n</body>\n</html>\n"
    );
    page
}

/// Figures with what they mean, in a row.
pub(crate) fn show_tiles(tiles: &[(String, String)]) -> String {
    let tiles = tiles.iter().map(|(figure, name)| {
        format!("<div><b>{}</b><span>{}</span></div>\n", escape(figure), escape(name))
    });
    format!("<div class=\"tiles\">\n{}</div>\n", tiles.collect::<String>())
}

fn has_native(measurements: &[Measurement]) -> bool {
    measurements.iter().any(|m| !m.native.is_empty())
}

/// The figures that one looks for first.
fn tiles(measurements: &[Measurement]) -> String {
    let mut tiles = Vec::new();
    let best = measurements.iter().max_by(|one, other| one.iops.total_cmp(&other.iops));
    let calm = measurements.iter().min_by_key(|m| m.lat_ns.p50);
    if let Some(m) = best {
        let at = format!("IOPS at queue depth {}", m.qd);
        tiles.push((thousands(m.iops), at));
        tiles.push((format!("{} MiB/s", thousands(m.mib_s)), format!("at queue depth {}", m.qd)));
        if let Some((native, ratio)) = best_native(m) {
            let name = format!("the IOPS of Linux with {native}, at queue depth {}", m.qd);
            tiles.push((format!("{ratio:.1} ×"), name));
        }
    }
    if let Some(m) = calm {
        tiles.push((duration(m.lat_ns.p50), format!("median at queue depth {}", m.qd)));
        tiles.push((duration(m.lat_ns.p999), format!("99.9 % at queue depth {}", m.qd)));
    }
    show_tiles(&tiles)
}

/// The faster of Linux's engines, and how many times faster we are.
fn best_native(m: &Measurement) -> Option<(&'static str, f64)> {
    let native = m.native.iter().max_by(|one, other| one.iops.total_cmp(&other.iops))?;
    (native.iops > 0.0).then(|| (native.engine, m.iops / native.iops))
}

/// Requests a second: over the queue depth, or as bars where there is one depth only and
/// somebody to compare with.
fn throughput(measurements: &[Measurement]) -> String {
    let engines = engines(measurements);
    let name = |engine: Option<&str>| engine.map_or("uniddrv".into(), |e| format!("Linux {e}"));
    let iops = |m: &Measurement, engine: Option<&str>| match engine {
        None => Some(m.iops),
        Some(engine) => m.native.iter().find(|n| n.engine == engine).map(|native| native.iops),
    };
    if let [only] = measurements {
        if engines.len() < 2 {
            return String::new();
        }
        let bars: Vec<_> = (engines.iter())
            .filter_map(|&(engine, class)| {
                let iops = iops(only, engine)?;
                Some((name(engine), class.to_owned(), iops, thousands(iops)))
            })
            .collect();
        let heading = format!("Requests a second at queue depth {}", only.qd);
        return figure(&heading, &chart::bars(&heading, &bars));
    }
    let depths: Vec<f64> = measurements.iter().map(|m| m.qd as f64).collect();
    let most = (measurements.iter())
        .flat_map(|m| m.native.iter().map(|native| native.iops).chain([m.iops]))
        .fold(0.0, f64::max);
    let x = Axis::log_at("queue depth of each core", &depths);
    let y = Axis::linear("IOPS", most, short);
    let series: Vec<Series> = (engines.iter())
        .map(|&(engine, class)| Series {
            name: name(engine),
            class: class.into(),
            points: (measurements.iter())
                .filter_map(|m| {
                    let iops = iops(m, engine)?;
                    let name = name(engine);
                    Some((
                        m.qd as f64,
                        iops,
                        format!("{name}, QD {}: {} IOPS", m.qd, thousands(iops)),
                    ))
                })
                .collect(),
            marks: true,
        })
        .collect();
    let heading = "Requests a second over queue depth";
    figure(heading, &chart::lines(heading, &x, &y, &series))
}

/// Who was measured, ourselves first, and the classes that colour them.
fn engines(measurements: &[Measurement]) -> Vec<(Option<&'static str>, &'static str)> {
    let mut engines = vec![(None, "ours")];
    let classes = ["native-1", "native-2"];
    for native in measurements.iter().flat_map(|m| &m.native) {
        if let Some(&class) = classes.get(engines.len() - 1)
            && engines.iter().all(|&(engine, _)| engine != Some(native.engine))
        {
            engines.push((Some(native.engine), class));
        }
    }
    engines
}

/// Latencies over their percentiles: a line for each queue depth, or, beside Linux, a chart
/// for each queue depth and a line for each engine.
fn latencies(measurements: &[Measurement]) -> String {
    let line = |name: String, class: String, curve: &[(f64, u64)], qd: usize| Series {
        points: (curve.iter())
            .map(|&(q, ns)| {
                let percent = format!("{:.4}", q * 100.0);
                let percent = percent.trim_end_matches('0').trim_end_matches('.');
                (q, ns as f64, format!("{name}, QD {qd}: {percent} % within {}", duration(ns)))
            })
            .collect(),
        name,
        class,
        marks: false,
    };
    if has_native(measurements) {
        let chart = |m: &Measurement| {
            let mut series = vec![line("uniddrv".into(), "ours".into(), &m.curve, m.qd)];
            for (engine, class) in engines(measurements).into_iter().skip(1) {
                let native = m.native.iter().find(|native| Some(native.engine) == engine);
                series.extend(native.map(|native| {
                    line(format!("Linux {}", native.engine), class.into(), &native.curve, m.qd)
                }));
            }
            latency_chart(&format!("Latency at queue depth {}", m.qd), &series)
        };
        return measurements.iter().map(chart).collect();
    }
    let last = measurements.len().saturating_sub(1).max(1);
    let series: Vec<Series> = (measurements.iter().enumerate())
        .map(|(index, m)| {
            let step = if measurements.len() == 1 { 3 } else { index * (STEPS - 1) / last };
            line(format!("QD {}", m.qd), format!("step-{step}"), &m.curve, m.qd)
        })
        .collect();
    latency_chart("Latency by percentile", &series)
}

fn latency_chart(heading: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|one| &one.points);
    if points().next().is_none() {
        return String::new();
    }
    let x = Axis::nines("requests that took no longer", points().map(|p| p.0).fold(0.0, f64::max));
    let y = Axis::log("latency", points().map(|point| point.1), |ns| {
        let text = duration(ns as u64);
        // Marks are round: `1.00 µs` says no more than `1 µs`.
        text.replace(".00 ", " ").replace(".0 ", " ")
    });
    figure(heading, &chart::lines(heading, &x, &y, series))
}

/// A chart under a heading.
pub(crate) fn figure(heading: &str, svg: &str) -> String {
    format!("<figure>\n<figcaption>{}</figcaption>\n{svg}\n</figure>\n", escape(heading))
}

fn table(measurements: &[Measurement]) -> String {
    let compare = has_native(measurements);
    let class = if compare { "scroll compare" } else { "scroll" };
    let mut text = format!("<div class=\"{class}\"><table>\n<tr><th>Queue depth</th>");
    if compare {
        text.push_str("<th class=\"left\">Driver</th>");
    }
    text.push_str("<th>IOPS</th><th>MiB/s</th>");
    for (name, _) in result::percentiles(&LatencyNs::default()) {
        let _ = write!(text, "<th>{name}</th>");
    }
    text.push_str("</tr>\n");
    for m in measurements {
        let ours = ("uniddrv".to_owned(), "ours", m.iops, m.mib_s, m.lat_ns);
        let natives = m
            .native
            .iter()
            .map(|n| (format!("Linux {}", n.engine), "theirs", n.iops, n.mib_s, n.lat_ns));
        for (driver, class, iops, mib_s, lat) in std::iter::once(ours).chain(natives) {
            let _ = write!(text, "<tr class=\"{class}\"><td>{}</td>", m.qd);
            if compare {
                let _ = write!(text, "<td class=\"left\">{}</td>", escape(&driver));
            }
            let _ = write!(text, "<td>{}</td><td>{}</td>", thousands(iops), thousands(mib_s));
            for (_, ns) in result::percentiles(&lat) {
                let _ = write!(text, "<td>{}</td>", duration(ns));
            }
            text.push_str("</tr>\n");
        }
    }
    text + "</table></div>\n"
}

/// A rate in few letters: `1.5 M`.
pub(crate) fn short(value: f64) -> String {
    let (value, unit) = match value {
        1e6.. => (value / 1e6, " M"),
        1e3.. => (value / 1e3, " k"),
        _ => (value, ""),
    };
    format!("{}{unit}", (value * 100.0).round() / 100.0)
}

/// Text as it may stand in HTML, between tags or in quotes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // A device's model and serial are claims: no control characters.
            c if c.is_control() && c != '\n' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::result::tests::{measurement, native};
    use super::*;

    fn page(measurements: &[Measurement]) -> String {
        let facts = [("Processor", "A & B".to_owned())];
        let page = html(measurements, &facts, "uniddrv bench 'model:nvme' --rw randread");
        for forbidden in ["<script", "http://", "https://", "NaN", "inf,"] {
            let page = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!page.contains(forbidden), "{forbidden} in\n{page}");
        }
        for tag in ["svg", "figure", "table", "tr", "div", "dl", "main", "title", "circle"] {
            let open = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        page
    }

    #[test]
    fn a_page_holds_figures_charts_facts_and_the_command() {
        let page = page(&[measurement(1, 1e5), measurement(8, 5e5), measurement(32, 1.5e6)]);
        for part in [
            "randread 4 KiB",
            "Model &lt;1&gt;, serial S1",
            "1,500,000",
            "IOPS at queue depth 32",
            "median at queue depth 1",
            "Requests a second over queue depth",
            "Latency by percentile",
            "QD 8",
            "A &amp; B",
            "uniddrv bench &#39;model:nvme&#39; --rw randread",
            "prefers-color-scheme: dark",
        ] {
            assert!(page.contains(part), "{part} is missing in\n{page}");
        }
        assert_eq!(page.matches("<svg").count(), 2);
    }

    #[test]
    fn linux_stands_beside() {
        let mut one = measurement(1, 1e5);
        one.native = vec![native("io_uring", 2e4), native("libaio", 1e4)];
        let mut other = measurement(32, 1e6);
        other.native = vec![native("io_uring", 1e5), native("libaio", 8e4)];
        let several = page(&[one.clone(), other]);
        for part in ["10.0 ×", "Linux libaio", "Latency at queue depth 32", "fio"] {
            assert!(several.contains(part), "{part} is missing in\n{several}");
        }
        assert_eq!(several.matches("<svg").count(), 3);
        let bars = page(&[one]);
        assert!(bars.contains("Requests a second at queue depth 1") && bars.contains("<rect"));
    }

    #[test]
    fn one_measurement_is_enough_and_nothing_measured_does_no_harm() {
        assert_eq!(page(&[measurement(32, 1e6)]).matches("<svg").count(), 1);
        let mut nothing = measurement(32, 1e6);
        nothing.iops = 0.0;
        nothing.curve.clear();
        nothing.lat_ns = LatencyNs::default();
        assert_eq!(page(&[nothing.clone()]).matches("<svg").count(), 0);
        page(&[nothing.clone(), nothing]);
    }

    #[test]
    fn rates_are_short() {
        let texts = [0.0, 500.0, 2_000.0, 1_500_000.0].map(short);
        assert_eq!(texts, ["0", "500", "2 k", "1.5 M"]);
    }
}
