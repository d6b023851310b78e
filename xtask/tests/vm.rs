//! `cargo xtask vm`, tried on real boots. A boot takes seconds, so one guest
//! makes as many checks as it can (`guest.sh`).

use std::fs;
use std::io::{Write as _, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// `xtask vm`, or nothing where this machine cannot boot a guest: then a line
/// that the test harness does not swallow says why. `cargo xtask test`
/// installs what is missing beforehand.
fn vm() -> Option<(Command, MutexGuard<'static, ()>)> {
    /// Software emulation is slow enough with one guest.
    static ONE_GUEST: Mutex<()> = Mutex::new(());
    let turn = ONE_GUEST.lock().unwrap_or_else(PoisonError::into_inner);
    let check = xtask().args(["vm", "--check"]).output().unwrap();
    if !check.status.success() {
        let reason = String::from_utf8_lossy(&check.stderr).into_owned();
        let notice = format!("skipped, no virtual machine: {}\n", reason.trim());
        stderr().write_all(notice.as_bytes()).unwrap();
        return None;
    }
    let mut command = xtask();
    command.arg("vm").stdin(Stdio::null());
    Some((command, turn))
}

fn xtask() -> Command {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
}

/// A folder of this test run's own, empty.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir_all(&path).unwrap();
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_status(output: &Output, expected: i32) {
    assert_eq!(
        output.status.code(),
        Some(expected),
        "stdout:\n{}\nstderr:\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[test]
fn a_guest_has_what_drivers_need() {
    let Some((mut vm, _turn)) = vm() else { return };
    let shared = folder("shared, with a comma");
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let output = vm
        .arg("--writable")
        .arg(&shared)
        .args(["--", "sh", "guest.sh"])
        .arg(&here)
        .arg("two words, it's $HOME")
        .arg(&shared)
        .current_dir(&here)
        .env("VM_TEST_VALUE", "a 'quoted'\nvalue")
        .output()
        .unwrap();
    assert_status(&output, 3);

    let report = text(&output.stdout);
    let failed = report.lines().filter(|line| line.starts_with("not ok"));
    let failed = failed.collect::<Vec<_>>();
    assert!(failed.is_empty(), "{failed:?}\n{}", text(&output.stderr));
    let passed = report.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(report.lines().last(), Some(format!("1..{passed}").as_str()));
    assert!(passed > 20, "only {passed} checks:\n{report}");
    assert!(text(&output.stderr).contains("stdout opens again"));

    let brought = fs::read_to_string(shared.join("report")).unwrap();
    assert_eq!(brought, "from the guest\n");
    assert!(!Path::new("/etc/written-by-the-guest").exists());
}

#[test]
fn nothing_is_mixed_into_what_the_command_prints() {
    let Some((mut vm, _turn)) = vm() else { return };
    // The command leaves a process behind that holds its stdout.
    let script = "sleep 1000 & printf 'out\\0\\377'; printf err >&2";
    let output = vm.args(["--", "sh", "-c", script]).output().unwrap();
    assert_status(&output, 0);
    assert_eq!(output.stdout, b"out\0\xff");
    // A kernel that panics while it boots is started again, which is told before.
    let told = text(&output.stderr);
    let told = told.lines().filter(|line| !line.starts_with("vm: the guest's kernel panicked"));
    assert_eq!(told.collect::<Vec<_>>(), ["err"]);
}

#[test]
fn a_panic_is_reported_with_the_console() {
    let Some((mut vm, _turn)) = vm() else { return };
    let output = vm.args(["--", "sh", "-c", "echo c >/proc/sysrq-trigger"]).output().unwrap();
    assert_status(&output, 125);
    let message = text(&output.stderr);
    assert!(message.contains("ended without the command's exit status"), "{message}");
    assert!(message.contains("Kernel panic"), "{message}");
}

#[test]
fn a_kernel_that_panics_before_it_is_up_is_started_again() {
    let Some((mut vm, _turn)) = vm() else { return };
    let output = vm.args(["--kernel-arg", "rdinit=/nowhere", "--", "true"]).output().unwrap();
    assert_status(&output, 125);
    let message = text(&output.stderr);
    assert_eq!(message.matches("starting it again").count(), 2, "{message}");
    assert!(message.contains("Kernel panic"), "{message}");
}

#[test]
fn the_guest_ends_when_its_time_is_up() {
    let Some((mut vm, _turn)) = vm() else { return };
    let output = vm.args(["--timeout", "2", "--", "sleep", "1000"]).output().unwrap();
    assert_status(&output, 124);
    assert!(text(&output.stderr).contains("the time of 2 s was up"));
}

#[test]
fn what_qemu_refuses_is_shown() {
    let Some((mut vm, _turn)) = vm() else { return };
    let output = vm
        .args(["--qemu-arg", "-device", "--qemu-arg", "nonsense", "--", "true"])
        .output()
        .unwrap();
    assert_status(&output, 125);
    assert!(text(&output.stderr).contains("'nonsense' is not a valid device model name"));
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let output =
        xtask().args(["vm", "--writable", "/nowhere/at/all", "--", "true"]).output().unwrap();
    assert_status(&output, 125);
    assert!(text(&output.stderr).contains("--writable /nowhere/at/all"));
}

#[test]
fn qemu_does_not_outlive_us() {
    for signal in ["INT", "KILL"] {
        let Some((mut vm, _turn)) = vm() else { return };
        let mut vm = vm.args(["--", "sleep", "1000"]).stderr(Stdio::null()).spawn().unwrap();
        let qemu = eventually(|| running_qemu(vm.id()));
        let killed =
            Command::new("kill").args(["-s", signal, &vm.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let status = vm.wait().unwrap();
        if signal == "INT" {
            assert_eq!(status.code(), Some(130));
        }
        eventually(|| command_of(qemu).is_none().then_some(()));
    }
}

#[test]
fn a_crash_of_qemus_is_told_and_the_command_run_anew_if_that_was_asked_for() {
    let Some((mut vm, _turn)) = vm() else { return };
    let vm = vm
        .args(["--again", "--", "echo", "here"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let qemu = eventually(|| running_qemu(vm.id()));
    let crash = Command::new("kill").args(["-s", "SEGV", &qemu.to_string()]).status().unwrap();
    assert!(crash.success());
    let output = vm.wait_with_output().unwrap();
    assert_status(&output, 0);
    assert_eq!(text(&output.stdout), "here\n");
    assert!(text(&output.stderr).contains("QEMU crashed"), "{}", text(&output.stderr));
}

/// The QEMU that `parent` has started, once it runs.
fn running_qemu(parent: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let child = children.split_whitespace().next()?.parse().ok()?;
    command_of(child).is_some_and(|command| command.starts_with("qemu-system")).then_some(child)
}

/// The program that process `pid` runs, unless it has ended.
fn command_of(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    if status.contains("\nState:\tZ") {
        return None;
    }
    status.strip_prefix("Name:\t")?.lines().next().map(str::to_owned)
}

fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within 30 s");
        thread::sleep(Duration::from_millis(20));
    }
}
