//! Opening a name.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::sockopt::socket_type;
use uniddrv_abi::message::{FromCore, Rights, Target, ToCore};
use uniddrv_abi::queue;

use super::capability::{Capability, identity};
use super::core::{Core, unexpected};
use super::error::CoreError;
use super::queue::ClientQueue;
use crate::block::BlockInfo;
use crate::dma::{DmaBuf, DmaError};
use crate::shared::SharedWords;

/// The most queues of a client at one name.
const MAX_QUEUES: u8 = 16;
/// The most bytes of a block that are believed.
const MAX_BLOCK: u32 = 1 << 20;

/// How a name is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// What is to be done with it: write, where not said otherwise.
    pub rights: Rights,
    /// Queues, 1 to 16: one for each thread.
    pub queues: u8,
    /// Requests on their way at once in each queue: a power of two up to 1,024.
    pub depth: u32,
    /// Bytes of the arena that buffers are cut from. The first name that is opened over a
    /// connection makes the arena, for all.
    pub arena: u64,
    /// How long [`ClientQueue::wait`] looks for completions at most before it sleeps.
    pub spin: Duration,
    /// Whether the CPU is offered to others whenever a poll or a look finds nothing: for a
    /// client that shares its CPU with a driver or a software device.
    pub yield_when_idle: bool,
}

impl Default for OpenOptions {
    /// To read and write; a queue of 128 requests, an arena of 16 MiB, 50 microseconds.
    fn default() -> Self {
        Self {
            rights: Rights::Write,
            queues: 1,
            depth: 128,
            arena: 16 << 20,
            spin: Duration::from_micros(50),
            yield_when_idle: false,
        }
    }
}

/// A block device that is open: memory for its data, and queues for its requests.
///
/// The right to it ends when this and all that was taken from it (queues; not buffers) are
/// dropped, when it is taken away, or when the core ends.
pub struct BlockClient {
    capability: Arc<Capability>,
    queues: Mutex<Vec<ClientQueue>>,
    depth: u32,
    in_flight: u32,
}

impl Core {
    /// Opens `name`, a block device: `nvme:0/ns1`.
    ///
    /// # Errors
    /// When there is no such name, this user may not have it, a limit is reached, or its driver
    /// is not up.
    pub fn open(&self, name: &str, options: &OpenOptions) -> Result<BlockClient, CoreError> {
        let OpenOptions { rights, queues, depth, arena, .. } = *options;
        check_options(options)
            .map_err(|text| CoreError::Options(format!("open {name}: {text}")))?;
        let action = format!("open {name}");
        let question = ToCore::Open { name: name.into(), rights, queues, depth, arena };
        let (answer, fds) = self.ask_to_open(&action, &question)?;
        let FromCore::Opened { handle, target, arena, depth, in_flight, queues } = answer else {
            return Err(unexpected(&self.link, &action, &answer));
        };
        let opened = Opened { handle, target, arena, depth, in_flight, queues };
        self.take(name, &opened, fds, options).map_err(|claim| {
            self.link.close(opened.handle, Vec::new());
            CoreError::protocol(&action, claim)
        })
    }

    /// Checks what was opened and makes it usable.
    fn take(
        &self,
        name: &str,
        opened: &Opened,
        fds: Vec<OwnedFd>,
        options: &OpenOptions,
    ) -> Result<BlockClient, String> {
        let info = opened.check(options, fds.len())?;
        let Opened { handle, depth, in_flight, .. } = *opened;
        let mut fds = fds.into_iter();
        let arena = fds.next().ok_or("no arena")?;
        let arena = self.arena(arena, opened.arena)?;
        let mut seen = vec![arena.identity];
        let mut parts = Vec::new();
        while let (Some(memory), Some(wake)) = (fds.next(), fds.next()) {
            let words = SharedWords::map(memory.as_fd(), queue::words_for(depth) * 8)
                .map_err(|e| format!("memory of a queue of {depth} that cannot be used: {e}"))?;
            socket_type(&wake).map_err(|e| format!("no socket to wake a queue by: {e}"))?;
            // Memory is for one purpose: nothing else may change what a buffer or ring holds.
            let identity = identity(&memory)?;
            if seen.contains(&identity) {
                return Err("the same memory twice".into());
            }
            seen.push(identity);
            parts.push((words, wake));
        }
        let writable = options.rights == Rights::Write;
        let capability = Arc::new(Capability::new(
            self.link.clone(),
            arena,
            handle,
            name.into(),
            info,
            writable,
        ));
        let mut queues: Vec<_> = (0..)
            .zip(parts)
            .map(|(number, (words, wake))| {
                ClientQueue::new(capability.clone(), number, words, wake, depth, in_flight, options)
            })
            .collect();
        // Taken from the back: the first one first.
        queues.reverse();
        Ok(BlockClient { capability, queues: Mutex::new(queues), depth, in_flight })
    }
}

