//! What Linux uses a device for.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use super::names::{Kind, Named};
use super::openers::Openers;
use super::routes::Route;
use super::{Sysfs, tree};
use crate::address::PciAddress;

/// One use of a device by Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// A filesystem is mounted.
    Mounted {
        /// The disk or partition.
        node: String,
        /// The mount point.
        at: String,
    },
    /// Linux swaps to it.
    Swap {
        /// The disk or partition.
        node: String,
    },
    /// Part of a volume on top of it: RAID, LVM, encryption.
    PartOf {
        /// The disk or partition.
        node: String,
        /// The volume, such as `md0 (RAID)`.
        volume: String,
    },
    /// A process has the node open.
    Open {
        /// The node below `/dev`.
        node: String,
        /// The process.
        process: u32,
        /// Its program.
        program: String,
    },
    /// Claimed by someone who does not show: another mount namespace, ZFS.
    Claimed {
        /// The disk.
        node: String,
    },
    /// A route leaves by the interface.
    Route {
        /// The interface.
        interface: String,
        /// Where it leads; `None` for the default route.
        destination: Option<String>,
    },
    /// The interface belongs to a bridge, a bond, a VLAN.
    Enslaved {
        /// The interface.
        interface: String,
        /// The interface on top.
        master: String,
    },
    /// The interface is up; by itself that hinders nothing.
    Up {
        /// The interface.
        interface: String,
    },
    /// Virtual functions of the device exist.
    VirtualFunctions {
        /// How many.
        count: u32,
    },
}

impl Use {
    /// Whether the device must not be taken because of this use.
    pub fn hinders(&self) -> bool {
        !matches!(self, Self::Up { .. })
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { node, at } => write!(f, "{node} is mounted at {at}"),
            Self::Swap { node } => write!(f, "{node} is swap space"),
            Self::PartOf { node, volume } => write!(f, "{node} is part of {volume}"),
            Self::Open { node, process, program } => {
                write!(f, "{node} is open in {program} (process {process})")
            }
            Self::Claimed { node } => {
                write!(f, "{node} is claimed by the kernel (a mount in another namespace, ZFS)")
            }
            Self::Route { interface, destination: None } => {
                write!(f, "{interface} carries the default route")
            }
            Self::Route { interface, destination: Some(destination) } => {
                write!(f, "{interface} carries the route to {destination}")
            }
            Self::Enslaved { interface, master } => write!(f, "{interface} is part of {master}"),
            Self::Up { interface } => write!(f, "{interface} is up"),
            Self::VirtualFunctions { count } => write!(f, "it has {count} virtual functions"),
        }
    }
}

/// A mounted filesystem, from `/proc/self/mountinfo`.
struct Mount {
    /// `259:1`, or a number of the filesystem's own (btrfs).
    device: String,
    at: String,
    source: String,
}

/// What is mounted, swapped to, routed and open at this moment.
pub(super) struct Usage {
    mounts: Vec<Mount>,
    swaps: Vec<String>,
    routes: Vec<Route>,
    pub(super) openers: Openers,
    /// Members of btrfs filesystems of several devices: node, filesystem.
    btrfs: Vec<(String, String)>,
}

impl Sysfs {
    /// Reads what all devices are used for.
    pub(super) fn usage(&self) -> Usage {
        Usage {
            mounts: self.mounts(),
            swaps: self.swaps(),
            routes: self.routes(),
            openers: self.openers(),
            btrfs: self.btrfs(),
        }
    }

    fn mounts(&self) -> Vec<Mount> {
        let text = tree::text(&self.path("proc/self/mountinfo")).unwrap_or_default();
        let mount = |line: &str| {
            let (before, after) = line.split_once(" - ")?;
            let fields: Vec<&str> = before.split(' ').collect();
            Some(Mount {
                device: (*fields.get(2)?).to_owned(),
                at: unescape(fields.get(4)?),
                source: self.node(&unescape(after.split(' ').nth(1)?)),
            })
        };
        text.lines().filter_map(mount).collect()
    }

    fn swaps(&self) -> Vec<String> {
        let text = tree::text(&self.path("proc/swaps")).unwrap_or_default();
        let file = |line: &str| Some(self.node(&unescape(line.split_whitespace().next()?)));
        text.lines().skip(1).filter_map(file).collect()
    }

    fn btrfs(&self) -> Vec<(String, String)> {
        let mut members = Vec::new();
        for filesystem in tree::entries(&self.path("sys/fs/btrfs")) {
            let devices = self.path(format!("sys/fs/btrfs/{filesystem}/devices"));
            for node in tree::entries(&devices) {
                members.push((node, filesystem.clone()));
            }
        }
        members
    }

