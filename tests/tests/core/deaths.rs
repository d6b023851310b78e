//! What drivers die of, and how they are replaced.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use uniddrv::client::{Core, Death, Harm, OpenOptions};

use crate::User;
use crate::host::{Host, Setup, after_death, status, until};

/// A core whose driver may die often, and a client.
fn start() -> (Host, Core, User) {
    let setup = Setup::new("honest");
    let host = setup.device("restart = { deaths = 100, backoff = \"1ms..2ms\" }").start();
    host.ready();
    let core = host.connect();
    let user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    (host, core, user)
}

/// What comes of a command to the driver: the report, and the request has ended.
fn death_by(command: u64) -> Death {
    let (_host, core, mut user) = start();
    user.once();
    user.command(command);
    let death = after_death(&core, 1, "running");
    user.reap(1);
    user.once();
    death
}

#[test]
fn a_driver_that_aborts_is_replaced() {
    let death = death_by(1);
    assert_eq!(death.recovery, "adopted", "{death:?}");
    assert!(death.cause.starts_with("killed by SIG"), "{death:?}");
    assert!(death.request.as_deref().unwrap().contains("Write of 8 blocks"), "{death:?}");
    assert!(death.hand_over_ns > 0 && death.adoption_ns > 0, "{death:?}");
}

#[test]
fn a_driver_that_hangs_is_killed_and_replaced() {
    let death = death_by(2);
    assert_eq!((death.cause.as_str(), death.recovery.as_str()), ("hung", "adopted"), "{death:?}");
    assert!(death.detection_ns > 0, "{death:?}");
}

#[test]
fn a_driver_that_is_stopped_while_its_device_comes_up_is_replaced() {
    let setup = Setup::new("hangs-at-begin");
    let host = setup.device("restart = { deaths = 2, backoff = \"1ms..1ms\" }").start();
    let core = host.connect();
    let mut stopped = 0;
    let now = until(|| {
        let now = status(&core);
        // A device may take minutes to come up, and its driver with it. Only a stop is no wait.
        if now.pid > 0 && now.pid != stopped {
            stopped = now.pid;
            let _ = kill_process(Pid::from_raw(stopped).unwrap(), Signal::STOP);
        }
        Some(now).filter(|now| now.state == "stopped")
    });
    assert!(now.deaths.iter().all(|death| death.cause == "hung"), "{now:?}");
    assert_eq!(now.deaths.len(), 2, "{now:?}");
}

#[test]
fn hangs_in_a_row_are_given_more_time_each() {
    let setup = Setup::new("hangs-adopting");
    let host = setup.device("restart = { deaths = 4, backoff = \"1ms..1ms\" }").start();
    host.ready();
    let core = host.connect();
    until(|| status(&core).warm.then_some(()));
    kill_process(Pid::from_raw(status(&core).pid).unwrap(), Signal::KILL).unwrap();
    let now = until(|| Some(status(&core)).filter(|now| now.state == "stopped"));
    let hung = now.deaths.iter().filter(|death| death.cause == "hung");
    let times: Vec<u64> = hung.map(|death| death.detection_ns).collect();
    assert_eq!(times.len(), 3, "{now:?}");
    // A look takes 25 ms, and the first ones are eight.
    assert!(times[0] >= 175_000_000, "{times:?}");
    assert!(times[1] >= 2 * 175_000_000 && times[2] >= 4 * 175_000_000, "{times:?}");
}

#[test]
fn a_driver_that_exits_is_replaced() {
    assert_eq!(death_by(3).cause, "exited with status 0");
    assert_eq!(death_by(4).cause, "exited with status 3");
}

#[test]
fn last_words_are_reported() {
    let death = death_by(5);
    assert_eq!(death.last_words.as_deref(), Some("panicked at the fake's own wish"));
}

#[test]
fn a_driver_that_breaks_the_protocol_is_replaced() {
    for (command, says) in [
        (8, "no message"),
        (9, "was not to begin"),
        (10, "was not asked to"),
        (18, "was not asked to"),
        (19, "once more"),
        (25, "no message"),
    ] {
        let death = death_by(command);
        assert!(death.cause.contains("broke the protocol"), "{command}: {death:?}");
        assert!(death.cause.contains(says), "{command}: {death:?}");
        assert_eq!(death.recovery, "adopted", "{command}: {death:?}");
    }
}

#[test]
fn a_driver_that_talks_without_end_is_replaced() {
    let death = death_by(11);
    assert!(death.cause.contains("messages in a second"), "{death:?}");
}

#[test]
fn a_driver_that_gives_up_is_replaced_with_a_reset() {
    let death = death_by(12);
    assert!(death.cause.contains("the fake gives up"), "{death:?}");
    assert_eq!(death.recovery, "reset", "{death:?}");
}

