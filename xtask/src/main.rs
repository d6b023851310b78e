//! Project tasks, run as `cargo xtask TASK`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod fuzz;
mod packages;
mod suite;
mod vm;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run a command of this machine inside a virtual machine that has an
    /// IOMMU, NVMe drives and NICs.
    Vm(vm::Options),
    /// Check and test everything.
    Test(suite::Options),
    /// Feed made-up input to all that reads what others say.
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Vm(options) => vm::run(&options),
        Task::Test(options) => suite::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(vm::FAILED)
    })
}
