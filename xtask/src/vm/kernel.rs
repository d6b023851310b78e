//! The guest's kernel: a distribution's, fetched once and unpacked into a
//! cache folder. It is not installed on this machine.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::packages;

/// A kernel as unpacked from its package.
pub(crate) struct Kernel {
    /// What `uname -r` says in the guest.
    pub(crate) release: String,
    /// The compressed kernel.
    pub(crate) image: PathBuf,
    /// Its module tree, with `modules.dep` in it.
    pub(crate) modules: PathBuf,
}

/// The newest kernel in the cache; where there is none yet, the newest that
/// apt offers.
pub(crate) fn obtain() -> Result<Kernel> {
    let cache = cache_folder()?;
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    // Two tasks may start at once; the second waits for the first's download.
    let lock = File::create(cache.join("lock")).context("opening the cache's lock file")?;
    lock.lock().context("locking the kernel cache")?;
    match newest_cached(&cache)? {
        Some(kernel) => Ok(kernel),
        None => fetch(&cache),
    }
}

/// Whether a boot would need a download first.
pub(crate) fn is_cached() -> Result<bool> {
    let cache = cache_folder()?;
    Ok(cache.is_dir() && newest_cached(&cache)?.is_some())
}

fn cache_folder() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = set("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(folder).join("uniddrv/vm"));
    }
    let home = set("HOME").ok_or_else(|| {
        anyhow!("neither XDG_CACHE_HOME nor HOME is set: no place to keep the guest's kernel")
    })?;
    Ok(PathBuf::from(home).join(".cache/uniddrv/vm"))
}

fn newest_cached(cache: &Path) -> Result<Option<Kernel>> {
    let mut releases = Vec::new();
    for entry in fs::read_dir(cache).with_context(|| format!("reading {}", cache.display()))? {
        if let Some(release) =
            entry?.file_name().to_str().and_then(|name| name.strip_prefix("linux-"))
        {
            releases.push(release.to_owned());
        }
    }
    releases.sort_by_key(|release| numbers(release));
    Ok(releases.pop().map(|release| unpacked(&cache.join(format!("linux-{release}")), release)))
}

fn unpacked(folder: &Path, release: String) -> Kernel {
    let tree = |base: &str| folder.join(base).join("lib/modules").join(&release);
    // Debian 13's packages have the modules under /usr.
    let modules =
        [tree("usr"), tree("")].into_iter().find(|path| path.is_dir()).unwrap_or_else(|| tree(""));
    Kernel { image: folder.join(format!("boot/vmlinuz-{release}")), modules, release }
}

fn fetch(cache: &Path) -> Result<Kernel> {
    let work = cache.join("unpacking");
    if work.exists() {
        fs::remove_dir_all(&work).context("clearing an earlier, unfinished download")?;
    }
    fs::create_dir_all(&work)?;
    let release = download(&work)?;

    let archive = fs::read_dir(&work)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package behind")?;
    let root = work.join("root");
    run(Command::new("dpkg").arg("-x").arg(&archive).arg(&root))?;
    let kernel = unpacked(&root, release.clone());
    let base = kernel.modules.ancestors().nth(3).context("the module tree lies too high")?;
    run(Command::new(super::program("depmod")?).arg("-b").arg(base).arg(&release))?;

    let folder = cache.join(format!("linux-{release}"));
    fs::rename(&root, &folder)
        .with_context(|| format!("moving the kernel to {}", folder.display()))?;
    fs::remove_dir_all(&work).context("clearing the download")?;
    Ok(unpacked(&folder, release))
}

/// Downloads the newest kernel package into `folder`, and says its release.
fn download(folder: &Path) -> Result<String> {
    if let Some(release) = offered()
        && download_one(folder, &release)?
    {
        return Ok(release);
    }
    let root = rustix::process::geteuid().is_root();
    if root {
        packages::apt_get(&["update"])?;
        if let Some(release) = offered()
            && download_one(folder, &release)?
        {
            return Ok(release);
        }
    }
    bail!(
        "apt has no package linux-image-*-amd64-unsigned to boot in the virtual machine{}",
        if root { "" } else { "\nrun: sudo apt-get update" }
    )
}

fn download_one(folder: &Path, release: &str) -> Result<bool> {
    let package = format!("linux-image-{release}-unsigned");
    eprintln!("downloading {package} (once, about 100 MB)");
    let mut command = Command::new("apt-get");
    command.args(["-q", "download", &package]);
    if rustix::process::geteuid().is_root() {
        // apt's own user cannot write into the cache folder.
        command.args(["-o", "APT::Sandbox::User=root"]);
    }
    let status = command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .status()
        .context("running apt-get download")?;
    Ok(status.success())
}

fn offered() -> Option<String> {
    newest(&packages::query(
        "apt-cache",
        &["search", "--names-only", "^linux-image-[0-9].*-amd64-unsigned$"],
    ))
}

/// The newest plain kernel in a listing of `apt-cache search`: neither the
/// cloud flavour, which lacks drivers, nor the realtime one.
fn newest(listing: &str) -> Option<String> {
    listing
        .lines()
        .filter_map(|line| {
            line.split_whitespace().next()?.strip_prefix("linux-image-")?.strip_suffix("-unsigned")
        })
        .filter(|release| !release.contains("-cloud-") && !release.contains("-rt-"))
        .max_by_key(|release| numbers(release))
        .map(str::to_owned)
}

/// The numbers in a release's name, by which releases are ordered.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .status()
        .with_context(|| format!("running {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_is_chosen() {
        let listing = "\
linux-image-6.1.0-56-amd64-unsigned - Linux 6.1 for 64-bit PCs
linux-image-6.12.9+deb12-amd64-unsigned - Linux 6.12 for 64-bit PCs
linux-image-6.12.117+deb12-amd64-unsigned - Linux 6.12 for 64-bit PCs
linux-image-6.12.118+deb12-cloud-amd64-unsigned - Linux 6.12 for x86-64 cloud
linux-image-6.12.118+deb12-rt-amd64-unsigned - Linux 6.12, PREEMPT_RT
";
        assert_eq!(newest(listing).as_deref(), Some("6.12.117+deb12-amd64"));
        assert_eq!(newest(""), None);
    }
}
