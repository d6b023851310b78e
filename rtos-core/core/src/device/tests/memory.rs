//! Which memory a device reaches, and when it is given back.

use std::sync::{Arc, Weak};

use uniddrv::Arena;

use super::super::fake::Fake;
use super::super::testing::{Bench, Served, folder};
use super::super::{Event, Token};

fn arena() -> Arc<Arena> {
    Arc::new(Arena::new(1).unwrap())
}

fn unmapped(bench: &Bench, token: u64) -> Option<String> {
    match bench.next() {
        Event::Unmapped { token: unmapped, kept } if unmapped == Token(token) => kept,
        other => panic!("{other:?}"),
    }
}

#[test]
fn arenas_are_mapped_apart_and_their_addresses_used_again() {
    let (_folder, socket) = folder();
    let _served = Served::new(&socket, &[("size", "1M")]);
    let bench = Bench::new(&socket);
    let own = bench.open().arena_iova;
    let arenas: Vec<_> = (0..4).map(|_| arena()).collect();
    let iovas: Vec<_> = (0..).zip(&arenas).map(|(token, arena)| bench.map(arena, token)).collect();
    let mut all = iovas.clone();
    all.push(own);
    all.sort_unstable();
    assert!(all.array_windows().all(|[low, high]| high - low >= 2 << 20));
    bench.worker.unmap(Token(1));
    assert_eq!(unmapped(&bench, 1), None);
    assert_eq!(bench.map(&arenas[1], 9), iovas[1]);
    // The server would refuse what overlaps or is not mapped.
    bench.worker.map(arenas[0].clone(), Token(9));
    let event = bench.next();
    assert!(
        matches!(&event, Event::MapFailed { token: Token(9), text } if text.contains("arena 9"))
    );
    bench.worker.unmap(Token(77));
    assert_eq!(unmapped(&bench, 77), None);
    bench.worker.unmap(Token(9));
    assert_eq!(unmapped(&bench, 9), None);
    assert_eq!(Arc::strong_count(&arenas[1]), 1);
}

#[test]
fn memory_is_unmapped_before_it_is_given_back() {
    let fake = Fake::new(0x2000, 0x3000);
    let bench = Bench::with(fake.opener(false));
    let own = bench.open().arena_iova;
    let memory = arena();
    let iova = bench.map(&memory, 1);
    assert_eq!(fake.mapped(), [own, iova]);
    // The client has gone; the worker alone holds the memory now.
    let weak = Arc::downgrade(&memory);
    drop(memory);
    assert!(weak.upgrade().is_some());
    bench.worker.unmap(Token(1));
    assert_eq!(unmapped(&bench, 1), None);
    assert_eq!((fake.mapped(), fake.late()), (vec![own], 0));
    assert!(weak.upgrade().is_none());
}

#[test]
fn memory_that_cannot_be_unmapped_is_kept_until_a_fence_and_its_address_with_it() {
    let fake = Fake::new(0x2000, 0x3000);
    let bench = Bench::with(fake.opener(false));
    bench.open();
    let memory = arena();
    let iova = bench.map(&memory, 1);
    let weak = Arc::downgrade(&memory);
    drop(memory);
    fake.refuse_unmap(true);
    bench.worker.unmap(Token(1));
    assert!(unmapped(&bench, 1).unwrap().contains("the fake refuses"));
    assert!(weak.upgrade().is_some());
    let other = arena();
    assert_ne!(bench.map(&other, 2), iova);
    fake.refuse_unmap(false);
    bench.worker.fence();
    assert!(matches!(bench.next(), Event::Fenced(Ok(()))));
    assert!(weak.upgrade().is_none());
    assert_eq!(bench.map(&arena(), 3), iova);
    assert_eq!(fake.late(), 0);
}

#[test]
fn memory_that_can_never_be_unmapped_goes_with_the_device() {
    let fake = Fake::new(0x2000, 0x3000);
    let bench = Bench::with(fake.opener(false));
    bench.open();
    let memories: Vec<_> = (0..2).map(|_| arena()).collect();
    for (token, memory) in (1..).zip(&memories) {
        bench.map(memory, token);
    }
    let weak: Vec<Weak<_>> = memories.iter().map(Arc::downgrade).collect();
    drop(memories);
    fake.refuse_unmap(true);
    bench.worker.unmap(Token(1));
    assert!(unmapped(&bench, 1).is_some());
    bench.worker.fence();
    assert!(matches!(bench.next(), Event::Fenced(Ok(()))));
    assert!(weak.iter().all(|weak| weak.upgrade().is_some()));
    let events = bench.close();
    assert!(matches!(events[..], [Event::Unmapped { token: Token(2), kept: None }]), "{events:?}");
    assert!(weak.iter().all(|weak| weak.upgrade().is_none()));
}

#[test]
fn a_refused_mapping_leaves_nothing_behind() {
    let fake = Fake::new(0x2000, 0x3000);
    let bench = Bench::with(fake.opener(false));
    let memory = arena();
    bench.worker.map(memory.clone(), Token(1));
    let event = bench.next();
    assert!(matches!(&event, Event::MapFailed { text, .. } if text.contains("not open")));
    bench.open();
    fake.refuse_map(true);
    bench.worker.map(memory.clone(), Token(1));
    let event = bench.next();
    assert!(matches!(&event, Event::MapFailed { text, .. } if text.contains("refuses")));
    assert_eq!(Arc::strong_count(&memory), 1);
    fake.refuse_map(false);
    let iova = bench.map(&memory, 1);
    // All of the addresses that the fake has: 16 MiB, but the first 2 and the driver's.
    let rest: Vec<_> = (2..7).map(|token| bench.map(&arena(), token)).collect();
    assert!(!rest.contains(&iova));
    bench.worker.map(arena(), Token(8));
    let event = bench.next();
    assert!(matches!(&event, Event::MapFailed { text, .. } if text.contains("no 2097152 bytes")));
}

#[test]
fn a_device_that_does_not_let_itself_be_fenced_is_told() {
    let fake = Fake::new(0x2000, 0x3000);
    let bench = Bench::with(fake.opener(false));
    bench.open();
    fake.config(4, &[6]);
    fake.ignore_fence();
    bench.worker.fence();
    let event = bench.next();
    assert!(matches!(&event, Event::Fenced(Err(text)) if text.contains("Bus Master")), "{event:?}");
}

#[test]
fn a_worker_that_is_dropped_closes_its_device() {
    let fake = Fake::new(0x2000, 0x3000);
    let bench = Bench::with(fake.opener(false));
    bench.open();
    let memory = arena();
    bench.map(&memory, 1);
    fake.config(4, &[6]);
    let Bench { worker, events, .. } = bench;
    drop(worker);
    let rest: Vec<_> = events.iter().map(|(_, event)| event).collect();
    assert!(matches!(rest[..], [Event::Unmapped { .. }, Event::Closed]), "{rest:?}");
    assert_eq!((fake.command(), fake.late(), Arc::strong_count(&memory)), (2, 0, 1));
}
