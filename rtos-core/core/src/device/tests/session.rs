//! A device that is opened, driven, and closed.

use std::sync::Arc;
use std::time::Instant;

use uniddrv::device::Identity;
use uniddrv::{Arena, TransportKind};
use uniddrv_abi::message::{FromDevice, ToDevice};
use uniddrv_spec::nvme::registers::{Cc, Csts, Vs};

use super::super::testing::{Bench, PATIENCE, Served, folder};
use super::super::{Event, Interrupts, Token};

const COMMAND: u32 = 4;
const ENABLE: u32 = 1;

fn command(process: &mut super::super::testing::Process) -> u16 {
    match process.ask(&ToDevice::ReadConfig { offset: COMMAND, len: 2 }) {
        FromDevice::Data(data) => u16::from_le_bytes(data.try_into().unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_is_opened_driven_reset_and_closed() {
    let (_folder, socket) = folder();
    let _served = Served::new(&socket, &[("size", "1M")]);
    let bench = Bench::new(&socket);
    let opened = bench.open();
    let Identity { class, .. } = opened.identity;
    assert_eq!((class, opened.transport), (0x01_0802, TransportKind::VfioUser));
    let [window] = &opened.windows[..] else { panic!("{opened:?}") };
    assert_eq!((window.0.bar, window.0.start, window.0.len), (0, 0x1000, 0x1000));
    assert_eq!(opened.arena.len(), 2 << 20);
    assert_ne!(opened.arena_iova, 0);
    assert_ne!(opened.interrupts, Interrupts::default());

    let mut driver = bench.drive(1);
    assert_eq!(driver.ask(&ToDevice::Bar { bar: 0 }), FromDevice::Bar { size: opened.bars[0] });
    assert_eq!(driver.ask(&ToDevice::Bar { bar: 5 }), FromDevice::Bar { size: 0 });
    assert_eq!(driver.ask(&ToDevice::Lost), FromDevice::Lost(None));
    assert_eq!(Vs::from_bits(driver.read32(Vs::OFFSET as u64)).major(), 2);
    // Memory decoding is on and bus mastering off, until the driver says so.
    assert_eq!(command(&mut driver) & 6, 2);
    let data = (command(&mut driver) | 0x404).to_le_bytes().to_vec();
    let write = ToDevice::WriteConfig { offset: COMMAND, data };
    assert_eq!(driver.ask(&write), FromDevice::Done);
    assert_eq!(command(&mut driver) & 0x406, 0x406);
    driver.write32(Cc::OFFSET as u64, 0x0046_0000);
    assert_eq!(driver.read32(Cc::OFFSET as u64), 0x0046_0000);
    assert_eq!(driver.ask(&ToDevice::Reset), FromDevice::Done);
    assert_eq!(driver.read32(Cc::OFFSET as u64), 0);
    assert_eq!(Csts::from_bits(driver.read32(Csts::OFFSET as u64)).bits() & ENABLE, 0);

    let arena = Arc::new(Arena::new(1).unwrap());
    bench.map(&arena, 7);
    let events = bench.close();
    assert!(matches!(&events[..], [Event::Unmapped { token: Token(7), kept: None }]), "{events:?}");
    assert_eq!(Arc::strong_count(&arena), 1);
    // The core is called after it was told.
    let end = Instant::now() + PATIENCE;
    while bench.notified.load(std::sync::atomic::Ordering::Relaxed) < 4 {
        assert!(Instant::now() < end, "the core is not called for each event");
        std::thread::yield_now();
    }
}
