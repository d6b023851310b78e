//! `cargo xtask vm -- COMMAND`: a command of this machine, run inside a
//! virtual machine that has what this one may lack: an IOMMU, VFIO, NVMe
//! drives and NICs to experiment with.
//!
//! The guest sees the machine's own files read-only, with a layer of memory
//! above that takes what it writes. Nothing is left behind on the disk: the
//! first file system, the drives and the lines to QEMU are all anonymous
//! memory and sockets, QEMU dies with this process, and its trace is in a
//! folder that is removed.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::packages;

mod initramfs;
mod kernel;
mod machine;
mod session;

use session::Outcome;

/// Exit status when the virtual machine itself could not do its work.
pub(crate) const FAILED: u8 = 125;
/// Exit status when the time was up, as timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// How often a guest whose kernel panics before it is up is started.
const BOOTS: u32 = 3;

/// What the virtual machine is made from.
const PACKAGES: &[&str] = &["qemu-system-x86", "busybox-static", "kmod"];

/// Options of `cargo xtask vm`.
#[derive(Args)]
#[command(after_help = "\
Devices in the guest, the first five each in an IOMMU group of its own:
  0000:00:10.0  nvme0, serial uniddrv-data: namespace 1 has blocks of 512
                bytes, namespace 2 of 4096, each 1 GiB of memory (which of
                them is nvme0n1 changes; sysfs has the nsid)
  0000:00:11.0  nvme1, serial uniddrv-null: 64 GiB that keep nothing
  0000:00:12.0  QEMU's edu device
  0000:00:13.0  e1000e NIC, on one hub with
  0000:00:14.0  e1000e NIC
  0000:01:00.0  e1000e NIC without a cable, in one IOMMU group with
  0000:02:00.0  e1000e NIC without a cable

What QEMU writes down of the NVMe controllers is in the guest's
/run/uniddrv-vm/trace/nvme: a line for each write to Controller Configuration
(pci_nvme_mmio_cfg) and each reset of the function (pci_nvme_pci_reset).

The command runs as root in the current folder with the current environment
and UNIDDRV_VM set; stdin is empty. Its exit status becomes this task's; 124 means that the
time was up, 125 that the virtual machine failed.")]
pub(crate) struct Options {
    /// Memory of the guest.
    #[arg(long, default_value = "3G", value_name = "SIZE")]
    memory: String,
    /// Processors of the guest.
    #[arg(long, default_value_t = 2, value_name = "COUNT")]
    cpus: u32,
    /// Huge pages of 2 MiB that the guest sets aside.
    #[arg(long, default_value_t = 256, value_name = "COUNT")]
    hugepages: u32,
    /// End the virtual machine after this time, the boot included.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout: u64,
    /// A folder that the guest may write to, mounted at the same path. May be
    /// given several times.
    #[arg(long, value_name = "DIR")]
    writable: Vec<PathBuf>,
    /// One more argument for QEMU. May be given several times.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    qemu_arg: Vec<OsString>,
    /// One more word on the guest kernel's command line. May be given several
    /// times.
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    kernel_arg: Vec<String>,
    /// How QEMU runs the guest: tcg is software emulation and works
    /// everywhere, kvm needs a working /dev/kvm.
    #[arg(long, default_value = "tcg", value_parser = ["tcg", "kvm"])]
    accel: String,
    /// Show the guest's console and how long the boot took, on stderr.
    #[arg(long)]
    verbose: bool,
    /// Run the command anew, in another guest, should QEMU crash meanwhile.
    #[arg(long)]
    again: bool,
    /// Only say whether everything that the virtual machine needs is here.
    #[arg(long)]
    check: bool,
    /// The command and its arguments.
    #[arg(last = true, required_unless_present = "check")]
    command: Vec<OsString>,
}

/// Boots, runs the command and gives its exit status.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.check {
        return check();
    }
    let writable =
        options.writable.iter().map(|folder| usable_folder(folder)).collect::<Result<Vec<_>>>()?;
    packages::ensure(PACKAGES)?;
    let kernel = kernel::obtain()?;
    let initramfs = initramfs::build(&kernel, options, &writable)?;
    let mut boots = 1;
    let (started, report) = loop {
        let started = Instant::now();
        let machine = machine::start(options, &kernel, &initramfs, &writable)?;
        let deadline = started + Duration::from_secs(options.timeout);
        let report = session::follow(machine, deadline, options.verbose)?;
        // Under software emulation Linux now and then meets a breakpoint of its own, which it
        // sets where it patches its code, after it has removed it. The command has not begun.
        if report.panicked_early() && boots < BOOTS {
            eprintln!("vm: the guest's kernel panicked while it booted; starting it again");
            boots += 1;
            continue;
        }
        if let Some(status) = report.crash().filter(|_| options.again && boots < BOOTS) {
            eprintln!("vm: QEMU crashed ({status}); the command is run anew");
            boots += 1;
            continue;
        }
        break (started, report);
    };

    if options.verbose {
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let up = report.booted.map(|time| time - started);
        eprintln!(
            "vm: Linux {}, boot {}, command {}",
            kernel.release,
            up.map_or("unfinished".to_owned(), seconds),
            report.booted.map_or("not started".to_owned(), |time| seconds(time.elapsed())),
        );
    }
    let booting = if report.booted.is_none() { ", before the guest was up" } else { "" };
    match report.outcome {
        Outcome::Exited(status) => Ok(ExitCode::from(status)),
        Outcome::Signal(signal) => Ok(ExitCode::from(128 + signal)),
        Outcome::TimedOut => {
            eprintln!(
                "error: the time of {} s was up{booting}; the guest's console ended with:\n{}",
                options.timeout, report.console
            );
            Ok(ExitCode::from(TIMED_OUT))
        }
        Outcome::Died(status) => bail!(
            "the virtual machine ended without the command's exit status{booting} \
             (QEMU: {status}); its console ended with:\n{}",
            report.console
        ),
        Outcome::OutputClosed(error) => bail!("passing on the command's output: {error}"),
    }
}

/// Fetches all that a boot needs.
pub(crate) fn prepare() -> Result<()> {
    packages::ensure(PACKAGES)?;
    let kernel = kernel::obtain()?;
    println!("Linux {} for the guest", kernel.release);
    Ok(())
}

fn check() -> Result<ExitCode> {
    let missing = packages::missing(PACKAGES)?;
    if !missing.is_empty() {
        bail!("packages are missing: {}", missing.join(" "));
    }
    if !kernel::is_cached()? {
        bail!("the guest's kernel has not been downloaded yet");
    }
    Ok(ExitCode::SUCCESS)
}

/// `folder` in the form that QEMU's and the guest's options can carry.
fn usable_folder(folder: &Path) -> Result<PathBuf> {
    let path = folder.canonicalize().with_context(|| format!("--writable {}", folder.display()))?;
    if !path.is_dir() {
        bail!("--writable {}: not a folder", folder.display());
    }
    Ok(path)
}

/// Where `name` is, also where PATH lacks the folders of the administrator.
fn program(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("the program {name} is not on this machine"))
}
