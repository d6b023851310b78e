//! A client that knows what every block must hold.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use uniddrv::Arena;
use uniddrv::shared::SharedWords;
use uniddrv_abi::block::{Completion, Opcode, Outcome, Submission};
use uniddrv_abi::queue::{self, Reaper, Submitter};

pub(crate) const BLOCK: usize = 512;
const PAGE: usize = 4096;

/// What a request was, until it ends.
struct Pending {
    submission: Submission,
    version: u64,
}

pub(crate) struct Client {
    submitter: Submitter<SharedWords>,
    reaper: Reaper<SharedWords>,
    pending: HashMap<u64, Pending>,
    ended: u64,
    next_tag: u64,
    /// What each block was last written with; 0: zeroes. Nothing: not known since a failure.
    blocks: Vec<Option<u64>>,
    version: u64,
    depth: usize,
    seed: u64,
    data: uniddrv::window::Window,
    _wake: OwnedFd,
}

impl Client {
    pub(crate) fn new(
        words: SharedWords,
        depth: u32,
        arena: &Arc<Arena>,
        blocks: usize,
        wake: OwnedFd,
    ) -> Self {
        // The client's view of its arena, word by word: the device writes it meanwhile.
        let mapping = uniddrv::mapping::Mapping::populated(arena.fd(), 0, arena.len()).unwrap();
        let data = uniddrv::window::Window::mapped(Arc::new(mapping), 0, arena.len()).unwrap();
        Self {
            submitter: Submitter::new(words.clone(), queue::submission(depth), 0),
            reaper: Reaper::new(words, queue::completion(depth), 0),
            pending: HashMap::new(),
            ended: 0,
            next_tag: 1,
            blocks: vec![Some(0); blocks],
            version: 0,
            depth: depth as usize,
            seed: 0x9e37_79b9_7f4a_7c15,
            data,
            _wake: wake,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn ended(&self) -> u64 {
        self.ended
    }

    /// Submits until `limit` requests were, or as many are on their way as may be.
    pub(crate) fn submit(&mut self, limit: u64) {
        while self.pending.len() < self.depth && self.ended + (self.pending.len() as u64) < limit {
            // A page of the arena for each request, by a number that none on its way has.
            let used: Vec<u64> =
                self.pending.values().map(|one| one.submission.offset / PAGE as u64).collect();
            let page = (0..512).find(|page| !used.contains(page)).unwrap();
            let blocks = 1 + self.random(8);
            let lba = self.random(self.blocks.len() as u64 - blocks);
            let overlaps = self.pending.values().any(|one| {
                let other = one.submission;
                lba < other.lba + u64::from(other.blocks) && other.lba < lba + blocks
            });
            if overlaps {
                continue;
            }
            let opcode = match self.random(100) {
                0..45 => Opcode::Read,
                45..90 => Opcode::Write,
                90..94 => Opcode::WriteZeroes,
                94..96 => Opcode::Discard,
                _ => Opcode::Flush,
            };
            self.version += 1;
            let submission = Submission {
                opcode,
                fua: opcode == Opcode::Write && self.random(4) == 0,
                blocks: if opcode == Opcode::Flush { 0 } else { blocks as u32 },
                lba: if opcode == Opcode::Flush { 0 } else { lba },
                offset: page * PAGE as u64,
                tag: self.next_tag,
            };
            self.next_tag += 1;
            for block in 0..blocks {
                let word = match opcode {
                    Opcode::Write => self.version << 20 | (lba + block),
                    _ => u64::MAX,
                };
                let at = submission.offset as usize + block as usize * BLOCK;
                (0..BLOCK).step_by(8).for_each(|byte| self.data.write64(at + byte, word));
            }
            assert!(self.submitter.room(1).unwrap() > 0);
            self.submitter.push(submission.to_words());
            self.pending.insert(submission.tag, Pending { submission, version: self.version });
        }
        self.submitter.publish();
    }

    /// Takes completions, each exactly once, and checks what was read.
    pub(crate) fn reap(&mut self, mut outcome: impl FnMut(Outcome)) {
        while self.reaper.available().unwrap() > 0 {
            let completion = Completion::from_words(self.reaper.pop().unwrap());
            let pending = self.pending.remove(&completion.tag);
            let Pending { submission, version } =
                pending.unwrap_or_else(|| panic!("{completion:?} is of nobody, or came twice"));
            self.ended += 1;
            outcome(completion.outcome);
            let range = submission.lba..submission.lba + u64::from(submission.blocks);
            for (index, lba) in range.enumerate() {
                let known = &mut self.blocks[lba as usize];
                if completion.outcome != Outcome::Success {
                    if submission.opcode.writes() {
                        *known = None;
                    }
                    continue;
                }
                match submission.opcode {
                    Opcode::Write => *known = Some(version << 20 | lba),
                    Opcode::WriteZeroes | Opcode::Discard => *known = Some(0),
                    Opcode::Flush => {}
                    Opcode::Read => {
                        let at = submission.offset as usize + index * BLOCK;
                        let read = self.data.read64(at);
                        let torn = (0..BLOCK).step_by(8).any(|b| self.data.read64(at + b) != read);
                        assert!(!torn, "block {lba} holds parts of two writes");
                        if let Some(known) = *known {
                            assert_eq!(read, known, "block {lba}");
                        }
                    }
                }
            }
        }
        self.reaper.publish();
    }
}
