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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;

    /// A machine of folders.
    struct Machine(TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn function(&self, address: &str, group: Option<u32>, driver: Option<&str>) {
            let sys = self.0.path().join("sys");
            let device = sys.join("bus/pci/devices").join(address);
            fs::create_dir_all(&device).unwrap();
            if let Some(driver) = driver {
                symlink(Path::new("../../drivers").join(driver), device.join("driver")).unwrap();
            }
            if let Some(group) = group {
                let members = sys.join(format!("kernel/iommu_groups/{group}/devices"));
                fs::create_dir_all(&members).unwrap();
                symlink(members.parent().unwrap(), device.join("iommu_group")).unwrap();
                symlink(&device, members.join(address)).unwrap();
            }
        }

        fn assignments(&self) -> Assignments {
            Assignments::new(Sysfs::new(self.0.path()))
        }
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    const ONE: &str = "0000:03:00.0";
    const OTHER: &str = "0000:03:00.1";

    #[test]
    fn a_device_belongs_to_one_driver_until_it_is_revoked() {
        let machine = Machine::new();
        machine.function(ONE, Some(7), Some("vfio-pci"));
        let mut assignments = machine.assignments();
        assignments.assign(&address(ONE), "nvme:0").unwrap();
        assert_eq!(assignments.owner(&address("03:00.0")), Some("nvme:0"));
        for driver in ["nvme:1", "nvme:0"] {
            let error = assignments.assign(&address("03:00.0"), driver).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(ONE) && text.contains("driver nvme:0"), "{text}");
        }
        assert_eq!(assignments.revoke(&address(ONE)).as_deref(), Some("nvme:0"));
        assert_eq!(assignments.revoke(&address(ONE)), None);
        assignments.assign(&address(ONE), "nvme:1").unwrap();
    }

    #[test]
    fn a_group_is_never_split() {
        let machine = Machine::new();
        machine.function(ONE, Some(7), Some("vfio-pci"));
        machine.function(OTHER, Some(7), Some("vfio-pci"));
        machine.function("0000:04:00.0", Some(8), Some("vfio-pci"));
        let mut assignments = machine.assignments();
        assignments.assign(&address(ONE), "nvme:0").unwrap();
        let text = assignments.assign(&address(OTHER), "nvme:1").unwrap_err().to_string();
        assert!(text.contains("group 7 with 0000:03:00.0 (nvme:0)"), "{text}");
        assert_eq!(assignments.owner(&address(OTHER)), None);
        // The same driver may have it, and another group is another matter.
        assignments.assign(&address(OTHER), "nvme:0").unwrap();
        assignments.assign(&address("0000:04:00.0"), "nvme:1").unwrap();
        // It is free when all of it is.
        assignments.revoke(&address(ONE));
        assert!(assignments.assign(&address(ONE), "nvme:1").is_err());
        assignments.revoke(&address(OTHER));
        assignments.assign(&address(ONE), "nvme:1").unwrap();
    }

    #[test]
    fn a_group_that_linux_drives_in_part_is_not_given_out() {
        let machine = Machine::new();
        machine.function(ONE, Some(7), Some("vfio-pci"));
        machine.function(OTHER, Some(7), Some("nvme"));
        machine.function("0000:02:00.0", Some(7), Some("pcieport"));
        machine.function("0000:03:00.2", Some(7), None);
        let text = machine.assignments().assign(&address(ONE), "nvme:0").unwrap_err().to_string();
        assert!(text.contains("group 7 with 0000:03:00.1 (nvme), and"), "{text}");
    }

    #[test]
    fn devices_without_a_group_stand_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, link) = (folder.path().join("socket"), folder.path().join("link"));
        fs::write(&socket, "").unwrap();
        symlink(&socket, &link).unwrap();
        let mut assignments = Machine::new().assignments();
        assignments.assign(&Address::VfioUser(socket), "nvme:0").unwrap();
        assert!(assignments.assign(&Address::VfioUser(link), "nvme:1").is_err());
        assignments.assign(&address("model:nvme"), "nvme:1").unwrap();
        assignments.assign(&address("model:edu"), "edu:0").unwrap();
        assert!(assignments.assign(&address("model:edu"), "edu:1").is_err());
        assignments.assign(&address("vfio-user:/nowhere/socket"), "nvme:2").unwrap();
    }
}
