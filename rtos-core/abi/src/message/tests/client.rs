use super::super::*;
use super::{Golden, check};

fn to_core() -> Vec<Golden<ToCore>> {
    let kill = |how| ToCore::Kill { name: "a".into(), how };
    vec![
        (ToCore::Hello { version: 1, program: "bench".into() }, b"\x00\x01\x05bench"),
        (
            ToCore::Open {
                name: "nvme:0/ns1".into(),
                rights: Rights::Write,
                queues: 2,
                depth: 128,
                arena: 1 << 21,
            },
            b"\x01\x0anvme:0/ns1\x01\x02\x80\x01\x80\x80\x80\x01",
        ),
        (
            ToCore::Open {
                name: "x".into(),
                rights: Rights::Read,
                queues: 255,
                depth: 1,
                arena: 0,
            },
            b"\x01\x01x\x00\xff\x01\x00",
        ),
        (ToCore::Close { handle: 300 }, b"\x02\xac\x02"),
        (ToCore::List { prefix: String::new() }, b"\x03\x00"),
        (ToCore::Status { prefix: "nvme:".into() }, b"\x04\x05nvme:"),
        (ToCore::Identify { name: "nvme:0".into() }, b"\x05\x06nvme:0"),
        (ToCore::Restart { name: "nvme:0".into() }, b"\x06\x06nvme:0"),
        (ToCore::Upgrade { name: "a".into(), program: None }, b"\x07\x01a\x00"),
        (ToCore::Upgrade { name: "a".into(), program: Some("/b".into()) }, b"\x07\x01a\x01\x02/b"),
        (ToCore::Revoke { name: "a".into(), client: None }, b"\x08\x01a\x00"),
        (ToCore::Revoke { name: "a".into(), client: Some(7) }, b"\x08\x01a\x01\x07"),
        (ToCore::Add { address: "m".into(), driver: None }, b"\x09\x01m\x00"),
        (ToCore::Add { address: "m".into(), driver: Some("d".into()) }, b"\x09\x01m\x01\x01d"),
        (ToCore::Remove { address: "m".into() }, b"\x0a\x01m"),
        (kill(Harm::Kill), b"\x0b\x01a\x00"),
        (kill(Harm::Fault), b"\x0b\x01a\x01"),
        (kill(Harm::Abort), b"\x0b\x01a\x02"),
        (kill(Harm::Hang), b"\x0b\x01a\x03"),
        (kill(Harm::Arm { step: 9, count: 200 }), b"\x0b\x01a\x04\x09\xc8\x01"),
        (kill(Harm::Scramble), b"\x0b\x01a\x05"),
        (ToCore::Stop, b"\x0c"),
    ]
}

fn refusals() -> Vec<Golden<FromCore>> {
    let refused = |code| FromCore::Refused { code, text: "no".into() };
    vec![
        (refused(Refusal::Protocol), b"\x02\x00\x02no"),
        (refused(Refusal::NotFound), b"\x02\x01\x02no"),
        (refused(Refusal::Denied), b"\x02\x02\x02no"),
        (refused(Refusal::Limit), b"\x02\x03\x02no"),
        (refused(Refusal::NotReady), b"\x02\x04\x02no"),
        (refused(Refusal::Failed), b"\x02\x05\x02no"),
        (refused(Refusal::Version), b"\x02\x06\x02no"),
    ]
}

fn target() -> Target {
    Target {
        path: "ns1".into(),
        id: 1,
        block_size: 4096,
        blocks: 1 << 14,
        max_transfer: 0x2_0000,
        volatile_write_cache: false,
    }
}

fn holder() -> Holder {
    Holder {
        client: 2,
        pid: 1000,
        uid: 1000,
        program: "fio".into(),
        rights: Rights::Read,
        queues: 1,
        ios: 128,
    }
}

fn names() -> Vec<Golden<FromCore>> {
    let name = |name: &str, target, holders| Name {
        name: name.into(),
        address: "model:nvme".into(),
        target,
        holders,
    };
    vec![
        (FromCore::Names(vec![]), b"\x04\x00"),
        (
            FromCore::Names(vec![
                name("nvme:0", None, vec![]),
                name("nvme:0/ns1", Some(target()), vec![holder()]),
            ]),
            b"\x04\x02\x06nvme:0\x0amodel:nvme\x00\x00\
              \x0anvme:0/ns1\x0amodel:nvme\
              \x01\x03ns1\x01\x80\x20\x80\x80\x01\x80\x80\x08\x00\
              \x01\x02\xd0\x0f\xe8\x07\x03fio\x00\x01\x80\x01",
        ),
    ]
}

