//! A client that asks for all kinds of things and remembers what.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

use uniddrv_abi::block::{Completion, Opcode, Outcome, Submission};
use uniddrv_abi::message::{self, Limits, Rights};
use uniddrv_abi::queue::{self, Reaper, Submitter};

use super::device::{Hardware, OPCODES};
use crate::control::pair;
use crate::shared::{self, SharedWords};

pub(super) const BLOCKS: u64 = 1 << 40;
pub(super) const ARENA: u64 = 1 << 20;
pub(super) const MAX_TRANSFER: u32 = 128 << 10;

/// One of a client's queues.
pub(super) struct Queue {
    pub(super) words: SharedWords,
    driver_end: OwnedFd,
    _client_end: OwnedFd,
    depth: u32,
    pub(super) submitter: Submitter<SharedWords>,
    pub(super) reaper: Reaper<SharedWords>,
    epoch: u32,
    /// What has no room in the ring.
    backlog: VecDeque<[u64; 4]>,
    /// What is on its way, by tag: what was asked, and how it is to end.
    pub(super) waiting: BTreeMap<u64, ([u64; 4], Outcome)>,
}

pub(super) struct Client {
    pub(super) message: message::Client,
    pub(super) queues: Vec<Queue>,
    next: u64,
    pub(super) ended: u64,
    pub(super) outcomes: BTreeMap<u32, u64>,
    /// Requests may be given to the device more than once, and be failed as poison.
    pub(super) poison: Option<u64>,
}

impl Client {
    pub(super) fn new(number: u32, queues: &[u8], depth: u32) -> Self {
        let message = message::Client {
            client: number,
            target: 7,
            rights: Rights::Write,
            arena_iova: u64::from(number) << 32,
            arena_len: ARENA,
            depth,
            queues: queues.to_vec(),
            limits: Limits::default(),
            new: true,
        };
        let queues = queues.iter().map(|_| Queue::new(depth)).collect();
        Self { message, queues, next: 0, ended: 0, outcomes: BTreeMap::new(), poison: None }
    }

    /// What a driver process is sent.
    pub(super) fn handles(&self) -> Vec<(SharedWords, OwnedFd)> {
        self.queues
            .iter()
            .map(|queue| (queue.words.clone(), queue.driver_end.try_clone().unwrap()))
            .collect()
    }

    pub(super) fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiting.len()).sum()
    }

    /// The first block that no other request of any client has.
    pub(super) fn lba(&self, tag: u64) -> u64 {
        u64::from(self.message.client) << 24 | tag << 1
    }

    /// Asks for one more thing in queue `index`, of a kind that `choice` says. Whether there was
    /// room.
    pub(super) fn submit(&mut self, index: usize, choice: u8) -> bool {
        let tag = self.next;
        let mut request = Submission {
            opcode: OPCODES[usize::from(choice) % OPCODES.len()],
            fua: choice & 32 != 0,
            blocks: 1 + u32::from(choice % 8),
            lba: self.lba(tag),
            offset: u64::from(choice % 16) * 4096,
            tag,
        };
        let mut expected =
            if Hardware::fails(request.lba) { Outcome::Device(0x281) } else { Outcome::Success };
        let denied = self.message.rights == Rights::Read && request.opcode.writes();
        let flush = request.opcode == Opcode::Flush;
        match choice {
            240 if !flush => {
                request.blocks = 0;
                expected = Outcome::Invalid;
            }
            241 if !flush => {
                request.lba = BLOCKS;
                expected = Outcome::OutOfRange;
            }
            242 if !flush => {
                request.lba = u64::MAX;
                expected = Outcome::OutOfRange;
            }
            243 if request.opcode.has_data() => {
                request.offset += 512;
                expected = Outcome::Invalid;
            }
            244 if request.opcode.has_data() => {
                request.offset = ARENA;
                expected = Outcome::Invalid;
            }
            245 if request.opcode.has_data() => {
                request.offset = u64::MAX - 4095;
                expected = Outcome::Invalid;
            }
            246 if request.opcode.has_data() => {
                request.blocks = MAX_TRANSFER / 512 + 1;
                expected = Outcome::Invalid;
            }
            _ => {}
        }
        let mut words = request.to_words();
        if denied {
            expected = Outcome::Denied;
        }
        if choice == 255 {
            words[0] |= 0xff;
            expected = Outcome::Invalid;
        }
        if self.poison == Some(tag) {
            expected = Outcome::Poisoned;
        }
        let queue = &mut self.queues[index];
        if !queue.backlog.is_empty() || queue.submitter.room(1).unwrap() == 0 {
            return false;
        }
        queue.submitter.push(words);
        queue.submitter.publish();
        queue.waiting.insert(tag, (words, expected));
        self.next += 1;
        true
    }

    /// Takes completions, up to `most` from each queue.
    pub(super) fn reap(&mut self, most: usize) {
        for queue in &mut self.queues {
            for _ in 0..most {
                if queue.reaper.available().unwrap() == 0 {
                    break;
                }
                let Completion { tag, outcome } =
                    Completion::from_words(queue.reaper.pop().unwrap());
                queue.reaper.publish();
                let (_, expected) =
                    queue.waiting.remove(&tag).expect("completed twice, or never asked");
                assert_eq!(outcome, expected, "tag {tag}");
                *self.outcomes.entry(outcome.to_bits()).or_default() += 1;
                self.ended += 1;
            }
            queue.submit_backlog();
        }
    }

    /// Follows the driver where it started over, and asks again for what has not ended.
    pub(super) fn follow(&mut self) {
        for queue in &mut self.queues {
            let epoch = queue::epoch(&queue.words);
            if epoch == queue.epoch {
                continue;
            }
            queue::follow(&queue.words, epoch);
            queue.epoch = epoch;
            queue.submitter =
                Submitter::new(queue.words.clone(), queue::submission(queue.depth), 0);
            queue.reaper = Reaper::new(queue.words.clone(), queue::completion(queue.depth), 0);
            queue.backlog = queue.waiting.values().map(|(words, _)| *words).collect();
            queue.submit_backlog();
        }
    }
}

impl Queue {
    fn submit_backlog(&mut self) {
        while !self.backlog.is_empty() && self.submitter.room(1).unwrap() > 0 {
            self.submitter.push(self.backlog.pop_front().unwrap());
        }
        self.submitter.publish();
    }

    /// Whether all positions of the submission ring were given back.
    pub(super) fn is_empty(&mut self) -> bool {
        self.submitter.room(self.depth) == Ok(self.depth)
    }

    fn new(depth: u32) -> Self {
        let bytes = queue::words_for(depth) * 8;
        let fd = shared::create("queue", bytes).unwrap();
        let words = SharedWords::map(fd.as_fd(), bytes).unwrap();
        let (driver_end, client_end) = pair().unwrap();
        Self {
            submitter: Submitter::new(words.clone(), queue::submission(depth), 0),
            reaper: Reaper::new(words.clone(), queue::completion(depth), 0),
            words,
            driver_end,
            _client_end: client_end,
            depth,
            epoch: 0,
            backlog: VecDeque::new(),
            waiting: BTreeMap::new(),
        }
    }
}
