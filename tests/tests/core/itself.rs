//! The core's own end, and its idleness.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use uniddrv::client::OpenOptions;
use uniddrv_tests::programs;

use crate::User;
use crate::host::{Host, Setup, core_host, status, until};

fn alive(pid: i32) -> bool {
    // One that ended and was not waited for is not alive.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

#[test]
fn it_ends_cleanly_when_told_to() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
    let driver = status(&core).pid;
    let (status, setup) = host.terminate();
    assert!(status.success(), "{status}");
    assert!(!alive(driver));
    assert!(user.client.closed().is_some() || until(|| user.client.closed()).contains("core"));
    assert!(!setup.socket().exists());
}

#[test]
fn it_ends_when_a_client_says_so_even_with_a_stubborn_driver() {
    let mut host = Setup::new("never-stops").start();
    host.ready();
    let core = host.connect();
    core.stop().unwrap();
    assert!(crate::host::wait(&mut host.process).success());
}

#[test]
fn when_it_is_killed_drivers_end_and_the_next_one_starts() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    until(|| status(&core).warm.then_some(()));
    let driver = status(&core).pid;
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
    let setup = host.kill();
    until(|| (!alive(driver)).then_some(()));
    until(|| user.client.closed());
    assert!(setup.socket().exists(), "a stale socket");
    let host = setup.start();
    host.ready();
    let core = host.connect();
    User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap()).once();
}

#[test]
fn two_cores_do_not_share_a_socket() {
    let host = Setup::new("honest").start();
    host.ready();
    let config = host.setup.folder.path().join("core.toml");
    let output = core_host().arg("run").arg(config).stderr(Stdio::piped()).output().unwrap();
    assert!(!output.status.success() && output.status.signal().is_none());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("Running"), "{text}");
    let core = host.connect();
    User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap()).once();
}

#[test]
fn it_needs_no_privileges() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: all tests here run without privileges");
        return;
    }
    let setup = Setup::new("honest").device("restart = { deaths = 50, backoff = \"1ms..2ms\" }");
    let folder = setup.folder.path();
    // Where it is, others may not go.
    let program = folder.join("core_host");
    programs::copy(env!("CARGO_BIN_EXE_core_host"), &program);
    std::os::unix::fs::chown(folder, Some(7777), Some(7777)).unwrap();
    let mut command = Command::new(program);
    command.uid(7777).gid(7777).current_dir("/").env_clear();
    let host = Host::start(setup, &mut command);
    assert_eq!(host.ready(), "nvme:0 nvme:0/ns1 nvme:0/ns2");
    let core = host.connect();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    for _ in 0..3 {
        user.once();
        until(|| status(&core).warm.then_some(()));
        core.kill("nvme:0", uniddrv::client::Harm::Kill).unwrap();
        user.once();
    }
}

#[test]
fn idle_it_does_nothing_at_all() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
    until(|| (status(&core).asleep && status(&core).warm).then_some(()));
    // Until what the last question stirred up has settled.
    std::thread::sleep(Duration::from_millis(500));
    let before = host.activity();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(host.activity(), before);
    user.once();
}

/// The CPUs that the threads of a process may use.
fn allowed(process: u32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let status = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let list = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.unwrap().trim().to_owned()
    };
    status.map(list).collect()
}

#[test]
fn it_keeps_off_a_drivers_cpu_and_every_driver_gets_there() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    if cpus < 2 {
        eprintln!("skipped: this machine has one CPU");
        return;
    }
    // What this process may use, the core inherits.
    let highest = |list: &str| list.rsplit(['-', ',']).next().unwrap().parse::<u32>().unwrap();
    let cpu = highest(&allowed(std::process::id())[0]);
    let host = Setup::new("honest").device(&format!("cpu = {cpu}")).start();
    host.ready();
    let core = host.connect();
    let mut deaths = 0;
    for _ in 0..2 {
        until(|| status(&core).warm.then_some(()));
        let driver = status(&core).pid;
        assert_eq!(allowed(driver.unsigned_abs()), [cpu.to_string()]);
        let mut of_core = allowed(host.process.id());
        assert!(of_core.len() > 3, "{of_core:?}");
        if cpus == 2 {
            eprintln!("skipped: with two CPUs only the core's first thread has to keep off");
            of_core.truncate(1);
        }
        assert!(of_core.iter().all(|list| highest(list) < cpu), "{of_core:?}, not below {cpu}");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(driver).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        deaths += 1;
        crate::host::after_death(&core, deaths, "running");
    }
}
