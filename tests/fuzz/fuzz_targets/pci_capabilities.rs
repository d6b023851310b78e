//! Configuration space that a device made up: lists that loop, tables that lie outside of
//! their BAR, BARs of no size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use uniddrv_fuzz::Input;
use uniddrv_spec::pci::capability::{Capabilities, CapabilityId, ExtendedCapabilities, find};
use uniddrv_spec::pci::msix::Msix;
use uniddrv_spec::pci::{bar, dword_at};
use zerocopy::FromBytes;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let sizes: [u64; bar::COUNT] = std::array::from_fn(|_| input.u64());
    let config = input.rest();
    let read = |offset| dword_at(config, offset);
    if let Ok(list) = Capabilities::new(read) {
        let mut seen = 0;
        for capability in list.flatten() {
            seen += 1;
            assert!(capability.offset >= 0x40 && capability.offset <= 0xfc);
            let rest = config.get(capability.offset..).unwrap_or_default();
            if let Ok((msix, _)) = Msix::read_from_prefix(rest) {
                let _ = msix.check(&sizes);
            }
        }
        assert!(seen <= 48);
    }
    for id in 0..=0x20 {
        let _ = find(read, CapabilityId(id));
    }
    assert!(ExtendedCapabilities::new(read).count() <= 1024);
    let raw = std::array::from_fn(|index| read(0x10 + 4 * index).unwrap_or(0));
    let _ = bar::decode(&raw);
    let _ = bar::size(raw[0], Some(raw[1]));
    let _ = bar::size(raw[0], None);
});
