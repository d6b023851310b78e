//! Sizes as people write them: `512`, `4k`, `1M`, `2G`.

/// Bytes from a number with an optional suffix k, M, G or T (of 1,024 each).
///
/// # Errors
/// What is wrong with `text`.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text.get(digits.len()..).unwrap_or_default() {
        "" | "B" => 0,
        "k" | "K" | "KiB" => 10,
        "m" | "M" | "MiB" => 20,
        "g" | "G" | "GiB" => 30,
        "t" | "T" | "TiB" => 40,
        suffix => return Err(format!("`{suffix}` is no unit; use k, M, G or T")),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("expected a number with an optional k, M, G or T, such as 4k".into());
    }
    let too_large = || format!("`{text}` is too large");
    let number = digits.parse::<u64>().map_err(|_| too_large())?;
    number.checked_mul(1 << shift).ok_or_else(too_large)
}

/// Bytes, for people: the largest unit that leaves at least 1, with up to one decimal.
pub(crate) fn show(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if (value - value.round()).abs() < 0.05 {
        format!("{value:.0} {name}")
    } else {
        format!("{value:.1} {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed() {
        for (text, bytes) in
            [("512", 512), ("4k", 4096), ("4K", 4096), ("1M", 1 << 20), ("2GiB", 2 << 30), ("0", 0)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_an_error() {
        for text in ["", "k", "-1", "4x", "4 k", "1.5k", "99999999999999999999", "17179869184T"] {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn sizes_are_shown() {
        assert_eq!(show(512), "512 B");
        assert_eq!(show(4096), "4 KiB");
        assert_eq!(show(1536), "1.5 KiB");
        assert_eq!(show(3 << 40), "3 TiB");
    }
}
