//! Clients that say what cannot be, at any time and with anything attached.

use std::fs::File;
use std::os::fd::AsFd;

use uniddrv_abi::message::{FromCore, Harm, MAX_MESSAGE, Refusal, Rights, ToCore, decode, encode};

use crate::scene::Scene;
use uniddrv_tests::wire::{End, MOST_FDS, Random, hello, open};

/// One of each kind, none of which can be obeyed.
fn each_kind() -> Vec<ToCore> {
    let name = || "nvme:77/ns1".to_owned();
    vec![
        hello(),
        open(&name(), 1, 8),
        ToCore::Close { handle: 77 },
        ToCore::List { prefix: "nvme".into() },
        ToCore::Status { prefix: "x".into() },
        ToCore::Identify { name: name() },
        ToCore::Restart { name: name() },
        ToCore::Upgrade { name: name(), program: Some("/nowhere".into()) },
        ToCore::Revoke { name: name(), client: Some(77) },
        ToCore::Add { address: "vhost-user:/nowhere".into(), driver: Some("none".into()) },
        ToCore::Remove { address: "0000:ff:1f.7".into() },
        ToCore::Kill { name: name(), how: Harm::Arm { step: 1, count: 1 } },
    ]
}

/// Whether a message would be obeyed that ends or changes something: root's are.
fn is_order(bytes: &[u8]) -> bool {
    let harmless = |message| {
        matches!(
            message,
            ToCore::Hello { .. }
                | ToCore::Open { .. }
                | ToCore::Close { .. }
                | ToCore::List { .. }
                | ToCore::Status { .. }
                | ToCore::Identify { .. }
        )
    };
    decode::<ToCore>(bytes).is_ok_and(|message| !harmless(message))
}

#[test]
fn messages_cut_short_end_their_connection_and_nothing_else() {
    let scene = Scene::new();
    for message in each_kind() {
        let bytes = encode(&message).unwrap();
        for len in 0..bytes.len() {
            for greeted in [false, true] {
                let wire = if greeted { scene.greeted() } else { scene.wire() };
                assert!(wire.throw(&bytes[..len], &[]));
                // An empty datagram is what the end of a connection looks like.
                let wanted = if len == 0 { End::Silent } else { End::Refused(Refusal::Protocol) };
                assert_eq!(wire.end(), wanted, "{message:?} cut to {len}");
            }
        }
    }
    scene.unharmed();
}

#[test]
fn messages_that_are_too_long_end_their_connection_and_nothing_else() {
    let scene = Scene::new();
    for message in each_kind() {
        let bytes = encode(&message).unwrap();
        for behind in [1, 1000, MAX_MESSAGE - bytes.len(), MAX_MESSAGE + 1 - bytes.len(), 160_000] {
            let wire = scene.greeted();
            let mut long = bytes.clone();
            long.resize(bytes.len() + behind, 0);
            assert!(wire.throw(&long, &[]), "{} bytes", long.len());
            assert_eq!(wire.end(), End::Refused(Refusal::Protocol), "{message:?} and {behind}");
        }
    }
    scene.unharmed();
}

#[test]
fn random_bytes_end_their_connection_and_nothing_else() {
    let scene = Scene::new();
    let mut random = Random::new(1);
    let kinds = each_kind();
    for round in 0..1500 {
        let bytes = if round % 2 == 0 {
            let len = 1 + random.below(300) as usize;
            random.bytes(len)
        } else {
            let mut bytes = encode(&kinds[random.below(12) as usize]).unwrap();
            for _ in 0..=random.below(3) {
                let place = random.below(bytes.len() as u64) as usize;
                bytes[place] = random.next() as u8;
            }
            bytes
        };
        if is_order(&bytes) {
            continue;
        }
        let mut wire = scene.greeted();
        assert!(wire.throw(&bytes, &[]));
        if decode::<ToCore>(&bytes).is_err() {
            assert_eq!(wire.end(), End::Refused(Refusal::Protocol), "{bytes:x?}");
        } else {
            // Whatever it means: there is an answer.
            let _ = wire.control.receive_within::<FromCore>(uniddrv_tests::wait::PATIENCE).unwrap();
        }
    }
    scene.unharmed();
}

#[test]
fn messages_out_of_order_end_their_connection_and_nothing_else() {
    let scene = Scene::new();
    for message in each_kind().into_iter().skip(1) {
        let wire = scene.wire();
        wire.send(&message).unwrap();
        assert_eq!(wire.end(), End::Refused(Refusal::Protocol), "{message:?} before hello");
    }
    let wire = scene.greeted();
    wire.send(&hello()).unwrap();
    assert_eq!(wire.end(), End::Refused(Refusal::Protocol), "a second hello");
    // Also while an answer is awaited.
    let wire = scene.greeted();
    wire.send(&open("nvme:0/ns2", 1, 8)).unwrap();
    wire.send(&hello()).unwrap();
    assert_eq!(wire.end(), End::Refused(Refusal::Protocol), "a second hello behind an open");
    let wire = scene.wire();
    wire.send(&ToCore::Hello { version: 77, program: "old".into() }).unwrap();
    assert_eq!(wire.end(), End::Refused(Refusal::Version));
    scene.unharmed();
}

