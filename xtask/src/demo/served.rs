//! The part of the demonstration with a core: a driver that is killed under load.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::heading;
use crate::core::{Core, NAME, Plan};
use crate::uniddrv::Uniddrv;

const DEVICE: &str = "model:nvme?size=1G";

/// Runs it; the page with the plot.
pub(super) fn run(uniddrv: &Uniddrv, folder: &Path) -> Result<PathBuf> {
    heading("The driver as a process of its own, under a core");
    println!(
        "The core holds the device, runs the driver in a sandbox, and gives the device a name\n\
         that programs open. Data goes through shared memory, past the core."
    );
    let log = folder.join("core.log");
    let core =
        Core::start(uniddrv, &Plan { address: DEVICE, driver_cpu: None, cpu: None, log: &log })?;
    println!("Its configuration:\n");
    for line in core.configuration().lines() {
        println!("{}", format!("    {line}").trim_end());
    }
    println!("\n$ uniddrv core --config core.toml 2>{}", log.display());
    println!("It is process {}.", core.id());
    core.show(&["ls"])?;

    heading("Killing the driver while it works");
    println!(
        "SIGKILL, four times a second, under verified load. A successor takes the running device\n\
         over each time, without a reset; a client sees a short pause."
    );
    core.settle()?;
    let page = folder.join("kills.html");
    let report = page.to_str().context("the target folder's path is not UTF-8")?;
    let load = ["--seconds", "6", "--kills-per-second", "4", "--harm", "kill", "--yes"];
    core.show(&[&["torture", NAME], load.as_slice(), &["--report", report]].concat())?;
    println!("\nNo request was lost, none ended twice, and every byte was what it had to be.");
    Ok(page)
}
