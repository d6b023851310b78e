//! Line and bar charts as SVG, to stand inside an HTML page whose style sheet colours them.

mod columns;

use std::fmt::Write as _;

use super::report::escape;
pub(crate) use columns::{Column, columns};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 104.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 52.0;
/// The least distance between two labels, in units of the picture.
const LINE: f64 = 16.0;

/// An axis: what it shows, and where its marks stand (0 to 1).
pub(crate) struct Axis {
    title: &'static str,
    scale: Scale,
    ticks: Vec<(f64, String)>,
}

enum Scale {
    Linear {
        max: f64,
    },
    Log {
        min: f64,
        max: f64,
    },
    /// Quantiles: each further nine takes the same room.
    Nines {
        nines: f64,
    },
}

impl Axis {
    /// From 0 to a round number at or above `max`.
    pub(crate) fn linear(title: &'static str, max: f64, label: impl Fn(f64) -> String) -> Self {
        let step = round_step(max / 5.0);
        let steps = (max / step).ceil().max(1.0);
        let ticks = (0..=steps as u32).map(|n| (f64::from(n) / steps, label(f64::from(n) * step)));
        Self { title, ticks: ticks.collect(), scale: Scale::Linear { max: step * steps } }
    }

    /// A logarithmic axis over all of `values`, with marks at 1, 2 and 5 times powers of ten, or
    /// at powers of ten alone where these would be too many.
    pub(crate) fn log(
        title: &'static str,
        values: impl Iterator<Item = f64> + Clone,
        label: impl Fn(f64) -> String,
    ) -> Self {
        let low = values.clone().fold(f64::MAX, f64::min).clamp(1.0, 1e18);
        let high = values.fold(1.0, f64::max).clamp(low, 1e18);
        let decades = (high / low).log10();
        let multiples: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let marks: Vec<f64> = (-1..=19)
            .flat_map(|power| multiples.iter().map(move |m| m * 10f64.powi(power)))
            .collect();
        let min = marks.iter().copied().rfind(|&mark| mark <= low).unwrap_or(low);
        let max = marks.iter().copied().find(|&mark| mark >= high && mark > min).unwrap_or(high);
        let mut axis = Self { title, ticks: Vec::new(), scale: Scale::Log { min, max } };
        let marks = marks.into_iter().filter(|mark| (min..=max).contains(mark));
        axis.ticks = marks.map(|mark| (axis.place(mark), label(mark))).collect();
        axis
    }

    /// A logarithmic axis with a mark at each of `values`.
    pub(crate) fn log_at(title: &'static str, values: &[f64]) -> Self {
        let min = values.iter().copied().fold(f64::MAX, f64::min).max(1.0);
        let max = values.iter().copied().fold(min, f64::max).max(min * 1.0001);
        let mut axis = Self { title, ticks: Vec::new(), scale: Scale::Log { min, max } };
        axis.ticks = values.iter().map(|&value| (axis.place(value), format!("{value}"))).collect();
        axis
    }

    /// Quantiles up to `max`.
    pub(crate) fn nines(title: &'static str, max: f64) -> Self {
        // Rounding must not add a nine.
        let nines = (nines_of(max) - 1e-6).ceil().clamp(1.0, 7.0);
        let label = |n: u32| match n {
            0 => "0 %".to_owned(),
            1 => "90 %".to_owned(),
            2 => "99 %".to_owned(),
            n => format!("99.{} %", "9".repeat(n as usize - 2)),
        };
        let ticks = (0..=nines as u32).map(|n| (f64::from(n) / nines, label(n))).collect();
        Self { title, ticks, scale: Scale::Nines { nines } }
    }

    /// Where a value stands, 0 to 1.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear { max } => value / max,
            Scale::Log { min, max } => (value.max(min) / min).log10() / (max / min).log10(),
            Scale::Nines { nines } => nines_of(value) / nines,
        };
        place.clamp(0.0, 1.0)
    }
}

fn nines_of(quantile: f64) -> f64 {
    -(1.0 - quantile.min(0.999_999_9)).log10()
}

