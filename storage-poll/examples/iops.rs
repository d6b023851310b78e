//! Reads random blocks of the first namespace for a second and says how many it were.
//!
//! `cargo run --release -p storage-poll --example iops -- ADDRESS [DEPTH]`
#![forbid(unsafe_code)]

use std::error::Error;
use std::time::{Duration, Instant};

use storage_poll::{Controller, Options};
use uniddrv::block::{BlockQueue, Operation, Request};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "model:nvme?backing=null".into());
    let depth = arguments.next().map_or(Ok(32), |depth| depth.parse())?;

    let device = uniddrv_models::open(&address.parse()?)?;
    let controller = Controller::attach_with(device, Options::default())?;
    let namespace = controller.namespaces().first().ok_or("there is no namespace")?;
    println!("{}: NVMe {}, {}", address, controller.version(), controller.identity().model());

    let mut queue = controller.block_queue(namespace.nsid(), depth)?;
    let blocks = 4096 / namespace.block_size().min(4096);
    let slots = namespace.blocks() / u64::from(blocks);
    let mut free: Vec<_> =
        (0..depth).map(|_| controller.device().dma_buffer(4096)).collect::<Result<_, _>>()?;
    let (start, mut reads, mut state) = (Instant::now(), 0u64, 1u64);
    while start.elapsed() < Duration::from_secs(1) {
        while let Some(buffer) = free.pop() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let lba = ((u128::from(state) * u128::from(slots)) >> 64) as u64 * u64::from(blocks);
            let request =
                Request { operation: Operation::Read { lba }, buffer: Some(buffer), tag: 0 };
            queue.submit(request).map_err(|(error, _)| error)?;
        }
        let mut failed = None;
        queue.poll(|done| {
            failed = failed.or(done.result.err());
            reads += 1;
            free.extend(done.buffer);
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
    }
    println!("{:.0} reads of 4 KiB a second", reads as f64 / start.elapsed().as_secs_f64());
    Ok(())
}
