//! Linux's names of devices, `nvme0n1` or `eth0`, to and from PCI addresses.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::{Error, Sysfs, tree};
use crate::address::PciAddress;

/// What a name names, which is the class folder that it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A network interface.
    Net,
    /// An NVMe controller.
    Nvme,
    /// A disk.
    Disk,
    /// A part of a disk.
    Partition,
}

/// A device as Linux names it.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// The folder in sysfs, links resolved.
    path: PathBuf,
}

/// Where a device hangs.
enum Place {
    /// It is the PCI function, or the only thing on it.
    Function(PciAddress),
    /// It is behind a bus of this PCI function (SATA, USB).
    Behind(PciAddress),
    /// No PCI function is above it.
    Elsewhere,
}

impl Named {
    /// The PCI function above this device, and whether it is that function's
    /// own: its driver's (`nvme/nvme0`, `net/eth0`), or virtio's, where each
    /// function carries one device.
    fn place(&self) -> Place {
        let mut place = Place::Elsewhere;
        let mut components = self.path.components().peekable();
        while let Some(component) = components.next() {
            let Some(address) = pci_address(component) else {
                continue;
            };
            let below = components.peek().and_then(|next| next.as_os_str().to_str());
            let own = below.is_some_and(|below| {
                matches!(below, "nvme" | "net" | "block") || below.starts_with("virtio")
            });
            place = if own { Place::Function(address) } else { Place::Behind(address) };
        }
        place
    }
}

/// The address that a folder of sysfs stands for.
fn pci_address(component: Component<'_>) -> Option<PciAddress> {
    let text = component.as_os_str().to_str()?;
    // Folders are named with the domain; `03:00.0` would be something else.
    text.parse().ok().filter(|address: &PciAddress| address.to_string() == text)
}

impl Sysfs {
    /// The PCI function that a person means by `0000:03:00.0`, `03:00.0`,
    /// `eth0`, `nvme0`, `nvme0n1` or a path such as `/dev/nvme0n1`.
    ///
    /// # Errors
    /// The text is malformed, names nothing, or names what is no PCI function:
    /// a partition, a disk behind a SATA or USB controller, a device of another
    /// bus.
    pub fn resolve(&self, given: &str) -> Result<PciAddress, Error> {
        if let Ok(address) = given.parse::<PciAddress>() {
            return if self.device_folder(address).exists() {
                Ok(address)
            } else {
                Err(Error::NoSuchDevice { address })
            };
        }
        let name = self.plain_name(given)?;
        let device = self.find(&name)?;
        if device.kind == Kind::Partition {
            let disk = device.path.parent().and_then(Path::file_name);
            let disk = disk.map_or_else(String::new, |disk| disk.to_string_lossy().into_owned());
            return Err(Error::Partition { name, disk });
        }
        match device.place() {
            Place::Function(address) => Ok(address),
            Place::Behind(controller) => Err(Error::Behind { name, controller }),
            Place::Elsewhere => match self.paths_to(&device).as_slice() {
                [] => Err(Error::NotPci { name, path: device.path.display().to_string() }),
                [address] => Ok(*address),
                several => Err(Error::Ambiguous { name, controllers: several.to_vec() }),
            },
        }
    }

    /// The name in what the user gave: links below `/dev` are followed, so that
    /// `/dev/disk/by-id/...` works.
    fn plain_name(&self, given: &str) -> Result<String, Error> {
        let malformed = || Error::Malformed { given: given.to_owned() };
        if given.ends_with('/') {
            return Err(malformed());
        }
        let name = if let Some(path) = given.strip_prefix("/dev/") {
            let path = self.path("dev").join(path);
            let real = fs::canonicalize(&path).unwrap_or(path);
            let name = real.file_name().ok_or_else(malformed)?;
            name.to_string_lossy().into_owned()
        } else {
            given.to_owned()
        };
        if tree::is_plain_name(&name) && !name.contains(':') { Ok(name) } else { Err(malformed()) }
    }

    fn find(&self, name: &str) -> Result<Named, Error> {
        ["net", "nvme", "block"]
            .into_iter()
            .find_map(|class| self.named(class, name))
            .ok_or_else(|| Error::NoSuchName { name: name.to_owned() })
    }

