use super::super::fake::{BLOCK, FakeQueue, Fault, buffers};
use super::*;

const AREA: Area = Area { first: 8, unit_blocks: 2, units: 100 };

fn worker(fault: Fault, verify: bool) -> Worker<FakeQueue> {
    let queue = FakeQueue::new(1000, 16, fault);
    let verifier = verify.then(|| Verifier::new(AREA, BLOCK, 5).unwrap());
    Worker::new(queue, AREA, buffers(16, 2 * BLOCK as usize), verifier)
}

fn phase(rw: Rw, ios: u64) -> Phase {
    Phase {
        rw,
        depth: 8,
        time: None,
        ios: Some(ios),
        keep_going: false,
        patience: Duration::from_millis(50),
        spin: Duration::ZERO,
        seed: 3,
    }
}

fn run(worker: &mut Worker<FakeQueue>, phase: &Phase) -> (Tally, bool) {
    let (stop, done) = (AtomicBool::new(false), Counter::default());
    let tally = worker.run(phase, &stop, &done);
    assert_eq!(done.0.into_inner(), tally.reads + tally.writes + tally.errors);
    (tally, stop.into_inner())
}

fn fatal(fault: Fault) -> Fatal {
    let (tally, stop) = run(&mut worker(fault, false), &phase(Rw::RandRead, 1000));
    assert!(stop, "the other threads were not stopped");
    tally.fatal.unwrap()
}

#[test]
fn each_request_is_counted_once() {
    for (rw, reads, writes) in [(Rw::RandRead, 1001, 0), (Rw::Write, 0, 1001)] {
        let mut worker = worker(Fault::None, false);
        let (tally, stop) = run(&mut worker, &phase(rw, 1001));
        assert_eq!((tally.reads, tally.writes, tally.errors), (reads, writes, 0));
        assert_eq!((tally.fatal, stop), (None, false));
        assert_eq!(worker.queue.most, 8);
        assert!(tally.latencies.distribution().lat_ns.max > 0);
    }
}

#[test]
fn both_directions_are_mixed() {
    let (tally, _) = run(&mut worker(Fault::None, false), &phase(Rw::RandReadWrite, 10_000));
    assert_eq!(tally.reads + tally.writes, 10_000);
    assert!(tally.reads > 4_000 && tally.writes > 4_000);
}

#[test]
fn time_ends_a_phase() {
    let phase = Phase { time: Some(Duration::from_millis(5)), ios: None, ..phase(Rw::RandRead, 0) };
    let (tally, stop) = run(&mut worker(Fault::None, false), &phase);
    assert!(tally.reads > 0 && !stop);
    assert!(tally.ticks >= clock::to_ticks(Duration::from_millis(5)));
}

#[test]
fn a_stop_drains_and_ends() {
    let mut worker = worker(Fault::None, false);
    let (stop, done) = (AtomicBool::new(true), Counter::default());
    let phase = Phase { ios: None, ..phase(Rw::RandRead, 0) };
    let tally = worker.run(&phase, &stop, &done);
    assert_eq!(tally.reads, 8);
    assert_eq!(worker.free.len(), 16);
}

#[test]
fn a_queue_smaller_than_asked_for_is_used_as_far_as_it_goes() {
    let mut worker = worker(Fault::None, false);
    let (tally, _) = run(&mut worker, &Phase { depth: 100, ..phase(Rw::RandRead, 500) });
    assert_eq!((tally.reads, tally.fatal), (500, None));
    assert_eq!(worker.queue.most, 16);
}

#[test]
fn an_error_ends_it_unless_told_to_go_on() {
    let fault = Fault::Fail(10, BlockError::Device(0x281));
    let (tally, stop) = run(&mut worker(fault, false), &phase(Rw::RandRead, 1000));
    assert!(stop && tally.errors == 1 && tally.reads < 30);
    assert_eq!(tally.error_samples[0].error, BlockError::Device(0x281));
    let text = tally.error_samples[0].to_string();
    assert!(text.contains("Unrecovered Read Error"), "{text}");

    let phase = Phase { keep_going: true, ..phase(Rw::RandRead, 1000) };
    let (tally, stop) = run(&mut worker(fault, false), &phase);
    assert_eq!((tally.reads, tally.errors, stop), (900, 100, false));
    assert_eq!(tally.error_samples.len(), SAMPLES);
}

#[test]
fn a_device_that_is_gone_ends_it_even_when_told_to_go_on() {
    let phase = Phase { keep_going: true, ..phase(Rw::RandRead, u64::MAX) };
    let (tally, stop) = run(&mut worker(Fault::Gone(100), false), &phase);
    assert_eq!((tally.fatal, stop, tally.reads), (Some(Fatal::Gone), true, 100));
}

#[test]
fn a_device_that_hangs_is_given_up() {
    let patience = Duration::from_millis(50);
    assert_eq!(fatal(Fault::Hang(20)), Fatal::Stalled { outstanding: 8, patience });
    assert_eq!(
        fatal(Fault::Refuse(20, SubmitError::NotReady)),
        Fatal::Refused { error: SubmitError::NotReady, patience }
    );
}

#[test]
fn lies_are_noticed() {
    assert_eq!(fatal(Fault::WrongTag(5)), Fatal::UnknownTag(1 << 40));
    assert!(matches!(fatal(Fault::Twice(5)), Fatal::UnknownTag(..16)));
    assert!(matches!(fatal(Fault::KeepBuffer(5)), Fatal::LostBuffer(..16)));
    let error = SubmitError::Unaligned(1024);
    assert_eq!(fatal(Fault::Refuse(5, error)), Fatal::Rejected(error));
}

#[test]
fn verified_data_is_read_back() {
    let mut worker = worker(Fault::None, true);
    let (tally, _) = run(&mut worker, &phase(Rw::Write, 100));
    assert_eq!((tally.writes, tally.verified), (100, 0));
    let (tally, _) = run(&mut worker, &phase(Rw::RandRead, 1000));
    assert_eq!((tally.mismatches, tally.verified), (0, 2000));
    let (tally, _) = run(&mut worker, &phase(Rw::RandReadWrite, 1000));
    assert_eq!((tally.mismatches, tally.verified), (0, 2 * tally.reads));
}

#[test]
fn lost_writes_and_damaged_reads_are_found() {
    let mut losing = worker(Fault::DropWrite(33), true);
    run(&mut losing, &phase(Rw::Write, 100));
    let (tally, stop) = run(&mut losing, &phase(Rw::Read, 100));
    assert!(stop);
    assert_eq!(tally.mismatches, 1);
    assert_eq!(tally.mismatch_samples[0].lba, 8 + 66);

    let mut damaging = worker(Fault::FlipBit(150), true);
    run(&mut damaging, &phase(Rw::Write, 100));
    let (tally, _) = run(&mut damaging, &Phase { keep_going: true, ..phase(Rw::Read, 100) });
    assert_eq!((tally.mismatches, tally.reads), (1, 100));
    assert!(tally.mismatch_samples[0].to_string().contains("damaged from byte 504"));
}
