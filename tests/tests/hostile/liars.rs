//! Drivers that lie: the core lives and says so, clients get what they asked for or errors, and
//! whoever is at another device notices nothing.

use std::time::Duration;

use uniddrv::block::{BlockQueue, Operation, Request};
use uniddrv::client::{BlockClient, ClientQueue, Core, DriverStatus, OpenOptions};
use uniddrv_tests::bystander::Bystander;
use uniddrv_tests::wait::{pause, until};

use crate::host::{Host, Setup};

/// Devices whose drivers lie, beside an honest one.
struct Scene {
    host: Host,
    core: Core,
    bystander: Bystander,
}

impl Scene {
    fn new(lies: &[&str]) -> Self {
        Self::with(lies, "restart = { deaths = 2, backoff = \"1ms..2ms\" }")
    }

    fn with(lies: &[&str], restart: &str) -> Self {
        let mut setup = Setup::nvme();
        let driver = setup.program(env!("CARGO_BIN_EXE_lying_driver"));
        for (number, lie) in (1..).zip(lies) {
            setup = setup.rest(&format!(
                "[[device]]\naddress = \"model:nvme?size=1M&serial={lie}\"\n\
                 name = \"nvme:{number}\"\ndriver = \"{}\"\ntimeout = \"100ms\"\n\
                 {restart}\n",
                driver.display()
            ));
        }
        let host = setup.start();
        let core = host.core();
        let bystander = until("the honest device does not come up", || {
            let names = core.names("nvme:0/").unwrap();
            (names.len() == 2).then(|| Bystander::new(&host.socket(), "nvme:0/ns1"))
        });
        Self { host, core, bystander }
    }

    fn status(&self, number: usize) -> Option<DriverStatus> {
        let name = format!("nvme:{number}");
        self.core.status(&name).unwrap().into_iter().find(|status| status.name == name)
    }

    fn state(&self, number: usize) -> String {
        self.status(number).map_or_else(String::new, |status| status.state)
    }

    /// Why the drivers of a device died.
    fn causes(&self, number: usize) -> Vec<String> {
        self.status(number).unwrap().deaths.into_iter().map(|death| death.cause).collect()
    }

    fn open(&self, number: usize) -> Victim {
        let name = format!("nvme:{number}/ns1");
        let core = self.host.core();
        let client = until("it cannot be opened", || {
            core.open(&name, &OpenOptions { depth: 16, ..OpenOptions::default() }).ok()
        });
        let queue = client.take_queue().unwrap();
        Victim { _core: core, client, queue, ended: Vec::new() }
    }

    fn unharmed(self) {
        self.bystander.goes_on(50);
        self.bystander.end();
    }
}

/// A client of a driver that lies.
struct Victim {
    _core: Core,
    client: BlockClient,
    queue: ClientQueue,
    /// How often each request has ended.
    ended: Vec<u32>,
}

impl Victim {
    fn submit(&mut self) {
        for _ in 0..8 {
            let buffer = Some(self.client.buffer(4096).unwrap());
            let tag = self.ended.len() as u64;
            let request = Request { operation: Operation::Read { lba: 8 }, buffer, tag };
            if self.queue.submit(request).is_ok() {
                self.ended.push(0);
            }
        }
    }

    fn poll(&mut self) -> bool {
        let ended = &mut self.ended;
        self.queue.poll(|completion| ended[completion.tag as usize] += 1);
        assert!(ended.iter().all(|&count| count <= 1), "ended twice: {ended:?}");
        ended.iter().all(|&count| count == 1)
    }

    fn all_end(&mut self) {
        until("requests do not end", || self.poll().then_some(()));
    }
}

#[test]
fn drivers_that_lie_about_their_devices_are_not_believed() {
    let lies = [
        ("no-block", "blocks of 0 bytes"),
        ("odd-block", "blocks of 777 bytes"),
        ("huge-block", "blocks of 2147483648 bytes"),
        ("no-transfer", "transfers of 0"),
        ("endless", "18446744073709551615 blocks"),
        ("too-many", "1000 targets"),
        ("same-path", "`ns1` is no path"),
        ("no-path", "`` is no path"),
        ("upwards", "is no path"),
        ("terminal", "is no path"),
        ("long-path", "is no path"),
    ];
    let scene = Scene::new(&lies.map(|(lie, _)| lie));
    for (number, (lie, says)) in (1..).zip(lies) {
        until(lie, || (scene.state(number) == "stopped").then_some(()));
        let causes = scene.causes(number);
        let last = causes.last().unwrap();
        assert!(last.contains("broke the protocol") && last.contains(says), "{lie}: {last}");
        assert!(last.len() < 1000 && !last.chars().any(char::is_control), "{lie}: {last:?}");
        assert!(scene.core.names(&format!("nvme:{number}/")).unwrap().is_empty(), "{lie}");
    }
    scene.unharmed();
}

