//! A client that behaves, and notices whatever others do to it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use uniddrv::DmaBuf;
use uniddrv::block::{BlockQueue, Completion, Operation, Request};
use uniddrv::client::{BlockClient, ClientQueue, Core, OpenOptions};

use crate::wait::{PATIENCE, until};

/// Bytes of a request.
const PIECE: usize = 4096;
/// Requests on their way at once.
const DEPTH: u32 = 16;
/// Blocks of a request.
const BLOCKS: u64 = PIECE as u64 / 512;

/// A client with verified requests on their way all the time.
pub struct Bystander {
    thread: Option<JoinHandle<()>>,
    ended: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Bystander {
    /// Opens `name` at the core behind `socket`.
    pub fn new(socket: &Path, name: &str) -> Self {
        let core = Core::connect_to(socket).unwrap();
        let options = OpenOptions { depth: DEPTH, yield_when_idle: true, ..OpenOptions::default() };
        let client = core.open(name, &options).unwrap();
        let (ended, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut work = Work::new(&client, ended.clone());
        let until = stop.clone();
        let thread = thread::spawn(move || {
            // Both live as long as the queue is used.
            let _held = (core, client);
            work.run(&until);
        });
        Self { thread: Some(thread), ended, stop }
    }

    /// Requests that have ended.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Waits until `count` more requests have ended: it is not starved.
    pub fn goes_on(&self, count: u64) {
        let wanted = self.ended() + count;
        until("the bystander is starved", || {
            let alive = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
            assert!(alive, "the bystander has failed");
            (self.ended() >= wanted).then_some(())
        });
    }

    /// Ends it: every request has ended well.
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "the bystander was disturbed");
        }
        self.ended()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Work {
    queue: ClientQueue,
    buffers: Vec<DmaBuf>,
    /// Places that are written and read.
    places: u64,
    /// What was written to each place last; 0: nothing.
    written: Vec<u64>,
    /// Requests on their way, by tag: the place, and whether it is a write.
    flying: Vec<Option<(u64, bool)>>,
    count: u64,
    ended: Arc<AtomicU64>,
}

impl Work {
    fn new(client: &BlockClient, ended: Arc<AtomicU64>) -> Self {
        let places = client.info().bytes() / PIECE as u64;
        let buffers = (0..DEPTH).map(|_| client.buffer(PIECE).unwrap()).collect();
        Self {
            queue: client.take_queue().unwrap(),
            buffers,
            written: vec![0; places as usize],
            places,
            flying: vec![None; DEPTH as usize],
            count: 0,
            ended,
        }
    }

    fn run(&mut self, stop: &AtomicBool) {
        let mut last = Instant::now();
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            if !stopping {
                self.fill();
            } else if self.flying.iter().all(Option::is_none) {
                return;
            }
            let mut done = Vec::new();
            if self.queue.poll(|completion| done.push(completion)) == 0 {
                assert!(last.elapsed() < PATIENCE, "nothing completes");
                self.queue.wait(Duration::from_millis(10)).unwrap();
                continue;
            }
            last = Instant::now();
            for completion in done {
                self.check(completion);
            }
        }
    }

    fn fill(&mut self) {
        while let Some(mut buffer) = self.buffers.pop() {
            let Some(tag) = self.flying.iter().position(Option::is_none) else {
                self.buffers.push(buffer);
                return;
            };
            self.count += 1;
            // A third are writes; no place has two requests at once.
            let mut place = self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.places;
            while self.flying.iter().flatten().any(|&(other, _)| other == place) {
                place = (place + 1) % self.places;
            }
            let write = self.count.is_multiple_of(3);
            let lba = place * BLOCKS;
            let operation = if write {
                self.written[place as usize] = self.count;
                fill(&mut buffer, self.count, place);
                Operation::Write { lba, fua: false }
            } else {
                buffer.as_mut_slice().fill(0xee);
                Operation::Read { lba }
            };
            let request = Request { operation, buffer: Some(buffer), tag: tag as u64 };
            self.queue.submit(request).map_err(|(error, _)| error).unwrap();
            self.flying[tag] = Some((place, write));
        }
    }

    fn check(&mut self, completion: Completion) {
        let Completion { tag, result, buffer } = completion;
        let (place, write) = self.flying[tag as usize].take().expect("it ended twice");
        assert_eq!(result, Ok(()), "a request at place {place}, write {write}");
        let buffer = buffer.unwrap();
        if !write {
            let count = self.written[place as usize];
            let right = pattern(count, place);
            let wrong = buffer.as_slice().chunks(8).position(|word| word != right.to_le_bytes());
            assert_eq!(wrong, None, "wrong bytes at place {place}");
        }
        self.buffers.push(buffer);
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

fn pattern(count: u64, place: u64) -> u64 {
    if count == 0 { 0 } else { count << 24 | place }
}

fn fill(buffer: &mut DmaBuf, count: u64, place: u64) {
    let word = pattern(count, place).to_le_bytes();
    buffer.as_mut_slice().chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&word));
}
