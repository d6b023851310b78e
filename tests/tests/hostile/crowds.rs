//! Clients that come, open and go without end, and die in between.

use std::thread;

use uniddrv_abi::message::{FromCore, Refusal, ToCore};
use uniddrv_tests::wait::PATIENCE;
use uniddrv_tests::wire::{Random, Wire, hello, open};

use crate::scene::Scene;

#[test]
fn connections_without_end_disturb_nobody() {
    let scene = Scene::new();
    for round in 0..2000 {
        let wire = scene.wire();
        if round % 2 == 0 {
            let _ = wire.send(&hello());
        }
    }
    scene.goes_on();
    // As many at once as there may be, and more.
    let mut guests = Vec::new();
    let mut refused = 0;
    for _ in 0..1100 {
        let mut wire = scene.wire();
        let _ = wire.send(&hello());
        match wire.control.receive_within::<FromCore>(PATIENCE).unwrap().0 {
            FromCore::Welcome { .. } => guests.push(wire),
            FromCore::Refused { code: Refusal::Limit, .. } => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(refused >= 70 && guests.len() > 100, "{} in, {refused} refused", guests.len());
    scene.goes_on();
    drop(guests);
    scene.unharmed();
}

#[test]
fn names_opened_without_end_disturb_nobody() {
    let scene = Scene::new();
    let mut wire = scene.greeted();
    // Opened and closed.
    for _ in 0..300 {
        let opened = wire.open(&open("nvme:0/ns2", 2, 16)).unwrap();
        assert_eq!(wire.ask(&ToCore::Close { handle: opened.handle }), FromCore::Done);
    }
    // And never closed: as many as there are queues.
    let mut kept = Vec::new();
    for _ in 0..10_000 {
        match wire.open(&open("nvme:0/ns2", 1, 16)) {
            Ok(opened) => kept.push(opened),
            Err(code) => assert_eq!(code, Refusal::Limit),
        }
    }
    assert_eq!(kept.len(), 63, "the bystander has one queue");
    drop((wire, kept));
    scene.unharmed();
}

#[test]
fn clients_that_die_at_any_moment_leave_nothing() {
    let scene = Scene::new();
    thread::scope(|scope| {
        for seed in 0..4 {
            let socket = scene.host.socket();
            scope.spawn(move || {
                let mut random = Random::new(seed);
                for _ in 0..150 {
                    let wire = Wire::new(&socket);
                    let steps = random.below(5);
                    if steps >= 1 {
                        let _ = wire.send(&hello());
                    }
                    if steps >= 2 {
                        let queues = 1 + random.below(4) as u8;
                        let _ = wire.send(&open("nvme:0/ns2", queues, 32));
                    }
                    if steps >= 3 {
                        let _ = wire.send(&open("nvme:0/ns2", 1, 32));
                    }
                    if steps >= 4 {
                        let _ = wire.send(&ToCore::Status { prefix: String::new() });
                    }
                    // At any point of what that brings about.
                    let end = random.below(3000);
                    thread::sleep(std::time::Duration::from_micros(end));
                }
            });
        }
    });
    scene.unharmed();
}

#[test]
fn one_who_never_reads_is_sent_away() {
    let scene = Scene::new();
    let wire = scene.greeted();
    let question = ToCore::Status { prefix: String::new() };
    let mut ended = false;
    for _ in 0..200_000 {
        match wire.send(&question) {
            Ok(()) => {}
            Err(uniddrv::control::ControlError::Full) => thread::yield_now(),
            Err(_) => {
                ended = true;
                break;
            }
        }
    }
    assert!(ended, "it is asked on and on");
    scene.unharmed();
}

#[test]
fn questions_without_end_disturb_nobody() {
    let scene = Scene::new();
    thread::scope(|scope| {
        for _ in 0..4 {
            let socket = scene.host.socket();
            scope.spawn(move || {
                let mut wire = Wire::greeted(&socket);
                for round in 0..2000 {
                    let prefix = String::new();
                    let question = match round % 3 {
                        0 => ToCore::List { prefix },
                        1 => ToCore::Status { prefix },
                        _ => ToCore::Identify { name: "nvme:0".into() },
                    };
                    wire.ask(&question);
                }
            });
        }
        scene.goes_on();
    });
    scene.unharmed();
}
