//! A driver that turns hostile, forges its ledger and dies. Its successor is honest.

use uniddrv::block::{BlockQueue, Operation, Request};
use uniddrv::client::{BlockClient, ClientQueue, Core, Harm, OpenOptions};
use uniddrv_tests::bystander::Bystander;
use uniddrv_tests::wait::until;
use uniddrv_tests::wire::Random;

use crate::host::Setup;

/// What `forging_nvme` can forge.
const KINDS: u64 = 14;
/// Requests on their way.
const COUNT: usize = 24;

/// A client with requests on their way, which does not know what comes of them.
struct Victim {
    client: BlockClient,
    queue: ClientQueue,
    ended: [u32; COUNT],
}

impl Victim {
    fn new(core: &Core) -> Self {
        let options = OpenOptions { depth: 32, yield_when_idle: true, ..OpenOptions::default() };
        let client = core.open("nvme:0/ns1", &options).unwrap();
        let queue = client.take_queue().unwrap();
        Self { client, queue, ended: [0; COUNT] }
    }

    fn submit(&mut self) {
        for tag in 0..COUNT as u64 {
            let buffer = Some(self.client.buffer(4096).unwrap());
            let operation = if tag % 2 == 0 {
                Operation::Read { lba: tag * 8 }
            } else {
                Operation::Write { lba: tag * 8, fua: false }
            };
            let request = Request { operation, buffer, tag };
            // It may have lost the right to it already.
            let _ = self.queue.submit(request).map_err(|_| self.ended[tag as usize] += 1);
        }
    }

    /// Takes what has ended. Whether all has.
    fn poll(&mut self) -> bool {
        let ended = &mut self.ended;
        self.queue.poll(|completion| ended[completion.tag as usize] += 1);
        assert!(ended.iter().all(|&count| count <= 1), "ended twice: {ended:?}");
        ended.iter().all(|&count| count == 1)
    }
}

#[test]
fn a_forged_ledger_is_found_out_or_harms_its_own_clients_alone() {
    // Another device beside it, which has nothing to do with all that.
    let other = "[[device]]\naddress = \"model:nvme?size=16M\"\nname = \"nvme:1\"";
    let honest = Setup::nvme();
    let driver = honest.program(env!("CARGO_BIN_EXE_nvme_driver"));
    let setup = Setup::new(env!("CARGO_BIN_EXE_forging_nvme"))
        .device("timeout = \"300ms\"")
        .device("restart = { deaths = 50, backoff = \"1ms..10ms\" }")
        .rest(&format!("{other}\ndriver = \"{}\"", driver.display()));
    let host = setup.run();
    let bystander = Bystander::new(&host.socket(), "nvme:1/ns1");
    let core = host.connect();
    let mut random = Random::new(5);
    let status = || core.status("nvme:0").unwrap().pop().unwrap();
    for round in 0..2 * KINDS {
        until("no successor is ready", || {
            let status = status();
            (status.state == "running" && status.warm).then_some(())
        });
        let mut victim = Victim::new(&core);
        // The last one, `HeadRung`, comes but rarely.
        let step = 1 + random.below(14);
        let armed = step | (round % KINDS) << 16 | round << 32;
        core.kill("nvme:0", Harm::Arm { step: armed, count: 1 }).unwrap();
        let before = status().restarts;
        victim.submit();
        until("the driver does not die", || {
            victim.poll();
            let now = status();
            (now.restarts > before).then_some(())
        });
        // All ends by itself, what the device does not know of after its timeout.
        until("requests do not end", || victim.poll().then_some(()));
        drop(victim);
        bystander.goes_on(20);
        let words = status().deaths.into_iter().filter_map(|death| death.last_words);
        for words in words {
            assert!(!words.contains("panicked") && !words.contains(" at "), "{words}");
            assert!(!words.chars().any(char::is_control), "{words:?}");
        }
    }
    // The device is as good as new for whoever comes next.
    let next = Bystander::new(&host.socket(), "nvme:0/ns2");
    next.goes_on(200);
    next.end();
    bystander.end();
}
