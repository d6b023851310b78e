//! Taking a device again after each reboot: a udev rule per device.
//!
//! The rule sets `driver_override` when the kernel announces the device, which
//! is early enough for most drivers, and loads vfio-pci. A driver that was in
//! the initramfs has the device by then: so the rule also runs `uniddrv bind`,
//! with all its checks. Vendor and device ID stand in the rule, so that a bus
//! that was renumbered gives away no other kind of device.

use std::path::{Path, PathBuf};

use super::{Error, PciFunction, Sysfs, VFIO_PCI, tree};
use crate::address::PciAddress;

/// Before Debian's and Fedora's 80-drivers.rules, which loads Linux's drivers.
const PREFIX: &str = "60-uniddrv-";

impl Sysfs {
    /// The udev rule of a device.
    pub(super) fn rule_path(&self, address: PciAddress) -> PathBuf {
        self.path(format!("etc/udev/rules.d/{PREFIX}{address}.rules"))
    }

    /// The file that has vfio-pci loaded at boot, one for all devices.
    pub(super) fn modules_path(&self) -> PathBuf {
        self.path("etc/modules-load.d/uniddrv-vfio.conf")
    }

    /// Whether a device other than `address` has a rule.
    pub(super) fn has_other_rules(&self, address: PciAddress) -> bool {
        let own = self.rule_path(address);
        let own = own.file_name().map(|name| name.to_string_lossy().into_owned());
        tree::entries(&self.path("etc/udev/rules.d"))
            .iter()
            .any(|name| name.starts_with(PREFIX) && Some(name) != own.as_ref())
    }
}

/// The text of a rule that binds `function` with `program`, this command.
///
/// # Errors
/// The program's path has characters that udev would read as something else.
pub(super) fn rule(
    function: &PciFunction,
    program: &Path,
    user: Option<&str>,
) -> Result<String, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+-".contains(&byte);
    let unusable = || Error::ProgramPath { path: program.to_owned() };
    let path = program.to_str().filter(|path| path.bytes().all(plain)).ok_or_else(unusable)?;
    if !program.is_absolute() {
        return Err(unusable());
    }
    let address = function.address;
    let user = user.map_or_else(String::new, |user| format!(" --user {user}"));
    Ok(format!(
        "# Written by `uniddrv bind --persist`; `uniddrv unbind {address}` removes it.\n\
         ACTION==\"add\", SUBSYSTEM==\"pci\", KERNEL==\"{address}\", \
         ATTR{{vendor}}==\"{:#06x}\", ATTR{{device}}==\"{:#06x}\", \
         ATTR{{driver_override}}=\"{VFIO_PCI}\", \
         RUN{{builtin}}+=\"kmod load {VFIO_PCI}\", \
         RUN+=\"{path} bind {address}{user}\"\n",
        function.vendor, function.device,
    ))
}

/// The text of [`Sysfs::modules_path`].
pub(super) fn modules() -> String {
    format!("# Written by `uniddrv bind --persist`.\n{VFIO_PCI}\n")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NVME, Tree};
    use super::*;

    #[test]
    fn a_rule_names_address_identity_and_program() {
        let function = Tree::new().sysfs().function(NVME).unwrap();
        let text = rule(&function, Path::new("/usr/bin/uniddrv"), Some("ann")).unwrap();
        assert_eq!(
            text.lines().nth(1).unwrap(),
            "ACTION==\"add\", SUBSYSTEM==\"pci\", KERNEL==\"0000:03:00.0\", \
             ATTR{vendor}==\"0x1b36\", ATTR{device}==\"0x0010\", \
             ATTR{driver_override}=\"vfio-pci\", RUN{builtin}+=\"kmod load vfio-pci\", \
             RUN+=\"/usr/bin/uniddrv bind 0000:03:00.0 --user ann\""
        );
    }

    #[test]
    fn a_path_that_udev_would_take_apart_is_refused() {
        let function = Tree::new().sysfs().function(NVME).unwrap();
        for path in ["/opt/my tools/uniddrv", "/a\"b", "/a%kb", "/a$b", "relative/uniddrv"] {
            assert!(rule(&function, Path::new(path), None).is_err(), "{path}");
        }
    }
}
