//! `uniddrv restart NAME`.

use serde::Serialize;
use uniddrv::client::{Core, DriverStatus};

use super::status::{DeathRow, recovery};
use crate::Context;
use crate::error::Failure;
use crate::output::printable;
use crate::served;

/// Replace the driver of a name by a new process, without resetting the device
///
/// Its clients see a short pause. Also starts a driver that the core has stopped.
#[derive(Debug, clap::Args)]
pub(crate) struct Restart {
    /// The name of the device, such as nvme:0
    name: String,
}

/// The JSON output.
#[derive(Serialize)]
struct Replaced {
    name: String,
    driver: String,
    state: String,
    pid: i32,
    previous_pid: i32,
    /// How it went; nothing where no process ran before.
    succession: Option<DeathRow>,
}

impl Restart {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let core = served::connect()?;
        let before = served::driver(&core, &self.name)?;
        core.restart(&before.name)?;
        tell(context, &core, &before)
    }
}

/// Says how it went.
pub(super) fn tell(context: &Context, core: &Core, before: &DriverStatus) -> Result<(), Failure> {
    let after = served::driver(core, &before.name)?;
    let death = after.deaths.iter().rfind(|death| before.pid != 0 && death.pid == before.pid);
    let replaced = Replaced {
        name: after.name.clone(),
        driver: after.driver.clone(),
        state: after.state.clone(),
        pid: after.pid,
        previous_pid: before.pid,
        succession: death.map(DeathRow::new),
    };
    context.out.data(&replaced, || {
        let DriverStatus { name, pid, driver, .. } = &after;
        let driver = printable(driver);
        let from = match before.pid {
            0 => String::new(),
            pid => format!(" after process {pid}"),
        };
        let how = death.map_or_else(String::new, |death| format!(": {}", recovery(death)));
        format!("{name} is driven by process {pid} ({driver}){from}{how}\n")
    })
}
