//! `uniddrv unbind ADDRESS`.

use serde::Serialize;
use uniddrv::Address;
use uniddrv::client::{CoreError, Refusal};
use uniddrv::sysfs::{Sysfs, UnbindOptions, Unbound};

use super::bind::{absolute, resolve};
use crate::Context;
use crate::error::Failure;
use crate::output::warn;
use crate::served;
use crate::signals::stop_flag;

/// Give a device back to the Linux driver that it came from
///
/// Where a core has it, it is taken from that first: its clients get errors. Clears
/// driver_override, and removes what `bind --persist` wrote. A bind that was killed half way is
/// mended.
#[derive(Debug, clap::Args)]
pub(crate) struct Unbind {
    /// The address of the device, such as 0000:03:00.0
    address: String,

    /// Also while a program works with the device; waits until it lets go
    #[arg(long)]
    force: bool,

    /// Do not ask the core for the device, although one runs
    #[arg(long)]
    no_core: bool,
}

/// The JSON output.
#[derive(Serialize)]
struct Device {
    address: String,
    present: bool,
    driver: Option<String>,
    /// Whether it was taken from the core.
    from_core: bool,
}

impl Unbind {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let sysfs = Sysfs::new(&context.root);
        if let Ok(software) = self.address.parse::<Address>()
            && !matches!(software, Address::Pci(_))
            && !self.no_core
            && self.take_from_core(&absolute(software.clone())?)?
        {
            let address = software.to_string();
            let device =
                Device { address: address.clone(), present: true, driver: None, from_core: true };
            return context.out.data(&device, || format!("the core has let go of {address}\n"));
        }
        let address = resolve(&sysfs, &self.address, "unbind")?;
        // An unbind is completed: half way, no driver has the device.
        let _completed = stop_flag()?;
        let from_core = !self.no_core && self.take_from_core(&Address::Pci(address))?;
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
        let device = Device { address: address.to_string(), present, driver, from_core };
        context.out.data(&device, || text)
    }

    /// Has the core let go of the device. Whether it had it.
    fn take_from_core(&self, address: &Address) -> Result<bool, Failure> {
        let Some(core) = served::connect_if_running()? else { return Ok(false) };
        match core.remove(&address.to_string()) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            // Whether that is in the way, Linux knows.
            Err(error) if error.code() == Some(Refusal::Denied) => {
                warn(&error.to_string());
                Ok(false)
            }
            Err(error @ CoreError::Refused { .. }) => Err(error.into()),
            // A core that does not answer must not keep Linux from its device for ever.
            Err(error) if self.force => {
                warn(&error.to_string());
                Ok(false)
            }
            Err(error) => Err(Failure::from(error)
                .with_help("to go on without the core's consent, add --force or --no-core")),
        }
    }
}
