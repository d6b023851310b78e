//! What being served costs: 4 KiB reads by the client library through shared rings and a driver
//! process, beside the same driver embedded and beside a bare pair of rings, in one run. The
//! device is in the driver's process and completes at once, so all that is left is ours. Client
//! and driver have a CPU each.
//!
//! `cargo bench --bench served [-- --rounds N] [--json]`
#![forbid(unsafe_code)]

mod driver;
#[path = "../common/instant.rs"]
mod instant;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};
use storage_poll::{Controller, Options};
use uniddrv::block::{BlockQueue, Operation, Request};
use uniddrv::client::{BlockClient, Core, OpenOptions};
use uniddrv::control::{self, Control};
use uniddrv::shared::{self, SharedWords};
use uniddrv::{Arena, Device, DmaBuf, Transport};
use uniddrv_abi::ledger;
use uniddrv_abi::message::{FromCore, Rights, Target, ToCore, VERSION};
use uniddrv_abi::queue::{self, Reaper, Submitter};
use uniddrv_models::nvme::Params;
use uniddrv_models::{Inline, NvmeModel};

const BLOCKS: u64 = 1 << 21;
const DEPTH: u32 = 128;
/// How long each measurement takes.
const SLICE: Duration = Duration::from_millis(200);

fn model() -> NvmeModel {
    let params = Params::from_pairs([("backing", "null"), ("size", "1G")]).expect("parameters");
    NvmeModel::new(params).expect("a model")
}

fn device() -> Arc<dyn Transport> {
    Arc::new(Inline::new(instant::Instant::new(model())))
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        eprintln!("CPU {cpu} cannot be had ({error}): the figures say little");
    }
}

/// Memory that both processes have.
struct Memory {
    ledger: OwnedFd,
    arena: Arena,
    client: Arena,
    rings: OwnedFd,
    wake: OwnedFd,
}

/// The other process. Ends when its end of the socket closes.
struct Peer {
    child: Child,
    rings: OwnedFd,
    wake: Option<OwnedFd>,
    client: Arena,
}

impl Peer {
    fn start(role: &str) -> Self {
        let (wake, other) = control::pair().expect("a socket pair");
        let memory = Memory {
            ledger: shared::create("ledger", ledger::BYTES).expect("memory"),
            arena: Arena::new(8 << 20).expect("memory"),
            client: Arena::new(2 << 20).expect("memory"),
            rings: shared::create("rings", queue::words_for(DEPTH) * 8).expect("memory"),
            wake: other,
        };
        let fds = [
            memory.ledger.as_fd(),
            memory.arena.fd(),
            memory.client.fd(),
            memory.rings.as_fd(),
            memory.wake.as_fd(),
        ];
        // Duplicates that the child inherits, closed here afterwards.
        let inherited: Vec<OwnedFd> =
            fds.iter().map(|fd| rustix::io::dup(fd).expect("a file descriptor")).collect();
        let numbers = inherited.iter().map(|fd| fd.as_raw_fd().to_string());
        let child = Command::new(std::env::current_exe().expect("this program"))
            .arg(role)
            .args(numbers)
            .stdin(Stdio::null())
            .spawn()
            .expect("a process");
        Self { child, rings: memory.rings, wake: Some(wake), client: memory.client }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.wake = None;
        let _ = self.child.wait();
    }
}

/// Reads `depth` at a time for a while; nanoseconds a read.
fn measure(queue: &mut impl BlockQueue, free: &mut Vec<DmaBuf>, depth: usize) -> f64 {
    let spare = free.split_off(depth.min(free.len()));
    let (mut submitted, mut ended, mut lba, mut passes) = (0u64, 0u64, 0, 0u32);
    let start = Instant::now();
    let elapsed = loop {
        while let Some(buffer) = free.pop() {
            lba = (lba + 8) & 0xf_ffff;
            let request = Request {
                operation: Operation::Read { lba },
                buffer: Some(buffer),
                tag: submitted,
            };
            assert!(queue.submit(request).is_ok());
            submitted += 1;
        }
        ended += queue.poll(|done| {
            assert!(done.result.is_ok());
            free.extend(done.buffer);
        }) as u64;
        passes += 1;
        if passes.is_multiple_of(256) {
            let elapsed = start.elapsed();
            if elapsed > SLICE {
                break elapsed;
            }
        }
    };
    let result = elapsed.as_nanos() as f64 / ended as f64;
    while free.len() < depth {
        queue.poll(|done| free.extend(done.buffer));
    }
    free.extend(spare);
    result
}

/// A pair of rings with a process behind it that turns each submission into a completion.
fn bare_rings(
    submitter: &mut Submitter<SharedWords>,
    reaper: &mut Reaper<SharedWords>,
    depth: u64,
) -> f64 {
    let (mut submitted, mut ended, mut passes) = (0u64, 0u64, 0u32);
    let start = Instant::now();
    let mut last = false;
    let mut elapsed = Duration::ZERO;
    loop {
        if !last && submitted - ended < depth {
            while submitted - ended < depth {
                assert!(submitter.room(1).expect("a ring") > 0);
                submitter.push([1, 2, 3, submitted]);
                submitted += 1;
            }
            submitter.publish();
        }
        while reaper.available().expect("a ring") > 0 {
            reaper.pop();
            ended += 1;
        }
        reaper.publish();
        passes += 1;
        if !last && passes.is_multiple_of(256) {
            elapsed = start.elapsed();
            last = elapsed > SLICE;
        }
        if last && submitted == ended {
            return elapsed.as_nanos() as f64 / ended as f64;
        }
    }
}

