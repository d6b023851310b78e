//! Messages that are wrong, come out of order, or are not read.

use super::*;

/// A process that is told `message` first.
fn told(core: &FakeCore, message: &ToDriver, fds: usize) -> Process {
    let process = Process::spawn();
    let all = [core.ledger_fd.as_fd(), core.arena.fd(), core.arena.fd(), core.arena.fd()];
    process.control.send(message, &all[..fds]).unwrap();
    process
}

fn fails(mut process: Process, expected: &str) {
    let FromDriver::Failed { gone: false, text } = process.hear() else { panic!("it goes on") };
    assert!(text.contains(expected), "{text}");
    assert_eq!(process.end(), End::Failed);
}

fn prepare_with(
    core: &FakeCore,
    change: impl FnOnce(&mut Vec<BarWindow>, &mut u64, &mut u64),
) -> ToDriver {
    let mut prepare = core.prepare();
    if let ToDriver::Prepare { windows, arena_iova, arena_len, .. } = &mut prepare {
        change(windows, arena_iova, arena_len);
    }
    prepare
}

#[test]
fn what_cannot_be_prepared_is_told() {
    let core = FakeCore::new("unprepared");
    fails(told(&core, &ToDriver::Stop, 0), "the first message");
    fails(told(&core, &ToDriver::Begin(Beginning::Fresh), 0), "the first message");
    let mut prepare = core.prepare();
    if let ToDriver::Prepare { version, .. } = &mut prepare {
        *version = 99;
    }
    fails(told(&core, &prepare, 3), "version 99");
    let mut prepare = core.prepare();
    if let ToDriver::Prepare { address, .. } = &mut prepare {
        *address = "?".into();
    }
    fails(told(&core, &prepare, 3), "address ?");
    fails(told(&core, &core.prepare(), 0), "missing");
    fails(told(&core, &core.prepare(), 1), "missing");
    fails(told(&core, &core.prepare(), 4), "2 files for 1 windows");
    // None of them was inherited either.
    fails(told(&core, &core.prepare(), 2), "the windows' files");
    let process = Process::spawn();
    let wrong = [core.arena.fd(), core.ledger_fd.as_fd(), core.arena.fd()];
    process.control.send(&core.prepare(), &wrong).unwrap();
    fails(process, "an arena of");
    fails(told(&core, &prepare_with(&core, |_, _, len| *len *= 2), 3), "an arena of");
    fails(told(&core, &prepare_with(&core, |_, iova, _| *iova = u64::MAX), 3), "an arena of");
    let window = |change: fn(&mut BarWindow)| {
        prepare_with(&core, |windows, _, _| windows.iter_mut().for_each(change))
    };
    fails(told(&core, &window(|window| window.bar = 6), 3), "no window");
    fails(told(&core, &window(|window| window.len = 0), 3), "no window");
    fails(told(&core, &window(|window| window.len = 100), 3), "no window");
    fails(told(&core, &window(|window| window.start = u64::MAX - 0xfff), 3), "no window");
    fails(told(&core, &window(|window| window.len = 1 << 60), 3), "map 0x1000000000000000");
    let twice = prepare_with(&core, |windows, _, _| windows.push(windows[0]));
    fails(told(&core, &twice, 4), "mapped already");
    let garbage = Process::spawn();
    send(&garbage.control, &[0xff; 200], SendFlags::empty()).unwrap();
    fails(garbage, "what the core said");
}

#[test]
fn what_comes_out_of_order_is_told() {
    let core = FakeCore::new("disorder");
    let process = core.spawn_ready();
    process.control.send(&core.prepare(), &[]).unwrap();
    fails(process, "prepared already");
    let process = core.spawn_up(Beginning::Fresh, &[]);
    core.say(&process, &ToDriver::Begin(Beginning::Fresh));
    fails(process, "it serves already");
    let process = core.spawn_up(Beginning::Reset, &[]);
    core.say(&process, &core.prepare());
    fails(process, "it serves already");
    let process = core.spawn_up(Beginning::Reset, &[]);
    send(&process.control, &[0xff; 200], SendFlags::empty()).unwrap();
    core.ledger.call_attention();
    fails(process, "what the core said");
}

/// A client that cannot be attached is ended; the others stay.
#[test]
fn who_cannot_be_attached_is_told() {
    let core = FakeCore::new("unattached");
    let mut good = FakeClient::new(5);
    let bad: [fn(&mut message::Client); 4] = [
        |client| client.depth = 0,
        |client| client.depth = 1024,
        |client| client.queues = vec![1, 2],
        |client| client.queues = vec![200],
    ];
    for up in [false, true] {
        let mut process =
            if up { core.spawn_up(Beginning::Reset, &[&good]) } else { core.spawn_ready() };
        for change in bad {
            let mut client = FakeClient::new(6);
            change(&mut client.message);
            process.attach(&client, true);
            core.ledger.call_attention();
            let late = client.message.queues == [200] && !up;
            if late {
                continue;
            }
            assert!(matches!(process.hear(), FromDriver::Hostile { client: 6, .. }));
        }
        if !up {
            process.attach(&good, true);
            process.control.send(&ToDriver::Begin(Beginning::Fresh), &[]).unwrap();
            assert!(matches!(process.hear(), FromDriver::Hostile { client: 6, .. }));
            assert!(matches!(process.hear(), FromDriver::Up { .. }));
            assert_eq!(process.hear(), FromDriver::Attached { client: 5 });
        }
        good.exchange(up.into());
    }
}

