//! The `uniddrv` command: takes PCI devices away from Linux, gives them back,
//! and drives them. This file parses the command line and dispatches; each
//! subcommand has a file below `commands`, and what they do is in libraries.

#![forbid(unsafe_code)]

mod bench;
mod commands;
mod controller;
mod error;
mod output;
mod served;
mod signals;
mod torture;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::output::Output;

/// Drive PCI devices from user space: take them from Linux, measure them,
/// give them back.
#[derive(Debug, Parser)]
#[command(name = "uniddrv", version, max_term_width = 100)]
#[command(after_help = "Exit status: 0 success, 1 error, 2 wrong usage, 130 ended by Ctrl-C.")]
struct Cli {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

/// Options that every subcommand takes.
#[derive(Debug, clap::Args)]
struct Global {
    /// Print data as JSON
    #[arg(long, global = true)]
    json: bool,

    /// Read and write /sys, /proc, /run, /etc and /dev below this folder.
    /// For tests and for containers that see the machine's tree elsewhere.
    #[arg(long, global = true, hide = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// What a subcommand is run with.
struct Context {
    /// Where the machine's tree (`sys`, `proc`, `run`, `etc`, `dev`) is: `/`.
    root: PathBuf,
    /// Standard output, as JSON or as text.
    out: Output,
}

fn main() -> ExitCode {
    // The core executes this program anew for each driver process.
    uniddrv_core::sandbox::launch_if_asked();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are "errors" with exit status 0; wrong usage is 2.
        Err(error) => error.exit(),
    };
    let context = Context { root: cli.global.root, out: Output::new(cli.global.json) };
    match cli.command.run(&context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
