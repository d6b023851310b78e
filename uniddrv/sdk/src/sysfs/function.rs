//! One PCI function as Linux sees it.

use super::names::{Kind, Named};
use super::openers::Openers;
use super::usage::Usage;
use super::{Class, Error, Sysfs, Use, VFIO_PCI, tree};
use crate::address::PciAddress;

/// Drivers that a group's other devices may be with: they do no DMA that the
/// owner of the group did not ask for.
const HARMLESS: [&str; 3] = [VFIO_PCI, "pci-stub", "pcieport"];

/// A PCI function: what it is, who drives it, what it is used for.
#[derive(Clone, Debug)]
pub struct PciFunction {
    /// Its address.
    pub address: PciAddress,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class code.
    pub class: Class,
    /// Linux's driver that has it.
    pub driver: Option<String>,
    /// The only driver that may have it, where that is set.
    pub driver_override: Option<String>,
    /// Its IOMMU group; `None` without an IOMMU.
    pub iommu_group: Option<u32>,
    /// The other devices of that group.
    pub group_members: Vec<PciAddress>,
    /// The NUMA node that it is near to; `None` without NUMA.
    pub numa_node: Option<u32>,
    /// Linux's names: `nvme0`, `nvme0n1`, `eth0`. Partitions are not listed.
    pub names: Vec<String>,
    /// What it is used for.
    pub uses: Vec<Use>,
    /// Whether `uniddrv bind` took it, so that `unbind` knows where it goes.
    pub taken: bool,
    /// Whether it is taken again after a reboot.
    pub persistent: bool,
}

impl Sysfs {
    /// All PCI functions, ordered by address.
    ///
    /// # Errors
    /// There is no PCI bus below the root.
    pub fn functions(&self) -> Result<Vec<PciFunction>, Error> {
        let folder = self.path("sys/bus/pci/devices");
        std::fs::read_dir(&folder).map_err(|error| Error::io("read", &folder, error))?;
        let mut addresses: Vec<PciAddress> =
            tree::entries(&folder).iter().filter_map(|name| name.parse().ok()).collect();
        addresses.sort_unstable();
        let names = self.names();
        let usage = self.usage();
        let function = |address| {
            let named = names.get(&address).map_or(&[][..], Vec::as_slice);
            // One that was unplugged meanwhile is left out.
            self.read_function(address, named, &usage).ok()
        };
        Ok(addresses.into_iter().filter_map(function).collect())
    }

    /// One PCI function.
    ///
    /// # Errors
    /// There is none at this address.
    pub fn function(&self, address: PciAddress) -> Result<PciFunction, Error> {
        let names = self.names();
        let named = names.get(&address).map_or(&[][..], Vec::as_slice);
        self.read_function(address, named, &self.usage())
    }

    fn read_function(
        &self,
        address: PciAddress,
        named: &[Named],
        usage: &Usage,
    ) -> Result<PciFunction, Error> {
        let folder = self.device_folder(address);
        let number = |name: &str| tree::hex(&folder.join(name));
        let (Some(vendor), Some(device), Some(class)) =
            (number("vendor"), number("device"), number("class"))
        else {
            return Err(Error::NoSuchDevice { address });
        };
        let driver = self.driver(address);
        let iommu_group = self.iommu_group(address);
        let mut uses = self.uses(address, named, usage);
        if let Some(group) = iommu_group.filter(|_| driver.as_deref() == Some(VFIO_PCI)) {
            uses.extend(vfio_uses(group, &usage.openers));
        }
        Ok(PciFunction {
            address,
            vendor: vendor as u16,
            device: device as u16,
            class: Class::new(class),
            driver,
            driver_override: self.driver_override(address),
            iommu_group,
            group_members: self.group_members(address),
            numa_node: tree::decimal(&folder.join("numa_node")),
            names: own_names(named),
            uses,
            taken: self.record_path(address).exists(),
            persistent: self.rule_path(address).exists(),
        })
    }

    /// The driver that has the device at this moment.
    pub fn driver(&self, address: PciAddress) -> Option<String> {
        tree::link_name(&self.device_folder(address).join("driver"))
    }

