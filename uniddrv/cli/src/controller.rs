//! An NVMe controller by what the user calls it.

use std::path::Path;

use storage_poll::{CLASS, Controller, Namespace, Options};
use uniddrv::Address;
use uniddrv::sysfs::{PciFunction, Sysfs, VFIO_PCI};

use crate::error::Failure;
use crate::served::is_name;

/// The device that the user means: an address of any kind, or one of Linux's names.
pub(crate) fn resolve(root: &Path, given: &str) -> Result<Address, Failure> {
    match given.parse::<Address>() {
        Ok(Address::Pci(address)) => {
            // Whether it exists is told better here than by the transport.
            Ok(Address::Pci(Sysfs::new(root).resolve(&address.to_string())?))
        }
        Ok(address) => Ok(address),
        Err(error) if is_name(given) => {
            let help = format!("{given} is a name: only a device that the core drives has one");
            Err(Failure::usage(error).with_help(help))
        }
        // With a colon it can only have been meant as an address.
        Err(error) if given.contains(':') || given.is_empty() => Err(Failure::usage(error)),
        Err(_) => Ok(Address::Pci(Sysfs::new(root).resolve(given)?)),
    }
}

/// Opens the device and brings its NVMe controller up.
pub(crate) fn attach(
    root: &Path,
    address: &Address,
    options: Options,
) -> Result<Controller, Failure> {
    if let Address::Pci(pci) = address {
        let PciFunction { driver, class, .. } = Sysfs::new(root).function(*pci)?;
        // Told before anyone is sent to take a NIC from Linux.
        if class.code() != CLASS {
            return Err(Failure::new(format!("{address} is no NVMe controller: {class}")));
        }
        if driver.as_deref() != Some(VFIO_PCI) {
            let has = driver.map_or("no driver has it".into(), |name| format!("{name} has it"));
            let message = format!("{address} is not bound to {VFIO_PCI}: {has}");
            let help = format!("take it from Linux first: uniddrv bind {address}");
            return Err(Failure::new(message).with_help(help));
        }
    }
    let device = uniddrv_models::open(address)?;
    Ok(Controller::attach_with(device, options)?)
}

/// The namespace that the user means: the one of this identifier, or the first.
pub(crate) fn namespace(controller: &Controller, nsid: Option<u32>) -> Result<Namespace, Failure> {
    match nsid {
        Some(nsid) => Ok(*controller.namespace(nsid)?),
        None => controller.namespaces().first().copied().ok_or_else(|| {
            let address = controller.device().address();
            Failure::new(format!("{address} has no usable namespace"))
        }),
    }
}
