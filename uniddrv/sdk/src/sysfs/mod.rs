//! Linux's view of PCI devices: which there are, who uses them, and the way
//! from Linux's driver to vfio-pci and back.
//!
//! | file | what it knows |
//! |---|---|
//! | `function` | one PCI function: identity, driver, IOMMU group, names |
//! | `class` | names of PCI class codes |
//! | `names` | Linux's names (`nvme0n1`, `eth0`) to and from addresses |
//! | `usage` | what a device is used for: mounts, swap, RAID, routes |
//! | `bind` | from Linux's driver to vfio-pci, all or nothing |
//! | `unbind` | and back |
//! | `restore` | one device to the driver of its record, for both of them |
//! | `record` | what `unbind` needs to know, below `/run/uniddrv` |
//! | `persist` | the udev rule that binds again after a reboot |
//! | `machine` | everything that changes the machine, as a trait |
//! | `doctor` | what a machine lacks for drivers in user space |
//!
//! All of it works below a root folder, `/` or a test's.

mod bind;
mod class;
mod doctor;
mod error;
mod function;
mod lock;
mod machine;
mod names;
mod openers;
mod persist;
mod record;
mod restore;
mod routes;
mod tree;
mod unbind;
mod usage;

#[cfg(test)]
mod testing;

use std::path::{Path, PathBuf};

use crate::address::PciAddress;

pub use bind::{BindOptions, Bound};
pub use class::Class;
pub use doctor::{Check, State};
pub use error::Error;
pub use function::PciFunction;
pub use unbind::{UnbindOptions, Unbound};
pub use usage::Use;

/// The driver that hands a device to user space.
pub const VFIO_PCI: &str = "vfio-pci";

/// Linux's `/sys`, `/proc`, `/run`, `/etc` and `/dev` below a root folder.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// The tree below `root`: `/` for this machine.
    ///
    /// Kernel modules are loaded for `/` alone: another root may stand for
    /// another machine.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `relative` (no leading slash) below the root.
    fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// The folder of a PCI function. It need not exist.
    fn device_folder(&self, address: PciAddress) -> PathBuf {
        self.path(format!("sys/bus/pci/devices/{address}"))
    }

    /// The folder of a PCI driver. It exists while the driver is loaded.
    fn driver_folder(&self, driver: &str) -> PathBuf {
        self.path(format!("sys/bus/pci/drivers/{driver}"))
    }
}
