//! `uniddrv bind ADDRESS...`.

use anyhow::Context as _;
use serde::Serialize;
use uniddrv::sysfs::{BindOptions, Bound, Error, Sysfs};
use uniddrv::{Address, PciAddress};

use crate::Context;
use crate::error::Failure;
use crate::signals::stop_flag;

/// Take devices from Linux and give them to vfio-pci
///
/// All or nothing: whatever fails, and on Ctrl-C, the devices go back to the
/// drivers that they came from. These are remembered below /run/uniddrv, for
/// `uniddrv unbind`.
#[derive(Debug, clap::Args)]
pub(crate) struct Bind {
    /// Addresses (0000:03:00.0, 03:00.0) or Linux's names (nvme0n1, eth0,
    /// /dev/nvme0n1). Devices of one IOMMU group are named together
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<String>,

    /// Take a device that is in use: what was not written is lost
    #[arg(long)]
    force: bool,

    /// Take the device again after each reboot, by a udev rule
    #[arg(long)]
    persist: bool,

    /// Let this user open the device
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Print what would be done, as shell commands, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// A device in the JSON output.
#[derive(Serialize)]
struct Device {
    address: String,
    driver: &'static str,
    from: Option<String>,
    iommu_group: u32,
    already: bool,
}

impl Bind {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let sysfs = Sysfs::new(&context.root);
        let addresses = self
            .addresses
            .iter()
            .map(|given| resolve(&sysfs, given, "bind"))
            .collect::<Result<Vec<_>, _>>()?;
        let program = std::env::current_exe().context("cannot tell the path of this program");
        let options = BindOptions {
            force: self.force,
            persist: if self.persist { Some(program?) } else { None },
            user: self.user,
        };
        if self.dry_run {
            let steps = sysfs.plan_bind(&addresses, &options)?;
            return context.out.data(&steps, || lines(&steps));
        }
        let stop = stop_flag()?;
        let bound = sysfs.bind(&addresses, &options, &stop)?;
        let devices: Vec<Device> = bound.iter().map(Device::from).collect();
        context.out.data(&devices, || {
            let texts: Vec<String> = bound.iter().map(describe).collect();
            lines(&texts)
        })
    }
}

impl From<&Bound> for Device {
    fn from(bound: &Bound) -> Self {
        Self {
            address: bound.address.to_string(),
            driver: uniddrv::sysfs::VFIO_PCI,
            from: bound.from.clone(),
            iommu_group: bound.group,
            already: bound.already,
        }
    }
}

fn describe(bound: &Bound) -> String {
    let Bound { address, from, group, already } = bound;
    let from = match from {
        Some(driver) => format!(", taken from {driver}"),
        None => String::new(),
    };
    let already = if *already { " already" } else { "" };
    format!("{address} is bound to vfio-pci{already} (/dev/vfio/{group}{from})")
}

fn lines(texts: &[String]) -> String {
    texts.iter().flat_map(|text| [text, "\n"]).collect()
}

/// The PCI function that the user means; software devices are not Linux's to
/// give away.
pub(super) fn resolve(sysfs: &Sysfs, given: &str, verb: &str) -> Result<PciAddress, Failure> {
    match given.parse::<Address>() {
        Ok(Address::Pci(address)) => Ok(address),
        Ok(software) => {
            let message = format!("cannot {verb} {software}: it is a software device, not Linux's");
            let help = format!("use it as it is, without {verb}: uniddrv identify '{software}'");
            Err(Failure::new(message).with_help(help))
        }
        Err(_) => sysfs.resolve(given).map_err(|error| match error {
            // The argument itself is wrong, whatever devices there are.
            Error::Malformed { .. } => Failure::usage(error),
            error => error.into(),
        }),
    }
}
