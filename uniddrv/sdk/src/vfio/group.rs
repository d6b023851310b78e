//! From a PCI address to the file of its IOMMU group, with an error that helps at each step.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use vfio_bindings::bindings::vfio::VFIO_GROUP_FLAGS_VIABLE;

use super::ioctl;
use crate::address::PciAddress;
use crate::transport::TransportError;

/// Drivers of bridges and of nothing that may share a group with VFIO.
const HARMLESS: &[&str] = &["pcieport", "pci-stub"];

/// Where Linux shows devices and offers their groups. Tests bring folders of their own.
pub(super) struct Host<'a> {
    pub(super) devices: &'a Path,
    pub(super) vfio: &'a Path,
}

impl Host<'static> {
    pub(super) fn linux() -> Self {
        Self { devices: Path::new("/sys/bus/pci/devices"), vfio: Path::new("/dev/vfio") }
    }
}

/// The IOMMU group of a device: its number and folder in sysfs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) number: u32,
    folder: PathBuf,
}

impl Group {
    /// The group of the device at `address`, which is bound to vfio-pci.
    pub(super) fn of(host: &Host<'_>, address: PciAddress) -> Result<Self, TransportError> {
        let device = host.devices.join(address.to_string());
        if !device.exists() {
            return Err(TransportError::Unsupported(format!(
                "there is no PCI device {address}; `uniddrv list` shows those there are"
            )));
        }
        let folder = device.join("iommu_group").canonicalize().map_err(|_| {
            TransportError::Unsupported(
                "it is in no IOMMU group, so VFIO cannot confine it: switch on VT-d or AMD-Vi in \
                 the firmware, and boot Linux with intel_iommu=on on an Intel machine"
                    .into(),
            )
        })?;
        let number = name(&folder).and_then(|name| name.parse().ok()).ok_or_else(|| {
            TransportError::malformed(
                format!("find the IOMMU group of {address}"),
                format!("{} does not end in a number", folder.display()),
            )
        })?;
        let hint = format!("`uniddrv bind {address}` gives it to vfio-pci");
        match driver(&device) {
            Some(driver) if driver.contains("vfio") => Ok(Self { number, folder }),
            Some(driver) => Err(TransportError::Unsupported(format!(
                "it belongs to Linux's driver {driver}; {hint}"
            ))),
            None => Err(TransportError::Unsupported(format!("it has no driver; {hint}"))),
        }
    }

    /// Opens the group and checks that it is viable: that no other driver holds a member.
    pub(super) fn open(&self, host: &Host<'_>) -> Result<OwnedFd, TransportError> {
        let path = host.vfio.join(self.number.to_string());
        let fd = open(&path).map_err(|error| Self::explain(host, &path, error))?;
        let flags = ioctl::group_flags(fd.as_fd())
            .map_err(|error| TransportError::io("VFIO_GROUP_GET_STATUS", error))?;
        if flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
            return Err(TransportError::Unsupported(format!(
                "IOMMU group {} has members that Linux still drives, and VFIO gives it out as a \
                 whole only: {}; bind these too, or leave them without a driver",
                self.number,
                self.driven_members().join(", ")
            )));
        }
        Ok(fd)
    }

    /// The members whose drivers stand in VFIO's way: not its own, and none that leaves DMA
    /// alone, as a bridge's does.
    fn driven_members(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.join("devices")).into_iter().flatten();
        let mut members: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let driver = driver(&entry.path())?;
                let member = entry.file_name().to_string_lossy().into_owned();
                let harmless = driver.contains("vfio") || HARMLESS.contains(&driver.as_str());
                (!harmless).then(|| format!("{member} ({driver})"))
            })
            .collect();
        members.sort();
        members
    }

    fn explain(host: &Host<'_>, path: &Path, error: Errno) -> TransportError {
        let shown = path.display();
        let hint = match error {
            Errno::NOENT | Errno::NODEV if !host.vfio.join("vfio").exists() => {
                "Linux's module vfio-pci is not loaded (`modprobe vfio-pci`)".to_owned()
            }
            Errno::ACCESS | Errno::PERM => format!(
                "permission denied: run as root, or have root give the group to you \
                 (`chown USER {shown}`)"
            ),
            Errno::BUSY => "another process has the device open".to_owned(),
            error => io::Error::from(error).to_string(),
        };
        TransportError::io(format!("open {shown}"), io::Error::new(error.kind(), hint))
    }
}

