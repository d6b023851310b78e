//! Project tasks, run as `cargo xtask TASK`.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{Parser, Subcommand};

mod bench;
mod core;
mod demo;
mod fuzz;
mod measured;
mod model;
mod packages;
mod run;
mod suite;
mod table;
mod tally;
mod uniddrv;
mod vm;

/// Exit status of what Ctrl-C ended, as shells have it.
const INTERRUPTED: u8 = 130;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show what uniddrv does: build it, drive a software NVMe controller,
    /// verify data, measure.
    Demo(demo::Options),
    /// Make the figures of docs/benchmarks.md.
    Bench(bench::Options),
    /// Run a command of this machine inside a virtual machine that has an
    /// IOMMU, NVMe drives and NICs.
    Vm(vm::Options),
    /// Check and test everything.
    Test(suite::Options),
    /// Feed made-up input to all that reads what others say.
    Fuzz(fuzz::Options),
}

/// The path of this program, as it was started from: while it runs, cargo may well put a newer
/// one there, and `current_exe` would name a file that is gone.
pub(crate) fn program() -> io::Result<&'static Path> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = PROGRAM.get() {
        return Ok(path);
    }
    let path = std::env::current_exe()?;
    Ok(PROGRAM.get_or_init(|| path))
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}

fn main() -> ExitCode {
    // First of all: later it may be too late. Whoever needs it meets the error.
    drop(program());
    let outcome = match Arguments::parse().task {
        Task::Demo(options) => demo::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Vm(options) => vm::run(&options),
        Task::Test(options) => suite::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(if error.is::<run::Interrupted>() { INTERRUPTED } else { vm::FAILED })
    })
}
