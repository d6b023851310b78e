//! Random work on namespaces of both block sizes, checked against what was written.
//!
//! Each block has a number that its content follows from. Commands on their way never touch
//! each other's blocks, unless both only read, so what each of them finds is known when it is
//! submitted.

use std::fs::File;
use std::os::unix::fs::FileExt;

use storage_poll::{Command, CommandError, Completed, Controller, IoQueue, Namespace, Options};
use uniddrv::DmaBuf;
use uniddrv_spec::nvme::status::Status;

use crate::content::{Random, check_all, fill_all};
use crate::ground::{GROUNDS, Model, PATIENCE};

/// One namespace and what its blocks hold.
struct Store {
    namespace: Namespace,
    /// The number of each block; 0 is zeroes.
    seeds: Vec<u64>,
}

impl Store {
    fn block(&self) -> usize {
        self.namespace.block_size() as usize
    }
}

/// What is to be found at the end of a command.
enum Expect {
    /// These blocks in the buffer.
    Blocks(Vec<u64>),
    Success,
    CompareFailure,
}

/// Blocks that a command touches.
#[derive(Clone, Copy, Debug)]
struct Span {
    lba: u64,
    blocks: u64,
    changes: bool,
}

/// What a command leaves in the blocks from here on.
type Left = (u64, Vec<u64>);

impl Span {
    fn range(&self) -> (u64, u32) {
        (self.lba, self.blocks as u32)
    }

    fn disturbs(&self, other: &Self) -> bool {
        (self.changes || other.changes)
            && self.lba < other.lba + other.blocks
            && other.lba < self.lba + self.blocks
    }
}

struct Request {
    store: usize,
    spans: Vec<Span>,
    expect: Expect,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Zeroes,
    Deallocate,
    Copy,
    Verify,
    CompareEqual,
    CompareDifferent,
    Flush,
}

/// The kinds, as often as they are to come.
const KINDS: [Kind; 20] = {
    use Kind::{
        CompareDifferent, CompareEqual, Copy, Deallocate, Flush, Read, Verify, Write, Zeroes,
    };
    [
        Read,
        Read,
        Read,
        Read,
        Read,
        Read,
        Write,
        Write,
        Write,
        Write,
        Write,
        Write,
        Zeroes,
        Deallocate,
        Copy,
        Verify,
        CompareEqual,
        CompareEqual,
        CompareDifferent,
        Flush,
    ]
};

struct Work<'a> {
    controller: &'a Controller,
    queue: IoQueue,
    stores: Vec<Store>,
    on_their_way: Vec<Option<Request>>,
    random: Random,
    next_seed: u64,
    counts: [u64; Kind::Flush as usize + 1],
}

