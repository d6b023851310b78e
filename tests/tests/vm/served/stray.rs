//! A driver process that has its device access memory which is not its own.

use std::fs::File;
use std::os::unix::fs::FileExt;

use uniddrv::block::{BlockError, BlockQueue, Operation, Request};
use uniddrv::client::{BlockClient, ClientQueue, OpenOptions};
use uniddrv_spec::nvme::admin::features::Timestamp;

use super::super::guest;
use super::super::iommu::kernel_log;
use super::{Core, DATA, PATIENCE, connect, eventually, uniddrv};

const PAGE: usize = 4096;
/// PCI Vendor ID, the first field of Identify Controller.
const VENDOR: u16 = 0x1b36;
/// A time in milliseconds that is far away.
const SECRET: u64 = 0x4dea_d5ec_2e75;

/// A page of this process, full of a secret, which an IOMMU has to protect.
struct Victim {
    memory: Vec<u8>,
    start: usize,
}

impl Victim {
    fn new() -> Self {
        let mut memory = vec![0; 2 * PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        for word in memory[start..start + PAGE].chunks_mut(8) {
            word.copy_from_slice(&SECRET.to_le_bytes());
        }
        Self { memory, start }
    }

    fn is_whole(&self) -> bool {
        let page = &self.memory[self.start..self.start + PAGE];
        page.chunks(8).all(|word| word == SECRET.to_le_bytes())
    }

    /// The number of the page in the machine's memory.
    /// Linux, Documentation/admin-guide/mm/pagemap.rst.
    fn physical_page(&self) -> u64 {
        let address = self.memory.as_ptr().addr() + self.start;
        let mut entry = [0; 8];
        let file = File::open("/proc/self/pagemap").unwrap();
        file.read_exact_at(&mut entry, (address / PAGE * 8) as u64).unwrap();
        let entry = u64::from_le_bytes(entry);
        assert!(entry >> 63 == 1, "the page is not in memory");
        entry & ((1 << 55) - 1)
    }
}

struct Client {
    queue: ClientQueue,
    client: BlockClient,
}

impl Client {
    fn open(core: &uniddrv::client::Core) -> Self {
        let client = core.open("nvme:0/ns1", &OpenOptions::default()).unwrap();
        Self { queue: client.take_queue().unwrap(), client }
    }

    /// Has the driver do something: how that ended, and what the request's buffer holds then.
    fn ask(&mut self, operation: Operation, data: &[u8]) -> (Result<(), BlockError>, Vec<u8>) {
        let buffer = (!data.is_empty()).then(|| {
            let mut buffer = self.client.buffer(PAGE).unwrap();
            buffer.as_mut_slice()[..data.len()].copy_from_slice(data);
            buffer
        });
        self.queue.submit(Request { operation, buffer, tag: 0 }).map_err(|(e, _)| e).unwrap();
        let mut done = None;
        while self.queue.poll(|completion| done = Some(completion)) == 0 {
            self.queue.wait(PATIENCE).unwrap();
        }
        let done = done.unwrap();
        (done.result, done.buffer.map(|buffer| buffer.as_slice().to_vec()).unwrap_or_default())
    }
}

/// Where the controller met the IOMMU, as Linux tells it: `DMA Write`, `DMA Read`, and the address.
fn faults() -> Vec<(String, u64)> {
    let fault = |line: &str| {
        let (kind, rest) = line.split_once("DMAR: [")?.1.split_once(" NO_PASID] Request device")?;
        let address = rest.strip_prefix(" [00:10.0] fault addr 0x")?.split(' ').next()?;
        Some((kind.to_owned(), u64::from_str_radix(address, 16).ok()?))
    };
    kernel_log().lines().filter_map(fault).collect()
}

fn await_fault(kind: &str, address: u64) {
    eventually(&format!("{kind} fault at {address:#x}"), || {
        faults().contains(&(kind.to_owned(), address)).then_some(())
    });
}

#[test]
fn what_is_not_the_drivers_cannot_be_reached_by_its_device() {
    let Some(_guest) = guest() else { return };
    uniddrv(&["bind", DATA]);
    let program = env!("CARGO_BIN_EXE_stray_nvme");
    let config =
        format!("[[device]]\naddress = \"{DATA}\"\nname = \"nvme:0\"\ndriver = \"{program}\"\n");
    let core = Core::start(&[], &config);
    let connection = connect();
    let mut client = Client::open(&connection);

    // What the driver may reach works: the client's buffer.
    let (result, bytes) = client.ask(Operation::Read { lba: 0 }, &[0xee]);
    assert_eq!(result, Ok(()));
    assert_eq!(bytes[..2], VENDOR.to_le_bytes());
    let timestamp = |bytes: &[u8]| {
        Timestamp::from_bits(u64::from_le_bytes(bytes[..8].try_into().unwrap())).milliseconds()
    };
    let near_secret = |time: u64| (SECRET..SECRET + 3_600_000).contains(&time);
    let own = Operation::Write { lba: 0, fua: false };
    let (result, bytes) = client.ask(own, &SECRET.to_le_bytes());
    assert!(result.is_ok() && near_secret(timestamp(&bytes)), "{result:?} {bytes:x?}");
    let (result, _) = client.ask(own, &1u64.to_le_bytes());
    assert_eq!((result, faults()), (Ok(()), Vec::new()));

    // What it may not reach: another process's memory, to write and to read. (QEMU's controller
    // says that it worked, and has lost the data or taken nothing.)
    let victim = Victim::new();
    let page = victim.physical_page();
    let address = page * PAGE as u64;
    let (_, bytes) = client.ask(Operation::Read { lba: page }, &[0xee]);
    await_fault("DMA Write", address);
    assert!(victim.is_whole(), "the device wrote to memory that is not the driver's");
    assert_eq!(bytes[0], 0xee);
    let (_, bytes) = client.ask(Operation::Write { lba: page, fua: false }, &[0xee]);
    await_fault("DMA Read", address);
    assert!(!near_secret(timestamp(&bytes)), "the device read memory that is not the driver's");
    assert_eq!(victim.physical_page(), page, "it was elsewhere");
    // The lowest memory, where drivers go by mistake.
    let _ = client.ask(Operation::Read { lba: 1 }, &[0xee]);
    await_fault("DMA Write", PAGE as u64);

    // The memory of a client that is gone.
    let other = connect();
    let mut second = Client::open(&other);
    let (result, _) = client.ask(Operation::Read { lba: 0 }, &[0xee]);
    assert_eq!(result, Ok(()));
    drop((client, connection));
    let before = faults().len();
    let now = eventually("fault at a former client's memory", || {
        // It is unmapped in a moment.
        let _ = second.ask(Operation::Discard { lba: 0, blocks: 1 }, &[]);
        Some(faults()).filter(|now| now.len() > before)
    });
    assert_eq!(now.last().unwrap().0, "DMA Write");

    // All goes on.
    let (result, bytes) = second.ask(Operation::Read { lba: 0 }, &[0xee]);
    assert_eq!((result, &bytes[..2]), (Ok(()), &VENDOR.to_le_bytes()[..]));
    assert!(victim.is_whole());
    drop((second, other));
    uniddrv(&["unbind", DATA]);
    assert!(core.end().success());
}
