//! Opening, closing, and what drivers die of.

use uniddrv::client::OpenOptions;

use crate::User;
use crate::host::{Setup, after_death, status};

#[test]
fn a_name_is_opened_used_and_closed() {
    let host = Setup::new("honest").start();
    assert_eq!(host.ready(), "nvme:0 nvme:0/ns1 nvme:0/ns2");
    let core = host.connect();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
    let now = status(&core);
    assert_eq!((now.state.as_str(), now.restarts, now.ios), ("running", 0, 1));
    assert_eq!(now.holders.len(), 1);
    drop(user);
}

#[test]
fn a_successor_takes_over() {
    let host = Setup::new("honest").start();
    host.ready();
    let core = host.connect();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.once();
    user.command(1);
    assert_eq!(user.reap(1), 1);
    user.once();
    let death = after_death(&core, 1, "running");
    assert_eq!(death.recovery, "adopted", "{death:?}");
}