/// 1, 2 or 5 times a power of ten, at least `value`.
fn round_step(value: f64) -> f64 {
    if !value.is_finite() || value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= value * 0.999);
    step.unwrap_or(10.0) * power
}

/// A line of a chart.
pub(crate) struct Series {
    pub(crate) name: String,
    /// The class that the style sheet colours.
    pub(crate) class: String,
    /// Values along both axes, and what a pointer that rests there is told.
    pub(crate) points: Vec<(f64, f64, String)>,
    /// Whether each point has a mark.
    pub(crate) marks: bool,
}

/// Something that happened at a place of the horizontal axis.
pub(crate) struct Mark {
    /// Where.
    pub(crate) at: f64,
    /// The class that the style sheet colours.
    pub(crate) class: &'static str,
    /// What a pointer that rests there is told.
    pub(crate) title: String,
}

fn across(place: f64) -> f64 {
    LEFT + place * (WIDTH - LEFT - RIGHT)
}

fn down(place: f64) -> f64 {
    HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM)
}

/// Both axes, with their marks and titles.
fn frame(svg: &mut String, x: &Axis, y: &Axis) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    // Writing to a string cannot fail.
    for (place, text) in &y.ticks {
        let at = down(*place);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1}" y2="{at:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            LEFT - 8.0,
            at + 4.0,
            escape(text)
        );
    }
    for (place, text) in &x.ticks {
        let at = across(*place);
        let _ = write!(
            svg,
            r#"<line class="axis" x1="{at:.1}" x2="{at:.1}" y1="{bottom}" y2="{}"/><text class="tick" x="{at:.1}" y="{}" text-anchor="middle">{}</text>"#,
            bottom + 5.0,
            bottom + 20.0,
            escape(text)
        );
    }
    let _ = write!(
        svg,
        r#"<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/><text class="title" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text><text class="title" transform="translate(14 {:.1}) rotate(-90)" text-anchor="middle">{}</text>"#,
        f64::midpoint(LEFT, right),
        HEIGHT - 8.0,
        escape(x.title),
        f64::midpoint(TOP, bottom),
        escape(y.title)
    );
}

/// A chart of lines, with their names at their right ends.
pub(crate) fn lines(label: &str, x: &Axis, y: &Axis, series: &[Series]) -> String {
    lines_and_marks(label, x, y, series, &[])
}

/// A chart of lines, with what happened meanwhile as upright lines behind them.
pub(crate) fn lines_and_marks(
    label: &str,
    x: &Axis,
    y: &Axis,
    series: &[Series],
    marks: &[Mark],
) -> String {
    let mut svg = open(label, HEIGHT);
    frame(&mut svg, x, y);
    for Mark { at, class, title } in marks {
        let at = across(x.place(*at));
        let _ = write!(
            svg,
            r#"<line class="event {class}" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{}"><title>{}</title></line>"#,
            HEIGHT - BOTTOM,
            escape(title)
        );
    }
    let mut ends = Vec::new();
    for one in series {
        let places: Vec<(f64, f64)> =
            one.points.iter().map(|(h, v, _)| (across(x.place(*h)), down(y.place(*v)))).collect();
        let path: Vec<String> = places.iter().map(|(h, v)| format!("{h:.1},{v:.1}")).collect();
        let class = &one.class;
        let _ = write!(svg, r#"<polyline class="line {class}" points="{}"/>"#, path.join(" "));
        for ((h, v), (_, _, title)) in places.iter().zip(&one.points) {
            // A point without a mark still answers to the pointer.
            let (mark, radius) = if one.marks { ("mark", 4) } else { ("hover", 7) };
            let _ = write!(
                svg,
                r#"<circle class="{mark} {class}" cx="{h:.1}" cy="{v:.1}" r="{radius}"><title>{}</title></circle>"#,
                escape(title)
            );
        }
        if let Some(&(h, v)) = places.last() {
            ends.push((h, v, one));
        }
    }
    label_ends(&mut svg, ends);
    svg.push_str("</svg>");
    svg
}

/// Names beside the last points, moved apart where they would overlap.
fn label_ends(svg: &mut String, mut ends: Vec<(f64, f64, &Series)>) {
    ends.sort_by(|one, other| one.1.total_cmp(&other.1));
    let mut last = f64::MIN;
    let mut places: Vec<f64> = Vec::new();
    for (_, at, _) in &ends {
        last = at.max(last + LINE);
        places.push(last);
    }
    // What was pushed out below goes up again.
    let mut limit = HEIGHT - BOTTOM;
    for place in places.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - LINE;
    }
    for ((h, _, series), place) in ends.iter().zip(places) {
        let _ = write!(
            svg,
            r#"<text class="name {}" x="{:.1}" y="{:.1}">{}</text>"#,
            series.class,
            h + 10.0,
            place + 4.0,
            escape(&series.name)
        );
    }
}

