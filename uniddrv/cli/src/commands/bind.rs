//! `uniddrv bind ADDRESS...`.

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use uniddrv::client::{Core, CoreError, Refusal};
use uniddrv::sysfs::{BindOptions, Bound, Error, Sysfs};
use uniddrv::{Address, PciAddress};

use crate::Context;
use crate::error::Failure;
use crate::output::warn;
use crate::served;
use crate::signals::stop_flag;

/// Take devices from Linux, give them to vfio-pci and, where it runs, to the core
///
/// All or nothing: while they are taken from Linux, whatever fails, and on Ctrl-C, the devices go
/// back to the drivers that they came from. These are remembered below /run/uniddrv, for
/// `uniddrv unbind`. A core that runs then starts a driver for each, and programs reach them by
/// name; `uniddrv ls` lists the names.
#[derive(Debug, clap::Args)]
pub(crate) struct Bind {
    /// Addresses (0000:03:00.0, 03:00.0) or Linux's names (nvme0n1, eth0,
    /// /dev/nvme0n1). Devices of one IOMMU group are named together. For a core also
    /// software devices (vfio-user:/path/to/socket, model:nvme?size=1G)
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

    /// Do not give the devices to the core, although one runs
    #[arg(long)]
    no_core: bool,

    /// Print what would be done, as shell commands, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// A device in the JSON output.
#[derive(Serialize)]
struct Device {
    address: String,
    driver: Option<&'static str>,
    from: Option<String>,
    iommu_group: Option<u32>,
    already: bool,
    /// By which names the core serves it; nothing where it was not given to one.
    names: Option<Vec<String>>,
}

/// A device that the user means, and what became of it.
struct Wanted {
    address: Address,
    bound: Option<Bound>,
    names: Option<Vec<String>>,
}

impl Bind {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let sysfs = Sysfs::new(&context.root);
        let core = if self.no_core { None } else { served::connect_if_running()? };
        let addresses = self
            .addresses
            .iter()
            .map(|given| match given.parse::<Address>() {
                Ok(software) if core.is_some() && !matches!(software, Address::Pci(_)) => {
                    absolute(software)
                }
                _ => resolve(&sysfs, given, "bind").map(Address::Pci),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let linux: Vec<PciAddress> = addresses.iter().filter_map(pci).collect();
        let program = std::env::current_exe().context("cannot tell the path of this program");
        let options = BindOptions {
            force: self.force,
            persist: if self.persist { Some(program?) } else { None },
            user: self.user,
        };
        if self.dry_run {
            let mut steps = sysfs.plan_bind(&linux, &options)?;
            if core.is_some() {
                steps.extend(
                    addresses.iter().map(|it| format!("# the core is asked to serve {it}")),
                );
            }
            return context.out.data(&steps, || lines(&steps));
        }
        let stop = stop_flag()?;
        let bound =
            if linux.is_empty() { Vec::new() } else { sysfs.bind(&linux, &options, &stop)? };
        let mut wanted: Vec<Wanted> = addresses
            .into_iter()
            .map(|address| {
                let bound = bound.iter().find(|bound| Address::Pci(bound.address) == address);
                Wanted { bound: bound.cloned(), address, names: None }
            })
            .collect();
        let mut given = Ok(());
        if let Some(core) = &core {
            for device in &mut wanted {
                match give(core, &device.address) {
                    Ok(names) => device.names = names,
                    Err(failure) => {
                        given = Err(failure);
                        break;
                    }
                }
            }
        }
        // Also where the core has failed: what was done before is done.
        let devices: Vec<Device> = wanted.iter().map(Device::from).collect();
        context.out.data(&devices, || {
            let texts: Vec<String> = wanted.iter().filter_map(describe).collect();
            lines(&texts)
        })?;
        given
    }
}

fn pci(address: &Address) -> Option<PciAddress> {
    match address {
        Address::Pci(address) => Some(*address),
        _ => None,
    }
}

/// The address with the path of its socket as the core, in its own folder, finds it.
pub(super) fn absolute(address: Address) -> Result<Address, Failure> {
    let path = |path: &Path| {
        std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
    };
    Ok(match address {
        Address::VfioUser(socket) => Address::VfioUser(path(&socket)?),
        Address::VhostUser(socket) => Address::VhostUser(path(&socket)?),
        other => other,
    })
}

/// Gives a device to the core. The names by which it serves it; nothing where this user may not.
fn give(core: &Core, address: &Address) -> Result<Option<Vec<String>>, Failure> {
    let text = address.to_string();
    let names = || -> Result<Vec<String>, CoreError> {
        let all = core.names("")?.into_iter();
        Ok(all.filter(|name| name.address == text).map(|name| name.name).collect())
    };
    // Bound twice is bound.
    let already = names()?;
    if !already.is_empty() {
        return Ok(Some(already));
    }
    match core.add(&text, None) {
        Ok(()) => Ok(Some(names()?)),
        Err(error) if error.code() == Some(Refusal::Denied) => {
            warn(&format!("{error}; {text} stays without a driver of the core's"));
            Ok(None)
        }
        Err(error) => {
            let failure = Failure::from(error);
            Err(match address {
                Address::Pci(_) => failure.with_help(format!(
                    "{text} is bound to vfio-pci, for any program to drive; to give it back to \
                     Linux: uniddrv unbind {text}"
                )),
                _ => failure,
            })
        }
    }
}

impl From<&Wanted> for Device {
    fn from(Wanted { address, bound, names }: &Wanted) -> Self {
        Self {
            address: address.to_string(),
            driver: bound.as_ref().map(|_| uniddrv::sysfs::VFIO_PCI),
            from: bound.as_ref().and_then(|bound| bound.from.clone()),
            iommu_group: bound.as_ref().map(|bound| bound.group),
            already: bound.as_ref().is_some_and(|bound| bound.already),
            names: names.clone(),
        }
    }
}

/// What became of a device; nothing where nothing did.
fn describe(Wanted { address, bound, names }: &Wanted) -> Option<String> {
    let bound = bound.as_ref().map(describe_bound);
    let served = names.as_ref().map(|names| match names.as_slice() {
        [] => "the core has it".to_owned(),
        names => format!("the core serves it as {}", names.join(", ")),
    });
    match (bound, served) {
        (Some(bound), Some(served)) => Some(format!("{bound}; {served}")),
        (Some(bound), None) => Some(bound),
        (None, Some(served)) => Some(format!("{address}: {served}")),
        (None, None) => None,
    }
}

fn describe_bound(bound: &Bound) -> String {
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
