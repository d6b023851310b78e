//! Names of services, and patterns of them.

use std::fmt;
use std::str::FromStr;

use super::error::Problem;

/// The name of an instance or of a service of it: `nvme:0`, `nvme:0/ns1`, `net:0`.
///
/// A scheme of lower-case letters, digits and `-`, an instance of the same and `_`, and perhaps a path
/// of parts from letters, digits, `.`, `_` and `-`; [`Name::MAX`] bytes at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    text: String,
    /// Where the colon is.
    colon: usize,
    /// Where the path's slash is, or the end.
    slash: usize,
}

impl Name {
    /// The most bytes of a name.
    pub const MAX: usize = 128;

    /// `scheme:number`.
    pub fn numbered(scheme: &str, number: u32) -> Option<Self> {
        format!("{scheme}:{number}").parse().ok()
    }

    /// `nvme` of `nvme:0/ns1`.
    pub fn scheme(&self) -> &str {
        self.text.get(..self.colon).unwrap_or_default()
    }

    /// `nvme:0` of `nvme:0/ns1`.
    pub fn instance(&self) -> &str {
        self.text.get(..self.slash).unwrap_or_default()
    }

    /// `ns1` of `nvme:0/ns1`; empty for the name of an instance.
    pub fn path(&self) -> &str {
        self.text.get(self.slash + 1..).unwrap_or_default()
    }

    /// The whole.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Name {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let parse = || {
            let (scheme, rest) = text.split_once(':')?;
            let (instance, path) = match rest.split_once('/') {
                Some((instance, path)) => (instance, Some(path)),
                None => (rest, None),
            };
            let path_is_fine = path.is_none_or(|path| path.split('/').all(is_path_part));
            (text.len() <= Self::MAX && is_scheme(scheme) && is_instance(instance) && path_is_fine)
                .then_some((scheme.len(), scheme.len() + 1 + instance.len()))
        };
        let (colon, slash) = parse().ok_or(Problem::Name)?;
        Ok(Self { text: text.to_owned(), colon, slash })
    }
}

/// Starts with a letter: lower case, digits, `-`.
pub(super) fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(is_scheme_byte)
}

fn is_scheme_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_instance(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| is_scheme_byte(byte) || byte == b'_')
}

fn is_path_part(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Which names are meant: one (`nvme:0/ns1`), or all that begin so (`nvme:0/*`, `nvme:*`, `*`).
///
/// A pattern with the scheme `disk` covers block services of every scheme: `disk:0/*` covers
/// `nvme:0/ns1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Without the star.
    text: String,
    /// Whether a star ended it.
    open: bool,
}

/// The scheme that stands for every block service.
pub const DISK: &str = "disk";

/// The schemes of block services.
const BLOCK_SCHEMES: &[&str] = &[DISK, "nvme"];

impl Pattern {
    /// Whether `name` is meant.
    pub fn covers(&self, name: &Name) -> bool {
        if self.matches(name.as_str()) {
            return true;
        }
        let rest = name.as_str().get(name.colon..).unwrap_or_default();
        self.text.starts_with("disk:")
            && BLOCK_SCHEMES.contains(&name.scheme())
            && self.matches(&format!("{DISK}{rest}"))
    }

    fn matches(&self, name: &str) -> bool {
        if self.open { name.starts_with(&self.text) } else { name == self.text }
    }

    /// Whether everything that `other` covers is covered by this.
    pub(super) fn includes(&self, other: &Self) -> bool {
        if self.open { other.text.starts_with(&self.text) } else { self == other }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        f.write_str(if self.open { "*" } else { "" })
    }
}

impl FromStr for Pattern {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let Some(start) = text.strip_suffix('*') else {
            let name = text.parse::<Name>().map_err(|_| Problem::Pattern)?;
            return Ok(Self { text: name.text, open: false });
        };
        // What begins a name becomes one by a letter or by an instance.
        let begins_name = [format!("{start}x"), format!("{start}x:0")]
            .iter()
            .any(|name| name.parse::<Name>().is_ok());
        if !begins_name {
            return Err(Problem::Pattern);
        }
        Ok(Self { text: start.to_owned(), open: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let name: Name = "nvme:0/ns1".parse().unwrap();
        assert_eq!((name.scheme(), name.instance(), name.path()), ("nvme", "nvme:0", "ns1"));
        let name: Name = "net:uplink_2".parse().unwrap();
        assert_eq!((name.scheme(), name.instance(), name.path()), ("net", "net:uplink_2", ""));
        assert_eq!(Name::numbered("nvme", 7).unwrap().as_str(), "nvme:7");
    }

    #[test]
    fn malformed_names_are_errors() {
        let long = format!("nvme:0/{}", "n".repeat(Name::MAX));
        for text in [
            "",
            "nvme",
            "nvme:",
            ":0",
            "nvme:/ns1",
            "nvme:0/",
            "nvme:0//ns1",
            "nvme:0/..",
            "NVMe:0",
            "0:0",
            "nvme:0/n s",
            "nvme:0/*",
            "nvme:a:b",
            "nvme:0/\u{e4}",
            "nvme:0\n",
            &long,
        ] {
            assert_eq!(text.parse::<Name>(), Err(Problem::Name), "{text:?} was accepted");
        }
    }

    #[test]
    fn patterns_cover_what_they_say() {
        for (pattern, name, covered) in [
            ("nvme:0/ns1", "nvme:0/ns1", true),
            ("nvme:0/ns1", "nvme:0/ns10", false),
            ("nvme:0/ns*", "nvme:0/ns10", true),
            ("nvme:0/*", "nvme:0/ns1", true),
            ("nvme:0/*", "nvme:01/ns1", false),
            ("nvme:0/*", "nvme:0", false),
            ("nvme:*", "nvme:0/ns1", true),
            ("*", "net:0", true),
            ("n*", "net:0", true),
            ("disk:*", "nvme:0/ns1", true),
            ("disk:0/ns1", "nvme:0/ns1", true),
            ("disk:*", "net:0", false),
            ("nvme:*", "disk:0/ns1", false),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            assert_eq!(pattern.covers(&name.parse().unwrap()), covered, "{pattern} {name}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors() {
        for text in ["", "nvme", "nvme:", "nvme:*/ns1", "**", "nvme:0/n*s", "N*", "nvme:0//*", " *"]
        {
            assert_eq!(text.parse::<Pattern>(), Err(Problem::Pattern), "{text:?} was accepted");
        }
    }
}
