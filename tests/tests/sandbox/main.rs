//! A hostile driver program in its sandbox: each thing that it tries is denied, and this says
//! how. Outside of the sandbox the same program succeeds, so that its attempts are real.

#![forbid(unsafe_code)]

mod attempts;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _, pipe};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid};
use tempfile::TempDir;
use uniddrv::process::Ended;
use uniddrv_core::program::Program;
use uniddrv_core::sandbox::{Child, Confinement, Layer, Scheduling, SpawnError, Spawner, Window};
use uniddrv_tests::programs;

use crate::attempts::{ATTEMPTS, Denied, ORDINARY};

const PATIENCE: Duration = Duration::from_secs(30);
/// A user who owns nothing.
const NOBODY: u32 = 65534;
/// Whom root's drivers run as.
const DRIVERS: u32 = 65533;

/// The programs, where every user may execute them.
struct Programs {
    folder: TempDir,
}

static PROGRAMS: LazyLock<Programs> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, program) in [
        ("host", env!("CARGO_BIN_EXE_sandbox_host")),
        ("driver", env!("CARGO_BIN_EXE_hostile_driver")),
    ] {
        programs::copy(program, folder.path().join(name));
    }
    Programs { folder }
});

impl Programs {
    fn host(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    fn driver(&self) -> PathBuf {
        self.folder.path().join("driver")
    }
}

/// `sandbox_host`, as another user where one is given.
fn host(user: Option<u32>, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAMS.host());
    command.args(arguments).stdin(Stdio::null());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command
}

/// What came of `attempts`, by `how`: `try` or `free`.
fn outcomes(user: Option<u32>, how: &str, attempts: &[&str]) -> Vec<String> {
    let driver = PROGRAMS.driver();
    let arguments = [&[how, driver.to_str().unwrap()], attempts].concat();
    let output = host(user, &arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), attempts.len(), "{text}");
    lines
}

/// Whether the whole sandbox can be had here; says it where it cannot.
fn complete(user: Option<u32>) -> bool {
    let output = host(user, &["missing"]).output().unwrap();
    let missing = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    if !missing.is_empty() {
        say(&format!("skipped, the sandbox cannot be had here as a whole: {}", missing.trim()));
    }
    missing.is_empty()
}

/// Says something that the test harness does not swallow.
fn say(what: &str) {
    std::io::stderr().write_all(format!("{what}\n").as_bytes()).unwrap();
}

fn as_root() -> bool {
    geteuid().is_root()
}

