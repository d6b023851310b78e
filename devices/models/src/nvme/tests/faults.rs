//! Each kind of fault alone, with what a client sees of it.

use std::time::{Duration, Instant};

use uniddrv::Transport;
use uniddrv_spec::nvme::admin::event::Event;
use uniddrv_spec::nvme::admin::queue::AbortResult;
use uniddrv_spec::nvme::admin::{Abort, AsyncEvent, Identify, async_event_request};
use uniddrv_spec::nvme::identify::IdentifyController;
use uniddrv_spec::nvme::io::{BlockCount, Flags, flush, read, write};
use uniddrv_spec::nvme::status::Status;

use super::client::*;
use crate::nvme::FaultCounts;

fn client(plan: &str) -> Client {
    Client::new(&[("fault", plan)])
}

fn counts(client: &Client) -> FaultCounts {
    client.inline.with(|model, _| model.fault_counts()).unwrap()
}

#[test]
fn a_dropped_completion_can_be_aborted() {
    let mut client = client("drop=1");
    let cid = client.submit(1, flush(1));
    assert_eq!(client.reap(1), None);
    assert_eq!(counts(&client).dropped, 1);
    let result = client.admin(Abort { sqid: 1, cid }.to_entry());
    assert!(!AbortResult::from_bits(result.dw0()).not_aborted());
    let completion = client.reap(1).unwrap();
    assert_eq!((completion.cid(), completion.status()), (cid, Status::ABORT_REQUESTED));
    let result = client.admin(Abort { sqid: 1, cid }.to_entry());
    assert!(AbortResult::from_bits(result.dw0()).not_aborted());
}

#[test]
fn dropped_commands_are_remembered_up_to_a_limit() {
    let mut client = client("drop=1");
    for _ in 0..10_000 {
        client.submit(1, flush(1));
    }
    assert_eq!(counts(&client).dropped, 10_000);
    client.inline.with(|model, _| assert_eq!(model.controller.dropped.len(), 4096));
}

#[test]
fn a_delayed_completion_comes_later_or_is_aborted() {
    let mut client = client("delay=1:50ms");
    let start = Instant::now();
    let cid = client.submit(1, flush(1));
    assert_eq!(client.reap(1), None);
    assert_eq!(client.wait(1).unwrap().cid(), cid);
    assert!(start.elapsed() >= Duration::from_millis(50));
    let cid = client.submit(1, flush(1));
    client.admin(Abort { sqid: 1, cid }.to_entry());
    assert_eq!(client.reap(1).unwrap().status(), Status::ABORT_REQUESTED);
    std::thread::sleep(Duration::from_millis(60));
    client.inline.poll();
    assert_eq!(client.reap(1), None, "completed after it was aborted");
}

#[test]
fn a_duplicate_comes_twice() {
    let mut client = client("duplicate=1");
    let cid = client.submit(1, flush(1));
    assert_eq!(client.reap(1).unwrap().cid(), cid);
    assert_eq!(client.reap(1).unwrap().cid(), cid);
    assert_eq!(client.reap(1), None);
}

#[test]
fn reordered_completions_all_come() {
    let mut client = client("seed=5,reorder=0.5");
    let sent: Vec<_> = (0..12).map(|_| client.queue(1, flush(1))).collect();
    client.ring(1);
    let got: Vec<_> = (0..12).map(|_| client.reap(1).unwrap().cid()).collect();
    assert_ne!(sent, got);
    let mut sorted = got.clone();
    sorted.sort_unstable();
    assert_eq!(sent, sorted);
    // One alone is not held for ever.
    let mut client = self::client("reorder=1");
    let cid = client.submit(1, flush(1));
    assert_eq!(client.wait(1).unwrap().cid(), cid);
}

#[test]
fn a_wrong_identifier_and_a_wrong_phase() {
    let mut client = client("wrong-cid=1");
    let cid = client.submit(1, flush(1));
    let completion = client.reap(1).unwrap();
    assert_eq!(completion.cid(), cid ^ 0x8000);
    let mut client = self::client("wrong-phase=1");
    client.submit(1, flush(1));
    assert_eq!(client.reap(1), None);
    assert_ne!(client.get(cq_address(1) + 8, 2), [0, 0], "the entry was written");
    assert_eq!(counts(&client).wrong_phase, 1);
}

#[test]
fn an_injected_status_leaves_the_command_undone() {
    let mut client = client("status=1:0x280,after=1");
    client.put(DATA, &[1; 512]);
    let entry = write(1, 0, BlockCount::ONE, Flags::NONE).with_prps(DATA, 0);
    assert_eq!(client.io(entry), Status::SUCCESS);
    client.put(DATA, &[2; 512]);
    assert_eq!(client.io(entry), Status::WRITE_FAULT);
    client.inline.with(|model, host| {
        let namespace = &mut model.controller.namespaces[0];
        let mut data = [0; 512];
        namespace.backing.load(0, &mut data).unwrap();
        assert_eq!(data, [1; 512]);
        assert_eq!(host.memory.faults(), 0);
    });
}