fn status() -> Golden<FromCore> {
    let death = Death {
        time: 1,
        pid: -1,
        cause: "hung".into(),
        last_words: Some("oh".into()),
        request: None,
        recovery: "adopted".into(),
        detection_ns: 2,
        hand_over_ns: 3,
        adoption_ns: 4,
        first_completion_ns: 5,
    };
    let driver = DriverStatus {
        name: "nvme:0".into(),
        address: "m".into(),
        driver: "d".into(),
        state: "running".into(),
        pid: 64,
        cpu: Some(1),
        warm: true,
        asleep: false,
        in_flight: 6,
        ios: 7,
        errors: 8,
        bytes_read: 9,
        bytes_written: 10,
        elapsed_ns: 11,
        iops: 1.0,
        bytes_per_second: -2.0,
        latency_ns: [12, 13, 14, 128],
        restarts: 15,
        adoptions: 16,
        resets: 17,
        deaths: vec![death],
        holders: vec![holder()],
    };
    (
        FromCore::Status(vec![driver]),
        b"\x05\x01\x06nvme:0\x01m\x01d\x07running\x80\x01\x01\x01\x01\x00\
          \x06\x07\x08\x09\x0a\x0b\
          \x00\x00\x00\x00\x00\x00\xf0\x3f\x00\x00\x00\x00\x00\x00\x00\xc0\
          \x0c\x0d\x0e\x80\x01\x0f\x10\x11\
          \x01\x01\x01\x04hung\x01\x02oh\x00\x07adopted\x02\x03\x04\x05\
          \x01\x02\xd0\x0f\xe8\x07\x03fio\x00\x01\x80\x01",
    )
}

fn from_core() -> Vec<Golden<FromCore>> {
    let mut golden: Vec<Golden<FromCore>> = vec![
        (FromCore::Welcome { version: 1, client: 128 }, b"\x00\x01\x80\x01"),
        (FromCore::Done, b"\x01"),
    ];
    golden.extend(refusals());
    golden.push((
        FromCore::Opened {
            handle: 5,
            target: target(),
            arena: 1 << 21,
            depth: 32,
            in_flight: 64,
            queues: 2,
        },
        b"\x03\x05\x03ns1\x01\x80\x20\x80\x80\x01\x80\x80\x08\x00\
          \x80\x80\x80\x01\x20\x40\x02",
    ));
    golden.extend(names());
    golden.push((FromCore::Status(vec![]), b"\x05\x00"));
    golden.push(status());
    golden.push((
        FromCore::Identity { kind: "nvme".into(), bytes: vec![0, 0x80] },
        b"\x06\x04nvme\x02\x00\x80",
    ));
    golden.push((FromCore::Closed { handle: 5, text: "revoked".into() }, b"\x07\x05\x07revoked"));
    golden
}

pub(super) fn all() -> Vec<&'static [u8]> {
    let to = to_core().into_iter().map(|(_, bytes)| bytes);
    to.chain(from_core().into_iter().map(|(_, bytes)| bytes)).collect()
}

#[test]
fn to_core_is_as_it_was() {
    check(&to_core(), 13, |message| match message {
        ToCore::Hello { .. } => 0,
        ToCore::Open { rights: Rights::Read | Rights::Write, .. } => 1,
        ToCore::Close { .. } => 2,
        ToCore::List { .. } => 3,
        ToCore::Status { .. } => 4,
        ToCore::Identify { .. } => 5,
        ToCore::Restart { .. } => 6,
        ToCore::Upgrade { .. } => 7,
        ToCore::Revoke { .. } => 8,
        ToCore::Add { .. } => 9,
        ToCore::Remove { .. } => 10,
        ToCore::Kill { how, .. } => match how {
            Harm::Kill
            | Harm::Fault
            | Harm::Abort
            | Harm::Hang
            | Harm::Arm { .. }
            | Harm::Scramble => 11,
        },
        ToCore::Stop => 12,
    });
    assert!(decode::<ToCore>(b"\x0b\x01a\x06").is_err(), "there is no sixth harm");
    assert!(decode::<ToCore>(b"\x01\x01x\x02\x01\x01\x00").is_err(), "there is no third right");
}

#[test]
fn from_core_is_as_it_was() {
    check(&from_core(), 8, |message| match message {
        FromCore::Welcome { .. } => 0,
        FromCore::Done => 1,
        FromCore::Refused { code, .. } => match code {
            Refusal::Protocol
            | Refusal::NotFound
            | Refusal::Denied
            | Refusal::Limit
            | Refusal::NotReady
            | Refusal::Failed
            | Refusal::Version => 2,
        },
        FromCore::Opened { .. } => 3,
        FromCore::Names(_) => 4,
        FromCore::Status(_) => 5,
        FromCore::Identity { .. } => 6,
        FromCore::Closed { .. } => 7,
    });
    assert!(decode::<FromCore>(b"\x02\x07\x02no").is_err(), "there is no seventh refusal");
}

/// Rights are compared: who may write may read.
#[test]
fn rights_rise() {
    assert!(Rights::Read < Rights::Write);
}
