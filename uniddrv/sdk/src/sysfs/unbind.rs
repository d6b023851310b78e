//! From vfio-pci back to Linux's driver.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;

use super::machine::{Linux, Machine};
use super::restore::{Change, check_writable};
use super::{Error, PciFunction, Sysfs, VFIO_PCI};
use crate::address::PciAddress;

/// How to unbind.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnbindOptions {
    /// Also while a process works with the device: the kernel asks the process
    /// to let go, and waits until it does.
    pub force: bool,
}

/// What became of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unbound {
    /// Linux has it back, with this driver; `None` where it had none before.
    GivenBack {
        /// The driver that has it now.
        driver: Option<String>,
    },
    /// The device is not there any more; what was left of it is removed.
    Forgotten,
}

impl Sysfs {
    /// Gives a PCI function back to the driver that it came from, clears
    /// `driver_override`, and takes it no more after a reboot.
    ///
    /// A device at vfio-pci that `bind` did not put there goes to whichever
    /// driver Linux has for it. What a `bind` that was killed has left is
    /// mended. Where Linux's driver refuses the device, it stays with vfio-pci.
    ///
    /// # Errors
    /// The device is not bound to vfio-pci and nothing of a bind is left; a
    /// process works with it; the kernel or the driver refused.
    pub fn unbind(&self, address: PciAddress, options: UnbindOptions) -> Result<Unbound, Error> {
        let mut linux = Linux { modules: self.root == std::path::Path::new("/") };
        self.unbind_with(&mut linux, address, options)
    }

    pub(super) fn unbind_with(
        &self,
        machine: &mut dyn Machine,
        address: PciAddress,
        options: UnbindOptions,
    ) -> Result<Unbound, Error> {
        let there = self.device_folder(address).exists();
        let record = self.record_path(address).exists();
        let rule = self.rule_path(address).exists();
        if !there && !record && !rule {
            return Err(Error::NoSuchDevice { address });
        }
        if there {
            let function = self.function(address)?;
            let ours = Some(VFIO_PCI);
            let bound = function.driver.as_deref() == ours;
            if !bound && !record && !rule && function.driver_override.as_deref() != ours {
                return Err(Error::NotBound { address, driver: function.driver });
            }
            check_writable(&self.device_folder(address).join("driver_override"))?;
            if bound && !options.force {
                self.check_not_held(&function)?;
            }
        }
        let _lock = self.lock()?;
        let mut change = Change { sysfs: self, machine };
        if there {
            self.hand_over(&mut change, address)?;
        }
        change.forget(address)?;
        change.remove_rule(address)?;
        if !there {
            return Ok(Unbound::Forgotten);
        }
        Ok(Unbound::GivenBack { driver: self.driver(address) })
    }

    /// Moves the device to its driver, or leaves it with vfio-pci.
    fn hand_over(&self, change: &mut Change<'_>, address: PciAddress) -> Result<(), Error> {
        let function = self.function(address)?;
        let bound = function.driver.as_deref() == Some(VFIO_PCI);
        let record = self.record(&function);
        let result = match &record {
            // Linux has got it by other means, and keeps it.
            Some(record) if function.driver.is_some() && !bound => {
                change.set_override(address, record.driver_override.as_deref())
            }
            Some(record) => change.give_back(record),
            None if function.driver.is_some() && !bound => change.set_override(address, None),
            None => change.give_to_any(address),
        };
        if let Err(error) = result {
            change.last_resort(address, record.as_ref());
            return Err(error);
        }
        Ok(())
    }

    /// Whether nobody works with the device: a group can be open only once, so
    /// that opening it tells.
    fn check_not_held(&self, function: &PciFunction) -> Result<(), Error> {
        let Some(group) = function.iommu_group else {
            return Ok(());
        };
        let node = format!("vfio/{group}");
        let openers = self.openers();
        let openers = openers.get(&node).map_or(&[][..], Vec::as_slice);
        let processes: Vec<String> = openers
            .iter()
            .map(|opener| format!("{} (process {})", opener.program, opener.process))
            .collect();
        let path = self.path("dev").join(node);
        let device = fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_char_device());
        let busy = device
            && fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy);
        if !busy && processes.is_empty() {
            return Ok(());
        }
        Err(Error::Held { address: function.address, group, processes })
    }
}

#[cfg(test)]
#[path = "unbind/tests.rs"]
mod tests;
