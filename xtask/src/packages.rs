//! Debian packages that a task needs: installed when root, else the exact
//! line to type is given.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Which of `packages` are not installed.
pub(crate) fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .stderr(Stdio::null())
        .output()
        .context("running dpkg-query: this task needs Debian or a system made from it")?;
    Ok(not_installed(packages, &String::from_utf8_lossy(&output.stdout)))
}

/// Has `packages` installed, or says what to type.
///
/// Nothing that is installed is ever removed. Where a package of QEMU's from
/// another release stands in the way, it is moved to the release of the rest.
pub(crate) fn ensure(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let mut arguments = plan(&missing);
    if !rustix::process::geteuid().is_root() {
        bail!(
            "packages are missing: {}\nrun: sudo apt-get update && sudo apt-get {}",
            missing.join(" "),
            arguments.join(" ")
        );
    }
    eprintln!("installing {}", missing.join(" "));
    if !apt_get(&arguments)? {
        // Old lists name files that the archive no longer has.
        eprintln!("bringing apt's lists up to date");
        apt_get(&["update"])?;
        arguments = plan(&missing);
        if !apt_get(&arguments)? {
            bail!("this did not work: apt-get {}", arguments.join(" "));
        }
    }
    Ok(())
}

/// Runs apt-get with everything it says on stderr: stdout belongs to the
/// command that the user runs.
pub(crate) fn apt_get(arguments: &[impl AsRef<OsStr>]) -> Result<bool> {
    let status = Command::new("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::from(io::stderr()))
        .status()
        .context("running apt-get")?;
    Ok(status.success())
}

/// The arguments of apt-get that install `packages` and remove nothing.
fn plan(packages: &[&str]) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut arguments = words(&["install", "-y", "--no-install-recommends", "--no-remove"]);
    let offered = query("apt-cache", &["madison", "qemu-system-x86"]);
    if let Some(suite) = packages
        .iter()
        .any(|package| package.starts_with("qemu-"))
        .then(|| backports(&offered))
        .flatten()
    {
        arguments.extend(["-t".to_owned(), suite]);
    }
    arguments.extend(words(packages));
    if simulates(&arguments) {
        return arguments;
    }
    // qemu-utils of a later release refuses to stand beside an earlier
    // qemu-system-x86, and apt's own answer would be to remove it.
    let installed = query("dpkg-query", &["-W", "-f", "${db:Status-Status}", "qemu-utils"]);
    if installed == "installed"
        && let Some(version) = first_version(&offered)
    {
        let mut matched = arguments.clone();
        matched.push("--allow-downgrades".to_owned());
        matched.push(format!("qemu-utils={version}"));
        if simulates(&matched) {
            eprintln!("qemu-utils moves to version {version}, the one that fits the rest of QEMU");
            return matched;
        }
    }
    arguments
}

fn simulates(arguments: &[String]) -> bool {
    Command::new("apt-get")
        .arg("--simulate")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// What `program` prints, or nothing where it cannot be run.
pub(crate) fn query(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

fn not_installed<'a>(packages: &[&'a str], listing: &str) -> Vec<&'a str> {
    packages
        .iter()
        .filter(|package| {
            !listing.lines().any(|line| line.strip_suffix(" installed") == Some(package))
        })
        .copied()
        .collect()
}

/// The backports suite in a listing of `apt-cache madison`, if there is one:
/// `qemu-system-x86 | VERSION | URI SUITE/main amd64 Packages`.
fn backports(madison: &str) -> Option<String> {
    madison.lines().find_map(|line| {
        line.split_whitespace()
            .filter_map(|word| word.split('/').next())
            .find(|suite| suite.ends_with("-backports"))
            .map(str::to_owned)
    })
}

/// The version that apt lists first, which is its candidate.
fn first_version(madison: &str) -> Option<&str> {
    madison.lines().next()?.split('|').nth(1).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADISON: &str = "\
qemu-system-x86 | 1:10.0.2+ds-2~bpo12+1 | http://deb.debian.org/debian bookworm-backports/main amd64 Packages
qemu-system-x86 | 1:7.2+dfsg-7 | http://deb.debian.org/debian bookworm/main amd64 Packages
";

    #[test]
    fn backports_are_found_in_the_listing() {
        assert_eq!(backports(MADISON).as_deref(), Some("bookworm-backports"));
        let plain = MADISON.lines().last().unwrap();
        assert_eq!(backports(plain), None);
        assert_eq!(first_version(plain), Some("1:7.2+dfsg-7"));
        assert_eq!(first_version(""), None);
    }

    #[test]
    fn a_package_that_was_removed_counts_as_missing() {
        let listing = "kmod installed\ncpio config-files\n";
        assert_eq!(not_installed(&["kmod", "cpio", "fio"], listing), ["cpio", "fio"]);
    }
}
