//! What the driver costs: submission and completion of 4 KiB reads on an inline device, which
//! completes commands while its doorbell is rung. `driver` is with a device that does nothing
//! else, `model` with the NVMe model, whose part is in the figure.
//!
//! With `--count N` instead of criterion's arguments, it carries out N requests at queue depth
//! 32 on the former and ends: for `valgrind --tool=callgrind`.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

#[path = "../common/instant.rs"]
mod instant;

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group};
use storage_poll::{Controller, NamespaceQueue, Options};
use uniddrv::block::{BlockQueue, Operation, Request};
use uniddrv::{Device, DmaBuf, Transport};
use uniddrv_models::nvme::Params;
use uniddrv_models::{Inline, NvmeModel};

struct Reader {
    queue: NamespaceQueue,
    free: Vec<DmaBuf>,
    lba: u64,
    _controller: Controller,
}

impl Reader {
    fn new(depth: usize, transport: Arc<dyn Transport>) -> Self {
        let address = "model:nvme".parse().expect("an address");
        let device = Device::new(transport, address);
        let controller = Controller::attach_with(device, Options::default()).expect("it comes up");
        let buffer = || controller.device().dma_buffer(4096).expect("memory");
        let free = (0..depth).map(|_| buffer()).collect();
        let queue = controller.block_queue(1, depth).expect("a queue");
        Self { queue, free, lba: 0, _controller: controller }
    }

    /// Reads `count` times.
    fn run(&mut self, count: u64) {
        let (mut submitted, mut ended) = (0, 0);
        while ended < count {
            while submitted < count
                && let Some(buffer) = self.free.pop()
            {
                self.lba = (self.lba + 8) & 0xf_ffff;
                let operation = Operation::Read { lba: self.lba };
                let request = Request { operation, buffer: Some(buffer), tag: submitted };
                assert!(self.queue.submit(request).is_ok());
                submitted += 1;
            }
            let free = &mut self.free;
            ended += self.queue.poll(|done| free.extend(done.buffer)) as u64;
        }
    }
}

fn model() -> NvmeModel {
    let params = Params::from_pairs([("backing", "null"), ("size", "1G")]).expect("parameters");
    NvmeModel::new(params).expect("a model")
}

fn instant() -> Arc<dyn Transport> {
    Arc::new(Inline::new(instant::Instant::new(model())))
}

fn submit_complete(criterion: &mut Criterion) {
    measure(criterion, "driver", instant);
    measure(criterion, "model", || Arc::new(Inline::new(model())));
}

fn measure(criterion: &mut Criterion, device: &str, open: impl Fn() -> Arc<dyn Transport>) {
    let mut group = criterion.benchmark_group(format!("queue/submit_complete/{device}"));
    group.throughput(Throughput::Elements(1));
    for depth in [1, 32, 128] {
        let mut reader = Reader::new(depth, open());
        group.bench_function(format!("qd{depth}"), |bencher| {
            bencher.iter_custom(|count| {
                let start = std::time::Instant::now();
                reader.run(count);
                start.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, submit_complete);

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--count") {
        let count = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(0);
        Reader::new(32, instant()).run(count);
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
