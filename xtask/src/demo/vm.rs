//! The demonstration in the virtual machine.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::{heading, prepare};
use crate::measured;
use crate::packages;
use crate::run::{self, Stop};
use crate::uniddrv::virtual_machine;

const SCRIPT: &str = include_str!("guest.sh");
/// The boot included; all is over in two minutes where nothing hangs.
const SECONDS: &str = "420";

pub(super) fn run(stop: &Stop) -> Result<ExitCode> {
    packages::ensure(&["fio"])?;
    crate::vm::prepare()?;
    let (uniddrv, folder) = prepare(stop)?;
    let results = folder.join("vm.json");
    // Those of an earlier run would otherwise be shown for this one.
    if results.exists() {
        fs::remove_file(&results).with_context(|| format!("removing {}", results.display()))?;
    }

    heading("Starting a virtual machine (this takes about ten seconds)");
    let mut command = virtual_machine(&["--timeout", SECONDS, "--writable"])?;
    command.arg(&folder).args(["--", "sh", "-c", SCRIPT, "sh"]);
    command.arg(&uniddrv.program).arg(&folder);
    let status = run::to_end(&mut command, stop, |_| {})?;
    if !status.success() {
        bail!("the demonstration failed in the virtual machine: {status}");
    }

    let text =
        fs::read_to_string(&results).with_context(|| format!("reading {}", results.display()))?;
    heading("Random reads of 4 KiB from the same controller, one CPU");
    print!("{}", measured::beside_linux(&measured::parse(&text)?).text());
    println!("\nCharts of these figures, to open in a browser:");
    println!("  {}", folder.join("report-vm.html").display());
    Ok(ExitCode::SUCCESS)
}
