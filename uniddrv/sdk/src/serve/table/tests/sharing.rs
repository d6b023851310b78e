//! Several clients: shares, limits, rights, and their coming and going.

use uniddrv_abi::block::{Opcode, Outcome, Submission};
use uniddrv_abi::ledger::Count;
use uniddrv_abi::message::{Limits, Rights};
use uniddrv_abi::queue;

use super::super::{MOST, Table};
use super::client::{Client, MAX_TRANSFER};
use super::world::{World, new_ledger, target};
use crate::clock;
use crate::serve::Undisturbed;

/// Every client asks for as much as it can, for `rounds` passes. How many requests of each ended.
fn saturate(world: &mut World, rounds: usize, tick: u64) -> Vec<u64> {
    let before: Vec<u64> = world.clients.iter().map(|client| client.ended).collect();
    for round in 0..rounds {
        for client in &mut world.clients {
            for queue in 0..client.queues.len() {
                while client.submit(queue, (round % 8) as u8) {}
            }
        }
        world.pass();
        world.hardware.work(usize::MAX, round);
        world.clients.iter_mut().for_each(|client| client.reap(usize::MAX));
        world.now = world.now.map(|now| now + tick);
    }
    world.clients.iter().zip(before).map(|(client, before)| client.ended - before).collect()
}

fn with_limits(number: u32, queues: &[u8], limits: Limits) -> Client {
    let mut client = Client::new(number, queues, 32);
    client.message.limits = limits;
    client
}

#[test]
fn shares_go_by_weight_however_much_room_the_device_has() {
    let weight = |weight| Limits { weight, ..Limits::default() };
    for depth in [1, 4, 16, 24] {
        let clients = vec![
            with_limits(1, &[0], weight(3)),
            with_limits(2, &[1], weight(1)),
            with_limits(3, &[2], weight(0)),
        ];
        let mut world = World::new(clients, depth);
        let ended = saturate(&mut world, 8000 / depth, 0);
        let share = ended[0] as f64 / ended[1] as f64;
        assert!((2.8..3.2).contains(&share), "{ended:?} at depth {depth}");
        assert!(ended[1].abs_diff(ended[2]) <= 32, "{ended:?} at depth {depth}");
        world.check();
    }
}

#[test]
fn shares_are_relative_to_those_who_are_there() {
    // As the core tells them: large numbers, and no more waiting than the rings hold.
    let weight = |weight| Limits { weight, ..Limits::default() };
    let clients = vec![with_limits(1, &[0], weight(60)), with_limits(2, &[1], weight(20))];
    let mut world = World::new(clients, 8);
    let ended = saturate(&mut world, 2000, 0);
    let share = ended[0] as f64 / ended[1] as f64;
    assert!((2.8..3.2).contains(&share), "{ended:?}");
    world.check();
}

#[test]
fn more_queues_are_no_larger_share() {
    let clients = vec![Client::new(1, &[0, 1, 2, 3, 4, 5, 6, 7], 32), Client::new(2, &[8], 32)];
    let mut world = World::new(clients, 4);
    let ended = saturate(&mut world, 2000, 0);
    assert!(ended[0].abs_diff(ended[1]) < 40, "{ended:?}");
    let in_each = |queue| world.ledger.count(queue, Count::Ios);
    let (most, least) = ((0..8).map(in_each).max().unwrap(), (0..8).map(in_each).min().unwrap());
    assert!(most - least < 40, "{least} to {most} in the queues of one client");
}

#[test]
fn a_client_alone_has_all_of_the_device() {
    let mut world = World::new(vec![Client::new(1, &[0], 32), Client::new(2, &[1], 32)], 24);
    world.pass();
    for choice in 0..24 {
        world.clients[0].submit(0, choice);
    }
    world.pass();
    assert_eq!(world.table().in_flight(), 24);
    world.check();
}

#[test]
fn requests_a_second_are_limited() {
    let limits = Limits { iops: 500, ..Limits::default() };
    let mut world = World::new(vec![with_limits(1, &[0, 1], limits), Client::new(2, &[2], 32)], 16);
    world.now = Some(clock::ticks());
    world.pass();
    world.now = Some(clock::ticks());
    // Two seconds, in steps of a millisecond; what has ended is one pass behind.
    let ended = saturate(&mut world, 2000, clock::ticks_per_second() / 1000);
    assert!((990..=1060).contains(&ended[0]), "{ended:?}");
    assert!(ended[1] > 10_000, "{ended:?}");
    let throttled: u64 = [0, 1].iter().map(|&q| world.ledger.count(q, Count::Throttled)).sum();
    assert!(throttled > 100 && throttled <= ended[0] + 2, "{throttled} waited of {ended:?}");
}

