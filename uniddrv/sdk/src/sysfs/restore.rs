//! The single changes that move a device between drivers, and the way back to
//! the driver of a record, which `unbind` takes and a `bind` that failed.

use std::io;
use std::path::Path;

use super::machine::Machine;
use super::record::Record;
use super::{Error, Sysfs, VFIO_PCI, tree};
use crate::address::PciAddress;

/// Changes to devices below one root.
pub(super) struct Change<'a> {
    pub(super) sysfs: &'a Sysfs,
    pub(super) machine: &'a mut dyn Machine,
}

impl Change<'_> {
    /// Names the only driver that may have the device, or lets all have it.
    pub(super) fn set_override(
        &mut self,
        address: PciAddress,
        driver: Option<&str>,
    ) -> Result<(), Error> {
        let path = self.sysfs.device_folder(address).join("driver_override");
        // An empty write would not reach the kernel; a lone newline clears it.
        self.write(&path, driver.unwrap_or("\n"))
    }

    /// Takes the device from the driver that has it, if one has. The driver
    /// waits for its requests in flight, and so does this.
    pub(super) fn release(&mut self, address: PciAddress) -> Result<(), Error> {
        if self.sysfs.driver(address).is_none() {
            return Ok(());
        }
        let path = self.sysfs.device_folder(address).join("driver/unbind");
        self.write(&path, &address.to_string())
    }

    /// Gives the device, which no driver has, to `driver`.
    ///
    /// The driver's `bind` is written and not `drivers_probe`, since only the
    /// former says why the driver refused.
    pub(super) fn attach(&mut self, address: PciAddress, driver: &str) -> Result<(), Error> {
        let path = self.sysfs.driver_folder(driver).join("bind");
        self.machine
            .write_attribute(&path, &address.to_string())
            .map_err(|source| Error::Refused { address, driver: driver.to_owned(), source })?;
        self.expect(address, Some(driver))
    }

    /// Lets the kernel choose a driver. That none takes it is no error to the
    /// kernel.
    pub(super) fn probe(&mut self, address: PciAddress) -> Result<(), Error> {
        let path = self.sysfs.path("sys/bus/pci/drivers_probe");
        self.write(&path, &address.to_string())
    }

    /// Checks who has the device after a change.
    pub(super) fn expect(&self, address: PciAddress, driver: Option<&str>) -> Result<(), Error> {
        let found = self.sysfs.driver(address);
        if found.as_deref() == driver {
            return Ok(());
        }
        let expected = driver.unwrap_or("none").to_owned();
        Err(Error::WrongDriver { address, expected, found })
    }

    /// Gives a device back to the driver of its record, and leaves it without
    /// one if it had none.
    ///
    /// # Errors
    /// The driver does not take it. The device may be without a driver then.
    pub(super) fn give_back(&mut self, record: &Record) -> Result<(), Error> {
        let address = record.address;
        self.set_override(address, record.driver_override.as_deref())?;
        let driver = record.driver.as_deref();
        if self.sysfs.driver(address).as_deref() == driver {
            return Ok(());
        }
        self.release(address)?;
        let Some(driver) = driver else {
            return self.expect(address, None);
        };
        if !self.sysfs.driver_folder(driver).exists() {
            // Unloaded meanwhile. Loading it may bind the device at once. If
            // it fails, attaching fails too, and says more.
            let module = record.module.as_deref().unwrap_or(driver);
            let loaded = self.machine.load_module(module);
            if loaded.is_ok() && self.sysfs.driver(address).as_deref() == Some(driver) {
                return Ok(());
            }
        }
        let Err(refused) = self.attach(address, driver) else {
            return Ok(());
        };
        // The kernel may still choose that driver by itself.
        self.probe(address)?;
        self.expect(address, Some(driver)).map_err(|_| refused)
    }

    /// Gives a device, of which nothing is known, to whichever driver Linux
    /// has for it.
    pub(super) fn give_to_any(&mut self, address: PciAddress) -> Result<(), Error> {
        self.set_override(address, None)?;
        self.release(address)?;
        self.probe(address)?;
        if self.sysfs.driver(address).is_none() {
            let alias = tree::text(&self.sysfs.device_folder(address).join("modalias"));
            // A device that Linux has no driver for stays without one.
            if let Some(alias) = alias
                && self.machine.load_module(&alias).is_ok()
            {
                self.probe(address)?;
            }
        }
        Ok(())
    }

    /// After a failure: a device that had a driver and has none now goes to
    /// vfio-pci, or to any driver. Its record stays, so that `unbind` can be
    /// tried again.
    pub(super) fn last_resort(&mut self, address: PciAddress, record: Option<&Record>) {
        let had_none = record.is_some_and(|record| record.driver.is_none());
        if had_none || self.sysfs.driver(address).is_some() {
            return;
        }
        // Each of these may fail as well; the failure that led here is the one
        // to report.
        let _ = self.set_override(address, Some(VFIO_PCI));
        let _ = self.attach(address, VFIO_PCI);
        if self.sysfs.driver(address).is_none() {
            let _ = self.probe(address);
        }
        if self.sysfs.driver(address).is_none() {
            let _ = self.set_override(address, None);
            let _ = self.probe(address);
        }
    }

    /// Removes the record of a device.
    pub(super) fn forget(&mut self, address: PciAddress) -> Result<(), Error> {
        let path = self.sysfs.record_path(address);
        self.machine.remove_file(&path).map_err(|error| Error::io("remove", &path, error))
    }

    /// Removes the rule that takes a device after a reboot, and vfio-pci from
    /// the modules loaded at boot if that was the last rule.
    pub(super) fn remove_rule(&mut self, address: PciAddress) -> Result<(), Error> {
        let rule = self.sysfs.rule_path(address);
        if !rule.exists() {
            return Ok(());
        }
        let modules = self.sysfs.modules_path();
        if !self.sysfs.has_other_rules(address) {
            self.machine
                .remove_file(&modules)
                .map_err(|error| Error::io("remove", &modules, error))?;
        }
        self.machine.remove_file(&rule).map_err(|error| Error::io("remove", &rule, error))
    }

    fn write(&mut self, path: &Path, value: &str) -> Result<(), Error> {
        self.machine.write_attribute(path, value).map_err(|error| Error::io("write", path, error))
    }
}

/// Whether a file could be written, without writing it.
pub(super) fn check_writable(path: &Path) -> Result<(), Error> {
    let opened = std::fs::OpenOptions::new().write(true).open(path);
    opened.map(drop).map_err(|error: io::Error| Error::io("write", path, error))
}
