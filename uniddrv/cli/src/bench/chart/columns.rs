//! Upright bars side by side: a histogram.

use std::fmt::Write as _;

use super::{Axis, BOTTOM, HEIGHT, across, down, frame, open};
use crate::bench::report::escape;

/// One bar.
pub(crate) struct Column {
    /// Where it begins and ends along the horizontal axis.
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// How high it is.
    pub(crate) value: f64,
    /// What a pointer that rests there is told.
    pub(crate) title: String,
}

/// A chart of columns, all of a class that the style sheet colours.
pub(crate) fn columns(label: &str, x: &Axis, y: &Axis, class: &str, all: &[Column]) -> String {
    let mut svg = open(label, HEIGHT);
    frame(&mut svg, x, y);
    for Column { from, to, value, title } in all {
        let (left, right) = (across(x.place(*from)), across(x.place(*to)));
        let top = down(y.place(*value));
        // Writing to a string cannot fail.
        let _ = write!(
            svg,
            r#"<rect class="bar {class}" x="{:.1}" y="{top:.1}" width="{:.1}" height="{:.1}"><title>{}</title></rect>"#,
            left + 0.5,
            (right - left - 1.0).max(1.0),
            (HEIGHT - BOTTOM - top).max(0.0),
            escape(title)
        );
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_values_are_higher() {
        let axis = Axis::linear("", 10.0, |v| v.to_string());
        let column = |from: f64, value| Column { from, to: from + 1.0, value, title: "<".into() };
        let svg = columns("", &axis, &axis, "ours", &[column(0.0, 10.0), column(1.0, 5.0)]);
        let heights: Vec<f64> = svg
            .split(r#" height=""#)
            .skip(1)
            .map(|text| text.split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(heights.len(), 2);
        assert!((heights[0] - 2.0 * heights[1]).abs() < 0.2, "{heights:?}");
        assert!(svg.contains("&lt;") && svg.ends_with("</svg>"));
    }
}
