//! Driver processes that are up to no good.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::net::SendFlags;
use uniddrv::Arena;
use uniddrv::control::{ControlError, pair};
use uniddrv_abi::message::{FromDevice, ToDevice, encode};

use super::super::fake::Fake;
use super::super::testing::{Bench, PATIENCE};
use super::super::{DriverId, Event};

const READ: ToDevice = ToDevice::ReadBar { bar: 0, offset: 0, len: 4 };

fn bench() -> (Arc<Fake>, Bench) {
    let fake = Fake::new(0x2000, 0x3000);
    let bench = Bench::with(fake.opener(false));
    bench.open();
    (fake, bench)
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    let (_fake, bench) = bench();
    let mut driver = bench.drive(1);
    let whole = encode(&ToDevice::WriteBar { bar: 0, offset: 8, data: vec![1; 4] }).unwrap();
    let mut longer = whole.clone();
    longer.push(0);
    let mut pieces: Vec<&[u8]> = (1..whole.len()).map(|cut| &whole[..cut]).collect();
    pieces.extend([&longer[..], &[7], &[0xff; 64], &[0x80; 64]]);
    for bytes in pieces {
        driver.send(bytes);
        let (answer, _) = driver.0.receive_within::<FromDevice>(PATIENCE).unwrap();
        let FromDevice::Refused { gone: false, text } = answer else { panic!("{answer:?}") };
        assert_eq!(bench.refused(1), text);
    }
    // And one longer than any message, of which the core reads no more than that.
    let long = vec![0; 150_000];
    rustix::net::send(driver.0.as_fd(), &long, SendFlags::NOSIGNAL).unwrap();
    let (answer, _) = driver.0.receive_within::<FromDevice>(PATIENCE).unwrap();
    assert!(matches!(&answer, FromDevice::Refused { text, .. } if text.contains("cut short")));
    bench.refused(1);
    driver.read32(0);
}

#[test]
fn file_descriptors_are_refused_and_closed() {
    let (_fake, bench) = bench();
    let mut driver = bench.drive(1);
    let (one, other) = pair().unwrap();
    driver.0.send(&READ, &[other.as_fd()]).unwrap();
    drop(other);
    let (answer, _) = driver.0.receive_within::<FromDevice>(PATIENCE).unwrap();
    assert!(matches!(answer, FromDevice::Refused { gone: false, .. }), "{answer:?}");
    assert!(bench.refused(1).contains("1 file descriptors"));
    // Nobody has the other end any more.
    assert_eq!(rustix::io::read(&one, &mut [0; 1]), Ok(0));
}

#[test]
fn a_driver_that_leaves_or_never_reads_is_forgotten() {
    let (_fake, bench) = bench();
    drop(bench.drive(1));
    assert_eq!(bench.unserved(1), None);

    let driver = bench.drive(2);
    let question = encode(&READ).unwrap();
    // It never reads an answer: its socket fills up, and that is the end.
    while rustix::net::send(driver.0.as_fd(), &question, SendFlags::NOSIGNAL).is_ok() {}
    assert!(bench.unserved(2).unwrap().contains("does not read"));

    let driver = bench.drive(3);
    driver.send(&[]);
    assert_eq!(bench.unserved(3), None);
}

#[test]
fn the_core_comes_first_with_a_driver_that_floods() {
    let (fake, bench) = bench();
    let driver = bench.drive(1);
    let question = encode(&ToDevice::WriteBar { bar: 0, offset: 8, data: vec![1; 4] }).unwrap();
    let mut flooded = 0;
    while rustix::net::send(driver.0.as_fd(), &question, SendFlags::DONTWAIT).is_ok() {
        flooded += 1;
    }
    assert!(flooded > 0);
    // Whatever is still in its socket when it is stopped is not carried out.
    bench.worker.stop_serving(DriverId(1));
    bench.worker.fence();
    assert!(matches!(bench.next(), Event::Fenced(Ok(()))));
    let done = fake.bar_writes().len();
    let arena = Arc::new(Arena::new(1).unwrap());
    bench.map(&arena, 1);
    assert_eq!(fake.bar_writes().len(), done);
}

#[test]
fn one_process_drives_and_the_other_waits() {
    let (fake, bench) = bench();
    let mut first = bench.drive(1);
    let mut second = bench.wait_to_drive(2);
    let write = ToDevice::WriteBar { bar: 0, offset: 8, data: vec![1; 4] };
    let command = ToDevice::WriteConfig { offset: 4, data: vec![6, 0] };
    first.read32(0);
    for question in [&READ, &write, &command, &ToDevice::Reset] {
        assert!(second.refused(question).contains("does not drive"));
        bench.refused(2);
    }
    assert_eq!(second.ask(&ToDevice::Bar { bar: 0 }), FromDevice::Bar { size: 0x4000 });
    assert_eq!((fake.resets(), fake.bar_writes().len(), fake.command()), (0, 0, 2));
    // The turn passes, and does not come back by itself.
    bench.worker.activate(DriverId(2));
    second.read32(0);
    assert!(first.refused(&write).contains("was replaced"));
    bench.refused(1);
    bench.worker.stop_serving(DriverId(2));
    assert!(first.refused(&write).contains("was replaced"));
    bench.refused(1);
    let closed = second.0.receive_within::<FromDevice>(PATIENCE);
    assert!(matches!(closed, Err(ControlError::Closed)), "{closed:?}");
}

#[test]
fn a_third_process_and_a_number_used_twice_are_turned_away() {
    let (_fake, bench) = bench();
    let mut first = bench.drive(1);
    let _second = bench.wait_to_drive(2);
    let _third = bench.wait_to_drive(3);
    assert!(bench.unserved(3).unwrap().contains("2 driver processes"));
    bench.worker.stop_serving(DriverId(2));
    let _again = bench.wait_to_drive(1);
    assert!(bench.unserved(1).unwrap().contains("already"));
    first.read32(0);
}

#[test]
fn a_fenced_driver_does_not_switch_dma_on_again() {
    let (fake, bench) = bench();
    let mut driver = bench.drive(1);
    let on = ToDevice::WriteConfig { offset: 4, data: vec![6, 0] };
    assert_eq!(driver.ask(&on), FromDevice::Done);
    assert_eq!(fake.command(), 6);
    bench.worker.fence();
    assert!(matches!(bench.next(), Event::Fenced(Ok(()))));
    assert_eq!(fake.command(), 2);
    assert!(driver.refused(&on).contains("does not drive"));
    assert_eq!(fake.command(), 2);
}
