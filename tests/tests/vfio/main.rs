//! Linux's VFIO on QEMU's devices: boots the virtual machine once, and runs this same program
//! in it, where the checks of `guest` are made.

#![forbid(unsafe_code)]

mod guest;

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Set in the virtual machine: which checks to make.
const PLACE: &str = "UNIDDRV_VFIO_TEST";

/// Two NICs behind ports that do not keep them apart, hence in one IOMMU group.
const TWO_IN_A_GROUP: &[&str] = &[
    "pcie-root-port,id=a,chassis=1,port=1,addr=15.0,multifunction=on,disable-acs=on",
    "pcie-root-port,id=b,chassis=2,port=2,addr=15.1,multifunction=on,disable-acs=on",
    "e1000e,bus=a",
    "e1000e,bus=b",
];

fn xtask_vm() -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(["xtask", "vm"]).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

#[test]
fn vfio_drives_qemus_devices() {
    match std::env::var(PLACE).as_deref() {
        Ok("guest") => return guest::check_all(),
        Ok("unprivileged") => return guest::check_unprivileged(),
        _ => {}
    }
    let able = xtask_vm().arg("--check").output().unwrap();
    if !able.status.success() {
        let reason = String::from_utf8_lossy(&able.stderr).into_owned();
        let notice = format!("skipped, no virtual machine: {}\n", reason.trim());
        std::io::stderr().write_all(notice.as_bytes()).unwrap();
        return;
    }
    let output = xtask_vm()
        .args(["--timeout", "400"])
        .args(TWO_IN_A_GROUP.iter().flat_map(|one| ["--qemu-arg=-device", "--qemu-arg", one]))
        .args(["--", "env", &format!("{PLACE}=guest"), "RUST_BACKTRACE=1"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "vfio_drives_qemus_devices", "--nocapture"])
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\nstdout:\n{out}\nstderr:\n{err}", output.status);
    for name in guest::names() {
        assert!(out.contains(&format!("checked: {name}\n")), "{name} is not in\n{out}");
    }
    println!("{out}");
}
