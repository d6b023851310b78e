//! What comes over a control socket, from either side of each: bytes are no message, or one that
//! can be sent on and is the same then.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uniddrv_abi::message::{
    FromCore, FromDevice, FromDriver, MAX_MESSAGE, ToCore, ToDevice, ToDriver, decode, encode,
};
use uniddrv_fuzz::Input;

fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(message) = decode::<T>(bytes) else { return };
    assert!(bytes.len() <= MAX_MESSAGE);
    // Numbers may be written longer than they have to be, never shorter.
    let once = encode(&message).expect("it fitted before");
    assert!(once.len() <= bytes.len());
    let again = decode::<T>(&once).expect("it was a message before");
    assert_eq!(encode(&again).expect("it fitted before"), once);
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let which = input.byte();
    let bytes = input.rest();
    match which % 6 {
        0 => read::<ToCore>(bytes),
        1 => read::<FromCore>(bytes),
        2 => read::<ToDriver>(bytes),
        3 => read::<FromDriver>(bytes),
        4 => read::<ToDevice>(bytes),
        _ => read::<FromDevice>(bytes),
    }
});
