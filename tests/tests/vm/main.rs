//! Tests on Linux's own VFIO and IOMMU, with QEMU's devices. They run inside
//! the virtual machine: `cargo xtask test` has cargo start this program there.
//! On any other machine each of them says that it was skipped, since they
//! write to drives.
//!
//! Which devices the guest has, and at which addresses, is told by
//! `cargo xtask vm --help`.

use std::env;
use std::fs;
use std::io::{Write as _, stderr};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use uniddrv::sysfs::{BindOptions, Sysfs, UnbindOptions};
use uniddrv::{Address, Device, PciAddress};

mod bind;
mod held;
mod iommu;
mod net;
mod nvme;
mod partition;
mod served;
mod vfio;

/// The NVMe controller that keeps data.
const DATA: &str = "0000:00:10.0";
/// QEMU's `edu` device.
const EDU: &str = "0000:00:12.0";

/// A test's turn with the guest's devices: one test at a time has them all.
struct Guest {
    linux: Sysfs,
    _turn: MutexGuard<'static, ()>,
}

/// The guest; nothing outside of it.
fn guest() -> Option<Guest> {
    static DEVICES: Mutex<()> = Mutex::new(());
    if env::var_os("UNIDDRV_VM").is_none() {
        // Not by a macro, whose words the test harness would keep to itself.
        stderr()
            .write_all(b"skipped, outside the virtual machine: use `cargo xtask test`\n")
            .unwrap();
        return None;
    }
    let turn = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    Some(Guest { linux: Sysfs::new("/"), _turn: turn })
}

impl Guest {
    /// Takes a device from Linux and opens it.
    fn take(&self, address: &str) -> Device {
        self.bind(address);
        Device::open(&Address::Pci(pci(address))).unwrap()
    }

    fn bind(&self, address: &str) {
        let stop = AtomicBool::new(false);
        self.linux.bind(&[pci(address)], &BindOptions::default(), &stop).unwrap();
    }

    /// Gives a device that is dropped back to Linux.
    fn give_back(&self, address: &str) {
        self.linux.unbind(pci(address), UnbindOptions::default()).unwrap();
    }

    /// Linux's driver of a device.
    fn driver(&self, address: &str) -> Option<String> {
        self.linux.function(pci(address)).unwrap().driver
    }
}

fn pci(address: &str) -> PciAddress {
    match address.parse() {
        Ok(Address::Pci(pci)) => pci,
        other => panic!("{address} is not the address of a PCI function: {other:?}"),
    }
}

/// Where Linux has namespace `nsid` of the controller at `address`. Linux looks
/// at namespaces in the background, and names them as it finds them.
fn block_device(address: &str, nsid: u32) -> String {
    eventually("a block device", || {
        let controllers = fs::read_dir(format!("/sys/bus/pci/devices/{address}/nvme")).ok()?;
        let namespaces = controllers
            .flatten()
            .filter_map(|controller| fs::read_dir(controller.path()).ok())
            .flat_map(Iterator::flatten);
        namespaces
            .filter(|entry| {
                fs::read_to_string(entry.path().join("nsid"))
                    .is_ok_and(|text| text.trim() == nsid.to_string())
            })
            .map(|entry| format!("/dev/{}", entry.file_name().display()))
            .find(|device| fs::exists(device).unwrap_or(false))
    })
}

/// Tries until there is something, for 30 s.
fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "no {what} within 30 s");
        thread::sleep(Duration::from_millis(5));
    }
}

/// `len` bytes that look random, the same for the same seed.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
