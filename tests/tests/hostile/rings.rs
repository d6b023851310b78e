//! Clients that write what they like into the memory that they share with the driver.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{FallocateFlags, fallocate};
use uniddrv_abi::Words as _;
use uniddrv_abi::block::{Completion, Opcode, Outcome, Submission};
use uniddrv_abi::message::{FromCore, Rights, ToCore};
use uniddrv_abi::queue;

use uniddrv_tests::wait::{PATIENCE, pause, until};
use uniddrv_tests::wire::{Opened, Queue, Random, Wire, open};

use crate::host::{SIZE, Setup};
use crate::scene::Scene;

/// Words of a queue before its entries.
const HEADER: usize = 64;
const BLOCKS: u64 = SIZE / 512;

/// A read of so many blocks.
pub(crate) fn read(lba: u64, blocks: u32, offset: u64, tag: u64) -> Submission {
    Submission { opcode: Opcode::Read, fua: false, blocks, lba, offset, tag }
}

/// Submits entries and waits for as many completions.
fn exchange(opened: &Opened, entries: &[[u64; 4]]) -> Vec<Completion> {
    let queue = &opened.queues[0];
    let (mut submitter, mut reaper) = queue.rings(opened.depth);
    for entry in entries {
        assert!(submitter.room(1).unwrap() > 0, "more than fit in");
        submitter.push(*entry);
    }
    submitter.publish();
    queue.wake();
    let mut completions = Vec::new();
    until("requests do not end", || {
        while reaper.available().unwrap() > 0 {
            completions.push(Completion::from_words(reaper.pop().unwrap()));
        }
        reaper.publish();
        (completions.len() >= entries.len()).then_some(())
    });
    assert_eq!(completions.len(), entries.len());
    completions
}

#[test]
fn garbage_in_any_word_ends_its_client_at_most() {
    let scene = Scene::new();
    let mut random = Random::new(2);
    for word in 0..HEADER {
        for _ in 0..6 {
            let mut wire = scene.greeted();
            let opened = wire.open(&open("nvme:0/ns2", 2, 8)).unwrap();
            let queue = &opened.queues[random.below(2) as usize];
            queue.store(word, random.odd());
            queue.wake();
            // It is ended, or nothing happens.
            let _ = wire.send(&ToCore::Close { handle: opened.handle });
            while wire
                .control
                .receive_within::<FromCore>(PATIENCE)
                .is_ok_and(|(answer, _)| matches!(answer, FromCore::Closed { .. }))
            {}
        }
        if word % 16 == 0 {
            scene.goes_on();
        }
    }
    scene.unharmed();
}

#[test]
fn an_index_that_cannot_be_ends_its_client() {
    let scene = Scene::new();
    let (submission, completion) = (queue::submission(8), queue::completion(8));
    for (word, value) in [
        (submission.tail, 9),
        (submission.tail, u64::from(u32::MAX)),
        (submission.tail, 1 << 32),
        (submission.tail, u64::MAX),
        (completion.head, 1),
        (completion.head, u64::MAX),
        (completion.head, 1 << 32 | 1),
    ] {
        let mut wire = scene.greeted();
        let opened = wire.open(&open("nvme:0/ns2", 1, 8)).unwrap();
        let queue = &opened.queues[0];
        queue.store(word, value);
        if word == completion.head {
            // Looked at where there is something to be answered.
            queue.store(submission.tail, 1);
        }
        queue.wake();
        let (message, _) = wire.control.receive_within::<FromCore>(PATIENCE).unwrap();
        let FromCore::Closed { handle, text } = message else { panic!("{message:?}") };
        assert_eq!(handle, opened.handle);
        assert!(text.contains("cannot be"), "{text}");
        assert!(wire.is_alive(), "what else it has is none of this driver's business");
        assert_ne!(queue::closed(&queue.words), 0, "the queue says that it has ended");
    }
    scene.unharmed();
}

/// Writes garbage into a queue until told to stop.
fn rage(queue: &Queue, seed: u64, stop: &AtomicBool) {
    let mut random = Random::new(seed);
    let words = queue.words.count() as u64;
    while !stop.load(Ordering::Relaxed) {
        let word = if random.below(2) == 0 { random.below(60) } else { random.below(words) };
        let value = match random.below(3) {
            // Near enough to be believed.
            0 => queue.load(word as usize).wrapping_add(random.below(5)).wrapping_sub(1),
            _ => random.odd(),
        };
        queue.store(word as usize, value);
        if random.below(50) == 0 {
            queue.wake();
        }
    }
}

