//! Work under faults: tagged requests, each of which ends exactly once, with data that is right
//! where a request succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use storage_poll::{Command, CommandError, Completed, Controller, IoQueue, Namespace};
use uniddrv::DmaBuf;
use uniddrv::block::SubmitError;

use crate::content::{Random, check, fill_all};
use crate::ground::{Model, PATIENCE};

/// How requests ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdicts {
    pub(crate) ok: u64,
    pub(crate) status: u64,
    pub(crate) aborted: u64,
    pub(crate) reset: u64,
    pub(crate) gone: u64,
    /// Were never accepted: the controller was gone by then.
    pub(crate) refused: u64,
}

impl Verdicts {
    pub(crate) fn total(&self) -> u64 {
        self.ok + self.status + self.aborted + self.reset + self.gone + self.refused
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.status += other.status;
        self.aborted += other.aborted;
        self.reset += other.reset;
        self.gone += other.gone;
        self.refused += other.refused;
    }
}

/// A piece of the namespace on which there is one request at a time.
struct Region {
    /// What its blocks may hold: one pattern, or several where the fate of a write is unknown.
    may_hold: BTreeSet<u64>,
    busy: bool,
}

enum Kind {
    Read,
    Write(u64),
    Zeroes,
    Flush,
}

struct Request {
    kind: Kind,
    region: usize,
}

/// One queue with its part of a namespace.
pub(crate) struct Work<'a> {
    controller: &'a Controller,
    queue: IoQueue,
    namespace: Namespace,
    first: u64,
    regions: Vec<Region>,
    free: Vec<DmaBuf>,
    /// Where the buffers lie, all of them.
    buffers: BTreeSet<u64>,
    random: Random,
    next_tag: u64,
    on_their_way: BTreeMap<u64, Request>,
    pub(crate) verdicts: Verdicts,
}

/// Blocks of a region.
const BLOCKS: u32 = 3;

impl<'a> Work<'a> {
    /// On the part `part` of the first namespace, `depth` requests at once.
    pub(crate) fn new(controller: &'a Controller, part: u64, depth: usize, seed: u64) -> Self {
        let namespace = controller.namespaces()[0];
        let queue = controller.io_queue(depth).unwrap();
        let regions = 2 * depth;
        let len = BLOCKS as usize * namespace.block_size() as usize;
        let free: Vec<_> =
            (0..depth).map(|_| controller.device().dma_buffer(len).unwrap()).collect();
        let first = part * regions as u64 * u64::from(BLOCKS);
        assert!(first + regions as u64 * u64::from(BLOCKS) <= namespace.blocks());
        let region = || Region { may_hold: BTreeSet::from([0]), busy: false };
        Self {
            controller,
            queue,
            namespace,
            first,
            regions: (0..regions).map(|_| region()).collect(),
            buffers: free.iter().map(DmaBuf::iova).collect(),
            free,
            random: Random::new(seed),
            next_tag: seed << 32,
            on_their_way: BTreeMap::new(),
            verdicts: Verdicts::default(),
        }
    }

    pub(crate) fn queue(&self) -> &IoQueue {
        &self.queue
    }

    /// Carries out `count` requests. Each has a verdict at the end, all buffers are back.
    pub(crate) fn run(&mut self, model: &Model, count: u64) {
        let end = self.verdicts.total() + count;
        let start = Instant::now();
        let mut rounds = 0u32;
        while self.verdicts.total() < end {
            while self.verdicts.total() + (self.on_their_way.len() as u64) < end && self.submit() {}
            match self.queue.poll() {
                Some(done) => self.end(done),
                None => model.poll(),
            }
            rounds += 1;
            if rounds.is_multiple_of(256) {
                let left = &self.on_their_way.keys();
                assert!(start.elapsed() < PATIENCE, "no verdict: {left:?}, {:?}", self.verdicts);
                std::thread::yield_now();
            }
        }
        assert!(self.on_their_way.is_empty() && self.queue.in_flight() == 0);
        let back: BTreeSet<_> = self.free.iter().map(DmaBuf::iova).collect();
        assert_eq!(back, self.buffers, "all buffers came back");
        assert_eq!(self.free.len(), self.buffers.len(), "none came twice");
    }

    /// Submits a request, if there is room for one.
    fn submit(&mut self) -> bool {
        let region = self.random.below(self.regions.len() as u64) as usize;
        if self.regions[region].busy {
            return false;
        }
        let kind = match self.random.below(16) {
            0 => Kind::Flush,
            1 => Kind::Zeroes,
            2..9 => Kind::Write(self.next_tag << 2 | 3),
            _ => Kind::Read,
        };
        self.submit_this(kind, region)
    }

