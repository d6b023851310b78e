//! The NVMe driver, which turns hostile where its ledger tells it to: it forges what its successor
//! goes by, and dies. The armed word is the step, above it what to forge, above that a seed.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use uniddrv::serve::{DriverLedger, Step, Steps};
use uniddrv_abi::Words as _;
use uniddrv_abi::ledger::{Breadcrumb, DEVICE_WORDS, Phase, QUEUES, SLOTS, State};
use uniddrv_tests::wire::Random;

enum Forging {}

impl Steps for Forging {
    #[inline]
    fn at(ledger: &DriverLedger, step: Step) {
        let (armed, count) = ledger.armed();
        if armed & 0xffff != step as u64 || count == 0 {
            return;
        }
        ledger.arm(armed, count - 1);
        if count == 1 {
            forge(ledger, armed >> 16 & 0xffff, &mut Random::new(armed >> 32));
            // Its successors are honest.
            ledger.arm(0, 0);
            std::process::abort();
        }
    }
}

#[cold]
fn forge(ledger: &DriverLedger, what: u64, random: &mut Random) {
    let queue = |random: &mut Random| random.below(QUEUES as u64) as u8;
    match what {
        // Everything has ended well, says it, and was posted somewhere.
        0 => slots(ledger, |slot, held| {
            ledger.done(
                slot,
                held.queue,
                held.cid,
                held.posted.wrapping_add(random.next() as u32 % 4),
                0,
            );
        }),
        // The device has what it never was given.
        1 => slots(ledger, |slot, held| ledger.submitted(slot, held.queue, held.cid, random.odd())),
        // Another queue's, perhaps one that nobody has.
        2 => slots(ledger, |slot, held| {
            ledger.submitted(slot, queue(random), held.cid, held.device);
        }),
        // Requests that nobody sent, in slots that were free.
        3 => {
            for slot in 0..SLOTS {
                let request = [random.odd(), random.odd(), random.odd(), random.odd()];
                let (queue, cid) = (queue(random) % 4, slot as u16);
                ledger.take(slot, queue, cid, random.next() as u32, request, random.odd());
            }
        }
        // Indices anywhere.
        4 => {
            for number in 0..4 {
                let (consumer, producer) = ledger.indices(number);
                let off = |random: &mut Random| random.below(9) as u32;
                ledger.set_consumer(number, consumer.wrapping_add(off(random)).wrapping_sub(4));
                ledger.set_producer(number, producer.wrapping_add(off(random)).wrapping_sub(4));
            }
        }
        5 => {
            for number in 0..QUEUES as u8 {
                ledger.set_consumer(number, random.next() as u32);
                ledger.set_producer(number, random.next() as u32);
            }
        }
        // What the controller is like and how far it got.
        6 => {
            for word in 0..DEVICE_WORDS {
                if random.below(3) == 0 {
                    ledger.set_device(word, random.odd());
                }
            }
        }
        7 => ledger.set_device(random.below(40) as usize, random.odd()),
        // How far the driver got, what it was at, when.
        8 => {
            let phases = [Phase::Fresh, Phase::BringingUp, Phase::Running, Phase::Quiesced];
            ledger.set_phase(phases[random.below(4) as usize]);
            let crumb = Breadcrumb { queue: queue(random), position: random.next() as u32 };
            ledger.set_breadcrumb(Some(crumb));
            ledger.adoption_began(random.odd());
            ledger.adoption_ended(random.odd());
            ledger.first_completion(random.odd());
            ledger.count_completed(random.odd());
            ledger.set_last_words("\u{1b}[2Jall is well\r\n".repeat(20).as_bytes());
        }
        // Any word.
        9 => {
            for _ in 0..=random.below(20) {
                let word = random.below(ledger.words().count() as u64) as usize;
                ledger.words().store(word, random.odd(), Ordering::SeqCst);
            }
        }
        // There are no namespaces.
        12 => ledger.set_device(8, 0),
        // Nobody has had the device yet.
        13 => ledger.set_phase(Phase::Fresh),
        // All words but the first.
        10 => {
            for word in 1..ledger.words().count() {
                ledger.words().store(word, random.odd(), Ordering::SeqCst);
            }
        }
        _ => {
            for word in 0..ledger.words().count() {
                ledger.words().store(word, random.next(), Ordering::SeqCst);
            }
        }
    }
}

/// For each slot that is not free.
fn slots(ledger: &DriverLedger, mut then: impl FnMut(usize, &uniddrv_abi::ledger::Slot)) {
    for slot in 0..SLOTS {
        if let Ok(held) = ledger.slot(slot)
            && held.state != State::Free
        {
            then(slot, &held);
        }
    }
}

uniddrv::driver_program!(storage_poll::served::Nvme<Forging>);
