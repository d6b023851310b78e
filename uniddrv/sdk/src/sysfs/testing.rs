//! For tests: a tree that looks like a machine's, and a kernel that reacts to
//! what is written to it and can fail at any step.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::machine::{Linux, Machine};
use super::{Sysfs, VFIO_PCI, tree};
use crate::address::PciAddress;

const fn address(bus: u8, function: u8) -> PciAddress {
    PciAddress { domain: 0, bus, device: 0, function }
}

/// A host bridge, in no IOMMU group.
pub(super) const BRIDGE: PciAddress = address(0, 0);
/// An NVMe device, `nvme0` with `nvme0n1`, alone in group 7.
pub(super) const NVME: PciAddress = address(3, 0);
/// A NIC, `eth0`, alone in group 8.
pub(super) const NIC: PciAddress = address(4, 0);

/// A temporary folder with `sys`, `proc`, `dev` and `etc` of a small machine.
pub(super) struct Tree {
    folder: tempfile::TempDir,
}

impl Tree {
    pub(super) fn new() -> Self {
        let tree = Self { folder: tempfile::tempdir().unwrap() };
        tree.write("sys/bus/pci/drivers_probe", "");
        for driver in ["nvme", "e1000e", VFIO_PCI] {
            tree.driver(driver);
        }
        tree.device(BRIDGE, "0x8086", "0x29c0", "0x060000", None, None);
        tree.device(NVME, "0x1b36", "0x0010", "0x010802", Some("nvme"), Some(7));
        tree.write(&format!("sys/bus/pci/devices/{NVME}/numa_node"), "0\n");
        tree.device(NIC, "0x8086", "0x10d3", "0x020000", Some("e1000e"), Some(8));
        let controller = format!("pci0000:00/{NVME}/nvme/nvme0");
        tree.elsewhere("nvme", "nvme0", &controller);
        tree.elsewhere("block", "nvme0n1", &format!("{controller}/nvme0n1"));
        tree.elsewhere("block", "nvme0n1p1", &format!("{controller}/nvme0n1/nvme0n1p1"));
        tree.write("sys/class/block/nvme0n1/dev", "259:0\n");
        tree.write("sys/class/block/nvme0n1p1/dev", "259:1\n");
        tree.write("sys/class/block/nvme0n1p1/partition", "1\n");
        tree.elsewhere("net", "eth0", &format!("pci0000:00/{NIC}/net/eth0"));
        for node in ["nvme0", "nvme0n1", "nvme0n1p1"] {
            tree.write(&format!("dev/{node}"), "");
        }
        tree.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\n");
        tree
    }