fn all_denied(user: Option<u32>) {
    if !complete(user) {
        return;
    }
    let names: Vec<&str> = ATTEMPTS.iter().map(|&(name, ..)| name).collect();
    let mut wrong = Vec::new();
    for (line, &(name, denied, _)) in outcomes(user, "try", &names).iter().zip(ATTEMPTS) {
        let expected = match denied {
            Denied::Killed => format!("{name} ; killed by SIGSYS"),
            Denied::Errno(number) => format!("{name} errno {number}; exited with status 0"),
        };
        if *line != expected {
            wrong.push(format!("{line} (expected: {expected})"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // By the interrupt of 32-bit programs: killed, or there is none in this kernel.
    let old = &outcomes(user, "try", &["32-bit-call"])[0];
    assert!(old.ends_with("killed by SIGSYS") || old.ends_with("killed by SIGSEGV"), "{old}");
}

fn all_ordinary(user: Option<u32>) {
    if !complete(user) {
        return;
    }
    for (line, name) in outcomes(user, "try", ORDINARY).iter().zip(ORDINARY) {
        assert_eq!(*line, format!("{name} done; exited with status 0"));
    }
}

#[test]
fn what_a_hostile_driver_tries_is_denied() {
    all_denied(None);
}

#[test]
fn what_a_hostile_driver_of_an_unprivileged_core_tries_is_denied() {
    if !as_root() {
        say("what_a_hostile_driver_tries_is_denied ran unprivileged; run it as root too");
        return;
    }
    all_denied(Some(NOBODY));
}

#[test]
fn what_a_driver_needs_is_allowed() {
    all_ordinary(None);
    if as_root() {
        all_ordinary(Some(NOBODY));
    }
}

#[test]
fn outside_of_a_sandbox_the_attempts_succeed() {
    let user = as_root().then_some(NOBODY);
    let names: Vec<&str> =
        ATTEMPTS.iter().filter(|&&(_, _, works)| works).map(|&(name, ..)| name).collect();
    assert!(names.len() > 60);
    let mut wrong = Vec::new();
    for (line, name) in outcomes(user, "free", &names).iter().zip(&names) {
        if *line != format!("{name} done; exited with status 0") {
            wrong.push(line.clone());
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_driver_ends_as_documented() {
    if !complete(None) {
        return;
    }
    let outcomes = outcomes(None, "try", &["panic", "abort", "fault", "overflow"]);
    assert!(outcomes[0].contains("on purpose"), "{}", outcomes[0]);
    assert!(outcomes[0].ends_with("exited with status 101"), "{}", outcomes[0]);
    for line in &outcomes[1..] {
        assert!(line.ends_with("killed by SIGSEGV"), "{line}");
    }
}

/// A sandboxed process that waits, once it has said so.
fn waiting(spawner: &Spawner, confinement: &Confinement) -> Result<Child, SpawnError> {
    let program = Program::load(&PROGRAMS.driver()).unwrap();
    let (mut reader, writer) = pipe().unwrap();
    let child = spawner.spawn(&program, &["wait"], confinement, &[(writer.as_fd(), 1)])?;
    drop(writer);
    reader.read_exact(&mut [0]).unwrap();
    Ok(child)
}

fn spawner() -> Spawner {
    Spawner::with_launcher(&PROGRAMS.host()).unwrap()
}

fn of_process(child: &Child, file: &str) -> PathBuf {
    Path::new("/proc").join(child.pid().as_raw_nonzero().to_string()).join(file)
}

/// The value of a line of /proc/PID/status.
fn status(child: &Child, key: &str) -> String {
    let text = fs::read_to_string(of_process(child, "status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

#[test]
fn each_layer_stands() {
    if !complete(None) {
        return;
    }
    let confinement = Confinement { cpu: Some(0), locked: 1 << 20, ..Confinement::default() };
    let spawner = spawner();
    let child = waiting(&spawner, &confinement).unwrap();
    assert!(child.missing().is_empty());
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(&child, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(&child, "NoNewPrivs"), "1");
    assert_eq!(status(&child, "Seccomp"), "2");
    assert_eq!(status(&child, "Seccomp_filters"), "2");
    assert_eq!(status(&child, "Cpus_allowed_list"), "0");
    assert!(status(&child, "NSpid").ends_with("\t1"));
    let user = if as_root() { DRIVERS } else { geteuid().as_raw() };
    assert_eq!(status(&child, "Uid"), [user.to_string().as_str(); 4].join("\t"));
    if !as_root() {
        say("skipped in part: only root sees a sandboxed process's namespaces and limits");
        return;
    }
    assert_eq!(status(&child, "Groups"), "");
    for namespace in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
        let link = Path::new("ns").join(namespace);
        let its = fs::read_link(of_process(&child, link.to_str().unwrap())).unwrap();
        assert_ne!(its, fs::read_link(Path::new("/proc/self").join(link)).unwrap());
    }
    assert_eq!(fs::read_dir(of_process(&child, "root")).unwrap().count(), 0);
    let mounts = fs::read_to_string(of_process(&child, "mounts")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.starts_with("none / tmpfs ro,nosuid,nodev,noexec"), "{mounts}");
    let limits = fs::read_to_string(of_process(&child, "limits")).unwrap();
    for (name, value) in [
        ("Max core file size", "0"),
        ("Max file size", "0"),
        ("Max open files", "64"),
        ("Max processes", "0"),
        ("Max locked memory", "1048576"),
        ("Max data size", "268435456"),
        ("Max realtime priority", "0"),
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let values: Vec<&str> = line.split_whitespace().take(2).collect();
        assert_eq!(values, [value, value], "{name}");
    }
    // Other processes of its user may not trace it, nor look at its memory.
    let memory = of_process(&child, "mem");
    let other = Command::new("cat").arg(memory).uid(DRIVERS).gid(DRIVERS).output().unwrap();
    assert!(String::from_utf8_lossy(&other.stderr).contains("Permission denied"), "{other:?}");
    // Its output and /dev/null: nothing of the core's or the launcher's.
    let mut numbers: Vec<String> = fs::read_dir(of_process(&child, "fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    numbers.sort();
    assert_eq!(numbers, ["0", "1", "2"]);
}

#[test]
fn the_core_can_stop_and_kill_it() {
    if !complete(None) {
        return;
    }
    let spawner = spawner();
    let mut child = waiting(&spawner, &Confinement::default()).unwrap();
    // It is the first process of its namespace, and has no handler for this.
    child.kill(Signal::TERM).unwrap();
    child.kill(Signal::STOP).unwrap();
    let end = Instant::now() + PATIENCE;
    while !status(&child, "State").starts_with('T') {
        assert!(Instant::now() < end, "{}", status(&child, "State"));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill(Signal::KILL).unwrap();
    assert_eq!(child.wait(PATIENCE).unwrap(), Some(Ended::Signaled(libc::SIGKILL)));
}

#[test]
fn it_ends_with_its_spawner() {
    if !complete(None) {
        return;
    }
    let spawner = spawner();
    let mut child = waiting(&spawner, &Confinement::default()).unwrap();
    drop(spawner);
    assert_eq!(child.wait(PATIENCE).unwrap(), Some(Ended::Signaled(libc::SIGKILL)));

    // A spawner that is killed has no time to do anything about it.
    let driver = PROGRAMS.driver();
    for user in [None, as_root().then_some(NOBODY)] {
        let mut command = host(user, &["hold", driver.to_str().unwrap()]);
        let mut parent = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let process = Path::new("/proc").join(line.trim());
        assert!(process.join("status").exists(), "{line}");
        parent.kill().unwrap();
        parent.wait().unwrap();
        let end = Instant::now() + PATIENCE;
        // It may be a zombie for as long as nobody has waited for it.
        while fs::read_to_string(process.join("status"))
            .is_ok_and(|status| !status.contains("State:\tZ"))
        {
            assert!(Instant::now() < end, "process {line} outlives its spawner");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn what_cannot_be_had_is_said() {
    if !complete(None) {
        return;
    }
    let spawner = spawner();
    let mut confinement = Confinement { cpu: Some(1_000), ..Confinement::default() };
    let error = waiting(&spawner, &confinement).unwrap_err();
    let SpawnError::Incomplete(missing) = &error else { panic!("{error}") };
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0].layer, Layer::Cpu);
    assert!(error.to_string().contains("CPU 1000"), "{error}");
    assert!(error.to_string().contains("taskset"), "{error}");
    assert_eq!(spawner.missing(&confinement).unwrap(), *missing);
    confinement.partial = true;
    assert_eq!(waiting(&spawner, &confinement).unwrap().missing(), missing);

    // Either it is under SCHED_FIFO, or it is said that it is not.
    let scheduling = Scheduling::Fifo(1);
    let fifo = Confinement { scheduling, partial: true, ..Confinement::default() };
    let child = waiting(&spawner, &fifo).unwrap();
    let stat = fs::read_to_string(of_process(&child, "stat")).unwrap();
    // Field 41, where the second one, in parentheses, may contain spaces.
    let policy = stat.rsplit(')').next().unwrap().split_whitespace().nth(38).unwrap();
    let said = child.missing().iter().any(|missing| missing.layer == Layer::Fifo);
    assert_ne!(policy == "1", said, "{stat}");
}

/// The names of layers that cannot be had, and outcomes with the rest, where a limit of Linux's
/// on namespaces is 0. Nothing where there are no namespaces to try that in.
fn without(limit: &str, attempts: &str) -> Option<(String, String)> {
    let script = format!(
        "echo 0 >/proc/sys/user/{limit} && $HOST missing && echo -- && \
         $HOST partly $DRIVER {attempts}"
    );
    // The limit is that of a user namespace, and this is a new one.
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", &script])
        .env("HOST", PROGRAMS.host())
        .env("DRIVER", PROGRAMS.driver())
        .output();
    let output = match output {
        Ok(output) if complete(None) => output,
        _ => {
            say("skipped: it needs user namespaces and the command unshare");
            return None;
        }
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let (missing, outcomes) = text.split_once("--\n").unwrap();
    Some((missing.to_owned(), outcomes.to_owned()))
}

#[test]
fn with_a_layer_missing_the_others_stand() {
    let Some((missing, outcomes)) = without("max_user_namespaces", "live open map-registers")
    else {
        return;
    };
    assert!(missing.contains("no user namespace of its own (No space left"), "{missing}");
    assert!(missing.contains("sysctl user.max_user_namespaces"), "{missing}");
    // There is no other user to become in that namespace.
    assert!(missing.contains("no user of its own"), "{missing}");
    assert_eq!(missing.lines().count(), 2, "{missing}");
    let expected = "live done; exited with status 0\nopen errno 1; exited with status 0\n\
                    map-registers ; killed by SIGSYS\n";
    assert_eq!(outcomes, expected);

    let Some((missing, outcomes)) = without("max_pid_namespaces", "abort kill-parent") else {
        return;
    };
    assert!(missing.contains("no PID namespace of its own (No space left"), "{missing}");
    // An ordinary process is aborted as usual.
    assert_eq!(outcomes, "abort ; killed by SIGABRT\nkill-parent ; killed by SIGSYS\n");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let spawner = spawner();
    let program = Program::load(&PROGRAMS.driver()).unwrap();
    let (_reader, writer) = pipe().unwrap();
    let refused = |confinement: &Confinement, numbers: &[i32]| {
        let inherited: Vec<_> = numbers.iter().map(|&number| (writer.as_fd(), number)).collect();
        match spawner.spawn(&program, &["wait"], confinement, &inherited) {
            Err(SpawnError::Number(number)) => number,
            other => panic!("{other:?}"),
        }
    };
    let confinement = Confinement::default();
    assert_eq!(refused(&confinement, &[3, 64]), 64);
    assert_eq!(refused(&confinement, &[-1]), -1);
    assert_eq!(refused(&confinement, &[5, 4, 5]), 5);
    let window = Window { number: 7, offset: 0, len: 4096 };
    assert_eq!(refused(&Confinement { windows: vec![window], ..confinement.clone() }, &[6]), 7);

    let error = spawner.spawn(&program, &["a\0b"], &confinement, &[]).unwrap_err();
    assert!(error.to_string().contains("reading its orders"), "{error}");
    // A program that is no launcher.
    let other = Spawner::with_launcher(Path::new("/bin/true")).unwrap();
    let error = other.spawn(&program, &[], &confinement, &[]).unwrap_err();
    assert!(error.to_string().contains("launch_if_asked"), "{error}");
    assert!(Spawner::with_launcher(Path::new("/nonexistent")).is_err());
}
