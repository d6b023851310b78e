//! Programs in other places.

use std::path::Path;
use std::process::Command;

/// Copies the program `from` to `to`, where everybody may execute it at once.
///
/// Another process does it: what this one has open for writing, a process that another thread is
/// starting has open too for a moment, and Linux does not execute a file that is open for writing.
///
/// # Panics
/// When that fails.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let mut install = Command::new("install");
    install.args(["--mode=755", "--"]).arg(from.as_ref()).arg(to.as_ref());
    assert!(install.status().expect("install runs").success(), "{install:?}");
}
