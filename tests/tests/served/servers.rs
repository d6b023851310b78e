//! vfio-user servers that die: the core's own models, and others'.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use uniddrv::client::Refusal;

use crate::ground::{DEVICE, Ground, NAME, Plan, connect, options, signal, until};
use crate::user::User;

const DEPTH: u32 = 32;

fn begin(ground: &Ground) -> (User, uniddrv::client::Core) {
    let (core, client) = ground.open(1, DEPTH);
    let mut user = User::new(client, DEPTH as usize, 0, 8000);
    user.work(200);
    (user, core)
}

/// A server that the core did not start.
struct Server(Child);

impl Server {
    fn start(address: &str, socket: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_core_host"));
        command.args(["model", "serve", address, "--socket"]).arg(socket).stdout(Stdio::null());
        let server = Self(command.spawn().unwrap());
        until(|| std::os::unix::net::UnixStream::connect(socket).ok());
        server
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_model_that_dies_is_started_again_and_nothing_is_lost() {
    let ground = Plan::new("size=4M&backing=file:FOLDER/disk&fault=delay=0.2:1ms").start();
    ground.ready();
    let (mut user, _core) = begin(&ground);
    for round in 1..=6 {
        let driver = ground.warm().pid;
        let models = ground.models();
        assert_eq!(models.len(), 1);
        signal(models[0], Signal::KILL);
        if round % 3 == 0 {
            // And the driver with it.
            signal(driver, Signal::KILL);
        }
        user.work_until(|_| {
            let status = ground.status();
            (status.state == "running" && status.warm && status.resets >= round).then_some(())
        });
        user.work(100);
        assert_ne!(ground.models(), models);
    }
    user.verify();
    let status = ground.status();
    assert_eq!((status.resets, status.errors), (6, 0));
    assert_eq!(status.ios, user.ended());
}

#[test]
fn a_model_that_stops_and_goes_on_is_waited_for() {
    let ground = Plan::new("size=4M&fault=delay=0.2:1ms").start();
    ground.ready();
    let (mut user, _core) = begin(&ground);
    for _ in 0..3 {
        let model = ground.models()[0];
        signal(model, Signal::STOP);
        for _ in 0..200 {
            user.submit(u64::MAX);
            user.reap();
            std::thread::sleep(Duration::from_millis(1));
        }
        signal(model, Signal::CONT);
        user.work(100);
    }
    user.verify();
    let status = ground.status();
    assert_eq!((status.resets, status.errors, status.restarts), (0, 0, 0));
}

#[test]
fn a_foreign_server_that_comes_back_in_time_goes_on() {
    let plan = Plan::new("");
    let (socket, disk) = (plan.folder().join("foreign.sock"), plan.folder().join("disk"));
    let address = format!("model:nvme?size=4M&backing=file:{}", disk.display());
    let mut server = Server::start(&address, &socket);
    let ground = plan.address(format!("vfio-user:{}", socket.display())).start();
    ground.ready();
    let (mut user, _core) = begin(&ground);
    for round in 1..=4 {
        ground.warm();
        server.kill();
        // Nobody hears anything meanwhile.
        let before = user.ended() + u64::from(DEPTH);
        for _ in 0..100 * round {
            user.submit(u64::MAX);
            user.reap();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(user.ended() <= before);
        server = Server::start(&address, &socket);
        user.work_until(|_| {
            let status = ground.status();
            (status.state == "running" && status.resets == round).then_some(())
        });
        user.work(100);
    }
    user.verify();
    let status = ground.status();
    assert_eq!((status.errors, status.ios), (0, user.ended()));
}

#[test]
fn a_server_that_stays_away_ends_its_clients_and_no_others() {
    let plan = Plan::new("");
    let socket = plan.folder().join("foreign.sock");
    let server = Server::start("model:nvme?size=4M", &socket);
    let driver = env!("CARGO_BIN_EXE_deadly_nvme");
    let ground = plan
        .address(format!("vfio-user:{}", socket.display()))
        .device("reconnect = \"1s\"")
        .rest("[[device]]\naddress = \"model:nvme?size=4M\"\nname = \"nvme:1\"")
        .rest(&format!("driver = \"{driver}\""))
        .start();
    assert_eq!(ground.ready(), "nvme:0 nvme:0/ns1 nvme:1 nvme:1/ns1");
    let (mut user, _core) = begin(&ground);
    let other = connect(&ground.plan.socket());
    let client = other.open("nvme:1/ns1", &options(1, DEPTH)).unwrap();
    let mut neighbour = User::new(client, DEPTH as usize, 0, 8000);
    neighbour.work(100);
    user.lenient = true;
    server.kill();
    neighbour.work_until(|_| {
        user.submit(u64::MAX);
        user.reap();
        (user.refused() && user.in_flight() == 0).then_some(())
    });
    assert!(user.errors.keys().all(|error| error == "Gone"), "{:?}", user.errors);
    assert_eq!(user.errors.values().sum::<u64>(), u64::from(DEPTH));
    // The name goes, the core lives.
    until(|| {
        let names = ground.core.names("").unwrap();
        (!names.iter().any(|name| name.name.starts_with(DEVICE))).then_some(())
    });
    until(|| ground.core.status(DEVICE).unwrap().is_empty().then_some(()));
    let refused = ground.core.open(NAME, &options(1, DEPTH)).unwrap_err();
    assert_eq!(refused.code(), Some(Refusal::NotFound), "{refused}");
    neighbour.work(100);
    neighbour.verify();

    // Somebody starts it again, and gives it to the core again: it is a new device.
    let _server = Server::start("model:nvme?size=4M", &socket);
    ground.core.add(&format!("vfio-user:{}", socket.display()), None).unwrap();
    let (mut user, _core) = begin(&ground);
    user.verify();
    neighbour.verify();
}
