//! Clients that wake the driver for nothing, or never listen.

use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::net::{SendFlags, Shutdown, send, shutdown};
use uniddrv_abi::message::ToCore;
use uniddrv_abi::queue::{self, Side};
use uniddrv_tests::wait::{pause, until};
use uniddrv_tests::wire::{MOST_FDS, Queue, Wire, open, throw};

use crate::host::{Host, Setup};
use crate::scene::Scene;

/// Sends wake-ups until told to stop: how many got through.
fn flood(queue: &Queue, stop: &AtomicBool) -> u64 {
    let mut sent = 0;
    let byte = [1];
    while !stop.load(Ordering::Relaxed) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(&queue.wake, &byte, flags) {
            Ok(_) => sent += 1,
            Err(_) => thread::yield_now(),
        }
    }
    sent
}

fn asleep(host: &Host) {
    until("the driver does not sleep", || host.driver().asleep.then_some(()));
}

#[test]
fn wake_ups_without_end_are_no_reason_to_end_a_driver() {
    // It sleeps as soon as it can, and is woken as soon as it does.
    let host = Setup::nvme().device("spin = \"0s\"").run();
    let driver = host.driver();
    let mut wire = Wire::greeted(&host.socket());
    let opened = wire.open(&open("nvme:0/ns1", 4, 8)).unwrap();
    asleep(&host);
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let floods: Vec<_> =
            opened.queues.iter().map(|queue| scope.spawn(|| flood(queue, &stop))).collect();
        pause(3000);
        stop.store(true, Ordering::Relaxed);
        floods.into_iter().map(|flood| flood.join().unwrap()).sum::<u64>()
    });
    assert!(sent > 1000, "{sent} wake-ups");
    host.same_driver(&driver);
    asleep(&host);
}

#[test]
fn wake_ups_of_any_size_with_anything_attached_disturb_nobody() {
    let scene = Scene::new();
    let files = || fs::read_dir(format!("/proc/{}/fd", scene.driver())).map(Iterator::count);
    let before = files();
    let mut wire = scene.greeted();
    let opened = wire.open(&open("nvme:0/ns2", 4, 8)).unwrap();
    let file = fs::File::open("/dev/null").unwrap();
    for (number, queue) in opened.queues.iter().enumerate() {
        let _ = throw(&queue.wake, &vec![7; 150_000], &[]);
        while throw(&queue.wake, &[0; 100], &vec![file.as_fd(); MOST_FDS]) {}
        // Its own end, and an end of the conversation.
        let _ = throw(&queue.wake, &[1], &[queue.wake.as_fd()]);
        if number % 2 == 0 {
            let _ = throw(&queue.wake, &[], &[]);
        }
    }
    scene.goes_on();
    drop((wire, opened));
    if let Ok(before) = before {
        until("the driver keeps files", || files().is_ok_and(|now| now <= before).then_some(()));
    }
    scene.unharmed();
}

#[test]
fn one_who_never_takes_wake_ups_or_closes_its_socket_disturbs_nobody() {
    let scene = Scene::new();
    for how in 0..5 {
        let mut wire = scene.greeted();
        let mut opened = wire.open(&open("nvme:0/ns2", 1, 64)).unwrap();
        let queue = opened.queues.remove(0);
        let words = queue.words.clone();
        let (mut submitter, mut reaper) = queue.rings(opened.depth);
        match how {
            0 => {}
            1 => shutdown(&queue.wake, Shutdown::Read).unwrap(),
            2 => shutdown(&queue.wake, Shutdown::Write).unwrap(),
            3 => shutdown(&queue.wake, Shutdown::Both).unwrap(),
            _ => drop(queue),
        }
        // It sleeps for good, as it says: each completion is worth a wake-up.
        queue::announce_sleep(&words, Side::Client);
        let request = crate::rings::read(0, 8, 0, 7).to_words();
        let mut ended = 0;
        until("requests do not end", || {
            while submitter.room(1).unwrap() > 0 {
                submitter.push(request);
            }
            submitter.publish();
            while reaper.look().unwrap() > 0 {
                reaper.pop();
                ended += 1;
            }
            reaper.publish();
            (ended > 2000).then_some(())
        });
        let _ = wire.send(&ToCore::Close { handle: opened.handle });
    }
    scene.goes_on();
    scene.unharmed();
}

#[test]
fn a_driver_sleeps_beside_sockets_that_were_closed() {
    let host = Setup::nvme().run();
    let driver = host.driver();
    let mut wire = Wire::greeted(&host.socket());
    let opened = wire.open(&open("nvme:0/ns1", 4, 8)).unwrap();
    for (queue, how) in
        opened.queues.iter().zip([Shutdown::Read, Shutdown::Write, Shutdown::Both, Shutdown::Both])
    {
        shutdown(&queue.wake, how).unwrap();
    }
    drop(opened);
    asleep(&host);
    host.same_driver(&driver);
}
