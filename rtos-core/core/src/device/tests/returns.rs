//! Devices that end, and servers that come back.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uniddrv::Arena;
use uniddrv_abi::message::{FromDevice, ToDevice};
use uniddrv_spec::nvme::registers::Vs;

use super::super::fake::Fake;
use super::super::testing::{Bench, PATIENCE, Served, folder};
use super::super::{Event, Token};

const READ: ToDevice = ToDevice::ReadBar { bar: 0, offset: 8, len: 4 };

fn lost(bench: &Bench) -> String {
    match bench.next() {
        Event::Lost { reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn failed(bench: &Bench) -> String {
    match bench.next() {
        Event::Failed { text, gone: true } => text,
        other => panic!("{other:?}"),
    }
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

#[test]
fn a_server_that_dies_is_noticed_and_taken_back_with_all_memory_where_it_was() {
    let (folder, socket) = folder();
    let blocks = format!("file:{}", folder.path().join("blocks").display());
    let parameters = [("size", "1M"), ("backing", &*blocks)];
    let served = Served::new(&socket, &parameters);
    let bench = Bench::new(&socket);
    let first = bench.open();
    let arena = Arc::new(Arena::new(1).unwrap());
    let iova = bench.map(&arena, 5);
    let gone = Arc::new(Arena::new(1).unwrap());
    let gone_iova = bench.map(&gone, 6);
    let mut driver = bench.drive(1);
    driver.read32(0);

    drop(served);
    assert!(lost(&bench).contains("hung up"));
    assert!(driver.gone(&READ).contains("hung up"));
    let FromDevice::Lost(Some(_)) = driver.ask(&ToDevice::Lost) else { panic!() };
    // While it is away: nothing is mapped, and what a client gives back is kept.
    bench.worker.map(gone.clone(), Token(7));
    assert!(matches!(bench.next(), Event::MapFailed { token: Token(7), .. }));
    bench.worker.unmap(Token(6));
    assert!(matches!(bench.next(), Event::Unmapped { token: Token(6), kept: Some(_) }));
    assert_eq!(Arc::strong_count(&gone), 2);

    bench.worker.reopen(deadline());
    assert!(bench.unserved(1).unwrap().contains("lost"));
    let _served = Served::new(&socket, &parameters);
    let again = bench.reopened();
    assert_eq!(again.arena_iova, first.arena_iova);
    assert!(Arc::ptr_eq(&again.arena, &first.arena));
    assert_eq!((again.identity, again.windows.len()), (first.identity, 1));
    assert_eq!(Arc::strong_count(&gone), 1);
    let mut driver = bench.drive(2);
    assert_eq!(Vs::from_bits(driver.read32(Vs::OFFSET as u64)).major(), 2);
    // The new server has the client's arena: it can be unmapped, and the others' addresses are
    // free.
    assert_eq!(bench.map(&gone, 8), gone_iova);
    bench.worker.unmap(Token(5));
    assert!(matches!(bench.next(), Event::Unmapped { token: Token(5), kept: None }));
    assert_eq!(bench.map(&arena, 9), iova);
}

#[test]
fn a_server_that_stays_away_is_given_up_at_the_deadline() {
    let (_folder, socket) = folder();
    let served = Served::new(&socket, &[("size", "1M")]);
    let bench = Bench::new(&socket);
    bench.open();
    let memory = Arc::new(Arena::new(1).unwrap());
    bench.map(&memory, 1);
    drop(served);
    lost(&bench);
    bench.worker.reopen(Instant::now() + Duration::from_millis(30));
    assert!(failed(&bench).contains("no such socket"));
    // The core and its commands live on.
    bench.worker.reset();
    assert!(matches!(bench.next(), Event::WasReset(Err(text)) if text.contains("not open")));
    bench.worker.fence();
    assert!(matches!(bench.next(), Event::Fenced(Ok(()))));
    assert!(matches!(bench.close()[..], [Event::Unmapped { token: Token(1), kept: None }]));
    assert_eq!(Arc::strong_count(&memory), 1);
}

#[test]
fn commands_are_carried_out_while_a_server_is_waited_for() {
    let (_folder, socket) = folder();
    let bench = Bench::new(&socket);
    bench.worker.reopen(deadline());
    let memory = Arc::new(Arena::new(1).unwrap());
    bench.worker.map(memory.clone(), Token(1));
    assert!(matches!(bench.next(), Event::MapFailed { token: Token(1), .. }));
    assert!(bench.close().is_empty());
}

#[test]
fn a_server_that_comes_back_late_is_asked_again_and_again() {
    let fake = Fake::new(0x2000, 0x3000);
    let bench = Bench::with(fake.opener(true));
    bench.open();
    fake.die();
    assert!(lost(&bench).contains("hung up"));
    fake.absent(7);
    bench.worker.reopen(deadline());
    bench.reopened();
    assert_eq!(fake.opened(), 9);
    // And once more.
    fake.die();
    lost(&bench);
    bench.worker.reopen(deadline());
    bench.reopened();
}

#[test]
fn a_server_that_hangs_is_left_without_a_word() {
    let (_folder, socket) = folder();
    // It accepts the connection and all that is written, and never answers.
    let _hanging = UnixListener::bind(&socket).unwrap();
    let bench = Bench::new(&socket);
    bench.worker.reopen(Instant::now() + Duration::from_millis(50));
    assert!(failed(&bench).contains("no answer"));
}

#[test]
fn another_device_behind_the_same_address_is_not_taken() {
    let fake = Fake::new(0x2000, 0x3000);
    let bench = Bench::with(fake.opener(true));
    bench.open();
    fake.die();
    lost(&bench);
    fake.config(0, &[0x86, 0x80]);
    bench.worker.reopen(deadline());
    assert!(failed(&bench).contains("another device"));
}

#[test]
fn a_server_that_lost_its_room_for_mappings_is_not_taken_half() {
    let fake = Fake::new(0x2000, 0x3000);
    let bench = Bench::with(fake.opener(true));
    bench.open();
    fake.die();
    lost(&bench);
    fake.refuse_map(true);
    bench.worker.reopen(Instant::now() + Duration::from_millis(20));
    assert!(failed(&bench).contains("map again"));
    assert!(fake.mapped().is_empty());
}

#[test]
fn a_device_that_linux_wants_back_is_noticed_without_a_register_read() {
    let fake = Fake::new(0x2000, 0x3000);
    let bench = Bench::with(fake.opener(false));
    bench.open();
    let mut driver = bench.drive(1);
    fake.request();
    assert!(lost(&bench).contains("Linux wants the device back"));
    assert!(driver.gone(&READ).contains("wants the device back"));
    bench.worker.reopen(deadline());
    assert!(failed(&bench).contains("does not come back"));
    bench.close();
}

#[test]
fn a_loss_that_only_an_access_shows_is_told_too() {
    let fake = Fake::new(0x2000, 0x3000);
    let bench = Bench::with(fake.opener(false));
    bench.open();
    let mut driver = bench.drive(1);
    driver.read32(0);
    fake.die();
    assert!(driver.gone(&READ).contains("hung up"));
    lost(&bench);
}

#[test]
fn a_device_that_cannot_be_opened_can_be_tried_again() {
    let (_folder, socket) = folder();
    let bench = Bench::new(&socket);
    bench.worker.open();
    let event = bench.next();
    assert!(
        matches!(&event, Event::Failed { text, gone: false } if text.contains("no such socket")),
        "{event:?}"
    );
    let _served = Served::new(&socket, &[("size", "1M")]);
    bench.open();
    bench.worker.open();
    let event = bench.next();
    assert!(matches!(&event, Event::Failed { text, .. } if text.contains("open already")));
}