    /// The node's name behind a path: `/dev/disk/by-uuid/..` and
    /// `/dev/mapper/..` are links.
    fn node(&self, path: &str) -> String {
        let Some(below) = path.strip_prefix("/dev/") else {
            return String::new();
        };
        let real = fs::canonicalize(self.path("dev").join(below)).ok();
        let name = real.as_deref().and_then(|real| real.file_name());
        name.map_or_else(|| below.to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// What the things that Linux `named` on a PCI function are used for.
    pub(super) fn uses(&self, address: PciAddress, named: &[Named], usage: &Usage) -> Vec<Use> {
        let mut uses = Vec::new();
        for device in named {
            match device.kind {
                Kind::Net => self.interface_uses(&device.name, usage, &mut uses),
                Kind::Disk | Kind::Partition => self.disk_uses(&device.name, usage, &mut uses),
                Kind::Nvme => open_uses(&device.name, usage, &mut uses),
            }
        }
        let count = tree::decimal(&self.device_folder(address).join("sriov_numvfs"));
        if let Some(count @ 1..) = count {
            uses.push(Use::VirtualFunctions { count });
        }
        uses
    }

    fn disk_uses(&self, name: &str, usage: &Usage, uses: &mut Vec<Use>) {
        let folder = self.path(format!("sys/class/block/{name}"));
        let node = || name.to_owned();
        let known = uses.len();
        if let Some(number) = tree::text(&folder.join("dev")) {
            for mount in &usage.mounts {
                if mount.device == number || mount.source == name {
                    let at = mount.at.clone();
                    uses.push(Use::Mounted { node: node(), at });
                }
            }
        }
        if usage.swaps.iter().any(|swap| swap == name) {
            uses.push(Use::Swap { node: node() });
        }
        for holder in tree::entries(&folder.join("holders")) {
            let volume = self.volume(&holder);
            uses.push(Use::PartOf { node: node(), volume });
        }
        for (member, filesystem) in &usage.btrfs {
            if member == name && uses.len() == known {
                let volume = format!("{filesystem} (btrfs)");
                uses.push(Use::PartOf { node: node(), volume });
            }
        }
        open_uses(name, usage, uses);
    }

    /// A volume as people know it: `md0 (RAID)`, `dm-0 (LVM, vg-root)`.
    fn volume(&self, holder: &str) -> String {
        let folder = self.path(format!("sys/class/block/{holder}"));
        if folder.join("md").exists() {
            return format!("{holder} (RAID)");
        }
        let Some(name) = tree::text(&folder.join("dm/name")) else {
            return holder.to_owned();
        };
        let identity = tree::text(&folder.join("dm/uuid")).unwrap_or_default();
        let kind = match identity.split('-').next() {
            Some("LVM") => "LVM, ",
            Some("CRYPT") => "encrypted, ",
            _ => "",
        };
        format!("{holder} ({kind}{name})")
    }

    fn interface_uses(&self, name: &str, usage: &Usage, uses: &mut Vec<Use>) {
        let folder = self.path(format!("sys/class/net/{name}"));
        let interface = || name.to_owned();
        for route in &usage.routes {
            let found =
                Use::Route { interface: interface(), destination: route.destination.clone() };
            // The default routes of IPv4 and IPv6 read the same.
            if route.interface == name && !uses.contains(&found) {
                uses.push(found);
            }
        }
        let mut masters: Vec<String> =
            tree::link_name(&folder.join("master")).into_iter().collect();
        for entry in tree::entries(&folder) {
            if let Some(upper) = entry.strip_prefix("upper_")
                && !masters.iter().any(|master| master == upper)
            {
                masters.push(upper.to_owned());
            }
        }
        for master in masters {
            uses.push(Use::Enslaved { interface: interface(), master });
        }
        // IFF_UP of Linux's if.h.
        if tree::hex(&folder.join("flags")).is_some_and(|flags| flags & 1 != 0) {
            uses.push(Use::Up { interface: interface() });
        }
    }

    /// Disks that the kernel has claimed for whoever does not show in `uses`.
    ///
    /// An exclusive open fails while anything has claimed the disk or a
    /// partition of it. It writes nothing.
    pub(super) fn claims(&self, named: &[Named]) -> Vec<Use> {
        let disks = named.iter().filter(|device| device.kind == Kind::Disk);
        disks
            .filter(|disk| self.is_claimed(&disk.name))
            .map(|disk| Use::Claimed { node: disk.name.clone() })
            .collect()
    }

    fn is_claimed(&self, name: &str) -> bool {
        let path = self.path(format!("dev/{name}"));
        let block = fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_block_device());
        if !block {
            return false;
        }
        let opened = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_EXCL | libc::O_NONBLOCK)
            .open(path);
        opened.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
    }
}

fn open_uses(name: &str, usage: &Usage, uses: &mut Vec<Use>) {
    for opener in usage.openers.get(name).into_iter().flatten() {
        uses.push(Use::Open {
            node: name.to_owned(),
            process: opener.process,
            program: opener.program.clone(),
        });
    }
}

/// Blanks, tabs, newlines and backslashes stand as `\040`, `\011`, `\012`,
/// `\134` in the kernel's tables.
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let octal = rest.get(at + 1..at + 4);
        let byte = octal.and_then(|octal| u8::from_str_radix(octal, 8).ok());
        match byte {
            Some(byte) if byte.is_ascii() => {
                text.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            _ => {
                text.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
#[path = "usage/tests.rs"]
mod tests;
