//! The commands of the distribution: kernel parameters and packages.

use super::Sysfs;
use crate::sysfs::tree;

impl Sysfs {
    /// The command that adds parameters to the kernel's command line.
    pub(super) fn add_kernel_parameters(&self, parameters: &str) -> String {
        if self.has_program("grubby") {
            return format!(
                "sudo grubby --update-kernel=ALL --args=\"{parameters}\" && sudo reboot"
            );
        }
        let variable = "GRUB_CMDLINE_LINUX";
        if self.path("etc/default/grub").exists() {
            let update = if self.has_program("update-grub") {
                "update-grub"
            } else {
                "grub-mkconfig -o /boot/grub/grub.cfg"
            };
            return format!(
                "sudo sed -i 's/^{variable}=\"/&{parameters} /' /etc/default/grub && \
                 sudo {update} && sudo reboot"
            );
        }
        if self.path("etc/kernel/cmdline").exists() {
            return format!(
                "sudo sed -i 's/$/ {parameters}/' /etc/kernel/cmdline && \
                 sudo kernel-install add-all && sudo reboot"
            );
        }
        format!("add `{parameters}` to the kernel's command line in the boot loader, and reboot")
    }

    /// The command that installs a package, which has the same name everywhere.
    pub(super) fn install(&self, package: &str) -> String {
        let managers = [
            ("apt-get", "install -y"),
            ("dnf", "install -y"),
            ("zypper", "install -y"),
            ("pacman", "-S --noconfirm"),
            ("apk", "add"),
        ];
        let found = managers.into_iter().find(|(manager, _)| self.has_program(manager));
        match found {
            Some((manager, verb)) => format!("sudo {manager} {verb} {package}"),
            None => format!("install the package {package}"),
        }
    }

    /// Whether a program is in one of the usual folders.
    pub(super) fn has_program(&self, name: &str) -> bool {
        ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"]
            .into_iter()
            .any(|folder| self.path(folder).join(name).exists())
    }

    /// The words of the kernel's command line.
    pub(super) fn kernel_parameters(&self) -> Vec<String> {
        let line = tree::text(&self.path("proc/cmdline")).unwrap_or_default();
        line.split_whitespace().map(Into::into).collect()
    }

    /// A field of `/proc/cpuinfo` of the first CPU.
    pub(super) fn cpu(&self, field: &str) -> String {
        let text = tree::text(&self.path("proc/cpuinfo")).unwrap_or_default();
        let line = text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == field).then(|| value.trim().to_owned())
        });
        line.unwrap_or_default()
    }
}
