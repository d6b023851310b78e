use super::super::*;
use super::{Golden, check};

fn to_device() -> Vec<Golden<ToDevice>> {
    vec![
        (ToDevice::ReadConfig { offset: 0x104, len: 4 }, b"\x00\x84\x02\x04"),
        (ToDevice::WriteConfig { offset: 4, data: vec![6, 1] }, b"\x01\x04\x02\x06\x01"),
        (ToDevice::Bar { bar: 5 }, b"\x02\x05"),
        (ToDevice::ReadBar { bar: 0, offset: 0x1000, len: 8 }, b"\x03\x00\x80\x20\x08"),
        (
            ToDevice::WriteBar { bar: 0, offset: 0x14, data: vec![1, 0, 0x46, 0] },
            b"\x04\x00\x14\x04\x01\x00\x46\x00",
        ),
        (ToDevice::Reset, b"\x05"),
        (ToDevice::Lost, b"\x06"),
    ]
}

fn from_device() -> Vec<Golden<FromDevice>> {
    vec![
        (FromDevice::Done, b"\x00"),
        (FromDevice::Data(vec![1, 2, 3, 0xff]), b"\x01\x04\x01\x02\x03\xff"),
        (FromDevice::Bar { size: 0x4000 }, b"\x02\x80\x80\x01"),
        (FromDevice::Lost(None), b"\x03\x00"),
        (FromDevice::Lost(Some("unplugged".into())), b"\x03\x01\x09unplugged"),
        (FromDevice::Refused { gone: true, text: "no".into() }, b"\x04\x01\x02no"),
    ]
}

pub(super) fn all() -> Vec<&'static [u8]> {
    let to = to_device().into_iter().map(|(_, bytes)| bytes);
    to.chain(from_device().into_iter().map(|(_, bytes)| bytes)).collect()
}

#[test]
fn to_device_is_as_it_was() {
    check(&to_device(), 7, |message| match message {
        ToDevice::ReadConfig { .. } => 0,
        ToDevice::WriteConfig { .. } => 1,
        ToDevice::Bar { .. } => 2,
        ToDevice::ReadBar { .. } => 3,
        ToDevice::WriteBar { .. } => 4,
        ToDevice::Reset => 5,
        ToDevice::Lost => 6,
    });
}

#[test]
fn from_device_is_as_it_was() {
    check(&from_device(), 5, |message| match message {
        FromDevice::Done => 0,
        FromDevice::Data(_) => 1,
        FromDevice::Bar { .. } => 2,
        FromDevice::Lost(_) => 3,
        FromDevice::Refused { .. } => 4,
    });
}
