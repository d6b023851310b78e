//! What a command costs the NVMe model, without transport and driver.
//!
//! `nvme_poll poll` times `Model::poll` alone, in one thread: nanoseconds a command.
//! `nvme_poll pair` lets a client in a second thread keep queues full: commands a second.
//! `nvme_poll count N` runs N commands, to be counted by callgrind (`--toggle-collect=*poll*`).

use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use uniddrv_models::host::{Access, ClientMemory, Pinned};
use uniddrv_models::nvme::Params;
use uniddrv_models::{Host, Model, NvmeModel};
use uniddrv_spec::nvme::admin::queue::{CompletionQueueDword11, SubmissionQueueDword11};
use uniddrv_spec::nvme::admin::{
    CreateIoCompletionQueue, CreateIoSubmissionQueue, DeleteIoCompletionQueue,
    DeleteIoSubmissionQueue,
};
use uniddrv_spec::nvme::entry::SubmissionEntry;
use uniddrv_spec::nvme::io::{BlockCount, Flags, read, write};
use uniddrv_spec::nvme::registers::{Aqa, Cc, completion_doorbell, submission_doorbell};
use vm_memory::VolatileMemory;
use zerocopy::IntoBytes;

type Failure = Box<dyn Error + Send + Sync>;

const LEN: u64 = 8 << 20;
const ADMIN_SQ: u64 = 0;
const ADMIN_CQ: u64 = 0x1000;
const SQ: u64 = 0x10_000;
const CQ: u64 = 0x30_000;
const DATA: u64 = 0x40_0000;
const ENTRIES: u32 = 256;
const SIZE: u64 = 64 << 20;

struct Bench {
    model: NvmeModel,
    host: Host,
    memory: OwnedFd,
}

impl Bench {
    fn new(backing: &str) -> Result<Self, Failure> {
        let params = Params::from_pairs([("backing", backing), ("size", "67108864")])?;
        let mut model = NvmeModel::new(params)?;
        let mut host = Host::new();
        let memory = memfd_create("client", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, LEN)?;
        rustix::fs::fallocate(&memory, rustix::fs::FallocateFlags::empty(), 0, LEN)?;
        host.memory.map(0, LEN, memory.as_fd(), 0, true)?;
        model.write_config(&mut host, 4, &[6, 0]);
        let mut write32 = |offset: usize, value: u32| {
            model.write_bar(&mut host, 0, offset as u64, &value.to_le_bytes());
        };
        write32(Aqa::OFFSET, Aqa::default().with_asqs(15).with_acqs(15).bits());
        write32(0x28, ADMIN_SQ as u32);
        write32(0x30, ADMIN_CQ as u32);
        write32(Cc::OFFSET, Cc::default().with_en(true).with_iosqes(6).with_iocqes(4).bits());
        host.memory.write(ADMIN_SQ, queues().as_bytes())?;
        model.write_bar(&mut host, 0, 0x1000, &2u32.to_le_bytes());
        while model.poll(&mut host) {}
        let mut bench = Self { model, host, memory };
        if backing == "ram" {
            bench.fill()?;
        }
        Ok(bench)
    }

    /// Writes every block: one that was never written is not read from memory.
    fn fill(&mut self) -> Result<(), Failure> {
        let mut tail = 0;
        for page in 0..SIZE / 4096 {
            let entry = write(1, page * 8, BlockCount::from_nlb(7), Flags::NONE).with_prps(DATA, 0);
            self.host.memory.write(SQ + 64 * u64::from(tail), entry.as_bytes())?;
            tail = (tail + 1) % ENTRIES;
            self.doorbell(submission_doorbell(1, 0), tail);
            while self.model.poll(&mut self.host) {}
            self.doorbell(completion_doorbell(1, 0), tail);
        }
        // The queues start anew, with phases that tell nothing of before.
        let delete = [
            DeleteIoSubmissionQueue { qid: 1 }.to_entry(),
            DeleteIoCompletionQueue { qid: 1 }.to_entry(),
        ];
        self.host.memory.write(ADMIN_SQ + 2 * 64, delete.as_bytes())?;
        self.host.memory.write(ADMIN_SQ + 4 * 64, queues().as_bytes())?;
        self.host.memory.write(CQ, &[0; 16 * ENTRIES as usize])?;
        self.doorbell(submission_doorbell(0, 0), 6);
        while self.model.poll(&mut self.host) {}
        Ok(())
    }

    fn doorbell(&mut self, offset: usize, value: u32) {
        self.model.write_bar(&mut self.host, 0, offset as u64, &value.to_le_bytes());
    }
}

fn queues() -> [SubmissionEntry; 2] {
    let qsize = (ENTRIES - 1) as u16;
    let attributes = CompletionQueueDword11::default().with_pc(true);
    let cq = CreateIoCompletionQueue { qid: 1, qsize, attributes, address: CQ };
    let attributes = SubmissionQueueDword11::default().with_pc(true).with_cqid(1);
    let sq = CreateIoSubmissionQueue { qid: 1, qsize, attributes, address: SQ };
    [cq.to_entry(), sq.to_entry()]
}

