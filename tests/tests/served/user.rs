//! A client that knows what every block must hold, and that each request ends exactly once.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use uniddrv::DmaBuf;
use uniddrv::block::{BlockError, BlockQueue, Operation, Request, SubmitError};
use uniddrv::client::{BlockClient, ClientQueue};

use crate::ground::PATIENCE;

pub(crate) const BLOCK: usize = 512;
/// Blocks of the largest requests, of which there are few.
const LARGE: u64 = 64;

/// What a request was, until it ends.
struct Pending {
    operation: Operation,
    blocks: Range<u64>,
    version: u64,
}

/// Mixed requests to a part of the device that nobody else uses.
pub(crate) struct User {
    pub(crate) queue: ClientQueue,
    /// None once only the queue is left.
    client: Option<BlockClient>,
    first: u64,
    /// What each block was last written with; 0: zeroes. Nothing: not known since a failure.
    blocks: Vec<Option<u64>>,
    pending: HashMap<u64, Pending>,
    buffers: HashMap<usize, Vec<DmaBuf>>,
    next_tag: u64,
    version: u64,
    depth: usize,
    seed: u64,
    ended: u64,
    /// Requests that may fail, and how many did, by how.
    pub(crate) lenient: bool,
    pub(crate) errors: BTreeMap<String, u64>,
    /// The longest time without a completion, while some were awaited.
    pub(crate) gap: Duration,
    last: Instant,
    refused: bool,
}

impl User {
    /// One with `depth` requests on their way, of the `count` blocks from `first` on, all zero.
    pub(crate) fn new(client: BlockClient, depth: usize, first: u64, count: usize) -> Self {
        let queue = client.take_queue().unwrap();
        let mut user = Self::over(queue, depth, first, count);
        user.client = Some(client);
        user
    }

    /// As [`new`](Self::new), over a queue of a client that somebody else keeps.
    pub(crate) fn over(queue: ClientQueue, depth: usize, first: u64, count: usize) -> Self {
        Self {
            queue,
            client: None,
            first,
            blocks: vec![Some(0); count],
            pending: HashMap::new(),
            buffers: HashMap::new(),
            next_tag: 1,
            version: 0,
            depth,
            seed: 0x9e37_79b9_7f4a_7c15 ^ first,
            ended: 0,
            lenient: false,
            errors: BTreeMap::new(),
            gap: Duration::ZERO,
            last: Instant::now(),
            refused: false,
        }
    }

    /// Goes on with another client of the same blocks, where the old one ended.
    pub(crate) fn reopen(&mut self, client: BlockClient) {
        assert!(self.pending.is_empty());
        self.buffers.clear();
        self.queue = client.take_queue().unwrap();
        self.client = Some(client);
        self.refused = false;
        self.last = Instant::now();
    }