#[test]
fn bytes_a_second_are_limited() {
    let limits = Limits { bytes_per_second: 1 << 20, ..Limits::default() };
    let mut world = World::new(vec![with_limits(1, &[0], limits)], 16);
    world.now = Some(clock::ticks());
    world.pass();
    world.now = Some(clock::ticks());
    saturate(&mut world, 3000, clock::ticks_per_second() / 1000);
    let bytes: u64 = world.hardware.seen.iter().map(|work| u64::from(work.len)).sum();
    let (least, most) = (3 << 20, (3 << 20) + (1 << 20) / 10 + 2 * 4096 + 1000);
    assert!((least - 8192..=most).contains(&bytes), "{bytes} bytes in three seconds");
}

#[test]
fn a_burst_after_a_pause_is_a_tenth_of_a_second() {
    let limits = Limits { iops: 100, ..Limits::default() };
    let mut world = World::new(vec![with_limits(1, &[0], limits)], 24);
    world.now = Some(clock::ticks());
    world.pass();
    world.now = Some(clock::ticks() + 3600 * clock::ticks_per_second());
    let ended = saturate(&mut world, 20, 0);
    // What brings it into debt is still taken.
    assert_eq!(ended[0], 11);
}

#[test]
fn requests_in_flight_are_limited_over_all_queues() {
    let limits = Limits { in_flight: 5, ..Limits::default() };
    let mut world = World::new(vec![with_limits(1, &[3, 4], limits)], 24);
    world.pass();
    for round in 0..50 {
        for queue in [0, 1] {
            while world.clients[0].submit(queue, 1) {}
        }
        world.pass();
        assert!(world.table().in_flight() <= 5);
        if round % 3 == 0 {
            // The limit outlives the driver.
            world.driver = None;
        }
        world.hardware.work(2, round);
        world.clients[0].reap(usize::MAX);
    }
    assert!(world.clients[0].ended >= 60);
    world.check();
}

/// A client that never takes its completions has no more taken than there is room for, and nobody
/// else waits for it.
#[test]
fn a_client_that_takes_no_completions_keeps_nobody_else() {
    let mut world = World::new(vec![Client::new(1, &[0], 8), Client::new(2, &[1], 8)], 24);
    world.pass();
    for round in 0..100 {
        for client in &mut world.clients {
            while client.submit(0, 0) {}
        }
        // As one that forgets what it has on its way.
        let lazy = &mut world.clients[0].queues[0];
        if lazy.submitter.room(1).unwrap() > 0 {
            let (words, _) = *lazy.waiting.values().next().unwrap();
            lazy.submitter.push(words);
            lazy.submitter.publish();
        }
        world.pass();
        world.hardware.work(usize::MAX, round);
        world.clients[1].reap(usize::MAX);
    }
    assert!(world.clients[1].ended > 350);
    assert_eq!(world.ledger.indices(0), (8, 8));
    assert!(world.table().hostile().is_none());
}

#[test]
fn who_may_only_read_only_reads() {
    let mut client = Client::new(1, &[0], 32);
    client.message.rights = Rights::Read;
    let mut world = World::new(vec![client], 24);
    for choice in 0..=255 {
        world.clients[0].submit(0, choice);
        if choice % 16 == 0 {
            world.drain();
        }
    }
    world.check();
    let client = &world.clients[0];
    assert!(client.outcomes[&Outcome::Denied.to_bits()] > 100);
    assert!(world.hardware.seen.iter().all(|work| !work.opcode.writes()));
}

#[test]
fn who_leaves_is_waited_for_and_its_queues_are_anothers() {
    let mut world = World::new(vec![Client::new(1, &[0, 1], 8), Client::new(2, &[2], 8)], 24);
    world.pass();
    for choice in 0..6 {
        world.clients[0].submit(usize::from(choice) % 2, choice);
        world.clients[1].submit(0, choice);
    }
    world.pass();
    world.clients[0].submit(0, 3);
    assert!(!world.table().detach(9) && world.table().detach(1));
    // Also where the driver dies meanwhile: the core tells its successor again.
    for round in 0..3 {
        world.driver = None;
        world.table().detach(1);
        world.pass();
        assert!(world.table().has_news() && world.table().left().is_none());
        world.hardware.work(2, round);
    }
    world.hardware.work(usize::MAX, 0);
    world.pass();
    let table = world.table();
    assert_eq!((table.left(), table.left(), table.has_news()), (Some(1), None, false));
    let mut gone = world.clients.remove(0);
    gone.reap(usize::MAX);
    assert_eq!((gone.ended, gone.waiting()), (6, 1), "what was not taken stays where it is");
    drop(gone);
    let new = Client::new(3, &[1, 0], 8);
    world.table().attach(&new.message, new.handles()).unwrap();
    world.clients.push(new);
    for choice in 0..8 {
        world.clients[1].submit(usize::from(choice) % 2, choice);
    }
    world.drain();
    assert_eq!(world.clients[1].ended, 8);
}

