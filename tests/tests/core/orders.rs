//! Restarts, upgrades, devices that come and go.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};

use uniddrv::client::{Core, Harm, OpenOptions};

use crate::User;
use crate::host::{Setup, status, until};

#[test]
fn a_restart_is_nothing_that_clients_see() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    let mut pid = status(&core).pid;
    for count in 1..=5 {
        user.submit(1);
        core.restart("nvme:0").unwrap();
        assert_eq!(user.reap(1), 1);
        let now = status(&core);
        assert_ne!(now.pid, pid);
        assert_eq!((now.adoptions, now.resets), (count, 0));
        assert_eq!(now.deaths.last().unwrap().cause, "restart");
        pid = now.pid;
    }
    assert!(core.restart("nvme:7").unwrap_err().is_not_found());
}

#[test]
fn a_driver_that_does_not_stop_for_a_restart_is_made_to() {
    let host = Setup::new("never-quiet").start();
    host.ready();
    let core = host.connect();
    core.restart("nvme:0").unwrap();
    let now = status(&core);
    assert_eq!((now.adoptions, now.resets), (1, 0));
    assert!(now.deaths[0].cause.contains("took too long to stop"), "{:?}", now.deaths);
}

#[test]
fn an_upgrade_runs_another_program() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
    let program = host.setup.program("better", "never-quiet");
    core.upgrade("nvme:0", program.to_str()).unwrap();
    user.once();
    let now = status(&core);
    assert_eq!((now.driver.as_str(), now.adoptions, now.resets), ("better", 1, 0));
    assert_eq!(now.deaths.last().unwrap().cause, "upgrade");
    // Successors are of the new program, too.
    until(|| status(&core).warm.then_some(()));
    core.kill("nvme:0", Harm::Kill).unwrap();
    user.once();
    assert_eq!(status(&core).driver, "better");
    // The same file, read anew.
    host.setup.program("better", "honest");
    core.upgrade("nvme:0", None).unwrap();
    core.restart("nvme:0").unwrap();
    assert_eq!(status(&core).deaths.last().unwrap().cause, "restart");
}

#[test]
fn an_upgrade_to_a_broken_program_leaves_the_old_one() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    let pid = status(&core).pid;
    let text = host.setup.folder.path().join("text");
    fs::write(&text, "no program").unwrap();
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
    let missing = host.setup.folder.path().join("missing");
    let dies = host.setup.program("dies", "die-at-start");
    for (path, says) in [
        (text.to_str().unwrap(), "ELF"),
        (missing.to_str().unwrap(), "No such file"),
        ("/tmp", "no regular file"),
        ("relative", "absolute"),
        (dies.to_str().unwrap(), "exited with status 9"),
    ] {
        let error = core.upgrade("nvme:0", Some(path)).unwrap_err().to_string();
        assert!(error.contains(says), "{path}: {error}");
        assert_eq!(status(&core).pid, pid, "{path}");
        user.once();
    }
    // One that gets ready and dies when it takes over: the old program runs again.
    until(|| status(&core).warm.then_some(()));
    let dies = host.setup.program("dies-later", "dies-adopting");
    let error = core.upgrade("nvme:0", dies.to_str()).unwrap_err().to_string();
    assert!(error.contains("while it took over"), "{error}");
    user.once();
    until(|| (status(&core).driver == "driver").then_some(()));
}

#[test]
fn devices_come_and_go() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let driver = host.setup.program("driver", "honest");
    core.add("model:nvme?size=2M", driver.to_str()).unwrap();
    let names: Vec<_> = core.names("").unwrap().into_iter().map(|name| name.name).collect();
    assert!(names.contains(&"driver:0/ns1".to_owned()), "{names:?}");
    let mut user = User::new(core.open("driver:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
    core.remove("model:nvme?size=2M").unwrap();
    assert!(until(|| user.client.closed()).contains("taken from the core"));
    assert!(core.names("driver:").unwrap().is_empty());
    assert!(core.remove("model:nvme?size=2M").unwrap_err().is_not_found());
    for (address, says) in [
        ("nonsense", "no device address"),
        ("vfio-user:/nowhere/at/all", "cannot"),
        ("model:nvme?size=x", ""),
        ("vhost-user:/x", ""),
    ] {
        let error = core.add(address, driver.to_str()).unwrap_err().to_string();
        assert!(error.contains(says), "{address}: {error}");
    }
    let _ = core.add("model:nvme?size=3M", Some("nobody-has-such-a-driver")).unwrap_err();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
}

/// A vfio-user server.
fn serve(socket: &Path) -> Child {
    let _ = fs::remove_file(socket);
    let mut peer = Command::new(env!("CARGO_BIN_EXE_peer"));
    let process = peer.arg("serve").arg(socket).arg("size=1M").spawn().unwrap();
    until(|| socket.exists().then_some(()));
    process
}

fn add(core: &Core, socket: &Path, driver: &Path) {
    let address = format!("vfio-user:{}", socket.display());
    until(|| core.add(&address, driver.to_str()).ok());
}

#[test]
fn a_server_that_dies_and_comes_back_is_a_pause() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let socket = host.setup.folder.path().join("device.sock");
    let driver = host.setup.program("driver", "honest");
    let mut server = serve(&socket);
    add(&core, &socket, &driver);
    let mut user = User::new(core.open("driver:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
    for _ in 0..3 {
        server.kill().unwrap();
        server.wait().unwrap();
        until(|| {
            let now = core.status("driver:0").unwrap();
            (now[0].state == "waiting" && now[0].pid == 0).then_some(())
        });
        user.submit(9);
        server = serve(&socket);
        assert_eq!(user.reap(1), 1);
    }
    let now = core.status("driver:0").unwrap().remove(0);
    assert_eq!((now.state.as_str(), now.resets), ("running", 3));
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn a_server_that_stays_away_ends_its_clients() {
    let setup = Setup::new("honest");
    let socket = setup.folder.path().join("device.sock");
    let driver = setup.program("driver", "honest");
    let line = format!(
        "[[device]]\naddress = \"vfio-user:{}\"\ndriver = \"{}\"\nreconnect = \"300ms\"",
        socket.display(),
        driver.display()
    );
    let mut server = serve(&socket);
    let host = setup.rest(&line).start();
    host.ready();
    let core = host.connect();
    let mut user = User::new(core.open("driver:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
    server.kill().unwrap();
    server.wait().unwrap();
    let text = until(|| user.client.closed());
    assert!(text.contains("is gone"), "{text}");
    until(|| core.names("driver:").unwrap().is_empty().then_some(()));
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
}