    pub(crate) fn ended(&self) -> u64 {
        self.ended
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Whether nothing is taken any more.
    pub(crate) fn refused(&self) -> bool {
        self.refused
    }

    pub(crate) fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    /// Submits until as many are on their way as may be, or `limit` were.
    pub(crate) fn submit(&mut self, limit: u64) {
        while !self.refused
            && self.pending.len() < self.depth
            && self.ended + (self.pending.len() as u64) < limit
        {
            let count = if self.random(32) == 0 { LARGE } else { 1 + self.random(8) };
            let start = self.first + self.random(self.blocks.len() as u64 - count);
            let blocks = start..start + count;
            let overlaps =
                |one: &Pending| one.blocks.start < blocks.end && blocks.start < one.blocks.end;
            if self.pending.values().any(overlaps) {
                continue;
            }
            let operation = match self.random(100) {
                0..45 => Operation::Read { lba: start },
                45..90 => Operation::Write { lba: start, fua: self.random(4) == 0 },
                90..94 => Operation::WriteZeroes { lba: start, blocks: count as u32 },
                94..96 => Operation::Discard { lba: start, blocks: count as u32 },
                _ => Operation::Flush,
            };
            if !self.send(operation, blocks) {
                return;
            }
        }
    }

    /// Submits one request. Whether there was room.
    pub(crate) fn send(&mut self, operation: Operation, blocks: Range<u64>) -> bool {
        let len = (blocks.end - blocks.start) as usize * BLOCK;
        let version = self.version + 1;
        let buffer = match operation {
            Operation::Read { .. } | Operation::Write { .. } => {
                let mut buffer = self.buffer(len);
                for (block, lba) in
                    buffer.as_mut_slice().chunks_exact_mut(BLOCK).zip(blocks.clone())
                {
                    let word = match operation {
                        Operation::Write { .. } => word(version, lba),
                        // What no block ever holds.
                        _ => u64::MAX,
                    };
                    block.copy_from_slice(&pattern(word));
                }
                Some(buffer)
            }
            _ => None,
        };
        let tag = self.next_tag;
        match self.queue.submit(Request { operation, buffer, tag }) {
            Ok(()) => {
                let blocks = if operation == Operation::Flush { 0..0 } else { blocks };
                self.pending.insert(tag, Pending { operation, blocks, version });
                (self.next_tag, self.version) = (tag + 1, version);
                true
            }
            Err((error, request)) => {
                self.keep(request.buffer);
                match error {
                    // A successor gives back positions later than it answers.
                    SubmitError::Full | SubmitError::NotReady => {}
                    SubmitError::Gone if self.lenient => self.refused = true,
                    error => panic!("{operation:?}: {error} ({:?})", self.queue.closed()),
                }
                false
            }
        }
    }

    fn buffer(&mut self, len: usize) -> DmaBuf {
        let kept = self.buffers.get_mut(&len).and_then(Vec::pop);
        kept.unwrap_or_else(|| self.queue.buffer(len).unwrap())
    }

    fn keep(&mut self, buffer: Option<DmaBuf>) {
        if let Some(buffer) = buffer {
            self.buffers.entry(buffer.len()).or_default().push(buffer);
        }
    }

    /// Takes completions, and checks what was read.
    pub(crate) fn reap(&mut self) -> usize {
        let mut done = Vec::new();
        let count = self.queue.poll(|completion| done.push(completion));
        assert_eq!(count, done.len());
        assert_eq!(self.queue.unknown_completions(), 0, "completions of nobody");
        if self.pending.is_empty() {
            self.last = Instant::now();
        }
        for completion in done {
            let pending = self.pending.remove(&completion.tag);
            let pending = pending.unwrap_or_else(|| panic!("{completion:?} came twice"));
            self.ended += 1;
            match completion.result {
                Ok(()) => self.succeeded(&pending, completion.buffer.as_ref()),
                Err(error) => self.failed(&pending, error),
            }
            self.keep(completion.buffer);
        }
        if count > 0 {
            self.gap = self.gap.max(self.last.elapsed());
            self.last = Instant::now();
        }
        let on_its_way = self.pending.len();
        assert!(self.last.elapsed() < PATIENCE, "{on_its_way} requests do not end");
        count
    }

    fn succeeded(
        &mut self,
        Pending { operation, blocks, version }: &Pending,
        buffer: Option<&DmaBuf>,
    ) {
        let data = buffer.map(DmaBuf::as_slice).unwrap_or_default();
        for (index, lba) in blocks.clone().enumerate() {
            let known = &mut self.blocks[(lba - self.first) as usize];
            match operation {
                Operation::Write { .. } => *known = Some(word(*version, lba)),
                Operation::WriteZeroes { .. } | Operation::Discard { .. } => *known = Some(0),
                Operation::Flush => {}
                Operation::Read { .. } => {
                    check(lba, &data[index * BLOCK..(index + 1) * BLOCK], *known);
                }
            }
        }
    }

    fn failed(&mut self, Pending { operation, blocks, .. }: &Pending, error: BlockError) {
        assert!(self.lenient, "{operation:?}: {error} ({:?})", self.queue.closed());
        *self.errors.entry(format!("{error:?}")).or_default() += 1;
        if !matches!(operation, Operation::Read { .. } | Operation::Flush) {
            for lba in blocks.clone() {
                self.blocks[(lba - self.first) as usize] = None;
            }
        }
    }

    /// Has `requests` more carried out.
    pub(crate) fn work(&mut self, requests: u64) {
        let limit = self.ended + requests;
        while self.ended < limit && !(self.refused && self.pending.is_empty()) {
            self.submit(limit);
            self.reap();
        }
    }

    /// Keeps the queue full until there is something; its neighbours on their way go on.
    pub(crate) fn work_until<T>(&mut self, mut there: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            for _ in 0..16 {
                self.submit(u64::MAX);
                self.reap();
            }
            if let Some(it) = there(self) {
                return it;
            }
            assert!(Instant::now() < end, "it takes too long ({} ended)", self.ended);
        }
    }

    /// Waits for all that is on its way.
    pub(crate) fn drain(&mut self) {
        while !self.pending.is_empty() {
            self.reap();
        }
    }

    /// Reads every block, and compares it with what it must hold.
    pub(crate) fn verify(&mut self) {
        self.drain();
        let end = self.first + self.blocks.len() as u64;
        for start in (self.first..end).step_by(LARGE as usize) {
            let blocks = start..(start + LARGE).min(end);
            while !self.send(Operation::Read { lba: start }, blocks.clone()) {
                assert!(!self.refused, "nothing is taken any more");
                self.reap();
            }
        }
        self.drain();
    }
}

/// What a block holds from end to end after a write.
const fn word(version: u64, lba: u64) -> u64 {
    version << 24 | lba
}

fn pattern(word: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block.chunks_exact_mut(8).for_each(|eight| eight.copy_from_slice(&word.to_le_bytes()));
    block
}

fn check(lba: u64, data: &[u8], known: Option<u64>) {
    let first = u64::from_le_bytes(data[..8].try_into().unwrap());
    assert!(data == pattern(first), "block {lba} holds parts of two writes");
    if let Some(known) = known {
        let words = |word: u64| (word >> 24, word & 0xff_ffff);
        assert_eq!(words(first), words(known), "block {lba}: version and block");
    }
}