fn check_options(options: &OpenOptions) -> Result<(), String> {
    let OpenOptions { queues, depth, arena, .. } = *options;
    if !(1..=MAX_QUEUES).contains(&queues) {
        return Err(format!("{queues} queues; 1 to {MAX_QUEUES} are possible"));
    }
    if !depth.is_power_of_two() || depth > queue::MAX_DEPTH {
        let most = queue::MAX_DEPTH;
        return Err(format!("a depth of {depth}; powers of two up to {most} are possible"));
    }
    if arena == 0 {
        return Err("an arena of no bytes leaves no room for buffers".into());
    }
    Ok(())
}

/// What the core says that it opened.
struct Opened {
    handle: u32,
    target: Target,
    arena: u64,
    depth: u32,
    in_flight: u32,
    queues: u8,
}

impl Opened {
    fn check(&self, options: &OpenOptions, fds: usize) -> Result<BlockInfo, String> {
        let Self { target, depth, in_flight, queues, .. } = self;
        if *queues == 0 || *queues > options.queues {
            return Err(format!("{queues} queues instead of {}", options.queues));
        }
        if fds != 1 + 2 * usize::from(*queues) {
            return Err(format!("{fds} file descriptors for {queues} queues"));
        }
        if !depth.is_power_of_two() || *depth > queue::MAX_DEPTH || *in_flight == 0 {
            return Err(format!("queues of {depth} requests, {in_flight} in all"));
        }
        let Target { block_size, blocks, max_transfer, volatile_write_cache, .. } = *target;
        if !block_size.is_power_of_two() || !(512..=MAX_BLOCK).contains(&block_size) {
            return Err(format!("blocks of {block_size} bytes"));
        }
        if blocks.checked_mul(block_size.into()).is_none() {
            return Err(format!("{blocks} blocks of {block_size} bytes"));
        }
        if max_transfer < block_size {
            return Err(format!("transfers of {max_transfer} bytes, blocks of {block_size}"));
        }
        Ok(BlockInfo { block_size, blocks, max_transfer, volatile_write_cache })
    }
}

impl BlockClient {
    /// What the device is like.
    pub fn info(&self) -> BlockInfo {
        self.capability.info
    }

    /// The name that was opened.
    pub fn name(&self) -> &str {
        &self.capability.name
    }

    /// Requests on their way at once in a queue.
    pub fn depth(&self) -> usize {
        self.depth as usize
    }

    /// The most requests that are carried out at once, over all queues. More are accepted, and
    /// wait.
    pub fn in_flight(&self) -> usize {
        self.in_flight as usize
    }

    /// A zeroed buffer of `len` bytes from the arena. Only such buffers can go out with requests.
    ///
    /// # Errors
    /// When the arena has no room for it.
    pub fn buffer(&self, len: usize) -> Result<DmaBuf, DmaError> {
        self.capability.arena.space.buffer(len)
    }

    /// A queue that was not taken yet, for one thread.
    pub fn take_queue(&self) -> Option<ClientQueue> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Why the right to the device has ended, once it has.
    pub fn closed(&self) -> Option<String> {
        self.capability.closed()
    }
}

impl std::fmt::Debug for BlockClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockClient({})", self.name())
    }
}
