//! A disk while Linux has it, and the loan of it: taken for a measurement, given back after.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use uniddrv::PciAddress;
use uniddrv::block::BlockInfo;
use uniddrv::sysfs::{self, BindOptions, PciFunction, Sysfs, UnbindOptions};

use super::result::Target;
use super::signature;

/// A namespace as Linux's block device.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// Its node, such as `/dev/nvme0n1`.
    pub(crate) path: PathBuf,
    /// What it is.
    pub(crate) target: Target,
}

/// There is no disk to compare with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("{address} is with the driver {driver}; --compare native measures Linux's nvme first")]
    Driver { address: PciAddress, driver: String },
    #[error("Linux has no namespace {nsid} on {address} (its disks: {disks})")]
    Namespace { address: PciAddress, nsid: u32, disks: String },
    #[error("Linux has no disk on {address}")]
    None { address: PciAddress },
    #[error("cannot tell the size of {path}: sysfs does not say")]
    Size { path: PathBuf },
}

impl Disk {
    /// The disk of `function` with namespace `nsid`, or the one that `named` names, or the first.
    ///
    /// # Errors
    /// When Linux's nvme driver does not have the function, or has no such disk on it.
    pub(crate) fn of(
        root: &Path,
        function: &PciFunction,
        nsid: Option<u32>,
        named: &str,
    ) -> Result<Self, DiskError> {
        let address = function.address;
        let driver = function.driver.as_deref().unwrap_or("none");
        if driver != "nvme" {
            return Err(DiskError::Driver { address, driver: driver.to_owned() });
        }
        let named = named.rsplit('/').next().unwrap_or(named);
        let folder = |name: &str| root.join("sys/class/block").join(name);
        let mut disks: Vec<(u32, &str)> = (function.names.iter())
            .filter(|name| folder(name).exists())
            .map(|name| (number(&folder(name).join("nsid")).unwrap_or(1) as u32, name.as_str()))
            .collect();
        disks.sort_unstable();
        let wanted = |&&(id, name): &&(u32, &str)| match nsid {
            Some(nsid) => id == nsid,
            None => name == named || disks.iter().all(|(_, other)| *other != named),
        };
        let Some(&(id, name)) = disks.iter().find(wanted) else {
            return Err(match nsid {
                Some(nsid) if !disks.is_empty() => {
                    let names: Vec<_> = disks.iter().map(|(_, name)| *name).collect();
                    DiskError::Namespace { address, nsid, disks: names.join(", ") }
                }
                _ => DiskError::None { address },
            });
        };
        let folder = folder(name);
        let text = |file: &str| {
            let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
            text.trim().to_owned()
        };
        let path = root.join("dev").join(name);
        let sectors = number(&folder.join("size")).filter(|&sectors| sectors > 0);
        let size = sectors.and_then(|sectors| sectors.checked_mul(512));
        let size = size.ok_or_else(|| DiskError::Size { path: path.clone() })?;
        let block_size = number(&folder.join("queue/logical_block_size")).unwrap_or(512) as u32;
        let target = Target {
            address: address.to_string(),
            transport: "Linux".into(),
            served: false,
            model: text("device/model"),
            serial: text("device/serial"),
            namespace: id,
            block_size,
            size,
        };
        Ok(Self { path, target })
    }

    /// What a plan is checked against before anything is done.
    pub(crate) fn info(&self) -> BlockInfo {
        let block_size = self.target.block_size.max(1);
        BlockInfo {
            block_size,
            blocks: self.target.size / u64::from(block_size),
            // What the controller moves at once is known when it is ours; Linux splits.
            max_transfer: u32::MAX,
            volatile_write_cache: false,
        }
    }

    /// What it seems to hold.
    pub(crate) fn content(&self) -> io::Result<Option<&'static str>> {
        let mut start = Vec::new();
        File::open(&self.path)?.take(signature::LENGTH as u64).read_to_end(&mut start)?;
        Ok(signature::find(&start))
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A device that was taken from Linux and goes back, whatever happens.
pub(crate) struct Loan<'a> {
    sysfs: &'a Sysfs,
    address: PciAddress,
    over: bool,
}

