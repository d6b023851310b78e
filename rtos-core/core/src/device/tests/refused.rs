//! What a driver process asks for and does not get.

use uniddrv_abi::message::{FromDevice, ToDevice};

use super::super::fake::{BAR, Fake, SMALL};
use super::super::testing::Bench;

fn config(offset: u32, len: u8) -> ToDevice {
    ToDevice::ReadConfig { offset, len }
}

fn write_config(offset: u32, data: &[u8]) -> ToDevice {
    ToDevice::WriteConfig { offset, data: data.to_vec() }
}

fn read(bar: u8, offset: u64, len: u8) -> ToDevice {
    ToDevice::ReadBar { bar, offset, len }
}

fn write(bar: u8, offset: u64, len: usize) -> ToDevice {
    ToDevice::WriteBar { bar, offset, data: vec![1; len] }
}

#[test]
fn every_access_that_no_driver_makes_is_refused() {
    // A table of 32 bytes at 0x2000, and 8 bytes of pending bits behind it.
    let fake = Fake::new(0x2000, 0x2020);
    let bench = Bench::with(fake.opener(false));
    bench.open();
    let mut driver = bench.drive(1);
    let refused = [
        (config(0, 0), "0 bytes"),
        (config(0, 3), "3 bytes"),
        (config(0, 8), "8 bytes"),
        (config(0, 255), "255 bytes"),
        (config(1, 2), "aligned"),
        (config(4096, 1), "do not lie"),
        (config(4094, 4), "do not lie"),
        (config(u32::MAX, 1), "do not lie"),
        // Within what a function may have, but not in what this one has.
        (config(256, 4), "the fake refuses"),
        (write_config(4, &[]), "0 bytes"),
        (write_config(4, &[2]), "1 bytes"),
        (write_config(4, &[2, 0, 0, 0]), "4 bytes"),
        (write_config(4, &[2; 5000]), "5000 bytes"),
        (write_config(5, &[0, 0]), "nothing else"),
        (write_config(0x10, &[0, 0]), "nothing else"),
        (write_config(0x44, &[0, 0]), "nothing else"),
        (write_config(u32::MAX, &[0, 0]), "nothing else"),
        (write_config(4, &[3, 0]), "0x0001 are not"),
        (write_config(4, &[0xff, 0xff]), "0xfbf9 are not"),
        (ToDevice::Bar { bar: 6 }, "BAR 6"),
        (ToDevice::Bar { bar: 255 }, "BAR 255"),
        (read(6, 0, 4), "BAR 6"),
        (read(1, 0, 4), "0x0 of BAR 1"),
        (read(0, 0, 0), "0 bytes"),
        (read(0, 0, 3), "3 bytes"),
        (read(0, 0, 16), "16 bytes"),
        (read(0, 2, 4), "aligned"),
        (read(0, 4, 8), "aligned"),
        (read(0, BAR, 1), "do not lie"),
        (read(0, u64::MAX, 1), "do not lie"),
        (read(0, u64::MAX - 7, 8), "do not lie"),
        (read(2, SMALL, 4), "do not lie"),
        (read(0, 0x2000, 4), "MSI-X"),
        (read(0, 0x201f, 1), "MSI-X"),
        (read(0, 0x2020, 8), "MSI-X"),
        (write(0, 0, 0), "0 bytes"),
        (write(0, 0, 3), "3 bytes"),
        (write(0, 0, 100_000), "100000 bytes"),
        (write(0, 1, 2), "aligned"),
        (write(0, BAR, 4), "do not lie"),
        (write(3, 0, 4), "0x0 of BAR 3"),
        (write(0, 0x2000, 8), "MSI-X"),
        (write(0, 0x201c, 4), "MSI-X"),
        (write(0, 0x2027, 1), "MSI-X"),
    ];
    for (question, says) in refused {
        let text = driver.refused(&question);
        assert!(text.contains(says), "{question:?}: {text}");
        // The device's own refusals are no fault of the driver's.
        if says != "the fake refuses" {
            assert_eq!(bench.refused(1), text);
        }
    }
    assert_eq!(fake.bar_writes(), []);
    // Beside the table, and up to the last byte, everything is allowed.
    let data = |len| FromDevice::Data(vec![0; len]);
    assert_eq!(driver.ask(&read(0, 0x1ff8, 8)), data(8));
    assert_eq!(driver.ask(&read(0, 0x2028, 8)), data(8));
    assert_eq!(driver.ask(&read(0, BAR - 1, 1)), data(1));
    assert_eq!(driver.ask(&read(2, SMALL - 8, 8)), data(8));
    assert_eq!(driver.ask(&write(0, 0x1ffe, 2)), FromDevice::Done);
    assert_eq!(fake.bar_writes(), [(0x1ffe, vec![1, 1])]);
    assert_eq!(driver.ask(&write_config(4, &[4, 4])), FromDevice::Done);
    assert_eq!(driver.ask(&config(4, 2)), FromDevice::Data(vec![4, 4]));
}

#[test]
fn a_driver_that_is_refused_again_and_again_is_disconnected() {
    let bench = Bench::with(Fake::new(0x2000, 0x3000).opener(false));
    bench.open();
    let mut driver = bench.drive(1);
    for _ in 1..100 {
        driver.refused(&read(0, 1, 4));
        bench.refused(1);
        assert_eq!(driver.ask(&ToDevice::Lost), FromDevice::Lost(None));
    }
    driver.0.send(&read(0, 1, 4), &[]).unwrap();
    assert!(bench.unserved(1).unwrap().contains("100 times"));
    let error = driver.0.receive_within::<FromDevice>(super::super::testing::PATIENCE);
    assert!(matches!(error, Err(uniddrv::control::ControlError::Closed)), "{error:?}");
}

#[test]
fn a_table_among_the_doorbells_is_not_mapped() {
    for (table, pending, windows) in
        [(0x2000, 0x3000, 1), (0x1fe0, 0x3000, 0), (0x3000, 0x1000, 0), (0x0fe0, 0x2000, 1)]
    {
        let bench = Bench::with(Fake::new(table, pending).opener(false));
        assert_eq!(bench.open().windows.len(), windows, "{table:#x}, {pending:#x}");
    }
}

#[test]
fn a_device_that_lies_about_its_table_is_not_opened() {
    for (table, pending) in [(0x3ff0, 0), (0, 0x4000)] {
        let bench = Bench::with(Fake::new(table, pending).opener(false));
        bench.worker.open();
        let event = bench.next();
        let super::super::Event::Failed { text, gone: false } = event else { panic!("{event:?}") };
        assert!(text.contains("MSI-X") && text.contains("0000:03:00.0"), "{text}");
    }
}
