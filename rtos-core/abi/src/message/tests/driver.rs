use super::super::*;
use super::{Golden, check};

fn to_driver() -> Vec<Golden<ToDriver>> {
    let settings = Settings { depth: 1024, timeout_ms: 30_000, sleep: true, spin_us: 100 };
    let prepare = |windows| ToDriver::Prepare {
        version: 1,
        address: "0000:03:00.0".into(),
        arena_iova: 1 << 32,
        arena_len: 2 << 20,
        windows,
        settings,
    };
    let window = BarWindow { bar: 2, start: 0x1000, len: 0x2000, offset: 0x3000 };
    let client = |rights, queues: &[u8], new| {
        ToDriver::Attach(Client {
            client: 3,
            target: 1,
            rights,
            arena_iova: 0x20_0000,
            arena_len: 0x80,
            depth: 32,
            queues: queues.to_vec(),
            limits: Limits { in_flight: 64, iops: 128, bytes_per_second: 256, weight: 2 },
            new,
        })
    };
    vec![
        (
            prepare(vec![]),
            b"\x00\x01\x0c0000:03:00.0\x80\x80\x80\x80\x10\x80\x80\x80\x01\x00\
              \x80\x08\xb0\xea\x01\x01\x64",
        ),
        (
            prepare(vec![window, BarWindow { bar: 4, start: 0, len: 1, offset: 2 }]),
            b"\x00\x01\x0c0000:03:00.0\x80\x80\x80\x80\x10\x80\x80\x80\x01\x02\
              \x02\x80\x20\x80\x40\x80\x60\x04\x00\x01\x02\
              \x80\x08\xb0\xea\x01\x01\x64",
        ),
        (ToDriver::Begin(Beginning::Fresh), b"\x01\x00"),
        (ToDriver::Begin(Beginning::Adopt), b"\x01\x01"),
        (ToDriver::Begin(Beginning::Reset), b"\x01\x02"),
        (ToDriver::Begin(Beginning::Renew), b"\x01\x03"),
        (
            client(Rights::Read, &[0, 63], true),
            b"\x02\x03\x01\x00\x80\x80\x80\x01\x80\x01\x20\x02\x00\x3f\
              \x40\x80\x01\x80\x02\x02\x01",
        ),
        (
            client(Rights::Write, &[], false),
            b"\x02\x03\x01\x01\x80\x80\x80\x01\x80\x01\x20\x00\
              \x40\x80\x01\x80\x02\x02\x00",
        ),
        (ToDriver::Detach { client: 3 }, b"\x03\x03"),
        (ToDriver::Quiesce, b"\x04"),
        (ToDriver::Stop, b"\x05"),
        (ToDriver::Wake, b"\x06"),
    ]
}

fn from_driver() -> Vec<Golden<FromDriver>> {
    let target = Target {
        path: "ns1".into(),
        id: 1,
        block_size: 512,
        blocks: 1 << 21,
        max_transfer: 0x2_0000,
        volatile_write_cache: true,
    };
    let up = |adopted, reason, targets| FromDriver::Up {
        adopted,
        reason,
        targets,
        kind: "nvme".into(),
        identity: vec![0xff, 0],
    };
    vec![
        (FromDriver::Ready, b"\x00"),
        (up(true, None, vec![]), b"\x01\x01\x00\x00\x04nvme\x02\xff\x00"),
        (
            up(false, Some("CFS".into()), vec![target]),
            b"\x01\x00\x01\x03CFS\x01\x03ns1\x01\x80\x04\x80\x80\x80\x01\x80\x80\x08\x01\
              \x04nvme\x02\xff\x00",
        ),
        (FromDriver::Attached { client: 3 }, b"\x02\x03"),
        (FromDriver::Detached { client: 3 }, b"\x03\x03"),
        (FromDriver::Hostile { client: 3, text: "lied".into() }, b"\x04\x03\x04lied"),
        (FromDriver::Poisoned { client: 3, text: "read".into() }, b"\x05\x03\x04read"),
        (FromDriver::Unreadable { text: "state 9".into() }, b"\x06\x07state 9"),
        (FromDriver::Quiesced, b"\x07"),
        (FromDriver::Failed { gone: true, text: "gone".into() }, b"\x08\x01\x04gone"),
        (FromDriver::Awake, b"\x09"),
        (FromDriver::Log { level: 3, text: "up".into() }, b"\x0a\x03\x02up"),
    ]
}

pub(super) fn all() -> Vec<&'static [u8]> {
    let to = to_driver().into_iter().map(|(_, bytes)| bytes);
    to.chain(from_driver().into_iter().map(|(_, bytes)| bytes)).collect()
}

#[test]
fn to_driver_is_as_it_was() {
    check(&to_driver(), 7, |message| match message {
        ToDriver::Prepare { .. } => 0,
        ToDriver::Begin(
            Beginning::Fresh | Beginning::Adopt | Beginning::Reset | Beginning::Renew,
        ) => 1,
        ToDriver::Attach(_) => 2,
        ToDriver::Detach { .. } => 3,
        ToDriver::Quiesce => 4,
        ToDriver::Stop => 5,
        ToDriver::Wake => 6,
    });
    assert!(decode::<ToDriver>(b"\x01\x04").is_err());
}

#[test]
fn from_driver_is_as_it_was() {
    check(&from_driver(), 11, |message| match message {
        FromDriver::Ready => 0,
        FromDriver::Up { .. } => 1,
        FromDriver::Attached { .. } => 2,
        FromDriver::Detached { .. } => 3,
        FromDriver::Hostile { .. } => 4,
        FromDriver::Poisoned { .. } => 5,
        FromDriver::Unreadable { .. } => 6,
        FromDriver::Quiesced => 7,
        FromDriver::Failed { .. } => 8,
        FromDriver::Awake => 9,
        FromDriver::Log { .. } => 10,
    });
}