/// A chart of bars: name, class, value and the text beside it.
pub(crate) fn bars(label: &str, bars: &[(String, String, f64, String)]) -> String {
    const STEP: f64 = 76.0;
    const NAMES: f64 = 140.0;
    let height = STEP * bars.len() as f64 + 16.0;
    let most = bars.iter().map(|bar| bar.2).fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = open(label, height);
    for (index, (name, class, value, text)) in bars.iter().enumerate() {
        let at = STEP * index as f64 + 16.0;
        let length = (value / most).clamp(0.0, 1.0) * (WIDTH - NAMES - 130.0);
        let _ = write!(
            svg,
            r#"<text class="bar-name" x="{:.1}" y="{:.1}" text-anchor="end">{}</text><rect class="bar {class}" x="{NAMES}" y="{at:.1}" width="{:.1}" height="48" rx="4"><title>{}</title></rect><text class="value" x="{:.1}" y="{:.1}">{}</text>"#,
            NAMES - 10.0,
            at + 29.0,
            escape(name),
            length.max(1.0),
            escape(text),
            NAMES + length + 8.0,
            at + 29.0,
            escape(text)
        );
    }
    svg.push_str("</svg>");
    svg
}

fn open(label: &str, height: f64) -> String {
    let label = escape(label);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_place_what_they_show() {
        let linear = Axis::linear("", 730.0, |v| v.to_string());
        assert_eq!(linear.ticks.last(), Some(&(1.0, "800".to_owned())));
        assert!((linear.place(400.0) - 0.5).abs() < 1e-9);
        let log = Axis::log("", [150.0, 4000.0].into_iter(), |v| v.to_string());
        assert_eq!(log.ticks.first().map(|t| t.1.as_str()), Some("100"));
        assert_eq!(log.ticks.last().map(|t| t.1.as_str()), Some("5000"));
        let nines = Axis::nines("", 0.9999);
        assert_eq!(nines.ticks.last().map(|t| t.1.as_str()), Some("99.99 %"));
        assert!((nines.place(0.99) - 0.5).abs() < 1e-9);
        let depths = Axis::log_at("", &[1.0, 4.0, 16.0]);
        assert!((depths.place(4.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn axes_bear_any_value() {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            for axis in [
                Axis::linear("", value.min(1e12), |v| v.to_string()),
                Axis::log("", [value].into_iter(), |v| v.to_string()),
                Axis::log_at("", &[value]),
                Axis::nines("", value),
            ] {
                assert!(axis.ticks.len() < 100);
                assert!(!axis.place(5.0).is_infinite());
            }
        }
    }

    #[test]
    fn names_do_not_overlap() {
        let series = |name: &str| Series {
            name: name.into(),
            class: "a".into(),
            points: vec![(1.0, 5.0, "a < b".into())],
            marks: true,
        };
        let axis = || Axis::linear("", 5.0, |v| v.to_string());
        let svg = lines("chart", &axis(), &axis(), &[series("one"), series("two"), series("<3>")]);
        assert!(svg.contains("&lt;3&gt;") && svg.contains("a &lt; b"));
        let heights: Vec<f64> = svg
            .split(r#"<text class="name a" x=""#)
            .skip(1)
            .map(|text| text.split('"').nth(2).unwrap().parse().unwrap())
            .collect();
        assert_eq!(heights.len(), 3);
        assert!(heights.windows(2).all(|pair| pair[1] - pair[0] >= LINE - 0.2), "{heights:?}");
    }
}
