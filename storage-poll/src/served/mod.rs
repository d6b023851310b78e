//! The driver as a process of the core: clients' requests from the table of the SDK's `serve`,
//! one I/O queue pair, and everything that a successor needs in the ledger.
//!
//! | module | what it holds |
//! |---|---|
//! | `record` | what the ledger says of the controller |
//! | `queue` | the I/O queue pair: the data path |
//! | `begin` | bringing up, adopting, recovering by a reset |
//! | `watch` | time: events, commands that take too long, resets |

mod begin;
mod queue;
mod record;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use uniddrv::block::BlockInfo;
use uniddrv::serve::{AdoptError, BlockDriver, DriverLedger, Steps, Table, Undisturbed};
use uniddrv::{AttachError, Device, DmaBuf, Match, Progress};
use uniddrv_abi::message::{Settings, Target};

use crate::controller::CLASS;
use crate::namespace::{Metadata, Namespace};
use crate::options::Options;
use crate::shared::{Phase, Shared};

use queue::Queue;
pub(crate) use record::AdminPlace;
use record::Record;
use watch::Watch;

/// The most bytes that a request of a client moves: with PRP lists for each slot, what fits into
/// a small arena.
const MAX_TRANSFER: usize = 1 << 20;
/// The I/O queue's identifier in the controller.
const QUEUE: u16 = 1;

/// An NVMe controller that serves the core's clients.
pub struct Nvme<S: Steps = Undisturbed> {
    queue: Queue<S>,
    namespaces: Vec<Namespace>,
    watch: Watch,
    /// Identify Controller, and Identify Namespace of each namespace.
    identity: Vec<u8>,
    /// Memory that a successor looks into: the same, in the arena; and where probes read to.
    #[expect(dead_code, reason = "keeps its place in the arena taken")]
    kept: Kept,
    record: Record,
    shared: Arc<Shared>,
}

/// Parts of the arena with a fixed place.
pub(crate) struct Kept {
    identity: DmaBuf,
    scratch: DmaBuf,
}

impl<S: Steps> BlockDriver for Nvme<S> {
    type Steps = S;

    const MATCHES: &'static [Match] = &[Match::class(CLASS)];

    fn attach(
        device: Device,
        ledger: &DriverLedger,
        settings: &Settings,
    ) -> Result<Self, AttachError> {
        begin::attach(device, ledger, settings)
    }

    fn adopt(
        device: Device,
        ledger: &DriverLedger,
        settings: &Settings,
        table: &mut Table<S>,
    ) -> Result<Self, (AdoptError, Device)> {
        begin::adopt(device, ledger, settings, table)
    }

    fn recover(
        device: Device,
        ledger: &DriverLedger,
        settings: &Settings,
        table: &mut Table<S>,
    ) -> Result<Self, AttachError> {
        begin::recover(device, ledger, settings, table)
    }

    fn targets(&self) -> Vec<Target> {
        self.namespaces.iter().filter(|namespace| serves(namespace)).map(target).collect()
    }

    fn identity(&self) -> (&'static str, Vec<u8>) {
        ("nvme", self.identity.clone())
    }

    #[inline]
    fn poll(&mut self, table: &mut Table<S>) -> Progress {
        let reaped = self.queue.reap(table);
        let submitted = self.queue.submit(&self.namespaces, table);
        if table.now() >= self.watch.next {
            self.look(table);
        }
        if reaped + submitted > 0 { Progress::Busy } else { Progress::Idle }
    }

    fn gone(&self) -> Option<String> {
        (self.shared.state().phase() == Phase::Gone).then(|| self.shared.gone().to_string())
    }

    fn shut_down(self) {
        let mut admin = self.shared.lock();
        if let Err(error) = admin.delete_queue(&self.shared, QUEUE) {
            tracing::warn!(%error, "the I/O queue could not be deleted");
        }
        // The controller is shut down when `shared` is dropped.
    }
}

fn options(settings: &Settings) -> Options {
    Options {
        queues: 1,
        timeout: Duration::from_millis(settings.timeout_ms.clamp(1, 86_400_000)),
        max_transfer: MAX_TRANSFER,
        ..Options::default()
    }
}

/// Whether a block service can offer it: there is no place for metadata.
fn serves(namespace: &Namespace) -> bool {
    matches!(namespace.metadata(), Metadata::None | Metadata::Stripped { .. })
}

fn target(namespace: &Namespace) -> Target {
    let BlockInfo { block_size, blocks, max_transfer, volatile_write_cache } = namespace.info();
    Target {
        path: format!("ns{}", namespace.nsid()),
        id: namespace.nsid(),
        block_size,
        blocks,
        max_transfer,
        volatile_write_cache,
    }
}
