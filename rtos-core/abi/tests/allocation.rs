//! How much memory a message that claims anything can have us take.

use allocation_counter::{AllocationInfo, measure};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use uniddrv_abi::message::{
    FromCore, FromDevice, FromDriver, MAX_MESSAGE, Target, ToCore, ToDevice, ToDriver, decode,
};

fn reading<T: DeserializeOwned>(bytes: &[u8]) -> (AllocationInfo, bool) {
    let mut read = false;
    let info = measure(|| read = decode::<T>(bytes).is_ok());
    (info, read)
}

/// An error's text, and no more.
const ERROR: u64 = 1024;

/// A list that is said to be longer than the rest of the message is not made room for.
#[test]
fn a_length_that_cannot_be_costs_nothing() {
    fn check<T: DeserializeOwned>(kind: &[u8]) {
        for length in
            [&b"\x01"[..], b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"]
        {
            let (info, read) = reading::<T>(&[kind, length].concat());
            assert!(!read && info.bytes_max <= ERROR, "{kind:?} {length:?}: {info:?}");
        }
    }
    check::<ToCore>(b"\x00\x01");
    check::<ToCore>(b"\x03");
    check::<FromCore>(b"\x04");
    check::<FromCore>(b"\x05");
    check::<FromCore>(b"\x06\x00");
    check::<ToDriver>(b"\x00\x01\x00\x00\x00");
    check::<ToDriver>(b"\x02\x00\x00\x00\x00\x00\x00");
    check::<FromDriver>(b"\x01\x01\x00");
    check::<FromDriver>(b"\x01\x01\x00\x00\x00");
    check::<ToDevice>(b"\x01\x00");
    check::<ToDevice>(b"\x04\x00\x00");
    check::<FromDevice>(b"\x01");
}

/// A list that is said to be as long as the rest of the message, with elements of a byte each:
/// room is made for at most a mebibyte before the first element is read.
#[test]
fn the_longest_length_that_can_be_is_bounded() {
    let claim = |kind: &[u8], filler: u8| {
        let rest = MAX_MESSAGE - kind.len() - 3;
        let length = [rest as u8 | 0x80, (rest >> 7) as u8 | 0x80, (rest >> 14) as u8];
        [kind, &length, &vec![filler; rest]].concat()
    };
    let (info, read) = reading::<FromDriver>(&claim(b"\x01\x01\x00", 0x80));
    assert!(!read && info.bytes_max <= (1 << 20) + ERROR, "{info:?}");
    let (info, read) = reading::<FromCore>(&claim(b"\x04", 0x80));
    assert!(!read && info.bytes_max <= (1 << 20) + ERROR, "{info:?}");
    let (info, read) = reading::<FromCore>(&claim(b"\x05", 0x80));
    assert!(!read && info.bytes_max <= (1 << 20) + ERROR, "{info:?}");
    // Bytes are what they say.
    let (info, read) = reading::<FromDevice>(&claim(b"\x01", 0));
    assert!(read && info.bytes_max <= MAX_MESSAGE as u64, "{info:?}");
    let (info, read) = reading::<ToDevice>(&claim(b"\x01\x00", 0));
    assert!(read && info.bytes_max <= MAX_MESSAGE as u64, "{info:?}");
    // So is text, which is looked at in place.
    let (info, read) = reading::<ToCore>(&claim(b"\x03", b'a'));
    assert!(read && info.bytes_max <= MAX_MESSAGE as u64, "{info:?}");
    let (info, read) = reading::<ToCore>(&claim(b"\x03", 0xff));
    assert!(!read && info.bytes_max <= ERROR, "{info:?}");
}

/// The message that takes most room for its length: targets of nothing.
#[test]
fn the_widest_message_is_bounded() {
    const LEAST: usize = 6;
    let count = (MAX_MESSAGE - 8) / LEAST;
    let length = [count as u8 | 0x80, (count >> 7) as u8 | 0x80, (count >> 14) as u8];
    let bytes = [&b"\x01\x01\x00"[..], &length, &vec![0; count * LEAST], b"\x00\x00"].concat();
    let (info, read) = reading::<FromDriver>(&bytes);
    assert!(read);
    let elements = (count * size_of::<Target>()) as u64;
    // Once more while it grows.
    assert!(info.bytes_max <= 3 * elements, "{info:?}, {elements} bytes of elements");
}

proptest! {
    #[test]
    fn any_bytes_take_room_in_proportion(
        mut bytes in proptest::collection::vec(any::<u8>(), 1..400),
        kind in 0u8..14,
    ) {
        bytes[0] = kind;
        let most = ERROR + 1024 * bytes.len() as u64;
        let takes = [
            reading::<ToCore>(&bytes).0,
            reading::<FromCore>(&bytes).0,
            reading::<ToDriver>(&bytes).0,
            reading::<FromDriver>(&bytes).0,
            reading::<ToDevice>(&bytes).0,
            reading::<FromDevice>(&bytes).0,
        ];
        for info in takes {
            prop_assert!(info.bytes_max <= most, "{info:?} for {} bytes", bytes.len());
            prop_assert_eq!(info.bytes_current, 0);
        }
    }
}
