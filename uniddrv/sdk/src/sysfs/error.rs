//! What can go wrong between a device's name and its driver.

use std::io;
use std::path::{Path, PathBuf};

use super::{Class, Use, VFIO_PCI};
use crate::address::PciAddress;

/// Why a device was not found, taken or given back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither an address nor a name that Linux could give a device.
    #[error("`{given}` is no PCI address and no name of a device")]
    Malformed {
        /// What the user gave.
        given: String,
    },
    /// No PCI function has this address.
    #[error("there is no PCI device {address}")]
    NoSuchDevice {
        /// The address that was looked for.
        address: PciAddress,
    },
    /// Linux has no device of this name.
    #[error("Linux has no device named `{name}`")]
    NoSuchName {
        /// The name that was looked for.
        name: String,
    },
    /// The device is not on PCI at all.
    #[error("{name} is no PCI device: Linux has it at {path}")]
    NotPci {
        /// Linux's name of it.
        name: String,
        /// Its folder in sysfs.
        path: String,
    },
    /// The device is behind a PCI controller that serves others as well.
    #[error("{name} is no PCI device itself: it is behind the controller {controller}")]
    Behind {
        /// Linux's name of it.
        name: String,
        /// The PCI function that it is behind.
        controller: PciAddress,
    },
    /// The name of a part of a disk.
    #[error("{name} is a partition of {disk}: only the whole device can be taken")]
    Partition {
        /// The partition.
        name: String,
        /// The disk it is on.
        disk: String,
    },
    /// The disk is reached through several controllers.
    #[error("{name} is reached through several devices: {}", list(controllers))]
    Ambiguous {
        /// Linux's name of the disk.
        name: String,
        /// The PCI functions that lead to it.
        controllers: Vec<PciAddress>,
    },
    /// A kind of device that has no place in user space.
    #[error("{address} is a {class}, which cannot be given to user space")]
    OtherKind {
        /// The device.
        address: PciAddress,
        /// What it is.
        class: Class,
    },
    /// Linux uses the device.
    #[error("{address} is in use: {}", list(uses))]
    InUse {
        /// The device.
        address: PciAddress,
        /// What for.
        uses: Vec<Use>,
    },
    /// No IOMMU stands between the device and memory.
    #[error("{address} is in no IOMMU group: the IOMMU is off, or there is none")]
    NoIommuGroup {
        /// The device.
        address: PciAddress,
    },
    /// Linux drives another device of the IOMMU group.
    #[error(
        "IOMMU group {group} of {address} has other devices that Linux drives: {}",
        drivers(others)
    )]
    GroupShared {
        /// The device.
        address: PciAddress,
        /// Its IOMMU group.
        group: u32,
        /// The others, with their drivers.
        others: Vec<(PciAddress, String)>,
    },
    /// The kernel has no vfio-pci, or it could not be loaded.
    #[error("the driver vfio-pci is not there: {reason}")]
    NoVfioPci {
        /// What `modprobe` said.
        reason: String,
    },
    /// The kernel refused for want of privileges.
    #[error("no permission to {action} {path}")]
    Permission {
        /// What was tried: `write`.
        action: &'static str,
        /// On which file.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried: `write`.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// A driver refused the device.
    #[error("the driver {driver} refused {address}")]
    Refused {
        /// The device.
        address: PciAddress,
        /// The driver that was to take it.
        driver: String,
        /// What came back.
        source: io::Error,
    },
    /// The kernel reported success, and yet another driver has the device.
    #[error(
        "{address} should now be with the driver {expected} and is with {}",
        found.as_deref().unwrap_or("none")
    )]
    WrongDriver {
        /// The device.
        address: PciAddress,
        /// The driver that should have it.
        expected: String,
        /// The driver that has it.
        found: Option<String>,
    },
    /// The user stopped it; everything is as it was.
    #[error("interrupted: {address} is as it was")]
    Interrupted {
        /// The device that was being bound.
        address: PciAddress,
    },
    /// Binding failed, and then giving the device back failed too.
    #[error("{cause}; and then {address} could not be given back to Linux")]
    NotRolledBack {
        /// The device.
        address: PciAddress,
        /// Why binding failed.
        cause: String,
        /// Why giving it back failed.
        source: Box<Error>,
    },
    /// The device is not bound to vfio-pci, and nothing of uniddrv is left.
    #[error(
        "{address} is not bound to vfio-pci: {}",
        driver.as_ref().map_or("no driver has it".to_owned(), |driver| format!("the driver {driver} has it"))
    )]
    NotBound {
        /// The device.
        address: PciAddress,
        /// The driver that has it.
        driver: Option<String>,
    },
    /// A process works with the device through vfio-pci.
    #[error("{address} is in use through /dev/vfio/{group}{}", by(processes))]
    Held {
        /// The device.
        address: PciAddress,
        /// Its IOMMU group.
        group: u32,
        /// The processes, where they show: `name (process 12)`.
        processes: Vec<String>,
    },
    /// `--user` names nobody.
    #[error("there is no user `{name}` in /etc/passwd")]
    NoSuchUser {
        /// What the user gave.
        name: String,
    },
    /// The path of the program cannot stand in a udev rule.
    #[error("the path {path} of this program cannot stand in a udev rule")]
    ProgramPath {
        /// The path.
        path: PathBuf,
    },
    /// Another `uniddrv bind` or `unbind` does not come to an end.
    #[error("another bind or unbind has been holding {path} for {seconds} s")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long this one waited.
        seconds: u64,
    },
}

