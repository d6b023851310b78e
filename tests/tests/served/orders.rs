//! `restart` and `upgrade` while clients work.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use uniddrv::client::CoreError;
use uniddrv_tests::programs;

use crate::ground::{DEVICE, DRIVER, Ground, Plan, last_death};
use crate::user::User;

const DEPTH: u32 = 32;

fn begin() -> (Ground, User, uniddrv::client::Core) {
    let ground = Plan::new("size=4M&fault=delay=0.2:500us").start();
    ground.ready();
    let (core, client) = ground.open(1, DEPTH);
    let mut user = User::new(client, DEPTH as usize, 0, 8000);
    user.work(200);
    (ground, user, core)
}

/// Works while somebody gives an order.
fn meanwhile(
    ground: &Ground,
    user: &mut User,
    order: impl FnOnce(&Ground) -> Result<(), CoreError> + Send,
) -> Result<(), CoreError> {
    thread::scope(|scope| {
        let order = scope.spawn(|| order(ground));
        while !order.is_finished() {
            user.work(20);
        }
        order.join().unwrap()
    })
}

fn copy(from: &str, to: &Path) -> PathBuf {
    programs::copy(from, to);
    to.to_owned()
}

/// A driver program that misbehaves so.
fn broken(folder: &Path, behaviour: &str) -> PathBuf {
    let mut bytes = fs::read(env!("CARGO_BIN_EXE_fake_driver")).unwrap();
    let marker = b"FAKE-BEHAVIOUR: honest";
    let place = bytes.windows(marker.len()).position(|window| window == marker).unwrap();
    bytes[place + 16..place + 63].copy_from_slice(format!("{behaviour:<47}").as_bytes());
    let path = folder.join(behaviour);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn restarts_under_load_are_pauses() {
    let (ground, mut user, _core) = begin();
    let mut pids = vec![ground.status().pid];
    for round in 1..=10 {
        meanwhile(&ground, &mut user, |ground| ground.core.restart(DEVICE)).unwrap();
        let status = user.work_until(|_| {
            let status = ground.status();
            (status.deaths.len() >= round).then_some(status)
        });
        assert_eq!((status.restarts, status.adoptions), (round as u64, round as u64));
        let death = last_death(&status);
        assert_eq!((death.cause.as_str(), death.recovery.as_str()), ("restart", "adopted"));
        assert!(death.adoption_ns > 0 && death.hand_over_ns > 0, "{death:?}");
        assert!(!pids.contains(&status.pid));
        pids.push(status.pid);
    }
    user.verify();
    let status = ground.status();
    assert_eq!((status.resets, status.errors, status.ios), (0, 0, user.ended()));
}

#[test]
fn an_upgrade_under_load_is_a_pause() {
    let (ground, mut user, _core) = begin();
    let folder = ground.plan.folder().to_owned();
    for (round, name) in (1..).zip(["second", "third"]) {
        let program = copy(DRIVER, &folder.join(name));
        let path = program.to_str();
        meanwhile(&ground, &mut user, |ground| ground.core.upgrade(DEVICE, path)).unwrap();
        let status = user.work_until(|_| {
            let status = ground.status();
            (status.deaths.len() >= round && status.warm).then_some(status)
        });
        let death = last_death(&status);
        assert_eq!((death.cause.as_str(), death.recovery.as_str()), ("upgrade", "adopted"));
        assert!(status.driver.contains(name), "{}", status.driver);
        assert_eq!((status.adoptions, status.resets), (round as u64, 0));
    }
    user.verify();
    assert_eq!(ground.status().errors, 0);
}

#[test]
fn an_upgrade_to_a_broken_program_leaves_the_old_one_running() {
    let (ground, mut user, _core) = begin();
    let folder = ground.plan.folder().to_owned();
    let text = folder.join("text");
    fs::write(&text, "no program").unwrap();
    let no_driver = copy(env!("CARGO_BIN_EXE_no_system_call"), &folder.join("no_driver"));
    let programs = [
        folder.join("missing"),
        text,
        no_driver,
        broken(&folder, "die-at-start"),
        broken(&folder, "garbage"),
        broken(&folder, "dies-adopting"),
        broken(&folder, "hangs-adopting"),
    ];
    for program in programs {
        let path = program.to_str();
        let failed = meanwhile(&ground, &mut user, |ground| ground.core.upgrade(DEVICE, path));
        let text = failed.expect_err(path.unwrap()).to_string();
        eprintln!("{}: {text}", program.file_name().unwrap().to_str().unwrap());
        let status = user.work_until(|_| {
            let status = ground.status();
            (status.state == "running" && status.warm).then_some(status)
        });
        assert!(status.driver.contains("deadly_nvme"), "{}", status.driver);
        assert_eq!((status.resets, status.errors), (0, 0), "{path:?}");
        // As good as before.
        meanwhile(&ground, &mut user, |ground| ground.core.restart(DEVICE)).unwrap();
    }
    user.verify();
    let status = ground.status();
    assert_eq!((status.resets, status.errors, status.ios), (0, 0, user.ended()));
}