impl Work<'_> {
    /// The largest size now and then, small ones more often.
    fn len(&mut self, most: u64) -> u64 {
        match self.random.below(8) {
            0 => most,
            1 => 1,
            2..5 => 1 + self.random.below(most.min(16)),
            _ => 1 + self.random.below(most),
        }
    }

    fn place(&mut self, store: usize, len: u64) -> u64 {
        let last = self.stores[store].namespace.blocks() - len;
        match self.random.below(16) {
            0 => 0,
            1 => last,
            _ => self.random.below(last + 1),
        }
    }

    fn seeds(&self, store: usize, lba: u64, len: u64) -> &[u64] {
        &self.stores[store].seeds[lba as usize..(lba + len) as usize]
    }

    fn disturbs(&self, store: usize, spans: &[Span]) -> bool {
        let same = self.on_their_way.iter().flatten().filter(|other| other.store == store);
        let mut others = same.flat_map(|other| &other.spans);
        others.any(|other| spans.iter().any(|span| span.disturbs(other)))
    }

    fn buffer(&self, store: usize, blocks: u64) -> DmaBuf {
        let len = blocks as usize * self.stores[store].block();
        self.controller.device().dma_buffer(len).unwrap()
    }

    fn filled(&self, store: usize, seeds: &[u64]) -> DmaBuf {
        let mut buffer = self.buffer(store, seeds.len() as u64);
        fill_all(seeds, self.stores[store].block(), buffer.as_mut_slice());
        buffer
    }

    /// Submits one random command with the tag `tag`. False where it would disturb others.
    fn submit(&mut self, tag: usize) -> bool {
        let store = self.random.below(self.stores.len() as u64) as usize;
        let namespace = self.stores[store].namespace;
        let kind = KINDS[self.random.below(20) as usize];
        let len = self.len(u64::from(namespace.max_blocks()));
        let lba = self.place(store, len);
        let blocks = len as u32;
        let before = self.seeds(store, lba, len).to_vec();
        let (spans, left): (Vec<Span>, Vec<Left>) = match kind {
            Kind::Write => {
                self.next_seed += len;
                let first = self.next_seed;
                let seeds = (first..first + len).collect();
                (vec![Span { lba, blocks: len, changes: true }], vec![(lba, seeds)])
            }
            Kind::Zeroes => {
                let zeroes = vec![0; len as usize];
                (vec![Span { lba, blocks: len, changes: true }], vec![(lba, zeroes)])
            }
            Kind::Deallocate => self.some_ranges(lba, len),
            Kind::Copy => self.a_copy(store, lba, len),
            _ => (vec![Span { lba, blocks: len, changes: false }], Vec::new()),
        };
        if self.disturbs(store, &spans) {
            return false;
        }
        let (command, buffer, expect): (Command, Option<DmaBuf>, Expect) = match kind {
            Kind::Read => {
                let mut buffer = self.buffer(store, len);
                buffer.as_mut_slice().fill(0xee);
                let read = namespace.read(lba, blocks).unwrap();
                (read, Some(buffer), Expect::Blocks(before))
            }
            Kind::Write => {
                let seeds = &left[0].1;
                let write = namespace.write(lba, blocks, lba.is_multiple_of(2)).unwrap();
                (write, Some(self.filled(store, seeds)), Expect::Blocks(seeds.clone()))
            }
            Kind::Zeroes => {
                let deallocate = lba.is_multiple_of(2);
                let zeroes = namespace.write_zeroes(lba, blocks, deallocate).unwrap();
                (zeroes, None, Expect::Success)
            }
            Kind::Deallocate => {
                let ranges: Vec<_> = spans.iter().map(Span::range).collect();
                let mut buffer = self.controller.device().dma_buffer(4096).unwrap();
                let command = namespace.deallocate(&ranges, &mut buffer).unwrap();
                (command, Some(buffer), Expect::Success)
            }
            Kind::Copy => {
                // The last span is the destination.
                let (to, sources) = spans.split_last().unwrap();
                let ranges: Vec<_> = sources.iter().map(Span::range).collect();
                let mut buffer = self.controller.device().dma_buffer(4096).unwrap();
                let command = namespace.copy(&ranges, to.lba, &mut buffer).unwrap();
                (command, Some(buffer), Expect::Success)
            }
            Kind::Verify => (namespace.verify(lba, blocks).unwrap(), None, Expect::Success),
            Kind::CompareEqual => {
                let compare = namespace.compare(lba, blocks).unwrap();
                (compare, Some(self.filled(store, &before)), Expect::Blocks(before))
            }
            Kind::CompareDifferent => {
                let mut other = before;
                let place = self.random.below(len) as usize;
                other[place] ^= 1 << 50;
                let compare = namespace.compare(lba, blocks).unwrap();
                (compare, Some(self.filled(store, &other)), Expect::CompareFailure)
            }
            Kind::Flush => (namespace.flush(), None, Expect::Success),
        };
        for (lba, seeds) in left {
            self.stores[store].seeds[lba as usize..lba as usize + seeds.len()]
                .copy_from_slice(&seeds);
        }
        self.counts[kind as usize] += 1;
        self.queue.submit(&command, buffer, tag as u64).map_err(|(error, _)| error).unwrap();
        self.on_their_way[tag] = Some(Request { store, spans, expect });
        true
    }

    /// Pieces of `len` blocks at `lba` to deallocate, with holes between them.
    fn some_ranges(&mut self, lba: u64, len: u64) -> (Vec<Span>, Vec<Left>) {
        let (mut spans, mut left) = (Vec::new(), Vec::new());
        let (mut at, end) = (lba, lba + len);
        while at < end && spans.len() < 256 {
            let blocks = (1 + self.random.below(20)).min(end - at);
            spans.push(Span { lba: at, blocks, changes: true });
            left.push((at, vec![0; blocks as usize]));
            at += blocks + self.random.below(5);
        }
        (spans, left)
    }

    /// A few pieces from anywhere, `len` blocks at most, to copy to `lba`: the last span.
    fn a_copy(&mut self, store: usize, lba: u64, len: u64) -> (Vec<Span>, Vec<Left>) {
        let (mut spans, mut seeds) = (Vec::new(), Vec::new());
        for _ in 0..=self.random.below(4) {
            let blocks = (1 + self.random.below(64)).min(len - seeds.len() as u64);
            if blocks == 0 {
                break;
            }
            let from = self.place(store, blocks);
            seeds.extend_from_slice(self.seeds(store, from, blocks));
            spans.push(Span { lba: from, blocks, changes: false });
        }
        spans.push(Span { lba, blocks: seeds.len() as u64, changes: true });
        (spans, vec![(lba, seeds)])
    }

    fn end(&mut self, done: &Completed, index: u64) {
        let request = self.on_their_way[done.tag as usize].take();
        let Request { store, expect, spans } = request.expect("it ends once");
        let what = || {
            format!("request {index}, namespace {}, {spans:?}", self.stores[store].namespace.nsid())
        };
        match expect {
            Expect::Success => assert_eq!(done.result, Ok(0), "{}", what()),
            Expect::Blocks(seeds) => {
                assert_eq!(done.result, Ok(0), "{}", what());
                let buffer = done.buffer.as_ref().expect("its buffer");
                check_all(&seeds, self.stores[store].block(), buffer.as_slice(), &what());
            }
            Expect::CompareFailure => match done.result {
                Err(CommandError::Status(status)) => {
                    assert_eq!(status.code(), Status::COMPARE_FAILURE, "{}", what());
                }
                other => panic!("{}: {other:?}", what()),
            },
        }
    }

    fn run(&mut self, count: u64) {
        let start = std::time::Instant::now();
        let depth = self.on_their_way.len();
        let (mut submitted, mut ended) = (0, 0);
        while ended < count {
            let free: Vec<_> = (0..depth).filter(|&tag| self.on_their_way[tag].is_none()).collect();
            for tag in free {
                submitted += u64::from(submitted < count && self.submit(tag));
            }
            let mut polled = false;
            while let Some(done) = self.queue.poll() {
                self.end(&done, ended);
                ended += 1;
                polled = true;
            }
            if !polled {
                assert!(start.elapsed() < PATIENCE, "{ended} of {count}");
                std::thread::yield_now();
            }
        }
        assert!(self.counts.iter().all(|&count| count > 0), "every kind: {:?}", self.counts);
        assert_eq!(self.queue.unknown_completions(), 0);
    }

    /// Reads all of every namespace.
    fn check_everything(&mut self) {
        for store in 0..self.stores.len() {
            let namespace = self.stores[store].namespace;
            let step = u64::from(namespace.max_blocks());
            for lba in (0..namespace.blocks()).step_by(step as usize) {
                let len = step.min(namespace.blocks() - lba);
                let read = namespace.read(lba, len as u32).unwrap();
                let buffer = self.buffer(store, len);
                let (result, buffer) = crate::ground::execute(&mut self.queue, &read, Some(buffer));
                assert_eq!(result, Ok(0));
                let what = format!("namespace {} from {lba}", namespace.nsid());
                let seeds = self.seeds(store, lba, len);
                check_all(seeds, self.stores[store].block(), buffer.unwrap().as_slice(), &what);
            }
        }
    }
}

