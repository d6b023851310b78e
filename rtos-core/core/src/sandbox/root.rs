//! An empty file system for a root.

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};

/// Makes an empty file system that cannot be written this process's root, in its own mount
/// namespace, and lets go of the old one.
///
/// # Errors
/// Which step failed, and how.
pub(super) fn leave() -> Result<(), (&'static str, Errno)> {
    let at = |step| move |error| (step, error);
    // Without a user namespace of its own, the machine's mount namespace would see what is
    // mounted here.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(at("making mounts private"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // /proc is where the launcher itself came from, so it is there.
    let options = c"size=4k,nr_inodes=1,mode=0555";
    mount("none", "/proc", "tmpfs", flags, options).map_err(at("mounting an empty file system"))?;
    chdir("/proc").map_err(at("entering it"))?;
    // The old root ends up on top of the new one, from where it is taken away.
    pivot_root(".", ".").map_err(at("pivot_root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(at("unmounting the old root"))?;
    chdir("/").map_err(at("entering the new root"))?;
    mount_remount("/", flags | MountFlags::RDONLY, c"").map_err(at("making it read-only"))
}
