//! The guest's first file system: busybox, the few modules that the boot
//! needs, and the command to run. It is built in memory for each boot.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Options;
use super::kernel::Kernel;

/// Loaded before the command runs, each with what it depends on. All others
/// are there for `modprobe`.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "nvme",
    "vfio-pci",
    "vfio_iommu_type1",
    "e1000e",
];

/// Mounts the machine's root and switches to it.
const INIT: &str = include_str!("init.sh");
/// Runs the command there and reports.
const SESSION: &str = include_str!("session.sh");

/// The archive for `-initrd`.
pub(crate) fn build(kernel: &Kernel, options: &Options, writable: &[PathBuf]) -> Result<Vec<u8>> {
    let busybox = super::program("busybox")?;
    let mut archive = Archive::default();
    for folder in ["bin", "proc", "sys", "dev", "host", "rw", "sysroot", "vm", "modules"] {
        archive.folder(folder);
    }
    let binary = fs::read(&busybox).with_context(|| format!("reading {}", busybox.display()))?;
    archive.file("bin/busybox", 0o755, &binary);
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("vm/session", 0o755, SESSION.as_bytes());
    archive.file("vm/command", 0o755, &command_script(options)?);
    archive.file("vm/settings", 0o644, &settings(kernel, options, writable));

    let mut order = String::new();
    for path in load_order(&kernel.modules, MODULES)? {
        let name = path
            .file_name()
            .and_then(OsStr::to_str)
            .and_then(|name| name.split(".ko").next())
            .context("a module without a name")?;
        archive.file(
            &format!("modules/{name}.ko"),
            0o644,
            &uncompressed(&busybox, &kernel.modules.join(&path))?,
        );
        writeln!(order, "{name}.ko")?;
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive.finish())
}

/// What the guest's scripts need to know, as shell assignments.
fn settings(kernel: &Kernel, options: &Options, writable: &[PathBuf]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut set = |name: &str, value: &OsStr| {
        text.extend_from_slice(name.as_bytes());
        text.push(b'=');
        text.extend(quoted(value));
        text.push(b'\n');
    };
    set("modules", kernel.modules.as_os_str());
    set("hugepages", OsStr::new(&options.hugepages.to_string()));
    set("writable_count", OsStr::new(&writable.len().to_string()));
    for (index, folder) in writable.iter().enumerate() {
        set(&format!("writable_{index}"), folder.as_os_str());
    }
    text
}

/// The command with the caller's folder and environment.
fn command_script(options: &Options) -> Result<Vec<u8>> {
    let folder = std::env::current_dir().context("finding the current folder")?;
    let mut script = b"cd ".to_vec();
    script.extend(quoted(folder.as_os_str()));
    script.extend_from_slice(b" || exit 126\n");
    for (name, value) in std::env::vars_os() {
        // A shell exports only what it can name.
        let name = name.as_bytes();
        let plain = name.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if plain && name.first().is_some_and(|byte| !byte.is_ascii_digit()) {
            script.extend_from_slice(b"export ");
            script.extend_from_slice(name);
            script.push(b'=');
            script.extend(quoted(&value));
            script.push(b'\n');
        }
    }
    // The command runs as root, whoever called.
    script.extend_from_slice(b"export UNIDDRV_VM=1 PATH=\"$PATH:/usr/sbin:/sbin\"\nexec");
    for word in &options.command {
        script.push(b' ');
        script.extend(quoted(word));
    }
    script.push(b'\n');
    Ok(script)
}

/// `text` as one word of a shell script.
fn quoted(text: &OsStr) -> Vec<u8> {
    let mut word = vec![b'\''];
    for &byte in text.as_bytes() {
        if byte == b'\'' {
            word.extend_from_slice(b"'\\''");
        } else {
            word.push(byte);
        }
    }
    word.push(b'\'');
    word
}

/// The files of `names` and of all they depend on, in the order to load them.
/// What is built into the kernel has no file.
fn load_order(modules: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let read = |name: &str| {
        let path = modules.join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    resolve(&read("modules.dep")?, &read("modules.builtin")?, names)
}

fn resolve(dependencies: &str, builtin: &str, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = HashMap::new();
    for line in dependencies.lines() {
        if let Some((file, needs)) = line.split_once(':') {
            files.insert(module_name(file), (file, needs));
        }
    }
    let mut order: Vec<PathBuf> = Vec::new();
    for name in names {
        let Some((file, needs)) = files.get(&name.replace('-', "_")) else {
            if builtin.lines().any(|line| module_name(line) == name.replace('-', "_")) {
                continue;
            }
            bail!("the kernel has no module {name}");
        };
        // depmod lists the deepest dependency last.
        for needed in needs.split_whitespace().rev().chain([*file]) {
            if !order.iter().any(|known| known == Path::new(needed)) {
                order.push(PathBuf::from(needed));
            }
        }
    }
    Ok(order)
}

fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

fn uncompressed(busybox: &Path, module: &Path) -> Result<Vec<u8>> {
    let extension = module.extension().and_then(OsStr::to_str).unwrap_or_default();
    let applet = match extension {
        "ko" => {
            return fs::read(module).with_context(|| format!("reading {}", module.display()));
        }
        "xz" => "xzcat",
        "gz" => "zcat",
        _ => bail!("{}: a compression that is not known", module.display()),
    };
    let output = Command::new(busybox)
        .arg(applet)
        .arg(module)
        .output()
        .with_context(|| format!("running busybox {applet}"))?;
    if !output.status.success() {
        bail!(
            "busybox {applet} {}: {}",
            module.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

/// A cpio archive in the "newc" format, the one that Linux unpacks
/// (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | permissions, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // Magic, inode, mode, uid, gid, links, mtime, size, four device
        // numbers, length of the name with its zero, checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            content.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_before_what_needs_them() {
        let dependencies = "\
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs/netfs.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/drivers/vfio/pci/vfio-pci.ko.xz:
";
        let builtin = "kernel/drivers/virtio/virtio_pci.ko\n";
        let order = resolve(dependencies, builtin, &["virtio_pci", "9p", "9pnet", "vfio-pci"]);
        assert_eq!(
            order.unwrap(),
            [
                "kernel/fs/netfs/netfs.ko.xz",
                "kernel/net/9p/9pnet.ko.xz",
                "kernel/fs/9p/9p.ko.xz",
                "kernel/drivers/vfio/pci/vfio-pci.ko.xz",
            ]
            .map(PathBuf::from)
        );
        assert!(resolve(dependencies, builtin, &["e1000e"]).is_err());
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for text in ["", "plain", "two words", "it's", "$HOME `x` \\ \"y\"", "a\nb"] {
            let mut script = b"printf %s ".to_vec();
            script.extend(quoted(OsStr::new(text)));
            let output =
                Command::new("sh").arg("-c").arg(OsStr::from_bytes(&script)).output().unwrap();
            assert_eq!(output.stdout, text.as_bytes());
        }
    }

    #[test]
    fn the_archive_has_the_layout_of_newc() {
        let mut archive = Archive::default();
        archive.file("ab", 0o755, b"hello");
        let bytes = archive.finish();
        // 110 bytes of header, name and zero padded to 116, content to 124.
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000081ed");
        assert_eq!(&bytes[54..62], b"00000005");
        assert_eq!(&bytes[94..102], b"00000003");
        assert_eq!(&bytes[110..124], b"ab\0\0\0\0hello\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
