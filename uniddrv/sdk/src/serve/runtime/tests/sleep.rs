//! Drivers that sleep when there is nothing to do.

use super::*;

fn sleepy(name: &str) -> FakeCore {
    let mut core = FakeCore::new(name);
    core.settings.sleep = true;
    core
}

/// Waits until the driver sleeps, and sees that it does nothing then.
fn sleeps(core: &FakeCore) {
    until("it sleeps", || core.ledger.asleep());
    let doing = || (core.tale.polls.load(Ordering::Relaxed), core.ledger.beats());
    // It has said so before it looks once more.
    let mut before = doing();
    until("it does nothing", || {
        std::thread::sleep(Duration::from_millis(20));
        core.ledger.asleep() && std::mem::replace(&mut before, doing()) == doing()
    });
}

#[test]
fn a_driver_sleeps_until_a_client_wakes_it() {
    let core = sleepy("sleeps");
    let mut client = FakeClient::new(0);
    let mut process = core.spawn_up(Beginning::Fresh, &[&client]);
    for tag in 0..20 {
        sleeps(&core);
        client.exchange(tag);
        assert_eq!(process.hear(), FromDriver::Awake);
    }
}

#[test]
fn a_driver_sleeps_until_the_core_wakes_it() {
    let core = sleepy("sleeps-too");
    let mut client = FakeClient::new(0);
    let mut process = core.spawn_up(Beginning::Fresh, &[]);
    sleeps(&core);
    process.attach(&client, true);
    assert_eq!(process.hear(), FromDriver::Awake);
    assert_eq!(process.hear(), FromDriver::Attached { client: 0 });
    client.exchange(1);
    sleeps(&core);
    core.say(&process, &ToDriver::Wake);
    sleeps(&core);
    process.control.send(&ToDriver::Quiesce, &[]).unwrap();
    while process.hear() != FromDriver::Quiesced {}
    assert_eq!(process.end(), End::Ordered);
}

#[test]
fn nobody_sleeps_over_what_is_on_its_way() {
    let core = sleepy("sleepless");
    let mut client = FakeClient::new(0);
    let _process = core.spawn_up(Beginning::Fresh, &[&client]);
    core.tale.hold.store(true, Ordering::Relaxed);
    client.submit(1);
    until("it is taken", || core.ledger.indices(0).0 == 1);
    let polls = core.tale.polls.load(Ordering::Relaxed);
    until("it polls", || core.tale.polls.load(Ordering::Relaxed) > polls + 1000);
    assert!(!core.ledger.asleep());
    core.tale.hold.store(false, Ordering::Relaxed);
    client.completion();
    sleeps(&core);
}

/// A client's end that is closed, or says nothing without end, is not listened to for ever.
#[test]
fn a_client_that_hung_up_does_not_keep_a_driver_awake() {
    let core = sleepy("hung-up");
    let (mut other, mut closes) = (FakeClient::new(0), FakeClient::new(1));
    let empty = FakeClient::new(2);
    let _process = core.spawn_up(Beginning::Fresh, &[&other, &closes, &empty]);
    sleeps(&core);
    closes.ours = pair().unwrap().0;
    sleeps(&core);
    for _ in 0..100 {
        // Not even a byte.
        let _ = send(&empty.ours, &[], SendFlags::DONTWAIT);
    }
    sleeps(&core);
    other.exchange(1);
    sleeps(&core);
}

#[test]
fn a_flood_of_wake_ups_comes_to_its_end() {
    let core = sleepy("flood");
    let mut client = FakeClient::new(0);
    let _process = core.spawn_up(Beginning::Fresh, &[&client]);
    for _ in 0..5 {
        for _ in 0..10_000 {
            let _ = send(&client.ours, &[1; 4096], SendFlags::DONTWAIT);
        }
        client.exchange(1);
        sleeps(&core);
    }
}

#[test]
fn a_device_that_is_gone_is_noticed_when_the_core_asks() {
    let core = sleepy("gone-asleep");
    let mut process = core.spawn_up(Beginning::Fresh, &[]);
    sleeps(&core);
    core.tale.gone.store(true, Ordering::Relaxed);
    core.say(&process, &ToDriver::Wake);
    assert_eq!(process.hear(), FromDriver::Awake);
    assert!(matches!(process.hear(), FromDriver::Failed { gone: true, .. }));
}

#[test]
fn the_end_of_the_core_wakes_a_driver() {
    let core = sleepy("orphan-asleep");
    let mut process = core.spawn_up(Beginning::Fresh, &[]);
    sleeps(&core);
    process.control = Control::new(pair().unwrap().0);
    assert_eq!(process.end(), End::Orphaned);
}
