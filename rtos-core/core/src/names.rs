//! Names: which device an instance is, and the numbers of block services.

use std::collections::BTreeMap;

use uniddrv_abi::message::Target;

use crate::config::{DISK, Name};
use crate::device::DeviceId;

/// The schemes of block services.
const BLOCK: &[&str] = &["nvme"];

/// All names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    instances: BTreeMap<String, DeviceId>,
    /// `disk:3` is the target `ns1` of a device.
    disks: BTreeMap<u32, (DeviceId, String)>,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) device: DeviceId,
    /// The path of a target; nothing for the instance itself.
    pub(crate) path: Option<String>,
}

impl Names {
    /// Gives `device` the name that it is to have, or the first one of `scheme` that is free.
    ///
    /// # Errors
    /// When another device has it, or the scheme is none.
    pub(crate) fn claim(
        &mut self,
        device: DeviceId,
        wanted: Option<&Name>,
        scheme: &str,
    ) -> Result<Name, String> {
        let name = match wanted {
            Some(name) => name.clone(),
            None => (0..=u32::MAX)
                .map_while(|number| Name::numbered(scheme, number))
                .find(|name| !self.instances.contains_key(name.instance()))
                .ok_or_else(|| {
                    format!("`{scheme}` is no scheme of names; give the device a name")
                })?,
        };
        match self.instances.get(name.instance()) {
            Some(&other) if other != device => Err(format!("another device is {name} already")),
            _ => {
                self.instances.insert(name.instance().to_owned(), device);
                Ok(name)
            }
        }
    }

    /// Says what can be opened at `device`.
    pub(crate) fn set_targets(&mut self, device: DeviceId, targets: &[Target]) {
        self.disks.retain(|_, (owner, path)| {
            *owner != device || targets.iter().any(|target| target.path == *path)
        });
        for target in targets {
            let disk = (device, target.path.clone());
            if !self.disks.values().any(|one| *one == disk) {
                let free = (0..=u32::MAX).find(|number| !self.disks.contains_key(number));
                self.disks.insert(free.unwrap_or_default(), disk);
            }
        }
    }

    /// Forgets all names of `device`.
    pub(crate) fn remove(&mut self, device: DeviceId) {
        self.instances.retain(|_, owner| *owner != device);
        self.disks.retain(|_, (owner, _)| *owner != device);
    }

    /// The number that `path` of `device` has as a disk.
    pub(crate) fn disk(&self, device: DeviceId, path: &str) -> Option<u32> {
        let mut disks = self.disks.iter();
        disks.find(|(_, (owner, one))| *owner == device && one == path).map(|(&number, _)| number)
    }

    /// What `name` stands for: `nvme:0`, `nvme:0/ns1`, `disk:3`, and `disk:0/ns1`, where that is
    /// `nvme:0/ns1`.
    pub(crate) fn resolve(&self, name: &Name) -> Option<Resolved> {
        let path = Some(name.path()).filter(|path| !path.is_empty()).map(str::to_owned);
        if let Some(&device) = self.instances.get(name.instance()) {
            return Some(Resolved { device, path });
        }
        let number = name.instance().strip_prefix(DISK)?.strip_prefix(':')?;
        match path {
            None => {
                let (device, path) = self.disks.get(&number.parse().ok()?)?;
                Some(Resolved { device: *device, path: Some(path.clone()) })
            }
            Some(path) => {
                let mut schemes = BLOCK.iter();
                let device =
                    schemes.find_map(|scheme| self.instances.get(&format!("{scheme}:{number}")))?;
                Some(Resolved { device: *device, path: Some(path) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Target {
        Target {
            path: path.into(),
            id: 1,
            block_size: 512,
            blocks: 8,
            max_transfer: 4096,
            volatile_write_cache: false,
        }
    }

    fn at(device: u32, path: &str) -> Resolved {
        let path = Some(path.to_owned()).filter(|path| !path.is_empty());
        Resolved { device: DeviceId(device), path }
    }

    #[test]
    fn instances_and_disks_are_found() {
        let mut names = Names::default();
        let one: Name = "nvme:1".parse().unwrap();
        assert_eq!(names.claim(DeviceId(7), Some(&one), "nvme").unwrap(), one);
        assert_eq!(names.claim(DeviceId(8), None, "nvme").unwrap().as_str(), "nvme:0");
        assert_eq!(names.claim(DeviceId(9), None, "nvme").unwrap().as_str(), "nvme:2");
        assert!(names.claim(DeviceId(9), Some(&one), "nvme").is_err());
        assert!(names.claim(DeviceId(9), None, "No Scheme").is_err());
        names.set_targets(DeviceId(7), &[target("ns1"), target("ns2")]);
        names.set_targets(DeviceId(8), &[target("ns1")]);
        let resolve = |names: &Names, name: &str| names.resolve(&name.parse().unwrap());
        assert_eq!(resolve(&names, "nvme:1"), Some(at(7, "")));
        assert_eq!(resolve(&names, "nvme:1/ns2"), Some(at(7, "ns2")));
        assert_eq!(resolve(&names, "disk:1"), Some(at(7, "ns2")));
        assert_eq!(resolve(&names, "disk:2"), Some(at(8, "ns1")));
        assert_eq!(resolve(&names, "disk:1/ns1"), Some(at(7, "ns1")));
        assert_eq!(resolve(&names, "disk:3"), None);
        assert_eq!(resolve(&names, "nvme:5"), None);
        // Numbers stay, whatever comes and goes beside them.
        names.set_targets(DeviceId(7), &[target("ns2")]);
        assert_eq!(
            (names.disk(DeviceId(7), "ns2"), names.disk(DeviceId(7), "ns1")),
            (Some(1), None)
        );
        names.remove(DeviceId(7));
        assert_eq!((resolve(&names, "nvme:1"), resolve(&names, "disk:1")), (None, None));
        assert_eq!(resolve(&names, "disk:2"), Some(at(8, "ns1")));
    }
}