impl Error {
    /// An I/O error with what was tried on which file.
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::PermissionDenied {
            Self::Permission { action, path }
        } else {
            Self::Io { action, path, source }
        }
    }

    /// What the user can do about it, as one line, where there is something.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Malformed { .. } => {
                "give an address such as 0000:03:00.0 or a name such as nvme0n1 or eth0; \
                 `uniddrv list` shows both"
                    .into()
            }
            Self::NoSuchDevice { .. } | Self::NoSuchName { .. } | Self::NotPci { .. } => {
                "`uniddrv list` shows the PCI devices of this machine".into()
            }
            Self::Behind { controller, .. } => format!(
                "to take the whole controller with all that is behind it, name {controller}"
            ),
            Self::Partition { disk, .. } => format!("name {disk}"),
            Self::Ambiguous { .. } => "name one of these addresses".into(),
            Self::OtherKind { .. } => "`uniddrv list` shows what each device is".into(),
            Self::InUse { .. } => {
                "stop these uses first; --force takes the device away from them, and what was not \
                 written is lost"
                    .into()
            }
            Self::NoIommuGroup { .. } => "`uniddrv doctor` shows how to turn the IOMMU on".into(),
            Self::GroupShared { address, others, .. } => {
                let all = others.iter().map(|(other, _)| format!(" {other}"));
                format!(
                    "the devices of a group can only be taken together: uniddrv bind {address}{}",
                    all.collect::<String>()
                )
            }
            Self::NoVfioPci { .. } => {
                format!("sudo modprobe {VFIO_PCI}; it is part of the kernel's modules package")
            }
            Self::Permission { .. } => "run it as root, with sudo".into(),
            Self::NotRolledBack { address, .. } => {
                format!("try `uniddrv unbind {address}` again; the kernel's log may say more")
            }
            Self::Refused { .. } | Self::WrongDriver { .. } => {
                "the kernel's log says more: sudo dmesg | tail".into()
            }
            Self::Held { .. } => {
                "end these processes first; --force waits until the device is free".into()
            }
            Self::ProgramPath { .. } => {
                "install uniddrv to a path without blanks and special characters".into()
            }
            Self::NoSuchUser { .. } => "a user's number will do as well".into(),
            Self::Io { .. }
            | Self::Interrupted { .. }
            | Self::NotBound { .. }
            | Self::Locked { .. } => return None,
        };
        Some(help)
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

fn drivers(others: &[(PciAddress, String)]) -> String {
    let texts: Vec<String> =
        others.iter().map(|(address, driver)| format!("{address} ({driver})")).collect();
    texts.join(", ")
}

fn by(processes: &[String]) -> String {
    if processes.is_empty() { String::new() } else { format!(" by {}", processes.join(", ")) }
}