    /// `driver_override`; the kernel prints "(null)" where it is not set.
    pub(super) fn driver_override(&self, address: PciAddress) -> Option<String> {
        tree::text(&self.device_folder(address).join("driver_override"))
            .filter(|text| tree::is_plain_name(text) && text != "(null)")
    }

    /// The IOMMU group. One that VFIO made up without an IOMMU does not count.
    pub fn iommu_group(&self, address: PciAddress) -> Option<u32> {
        let link = self.device_folder(address).join("iommu_group");
        let group = tree::link_name(&link)?.parse().ok()?;
        let name = self.path(format!("sys/kernel/iommu_groups/{group}/name"));
        tree::text(&name).is_none_or(|name| name != "vfio-noiommu").then_some(group)
    }

    /// The other devices of the IOMMU group.
    pub fn group_members(&self, address: PciAddress) -> Vec<PciAddress> {
        let folder = self.device_folder(address).join("iommu_group/devices");
        tree::entries(&folder)
            .iter()
            .filter_map(|name| name.parse().ok())
            .filter(|&member| member != address)
            .collect()
    }

    /// The other devices of the IOMMU group that Linux drives, so that no program gets the group,
    /// and their drivers.
    pub fn driven_members(&self, address: PciAddress) -> Vec<(PciAddress, String)> {
        self.group_members(address)
            .into_iter()
            .filter_map(|member| Some((member, self.driver(member)?)))
            .filter(|(_, driver)| !HARMLESS.contains(&driver.as_str()))
            .collect()
    }
}

/// The names of the devices, without those of partitions.
fn own_names(named: &[Named]) -> Vec<String> {
    let whole = named.iter().filter(|device| device.kind != Kind::Partition);
    whole.map(|device| device.name.clone()).collect()
}

/// Who works with a group through VFIO.
fn vfio_uses(group: u32, openers: &Openers) -> Vec<Use> {
    let node = format!("vfio/{group}");
    let list = openers.get(&node).map_or(&[][..], Vec::as_slice);
    list.iter()
        .map(|opener| Use::Open {
            node: node.clone(),
            process: opener.process,
            program: opener.program.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BRIDGE, NIC, NVME, Tree};
    use super::*;

    #[test]
    fn functions_are_read_in_order_with_all_that_is_known() {
        let tree = Tree::new();
        let functions = tree.sysfs().functions().unwrap();
        let addresses: Vec<PciAddress> = functions.iter().map(|f| f.address).collect();
        assert_eq!(addresses, [BRIDGE, NVME, NIC]);
        let nvme = &functions[1];
        assert_eq!((nvme.vendor, nvme.device), (0x1b36, 0x0010));
        assert_eq!(nvme.class.name(), "NVMe");
        assert_eq!(nvme.driver.as_deref(), Some("nvme"));
        assert_eq!(nvme.driver_override, None);
        assert_eq!(nvme.iommu_group, Some(7));
        assert_eq!(nvme.group_members, []);
        assert_eq!(nvme.numa_node, Some(0));
        assert_eq!(nvme.names, ["nvme0", "nvme0n1"]);
        assert!(!nvme.taken && !nvme.persistent);
        assert_eq!(functions[2].numa_node, None);
        assert_eq!(functions[2].names, ["eth0"]);
    }

    #[test]
    fn a_process_on_a_vfio_group_shows_as_a_use() {
        let tree = Tree::new();
        tree.link(
            &format!("sys/bus/pci/devices/{NVME}/driver"),
            "../../../bus/pci/drivers/vfio-pci",
        );
        tree.process(77, "spdk", "/dev/vfio/7");
        let uses = tree.sysfs().function(NVME).unwrap().uses;
        assert_eq!(uses[0].to_string(), "vfio/7 is open in spdk (process 77)");
    }

    #[test]
    fn a_group_without_an_iommu_is_none() {
        let tree = Tree::new();
        tree.write("sys/kernel/iommu_groups/7/name", "vfio-noiommu\n");
        assert_eq!(tree.sysfs().function(NVME).unwrap().iommu_group, None);
    }

    #[test]
    fn a_machine_without_pci_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = Sysfs::new(folder.path()).functions().unwrap_err();
        assert!(matches!(error, Error::Io { .. }));
    }
}
