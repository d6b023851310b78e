//! Opening, listing, closing and revoking.

use uniddrv::client::{OpenOptions, Rights};

use crate::User;
use crate::host::{Setup, core_host, status, until};

#[test]
fn a_name_is_opened_used_and_closed() {
    let host = Setup::new("honest").start();
    assert_eq!(host.ready(), "nvme:0 nvme:0/ns1 nvme:0/ns2");
    let core = host.connect();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
    let now = status(&core);
    assert_eq!((now.state.as_str(), now.restarts, now.ios), ("running", 0, 1));
    assert_eq!((now.holders.len(), now.holders[0].ios), (1, 1));
    assert_eq!(now.holders[0].pid, i32::try_from(std::process::id()).unwrap());
    assert_eq!(core.identify("nvme:0").unwrap(), ("fake".into(), b"fake".to_vec()));
    drop(user);
    until(|| status(&core).holders.is_empty().then_some(()));
    // What ended clients did still counts.
    assert_eq!(status(&core).ios, 1);
}

#[test]
fn names_are_listed_with_their_holders() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let list = |prefix: &str| -> Vec<String> {
        core.names(prefix).unwrap().into_iter().map(|name| name.name).collect()
    };
    assert_eq!(list(""), ["disk:0", "disk:1", "nvme:0", "nvme:0/ns1", "nvme:0/ns2"]);
    assert_eq!(list("nvme:0/"), ["nvme:0/ns1", "nvme:0/ns2"]);
    assert!(list("net:").is_empty());
    let options = OpenOptions { rights: Rights::Read, queues: 2, ..OpenOptions::default() };
    let _client = core.open("disk:1", &options).unwrap();
    let names = core.names("nvme:0/ns2").unwrap();
    let holder = &names[0].holders[0];
    assert_eq!((holder.rights, holder.queues, holder.client), (Rights::Read, 2, core.client()));
    assert!(core.names("nvme:0/ns1").unwrap()[0].holders.is_empty());
    for name in ["nvme:1/ns1", "nvme:0/ns9", "nvme:0", "disk:7", "no name", ""] {
        let error = core.open(name, &OpenOptions::default()).err().unwrap();
        assert!(error.is_not_found(), "{name}: {error}");
    }
}

#[test]
fn queues_run_out_and_come_back() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let many = OpenOptions { queues: 16, depth: 32, arena: 1 << 21, ..OpenOptions::default() };
    let mut clients: Vec<_> = (0..4).map(|_| core.open("nvme:0/ns1", &many).unwrap()).collect();
    let one = OpenOptions { queues: 1, ..many.clone() };
    let error = core.open("nvme:0/ns1", &one).err().unwrap().to_string();
    assert!(error.contains("no 1 queues left"), "{error}");
    clients.pop();
    until(|| core.open("nvme:0/ns1", &one).ok());
}

#[test]
fn what_is_revoked_ends_for_its_client_alone() {
    let host = Setup::new("honest").start();
    host.ready();
    let (core, other) = (host.connect(), host.connect());
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    let mut bystander = User::new(other.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
    bystander.once();
    let orders = host.connect();
    orders.revoke("nvme:0/ns1", Some(core.client())).unwrap();
    let text = until(|| user.client.closed());
    assert!(text.contains("revoked"), "{text}");
    bystander.once();
    assert!(orders.revoke("nvme:0/ns1", Some(999_999)).is_err());
    // The connection stays, and may open it again.
    let mut again = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    again.once();
    orders.revoke("nvme:0", None).unwrap();
    until(|| {
        (again.client.closed().is_some() && bystander.client.closed().is_some()).then_some(())
    });
    assert_eq!(status(&orders).state, "running");
}

#[test]
fn a_client_that_is_killed_leaves_nothing_behind() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    for _ in 0..5 {
        let socket = host.setup.socket();
        let mut client = core_host()
            .args(["hold".as_ref(), socket.as_os_str(), "nvme:0/ns1".as_ref()])
            .spawn()
            .unwrap();
        until(|| (status(&core).holders.len() == 1).then_some(()));
        client.kill().unwrap();
        client.wait().unwrap();
        until(|| status(&core).holders.is_empty().then_some(()));
    }
    assert_eq!(status(&core).restarts, 0);
}

#[test]
fn ten_thousand_openings() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let options = OpenOptions { depth: 2, arena: 1 << 21, ..OpenOptions::default() };
    // The successor has files, too.
    until(|| status(&core).warm.then_some(()));
    let before = host.files();
    for _ in 0..10_000 {
        drop(core.open("nvme:0/ns1", &options).unwrap());
    }
    drop(core);
    let core = host.connect();
    until(|| status(&core).holders.is_empty().then_some(()));
    let after = until(|| Some(host.files()).filter(|&after| after <= before + 2));
    assert!(after <= before + 2, "{before} file descriptors, then {after}");
    // Connections, too.
    for _ in 0..1_000 {
        drop(host.connect());
    }
    let mut user = User::new(core.open("nvme:0/ns1", &options).unwrap());
    user.once();
}
