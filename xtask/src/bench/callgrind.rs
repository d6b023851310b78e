//! Instructions of a program by callgrind, told apart by the crate they belong to.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::run::{self, Stop};

/// Instructions, by the part of the project that they were compiled from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Instructions {
    /// The driver, what it uses of the SDK and the specification included.
    pub(crate) driver: f64,
    /// The device, which is in the same process.
    pub(crate) device: f64,
    /// The loop that makes and takes the requests.
    pub(crate) benchmark: f64,
}

/// Instructions a request, from two runs of `program`, which carries out as many as its
/// argument after `--count` says: what both have in common drops out.
pub(crate) fn a_request(program: &Path, stop: &Stop) -> Result<Instructions> {
    const FEW: u64 = 20_000;
    const MANY: u64 = 220_000;
    let (few, many) = (count(program, FEW, stop)?, count(program, MANY, stop)?);
    let each = |few: f64, many: f64| (many - few) / (MANY - FEW) as f64;
    Ok(Instructions {
        driver: each(few.driver, many.driver),
        device: each(few.device, many.device),
        benchmark: each(few.benchmark, many.benchmark),
    })
}

fn count(program: &Path, requests: u64, stop: &Stop) -> Result<Instructions> {
    let folder = tempfile::tempdir().context("making a folder for callgrind")?;
    let profile = folder.path().join("profile");
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet", "--compress-pos=no", "--compress-strings=no"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .args(["--count", &requests.to_string()])
        .stdout(Stdio::null());
    let status = run::to_end(&mut command, stop, |_| {})?;
    if !status.success() {
        bail!("{}: {status}", run::shown(&command));
    }
    let text = std::fs::read(&profile)
        .with_context(|| format!("reading callgrind's {}", profile.display()))?;
    Ok(by_part(&String::from_utf8_lossy(&text)))
}

/// A part of the project.
#[derive(Clone, Copy)]
enum Part {
    Driver,
    Device,
    Benchmark,
}

/// Sums a profile up. The format is "Callgrind Format Specification" of Valgrind's manual:
/// `fl=`, `fi=` and `fe=` name the file that the lines below come from, `fn=` a function, and
/// the line after `calls=` is a callee's cost, which stands elsewhere too.
///
/// What is inlined from the standard library counts for the part whose line came before it.
fn by_part(profile: &str) -> Instructions {
    let mut sums = Instructions::default();
    let mut known = HashMap::new();
    let mut current = Part::Benchmark;
    let mut callee = false;
    for line in profile.lines() {
        if let Some((key, value)) = line.split_once('=') {
            match key {
                "fl" | "fi" | "fe" => {
                    let part = *known.entry(value).or_insert_with(|| part(value));
                    current = part.unwrap_or(current);
                }
                "calls" => callee = true,
                _ => {}
            }
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        let numbers = (words.next().map(str::parse::<u64>), words.next().map(str::parse::<u64>));
        let (Some(Ok(_)), Some(Ok(cost))) = numbers else { continue };
        if std::mem::take(&mut callee) {
            continue;
        }
        let sum = match current {
            Part::Driver => &mut sums.driver,
            Part::Device => &mut sums.device,
            Part::Benchmark => &mut sums.benchmark,
        };
        *sum += cost as f64;
    }
    sums
}

/// The part that a source file belongs to; none for those of others.
fn part(file: &str) -> Option<Part> {
    let is_below = |folder: &str| file.starts_with(folder) || file.contains(&format!("/{folder}"));
    if ["devices/models/", "storage-poll/benches/queue/instant.rs"].into_iter().any(is_below)
        || file.contains("/vm-memory-")
    {
        Some(Part::Device)
    } else if is_below("storage-poll/benches/") {
        Some(Part::Benchmark)
    } else if ["storage-poll/src/", "uniddrv/sdk/", "devices/spec/"].into_iter().any(is_below) {
        Some(Part::Driver)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_summed_by_part() {
        let profile = "\
# callgrind format
events: Ir
fl=storage-poll/benches/queue/main.rs
fn=queue::Reader::run
40 7
fi=/p/storage-poll/src/queue.rs
12 100
fi=/rustc/0/library/core/src/ptr.rs
900 5
cfn=uniddrv_models::nvme::ring
calls=3 10
13 5000
fe=storage-poll/benches/queue/main.rs
41 1

fl=devices/models/src/nvme/queues.rs
fn=uniddrv_models::nvme::ring
10 20
totals: 133
";
        let wanted = Instructions { driver: 105.0, device: 20.0, benchmark: 8.0 };
        assert_eq!(by_part(profile), wanted);
    }
}