fn work(controller: &Controller, stores: Vec<Store>, depth: usize, seed: u64) -> Work<'_> {
    Work {
        controller,
        queue: controller.io_queue(depth).unwrap(),
        stores,
        on_their_way: (0..depth).map(|_| None).collect(),
        random: Random::new(seed),
        next_seed: seed << 40,
        counts: [0; Kind::Flush as usize + 1],
    }
}

fn empty(controller: &Controller) -> Vec<Store> {
    let store =
        |&namespace: &Namespace| Store { namespace, seeds: vec![0; namespace.blocks() as usize] };
    controller.namespaces().iter().map(store).collect()
}

#[test]
fn random_work_in_memory() {
    for (ground, seed) in GROUNDS.into_iter().zip(1..) {
        let parameters = "namespaces=512:2M,4096:6M,4096:1M,512:300k&mdts=64k&shadow-doorbells=on";
        let model = Model::start(ground, parameters);
        for (sgl, depth) in [(true, 32), (false, 7)] {
            let controller = model.attach(Options { sgl, ..Options::default() });
            // What the last round has left stays: start from zeroes.
            let mut stores = empty(&controller);
            let mut queue = controller.io_queue(1).unwrap();
            for store in &mut stores {
                let blocks = store.namespace.blocks() as u32;
                let zeroes = store.namespace.write_zeroes(0, blocks, false).unwrap();
                assert_eq!(crate::ground::execute(&mut queue, &zeroes, None).0, Ok(0));
            }
            let mut work = work(&controller, stores, depth, seed);
            work.run(3000);
            work.check_everything();
        }
    }
}