/// A core of one client and one name.
fn core(peer: &Peer) -> (BlockClient, std::thread::JoinHandle<Control>) {
    let (ours, theirs) = control::pair().expect("a socket pair");
    let arena = peer.client.fd().try_clone_to_owned().expect("a file descriptor");
    let arena_len = peer.client.len() as u64;
    let rings = peer.rings.try_clone().expect("a file descriptor");
    let wake = peer.wake.as_ref().expect("a socket").try_clone().expect("a file descriptor");
    let thread = std::thread::spawn(move || {
        let mut control = Control::new(ours);
        let patience = Duration::from_secs(10);
        let (hello, _) = control.receive_within::<ToCore>(patience).expect("a message");
        assert!(matches!(hello, ToCore::Hello { .. }));
        control.send(&FromCore::Welcome { version: VERSION, client: 1 }, &[]).expect("room");
        let (open, _) = control.receive_within::<ToCore>(patience).expect("a message");
        assert!(matches!(open, ToCore::Open { .. }));
        let opened = FromCore::Opened {
            handle: 1,
            target: Target {
                path: "ns1".into(),
                id: 1,
                block_size: 512,
                blocks: BLOCKS,
                max_transfer: 1 << 20,
                volatile_write_cache: false,
            },
            arena: arena_len,
            depth: DEPTH,
            in_flight: DEPTH,
            queues: 1,
        };
        control.send(&opened, &[arena.as_fd(), rings.as_fd(), wake.as_fd()]).expect("room");
        control
    });
    let core = Core::over(theirs).expect("a core");
    let options = OpenOptions {
        rights: Rights::Read,
        queues: 1,
        depth: DEPTH,
        arena: arena_len,
        ..OpenOptions::default()
    };
    (core.open("nvme:0/ns1", &options).expect("a name"), thread)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(role @ ("--driver" | "--rings")) = arguments.first().map(String::as_str) {
        return driver::main(role, &arguments[1..]);
    }
    let json = arguments.iter().any(|argument| argument == "--json");
    let rounds = arguments.iter().position(|argument| argument == "--rounds");
    let rounds = rounds.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(5usize).max(1);
    pin(0);

    let address = "model:nvme".parse().expect("an address");
    let controller = Controller::attach_with(Device::new(device(), address), Options::default());
    let controller = controller.expect("it comes up");
    let mut embedded = controller.block_queue(1, DEPTH as usize).expect("a queue");
    let buffer = |_| controller.device().dma_buffer(4096).expect("memory");
    let mut embedded_free: Vec<DmaBuf> = (0..DEPTH).map(buffer).collect();

    let depths = [1usize, 32, 128];
    let mut results = vec![[const { Vec::new() }; 3]; depths.len()];
    for _ in 0..rounds {
        for (index, &depth) in depths.iter().enumerate() {
            results[index][0].push(measure(&mut embedded, &mut embedded_free, depth));
        }
        let peer = Peer::start("--rings");
        let words = SharedWords::map(peer.rings.as_fd(), 0).expect("memory");
        let mut submitter = Submitter::new(words.clone(), queue::submission(DEPTH), 0);
        let mut reaper = Reaper::new(words, queue::completion(DEPTH), 0);
        for (index, &depth) in depths.iter().enumerate() {
            results[index][1].push(bare_rings(&mut submitter, &mut reaper, depth as u64));
        }
        drop(peer);
        let peer = Peer::start("--driver");
        let (client, thread) = core(&peer);
        let mut queue = client.take_queue().expect("a queue");
        let mut free: Vec<DmaBuf> =
            (0..DEPTH).map(|_| client.buffer(4096).expect("memory")).collect();
        for (index, &depth) in depths.iter().enumerate() {
            results[index][2].push(measure(&mut queue, &mut free, depth));
        }
        drop((free, queue, client));
        drop(peer);
        drop(thread.join());
    }
    if !json {
        println!("4 KiB reads, instant device, ns each, median of {rounds} rounds (range)");
        println!("depth  embedded            bare rings          served              overhead");
    }
    for (depth, result) in depths.iter().zip(results) {
        let range = |values: &Vec<f64>| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            format!("{:.0} ({least:.0}-{most:.0})", median(values.clone()))
        };
        let [embedded, rings, served] = &result;
        let [e, r, s] = result.each_ref().map(|values| median(values.clone()));
        let overhead = s - e - r;
        if json {
            println!(
                "{{\"depth\": {depth}, \"embedded_ns\": {e:.1}, \"rings_ns\": {r:.1}, \
                 \"served_ns\": {s:.1}, \"overhead_ns\": {overhead:.1}}}"
            );
        } else {
            println!(
                "{depth:>5}  {:<18}  {:<18}  {:<18}  {overhead:.0}",
                range(embedded),
                range(rings),
                range(served)
            );
        }
    }
}
