//! Which driver a device belongs to.

use std::collections::BTreeMap;

use uniddrv::sysfs::Sysfs;
use uniddrv::{Address, PciAddress};

/// The devices that are given to drivers. A device belongs to one driver; the functions of an
/// IOMMU group, which reach each other's memory, all belong to the same one or to none.
#[derive(Debug)]
pub struct Assignments {
    sysfs: Sysfs,
    held: BTreeMap<String, Held>,
}

#[derive(Debug)]
struct Held {
    address: Address,
    driver: String,
    group: Option<u32>,
}

/// A device that a driver does not get.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// It belongs to a driver.
    #[error("{address} belongs to the driver {driver}; `uniddrv revoke` takes it away from it")]
    Taken {
        /// Which device.
        address: Address,
        /// Whose it is.
        driver: String,
    },
    /// Another function of its group belongs to another driver.
    #[error(
        "{address} is in IOMMU group {group} with {others}: functions of one group reach each \
         other's memory, so they go to one driver or to none"
    )]
    Split {
        /// Which device.
        address: Address,
        /// Its group.
        group: u32,
        /// The others, with their drivers.
        others: String,
    },
    /// Linux drives another function of its group.
    #[error(
        "{address} is in IOMMU group {group} with {others}, and a group is given out as a whole; \
         `uniddrv bind` these too, or leave them without a driver"
    )]
    Driven {
        /// Which device.
        address: Address,
        /// Its group.
        group: u32,
        /// The others, with Linux's drivers of them.
        others: String,
    },
}

impl Assignments {
    /// No device is given to anybody. Groups are those of `sysfs`.
    pub fn new(sysfs: Sysfs) -> Self {
        Self { sysfs, held: BTreeMap::new() }
    }

    /// Gives the device at `address` to `driver`, by whatever name the core knows that.
    ///
    /// # Errors
    /// When it, or a function of its IOMMU group, belongs to another driver or to Linux's: the
    /// text names those.
    pub fn assign(&mut self, address: &Address, driver: &str) -> Result<(), AssignError> {
        let key = key(address);
        if let Some(held) = self.held.get(&key) {
            let (address, driver) = (address.clone(), held.driver.clone());
            return Err(AssignError::Taken { address, driver });
        }
        let mut group = None;
        if let Address::Pci(pci) = address {
            group = self.sysfs.iommu_group(*pci);
            if let Some(group) = group {
                self.check_group(address, *pci, group, driver)?;
            }
        }
        let held = Held { address: address.clone(), driver: driver.to_owned(), group };
        self.held.insert(key, held);
        Ok(())
    }

    fn check_group(
        &self,
        address: &Address,
        pci: PciAddress,
        group: u32,
        driver: &str,
    ) -> Result<(), AssignError> {
        let others: Vec<_> = self
            .held
            .values()
            .filter(|held| held.group == Some(group) && held.driver != driver)
            .map(|held| format!("{} ({})", held.address, held.driver))
            .collect();
        if !others.is_empty() {
            let (address, others) = (address.clone(), others.join(", "));
            return Err(AssignError::Split { address, group, others });
        }
        let driven: Vec<_> = self
            .sysfs
            .driven_members(pci)
            .into_iter()
            .map(|(member, driver)| format!("{member} ({driver})"))
            .collect();
        if !driven.is_empty() {
            let (address, others) = (address.clone(), driven.join(", "));
            return Err(AssignError::Driven { address, group, others });
        }
        Ok(())
    }

    /// Takes a device away from its driver: whose it was. Its worker was closed before.
    pub fn revoke(&mut self, address: &Address) -> Option<String> {
        self.held.remove(&key(address)).map(|held| held.driver)
    }

    /// Whose a device is.
    pub fn owner(&self, address: &Address) -> Option<&str> {
        self.held.get(&key(address)).map(|held| held.driver.as_str())
    }
}

/// What two addresses of one device have in common: the file that a path leads to. Models are
/// new devices each time, so the core has no two of one address.
fn key(address: &Address) -> String {
    match (address, address.socket().map(std::fs::canonicalize)) {
        (Address::VfioUser(_), Some(Ok(path))) => Address::VfioUser(path).to_string(),
        (Address::VhostUser(_), Some(Ok(path))) => Address::VhostUser(path).to_string(),
        _ => address.to_string(),
    }
}
