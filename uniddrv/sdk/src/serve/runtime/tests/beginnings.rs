//! How a driver begins and ends.

use super::*;

#[test]
fn a_driver_begins_serves_and_stops() {
    let core = FakeCore::new("begins");
    let mut process = core.spawn_ready();
    assert_eq!(core.ledger.phase(), Ok(Phase::Fresh));
    process.control.send(&ToDriver::Begin(Beginning::Fresh), &[]).unwrap();
    let FromDriver::Up { adopted, reason, targets, kind, identity } = process.hear() else {
        panic!("it is not up");
    };
    assert_eq!((adopted, reason, targets.len(), kind.as_str()), (false, None, 1, "ram"));
    assert_eq!(identity.len(), MOST_IDENTITY);
    let (began, ended, first) = core.ledger.adoption();
    assert!(began > 0 && ended >= began && first == 0);

    let mut client = FakeClient::new(3);
    process.attach(&client, true);
    core.ledger.call_attention();
    assert_eq!(process.hear(), FromDriver::Attached { client: 3 });
    for tag in 0..200 {
        client.exchange(tag);
    }
    assert!(core.ledger.adoption().2 >= ended);
    let beats = core.ledger.beats();
    until("its heart beats", || core.ledger.beats() > beats + 10);

    core.say(&process, &ToDriver::Detach { client: 3 });
    assert_eq!(process.hear(), FromDriver::Detached { client: 3 });
    core.say(&process, &ToDriver::Detach { client: 3 });
    assert_eq!(process.hear(), FromDriver::Detached { client: 3 });
    core.say(&process, &ToDriver::Stop);
    assert_eq!(process.end(), End::Ordered);
    assert!(core.tale.shut_down.load(Ordering::Relaxed));
    assert_eq!(core.ledger.phase(), Ok(Phase::BringingUp));
}

#[test]
fn a_successor_adopts_what_was_left() {
    let core = FakeCore::new("adopts");
    let mut client = FakeClient::new(0);
    let mut first = core.spawn_up(Beginning::Fresh, &[&client]);
    client.exchange(1);
    core.tale.hold.store(true, Ordering::Relaxed);
    for tag in 10..20 {
        client.submit(tag);
    }
    // A successor that waits touches nothing of this.
    let mut second = core.spawn_ready();
    second.attach(&client, false);
    second.hears_nothing();
    until("all are taken", || core.ledger.indices(0).0 == 11);
    core.say(&first, &ToDriver::Quiesce);
    assert_eq!(first.hear(), FromDriver::Quiesced);
    assert_eq!(first.end(), End::Ordered);
    assert_eq!(core.ledger.phase(), Ok(Phase::Quiesced));
    let shut_down = core.tale.shut_down.load(Ordering::Relaxed);
    assert!(!shut_down && !core.tale.dropped.load(Ordering::Relaxed));

    core.tale.hold.store(false, Ordering::Relaxed);
    second.control.send(&ToDriver::Begin(Beginning::Adopt), &[]).unwrap();
    let FromDriver::Up { adopted: true, reason: None, identity, .. } = second.hear() else {
        panic!("it did not adopt");
    };
    assert!(identity.is_empty());
    assert_eq!(second.hear(), FromDriver::Attached { client: 0 });
    let mut tags: Vec<u64> = (0..10).map(|_| client.completion().tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (10..20).collect::<Vec<_>>());
    client.exchange(2);
    assert_eq!(core.begun(), ["attach", "adopt"]);
}

#[test]
fn what_cannot_be_adopted_is_reset() {
    let core = FakeCore::new("refuses");
    let mut client = FakeClient::new(0);
    let mut first = core.spawn_up(Beginning::Fresh, &[&client]);
    core.tale.hold.store(true, Ordering::Relaxed);
    client.submit(1);
    until("it is taken", || core.ledger.indices(0).0 == 1);
    core.say(&first, &ToDriver::Quiesce);
    assert_eq!(first.hear(), FromDriver::Quiesced);
    first.end();
    core.tale.hold.store(false, Ordering::Relaxed);
    core.tale.refuse_adoption.store(true, Ordering::Relaxed);
    let mut second = core.spawn_ready();
    second.attach(&client, false);
    second.control.send(&ToDriver::Begin(Beginning::Adopt), &[]).unwrap();
    let FromDriver::Up { adopted: false, reason: Some(reason), kind, .. } = second.hear() else {
        panic!("it was not reset");
    };
    assert_eq!((reason.as_str(), kind.as_str()), ("it is on fire", "ram"));
    assert_eq!(client.completion().tag, 1);
    assert_eq!(core.begun(), ["attach", "adopt", "recover"]);
}

