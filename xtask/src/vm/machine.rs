//! QEMU: its devices, its command line and its process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tempfile::TempDir;

use super::Options;
use super::kernel::Kernel;

/// Size of each namespace that keeps data: only what is written takes memory.
const DATA_BYTES: u64 = 1 << 30;

/// What QEMU writes down of its NVMe controllers: writes to Controller
/// Configuration, where CC.EN is, and resets of the function.
const TRACED: &[&str] = &["pci_nvme_mmio_cfg", "pci_nvme_pci_reset"];

/// Size of the drive that keeps nothing.
const NULL_BYTES: u64 = 64 << 30;

/// A running QEMU and our ends of the guest's serial lines.
pub(crate) struct Machine {
    /// With its stderr still in it.
    pub(crate) qemu: Child,
    pub(crate) console: UnixStream,
    pub(crate) out: UnixStream,
    pub(crate) err: UnixStream,
    pub(crate) status: UnixStream,
    /// What QEMU writes down, for the guest to read. Removed at the end.
    _trace: TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Starts the guest. The calling thread must live as long as QEMU should:
/// QEMU is killed when it ends.
pub(crate) fn start(
    options: &Options,
    kernel: &Kernel,
    initramfs: &[u8],
    writable: &[PathBuf],
) -> Result<Machine> {
    let mut line = Line::default();
    base(&mut line, options);
    boot(&mut line, options, kernel, initramfs)?;
    share(&mut line, "host", Path::new("/"), true);
    for (index, folder) in writable.iter().enumerate() {
        share(&mut line, &format!("writable{index}"), folder, false);
    }
    let console = line.channel("console")?;
    line.pair("-serial", "chardev:console");
    line.pair("-device", "virtio-serial-pci");
    let mut port = |name: &str| -> Result<UnixStream> {
        let stream = line.channel(name)?;
        line.pair("-device", format!("virtserialport,chardev={name},name={name}"));
        Ok(stream)
    };
    let (out, err, status) = (port("out")?, port("err")?, port("status")?);
    devices(&mut line)?;
    let trace = trace(&mut line)?;
    line.words.extend(options.qemu_arg.iter().cloned());

    // setpriv, and not a hook between fork and exec, asks for QEMU's death
    // with its parent: the hook would need unsafe code.
    let qemu = Command::new(super::program("setpriv")?)
        .args(["--pdeathsig", "KILL", "--"])
        .arg(super::program("qemu-system-x86_64")?)
        .args(&line.words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting QEMU")?;
    // Our copies of QEMU's ends close here, so that a line ends with QEMU.
    drop(line);
    Ok(Machine { qemu, console, out, err, status, _trace: trace })
}

/// Processors, memory and the IOMMU, which must come before the devices that
/// it translates for.
fn base(line: &mut Line, options: &Options) {
    line.words.push("-nodefaults".into());
    line.words.push("-no-reboot".into());
    line.pair("-display", "none");
    line.pair("-machine", "q35,kernel-irqchip=split");
    if options.accel == "kvm" {
        line.pair("-accel", "kvm");
        line.pair("-cpu", "host");
    } else {
        line.pair("-accel", "tcg,thread=multi");
        line.pair("-cpu", "max");
    }
    line.pair("-smp", options.cpus.to_string());
    line.pair("-m", &options.memory);
    line.pair("-device", "intel-iommu,intremap=on,caching-mode=on,aw-bits=48");
}

fn boot(line: &mut Line, options: &Options, kernel: &Kernel, initramfs: &[u8]) -> Result<()> {
    let (memory, descriptor) = line.memory("initramfs")?;
    File::from(memory).write_all(initramfs).context("writing the guest's first file system")?;
    line.pair("-kernel", kernel.image.as_os_str());
    line.pair("-initrd", format!("/dev/fd/{descriptor}"));
    // A panic reboots, which -no-reboot turns into an end. On a busy machine Linux's test of the
    // timer's interrupt finds it too slow, and panics.
    let mut words =
        "console=ttyS0 panic=-1 no_timer_check intel_iommu=on mitigations=off".to_owned();
    if !options.verbose {
        words.push_str(" quiet");
    }
    for word in &options.kernel_arg {
        words.push(' ');
        words.push_str(word);
    }
    line.pair("-append", words);
    Ok(())
}

/// A folder of this machine, offered to the guest under `tag`.
fn share(line: &mut Line, tag: &str, folder: &Path, readonly: bool) {
    let mut option = OsString::from("local,path=");
    option.push(doubled_commas(folder.as_os_str()));
    option.push(format!(
        ",mount_tag={tag},security_model=none,multidevs=remap{}",
        if readonly { ",readonly=on" } else { "" }
    ));
    line.pair("-virtfs", option);
}

/// Has QEMU write down what a driver does that tests are to see: the guest
/// reads it in the file `nvme` of the share `trace`.
fn trace(line: &mut Line) -> Result<TempDir> {
    let folder = tempfile::tempdir().context("making a folder for QEMU's trace")?;
    line.pair("-D", folder.path().join("nvme"));
    for event in TRACED {
        line.pair("-trace", event);
    }
    share(line, "trace", folder.path(), true);
    Ok(folder)
}

/// The devices that tests and benchmarks are about, at fixed addresses.
fn devices(line: &mut Line) -> Result<()> {
    line.pair("-device", "nvme,id=data,serial=uniddrv-data,addr=10.0");
    for (namespace, block) in [(1, 512), (2, 4096)] {
        let (memory, descriptor) = line.memory("namespace")?;
        File::from(memory).set_len(DATA_BYTES).context("sizing a drive in memory")?;
        line.pair("-add-fd", format!("fd={descriptor},set={namespace}"));
        line.pair(
            "-blockdev",
            format!(
                "driver=file,node-name=data{namespace},filename=/dev/fdset/{namespace},\
                 locking=off,discard=unmap"
            ),
        );
        line.pair(
            "-device",
            format!(
                "nvme-ns,bus=data,drive=data{namespace},nsid={namespace},shared=off,\
                 logical_block_size={block},physical_block_size={block}"
            ),
        );
    }
    line.pair("-blockdev", format!("driver=null-co,node-name=null,size={NULL_BYTES}"));
    line.pair("-device", "nvme,serial=uniddrv-null,drive=null,addr=11.0");
    line.pair("-device", "edu,addr=12.0");
    for (index, address) in [(0, "13.0"), (1, "14.0")] {
        line.pair("-netdev", format!("hubport,id=nic{index},hubid=0"));
        line.pair(
            "-device",
            format!("e1000e,netdev=nic{index},mac=52:54:00:00:00:0{index},addr={address}"),
        );
    }
    // Ports that do not keep what is behind them apart.
    for (index, address) in [(1, "15.0"), (2, "15.1")] {
        line.pair(
            "-device",
            format!(
                "pcie-root-port,id=port{index},chassis={index},port={index},addr={address},\
                 multifunction=on,disable-acs=on"
            ),
        );
        line.pair("-device", format!("e1000e,mac=52:54:00:00:01:0{index},bus=port{index}"));
    }
    Ok(())
}

/// QEMU's command line, with the descriptors that it names.
#[derive(Default)]
struct Line {
    words: Vec<OsString>,
    /// Not marked close-on-exec: QEMU inherits them under their numbers.
    inherited: Vec<OwnedFd>,
}

impl Line {
    fn pair(&mut self, option: &str, value: impl AsRef<OsStr>) {
        self.words.push(option.into());
        self.words.push(value.as_ref().to_owned());
    }

    /// A character device of QEMU's called `name`, and our end of it.
    fn channel(&mut self, name: &str) -> Result<UnixStream> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::empty(),
            None,
        )
        .context("making a line to QEMU")?;
        // Were QEMU to inherit our end, the line would never end.
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC)
            .context("keeping our end of a line to ourselves")?;
        self.pair("-chardev", format!("socket,id={name},fd={}", theirs.as_raw_fd()));
        self.inherited.push(theirs);
        Ok(UnixStream::from(ours))
    }

    /// A file in memory that QEMU inherits: a handle on it, and the number of
    /// the descriptor in QEMU.
    fn memory(&mut self, name: &str) -> Result<(OwnedFd, i32)> {
        let memory = rustix::fs::memfd_create(name, MemfdFlags::empty())
            .context("making a file in memory")?;
        let ours = memory.try_clone().context("duplicating a descriptor")?;
        let descriptor = memory.as_raw_fd();
        self.inherited.push(memory);
        Ok((ours, descriptor))
    }
}

/// QEMU's options end at a comma unless it is doubled.
fn doubled_commas(text: &OsStr) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = Vec::new();
    for &byte in text.as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_a_path_do_not_end_the_option() {
        assert_eq!(doubled_commas(OsStr::new("/a,b")), "/a,,b");
    }
}