#[test]
fn a_driver_that_does_nothing_is_replaced_with_a_reset() {
    // Beats its heart, and takes nothing more.
    let host = Setup::new("honest").device("timeout = \"100ms\"").start();
    host.ready();
    let core = host.connect();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.command(7);
    user.submit(0);
    let death = after_death(&core, 1, "running");
    assert!(death.cause.contains("carried out nothing"), "{death:?}");
    assert_eq!(death.recovery, "reset", "{death:?}");
    assert_eq!(user.reap(2), 2);
}

#[test]
fn a_driver_that_pretends_to_sleep_is_found_out() {
    let host = Setup::new("honest").device("timeout = \"100ms\"").start();
    host.ready();
    let core = host.connect();
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.command(24);
    let death = after_death(&core, 1, "running");
    assert_eq!(death.recovery, "reset", "{death:?}");
    assert_eq!(user.reap(1), 1);
}

#[test]
fn a_driver_that_keeps_a_client_is_replaced_with_a_reset() {
    let host = Setup::new("honest").device("timeout = \"100ms\"").start();
    host.ready();
    let (core, other) = (host.connect(), host.connect());
    let mut bystander = User::new(other.open("nvme:0/ns2", &OpenOptions::default()).unwrap());
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    user.command(17);
    assert_eq!(user.reap(1), 1);
    drop(user);
    let death = after_death(&core, 1, "running");
    assert!(death.cause.contains("did not let go"), "{death:?}");
    until(|| (status(&core).holders.len() == 1).then_some(()));
    bystander.once();
}

#[test]
fn a_driver_that_hears_nothing_is_replaced_while_a_client_waits() {
    let (_host, core, mut user) = start();
    user.command(23);
    assert_eq!(user.reap(1), 1);
    let mut other = User::new(core.open("nvme:0/ns2", &OpenOptions::default()).unwrap());
    let death = after_death(&core, 1, "running");
    assert!(death.cause.contains("took too long to attach a client"), "{death:?}");
    assert_eq!(death.recovery, "adopted", "{death:?}");
    other.once();
    user.once();
}

#[test]
fn a_ledger_that_does_not_check_out_is_replaced_too() {
    for command in [16, 22] {
        let (_host, core, mut user) = start();
        user.once();
        user.command(command);
        let death = after_death(&core, 1, "running");
        assert_eq!(death.recovery, "reset", "{death:?}");
        assert_eq!(status(&core).resets, 1);
        drop(user);
        let client = until(|| core.open("nvme:0/ns1", &OpenOptions::default()).ok());
        User::new(client).once();
    }
}

#[test]
fn a_death_while_the_device_comes_up_leads_to_a_reset() {
    let death = death_by(21);
    assert_eq!(death.recovery, "reset", "{death:?}");
}

#[test]
fn a_driver_accuses_clients_that_are_and_are_not() {
    let (_host, core, mut user) = start();
    user.command(15);
    assert_eq!(user.reap(1), 1);
    user.command(20);
    assert_eq!(user.reap(1), 1);
    user.command(14);
    let text = until(|| user.client.closed());
    assert!(!text.is_empty());
    // What else it has at other devices is not this driver's to take.
    until(|| status(&core).holders.is_empty().then_some(()));
}

#[test]
fn a_kill_from_outside_is_told_as_one() {
    let (_host, core, mut user) = start();
    for deaths in 1..=5 {
        user.once();
        until(|| status(&core).warm.then_some(()));
        let pid = Pid::from_raw(status(&core).pid).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        user.once();
        let death = after_death(&core, deaths, "running");
        assert_eq!(
            (death.cause.as_str(), death.recovery.as_str()),
            ("killed by SIGKILL", "adopted")
        );
    }
    let now = status(&core);
    assert_eq!((now.restarts, now.adoptions, now.resets), (5, 5, 0));
}

#[test]
fn drivers_are_harmed_on_request() {
    let (_host, core, mut user) = start();
    for (deaths, (how, cause, recovery)) in (1..).zip([
        (Harm::Kill, "killed by SIGKILL", "adopted"),
        (Harm::Hang, "hung", "adopted"),
        (Harm::Scramble, "killed by SIGKILL", "reset"),
    ]) {
        until(|| status(&core).warm.then_some(()));
        core.kill("nvme:0", how).unwrap();
        let death = after_death(&core, deaths, "running");
        assert_eq!((death.cause.as_str(), death.recovery.as_str()), (cause, recovery), "{death:?}");
        assert!(death.detection_ns > 0, "{death:?}");
    }
    drop(user);
    user = User::new(until(|| core.open("nvme:0/ns1", &OpenOptions::default()).ok()));
    user.once();
}

