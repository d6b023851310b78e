//! Without any privilege: a core, drivers and clients of an ordinary user, on a software device.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Signal, getuid};
use uniddrv_tests::programs;

use crate::clients::Guest;
use crate::ground::{DRIVER, Ground, Plan, signal, until};
use crate::user::User;

/// Nobody.
const USER: u32 = 65534;

/// A program where every user can execute it.
fn reachable(plan: &Plan, program: &str, name: &str) -> PathBuf {
    let path = plan.folder().join(name);
    programs::copy(program, &path);
    path
}

#[test]
fn an_ordinary_user_runs_a_core_whose_drivers_die() {
    let mut plan = Plan::new("size=8M&fault=delay=0.2:1ms");
    let root = getuid().is_root();
    if root {
        chown(plan.folder(), Some(USER), Some(USER)).unwrap();
        let driver = reachable(&plan, DRIVER, "driver");
        plan = plan.driver(driver).user(USER);
    }
    let ground = plan.start();
    assert_eq!(ground.ready(), "nvme:0 nvme:0/ns1");
    let privileges = fs::read_to_string(format!("/proc/{}/status", ground.pid())).unwrap();
    let line = |key: &str| privileges.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    assert_eq!(line("CapEff:").trim(), "0000000000000000");

    let (_core, client) = ground.open(2, 32);
    let mut user = User::new(client, 32, 0, 8000);
    user.work(200);
    // A client of that user, too.
    let mut command = guest(&ground, root);
    let guest = Guest::start(&ground, 2000, &mut command);
    for round in 1..=10 {
        let pid = ground.warm().pid;
        signal(pid, Signal::KILL);
        user.work_until(|_| (ground.status().restarts == round).then_some(()));
        user.work(100);
    }
    // Neither does the end of a driver wait for its mounts to be taken down, nor do these stay.
    ground.warm();
    until(|| (mounts_held(&ground) == 2).then_some(()));
    guest.finish();
    user.verify();
    let status = ground.status();
    assert_eq!((status.adoptions, status.resets, status.errors), (10, 0, 0));
}

/// Trees of mounts that the core keeps: one for each driver process.
fn mounts_held(ground: &Ground) -> usize {
    let entries = fs::read_dir(format!("/proc/{}/fd", ground.pid())).unwrap();
    let links = entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("mnt:[")).count()
}

fn guest(ground: &Ground, root: bool) -> Command {
    if !root {
        return Command::new(env!("CARGO_BIN_EXE_served_client"));
    }
    let program = reachable(&ground.plan, env!("CARGO_BIN_EXE_served_client"), "served_client");
    let mut command = Command::new(program);
    command.uid(USER).gid(USER);
    command
}
