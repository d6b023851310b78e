//! The other process: a driver with its device inside, or the far side of a bare pair of rings.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use storage_poll::served::Nvme;
use uniddrv::dma::DmaSpace;
use uniddrv::process::take_inherited;
use uniddrv::serve::{BlockDriver, Table};
use uniddrv::shared::SharedWords;
use uniddrv::{Arena, Device, clock};
use uniddrv_abi::ledger::{BYTES, Ledger};
use uniddrv_abi::message::{Client, Limits, Rights, Settings};
use uniddrv_abi::queue::{self, Poster, Taker};

use crate::{DEPTH, device, pin};

const ARENA_IOVA: u64 = 1 << 32;
const CLIENT_IOVA: u64 = 1 << 33;

pub(crate) fn main(role: &str, numbers: &[String]) {
    pin(1);
    let fds: Vec<OwnedFd> = numbers
        .iter()
        .map(|number| take_inherited(number.parse().expect("a number")).expect("it is open"))
        .collect();
    let [ledger, arena, client, rings, wake] = <[OwnedFd; 5]>::try_from(fds).expect("five");
    let words = SharedWords::map(rings.as_fd(), 0).expect("memory");
    if role == "--rings" {
        return echo(words, &wake);
    }
    let ledger = Ledger::new(SharedWords::map(ledger.as_fd(), BYTES).expect("memory"));
    let ledger = ledger.expect("a ledger");
    ledger.initialise();
    let arena = Arc::new(Arena::received(arena).expect("an arena"));
    let client_arena = Arc::new(Arena::received(client).expect("an arena"));
    let transport = device();
    transport.map_dma(&arena, ARENA_IOVA).expect("room");
    transport.map_dma(&client_arena, CLIENT_IOVA).expect("room");
    let dma = DmaSpace::of_arena(transport.clone(), arena, ARENA_IOVA);
    let device = Device::held(transport, dma, "model:nvme".parse().expect("an address"));
    let settings = Settings { depth: 512, timeout_ms: 30_000, sleep: false, spin_us: 0 };
    let mut driver: Nvme = Nvme::attach(device, &ledger, &settings).expect("it comes up");
    let mut table = Table::new(ledger.clone());
    table.set_targets(driver.targets());
    let client = Client {
        client: 1,
        target: 1,
        rights: Rights::Read,
        arena_iova: CLIENT_IOVA,
        arena_len: client_arena.len() as u64,
        depth: DEPTH,
        queues: vec![0],
        limits: Limits::default(),
        new: true,
    };
    let parent = wake.try_clone().expect("a file descriptor");
    table.attach(&client, vec![(words, wake)]).expect("a client");
    let mut passes = 0u64;
    // As the runtime of a driver process does it.
    loop {
        table.set_now(clock::ticks());
        driver.poll(&mut table);
        ledger.beat();
        passes += 1;
        if passes.is_multiple_of(1 << 20) && closed(&parent) {
            return;
        }
    }
}

fn echo(words: SharedWords, parent: &OwnedFd) {
    let mut taker = Taker::new(words.clone(), queue::submission(DEPTH), 0);
    let mut poster = Poster::new(words, queue::completion(DEPTH), 0);
    let mut passes = 0u64;
    loop {
        while taker.available().expect("a ring") > 0 {
            let Some(entry) = taker.pop() else { break };
            assert!(poster.room(1).expect("a ring") > 0);
            poster.push([entry[3], 0]);
        }
        taker.publish();
        poster.publish();
        passes += 1;
        if passes.is_multiple_of(1 << 20) && closed(parent) {
            return;
        }
    }
}

/// Whether the measuring process is gone.
fn closed(parent: &OwnedFd) -> bool {
    let flags = rustix::net::RecvFlags::DONTWAIT;
    matches!(rustix::net::recv(parent, &mut [0u8; 64][..], flags), Ok((0, _)))
}