#[test]
fn a_driver_that_hangs_in_its_sleep_is_found_when_harmed() {
    let (_host, core, _user) = start();
    until(|| (status(&core).asleep && status(&core).warm).then_some(()));
    core.kill("nvme:0", Harm::Hang).unwrap();
    assert_eq!(after_death(&core, 1, "running").cause, "hung");
}

#[test]
fn deaths_without_progress_use_up_the_budget() {
    let setup = Setup::new("honest").device("restart = { deaths = 3, backoff = \"20ms..50ms\" }");
    let host = setup.start();
    host.ready();
    let core = host.connect();
    // Each dies of what its predecessor has left: as the fake completes that, there is progress.
    let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
    for deaths in 1..=5 {
        user.command(1);
        after_death(&core, deaths, "running");
        user.reap(1);
    }
    // Killed from outside, idle, there is none: the one death after the last progress, and two.
    for _ in 0..3 {
        let now = status(&core);
        if now.state == "stopped" {
            break;
        }
        kill_process(Pid::from_raw(now.pid).unwrap(), Signal::KILL).unwrap();
        until(|| {
            let next = status(&core);
            (next.pid != now.pid && (next.state == "running" || next.state == "stopped"))
                .then_some(())
        });
    }
    let now = until(|| Some(status(&core)).filter(|now| now.state == "stopped" && now.pid == 0));
    assert_eq!(now.deaths.last().unwrap().recovery, "stopped");
    let text = until(|| user.client.closed());
    assert!(text.contains("without completing a request"), "{text}");
    // Its name is listed, and cannot be opened until somebody asks for a restart.
    assert_eq!(core.names("nvme:0").unwrap()[0].name, "nvme:0");
    assert!(core.open("nvme:0/ns1", &OpenOptions::default()).is_err());
    core.restart("nvme:0").unwrap();
    User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap()).once();
}

#[test]
fn programs_that_never_come_up_are_given_up() {
    for (behaviour, says) in [
        ("die-at-start", "did not get ready"),
        ("garbage", "did not get ready"),
        ("up-at-once", "did not get ready"),
        ("dies-at-begin", "without completing"),
        ("fails", "does not come up"),
        ("bad-targets", "is no path of a target"),
    ] {
        let setup = Setup::new(behaviour);
        let host = setup.device("restart = { deaths = 3, backoff = \"1ms..2ms\" }").start();
        assert_eq!(host.ready(), "nvme:0", "{behaviour}");
        let core = host.connect();
        let error = core.open("nvme:0/ns1", &OpenOptions::default()).err().unwrap().to_string();
        assert!(error.contains("nvme:0"), "{behaviour}: {error}");
        let error = core.restart("nvme:0").unwrap_err().to_string();
        assert!(error.contains(says), "{behaviour}: {error}");
        assert_eq!(status(&core).state, "stopped", "{behaviour}");
    }
}

#[test]
fn successors_that_cannot_adopt_do_something_else() {
    for (behaviour, says) in [
        ("dies-adopting", "killed by SIG"),
        ("hangs-adopting", "hung"),
        ("fails-adopting", "does not come up"),
        ("unreadable", "the ledger"),
    ] {
        let setup = Setup::new(behaviour);
        let host = setup.device("restart = { deaths = 4, backoff = \"1ms..2ms\" }").start();
        host.ready();
        let core = host.connect();
        let mut user = User::new(core.open("nvme:0/ns1", &OpenOptions::default()).unwrap());
        user.once();
        core.kill("nvme:0", Harm::Kill).unwrap();
        if behaviour == "unreadable" || behaviour == "fails-adopting" {
            let death = after_death(&core, 2, "running");
            assert!(death.cause.contains(says), "{death:?}");
            assert_eq!(death.recovery, "reset", "{death:?}");
        } else {
            let death = after_death(&core, 4, "stopped");
            assert!(death.cause.contains(says), "{death:?}");
        }
    }
}

#[test]
fn reports_are_kept_in_files_and_only_the_last_of_them() {
    let (host, core, mut user) = start();
    for _ in 0..20 {
        until(|| status(&core).warm.then_some(()));
        let pid = status(&core).pid;
        core.kill("nvme:0", Harm::Kill).unwrap();
        until(|| {
            let now = status(&core);
            (now.state == "running" && now.pid != pid).then_some(())
        });
        user.once();
    }
    std::thread::sleep(Duration::from_millis(50));
    let deaths = until(|| Some(status(&core).deaths).filter(|deaths| deaths.len() >= 16));
    assert!(deaths.len() <= 17, "{}", deaths.len());
    let folder = host.setup.folder.path().join("core.sock.deaths");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
    assert!(files.len() <= 16 && files.len() >= 15, "{}", files.len());
    let text = std::fs::read_to_string(files[0].path()).unwrap();
    assert!(text.contains("cause killed by SIGKILL\n"), "{text}");
}