fn command(index: u32) -> SubmissionEntry {
    let slot = index % ENTRIES;
    let lba = u64::from(index.wrapping_mul(0x9e37_79b9) >> 16) * 8 % (SIZE / 512);
    read(1, lba, BlockCount::new(8).unwrap_or(BlockCount::ONE), Flags::NONE)
        .with_cid(slot as u16)
        .with_prps(DATA + u64::from(slot) * 4096, 0)
}

/// Nanoseconds a command, the median of many rounds.
fn poll(backing: &str, batch: u32, rounds: u32) -> Result<f64, Failure> {
    let mut bench = Bench::new(backing)?;
    let (mut tail, mut sent) = (0, 0);
    let mut times = Vec::new();
    for _ in 0..rounds {
        for _ in 0..batch {
            let place = SQ + 64 * u64::from(tail);
            bench.host.memory.write(place, command(sent).as_bytes())?;
            tail = (tail + 1) % ENTRIES;
            sent += 1;
        }
        bench.doorbell(submission_doorbell(1, 0), tail);
        let start = Instant::now();
        while bench.model.poll(&mut bench.host) {}
        times.push(start.elapsed().as_nanos() as f64 / f64::from(batch));
        bench.doorbell(completion_doorbell(1, 0), tail);
    }
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().ok_or_else(|| "no rounds".into())
}

/// A client's view: it writes entries and doorbells and looks at completions.
struct Client {
    sq: Pinned,
    cq: Pinned,
    doorbells: Pinned,
}

impl Client {
    fn new(bench: &Bench) -> Result<Self, Failure> {
        let mut memory = ClientMemory::default();
        memory.map(0, LEN, bench.memory.as_fd(), 0, true)?;
        let mut registers = ClientMemory::default();
        let shared = bench.model.bar(0).shared.ok_or("no doorbells")?;
        registers.map(0, 0x1000, shared.file, 0x1000, true)?;
        let pin = |memory: &ClientMemory, place, len| {
            memory.pin(place, len, Access::Write)?.ok_or_else(|| Failure::from("not contiguous"))
        };
        Ok(Self {
            sq: pin(&memory, SQ, 64 * ENTRIES as usize)?,
            cq: pin(&memory, CQ, 16 * ENTRIES as usize)?,
            doorbells: pin(&registers, 0, 0x1000)?,
        })
    }
}

/// Commands a second with `depth` in flight.
fn pair(backing: &str, depth: u32, time: Duration) -> Result<f64, Failure> {
    let mut bench = Bench::new(backing)?;
    let client = Client::new(&bench)?;
    // The client keeps its own view alive; the pins need the regions mapped.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let model = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                bench.model.poll(&mut bench.host);
            }
        });
        let result = drive(&client, depth, time);
        stop.store(true, Ordering::Relaxed);
        model.join().map_err(|_| Failure::from("the model panicked"))?;
        result
    })
}

fn drive(client: &Client, depth: u32, time: Duration) -> Result<f64, Failure> {
    let lost = || Failure::from("unmapped");
    let (sq, cq) = (client.sq.slice().ok_or_else(lost)?, client.cq.slice().ok_or_else(lost)?);
    let (mut tail, mut head, mut phase) = (0, 0, true);
    let (mut sent, mut done, mut flying) = (0u32, 0u64, 0);
    let start = Instant::now();
    let mut spins = 0u32;
    loop {
        let before = tail;
        while flying < depth {
            sq.get_slice(64 * tail as usize, 64)?.copy_from(command(sent).as_bytes());
            tail = (tail + 1) % ENTRIES;
            sent = sent.wrapping_add(1);
            flying += 1;
        }
        if tail != before {
            client.doorbells.store(submission_doorbell(1, 0) - 0x1000, tail)?;
        }
        let first = head;
        while flying > 0 {
            let word: u32 = client.cq.load(16 * head as usize + 12).ok_or_else(lost)?;
            if (word >> 16 & 1 == 1) != phase {
                break;
            }
            if word >> 17 != 0 {
                return Err(format!("status {:#x}", word >> 17).into());
            }
            head += 1;
            if head == ENTRIES {
                head = 0;
                phase = !phase;
            }
            flying -= 1;
            done += 1;
        }
        let _ = &cq;
        if first != head {
            client.doorbells.store(completion_doorbell(1, 0) - 0x1000, head)?;
        }
        spins = spins.wrapping_add(1);
        if spins.is_multiple_of(1024) && start.elapsed() >= time {
            return Ok(done as f64 / start.elapsed().as_secs_f64());
        }
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("pair") => {
            for backing in ["null", "ram"] {
                for depth in [1, 32, 128] {
                    // The best of short windows: other programs' turns fall into the rest.
                    let mut rate = 0f64;
                    for _ in 0..20 {
                        rate = rate.max(pair(backing, depth, Duration::from_millis(50))?);
                    }
                    println!("{backing:4} depth {depth:3}: {:6.2} M commands a second", rate / 1e6);
                }
            }
        }
        Some("count") => {
            let commands: u32 = arguments.get(1).map_or(Ok(32_000), |n| n.parse())?;
            let backing = arguments.get(2).map_or("null", |text| text);
            let _ = poll(backing, 32, commands / 32)?;
        }
        _ => {
            for backing in ["null", "ram"] {
                for batch in [1, 4, 32, 128] {
                    let time = poll(backing, batch, 20_000)?;
                    println!("{backing:4} batch {batch:3}: {time:6.1} ns a command");
                }
            }
        }
    }
    Ok(())
}
