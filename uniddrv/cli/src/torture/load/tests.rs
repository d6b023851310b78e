//! The load on a queue in memory that does wrong where told to.

use super::*;
use crate::bench::fake::{BLOCK, FakeQueue, Fault, buffers};
use crate::bench::workload::Area;
use crate::torture::mix::{Mix, Once, Sweep};

const UNITS: u64 = 100;
const LARGE: u32 = 4;

fn load(fault: Fault) -> Load<FakeQueue> {
    let area = Area { first: 0, unit_blocks: 2, units: UNITS };
    let book = Book::new(area, BLOCK, 1).unwrap();
    let queue = FakeQueue::new(2 * UNITS, 8, fault);
    let buffer = |len| Ok(buffers(1, len).remove(0));
    Load::new(queue, book, 8, LARGE, Duration::from_millis(50), buffer).unwrap()
}

/// So many steps of another source.
struct Steps<S>(S, u64);

impl<S: Source> Source for Steps<S> {
    fn next(&mut self, book: &Book) -> Next {
        if self.1 == 0 {
            return Next::End;
        }
        let next = self.0.next(book);
        self.1 -= u64::from(matches!(next, Next::Step(_)));
        next
    }
}

fn run(load: &mut Load<FakeQueue>, source: &mut impl Source) -> Result<(), Fatal> {
    load.run(source, &Watch::new().0, &AtomicBool::new(false), &Counter::default())
}

/// Whether nothing went wrong that must not.
fn none(load: &Load<FakeQueue>) -> bool {
    let Wrongs { lost, duplicated, corrupted, .. } = load.requests.wrongs;
    lost + duplicated + corrupted == 0
}

/// Fills, runs a mix, and reads all back.
fn torture(load: &mut Load<FakeQueue>, steps: u64) -> Result<(), Fatal> {
    run(load, &mut Sweep::new(Touch::Write, LARGE))?;
    run(load, &mut Steps(Mix::new(3, LARGE, true), steps))?;
    run(load, &mut Sweep::new(Touch::Read, LARGE))
}

#[test]
fn a_good_device_passes() {
    let mut load = load(Fault::None);
    torture(&mut load, 5_000).unwrap();
    assert!(none(&load), "{:?}", load.requests.wrongs);
    let Counts { reads, writes, zeroes, flushes, errors, poisoned } = load.requests.counts;
    assert_eq!(load.requests.counts.ios(), 5_000 + 2 * UNITS / u64::from(LARGE));
    assert!(reads > 0 && writes > 0 && zeroes > 0 && flushes > 0 && errors + poisoned == 0);
    assert!(load.requests.checked > 2 * UNITS && load.queue.most == 8);
}

#[test]
fn what_goes_wrong_is_told_by_its_name() {
    let mut lost = load(Fault::Hang(1000));
    let fatal = torture(&mut lost, 5_000).unwrap_err();
    assert_eq!(fatal, Fatal::Stalled(Duration::from_millis(50)));
    assert_eq!(
        (
            lost.requests.wrongs.lost,
            lost.requests.wrongs.duplicated,
            lost.requests.wrongs.corrupted
        ),
        (8, 0, 0)
    );
    assert!(
        lost.requests.wrongs.samples[0].starts_with("lost: request"),
        "{:?}",
        lost.requests.wrongs.samples
    );

    let mut twice = load(Fault::Twice(1000));
    torture(&mut twice, 5_000).unwrap();
    assert_eq!(
        (
            twice.requests.wrongs.lost,
            twice.requests.wrongs.duplicated,
            twice.requests.wrongs.corrupted
        ),
        (0, 1, 0)
    );

    let mut other = load(Fault::WrongTag(1000));
    assert!(torture(&mut other, 5_000).is_err());
    assert_eq!((other.requests.wrongs.lost, other.requests.wrongs.duplicated), (1, 1));
}

#[test]
fn each_byte_is_checked() {
    for at in 30..60 {
        let mut flipped = load(Fault::FlipBit(at));
        run(&mut flipped, &mut Sweep::new(Touch::Write, LARGE)).unwrap();
        run(&mut flipped, &mut Sweep::new(Touch::Read, LARGE)).unwrap();
        // Only reads turn a bit.
        let corrupted = u64::from(at < 50);
        assert_eq!(
            flipped.requests.wrongs.corrupted, corrupted,
            "{at}: {:?}",
            flipped.requests.wrongs.samples
        );
    }
    let mut dropped = load(Fault::DropWrite(30));
    run(&mut dropped, &mut Sweep::new(Touch::Write, LARGE)).unwrap();
    run(&mut dropped, &mut Sweep::new(Touch::Write, LARGE)).unwrap();
    run(&mut dropped, &mut Sweep::new(Touch::Read, LARGE)).unwrap();
    assert_eq!(dropped.requests.wrongs.corrupted, 1);
}

#[test]
fn what_failed_is_counted_and_its_content_not_relied_on() {
    let mut failing = load(Fault::Fail(10, BlockError::Poisoned));
    torture(&mut failing, 1_000).unwrap();
    assert_eq!((failing.requests.counts.errors, failing.requests.counts.poisoned), (105, 105));
    assert!(none(&failing) && failing.requests.errors.len() == SAMPLES);
    let mut gone = load(Fault::Refuse(100, SubmitError::Gone));
    assert_eq!(torture(&mut gone, 1_000), Err(Fatal::Refused(SubmitError::Gone)));
    assert!(none(&gone));
    let mut kept = load(Fault::KeepBuffer(5));
    assert_eq!(torture(&mut kept, 1_000), Err(Fatal::NoBuffer(6)));
}

#[test]
fn a_stop_waits_for_what_is_on_its_way() {
    let mut load = load(Fault::None);
    let stop = AtomicBool::new(true);
    let mut mix = Mix::new(1, LARGE, true);
    load.run(&mut mix, &Watch::new().0, &stop, &Counter::default()).unwrap();
    assert!(load.requests.in_flight() == 0 && load.requests.counts.ios() > 0);
}

#[test]
fn time_is_counted_in_steps() {
    let mut load = load(Fault::None);
    load.requests.timeline = Timeline::new(Duration::from_secs(10), Duration::from_secs(1));
    run(&mut load, &mut Once(Some(Step::Flush))).unwrap();
    assert_eq!(load.requests.timeline.counts().len(), 11);
    assert_eq!(load.requests.timeline.counts().iter().sum::<u32>(), 1);
}
