//! For the tests of the command: a folder that looks like a machine with an
//! NVMe device and a NIC to `uniddrv --root`, and the command run on it.
//!
//! The files are plain files: nothing happens when they are written.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `uniddrv` as it was built for this test.
pub(crate) fn uniddrv() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uniddrv"));
    command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env_remove("CLICOLOR");
    // Whatever core runs on the machine of the tests is not theirs.
    command.env("UNIDDRV_CORE", "/nonexistent/uniddrv/core.sock");
    command
}

/// Exit status, standard output, standard error.
pub(crate) fn run(arguments: &[&str]) -> (i32, String, String) {
    read(&uniddrv().args(arguments).output().unwrap())
}

/// What a process that ended has said.
pub(crate) fn read(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The NVMe device, alone in IOMMU group 7.
pub(crate) const NVME: &str = "0000:03:00.0";
/// The NIC, in no IOMMU group.
pub(crate) const NIC: &str = "0000:04:00.0";

/// A machine's tree in a temporary folder.
pub(crate) struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        for driver in ["nvme", "e1000e", "vfio-pci"] {
            machine.write(&format!("sys/bus/pci/drivers/{driver}/bind"), "");
            machine.write(&format!("sys/bus/pci/drivers/{driver}/unbind"), "");
        }
        machine.write("sys/bus/pci/drivers_probe", "");
        machine.device("0000:00:00.0", "0x8086", "0x29c0", "0x060000", None);
        machine.device(NVME, "0x1b36", "0x0010", "0x010802", Some("nvme"));
        machine.device(NIC, "0x8086", "0x10d3", "0x020000", Some("e1000e"));
        let group = machine.path(&format!("sys/devices/pci0000:00/{NVME}/iommu_group"));
        symlink("../../../kernel/iommu_groups/7", group).unwrap();
        let members = machine.path("sys/kernel/iommu_groups/7/devices");
        fs::create_dir_all(&members).unwrap();
        let target = format!("../../../../devices/pci0000:00/{NVME}");
        symlink(target, members.join(NVME)).unwrap();
        machine.named("nvme", "nvme0", &format!("{NVME}/nvme/nvme0"));
        machine.named("block", "nvme0n1", &format!("{NVME}/nvme/nvme0/nvme0n1"));
        machine.named("net", "eth0", &format!("{NIC}/net/eth0"));
        machine.write("sys/class/block/nvme0n1/dev", "259:0\n");
        machine
    }

    fn device(&self, address: &str, vendor: &str, device: &str, class: &str, driver: Option<&str>) {
        let folder = format!("sys/devices/pci0000:00/{address}");
        for (name, value) in [
            ("vendor", vendor),
            ("device", device),
            ("class", class),
            ("numa_node", "-1"),
            ("driver_override", "(null)"),
        ] {
            self.write(&format!("{folder}/{name}"), &format!("{value}\n"));
        }
        if let Some(driver) = driver {
            let link = self.path(&format!("{folder}/driver"));
            symlink(format!("../../../bus/pci/drivers/{driver}"), link).unwrap();
        }
        let devices = self.path("sys/bus/pci/devices");
        fs::create_dir_all(&devices).unwrap();
        symlink(format!("../../../devices/pci0000:00/{address}"), devices.join(address)).unwrap();
    }

    fn named(&self, class: &str, name: &str, below: &str) {
        fs::create_dir_all(self.path(&format!("sys/devices/pci0000:00/{below}"))).unwrap();
        let folder = self.path(&format!("sys/class/{class}"));
        fs::create_dir_all(&folder).unwrap();
        symlink(format!("../../devices/pci0000:00/{below}"), folder.join(name)).unwrap();
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    pub(crate) fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// `uniddrv --root` this machine.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = uniddrv();
        command.arg("--root").arg(self.root()).args(arguments);
        command
    }

    /// Exit status, standard output, standard error on this machine.
    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        read(&self.command(arguments).output().unwrap())
    }

    /// The driver that a device has.
    pub(crate) fn driver(&self, address: &str) -> Option<String> {
        let link = fs::read_link(self.path(&format!("sys/bus/pci/devices/{address}/driver")));
        Some(link.ok()?.file_name()?.to_str()?.to_owned())
    }

    /// Puts the device with another driver, as the kernel would.
    pub(crate) fn set_driver(&self, address: &str, driver: &str) {
        let link = self.path(&format!("sys/bus/pci/devices/{address}/driver"));
        fs::remove_file(&link).unwrap();
        symlink(format!("../../../bus/pci/drivers/{driver}"), link).unwrap();
    }
}