/// Opens a file of VFIO for reading and writing.
pub(super) fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// Takes the device out of its group.
pub(super) fn device(group: &OwnedFd, address: PciAddress) -> Result<OwnedFd, TransportError> {
    let action = || format!("VFIO_GROUP_GET_DEVICE_FD of {address}");
    let name =
        CString::new(address.to_string()).map_err(|error| TransportError::io(action(), error))?;
    ioctl::device_fd(group.as_fd(), &name).map_err(|error| TransportError::io(action(), error))
}

/// The driver that a device in sysfs is bound to.
fn driver(device: &Path) -> Option<String> {
    name(&std::fs::read_link(device.join("driver")).ok()?).map(str::to_owned)
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const ADDRESS: PciAddress = PciAddress { domain: 0, bus: 3, device: 0, function: 0 };

    /// A machine of folders, with the device in group 7 and bound to `driver`.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            for folder in ["devices", "vfio", "groups/7/devices", "drivers/nvme"] {
                fs::create_dir_all(root.path().join(folder)).unwrap();
            }
            Self(root)
        }

        fn device(&self, address: &str, driver: Option<&str>) {
            let device = self.0.path().join("devices").join(address);
            let group = self.0.path().join("groups/7");
            fs::create_dir(&device).unwrap();
            symlink(&group, device.join("iommu_group")).unwrap();
            symlink(&device, group.join("devices").join(address)).unwrap();
            if let Some(driver) = driver {
                symlink(self.0.path().join("drivers").join(driver), device.join("driver")).unwrap();
            }
        }

        fn with<T>(&self, check: impl FnOnce(&Host<'_>) -> T) -> T {
            let (devices, vfio) = (self.0.path().join("devices"), self.0.path().join("vfio"));
            check(&Host { devices: &devices, vfio: &vfio })
        }

        fn refusal(&self) -> String {
            self.with(|host| Group::of(host, ADDRESS).unwrap_err().to_string())
        }
    }

    #[test]
    fn a_missing_device_is_named() {
        let text = Machine::new().refusal();
        assert!(text.contains("0000:03:00.0") && text.contains("uniddrv list"), "{text}");
    }

    #[test]
    fn a_device_without_group_says_how_to_get_one() {
        let machine = Machine::new();
        fs::create_dir(machine.0.path().join("devices/0000:03:00.0")).unwrap();
        let text = machine.refusal();
        assert!(text.contains("intel_iommu=on") && text.contains("VT-d"), "{text}");
    }

    #[test]
    fn a_device_of_another_driver_says_whose() {
        for (driver, says) in [(Some("nvme"), "Linux's driver nvme"), (None, "no driver")] {
            let machine = Machine::new();
            machine.device("0000:03:00.0", driver);
            let text = machine.refusal();
            assert!(text.contains(says), "{text}");
            assert!(text.contains("`uniddrv bind 0000:03:00.0`"), "{text}");
        }
    }

    #[test]
    fn a_group_is_found_and_its_other_members_named() {
        let machine = Machine::new();
        machine.device("0000:03:00.0", Some("vfio-pci"));
        machine.device("0000:03:00.1", Some("nvme"));
        machine.device("0000:03:00.2", None);
        machine.device("0000:02:00.0", Some("pcieport"));
        machine.with(|host| {
            let group = Group::of(host, ADDRESS).unwrap();
            assert_eq!(group.number, 7);
            assert_eq!(group.driven_members(), ["0000:03:00.1 (nvme)"]);
        });
    }

    #[test]
    fn a_group_file_that_cannot_be_opened_says_why() {
        let machine = Machine::new();
        machine.device("0000:03:00.0", Some("vfio-pci"));
        machine.with(|host| {
            let group = Group::of(host, ADDRESS).unwrap();
            let text = group.open(host).unwrap_err().to_string();
            assert!(text.contains("modprobe vfio-pci"), "{text}");
            fs::write(host.vfio.join("7"), "").unwrap();
            let text = group.open(host).unwrap_err().to_string();
            assert!(text.contains("VFIO_GROUP_GET_STATUS"), "{text}");
            for (error, says) in
                [(Errno::ACCESS, "chown"), (Errno::BUSY, "another process"), (Errno::IO, "error 5")]
            {
                let text = Group::explain(host, Path::new("/dev/vfio/7"), error).to_string();
                assert!(text.contains("/dev/vfio/7") && text.contains(says), "{text}");
            }
        });
    }
}