#[test]
fn a_controller_that_never_gets_ready() {
    let mut client = Client::off(&[("fault", "never-ready")]);
    client.enable();
    assert!(!client.csts().rdy() && !client.csts().cfs());
    let mut client = self::client("never-ready=1");
    client.disable();
    client.enable();
    assert!(!client.csts().rdy());
    assert_eq!(counts(&client).never_ready, 1);
}

#[test]
fn a_controller_that_goes_fatal_can_be_reset() {
    let mut client = client("fatal-after=3");
    client.submit(0, async_event_request());
    for _ in 0..3 {
        assert_eq!(client.io(flush(1)), Status::SUCCESS);
    }
    client.submit(1, flush(1));
    assert_eq!(client.reap(1), None);
    assert!(client.csts().cfs());
    let event = AsyncEvent::from_bits(client.reap(0).unwrap().dw0());
    assert_eq!(event.event(), Event::PERSISTENT_INTERNAL_ERROR);
    client.disable();
    client.enable();
    client.create_queues(1);
    for _ in 0..10 {
        assert_eq!(client.io(flush(1)), Status::SUCCESS);
    }
}

#[test]
fn a_device_that_disappears_reads_as_ones() {
    let mut client = client("vanish-after=2");
    for _ in 0..2 {
        assert_eq!(client.io(flush(1)), Status::SUCCESS);
    }
    client.submit(1, flush(1));
    assert!(client.csts().is_gone());
    let mut config = [0; 4];
    client.inline.read_config(0, &mut config).unwrap();
    assert_eq!(config, [0xff; 4]);
    assert!(client.inline.lost().is_some());
    client.write32(0x14, 0);
    let client = Client::new(&[]);
    client.inline.with(|model, _| model.vanish());
    assert!(client.csts().is_gone());
}

#[test]
fn the_scope_may_be_the_admin_queue() {
    let mut client = Client::off(&[("fault", "scope=admin,status=1:0x006,after=2")]);
    client.enable();
    client.create_queues(1);
    assert_eq!(client.io(flush(1)), Status::SUCCESS);
    let entry = Identify::controller().to_entry().with_prps(DATA, 0);
    assert_eq!(client.admin_status(entry), Status::INTERNAL_ERROR);
    let mut client = Client::new(&[("fault", "scope=io,drop=1")]);
    let _: IdentifyController = client.identify(Identify::controller());
}

#[test]
fn a_reset_ends_what_was_delayed() {
    let mut client = client("delay=1:20ms,fatal-after=100");
    client.submit(1, flush(1));
    client.disable();
    client.enable();
    client.create_queues(1);
    std::thread::sleep(Duration::from_millis(30));
    client.inline.poll();
    assert_eq!(client.reap(1), None);
}

#[test]
fn a_full_queue_keeps_duplicates_waiting() {
    let mut client = client("duplicate=1");
    let cids: Vec<_> = (0..ENTRIES - 1).map(|_| client.queue(1, flush(1))).collect();
    client.ring(1);
    let mut got = Vec::new();
    while let Some(completion) = client.wait_briefly() {
        got.push(completion.cid());
    }
    for cid in cids {
        assert_eq!(got.iter().filter(|&&one| one == cid).count(), 2, "{cid}");
    }
}

#[test]
fn data_is_right_under_faults() {
    let plan = "seed=9,delay=0.2:100us,duplicate=0.1,reorder=0.3,wrong-cid=0.05";
    let mut client = Client::new(&[("fault", plan)]);
    for lba in 0..64 {
        client.put(DATA, &pattern(lba, 512));
        client.submit(1, write(1, lba, BlockCount::ONE, Flags::NONE).with_prps(DATA, 0));
        while client.wait_briefly().is_some() {}
        client.put(DATA, &[0; 512]);
        client.submit(1, read(1, lba, BlockCount::ONE, Flags::NONE).with_prps(DATA, 0));
        while client.wait_briefly().is_some() {}
        assert!(client.get(DATA, 512) == pattern(lba, 512), "{lba}");
    }
}

impl Client {
    /// The next completion of queue 1, waiting a millisecond for it.
    fn wait_briefly(&mut self) -> Option<uniddrv_spec::nvme::entry::CompletionEntry> {
        let start = Instant::now();
        loop {
            let completion = self.reap(1);
            if completion.is_some() || start.elapsed() > Duration::from_millis(1) {
                return completion;
            }
            self.inline.poll();
        }
    }
}
