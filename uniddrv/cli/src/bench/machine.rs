//! What a figure depends on beside the device: the machine, its kernel, the day.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Facts about this machine, as names and values.
pub(crate) fn facts(root: &Path) -> Vec<(&'static str, String)> {
    let uname = rustix::system::uname();
    let kernel =
        format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy());
    let cpus = super::cpu::allowed().len();
    let mut facts = vec![
        ("Date", date(seconds_now())),
        ("Processor", processor(root).unwrap_or_else(|| "unknown".into())),
        ("CPUs", cpus.to_string()),
        ("Kernel", kernel),
        ("uniddrv", env!("CARGO_PKG_VERSION").into()),
    ];
    if cfg!(debug_assertions) {
        facts.push(("Build", "debug: the figures say nothing about speed".into()));
    }
    facts
}

fn processor(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("proc/cpuinfo")).ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Seconds since 1970.
fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The present moment, to the second.
pub(crate) fn now() -> String {
    moment(seconds_now())
}

/// Seconds since 1970 as `2026-01-31 12:00:00 UTC`.
pub(crate) fn moment(seconds: u64) -> String {
    format!("{}:{:02} UTC", to_the_minute(seconds), seconds % 60)
}

/// Seconds since 1970 as `2026-01-31 12:00 UTC`.
fn date(seconds: u64) -> String {
    to_the_minute(seconds) + " UTC"
}

fn to_the_minute(seconds: u64) -> String {
    // Whatever a device, driver or core calls a time: the year stays a number of four digits.
    let seconds = seconds.min(253_402_300_799);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that start in March have their leap day at the end: 400 of them are 146,097 days.
    let since = days + 719_468;
    let (era, day_of_era) = (since / 146_097, since % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", rest / 3600, rest / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_709_251_200, "2024-03-01 00:00 UTC"),
            (4_102_444_799, "2099-12-31 23:59 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
        assert_eq!(moment(951_782_461), "2000-02-29 00:01:01 UTC");
        assert_eq!(date(u64::MAX), "9999-12-31 23:59 UTC");
    }

    #[test]
    fn facts_are_gathered() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("proc")).unwrap();
        fs::write(root.path().join("proc/cpuinfo"), "processor : 0\nmodel name\t: Fast (R) 9\n")
            .unwrap();
        let facts = facts(root.path());
        assert!(facts.contains(&("Processor", "Fast (R) 9".into())));
        assert!(facts.iter().all(|(_, value)| !value.is_empty()));
    }
}
