//! The text of a configuration, taken apart so that every error knows its place.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Place, Problem};

/// The most characters of an offending text that an error repeats.
const EXCERPT: usize = 60;

/// The most errors, and the most warnings, that are kept: nobody reads on.
const MOST: usize = 1000;

/// The text, and what was found wrong with it so far.
pub(super) struct Source<'t> {
    text: &'t str,
    path: &'t Path,
    /// Where the lines begin.
    lines: Vec<usize>,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<ConfigError>,
}

impl<'t> Source<'t> {
    pub(super) fn new(text: &'t str, path: &'t Path) -> Self {
        let breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let lines = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        Self { text, path, lines, errors: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn error(&mut self, span: &Range<usize>, problem: Problem) {
        if self.errors.len() < MOST {
            let error = self.at(span, problem);
            self.errors.push(error);
        }
    }

    pub(super) fn warning(&mut self, span: &Range<usize>, problem: Problem) {
        if self.warnings.len() < MOST {
            let warning = self.at(span, problem);
            self.warnings.push(warning);
        }
    }

    fn at(&self, span: &Range<usize>, problem: Problem) -> ConfigError {
        let text = self.text.get(span.clone()).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let mut excerpt: String = line.chars().take(EXCERPT).collect();
        if excerpt.len() < text.trim_end().len() {
            excerpt.push('…');
        }
        ConfigError {
            path: self.path.into(),
            place: self.place(span.start),
            text: excerpt,
            problem,
        }
    }

    /// Where the byte at `offset` is.
    pub(super) fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        // The first line begins at 0, so at least one begins at or before any byte.
        let line = self.lines.partition_point(|&start| start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or_default();
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        // Bytes that continue a character are none of their own.
        let column = before.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
        Place { line: line as u32, column: column as u32 + 1 }
    }
}

/// A value of a key.
pub(super) struct Found<'a, 'i>(&'a DeValue<'i>);

impl<'a> Found<'a, '_> {
    pub(super) fn string(&self) -> Result<&'a str, Problem> {
        match self.0 {
            DeValue::String(text) => Ok(text),
            other => Err(kind("a string", other)),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, Problem> {
        match self.0 {
            DeValue::Boolean(value) => Ok(*value),
            other => Err(kind("true or false", other)),
        }
    }

    pub(super) fn integer(&self, least: u64, most: u64) -> Result<u64, Problem> {
        let DeValue::Integer(integer) = self.0 else {
            return Err(kind("a whole number", self.0));
        };
        u64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|number| (least..=most).contains(number))
            .ok_or(Problem::Range { least, most })
    }

    /// The text of a quantity; a bare number has its digits.
    pub(super) fn quantity(&self, expected: &'static str) -> Result<&'a str, Problem> {
        match self.0 {
            DeValue::String(text) => Ok(text),
            DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str()),
            other => Err(kind(expected, other)),
        }
    }

    /// Whether it is the boolean `false`.
    pub(super) fn is_false(&self) -> bool {
        matches!(self.0, DeValue::Boolean(false))
    }
}

fn kind(expected: &'static str, found: &DeValue<'_>) -> Problem {
    Problem::Kind { expected, found: found.type_str() }
}

/// A table whose keys are known.
pub(super) struct Section<'a, 'i> {
    table: &'a DeTable<'i>,
    /// Where it stands: errors on what is missing point here.
    pub(super) span: Range<usize>,
    name: &'static str,
}

impl<'a, 'i> Section<'a, 'i> {
    /// Checks that it has no other keys than `keys`.
    pub(super) fn new(
        table: &'a DeTable<'i>,
        span: Range<usize>,
        name: &'static str,
        keys: &'static [&'static str],
        source: &mut Source<'_>,
    ) -> Self {
        for key in table.keys() {
            let text: &str = key.get_ref();
            if !keys.contains(&text) {
                let near = nearest(text, keys);
                source.error(&key.span(), Problem::UnknownKey { section: name, near, keys });
            }
        }
        Self { table, span, name }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Where the value of `key` stands; the section's place without it.
    pub(super) fn span_of(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// The value of `key` as `read` understands it. `None` where it is missing, or wrong and
    /// reported.
    pub(super) fn get<T>(
        &self,
        key: &str,
        source: &mut Source<'_>,
        read: impl FnOnce(&Found<'a, 'i>) -> Result<T, Problem>,
    ) -> Option<T> {
        let value = self.table.get(key)?;
        match read(&Found(value.get_ref())) {
            Ok(value) => Some(value),
            Err(problem) => {
                source.error(&value.span(), problem);
                None
            }
        }
    }

    /// The table that is the value of `key`.
    pub(super) fn table(
        &self,
        key: &str,
        name: &'static str,
        keys: &'static [&'static str],
        source: &mut Source<'_>,
    ) -> Option<Section<'a, 'i>> {
        section(self.table.get(key)?, name, keys, source)
    }

    /// The tables of the array that is the value of `key`: `[[key]]`, `most` at most.
    pub(super) fn tables(
        &self,
        key: &str,
        name: &'static str,
        keys: &'static [&'static str],
        most: usize,
        source: &mut Source<'_>,
    ) -> Vec<Section<'a, 'i>> {
        let Some(value) = self.table.get(key) else {
            return Vec::new();
        };
        let DeValue::Array(array) = value.get_ref() else {
            source.error(&value.span(), kind(name, value.get_ref()));
            return Vec::new();
        };
        if array.len() > most {
            source.error(&value.span(), Problem::TooMany { what: name, most });
        }
        array.iter().take(most).filter_map(|value| section(value, name, keys, source)).collect()
    }

