//! Tables, for a terminal and for Markdown.

use std::fmt::Write as _;

/// A table whose first `left` columns are words and whose others are figures.
pub(crate) struct Table {
    left: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(left: usize, headings: &[&str]) -> Self {
        Self { left, rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Columns two spaces apart, a line under the headings.
    pub(crate) fn text(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let cells = self.padded(row, &widths);
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
            if number == 0 {
                let rule = widths.iter().map(|&width| "-".repeat(width)).collect::<Vec<_>>();
                text.push_str(&rule.join("  "));
                text.push('\n');
            }
        }
        text
    }

    /// The same as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {} |", self.padded(row, &widths).join(" | "));
            if number == 0 {
                text.push('|');
                for (column, &width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width.max(2));
                    let _ = if column < self.left {
                        write!(text, " {dashes} |")
                    } else {
                        write!(text, " {}: |", &dashes[1..])
                    };
                }
                text.push('\n');
            }
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(2)
            })
            .collect()
    }

    fn padded(&self, row: &[String], widths: &[usize]) -> Vec<String> {
        let pad = |(column, &width): (usize, &usize)| {
            let cell = row.get(column).map_or("", String::as_str);
            if column < self.left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        };
        widths.iter().enumerate().map(pad).collect()
    }
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

/// Nanoseconds in three digits.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_to_the_right() {
        let mut table = Table::new(1, &["device", "IOPS"]);
        table.row(["null", "1,000"]);
        assert_eq!(table.text(), "device   IOPS\n------  -----\nnull    1,000\n");
        assert_eq!(
            table.markdown(),
            "| device |  IOPS |\n| ------ | ----: |\n| null   | 1,000 |\n"
        );
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([0.0, 999.4, 1_234_567.0].map(thousands), ["0", "999", "1,234,567"]);
        assert_eq!(
            [999, 1_000, 12_345, 2_000_000_000].map(duration),
            ["999 ns", "1.00 µs", "12.3 µs", "2.00 s"]
        );
    }
}
