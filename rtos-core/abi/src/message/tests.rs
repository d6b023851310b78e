//! What each message is as bytes, and what bytes are no message.

mod client;
mod device;
mod driver;

use std::fmt::Debug;

use proptest::prelude::*;

use super::*;

/// A message and what it is as bytes.
type Golden<T> = (T, &'static [u8]);

/// Checks both directions for messages of each kind: `kind` numbers the kinds, and fails to
/// compile when one is added. Nothing cut short or with a byte behind is taken, and no kind
/// beyond the last.
fn check<T>(golden: &[Golden<T>], kinds: u8, kind: impl Fn(&T) -> u8)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    for (message, bytes) in golden {
        assert_eq!(encode(message).unwrap(), *bytes, "{message:?}");
        assert_eq!(decode::<T>(bytes).as_ref(), Ok(message));
        assert_eq!(bytes[0], kind(message), "{message:?}");
        for len in 0..bytes.len() {
            let cut = decode::<T>(&bytes[..len]);
            assert!(matches!(cut, Err(MessageError::Malformed(_))), "{len} bytes: {cut:?}");
        }
        let longer = decode::<T>(&[bytes, &[0u8][..]].concat());
        let error = MessageError::Malformed("1 bytes behind it".to_owned());
        assert_eq!(longer, Err(error));
    }
    let mut found: Vec<u8> = golden.iter().map(|(message, _)| kind(message)).collect();
    found.dedup();
    assert_eq!(found, (0..kinds).collect::<Vec<_>>());
    for kind in kinds..0x80 {
        let bytes = [&[kind][..], &[0; 64]].concat();
        for len in 1..bytes.len() {
            assert!(decode::<T>(&bytes[..len]).is_err(), "there is no kind {kind}");
        }
    }
}

#[test]
fn bounds_are_what_they_are() {
    assert_eq!((VERSION, MAX_MESSAGE, MAX_FDS), (1, 131_072, 64));
}

#[test]
fn what_is_too_long_is_neither_sent_nor_read() {
    // Kind and length take four bytes.
    let longest = FromDevice::Data(vec![7; MAX_MESSAGE - 4]);
    let bytes = encode(&longest).unwrap();
    assert_eq!(bytes.len(), MAX_MESSAGE);
    assert_eq!(decode::<FromDevice>(&bytes), Ok(longest));
    let too_long = FromDevice::Data(vec![7; MAX_MESSAGE - 3]);
    assert_eq!(encode(&too_long), Err(MessageError::TooLong(MAX_MESSAGE + 1)));
    let bytes = [bytes, vec![0]].concat();
    assert_eq!(decode::<FromDevice>(&bytes), Err(MessageError::TooLong(MAX_MESSAGE + 1)));
}

#[test]
fn what_is_no_text_or_no_truth_is_refused() {
    // A `Hello` whose program is not UTF-8; an `Up` that is neither adopted nor not.
    assert!(decode::<ToCore>(b"\x00\x01\x02\xc3\x28").is_err());
    assert!(decode::<FromDriver>(b"\x01\x02\x00\x00\x00\x00").is_err());
    // Numbers that are too large for their field.
    assert!(decode::<ToCore>(b"\x00\x80\x80\x04\x00").is_err());
    assert!(decode::<ToCore>(b"\x02\x80\x80\x80\x80\x10").is_err());
}

fn all() -> Vec<&'static [u8]> {
    [client::all(), driver::all(), device::all()].concat()
}

/// Reads `bytes` as a message of each kind. What is one can be sent on, and is the same then.
fn read_as_any(bytes: &[u8]) {
    fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        if let Ok(message) = decode::<T>(bytes) {
            let once = encode(&message).unwrap();
            let again = encode(&decode::<T>(&once).unwrap()).unwrap();
            assert_eq!(once, again);
            assert!(once.len() <= bytes.len());
        }
    }
    read::<ToCore>(bytes);
    read::<FromCore>(bytes);
    read::<ToDriver>(bytes);
    read::<FromDriver>(bytes);
    read::<ToDevice>(bytes);
    read::<FromDevice>(bytes);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        read_as_any(&bytes);
    }

    #[test]
    fn messages_with_wrong_bytes_are_read_without_harm(
        bytes in proptest::sample::select(all()),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = bytes.to_vec();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        read_as_any(&bytes);
    }
}

#[test]
fn texts_of_drivers_are_cut() {
    let mut log = FromDriver::Log { level: 1, text: "\u{20ac}".repeat(1000) };
    assert!(log.cut_text() && !log.cut_text());
    let FromDriver::Log { text, .. } = &log else { panic!("another message") };
    assert_eq!((text.len(), text.chars().count()), (2046, 682));
    assert!(!FromDriver::Ready.cut_text());
}
