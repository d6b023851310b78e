//! The layers of the sandbox, and what to do where one cannot be had.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A layer of the sandbox. Most attacks are stopped by more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layer {
    /// A user namespace: no capability counts outside of it.
    Users,
    /// A PID namespace: no other process has a number.
    Processes,
    /// A mount namespace.
    Mounts,
    /// A network namespace: no network device, no port, no abstract socket.
    Network,
    /// An IPC namespace: no System V or POSIX message queue or shared memory.
    Ipc,
    /// A UTS namespace: no host name.
    HostName,
    /// A cgroup namespace: no view of the machine's groups.
    Cgroups,
    /// An empty file system that cannot be written.
    EmptyRoot,
    /// A user of its own.
    Identity,
    /// No capability at all, and none to be had.
    Capabilities,
    /// Landlock: no file, no port, no signal or abstract socket across its border.
    Landlock,
    /// seccomp: a list of the system calls that a polling driver needs.
    SystemCalls,
    /// Limits on memory, files and processes.
    Limits,
    /// As much locked memory as it is to have.
    LockedMemory,
    /// The CPU that it is to run on.
    Cpu,
    /// SCHED_FIFO.
    Fifo,
}

impl Layer {
    fn name(self) -> &'static str {
        match self {
            Self::Users => "no user namespace of its own",
            Self::Processes => "no PID namespace of its own",
            Self::Mounts => "no mount namespace of its own",
            Self::Network => "no network namespace of its own",
            Self::Ipc => "no IPC namespace of its own",
            Self::HostName => "no UTS namespace of its own",
            Self::Cgroups => "no cgroup namespace of its own",
            Self::EmptyRoot => "no empty file system",
            Self::Identity => "no user of its own",
            Self::Capabilities => "capabilities are left",
            Self::Landlock => "no Landlock",
            Self::SystemCalls => "system calls are not filtered",
            Self::Limits => "resources are not limited",
            Self::LockedMemory => "too little locked memory",
            Self::Cpu => "not on its CPU",
            Self::Fifo => "not under SCHED_FIFO",
        }
    }

    /// What can be done about it.
    pub fn mend(self) -> &'static str {
        match self {
            Self::Users => {
                "allow user namespaces: `sysctl user.max_user_namespaces=1000`, on Debian also \
                 `sysctl kernel.unprivileged_userns_clone=1`, on Ubuntu also `sysctl \
                 kernel.apparmor_restrict_unprivileged_userns=0`; in a container, a seccomp \
                 profile that allows clone and unshare; not inside a chroot"
            }
            Self::Processes
            | Self::Mounts
            | Self::Network
            | Self::Ipc
            | Self::HostName
            | Self::Cgroups => {
                "allow namespaces: `sysctl user` shows how many; in a container, give it \
                 CAP_SYS_ADMIN or a seccomp profile that allows unshare"
            }
            Self::EmptyRoot => {
                "let the container mount (AppArmor and SELinux profiles may forbid it); an \
                 initramfs has to be left with switch_root first"
            }
            Self::Identity => "run the core as root with CAP_SETUID and CAP_SETGID",
            Self::Capabilities => "give the core CAP_SETPCAP",
            Self::Landlock => "boot a kernel with CONFIG_SECURITY_LANDLOCK and `landlock` in lsm=",
            Self::SystemCalls => "boot a kernel with CONFIG_SECCOMP_FILTER",
            Self::Limits => "let the core lower its limits: a container may forbid prlimit",
            Self::LockedMemory => {
                "raise it: LimitMEMLOCK=infinity for a service, `ulimit -l` for a shell, or give \
                 the core CAP_SYS_RESOURCE"
            }
            Self::Cpu => "name a CPU that the core itself may run on: `taskset -p` shows them",
            Self::Fifo => "give the core CAP_SYS_NICE, or LimitRTPRIO= for a service",
        }
    }
}

/// A layer that could not be had, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Which.
    pub layer: Layer,
    /// What the system said.
    pub reason: String,
}

impl Missing {
    pub(super) fn new(layer: Layer, reason: impl fmt::Display) -> Self {
        Self { layer, reason: reason.to_string() }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.layer.name(), self.reason, self.layer.mend())
    }
}