impl<'a> Loan<'a> {
    /// Takes the device.
    ///
    /// # Errors
    /// When it is in use, cannot be taken, or `stop` is set. It is as it was then.
    pub(crate) fn take(
        sysfs: &'a Sysfs,
        address: PciAddress,
        stop: &AtomicBool,
    ) -> Result<Self, sysfs::Error> {
        sysfs.bind(&[address], &BindOptions::default(), stop)?;
        Ok(Self { sysfs, address, over: false })
    }

    /// Gives it back.
    ///
    /// # Errors
    /// When Linux's driver does not take it.
    pub(crate) fn give_back(mut self) -> Result<(), sysfs::Error> {
        self.over = true;
        self.sysfs.unbind(self.address, UnbindOptions::default()).map(drop)
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if !self.over
            && let Err(error) = self.sysfs.unbind(self.address, UnbindOptions::default())
        {
            crate::output::warn(&format!(
                "{} could not be given back to Linux: {error}; try: uniddrv unbind {}",
                self.address, self.address
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> (tempfile::TempDir, PciFunction) {
        let root = tempfile::tempdir().unwrap();
        for (name, nsid) in [("nvme0n1", 1), ("nvme0n2", 5)] {
            let folder = root.path().join("sys/class/block").join(name);
            fs::create_dir_all(folder.join("queue")).unwrap();
            fs::create_dir_all(folder.join("device")).unwrap();
            for (file, text) in [
                ("nsid", format!("{nsid}\n")),
                ("size", "2048\n".into()),
                ("queue/logical_block_size", "4096\n".into()),
                ("device/model", "Fast 9   \n".into()),
                ("device/serial", "S9\n".into()),
            ] {
                fs::write(folder.join(file), text).unwrap();
            }
        }
        fs::create_dir_all(root.path().join("dev")).unwrap();
        let function = PciFunction {
            address: "0000:03:00.0".parse().unwrap(),
            vendor: 1,
            device: 2,
            class: sysfs::Class::new(0x01_0802),
            driver: Some("nvme".into()),
            driver_override: None,
            iommu_group: Some(7),
            group_members: vec![],
            numa_node: None,
            names: vec!["nvme0".into(), "nvme0n1".into(), "nvme0n2".into()],
            uses: vec![],
            taken: false,
            persistent: false,
        };
        (root, function)
    }

    #[test]
    fn the_disk_that_is_meant_is_found() {
        let (root, function) = machine();
        let disk = |nsid, named| Disk::of(root.path(), &function, nsid, named).unwrap();
        for (nsid, named, found) in [
            (None, "0000:03:00.0", "nvme0n1"),
            (None, "nvme0n2", "nvme0n2"),
            (None, "/dev/nvme0n2", "nvme0n2"),
            (Some(5), "nvme0", "nvme0n2"),
        ] {
            assert_eq!(disk(nsid, named).path, root.path().join("dev").join(found));
        }
        let Target { model, serial, namespace, block_size, size, .. } = disk(Some(5), "").target;
        assert_eq!((model.as_str(), serial.as_str()), ("Fast 9", "S9"));
        assert_eq!((namespace, block_size, size), (5, 4096, 1 << 20));
        assert_eq!(disk(None, "").info().blocks, 256);
    }

    #[test]
    fn what_it_holds_is_told() {
        let (root, function) = machine();
        let disk = Disk::of(root.path(), &function, None, "nvme0n1").unwrap();
        assert!(disk.content().is_err());
        let mut start = vec![0; signature::LENGTH + 5];
        start[..4].copy_from_slice(b"XFSB");
        fs::write(&disk.path, start).unwrap();
        assert_eq!(disk.content().unwrap(), Some("an XFS filesystem"));
    }

    #[test]
    fn what_is_no_disk_is_an_error() {
        let (root, function) = machine();
        let error = |function: &PciFunction, nsid| {
            Disk::of(root.path(), function, nsid, "").unwrap_err().to_string()
        };
        assert!(error(&function, Some(2)).contains("nvme0n1, nvme0n2"));
        let bound = PciFunction { driver: Some("vfio-pci".into()), ..function.clone() };
        assert!(error(&bound, None).contains("vfio-pci"));
        let none = PciFunction { names: vec!["nvme0".into()], ..function.clone() };
        assert!(error(&none, None).contains("no disk"));
        fs::write(root.path().join("sys/class/block/nvme0n1/size"), "0\n").unwrap();
        assert!(error(&function, None).contains("size"));
    }
}