/// What is finished but not published yet is not forgotten with its client.
#[test]
fn who_leaves_is_told_what_ended() {
    let mut table = Table::<Undisturbed>::new(new_ledger());
    table.set_targets(vec![target()]);
    let mut client = Client::new(1, &[0], 8);
    table.attach(&client.message, client.handles()).unwrap();
    client.submit(0, 0);
    let mut work = Vec::new();
    table.take(8, &mut work);
    table.detach(1);
    table.finish(work[0].slot, Outcome::Success);
    assert_eq!(table.left(), None);
    table.publish();
    table.release();
    assert_eq!(table.left(), Some(1));
    client.reap(1);
    assert_eq!(client.waiting(), 0);
}

#[test]
fn slots_run_out_and_come_back() {
    let mut table = Table::<Undisturbed>::new(new_ledger());
    table.set_targets(vec![target()]);
    let mut clients = [Client::new(1, &[0], 1024), Client::new(2, &[1], 1024)];
    for client in &mut clients {
        table.attach(&client.message, client.handles()).unwrap();
        while client.submit(0, 0) {}
    }
    let mut work = Vec::new();
    table.take(10_000, &mut work);
    assert_eq!((work.len(), table.in_flight()), (MOST, MOST));
    let mut cids: Vec<u16> = work.iter().map(|work| work.cid).collect();
    cids.sort_unstable();
    cids.dedup();
    assert_eq!(cids.len(), MOST);
    table.take(10_000, &mut work);
    assert_eq!(work.len(), MOST);
    for work in work.drain(..) {
        // Not looked up before it is with the device.
        assert_eq!(table.lookup(work.cid), None);
        table.submitted(work.slot, 0);
        assert_eq!(table.lookup(work.cid), Some(work.slot));
        table.finish(work.slot, Outcome::Success);
        assert_eq!(table.lookup(work.cid), None);
    }
    assert_eq!((table.publish(), table.in_flight()), (MOST, MOST));
    table.release();
    assert_eq!(table.in_flight(), 0);
    for left in [MOST, 2048 - 2 * MOST] {
        table.take(10_000, &mut work);
        assert_eq!(work.len(), left);
        table.fail_all(Outcome::Gone);
        assert_eq!(table.in_flight(), 0);
        work.clear();
    }
}

/// What the device had no room for comes first, and as it was.
#[test]
fn what_is_put_back_comes_first() {
    let mut table = Table::<Undisturbed>::new(new_ledger());
    table.set_targets(vec![target()]);
    let mut client = Client::new(1, &[0], 8);
    table.attach(&client.message, client.handles()).unwrap();
    for choice in 0..3 {
        client.submit(0, choice);
    }
    let mut work = Vec::new();
    table.take(2, &mut work);
    let first = work.clone();
    table.put_back(&work[1]);
    table.put_back(&work[0]);
    assert!(table.has_work());
    work.clear();
    table.take(3, &mut work);
    assert_eq!((&work[..2], work.len()), (&first[..], 3));
}

