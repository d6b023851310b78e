//! The values of the configuration: checked once, and of a type that says so.

use std::fmt;
use std::time::Duration;

use super::error::Problem;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    /// `bytes` bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// How many bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// From a number with an optional unit k, M, G or T (of 1,024 each), from `least` to `most`.
    pub(super) fn parse(text: &str, least: Self, most: Self) -> Result<Self, Problem> {
        let problem = || Problem::Size { least, most };
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text.get(digits.len()..).unwrap_or_default() {
            "" | "B" => 0,
            "k" | "K" | "KiB" => 10,
            "m" | "M" | "MiB" => 20,
            "g" | "G" | "GiB" => 30,
            "t" | "T" | "TiB" => 40,
            _ => return Err(problem()),
        };
        let size = number(digits).and_then(|number| number.checked_mul(1 << shift)).map(Self);
        size.filter(|size| (least..=most).contains(size)).ok_or_else(problem)
    }
}

impl fmt::Display for ByteSize {
    /// The largest unit that divides it, as the configuration takes it: `64M`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "T"), (30, "G"), (20, "M"), (10, "k")];
        let whole = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match units.into_iter().find(|&(shift, _)| whole(shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => self.0.fmt(f),
        }
    }
}

/// A duration from a number with a unit, `100ms`, from `least` to `most`.
pub(super) fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, Problem> {
    let problem = || Problem::Duration { least: Time(least), most: Time(most) };
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let nanoseconds = match text.get(digits.len()..).unwrap_or_default() {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        // Zero needs no unit.
        "" if number(digits) == Some(0) => 1,
        _ => return Err(problem()),
    };
    let duration =
        number(digits).and_then(|number| number.checked_mul(nanoseconds)).map(Duration::from_nanos);
    duration.filter(|duration| (least..=most).contains(duration)).ok_or_else(problem)
}

/// Decimal digits and nothing else.
fn number(digits: &str) -> Option<u64> {
    // `u64::from_str` takes a sign too.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// A duration, written as the configuration takes it: `100ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos();
        let units = [
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1_000, "us"),
        ];
        match units
            .into_iter()
            .find(|&(unit, _)| nanoseconds != 0 && nanoseconds.is_multiple_of(unit))
        {
            Some((unit, name)) => write!(f, "{}{name}", nanoseconds / unit),
            None => write!(f, "{nanoseconds}ns"),
        }
    }
}

/// A real-time priority of `SCHED_FIFO`, 1 to 99. sched(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// `None` outside 1 to 99.
    pub const fn new(priority: u8) -> Option<Self> {
        if priority >= 1 && priority <= 99 { Some(Self(priority)) } else { None }
    }

    /// 1 to 99.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// How many requests a driver has in flight at most, 1 to 1,023: one slot of its ledger each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Depth(u16);

impl Depth {
    /// The most.
    pub const MAX: u16 = 1023;
    /// Where the configuration says nothing.
    pub const DEFAULT: Self = Self(512);

    /// `None` outside 1 to [`MAX`](Self::MAX).
    pub const fn new(depth: u16) -> Option<Self> {
        if depth >= 1 && depth <= Self::MAX { Some(Self(depth)) } else { None }
    }

    /// How many.
    pub const fn get(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        let parse = |text| ByteSize::parse(text, ByteSize(0), ByteSize(u64::MAX));
        for (text, bytes, written) in [
            ("512", 512, "512"),
            ("4k", 4096, "4k"),
            ("64MiB", 64 << 20, "64M"),
            ("1024G", 1 << 40, "1T"),
            ("0", 0, "0"),
        ] {
            let size = parse(text).unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, written), "{text}");
        }
        for text in
            ["", "k", "-1", "+1", "4x", "4 k", "1.5k", "99999999999999999999", "17179869184T"]
        {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn durations_are_read_and_written() {
        let parse = |text| duration(text, Duration::ZERO, Duration::MAX);
        for (text, nanoseconds, written) in [
            ("100ms", 100_000_000, "100ms"),
            ("1500us", 1_500_000, "1500us"),
            ("90s", 90_000_000_000, "90s"),
            ("2min", 120_000_000_000, "2m"),
            ("0", 0, "0ns"),
            ("7ns", 7, "7ns"),
        ] {
            let time = parse(text).unwrap();
            assert_eq!((time.as_nanos(), Time(time).to_string().as_str()), (nanoseconds, written));
        }
        for text in ["", "s", "1", "-1s", "1.5s", "1 s", "1d", "99999999999h"] {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn limits_are_kept() {
        let size = |text| ByteSize::parse(text, ByteSize(4096), ByteSize(8192));
        assert!(size("4095").is_err() && size("4k").is_ok() && size("8193").is_err());
        let time = |text| duration(text, Duration::from_secs(1), Duration::from_secs(2));
        assert!(time("999ms").is_err() && time("2s").is_ok() && time("2001ms").is_err());
        assert!(Priority::new(0).is_none() && Priority::new(99).is_some());
        assert!(Priority::new(100).is_none());
        assert!(
            Depth::new(0).is_none() && Depth::new(1023).is_some() && Depth::new(1024).is_none()
        );
    }
}
