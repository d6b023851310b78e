//! Reads and writes at random, each of them checked: nothing lost, nothing twice, no byte wrong.

use std::collections::HashMap;
use std::time::Instant;

use uniddrv::DmaBuf;
use uniddrv::block::{BlockError, BlockQueue, Completion, Operation, Request, SubmitError};
use uniddrv::client::{self, BlockClient, ClientQueue, OpenOptions};

use super::PATIENCE;

/// Bytes of a request, and of what it is for.
const UNIT: usize = 4096;
const DEPTH: usize = 32;

/// A client that knows what has to be on its drive.
pub(super) struct Load {
    queue: ClientQueue,
    client: BlockClient,
    /// Which version of each unit is there.
    versions: Vec<u64>,
    /// Units that no request is on its way for.
    idle: Vec<usize>,
    /// The unit that is on its way with each tag, and the version that it is to have then.
    underway: HashMap<u64, (usize, Option<u64>)>,
    buffers: Vec<DmaBuf>,
    next: u64,
    random: u64,
    /// What makes its data differ from others'.
    salt: u64,
    /// Requests that ended well, and those that ended since the device was gone.
    pub(super) ended: u64,
    pub(super) gone: u64,
}

impl Load {
    /// Opens `name` and writes the first version of all `units`.
    pub(super) fn new(core: &client::Core, name: &str, units: usize, salt: u64) -> Self {
        let options = OpenOptions { depth: DEPTH as u32, arena: 1 << 20, ..OpenOptions::default() };
        let client = core.open(name, &options).unwrap();
        let queue = client.take_queue().unwrap();
        let buffers = (0..DEPTH).map(|_| client.buffer(UNIT).unwrap()).collect();
        let mut load = Self {
            queue,
            client,
            versions: vec![0; units],
            idle: Vec::new(),
            underway: HashMap::new(),
            buffers,
            next: 0,
            random: 0x9e37_79b9_7f4a_7c15 ^ salt,
            salt,
            ended: 0,
            gone: 0,
        };
        for unit in 0..units {
            load.submit(unit, Some(1));
            load.poll();
        }
        load.drain();
        load
    }

    /// What has to be on the drive.
    pub(super) fn expected(&self) -> Vec<u8> {
        (0..).zip(&self.versions).flat_map(|(unit, &version)| self.content(unit, version)).collect()
    }

    fn content(&self, unit: usize, version: u64) -> Vec<u8> {
        let seed =
            (unit as u64 ^ version << 20 ^ self.salt << 48).wrapping_mul(0xd129_1e37_48cb_2d95);
        (0..UNIT as u64 / 8).flat_map(|word| (seed.wrapping_add(word)).to_le_bytes()).collect()
    }

    fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random as usize % below
    }

    fn submit(&mut self, unit: usize, version: Option<u64>) {
        while self.buffers.is_empty() {
            self.poll();
        }
        let mut buffer = self.buffers.pop().unwrap();
        let lba = (unit * UNIT) as u64 / u64::from(self.client.info().block_size);
        let operation = if let Some(version) = version {
            buffer.as_mut_slice().copy_from_slice(&self.content(unit, version));
            Operation::Write { lba, fua: false }
        } else {
            // What a read does not fill is not to look right.
            buffer.as_mut_slice().fill(0xee);
            Operation::Read { lba }
        };
        let tag = self.next;
        self.next += 1;
        match self.queue.submit(Request { operation, buffer: Some(buffer), tag }) {
            Ok(()) => {
                self.underway.insert(tag, (unit, version));
            }
            Err((SubmitError::Gone, request)) => {
                self.buffers.extend(request.buffer);
                self.gone += 1;
            }
            Err((error, _)) => panic!("not accepted: {error}"),
        }
    }

    /// Takes what has ended; waits where nothing has.
    fn poll(&mut self) {
        let mut ended = Vec::new();
        if self.queue.poll(|completion| ended.push(completion)) == 0 && !self.underway.is_empty() {
            // The core's end also wakes it.
            let _ = self.queue.wait(PATIENCE);
        }
        for completion in ended {
            self.take(completion);
        }
    }

    fn take(&mut self, completion: Completion) {
        let Completion { tag, result, buffer } = completion;
        let (unit, version) =
            self.underway.remove(&tag).expect("each request ends once, and only those that began");
        let buffer = buffer.expect("its buffer comes back");
        match result {
            Ok(()) => {
                self.ended += 1;
                if let Some(version) = version {
                    self.versions[unit] = version;
                } else {
                    let found = buffer.as_slice();
                    assert!(
                        found == self.content(unit, self.versions[unit]),
                        "{}",
                        self.what_is(unit, found)
                    );
                }
            }
            Err(BlockError::Gone) => self.gone += 1,
            Err(error) => panic!("unit {unit}: {error}"),
        }
        self.buffers.push(buffer);
        self.idle.push(unit);
    }

    /// What a unit holds that does not hold what it should.
    fn what_is(&self, unit: usize, found: &[u8]) -> String {
        let version = self.versions[unit];
        let is = |&(unit, version): &(usize, u64)| found == self.content(unit, version);
        let known = (0..self.versions.len())
            .flat_map(|unit| (1..=self.versions[unit] + 1).map(move |version| (unit, version)))
            .find(is);
        let right = self.content(unit, version);
        let first = (0..found.len()).find(|&at| found[at] != right[at]);
        format!(
            "unit {unit} should have version {version}, is {known:?}, differs from byte {first:?} on: {:x?}",
            &found[..16]
        )
    }

    /// One more request, as soon as there is room.
    pub(super) fn step(&mut self) {
        let place = self.random(self.idle.len());
        let unit = self.idle.swap_remove(place);
        let version = (self.random(2) == 0).then(|| self.versions[unit] + 1);
        self.submit(unit, version);
        self.poll_once();
    }

    fn poll_once(&mut self) {
        let mut ended = Vec::new();
        self.queue.poll(|completion| ended.push(completion));
        for completion in ended {
            self.take(completion);
        }
    }

    /// Waits until all that is on its way has ended.
    pub(super) fn drain(&mut self) {
        let begin = Instant::now();
        while !self.underway.is_empty() {
            self.poll();
            assert!(begin.elapsed() < PATIENCE, "{} requests do not end", self.underway.len());
        }
        assert_eq!(self.queue.in_flight(), 0);
        assert_eq!(self.queue.unknown_completions(), 0, "completions for nobody");
    }

    /// Goes on until the device is taken away: how many requests were not carried out for that.
    pub(super) fn end(mut self) -> u64 {
        let begin = Instant::now();
        while self.gone == 0 {
            self.step();
            assert!(begin.elapsed() < PATIENCE, "it is not taken away");
        }
        self.drain();
        self.gone
    }

    /// Reads and checks each unit.
    pub(super) fn verify(&mut self) {
        self.drain();
        // Each comes back as its request ends.
        self.idle.clear();
        for unit in 0..self.versions.len() {
            self.submit(unit, None);
        }
        self.drain();
    }
}