    fn submit_this(&mut self, kind: Kind, region: usize) -> bool {
        let lba = self.first + region as u64 * u64::from(BLOCKS);
        let namespace = &self.namespace;
        let command: Command = match kind {
            Kind::Read => namespace.read(lba, BLOCKS).unwrap(),
            Kind::Write(_) => namespace.write(lba, BLOCKS, false).unwrap(),
            Kind::Zeroes => namespace.write_zeroes(lba, BLOCKS, false).unwrap(),
            Kind::Flush => namespace.flush(),
        };
        let mut buffer = None;
        if matches!(kind, Kind::Read | Kind::Write(_)) {
            buffer = self.free.pop();
            let Some(buffer) = &mut buffer else { return false };
            match kind {
                Kind::Write(seed) => {
                    let block = namespace.block_size() as usize;
                    fill_all(&[seed; BLOCKS as usize], block, buffer.as_mut_slice());
                }
                _ => buffer.as_mut_slice().fill(0xee),
            }
        }
        match self.queue.submit(&command, buffer, self.next_tag) {
            Ok(()) => {
                self.regions[region].busy = true;
                self.on_their_way.insert(self.next_tag, Request { kind, region });
                self.next_tag += 1;
                true
            }
            Err((error, buffer)) => {
                self.free.extend(buffer);
                match error {
                    SubmitError::Full | SubmitError::NotReady => {}
                    SubmitError::Gone => {
                        assert!(!self.controller.is_running());
                        self.verdicts.refused += 1;
                    }
                    other => panic!("{other}"),
                }
                false
            }
        }
    }

    fn end(&mut self, done: Completed) {
        let tag = done.tag;
        let request = self.on_their_way.remove(&tag);
        let Request { kind, region } = request.unwrap_or_else(|| panic!("{tag:#x} ended twice"));
        let region = &mut self.regions[region];
        region.busy = false;
        let verdicts = &mut self.verdicts;
        // Whether the command may have been carried out all the same.
        let unknown = match done.result {
            Ok(_) => {
                verdicts.ok += 1;
                false
            }
            Err(CommandError::Status(_)) => {
                verdicts.status += 1;
                false
            }
            Err(CommandError::Aborted) => {
                verdicts.aborted += 1;
                true
            }
            Err(CommandError::Reset) => {
                verdicts.reset += 1;
                true
            }
            Err(CommandError::Gone) => {
                verdicts.gone += 1;
                true
            }
        };
        let ok = done.result.is_ok();
        match kind {
            Kind::Read if ok => {
                let buffer = done.buffer.as_ref().expect("the buffer of a read");
                let block = self.namespace.block_size() as usize;
                let holds = |seed: &u64| {
                    buffer.as_slice().chunks_exact(block).all(|block| check(*seed, block).is_ok())
                };
                let found = region.may_hold.iter().copied().find(holds);
                let found = found.unwrap_or_else(|| {
                    let first = check(0, &buffer.as_slice()[..block]);
                    panic!("read {tag:#x}: none of {:x?}: {first:?}", region.may_hold)
                });
                region.may_hold = BTreeSet::from([found]);
            }
            Kind::Write(seed) if ok => region.may_hold = BTreeSet::from([seed]),
            Kind::Zeroes if ok => region.may_hold = BTreeSet::from([0]),
            Kind::Write(seed) if unknown => {
                region.may_hold.insert(seed);
            }
            Kind::Zeroes if unknown => {
                region.may_hold.insert(0);
            }
            _ => {}
        }
        assert_eq!(done.buffer.is_some(), matches!(kind, Kind::Read | Kind::Write(_)));
        self.free.extend(done.buffer);
    }

    /// The queue works: reads every region until that succeeds, and checks it.
    pub(crate) fn works_again(&mut self, model: &Model) {
        let start = Instant::now();
        for region in 0..self.regions.len() {
            let ok = self.verdicts.ok;
            while self.verdicts.ok == ok {
                assert!(start.elapsed() < PATIENCE, "{:?}", self.verdicts);
                if !self.submit_this(Kind::Read, region) {
                    assert!(self.queue.poll().is_none());
                    std::thread::yield_now();
                    continue;
                }
                let done = model.next(&mut self.queue);
                self.end(done);
            }
        }
    }
}