#[test]
fn a_device_that_was_being_brought_up_is_reset() {
    for beginning in [Beginning::Adopt, Beginning::Reset] {
        let core = FakeCore::new(&format!("half-{}", beginning as u8));
        let mut client = FakeClient::new(0);
        drop(core.spawn_up(Beginning::Fresh, &[&client]));
        core.ledger.set_phase(Phase::BringingUp);
        let _process = core.spawn_up(beginning, &[&client]);
        client.exchange(1);
        assert_eq!(core.begun(), ["attach", "recover"]);
    }
}

/// Where the ledger is new, clients start over; also when the core has not noticed that it is.
#[test]
fn a_new_ledger_has_clients_start_over() {
    for (index, beginning) in
        [Beginning::Renew, Beginning::Adopt, Beginning::Reset].iter().enumerate()
    {
        let mut core = FakeCore::new(&format!("renews-{index}"));
        let mut client = FakeClient::new(0);
        drop(core.spawn_up(Beginning::Fresh, &[&client]));
        client.submit(7);
        core.renew_ledger();
        let _process = core.spawn_up(*beginning, &[&client]);
        assert_eq!(core.begun(), ["attach", "recover"]);
        assert_eq!(queue::epoch(&client.words), 1);
        queue::follow(&client.words, 1);
        client.submitter = Submitter::new(client.words.clone(), queue::submission(32), 0);
        client.reaper = Reaper::new(client.words.clone(), queue::completion(32), 0);
        client.exchange(7);
    }
}

#[test]
fn a_ledger_that_is_none_is_told() {
    let forgeries: [fn(&DriverLedger); 4] = [
        |ledger| ledger.words().store(0, 1, Ordering::Relaxed),
        |ledger| ledger.words().store(1, 9, Ordering::Relaxed),
        |ledger| ledger.take(3, 63, 3, 0, [1; 4], 0),
        |ledger| ledger.words().store(ledger::WORDS - 16, 7, Ordering::Relaxed),
    ];
    for (index, forge) in forgeries.into_iter().enumerate() {
        let core = FakeCore::new(&format!("unreadable-{index}"));
        let client = FakeClient::new(0);
        core.ledger.set_phase(Phase::Running);
        forge(&core.ledger);
        let mut process = core.spawn_ready();
        process.attach(&client, false);
        process.control.send(&ToDriver::Begin(Beginning::Adopt), &[]).unwrap();
        assert!(matches!(process.hear(), FromDriver::Unreadable { .. }));
        assert_eq!(process.end(), End::Failed);
        assert!(core.begun().is_empty(), "the device was touched");
    }
}

#[test]
fn a_device_that_does_not_come_up_is_told() {
    let core = FakeCore::new("wooden");
    core.tale.refuse_attach.store(true, Ordering::Relaxed);
    let mut process = core.spawn_ready();
    process.control.send(&ToDriver::Begin(Beginning::Fresh), &[]).unwrap();
    let FromDriver::Failed { gone: false, text } = process.hear() else { panic!("it came up") };
    assert!(text.contains("made of wood"), "{text}");
    assert_eq!(process.end(), End::Failed);
    assert_eq!(core.ledger.phase(), Ok(Phase::BringingUp));
}