    fn named(&self, class: &str, name: &str) -> Option<Named> {
        let path = fs::canonicalize(self.path(format!("sys/class/{class}/{name}"))).ok()?;
        let kind = match class {
            "net" => Kind::Net,
            "nvme" => Kind::Nvme,
            _ if path.join("partition").exists() => Kind::Partition,
            _ => Kind::Disk,
        };
        Some(Named { name: name.to_owned(), kind, path })
    }

    /// Everything that Linux named, by the PCI function that it is on or
    /// behind.
    pub(super) fn names(&self) -> BTreeMap<PciAddress, Vec<Named>> {
        let mut names = BTreeMap::<PciAddress, Vec<Named>>::new();
        for class in ["nvme", "block", "net"] {
            for name in tree::entries(&self.path(format!("sys/class/{class}"))) {
                let Some(device) = self.named(class, &name) else {
                    continue;
                };
                let addresses = match device.place() {
                    Place::Function(address) | Place::Behind(address) => vec![address],
                    Place::Elsewhere => self.paths_to(&device),
                };
                for address in addresses {
                    names.entry(address).or_default().push(device.clone());
                }
            }
        }
        names
    }

    /// The PCI functions of an NVMe namespace that Linux reaches through a
    /// subsystem (multipath): the namespace, or its partition, is then a folder
    /// below the subsystem, beside links to the controllers.
    fn paths_to(&self, device: &Named) -> Vec<PciAddress> {
        let subsystem = device.path.ancestors().skip(1).find(|path| {
            let parent = path.parent().and_then(Path::file_name);
            parent.is_some_and(|name| name == "nvme-subsystem")
        });
        let Some(subsystem) = subsystem else {
            return Vec::new();
        };
        tree::entries(subsystem)
            .iter()
            .filter_map(|entry| self.named("nvme", entry))
            .filter_map(|controller| match controller.place() {
                Place::Function(address) => Some(address),
                Place::Behind(_) | Place::Elsewhere => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NIC, NVME, Tree};
    use super::*;

    #[test]
    fn every_way_to_name_a_device_leads_to_its_address() {
        let tree = Tree::new();
        tree.link("dev/disk/by-id/nvme-serial", "../../nvme0n1");
        let sysfs = tree.sysfs();
        for name in [
            "0000:03:00.0",
            "03:00.0",
            "nvme0",
            "nvme0n1",
            "/dev/nvme0n1",
            "/dev/nvme0",
            "/dev/disk/by-id/nvme-serial",
        ] {
            assert_eq!(sysfs.resolve(name).unwrap(), NVME, "{name}");
        }
        assert_eq!(sysfs.resolve("eth0").unwrap(), NIC);
    }

    #[test]
    fn what_is_no_device_is_told_apart() {
        let tree = Tree::new();
        tree.disk_behind_sata("sda");
        tree.elsewhere("block", "vda", "platform/virtio-mmio.0/virtio0/block/vda");
        let sysfs = tree.sysfs();
        let error = |name: &str| sysfs.resolve(name).unwrap_err();
        assert!(matches!(error("0000:7f:00.0"), Error::NoSuchDevice { .. }));
        assert!(matches!(error("nvme7n1"), Error::NoSuchName { .. }));
        assert!(matches!(error("/dev/nothing"), Error::NoSuchName { .. }));
        for name in ["", "0000:03:00", "0000:03:00.9", "../sys", "a b", "..", "/dev/"] {
            assert!(matches!(error(name), Error::Malformed { .. }), "{name:?}");
        }
        assert!(matches!(error("sda"), Error::Behind { .. }));
        assert!(matches!(error("vda"), Error::NotPci { .. }));
        let Error::Partition { disk, .. } = error("nvme0n1p1") else {
            panic!("a partition resolved");
        };
        assert_eq!(disk, "nvme0n1");
    }

    #[test]
    fn a_namespace_of_a_subsystem_resolves_through_its_controllers() {
        let tree = Tree::new();
        let subsystem = "virtual/nvme-subsystem/nvme-subsys0";
        tree.elsewhere("block", "nvme9n1", &format!("{subsystem}/nvme9n1"));
        tree.link(
            &format!("sys/devices/{subsystem}/nvme0"),
            "../../../pci0000:00/0000:03:00.0/nvme/nvme0",
        );
        let sysfs = tree.sysfs();
        assert_eq!(sysfs.resolve("nvme9n1").unwrap(), NVME);
        assert!(sysfs.names()[&NVME].iter().any(|device| device.name == "nvme9n1"));
    }
}
