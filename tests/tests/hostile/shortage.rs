//! A core that has too little of something, for clients that want too much.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use uniddrv::client::Harm;
use uniddrv_abi::message::{FromCore, Refusal, Rights, ToCore};
use uniddrv_tests::bystander::Bystander;
use uniddrv_tests::wait::{PATIENCE, until};
use uniddrv_tests::wire::{Opened, Wire, hello, open};

use crate::host::{Host, Setup};
use crate::scene::Scene;

#[test]
fn without_file_descriptors_clients_are_refused_and_drivers_replaced() {
    let host = Setup::nvme().limit("ulimit -n 300").run();
    let bystander = Bystander::new(&host.socket(), "nvme:0/ns1");
    let core = host.connect();
    let before = host.driver();
    let mut guests = Vec::new();
    let mut refused = 0;
    for _ in 0..400 {
        let mut wire = Wire::new(&host.socket());
        let _ = wire.send(&hello());
        match wire.control.receive_within::<FromCore>(PATIENCE).unwrap().0 {
            FromCore::Welcome { .. } => guests.push(wire),
            FromCore::Refused { code: Refusal::Limit, .. } => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 100 && guests.len() > 20, "{} in, {refused} refused", guests.len());
    let answer = guests[0].open(&open("nvme:0/ns2", 16, 8));
    assert_eq!(answer.err(), Some(Refusal::Limit));
    for deaths in 1..=3 {
        core.kill("nvme:0", Harm::Kill).unwrap();
        until("no successor takes over", || {
            let status = core.status("nvme:0").unwrap().pop().unwrap();
            let there = status.restarts == before.restarts + deaths;
            (there && status.warm && status.state == "running").then_some(())
        });
        bystander.goes_on(50);
    }
    // Those that go make room.
    guests.clear();
    let _ = until("nobody gets in any more", || {
        let mut wire = Wire::new(&host.socket());
        let _ = wire.send(&hello());
        let (answer, _) = wire.control.receive_within::<FromCore>(PATIENCE).unwrap();
        matches!(answer, FromCore::Welcome { .. }).then_some(wire)
    });
    bystander.end();
}

#[test]
fn without_memory_arenas_are_refused_and_nobody_is_disturbed() {
    arenas_run_out(Host::pid, Refusal::Limit);
}

#[test]
fn without_memory_in_the_model_arenas_are_refused_and_nobody_is_disturbed() {
    arenas_run_out(Host::model, Refusal::Failed);
}

/// Bytes of a client's arena.
const ARENA: u64 = 64 << 20;

/// Clients ask for more arenas than the process `who` has room to map, and are refused with `code`.
fn arenas_run_out(who: impl Fn(&Host) -> u32, code: Refusal) {
    let scene = Scene::new();
    // What a process maps is for the allocator mostly, as much as its threads happened to need:
    // the limit is on what comes. Half an arena stays.
    allow_beyond(who(&scene.host), 4 * ARENA + ARENA / 2);
    let mut held: Vec<(Wire, Opened)> = Vec::new();
    let question = ToCore::Open {
        name: "nvme:0/ns2".into(),
        rights: Rights::Read,
        queues: 1,
        depth: 8,
        arena: ARENA,
    };
    let mut refused = 0;
    for _ in 0..30 {
        let mut wire = scene.greeted();
        match wire.open(&question) {
            Ok(opened) => held.push((wire, opened)),
            Err(refusal) => {
                assert_eq!(refusal, code);
                assert!(wire.is_alive());
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && !held.is_empty(), "{} held, {refused} refused", held.len());
    scene.goes_on();
    held.clear();
    let mut wire = scene.greeted();
    until("memory does not come back", || wire.open(&question).ok());
    drop(wire);
    scene.unharmed();
}

/// Lets the process `pid` map no more than `bytes` beyond what it maps now.
fn allow_beyond(pid: u32, bytes: u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size: u64 = size.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    let limit = Some(size * 1024 + bytes);
    let limit = Rlimit { current: limit, maximum: limit };
    prlimit(Pid::from_raw(pid.try_into().unwrap()), Resource::As, limit).unwrap();
}