#[test]
fn drivers_that_exaggerate_are_cut_short() {
    let scene = Scene::new(&["long-kind", "much", "largest"]);
    for number in 1..=3 {
        until("it does not run", || (scene.state(number) == "running").then_some(()));
        let (kind, bytes) = scene.core.identify(&format!("nvme:{number}")).unwrap();
        assert!(kind.len() < 3000 && !kind.chars().any(char::is_control), "{number}");
        assert!(bytes.len() <= 120_000);
    }
    let mut victim = scene.open(3);
    let info = victim.client.info();
    assert_eq!((info.block_size, info.bytes()), (1 << 20, u64::MAX >> 20 << 20));
    victim.submit();
    drop(victim);
    scene.unharmed();
}

#[test]
fn drivers_that_talk_without_end_are_stopped() {
    let lies = ["says-poison", "says-hostile", "says-awake", "says-attached", "babbles"];
    let scene = Scene::new(&lies);
    for (number, lie) in (1..).zip(lies) {
        until(lie, || (scene.state(number) == "stopped").then_some(()));
        let causes = scene.causes(number);
        assert!(causes.iter().all(|cause| cause.contains("broke the protocol")), "{causes:?}");
        scene.bystander.goes_on(10);
    }
    scene.unharmed();
}

#[test]
fn a_driver_that_dies_for_ever_and_says_that_it_works_is_waited_with() {
    let scene = Scene::with(&["dies-busy"], "restart = { deaths = 2, backoff = \"1m..1m\" }");
    let restarts = || scene.status(1).unwrap().restarts;
    until("there is no end to it", || {
        let before = restarts();
        pause(2000);
        (before > 20 && restarts() == before).then_some(())
    });
    assert_eq!(scene.state(1), "waiting");
    scene.unharmed();
}

#[test]
fn drivers_that_ask_the_device_without_end_are_stopped() {
    let lies = ["asks-without-end", "babbles-at-device"];
    let scene = Scene::new(&lies);
    for (number, lie) in (1..).zip(lies) {
        until(lie, || (scene.state(number) == "stopped").then_some(()));
        let causes = scene.causes(number);
        assert!(causes.iter().all(|cause| cause.contains("broke the protocol")), "{causes:?}");
    }
    scene.unharmed();
}

#[test]
fn answers_that_nobody_asked_for_are_counted_and_ignored() {
    let lies = ["unknown-tags", "others-tags", "twice"];
    let scene = Scene::new(&lies);
    for (number, lie) in (1..).zip(lies) {
        let (mut one, mut other) = (scene.open(number), scene.open(number));
        one.submit();
        // More of them, so that some have tags that the first has not given out.
        other.submit();
        other.submit();
        if lie == "twice" {
            one.all_end();
            other.all_end();
        }
        until("no answer is found to be wrong", || {
            one.poll();
            other.poll();
            (one.queue.unknown_completions() > 7).then_some(())
        });
        if lie != "twice" {
            // Nothing was answered; what is revoked ends.
            assert!(one.ended.iter().chain(&other.ended).all(|&count| count == 0), "{lie}");
            scene.core.revoke(&format!("nvme:{number}/ns1"), None).unwrap();
            one.all_end();
            other.all_end();
        }
    }
    scene.unharmed();
}

#[test]
fn rings_that_a_driver_breaks_end_with_errors() {
    let lies = ["garbage", "index-ahead", "index-back", "takes-ahead", "epochs", "closes"];
    let scene = Scene::new(&lies);
    for (number, lie) in (1..).zip(lies) {
        let mut victim = scene.open(number);
        for _ in 0..20 {
            victim.submit();
            // In the end there is an end, by itself or because somebody has enough of it.
            for _ in 0..50 {
                if victim.poll() {
                    break;
                }
                let _ = victim.queue.wait(Duration::from_millis(1));
            }
        }
        if !victim.poll() {
            scene.core.revoke(&format!("nvme:{number}/ns1"), None).unwrap();
            until(lie, || victim.poll().then_some(()));
        }
    }
    scene.unharmed();
}

#[test]
fn a_driver_that_withholds_answers_is_left_by_whoever_has_enough() {
    let scene = Scene::new(&["silent"]);
    let mut victim = scene.open(1);
    victim.submit();
    // It counts what it has not done, and its heart beats.
    for _ in 0..20 {
        assert!(!victim.poll());
        scene.bystander.goes_on(10);
    }
    scene.core.revoke("nvme:1/ns1", None).unwrap();
    victim.all_end();
    // The operator has other means too.
    let mut victim = scene.open(1);
    victim.submit();
    scene.core.remove("model:nvme?size=1M&serial=silent").unwrap();
    victim.all_end();
    scene.unharmed();
}