    pub(super) fn sysfs(&self) -> Sysfs {
        Sysfs::new(self.folder.path())
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.folder.path().join(path).exists()
    }

    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.folder.path().join(path)).unwrap()
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.folder.path().join(path);
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    /// A link, in place of one that is there already.
    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if path.is_symlink() {
            fs::remove_file(&path).unwrap();
        }
        symlink(target, path).unwrap();
    }

    pub(super) fn driver(&self, name: &str) {
        self.write(&format!("sys/bus/pci/drivers/{name}/bind"), "");
        self.write(&format!("sys/bus/pci/drivers/{name}/unbind"), "");
        let module = name.replace('-', "_");
        self.write(&format!("sys/module/{module}/refcnt"), "0\n");
        self.link(
            &format!("sys/bus/pci/drivers/{name}/module"),
            &format!("../../../../module/{module}"),
        );
    }

    pub(super) fn device(
        &self,
        address: PciAddress,
        vendor: &str,
        device: &str,
        class: &str,
        driver: Option<&str>,
        group: Option<u32>,
    ) {
        let folder = format!("sys/devices/pci0000:00/{address}");
        let attributes = [
            ("vendor", vendor),
            ("device", device),
            ("class", class),
            ("numa_node", "-1"),
            ("driver_override", "(null)"),
            ("modalias", "pci:v00001B36d00000010"),
        ];
        for (name, value) in attributes {
            self.write(&format!("{folder}/{name}"), &format!("{value}\n"));
        }
        let below = format!("../../../devices/pci0000:00/{address}");
        self.link(&format!("sys/bus/pci/devices/{address}"), &below);
        if let Some(driver) = driver {
            let target = format!("../../../bus/pci/drivers/{driver}");
            self.link(&format!("{folder}/driver"), &target);
        }
        if let Some(group) = group {
            let groups = "kernel/iommu_groups";
            self.link(&format!("{folder}/iommu_group"), &format!("../../../{groups}/{group}"));
            self.link(
                &format!("sys/{groups}/{group}/devices/{address}"),
                &format!("../../../../devices/pci0000:00/{address}"),
            );
        }
    }

    /// A named device whose folder is `path` below `sys/devices`.
    pub(super) fn elsewhere(&self, class: &str, name: &str, path: &str) {
        fs::create_dir_all(self.folder.path().join("sys/devices").join(path)).unwrap();
        self.link(&format!("sys/class/{class}/{name}"), &format!("../../devices/{path}"));
    }

    /// A disk behind a SATA controller at 0000:05:00.0.
    pub(super) fn disk_behind_sata(&self, name: &str) {
        let controller = address(5, 0);
        self.device(controller, "0x8086", "0x2922", "0x010601", Some("ahci"), Some(9));
        let path = format!("pci0000:00/{controller}/ata1/host0/target0:0:0/block/{name}");
        self.elsewhere("block", name, &path);
    }

    /// A process that holds `node` open.
    pub(super) fn process(&self, id: u32, program: &str, node: &str) {
        self.write(&format!("proc/{id}/comm"), &format!("{program}\n"));
        self.link(&format!("proc/{id}/fd/3"), node);
    }

    /// The driver and `driver_override` of a device, as they stand.
    pub(super) fn state(&self, address: PciAddress) -> (Option<String>, Option<String>) {
        let sysfs = self.sysfs();
        (sysfs.driver(address), sysfs.driver_override(address))
    }

    /// Whether nothing of uniddrv is left for `address`.
    pub(super) fn is_clean(&self, address: PciAddress) -> bool {
        let sysfs = self.sysfs();
        !sysfs.record_path(address).exists()
            && !sysfs.rule_path(address).exists()
            && !sysfs.modules_path().exists()
    }
}

/// How the machine fails. Steps count from 0.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    Never,
    /// These steps are refused, and have no effect.
    At(Vec<usize>),
    /// This step has its effect, and yet an error comes back.
    After(usize),
    /// The process is killed before this step: nothing happens from here on.
    Killed(usize),
}

/// A kernel that keeps its state in a [`Tree`].
pub(super) struct Simulated<'a> {
    tree: &'a Tree,
    fault: Fault,
    /// Changes asked for so far.
    pub(super) steps: usize,
    /// Drivers that refuse every device.
    pub(super) refusing: Vec<&'static str>,
    /// Modules that can be loaded, with the driver in them.
    pub(super) loadable: Vec<&'static str>,
    /// Sets the flag before this step, as a signal handler would.
    pub(super) signal: Option<(usize, &'a AtomicBool)>,
    /// Owners that were set.
    pub(super) owners: Vec<(String, u32)>,
    /// The driver that the kernel chooses.
    natural: BTreeMap<PciAddress, &'static str>,
    linux: Linux,
    /// That the fault came about.
    pub(super) hit: Cell<bool>,
}

impl<'a> Simulated<'a> {
    pub(super) fn new(tree: &'a Tree, fault: Fault) -> Self {
        Self {
            tree,
            fault,
            steps: 0,
            refusing: Vec::new(),
            loadable: Vec::new(),
            signal: None,
            owners: Vec::new(),
            natural: BTreeMap::from([(NVME, "nvme"), (NIC, "e1000e")]),
            linux: Linux { modules: false },
            hit: Cell::new(false),
        }
    }