    /// Reports that something is missing.
    pub(super) fn missing(&self, needed: &'static str, source: &mut Source<'_>) {
        source.error(&self.span, Problem::Missing { section: self.name, needed });
    }
}

fn section<'a, 'i>(
    value: &'a Spanned<DeValue<'i>>,
    name: &'static str,
    keys: &'static [&'static str],
    source: &mut Source<'_>,
) -> Option<Section<'a, 'i>> {
    if let DeValue::Table(table) = value.get_ref() {
        return Some(Section::new(table, value.span(), name, keys, source));
    }
    source.error(&value.span(), kind(name, value.get_ref()));
    None
}

/// The key that `text` was probably meant to be: at most two letters differ.
fn nearest(text: &str, keys: &[&'static str]) -> Option<&'static str> {
    // Longer than any key: its distance is not worth the time.
    if text.len() > 32 {
        return None;
    }
    let near = keys.iter().map(|key| (distance(text, key), *key)).min()?;
    (near.0 <= 2 && near.0 < text.len()).then_some(near.1)
}

/// How many letters must be put in, left out or changed to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (done, x) in a.bytes().enumerate() {
        let mut diagonal = done;
        let mut left = done + 1;
        for (above, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let changed = diagonal + usize::from(x != y);
            diagonal = *above;
            left = changed.min(diagonal + 1).min(left + 1);
            *above = left;
        }
        if let Some(first) = row.first_mut() {
            *first = done + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_from_one() {
        let source = Source::new("ä = 1\r\nbc = 2\n", Path::new("x"));
        let place = |offset| {
            let Place { line, column } = source.place(offset);
            (line, column)
        };
        assert_eq!(place(0), (1, 1));
        assert_eq!(place(3), (1, 3), "the umlaut has two bytes");
        assert_eq!(place(8), (2, 1));
        assert_eq!(place(10), (2, 3));
        assert_eq!(place(999), (3, 1), "beyond the end");
        assert_eq!(Source::new("", Path::new("x")).place(0), Place { line: 1, column: 1 });
    }

    #[test]
    fn a_typing_error_finds_its_key() {
        let keys = &["address", "cpu", "memory"];
        assert_eq!(nearest("adress", keys), Some("address"));
        assert_eq!(nearest("cpus", keys), Some("cpu"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("x", keys), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }
}
