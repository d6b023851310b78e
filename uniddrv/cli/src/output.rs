//! Standard output: JSON, tables and styled text. Colours go away where
//! standard output is no terminal or `NO_COLOR` is set.

use std::fmt::Write as _;
use std::io::{self, Write};

use anstyle::Style;
use serde::Serialize;

use crate::error::Failure;

/// A heading of a table.
pub(crate) const HEADING: Style = Style::new().bold();

/// Prints a warning to standard error.
pub(crate) fn warn(text: &str) {
    let yellow = Style::new().bold().fg_color(Some(anstyle::AnsiColor::Yellow.into()));
    anstream::eprintln!("{yellow}warning:{yellow:#} {text}");
}

/// Where a subcommand prints its data.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON was asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints `value` as JSON where that was asked for, else what `text` gives.
    pub(crate) fn data<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let mut line = serde_json::to_string_pretty(value)?;
            line.push('\n');
            self::text(&line)
        } else {
            self::text(&text())
        }
    }
}

/// Prints text that may hold styles, as it is (no newline is added).
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    finish(write_all(anstream::stdout(), text.as_bytes()))
}

/// As [`text`]; whether anybody still reads it.
pub(crate) fn page(text: &str) -> Result<bool, Failure> {
    let written = write_all(anstream::stdout(), text.as_bytes());
    let read = !matches!(&written, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
    finish(written).map(|()| read)
}

/// What another program said of itself, fit for a terminal: no control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Prints bytes as they are: a script, a page.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    finish(write_all(io::stdout(), bytes))
}

fn write_all(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// A reader that has seen enough (`uniddrv list | head -1`) is no error.
fn finish(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to standard output"))?
        }
        _ => Ok(()),
    }
}

/// A plain table: columns as wide as their widest cell, two spaces between.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&heading| heading.into()).collect()] }
    }

    /// Adds a row; cells beyond the headings are dropped, missing ones empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table as text, its headings bold.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, &width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                line.push_str(cell);
                let padding = width.saturating_sub(cell.chars().count()) + 2;
                line.extend(std::iter::repeat_n(' ', padding));
            }
            let line = line.trim_end();
            if number == 0 {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{HEADING}{line}{HEADING:#}");
            } else {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_moves_no_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{9b}c"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
    }

    #[test]
    fn a_table_lines_up_and_trims() {
        let mut table = Table::new(&["A", "LONGER", "C"]);
        table.row(["aaaa", "b", ""]);
        table.row(["a"]);
        let plain = anstream::adapter::strip_str(&table.render()).to_string();
        assert_eq!(plain, "A     LONGER  C\naaaa  b\na\n");
    }
}