#[test]
fn a_handle_is_its_connections_alone() {
    let scene = Scene::new();
    let mut owner = scene.greeted();
    let opened = owner.open(&open("nvme:0/ns2", 1, 8)).unwrap();
    let mut thief = scene.greeted();
    for handle in (0..20).chain([opened.handle, u32::MAX]) {
        let answer = thief.ask(&ToCore::Close { handle });
        let refused = matches!(answer, FromCore::Refused { code: Refusal::NotFound, .. });
        assert!(refused, "{handle}: {answer:?}");
    }
    assert!(thief.is_alive() && owner.is_alive());
    let close = ToCore::Close { handle: opened.handle };
    assert_eq!(owner.ask(&close), FromCore::Done);
    assert!(matches!(owner.ask(&close), FromCore::Refused { code: Refusal::NotFound, .. }));
    // Twice before the first answer.
    let opened = owner.open(&open("nvme:0/ns2", 1, 8)).unwrap();
    let close = ToCore::Close { handle: opened.handle };
    owner.send(&close).unwrap();
    assert_eq!(owner.ask(&close), FromCore::Done);
    let (answer, _) =
        owner.control.receive_within::<FromCore>(uniddrv_tests::wait::PATIENCE).unwrap();
    assert!(matches!(answer, FromCore::Refused { code: Refusal::NotFound, .. }), "{answer:?}");
    drop((owner, thief));
    scene.unharmed();
}

#[test]
fn file_descriptors_that_nobody_asked_for_are_closed() {
    let scene = Scene::new();
    let file = File::open("/dev/null").unwrap();
    let (one, _other) = uniddrv::control::pair().unwrap();
    let odd = [
        vec![file.as_fd()],
        vec![file.as_fd(); 64],
        vec![file.as_fd(); 65],
        vec![file.as_fd(); MOST_FDS],
        vec![one.as_fd(); 7],
    ];
    for fds in &odd {
        for message in each_kind() {
            let wire = scene.greeted();
            assert!(wire.throw(&encode(&message).unwrap(), fds));
            assert_eq!(wire.end(), End::Refused(Refusal::Protocol), "{} fds", fds.len());
        }
        let wire = scene.wire();
        assert!(wire.throw(&[0xff; 100], fds));
        assert_eq!(wire.end(), End::Refused(Refusal::Protocol));
    }
    // Its own connection, to itself.
    let wire = scene.greeted();
    assert!(wire.throw(&encode(&hello()).unwrap(), &[wire.as_fd()]));
    assert_eq!(wire.end(), End::Refused(Refusal::Protocol));
    // Never read by the core, which has enough to do with the first.
    let wire = scene.greeted();
    wire.send(&open("nvme:0/ns2", 1, 8)).unwrap();
    while wire.throw(&encode(&hello()).unwrap(), &vec![file.as_fd(); MOST_FDS]) {}
    drop(wire);
    scene.unharmed();
}

#[test]
fn wishes_that_cannot_be_are_refused() {
    let scene = Scene::new();
    let mut wire = scene.greeted();
    let ask = |queues, depth, arena| ToCore::Open {
        name: "nvme:0/ns2".into(),
        rights: Rights::Write,
        queues,
        depth,
        arena,
    };
    let mut wishes = vec![ask(0, 8, 1), ask(1, 0, 1), ask(1, 8, u64::MAX), ask(1, 8, 1 << 63)];
    wishes.extend((17..=255).step_by(7).map(|queues| ask(queues, 8, 1)));
    wishes.extend([3, 5, 1023, 1025, 2048, 1 << 31, u32::MAX].map(|depth| ask(1, depth, 1)));
    wishes.extend((35..63).map(|bits| ask(1, 8, 1 << bits)));
    for wish in &wishes {
        let answer = wire.ask(wish);
        let refused = matches!(answer, FromCore::Refused { code: Refusal::Limit, .. });
        assert!(refused, "{wish:?}: {answer:?}");
    }
    let mut names = vec![
        String::new(),
        "/".into(),
        ":".into(),
        "nvme:".into(),
        "nvme:0".into(),
        "nvme:0/".into(),
        "nvme:0//ns2".into(),
        "nvme:0/ns2/".into(),
        "nvme:0/ns02".into(),
        "nvme:00/ns2".into(),
        "NVME:0/ns2".into(),
        "nvme:-1/ns2".into(),
        "nvme:4294967296/ns2".into(),
        "disk:4294967296".into(),
        "nvme:0/../ns2".into(),
        "nvme:0/ns2\0".into(),
        "nvme:0/ns2\u{1b}[2J".into(),
        "nvme:0/\u{202e}ns2".into(),
        "nvme:*/ns2".into(),
        "x".repeat(100_000),
        format!("nvme:0/{}", "y/".repeat(50_000)),
        "\u{10ffff}".repeat(30_000),
    ];
    names.extend((0..64).map(|byte| format!("nvme:0{}ns2", char::from(byte))));
    names.retain(|name| name != "nvme:0/ns2");
    for name in names {
        for question in [
            open(&name, 1, 8),
            ToCore::Identify { name: name.clone() },
            ToCore::List { prefix: name },
        ] {
            let text = format!("{question:?}").chars().take(100).collect::<String>();
            match wire.ask(&question) {
                FromCore::Refused { code: Refusal::NotFound, text } => {
                    assert!(text.len() < 2000, "it is repeated at length");
                }
                FromCore::Names(_) | FromCore::Identity { .. } => {}
                answer => panic!("{text}: {answer:?}"),
            }
        }
    }
    // It may ask for something that can be, all the same.
    assert!(wire.open(&open("nvme:0/ns2", 16, 1024)).is_ok());
    drop(wire);
    scene.unharmed();
}