#[test]
fn a_hostile_client_is_told_once_and_detached() {
    let core = FakeCore::new("hostile");
    let (hostile, mut good) = (FakeClient::new(1), FakeClient::new(2));
    let mut process = core.spawn_up(Beginning::Fresh, &[&hostile, &good]);
    hostile.words.store(0, 1000, Ordering::Relaxed);
    assert!(matches!(process.hear(), FromDriver::Hostile { client: 1, .. }));
    good.exchange(1);
    core.say(&process, &ToDriver::Detach { client: 1 });
    assert_eq!(process.hear(), FromDriver::Detached { client: 1 });
    process.hears_nothing();
    good.exchange(2);
}

#[test]
fn a_client_is_detached_once_nothing_of_it_is_on_its_way() {
    let core = FakeCore::new("detaches");
    let mut client = FakeClient::new(1);
    let mut process = core.spawn_up(Beginning::Fresh, &[&client]);
    core.tale.hold.store(true, Ordering::Relaxed);
    client.submit(1);
    until("it is taken", || core.ledger.indices(1).0 == 1);
    core.say(&process, &ToDriver::Detach { client: 1 });
    process.hears_nothing();
    client.submit(2);
    core.tale.hold.store(false, Ordering::Relaxed);
    assert_eq!(process.hear(), FromDriver::Detached { client: 1 });
    assert_eq!(client.completion().tag, 1);
    assert_eq!(client.reaper.available(), Ok(0));
}

#[test]
fn who_waits_for_its_turn_hears_of_clients() {
    let core = FakeCore::new("waits");
    let (client, gone) = (FakeClient::new(1), FakeClient::new(2));
    let mut process = core.spawn_ready();
    process.attach(&client, true);
    process.attach(&gone, true);
    process.control.send(&ToDriver::Wake, &[]).unwrap();
    process.control.send(&ToDriver::Detach { client: 2 }, &[]).unwrap();
    assert_eq!(process.hear(), FromDriver::Detached { client: 2 });
    process.control.send(&ToDriver::Begin(Beginning::Fresh), &[]).unwrap();
    assert!(matches!(process.hear(), FromDriver::Up { .. }));
    assert_eq!(process.hear(), FromDriver::Attached { client: 1 });
    process.hears_nothing();
    let mut process = core.spawn_ready();
    process.control.send(&ToDriver::Quiesce, &[]).unwrap();
    assert_eq!(process.hear(), FromDriver::Quiesced);
    assert_eq!(process.end(), End::Ordered);
    let mut process = core.spawn_ready();
    process.control.send(&ToDriver::Stop, &[]).unwrap();
    assert_eq!(process.end(), End::Ordered);
    let mut process = core.spawn_ready();
    process.control = Control::new(pair().unwrap().0);
    assert_eq!(process.end(), End::Orphaned);
}

/// The device of one who waits is another's, who goes on with it.
#[test]
fn who_does_not_get_its_turn_leaves_the_device_alone() {
    let core = FakeCore::new("bystander");
    let ends: [fn(&mut Process); 4] = [
        |process| process.control.send(&ToDriver::Stop, &[]).unwrap(),
        |process| process.control.send(&ToDriver::Quiesce, &[]).unwrap(),
        |process| process.control = Control::new(pair().unwrap().0),
        |process| {
            send(&process.control, &[0xff; 9], SendFlags::empty()).unwrap();
        },
    ];
    for end in ends {
        let mut process = core.spawn_ready();
        end(&mut process);
        process.end();
        let looked = |asked: &ToDevice| matches!(asked, ToDevice::Bar { .. });
        assert!(process.asked.iter().all(looked), "{:?}", process.asked);
    }
}

#[test]
fn who_leaves_a_device_to_a_successor_leaves_it_alone() {
    let core = FakeCore::new("leaves-alone");
    for order in [Some(ToDriver::Quiesce), None] {
        let mut process = core.spawn_up(Beginning::Reset, &[]);
        match order {
            Some(order) => core.say(&process, &order),
            None => process.control = Control::new(pair().unwrap().0),
        }
        process.end();
        let writes = |asked: &ToDevice| matches!(asked, ToDevice::WriteConfig { .. });
        assert!(!process.asked.iter().any(writes), "{:?}", process.asked);
    }
}

#[test]
fn the_end_of_the_core_is_the_drivers() {
    let core = FakeCore::new("orphan");
    let mut before = Process::spawn();
    let mut waiting = core.spawn_ready();
    let mut serving = core.spawn_up(Beginning::Fresh, &[]);
    for process in [&mut before, &mut waiting, &mut serving] {
        process.control = Control::new(pair().unwrap().0);
        assert_eq!(process.end(), End::Orphaned);
    }
    assert!(!core.tale.shut_down.load(Ordering::Relaxed));
}

/// A core that does not read for a while misses nothing that it asked for.
#[test]
fn a_core_that_reads_late_hears_everything() {
    let core = FakeCore::new("late");
    let mut client = FakeClient::new(0);
    let mut process = core.spawn_up(Beginning::Fresh, &[&client]);
    let mut sent = 0;
    let mut quiet = 0;
    while quiet < 100 {
        match process.control.send(&ToDriver::Detach { client: 1000 + sent }, &[]) {
            Ok(()) => {
                sent += 1;
                quiet = 0;
            }
            Err(ControlError::Full) => {
                quiet += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
        core.ledger.call_attention();
        if sent > 5000 {
            break;
        }
    }
    // It serves meanwhile.
    client.exchange(1);
    for number in 0..sent {
        assert_eq!(process.hear(), FromDriver::Detached { client: 1000 + number });
    }
}