#[test]
fn what_does_not_hold_together_is_not_attached() {
    let mut table = Table::<Undisturbed>::new(new_ledger());
    let good = Client::new(1, &[0, 1], 8);
    let refused = |change: &dyn Fn(&mut Client)| {
        let mut table = Table::<Undisturbed>::new(new_ledger());
        let mut client = Client::new(1, &[0, 1], 8);
        change(&mut client);
        assert!(table.attach(&client.message, client.handles()).is_err());
        assert_eq!(table.queue_count(), 0);
    };
    refused(&|client| client.message.depth = 0);
    refused(&|client| client.message.depth = 3);
    refused(&|client| client.message.depth = 2048);
    // Its memory is too short for as many.
    refused(&|client| client.message.depth = 1024);
    refused(&|client| client.message.queues = vec![0]);
    refused(&|client| client.message.queues = vec![0, 0]);
    refused(&|client| client.message.queues = vec![0, 64]);
    refused(&|client| client.message.arena_len = u64::MAX);
    refused(&|client| {
        client.queues.clear();
        client.message.queues.clear();
    });
    table.attach(&good.message, good.handles()).unwrap();
    let mut again = Client::new(1, &[2, 3], 8);
    assert!(table.attach(&again.message, again.handles()).is_err());
    again.message.client = 2;
    again.message.queues = vec![2, 1];
    assert!(table.attach(&again.message, again.handles()).is_err());
    again.message.queues = vec![2, 3];
    table.attach(&again.message, again.handles()).unwrap();
    assert_eq!(table.wake_sockets().map(|(number, _)| number).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

/// A device that came back smaller, or with blocks of no size that can be.
#[test]
fn clients_go_by_what_the_device_is_now() {
    let mut table = Table::<Undisturbed>::new(new_ledger());
    let client = Client::new(1, &[0], 8);
    table.attach(&client.message, client.handles()).unwrap();
    let ask = |table: &mut Table, lba| {
        let request =
            Submission { opcode: Opcode::Read, fua: false, blocks: 1, lba, offset: 0, tag: 0 };
        table.check(0, &request)
    };
    assert_eq!(ask(&mut table, 0), Err(Outcome::OutOfRange));
    let mut smaller = target();
    smaller.blocks = 10;
    smaller.block_size = 4096;
    table.set_targets(vec![smaller.clone()]);
    assert_eq!(ask(&mut table, 9), Ok((client.message.arena_iova, 4096)));
    assert_eq!(ask(&mut table, 10), Err(Outcome::OutOfRange));
    for block_size in [0, 3, u32::MAX] {
        table.set_targets(vec![uniddrv_abi::message::Target { block_size, ..smaller.clone() }]);
        assert_eq!(ask(&mut table, 0), Err(Outcome::OutOfRange));
    }
    table.set_targets(vec![uniddrv_abi::message::Target { block_size: 1 << 31, ..smaller }]);
    assert_eq!(ask(&mut table, 0), Err(Outcome::Invalid));
    table.set_targets(Vec::new());
    assert_eq!(ask(&mut table, 0), Err(Outcome::OutOfRange));
    assert_eq!(MAX_TRANSFER % 4096, 0);
}

/// A driver that sleeps is not needed while a client has not followed into a new epoch.
#[test]
fn there_is_work_where_something_waits() {
    let mut table = Table::<Undisturbed>::new(new_ledger());
    table.set_targets(vec![target()]);
    let mut client = Client::new(1, &[0], 8);
    table.attach(&client.message, client.handles()).unwrap();
    assert!(!table.has_work());
    client.submit(0, 0);
    assert!(table.has_work());
    queue::renew(&client.queues[0].words);
    let mut table = Table::<Undisturbed>::new(new_ledger());
    table.attach(&client.message, client.handles()).unwrap();
    assert!(!table.has_work());
    client.follow();
    assert!(table.has_work());
    table.detach(1);
    assert!(!table.has_work());
}

/// An identifier is not used again soon, by a successor neither: a late completion finds nobody.
#[test]
fn identifiers_are_new_each_time() {
    let ledger = new_ledger();
    let mut client = Client::new(1, &[0], 8);
    let mut seen = Vec::new();
    for _ in 0..40 {
        let mut table = Table::<Undisturbed>::new(ledger.clone());
        table.attach(&client.message, client.handles()).unwrap();
        client.message.new = false;
        table.take_over(None).unwrap();
        table.set_targets(vec![target()]);
        client.submit(0, 0);
        let mut work = Vec::new();
        table.take(1, &mut work);
        let (slot, cid) = (work[0].slot, work[0].cid);
        table.submitted(slot, 0);
        table.submit_again(slot);
        assert_eq!((table.lookup(cid), table.submissions().len()), (None, 0));
        seen.push(cid);
        work.clear();
        table.take(1, &mut work);
        table.submitted(slot, 0);
        assert_eq!(table.lookup(cid), None);
        assert_eq!(table.lookup(work[0].cid), Some(slot));
        seen.push(work[0].cid);
        table.fail_all(Outcome::Reset);
        client.queues[0].waiting.clear();
        assert_eq!(client.queues[0].reaper.available(), Ok(1));
        client.queues[0].reaper.pop();
        client.queues[0].reaper.publish();
    }
    for (index, cid) in seen.iter().enumerate() {
        let soon = &seen[index + 1..seen.len().min(index + 60)];
        assert!(!soon.contains(cid), "{cid:#x} twice within {}", soon.len());
    }
}
