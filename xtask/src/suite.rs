//! `cargo xtask test`: everything that must pass, step by step.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::table::Table;
use crate::{fuzz, vm};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave the virtual machine out: nothing is installed for it.
    #[arg(long)]
    no_vm: bool,
}

/// A part of the suite under a heading of its own. It fails by an error or by
/// counting a failed test.
struct Step {
    heading: &'static str,
    run: fn(&mut Tally) -> Result<()>,
}

/// Before the others: tests of theirs boot it, too.
const PREPARATION: Step =
    Step { heading: "What the virtual machine needs", run: |_| vm::prepare() };

const STEPS: &[Step] = &[
    Step { heading: "Formatting", run: |_| cargo(&["fmt", "--all", "--check"], &[]) },
    Step { heading: "Lints", run: |_| cargo(LINTS, &[]) },
    Step { heading: "Lints of the virtual machine's tests", run: |_| cargo(VM_LINTS, &[]) },
    Step { heading: "Documentation", run: |_| cargo(DOCUMENTATION, WARNINGS_ARE_ERRORS) },
    Step { heading: "Programs", run: |_| cargo(PROGRAMS, &[]) },
    Step { heading: "Tests", run: |tally| cargo_tests(TESTS, tally) },
    Step { heading: "Fuzzing", run: fuzz_briefly },
];

const VM_STEPS: &[Step] =
    &[Step { heading: "Tests in the virtual machine", run: |tally| guest_tests(VM_TESTS, tally) }];

/// Those that tests start, of whichever crate: cargo builds a crate's own for its tests only.
const PROGRAMS: &[&str] = &["build", "--workspace", "--bins"];
const TESTS: &[&str] = &["test", "--workspace", "--no-fail-fast"];
const VM_TESTS: &[&str] =
    &["test", "--package", "uniddrv-tests", "--package", "uniddrv-cli", "--test", "vm"];
/// Programs that those run, beside what cargo builds for them.
const VM_PROGRAMS: &[&str] =
    &["build", "--package", "uniddrv-cli", "--package", "storage-poll", "--bins"];
const WARNINGS_ARE_ERRORS: &[(&str, &str)] = &[("RUSTDOCFLAGS", "-Dwarnings")];
const LINTS: &[&str] = &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
/// Their target is not among `--all-targets`, since only the guest runs them.
const VM_LINTS: &[&str] = &[
    "clippy",
    "--package",
    "uniddrv-tests",
    "--package",
    "uniddrv-cli",
    "--test",
    "vm",
    "--",
    "-D",
    "warnings",
];
const DOCUMENTATION: &[&str] = &["doc", "--workspace", "--no-deps"];

/// Tests that passed and failed so far.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    passed: u64,
    failed: u64,
}

/// Runs all steps, also after one has failed, and sums up in the last line.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut tally = Tally::default();
    let steps = if options.no_vm {
        STEPS.iter().collect::<Vec<_>>()
    } else {
        [&PREPARATION].into_iter().chain(STEPS).chain(VM_STEPS).collect()
    };
    let mut times = Table::new(1, &["step", "seconds", "result"]);
    let started = Instant::now();
    for step in steps {
        println!("\n== {}", step.heading);
        let failed_before = tally.failed;
        let step_started = Instant::now();
        if let Err(error) = (step.run)(&mut tally) {
            println!("{} failed: {error:#}", step.heading);
            // A step whose failed tests are counted is not counted again.
            if tally.failed == failed_before {
                tally.failed += 1;
            }
        }
        let result = if tally.failed == failed_before { "passed" } else { "failed" };
        times.row([step.heading, &seconds(step_started), result]);
    }
    times.row(["Everything", &seconds(started), ""]);
    print!("\n{}", times.text());
    println!("\n{} passed, {} failed", tally.passed, tally.failed);
    io::stdout().flush().context("writing the summary")?;
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn seconds(since: Instant) -> String {
    format!("{:.0}", since.elapsed().as_secs_f64())
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let status = cargo_command(arguments)
        .envs(environment.iter().copied())
        .status()
        .context("running cargo")?;
    if !status.success() {
        bail!("cargo {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// Runs tests with their output passed on, and adds up cargo's summary lines.
fn cargo_tests(arguments: &[&str], tally: &mut Tally) -> Result<()> {
    let mut child =
        cargo_command(arguments).stdout(Stdio::piped()).spawn().context("running cargo")?;
    let output = child.stdout.take().context("cargo has no stdout")?;
    for line in BufReader::new(output).split(b'\n') {
        let mut line = line.context("reading cargo's output")?;
        tally.add(&String::from_utf8_lossy(&line));
        line.push(b'\n');
        io::stdout().write_all(&line).context("passing on cargo's output")?;
    }
    let status = child.wait().context("waiting for cargo")?;
    if !status.success() {
        bail!("cargo {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// Runs each fuzz target for a few seconds.
fn fuzz_briefly(tally: &mut Tally) -> Result<()> {
    let (passed, failed) = fuzz::brief()?;
    tally.passed += passed;
    tally.failed += failed;
    Ok(())
}

/// Runs tests with this program's `vm` as cargo's runner: a boot for each test
/// program.
fn guest_tests(arguments: &[&str], tally: &mut Tally) -> Result<()> {
    cargo(VM_PROGRAMS, &[])?;
    let program = crate::program().context("finding this program")?;
    let program = program.to_str().context("this program's path is not UTF-8")?;
    let runner = serde_json::to_string(&[program, "vm", "--"])?;
    let configuration = format!("target.'cfg(all())'.runner={runner}");
    let arguments = [arguments, &["--config", &configuration]].concat();
    cargo_tests(&arguments, tally)
}

pub(crate) fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or(OsString::from("cargo")));
    command.args(arguments).stdin(Stdio::null());
    command
}

impl Tally {
    /// Takes note of a line such as
    /// `test result: ok. 5 passed; 0 failed; 0 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) =
            line.strip_prefix("test result: ").and_then(|result| result.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_lines_are_added_up() {
        let mut tally = Tally::default();
        for line in [
            "running 7 tests",
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
            "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out",
            "test tests::result ... ok",
        ] {
            tally.add(line);
        }
        assert_eq!(tally, Tally { passed: 8, failed: 2 });
    }
}