#[test]
fn garbage_all_the_time_disturbs_nobody_else() {
    let scene = Scene::new();
    for round in 0..40 {
        let mut wire = scene.greeted();
        let opened = wire.open(&open("nvme:0/ns2", 4, 64)).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for (number, queue) in (0..).zip(&opened.queues) {
                let stop = &stop;
                scope.spawn(move || rage(queue, round * 16 + number, stop));
            }
            // One that is ended goes on with what it has mapped.
            if round % 4 == 0 {
                scene.goes_on();
            } else {
                pause(5);
            }
            if round % 3 == 0 {
                drop(wire);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
    scene.unharmed();
}

#[test]
fn requests_that_cannot_be_are_failed_one_by_one() {
    let scene = Scene::new();
    let mut wire = scene.greeted();
    let opened = wire.open(&open("nvme:0/ns2", 1, 1024)).unwrap();
    let arena = opened.arena;
    let good = read(0, 8, 0, 0).to_words();
    let with = |word: usize, value: u64| {
        let mut words = good;
        words[word] = value;
        words
    };
    let mut invalid = vec![
        // No opcode, unknown ones, bits that have no meaning.
        with(0, 8 << 32),
        with(0, 8 << 32 | 6),
        with(0, 8 << 32 | 0xff),
        with(0, good[0] | 0x200),
        with(0, good[0] | 0x8000_0000),
        with(0, u64::MAX),
        // No blocks; more than one request moves; more than there is memory.
        with(0, 1),
        with(0, 1 | 0xffff << 32),
        with(0, 1 | (arena / 512 + 1) << 32),
        // Beyond the arena's end, at its end, across it, past the end of all numbers.
        with(2, arena),
        with(2, arena - 4096 + 512),
        with(2, arena + 4096),
        with(2, u64::MAX),
        with(2, u64::MAX - 4095),
        with(2, 1 << 63),
        // Not at a page.
        with(2, 1),
        with(2, 512),
    ];
    // Wherever the other's memory may be from here, above or below.
    for distance in 1..64 {
        invalid.push(with(2, distance * (2 << 20)));
        invalid.push(with(2, (distance * (2 << 20)).wrapping_neg()));
    }
    let mut outside = vec![
        with(1, BLOCKS),
        with(1, BLOCKS - 7),
        with(1, u64::MAX),
        with(1, u64::MAX - 7),
        with(0, 1 | 0xffff_ffff << 32),
    ];
    for opcode in [Opcode::Discard, Opcode::WriteZeroes] {
        for (lba, blocks) in [(0, u32::MAX), (BLOCKS, 1), (u64::MAX, 1), (BLOCKS - 1, 2)] {
            outside.push(Submission { opcode, ..read(lba, blocks, 0, 0) }.to_words());
        }
    }
    let mut entries = Vec::new();
    let mut wanted = Vec::new();
    for (wrong, outcome) in [(&invalid, Outcome::Invalid), (&outside, Outcome::OutOfRange)] {
        for entry in wrong {
            for (mut entry, outcome) in [(*entry, outcome), (good, Outcome::Success)] {
                entry[3] = wanted.len() as u64;
                wanted.push(outcome);
                entries.push(entry);
            }
        }
    }
    for Completion { tag, outcome } in exchange(&opened, &entries) {
        let entry = &entries[tag as usize];
        let both = [outcome, wanted[tag as usize]];
        // One that is too long is also beyond the end: either will do.
        let either = both == [Outcome::OutOfRange, Outcome::Invalid];
        assert!(both[0] == both[1] || either, "{entry:x?}: {both:?}");
    }
    assert!(wire.is_alive(), "wrong requests are no reason to end a client");
    drop(wire);
    scene.unharmed();
}

#[test]
fn one_who_may_only_read_changes_nothing() {
    let scene = Scene::new();
    let mut wire = scene.greeted();
    let ToCore::Open { name, queues, depth, arena, .. } = open("nvme:0/ns1", 1, 64) else {
        unreachable!("it was just made");
    };
    let read_only = ToCore::Open { name, rights: Rights::Read, queues, depth, arena };
    let opened = wire.open(&read_only).unwrap();
    let changes = [Opcode::Write, Opcode::Discard, Opcode::WriteZeroes];
    let entries = changes.map(|opcode| Submission { opcode, ..read(0, 8, 0, 0) }.to_words());
    // The bystander would find what had changed.
    for Completion { outcome, .. } in exchange(&opened, &entries) {
        assert_eq!(outcome, Outcome::Denied);
    }
    scene.goes_on();
    drop(wire);
    scene.unharmed();
}

#[test]
fn one_who_asks_for_all_there_is_starves_nobody() {
    let scene = Scene::new();
    let mut wire = scene.greeted();
    let opened = wire.open(&open("nvme:0/ns2", 16, 1024)).unwrap();
    let mut rings: Vec<_> = opened.queues.iter().map(|queue| queue.rings(opened.depth)).collect();
    for round in 0..20 {
        for (submitter, reaper) in &mut rings {
            // Large ones, more than the device takes at a time.
            while submitter.room(1).unwrap() > 0 {
                submitter.push(read(0, 256, 0, 7).to_words());
            }
            submitter.publish();
            while round % 2 == 0 && reaper.look().unwrap() > 0 {
                reaper.pop();
            }
            reaper.publish();
        }
        opened.queues.iter().for_each(Queue::wake);
        scene.goes_on();
    }
    // Gone with all of that on its way.
    drop(wire);
    scene.unharmed();
}

#[test]
fn clients_that_die_with_requests_on_their_way_leave_nothing() {
    let scene = Scene::new();
    for round in 0..60_u64 {
        let mut wire = scene.greeted();
        let opened = wire.open(&open("nvme:0/ns2", 2, 256)).unwrap();
        for queue in &opened.queues {
            let (mut submitter, _) = queue.rings(opened.depth);
            for tag in 0..round * 4 {
                let write = Submission { opcode: Opcode::Write, ..read(tag * 8, 64, 0, tag) };
                submitter.push(write.to_words());
            }
            submitter.publish();
            queue.wake();
        }
        if round % 3 == 0 {
            let _ = wire.send(&ToCore::Close { handle: opened.handle });
        }
        drop(wire);
        if round % 2 == 0 {
            // The memory first, or last.
            drop(opened);
        }
    }
    scene.unharmed();
}

#[test]
fn holes_in_shared_memory_disturb_nobody_else() {
    let scene = Scene::new();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for round in 0..20 {
        let mut wire = scene.greeted();
        let opened = wire.open(&open("nvme:0/ns2", 1, 64)).unwrap();
        let queue = &opened.queues[0];
        let (mut submitter, _) = queue.rings(opened.depth);
        for tag in 0..64 {
            let write = Submission { opcode: Opcode::Write, ..read(tag * 8, 64, 0, tag) };
            submitter.push(write.to_words());
        }
        submitter.publish();
        queue.wake();
        let len = (queue.words.count() * 8) as u64;
        fallocate(&opened.memory, punch, 0, opened.arena).unwrap();
        if round % 2 == 0 {
            fallocate(&queue.memory, punch, 0, len).unwrap();
        }
        for (file, len) in [(&opened.memory, opened.arena), (&queue.memory, len)] {
            assert!(rustix::fs::ftruncate(file.as_fd(), 0).is_err(), "it shrinks");
            assert!(rustix::fs::ftruncate(file.as_fd(), 2 * len).is_err(), "it grows");
        }
        queue.wake();
    }
    scene.unharmed();
}

#[test]
fn a_client_that_lets_a_sleeping_driver_sleep_harms_itself_alone() {
    // What waits for so long without an end has the core replace a driver.
    let host = Setup::nvme().device("timeout = \"100ms\"").run();
    let driver = host.driver();
    let mut wire = Wire::greeted(&host.socket());
    let opened = wire.open(&open("nvme:0/ns2", 1, 8)).unwrap();
    let asleep = || host.driver().asleep.then_some(());
    until("the driver does not sleep", asleep);
    let queue = &opened.queues[0];
    let (mut submitter, mut reaper) = queue.rings(opened.depth);
    // Submitted, without a word to the driver.
    submitter.push(read(0, 8, 0, 1).to_words());
    submitter.publish();
    for _ in 0..30 {
        assert!(wire.is_alive());
        pause(100);
    }
    host.same_driver(&driver);
    assert_eq!(reaper.look(), Ok(1), "the core has woken it");
}
