use super::super::dword_at;
use super::*;
use proptest::prelude::*;
use std::{string::ToString, vec, vec::Vec};

/// Configuration space with capabilities (offset, id, next), the first of them first.
fn space(list: &[(usize, u8, u8)]) -> Vec<u8> {
    let mut bytes = vec![0; 256];
    bytes[6] = 0x10;
    bytes[0x34] = list.first().map_or(0, |(offset, _, _)| *offset as u8);
    for (offset, id, next) in list {
        bytes[*offset] = *id;
        bytes[*offset + 1] = *next;
    }
    bytes
}

fn walk(bytes: &[u8]) -> Vec<Result<(CapabilityId, usize), ListError>> {
    Capabilities::new(|offset| dword_at(bytes, offset))
        .unwrap()
        .map(|found| found.map(|capability| (capability.id, capability.offset)))
        .collect()
}

#[test]
fn an_honest_list() {
    let bytes = space(&[(0x40, 0x11, 0x80), (0x80, 0x10, 0x60), (0x60, 0x01, 0)]);
    assert_eq!(
        walk(&bytes),
        [
            Ok((CapabilityId::MSI_X, 0x40)),
            Ok((CapabilityId::EXPRESS, 0x80)),
            Ok((CapabilityId::POWER_MANAGEMENT, 0x60)),
        ]
    );
    let read = |offset| dword_at(&bytes, offset);
    assert_eq!(find(read, CapabilityId::EXPRESS), Ok(Some(0x80)));
    assert_eq!(find(read, CapabilityId::MSI), Ok(None));
}

#[test]
fn no_list() {
    let mut bytes = space(&[(0x40, 0x11, 0)]);
    bytes[6] = 0;
    assert_eq!(walk(&bytes), []);
    assert_eq!(walk(&space(&[])), []);
}

#[test]
fn reserved_bits_of_pointers_are_masked() {
    let bytes = space(&[(0x40, 0x11, 0x83), (0x80, 0x10, 3)]);
    let expected = [Ok((CapabilityId::MSI_X, 0x40)), Ok((CapabilityId::EXPRESS, 0x80))];
    assert_eq!(walk(&bytes), expected);
}

#[test]
fn lies() {
    let circle = space(&[(0x40, 0x11, 0x80), (0x80, 0x10, 0x40)]);
    assert_eq!(walk(&circle).len(), 3);
    assert_eq!(walk(&circle)[2], Err(ListError::Loop { from: 0x81, to: 0x40 }));
    let own = space(&[(0x40, 0x11, 0x40)]);
    assert_eq!(walk(&own)[1], Err(ListError::Loop { from: 0x41, to: 0x40 }));
    let header = space(&[(0x40, 0x11, 0x3c)]);
    let error = walk(&header)[1].unwrap_err();
    assert_eq!(error, ListError::OutOfRange { from: 0x41, to: 0x3c });
    assert_eq!(
        error.to_string(),
        "capability pointer at 0x41 leads to 0x3c, where no capability can be"
    );
    let short = &space(&[(0x40, 0x11, 0xf0)])[..0x80];
    assert_eq!(walk(short)[1], Err(ListError::Unreadable { at: 0xf0 }));
    let gone = Capabilities::new(|_| Some(u32::MAX));
    assert_eq!(gone.err(), Some(ListError::Unreadable { at: 6 }));
    let empty = Capabilities::new(|offset| dword_at(&[], offset));
    assert_eq!(empty.err(), Some(ListError::Unreadable { at: 6 }));
}

/// Extended configuration space with capabilities (offset, id, next).
fn extended(list: &[(usize, u16, u16)]) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    for (offset, id, next) in list {
        let header = ExtendedHeader::default().with_id(*id).with_version(1).with_next(*next);
        bytes[*offset..*offset + 4].copy_from_slice(&header.bits().to_le_bytes());
    }
    bytes
}

fn walk_extended(bytes: &[u8]) -> Vec<Result<(u16, usize), ListError>> {
    ExtendedCapabilities::new(|offset| dword_at(bytes, offset))
        .map(|found| found.map(|capability| (capability.id.0, capability.offset)))
        .collect()
}

#[test]
fn the_extended_list() {
    check_fields!(ExtendedHeader);
    let bytes = extended(&[(0x100, 1, 0x148), (0x148, 3, 0xffc), (0xffc, 0x10, 0)]);
    assert_eq!(bytes[0x100..0x104], [0x01, 0x00, 0x81, 0x14]);
    assert_eq!(walk_extended(&bytes), [Ok((1, 0x100)), Ok((3, 0x148)), Ok((0x10, 0xffc))]);
    assert_eq!(walk_extended(&extended(&[])), []);
    assert_eq!(walk_extended(&[0; 256]), []);
    assert_eq!(walk_extended(&[0xff; 4096]), []);
}

#[test]
fn lies_in_the_extended_list() {
    let own = extended(&[(0x100, 1, 0x100)]);
    assert_eq!(walk_extended(&own)[1], Err(ListError::Loop { from: 0x100, to: 0x100 }));
    let circle = extended(&[(0x100, 1, 0x200), (0x200, 2, 0x102)]);
    assert_eq!(walk_extended(&circle)[2], Err(ListError::Loop { from: 0x200, to: 0x100 }));
    let below = extended(&[(0x100, 1, 0x40)]);
    assert_eq!(walk_extended(&below)[1], Err(ListError::OutOfRange { from: 0x100, to: 0x40 }));
    let short = &extended(&[(0x100, 1, 0x800)])[..0x400];
    assert_eq!(walk_extended(short)[1], Err(ListError::Unreadable { at: 0x800 }));
}

proptest! {
    #[test]
    fn any_bytes_end_the_walks(bytes in proptest::collection::vec(any::<u8>(), 0..4100)) {
        let read = |offset| dword_at(&bytes, offset);
        if let Ok(walk) = Capabilities::new(read) {
            prop_assert!(walk.count() <= 49);
        }
        prop_assert!(ExtendedCapabilities::new(read).count() <= 961);
    }

    #[test]
    fn any_pointers_end_the_walks(pointers in proptest::collection::vec(any::<u16>(), 1024)) {
        let read = |offset: usize| {
            let pointer = u32::from(pointers[offset / 4 % 1024]);
            Some((pointer << 20) | ((pointer & 0xff) << 8) | 0x10_0005)
        };
        prop_assert!(Capabilities::new(read).unwrap().count() <= 49);
        prop_assert!(ExtendedCapabilities::new(read).count() <= 961);
    }
}
