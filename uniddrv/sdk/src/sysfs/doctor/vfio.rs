//! What VFIO needs: an IOMMU, vfio-pci, its device node, memory to lock.

use std::fs;
use std::io;

use super::{Check, State, Sysfs};
use crate::sysfs::{VFIO_PCI, tree};

/// Memory to lock below which a driver's arenas may not fit.
const LOCKED_MEMORY: u64 = 64 << 20;
/// `CAP_IPC_LOCK` of Linux's capability.h: no limit on locked memory.
const CAP_IPC_LOCK: u32 = 14;

impl Sysfs {
    pub(super) fn check_iommu(&self) -> Check {
        let name = "IOMMU";
        let groups = tree::entries(&self.path("sys/kernel/iommu_groups")).len();
        if groups > 0 {
            return Check::ok(name, format!("on, {groups} groups"));
        }
        let vendor = self.cpu("vendor_id");
        let parameters = self.kernel_parameters();
        let set = |wanted: &str| parameters.iter().any(|parameter| parameter == wanted);
        // AMD's is on unless it is turned off; Intel's waits to be asked.
        let (parameter, firmware) = match vendor.as_str() {
            "GenuineIntel" => ("intel_iommu=on", "VT-d"),
            "AuthenticAMD" | "HygonGenuine" => ("amd_iommu=on", "AMD-Vi (IOMMU)"),
            _ => {
                return Check::missing(
                    name,
                    "there is none that Linux uses",
                    "turn the IOMMU (SMMU) on in the firmware's settings",
                );
            }
        };
        if !set(parameter) && vendor == "GenuineIntel" {
            return Check::missing(
                name,
                format!("off: {parameter} is not on the kernel's command line"),
                self.add_kernel_parameters(&format!("{parameter} iommu=pt")),
            );
        }
        let off = ["amd_iommu=off", "iommu=off", "intel_iommu=off"];
        if let Some(off) = off.into_iter().find(|off| set(off)) {
            return Check::missing(
                name,
                format!("off: {off} is on the kernel's command line"),
                format!(
                    "remove {off} from the kernel's command line in the boot loader, and reboot"
                ),
            );
        }
        let flags = self.cpu("flags");
        if flags.split_whitespace().any(|flag| flag == "hypervisor") {
            return Check::missing(
                name,
                "this virtual machine has none",
                "give the virtual machine one (QEMU: -machine q35,kernel-irqchip=split \
                 -device intel-iommu,intremap=on,caching-mode=on)",
            );
        }
        Check::missing(
            name,
            "the firmware offers none",
            format!("turn {firmware} on in the firmware's settings"),
        )
    }

    pub(super) fn check_vfio_pci(&self) -> Check {
        let name = "vfio-pci";
        if self.driver_folder(VFIO_PCI).exists() {
            return Check::ok(name, "loaded");
        }
        let release = tree::text(&self.path("proc/sys/kernel/osrelease")).unwrap_or_default();
        let folder = ["lib/modules", "usr/lib/modules"]
            .map(|folder| self.path(folder).join(&release))
            .into_iter()
            .find(|folder| folder.is_dir());
        let Some(folder) = folder.filter(|_| !release.is_empty()) else {
            return Check::missing(
                name,
                format!("not loaded, and this kernel ({release}) has no modules here"),
                "install a kernel with its modules, such as the distribution's own",
            );
        };
        let listed = ["modules.dep", "modules.builtin"].into_iter().any(|list| {
            let text = tree::text(&folder.join(list)).unwrap_or_default();
            text.contains("/vfio-pci.ko")
        });
        if listed {
            // `bind` loads it by itself.
            return Check::ok(name, "not loaded; `uniddrv bind` loads it");
        }
        // Ubuntu splits its modules.
        let package = format!("linux-modules-extra-{release}");
        Check::missing(name, format!("kernel {release} comes without it"), self.install(&package))
    }

    pub(super) fn check_vfio_device(&self) -> Check {
        let name = "/dev/vfio/vfio";
        let path = self.path("dev/vfio/vfio");
        match fs::OpenOptions::new().read(true).write(true).open(&path) {
            Ok(_) => Check::ok(name, "accessible"),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::missing(
                name,
                "this user may not open it",
                format!("sudo chmod 666 {name} (it gives no access to devices by itself)"),
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.check_vfio_pci().state == State::Ok
                    && !self.driver_folder(VFIO_PCI).exists()
                {
                    return Check::ok(name, "not there yet: it comes with vfio-pci");
                }
                Check::missing(name, "not there", "sudo modprobe -a vfio-pci vfio_iommu_type1")
            }
            Err(error) => Check::missing(
                name,
                format!("cannot be opened: {error}"),
                "sudo modprobe -a vfio vfio_iommu_type1 vfio-pci",
            ),
        }
    }

    pub(super) fn check_locked_memory(&self) -> Check {
        let name = "locked memory";
        let status = tree::text(&self.path("proc/self/status")).unwrap_or_default();
        let capable = status.lines().any(|line| {
            let bits = line.strip_prefix("CapEff:").map(str::trim);
            let bits = bits.and_then(|bits| u64::from_str_radix(bits, 16).ok());
            bits.is_some_and(|bits| bits & (1 << CAP_IPC_LOCK) != 0)
        });
        if capable {
            return Check::ok(name, "no limit: this process has CAP_IPC_LOCK");
        }
        let limits = tree::text(&self.path("proc/self/limits")).unwrap_or_default();
        let limit = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
        let soft = limit.and_then(|limit| limit.split_whitespace().next());
        match soft.map(str::parse::<u64>) {
            Some(Ok(bytes)) if bytes < LOCKED_MEMORY => Check::missing(
                name,
                format!("limited to {} KiB; DMA memory is locked", bytes >> 10),
                "echo \"$USER - memlock unlimited\" | sudo tee \
                 /etc/security/limits.d/uniddrv.conf, and log in again",
            ),
            Some(Ok(bytes)) => Check::ok(name, format!("up to {} MiB", bytes >> 20)),
            Some(Err(_)) => Check::ok(name, "no limit"),
            None => Check::advice(name, "/proc/self/limits does not tell", "ulimit -l"),
        }
    }
}
