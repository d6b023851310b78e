//! Where the core's socket is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The environment variable that names the core's socket.
pub(super) const VARIABLE: &str = "UNIDDRV_CORE";

/// Where the core listens, and its clients look for it:
///
/// 1. the file that the environment variable `UNIDDRV_CORE` names;
/// 2. `/run/uniddrv/core.sock` for root, and for others where it exists;
/// 3. `$XDG_RUNTIME_DIR/uniddrv/core.sock`;
/// 4. `/tmp/uniddrv-UID/core.sock`.
pub fn socket_path() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    choose(uid, |name| std::env::var_os(name), Path::exists)
}

fn choose(
    uid: u32,
    variable: impl Fn(&str) -> Option<OsString>,
    exists: impl Fn(&Path) -> bool,
) -> PathBuf {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set(VARIABLE) {
        return path;
    }
    let system = PathBuf::from("/run/uniddrv/core.sock");
    if uid == 0 || exists(&system) {
        return system;
    }
    match set("XDG_RUNTIME_DIR") {
        Some(directory) => directory.join("uniddrv/core.sock"),
        None => format!("/tmp/uniddrv-{uid}/core.sock").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_applies() {
        let path = |uid, set: &[(&str, &str)], system: bool| {
            let variable = |name: &str| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
            };
            choose(uid, variable, |_| system).display().to_string()
        };
        let runtime = ("XDG_RUNTIME_DIR", "/run/user/7");
        assert_eq!(path(0, &[(VARIABLE, "/x"), runtime], true), "/x");
        assert_eq!(path(0, &[runtime], false), "/run/uniddrv/core.sock");
        assert_eq!(path(7, &[runtime], true), "/run/uniddrv/core.sock");
        assert_eq!(path(7, &[runtime], false), "/run/user/7/uniddrv/core.sock");
        assert_eq!(path(7, &[(VARIABLE, "")], false), "/tmp/uniddrv-7/core.sock");
    }
}
