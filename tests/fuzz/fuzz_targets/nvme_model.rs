//! The NVMe model with a driver that the fuzzer plays: any registers, any commands, any
//! doorbells, rings in memory that changes, moves and disappears.
#![no_main]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use uniddrv_fuzz::Input;
use uniddrv_models::nvme::Params;
use uniddrv_models::{Host, Model, NvmeModel};
use uniddrv_spec::nvme::registers::{
    Acq, Aqa, Asq, Cc, DOORBELLS, completion_doorbell, submission_doorbell,
};

/// The client's memory: where it lies, and how much there is.
const MEMORY: u64 = 0x10_0000;
const LEN: u64 = 0x10_0000;
/// Rings of queue `id`, and how many entries the ring of commands has.
const ENTRIES: u16 = 8;
/// The most operations of one input.
const OPERATIONS: usize = 200;

const fn submission(queue: u16) -> u64 {
    MEMORY + queue as u64 * 0x2000
}

const fn completion(queue: u16) -> u64 {
    submission(queue) + 0x1000
}

fn memory() -> &'static File {
    static MEMORY_FILE: OnceLock<File> = OnceLock::new();
    MEMORY_FILE.get_or_init(|| {
        let file = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&file, LEN).expect("ftruncate");
        file.into()
    })
}

struct Driver {
    model: NvmeModel,
    host: Host,
    tails: [u16; 4],
    cid: u16,
}

impl Driver {
    fn write32(&mut self, offset: usize, value: u32) {
        self.model.write_bar(&mut self.host, 0, offset as u64, &value.to_le_bytes());
    }

    fn write64(&mut self, offset: usize, value: u64) {
        self.model.write_bar(&mut self.host, 0, offset as u64, &value.to_le_bytes());
    }

    fn map(&mut self) {
        let _ = self.host.memory.map(MEMORY, LEN, memory().as_fd(), 0, true);
    }

    fn start(&mut self) {
        self.model.write_config(&mut self.host, 4, &[6, 0]);
        self.write32(Cc::OFFSET, 0);
        let last = u32::from(ENTRIES) - 1;
        self.write32(Aqa::OFFSET, last | last << 16);
        self.write64(Asq::OFFSET, submission(0));
        self.write64(Acq::OFFSET, completion(0));
        self.write32(Cc::OFFSET, 0x0046_0001);
        self.tails = [0; 4];
    }

    /// Appends a command and rings for it.
    fn submit(&mut self, queue: u16, opcode: u8, nsid: u32, prp1: u64, dwords: [u32; 6]) {
        let mut entry = [0; 64];
        self.cid = self.cid.wrapping_add(1);
        let first = u32::from(opcode) | u32::from(self.cid) << 16;
        let words = [first, nsid, 0, 0, 0, 0, prp1 as u32, (prp1 >> 32) as u32];
        let words = words.into_iter().chain([prp1 as u32 & !0xfff, 0]).chain(dwords);
        for (place, word) in entry.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.append(queue, &entry);
    }

    fn append(&mut self, queue: u16, entry: &[u8]) {
        let tail = &mut self.tails[usize::from(queue)];
        let place = submission(queue) - MEMORY + u64::from(*tail) * 64;
        *tail = (*tail + 1) % ENTRIES;
        let value = u32::from(*tail);
        memory().write_all_at(entry, place).expect("the memfd can be written");
        self.write32(submission_doorbell(queue, 0), value);
    }

    fn poll(&mut self) {
        for _ in 0..4 {
            self.model.poll(&mut self.host);
        }
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        let operation = input.byte();
        let queue = u16::from(input.byte() % 4);
        match operation % 12 {
            0 => {
                let offset = u64::from(input.byte()) * 4;
                let len = 1 << (input.byte() % 4);
                let value = input.u64().to_le_bytes();
                self.model.write_bar(&mut self.host, 0, offset, &value[..len]);
            }
            1 => self.start(),
            2 => {
                let dwords = [u32::from(queue) | 7 << 16, 1, 0, 0, 0, 0];
                self.submit(0, 5, 0, completion(queue), dwords);
                let dwords = [u32::from(queue) | 7 << 16, 1 | u32::from(queue) << 16, 0, 0, 0, 0];
                self.submit(0, 1, 0, submission(queue), dwords);
                self.poll();
            }
            // A command with plausible fields.
            3..=5 => {
                let [opcode, nsid] = [input.byte(), input.byte()];
                let address = MEMORY + 0x8000 + u64::from(input.u16()) * 8;
                let dwords = std::array::from_fn(|_| {
                    let byte = u32::from(input.byte());
                    if byte & 0x80 == 0 { byte } else { input.u32() }
                });
                self.submit(queue, opcode & 0x8f, u32::from(nsid % 4), address, dwords);
                self.poll();
            }
            // A command with any fields.
            6 => {
                let mut entry = [0; 64];
                for word in entry.chunks_exact_mut(8) {
                    word.copy_from_slice(&input.u64().to_le_bytes());
                }
                self.append(queue, &entry);
                self.poll();
            }
            7 => {
                let value = input.u32();
                self.write32(submission_doorbell(queue, 0), value);
                self.poll();
            }
            8 => {
                let value = u32::from(input.byte());
                self.write32(completion_doorbell(queue, 0), value);
                self.poll();
            }
            9 => {
                let place = u64::from(input.u16()) * 16 % (LEN - 8);
                let value = input.u64().to_le_bytes();
                memory().write_all_at(&value, place).expect("the memfd can be written");
                self.poll();
            }
            10 => {
                if self.host.memory.unmap(MEMORY, LEN).is_err() {
                    self.map();
                }
                self.poll();
            }
            _ => {
                let [offset, value] = [input.byte(), input.byte()];
                match queue {
                    0 => self.model.write_config(&mut self.host, offset.into(), &[value]),
                    1 => self.model.write_bar(&mut self.host, 4, offset.into(), &[value; 4]),
                    2 => self.model.reset(&mut self.host),
                    _ => {
                        let offset = DOORBELLS as u64 + u64::from(offset) * 4;
                        self.model.write_bar(&mut self.host, 0, offset, &[value; 4]);
                    }
                }
            }
        }
        self.model.read_bar(&mut self.host, 0, u64::from(operation) * 8, &mut [0; 8]);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let choices = input.byte();
    let mut pairs = vec![
        ("namespaces", "512:64k,4096:64k"),
        ("queues", "3"),
        ("entries", "16"),
        ("mdts", "16k"),
    ];
    pairs.push(("shadow-doorbells", if choices & 1 == 0 { "off" } else { "on" }));
    if choices & 2 != 0 {
        pairs.push((
            "fault",
            "seed=1,drop=0.1,delay=0.1:1us,duplicate=0.1,reorder=0.2,wrong-cid=0.1,wrong-phase=0.1",
        ));
    }
    let params = Params::from_pairs(pairs).expect("right parameters");
    let model = NvmeModel::new(params).expect("a model");
    let mut driver = Driver { model, host: Host::new(), tails: [0; 4], cid: 0 };
    driver.map();
    driver.start();
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        driver.operate(&mut input);
    }
    driver.model.reset(&mut driver.host);
    assert!(!driver.model.poll(&mut driver.host), "work after a reset");
});
