//! What a configuration is checked against: the CPUs, users and folders of a machine.

use std::fs;
use std::path::{Path, PathBuf};

use uniddrv::address::ModelAddress;

use super::accounts::Accounts;
use crate::cpus::Cpus;

/// The machine, as far as a configuration depends on it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The CPUs that there are.
    pub online: Cpus,
    /// Those that drivers may be put on.
    pub allowed: Cpus,
    /// Users and groups.
    pub accounts: Accounts,
    /// The user that runs the core.
    pub uid: u32,
    /// `XDG_RUNTIME_DIR`: where a user's sockets go.
    pub runtime_folder: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`, or `.config` of the home: where a user's configuration is.
    pub config_folder: Option<PathBuf>,
    /// Where the running program is.
    pub program_folder: PathBuf,
    /// What is wrong with a model's address. The models know; the core does not.
    pub check_model: fn(&ModelAddress) -> Result<(), String>,
}

impl Machine {
    /// The machine whose tree (`sys`, `proc`, `etc`) is below `root`. What cannot be read counts
    /// as empty.
    ///
    /// `partition` are the CPUs of a partition that this core or an earlier one made: they are
    /// missing from what Linux allows everybody else.
    pub fn read(
        root: &Path,
        partition: &Cpus,
        check_model: fn(&ModelAddress) -> Result<(), String>,
    ) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let cpus = |path: &str| text(path).parse::<Cpus>().unwrap_or_default();
        let variable = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute())
        };
        let online = cpus("sys/devices/system/cpu/online");
        // CPUs that were isolated at boot are in nobody's mask and yet free to use.
        let isolated = cpus("sys/devices/system/cpu/isolated");
        let allowed = status_cpus(&text("proc/self/status"));
        let allowed = allowed.union(&isolated).union(partition).common(&online);
        Self {
            online,
            allowed,
            accounts: Accounts::parse(&text("etc/passwd"), &text("etc/group")),
            uid: rustix::process::geteuid().as_raw(),
            runtime_folder: variable("XDG_RUNTIME_DIR"),
            config_folder: variable("XDG_CONFIG_HOME")
                .or_else(|| variable("HOME").map(|home| home.join(".config"))),
            program_folder: std::env::current_exe()
                .ok()
                .and_then(|program| program.parent().map(Path::to_owned))
                .unwrap_or_default(),
            check_model,
        }
    }

    /// Where the core listens unless it is told otherwise: `/run/uniddrv` for root, else the
    /// user's runtime folder, or one of their own below `/tmp`.
    pub fn socket(&self) -> PathBuf {
        match &self.runtime_folder {
            _ if self.uid == 0 => PathBuf::from("/run/uniddrv/core.sock"),
            Some(folder) => folder.join("uniddrv/core.sock"),
            None => PathBuf::from(format!("/tmp/uniddrv-{}/core.sock", self.uid)),
        }
    }

    /// Where the configuration is looked for: `/etc/uniddrv/core.toml` for root, else
    /// `uniddrv/core.toml` in the user's folder of configurations.
    pub fn config_path(&self) -> PathBuf {
        match &self.config_folder {
            Some(folder) if self.uid != 0 => folder.join("uniddrv/core.toml"),
            _ => PathBuf::from("/etc/uniddrv/core.toml"),
        }
    }
}

/// The CPUs that `/proc/PID/status` lists as allowed. proc_pid_status(5).
fn status_cpus(status: &str) -> Cpus {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.and_then(|list| list.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_machine_is_read() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "sys/devices/system/cpu/online", "0-7\n");
        write(root, "sys/devices/system/cpu/isolated", "6\n");
        write(root, "proc/self/status", "Name:\tx\nCpus_allowed:\t7\nCpus_allowed_list:\t0-2,9\n");
        write(root, "etc/passwd", "ann:x:1000:100:::\n");
        let machine = Machine::read(root, &"4".parse().unwrap(), |_| Ok(()));
        assert_eq!(machine.online.to_string(), "0-7");
        assert_eq!(machine.allowed.to_string(), "0-2,4,6");
        assert_eq!(machine.accounts.uid("ann"), Some(1000));
    }

    #[test]
    fn socket_and_configuration_are_where_their_user_looks() {
        let root = tempfile::tempdir().unwrap();
        let mut machine = Machine::read(root.path(), &Cpus::new(), |_| Ok(()));
        machine.runtime_folder = Some("/run/user/7".into());
        machine.config_folder = Some("/h/.config".into());
        machine.uid = 0;
        assert_eq!(machine.socket(), Path::new("/run/uniddrv/core.sock"));
        assert_eq!(machine.config_path(), Path::new("/etc/uniddrv/core.toml"));
        machine.uid = 7;
        assert_eq!(machine.socket(), Path::new("/run/user/7/uniddrv/core.sock"));
        assert_eq!(machine.config_path(), Path::new("/h/.config/uniddrv/core.toml"));
        machine.runtime_folder = None;
        assert_eq!(machine.socket(), Path::new("/tmp/uniddrv-7/core.sock"));
    }
}
