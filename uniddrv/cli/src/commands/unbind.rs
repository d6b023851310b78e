//! `uniddrv unbind ADDRESS`.

use serde::Serialize;
use uniddrv::sysfs::{Sysfs, UnbindOptions, Unbound};

use super::bind::resolve;
use crate::Context;
use crate::error::Failure;
use crate::signals::stop_flag;

/// Give a device back to the Linux driver that it came from
///
/// Clears driver_override, and removes what `bind --persist` wrote. A bind that
/// was killed half way is mended.
#[derive(Debug, clap::Args)]
pub(crate) struct Unbind {
    /// The address of the device, such as 0000:03:00.0
    address: String,

    /// Also while a program works with the device; waits until it lets go
    #[arg(long)]
    force: bool,
}

/// The JSON output.
#[derive(Serialize)]
struct Device {
    address: String,
    present: bool,
    driver: Option<String>,
}

impl Unbind {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let sysfs = Sysfs::new(&context.root);
        let address = resolve(&sysfs, &self.address, "unbind")?;
        // An unbind is completed: half way, no driver has the device.
        let _completed = stop_flag()?;
        let unbound = sysfs.unbind(address, UnbindOptions { force: self.force })?;
        let text = match &unbound {
            Unbound::GivenBack { driver: Some(driver) } => {
                format!("{address} is with the driver {driver} again\n")
            }
            Unbound::GivenBack { driver: None } => format!("{address} is without a driver again\n"),
            Unbound::Forgotten => format!("{address} is not there any more, and is forgotten\n"),
        };
        let (present, driver) = match unbound {
            Unbound::GivenBack { driver } => (true, driver),
            Unbound::Forgotten => (false, None),
        };
        let device = Device { address: address.to_string(), present, driver };
        context.out.data(&device, || text)
    }
}