/// What a device that is gone had on its way is its successor's: it may come back.
#[test]
fn a_device_that_is_gone_is_told() {
    let core = FakeCore::new("leaves");
    let mut client = FakeClient::new(0);
    let mut process = core.spawn_up(Beginning::Fresh, &[&client]);
    core.tale.hold.store(true, Ordering::Relaxed);
    client.submit(1);
    until("it is taken", || core.ledger.indices(0).0 == 1);
    core.tale.gone.store(true, Ordering::Relaxed);
    assert_eq!(process.hear(), FromDriver::Failed { gone: true, text: "it ran away".into() });
    assert_eq!(process.end(), End::Failed);
    assert!(!core.tale.dropped.load(Ordering::Relaxed));
    core.tale.gone.store(false, Ordering::Relaxed);
    core.tale.hold.store(false, Ordering::Relaxed);
    let _process = core.spawn_up(Beginning::Reset, &[&client]);
    assert_eq!(client.completion(), Completion { tag: 1, outcome: Outcome::Success });
}

#[test]
fn a_driver_that_stops_waits_for_what_is_on_its_way() {
    let core = FakeCore::new("stops");
    let mut client = FakeClient::new(0);
    let mut process = core.spawn_up(Beginning::Fresh, &[&client]);
    core.tale.hold.store(true, Ordering::Relaxed);
    client.submit(1);
    until("it is taken", || core.ledger.indices(0).0 == 1);
    core.say(&process, &ToDriver::Stop);
    let polls = core.tale.polls.load(Ordering::Relaxed);
    until("it still polls", || core.tale.polls.load(Ordering::Relaxed) > polls + 10);
    client.submit(2);
    core.tale.hold.store(false, Ordering::Relaxed);
    assert_eq!(client.completion(), Completion { tag: 1, outcome: Outcome::Success });
    assert_eq!(process.end(), End::Ordered);
    assert!(core.tale.shut_down.load(Ordering::Relaxed));
    assert_eq!(client.reaper.available(), Ok(0), "it took more");
}

#[test]
fn a_driver_that_stops_does_not_wait_for_ever() {
    let core = FakeCore::new("stops-anyway");
    let mut client = FakeClient::new(0);
    let mut process = core.spawn_up(Beginning::Fresh, &[&client]);
    core.tale.hold.store(true, Ordering::Relaxed);
    client.submit(1);
    until("it is taken", || core.ledger.indices(0).0 == 1);
    core.say(&process, &ToDriver::Stop);
    assert_eq!(process.end(), End::Ordered);
    assert_eq!(client.completion(), Completion { tag: 1, outcome: Outcome::Gone });
}

#[test]
fn poison_is_failed_and_told() {
    let core = FakeCore::new("poison");
    let mut client = FakeClient::new(0);
    let first = core.spawn_up(Beginning::Fresh, &[&client]);
    core.tale.hold.store(true, Ordering::Relaxed);
    client.submit(1);
    client.submit(2);
    until("they are taken", || core.ledger.indices(0).0 == 2);
    drop(first);
    // As the core counts deaths.
    let crumb = ledger::Breadcrumb { queue: 0, position: 1 };
    for _ in 0..3 {
        core.ledger.set_breadcrumb(Some(crumb));
        core.ledger.suspect_breadcrumb();
    }
    core.tale.hold.store(false, Ordering::Relaxed);
    let mut second = core.spawn_up(Beginning::Adopt, &[&client]);
    let FromDriver::Poisoned { client: 0, text } = second.hear() else { panic!("it was not told") };
    assert!(text.contains("tag: 2"), "{text}");
    let mut completions = [client.completion(), client.completion()];
    completions.sort_by_key(|completion| completion.tag);
    assert_eq!(completions.map(|c| c.outcome), [Outcome::Success, Outcome::Poisoned]);
    assert_eq!(core.ledger.suspect(), (None, 0));
}

/// What a dead driver worked on is not what its successor dies on before it works at all.
#[test]
fn a_breadcrumb_is_not_inherited() {
    let core = FakeCore::new("crumb");
    drop(core.spawn_up(Beginning::Fresh, &[]));
    core.ledger.set_breadcrumb(Some(ledger::Breadcrumb { queue: 0, position: 1 }));
    let _process = core.spawn_up(Beginning::Adopt, &[]);
    assert_eq!(core.ledger.breadcrumb(), None);
}