    /// Does a step, or does it not, as the fault says.
    fn step<T>(&mut self, effect: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        let step = self.steps;
        self.steps += 1;
        if let Some((at, flag)) = self.signal
            && step >= at
        {
            flag.store(true, Ordering::Relaxed);
        }
        let (does, fails) = match &self.fault {
            Fault::Never => (true, false),
            Fault::At(steps) => (!steps.contains(&step), steps.contains(&step)),
            Fault::After(at) => (true, step == *at),
            Fault::Killed(at) => (step < *at, step >= *at),
        };
        if fails {
            self.hit.set(true);
        }
        let result = if does { Some(effect(self)) } else { None };
        match result {
            Some(result) if !fails => result,
            _ => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }

    fn attribute(&mut self, path: &Path, value: &str) -> io::Result<()> {
        let text = path.to_str().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !path.exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if name == "driver_override" {
            let value = if value == "\n" { "(null)" } else { value };
            return fs::write(path, format!("{value}\n"));
        }
        let address: PciAddress = value.parse().unwrap();
        let (driver, wanted) = self.tree.state(address);
        let folder = fs::canonicalize(path.parent().unwrap()).unwrap();
        let folder = folder.file_name().unwrap().to_str().unwrap();
        let refuse = |code| Err(io::Error::from_raw_os_error(code));
        match name {
            "unbind" if driver.as_deref() == Some(folder) => {
                self.tree.remove(&format!("sys/bus/pci/devices/{address}/driver"));
                Ok(())
            }
            "bind" => {
                let natural = self.natural.get(&address).copied();
                let may = wanted.map_or(natural == Some(folder), |wanted| wanted == folder);
                if !may {
                    return refuse(libc::ENODEV);
                }
                if driver.is_some() {
                    return refuse(libc::EBUSY);
                }
                if self.refusing.iter().any(|refusing| refusing == &folder) {
                    return refuse(libc::EINVAL);
                }
                self.take(address, folder);
                Ok(())
            }
            "drivers_probe" => {
                let natural = self.natural.get(&address).map(|&name| name.to_owned());
                let chosen = wanted.or(natural).filter(|chosen| {
                    self.tree.exists(&format!("sys/bus/pci/drivers/{chosen}"))
                        && !self.refusing.contains(&chosen.as_str())
                });
                if let (None, Some(chosen)) = (driver, chosen) {
                    self.take(address, &chosen);
                }
                Ok(())
            }
            _ => panic!("{text} <- {value:?}: no kernel has this"),
        }
    }

    fn take(&self, address: PciAddress, driver: &str) {
        let link = format!("sys/bus/pci/devices/{address}/driver");
        self.tree.link(&link, &format!("../../../bus/pci/drivers/{driver}"));
        if driver == VFIO_PCI {
            let group =
                tree::link_name(&self.tree.sysfs().device_folder(address).join("iommu_group"));
            self.tree.write(&format!("dev/vfio/{}", group.unwrap()), "");
        }
    }
}

impl Machine for Simulated<'_> {
    fn write_attribute(&mut self, path: &Path, value: &str) -> io::Result<()> {
        self.step(|this| this.attribute(path, value))
    }

    fn write_file(&mut self, path: &Path, text: &str) -> io::Result<()> {
        self.step(|_| {
            fs::create_dir_all(path.parent().unwrap())?;
            fs::write(path, text)
        })
    }

    fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.step(|this| this.linux.remove_file(path))
    }

    fn load_module(&mut self, name: &str) -> io::Result<()> {
        self.step(|this| {
            if !this.loadable.contains(&name) {
                return Err(io::Error::other(format!("module {name} not found")));
            }
            this.tree.driver(name);
            Ok(())
        })
    }

    fn change_owner(&mut self, path: &Path, user: u32) -> io::Result<()> {
        self.step(|this| {
            assert!(path.exists());
            this.owners.push((path.file_name().unwrap().to_str().unwrap().to_owned(), user));
            Ok(())
        })
    }
}
