//! `cargo xtask test`: everything that must pass, step by step.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::table::Table;
use crate::tally::{Digest, Tally};
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

/// Runs all steps, also after one has failed, and sums up in the last line.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut tally = Tally::default();
    // What was kept of the last time.
    fs::create_dir_all(crate::target()).context("making the target folder")?;
    File::create(log()).context("keeping a log")?;
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
            let failure = format!("{} failed: {error:#}\n", step.heading);
            print!("{failure}");
            tally.failures.push_str(&failure);
            // A step whose failed tests are counted is not counted again.
            if tally.failed == failed_before {
                tally.failed += 1;
            }
        }
        let result = if tally.failed == failed_before { "passed" } else { "failed" };
        times.row([step.heading, &seconds(step_started), result]);
    }
    times.row(["Everything", &seconds(started), ""]);
    if !tally.failures.is_empty() {
        print!("\n== What failed\n{}", tally.failures);
    }
    print!("\n{}", times.text());
    println!("\n{} passed, {} failed", tally.passed, tally.failed);
    io::stdout().flush().context("writing the summary")?;
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where the whole output of tests is kept.
fn log() -> PathBuf {
    crate::target().join("test.log")
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

/// Runs tests, prints what matters of their output, and keeps the rest in a file.
fn cargo_tests(arguments: &[&str], tally: &mut Tally) -> Result<()> {
    let (output, ours) = io::pipe().context("making a pipe")?;
    let mut command = cargo_command(arguments);
    command.stdout(ours.try_clone().context("sharing a pipe")?).stderr(ours);
    let mut child = command.spawn().context("running cargo")?;
    // The pipe ends with cargo: this end would keep it open.
    drop(command);
    let path = log();
    let mut log = File::options().append(true).create(true).open(&path).context("keeping a log")?;
    let mut digest = Digest::default();
    for line in BufReader::new(output).split(b'\n') {
        let mut line = line.context("reading cargo's output")?;
        if let Some(told) = digest.line(&String::from_utf8_lossy(&line), tally) {
            println!("{told}");
        }
        line.push(b'\n');
        log.write_all(&line).with_context(|| format!("writing {}", path.display()))?;
    }
    digest.end(tally);
    let status = child.wait().context("waiting for cargo")?;
    if !status.success() {
        bail!("cargo {} ended with {status}; {} has it all", arguments.join(" "), path.display());
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
    let runner = serde_json::to_string(&[program, "vm", "--again", "--"])?;
    let configuration = format!("target.'cfg(all())'.runner={runner}");
    let arguments = [arguments, &["--config", &configuration]].concat();
    cargo_tests(&arguments, tally)
}

pub(crate) fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or(OsString::from("cargo")));
    command.args(arguments).stdin(Stdio::null());
    command
}