/// Over several sessions with the same file, whose bytes are checked at the end.
#[test]
fn random_work_on_a_file() {
    for ground in GROUNDS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blocks");
        let parameters =
            format!("namespaces=512:1M,4096:5M&mdts=128k&backing=file:{}", path.display());
        let mut seeds: Option<Vec<Vec<u64>>> = None;
        for (session, shadow) in ["off", "on"].into_iter().enumerate() {
            let model = Model::start(ground, &format!("{parameters}&shadow-doorbells={shadow}"));
            let controller = model.attach(Options::default());
            let mut stores = empty(&controller);
            for (store, seeds) in stores.iter_mut().zip(seeds.take().unwrap_or_default()) {
                store.seeds = seeds;
            }
            let mut work = work(&controller, stores, 16, 10 + session as u64);
            work.check_everything();
            work.run(1000);
            work.check_everything();
            seeds = Some(work.stores.iter().map(|store| store.seeds.clone()).collect());
            drop(work);
            drop(controller);
            model.finish();
        }
        let file = File::open(&path).unwrap();
        let mut at = 0;
        for (block, seeds) in [512, 4096].into_iter().zip(seeds.unwrap()) {
            let mut bytes = vec![0; seeds.len() * block];
            file.read_exact_at(&mut bytes, at).unwrap();
            check_all(&seeds, block, &bytes, "the file");
            at += bytes.len() as u64;
        }
    }
}

/// Several threads, each with its own queue and its own namespace.
#[test]
fn random_work_of_several_threads() {
    for ground in GROUNDS {
        let model = Model::start(ground, "namespaces=512:1M,4096:2M,512:2M&mdts=32k");
        let controller = &model.attach(Options::default());
        std::thread::scope(|scope| {
            for (store, seed) in empty(controller).into_iter().zip(20..) {
                scope.spawn(move || {
                    let mut work = work(controller, vec![store], 12, seed);
                    work.run(1200);
                    work.check_everything();
                });
            }
        });
    }
}
