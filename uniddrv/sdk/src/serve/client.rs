//! A client as the driver process sees it: rings, limits, counts.

use std::os::fd::OwnedFd;

use rustix::net::{SendFlags, send};
use uniddrv_abi::message::{self, Limits, Rights, Target};
use uniddrv_abi::queue::{self, Poster, Side, Taker};

use crate::clock;
use crate::shared::SharedWords;

/// A client queue: the rings' ends, and how to wake the client.
pub(super) struct Queue {
    pub(super) client: usize,
    pub(super) words: SharedWords,
    pub(super) depth: u32,
    pub(super) taker: Taker<SharedWords>,
    pub(super) poster: Poster<SharedWords>,
    pub(super) wake: OwnedFd,
    /// Requests taken whose completion is not posted.
    pub(super) in_flight: u32,
    /// Completions were posted since the client was last told.
    pub(super) touched: bool,
    /// The client has to follow into a new epoch first.
    pub(super) renewing: bool,
}

/// A client: what its queues have in common.
pub(super) struct Client {
    pub(super) number: u32,
    pub(super) rights: Rights,
    pub(super) target: Target,
    pub(super) block_shift: u32,
    pub(super) arena_iova: u64,
    pub(super) arena_len: u64,
    pub(super) queues: Vec<u8>,
    pub(super) in_flight: u32,
    pub(super) most_in_flight: u32,
    pub(super) share: u32,
    pub(super) ios: Bucket,
    pub(super) bytes: Bucket,
    /// It leaves: nothing more is taken.
    pub(super) leaving: bool,
    /// It wrote what cannot be.
    pub(super) hostile: Option<String>,
}

/// How much of something may be used in a second: a token bucket that holds a tenth of a second's
/// worth.
pub(super) struct Bucket {
    /// In a second; 0: no limit.
    rate: u64,
    /// What may be used now, in units times ticks a second.
    level: i128,
    filled: u64,
}

impl Bucket {
    fn new(rate: u64) -> Self {
        Self { rate, level: 0, filled: clock::ticks() }
    }

    /// Whether something may be used at `now`. Debts are paid off by waiting.
    #[inline]
    pub(super) fn open(&mut self, now: u64) -> bool {
        if self.rate == 0 {
            return true;
        }
        let passed = now.saturating_sub(self.filled);
        self.filled = now;
        let second = i128::from(clock::ticks_per_second());
        let most = i128::from(self.rate) * second / 10;
        self.level = (self.level + i128::from(passed) * i128::from(self.rate)).min(most);
        self.level >= 0
    }

    /// Uses `amount`.
    #[inline]
    pub(super) fn take(&mut self, amount: u64) {
        if self.rate > 0 {
            self.level -= i128::from(amount) * i128::from(clock::ticks_per_second());
        }
    }
}

impl Client {
    pub(super) fn new(client: &message::Client, target: Target) -> Self {
        let Limits { in_flight, iops, bytes_per_second, weight } = client.limits;
        Self {
            number: client.client,
            rights: client.rights,
            block_shift: target.block_size.trailing_zeros(),
            target,
            arena_iova: client.arena_iova,
            arena_len: client.arena_len,
            queues: client.queues.clone(),
            in_flight: 0,
            most_in_flight: if in_flight == 0 { u32::MAX } else { in_flight },
            share: weight.clamp(1, 64),
            ios: Bucket::new(iops),
            bytes: Bucket::new(bytes_per_second),
            leaving: false,
            hostile: None,
        }
    }
}

impl Queue {
    pub(super) fn new(
        client: usize,
        words: SharedWords,
        depth: u32,
        wake: OwnedFd,
        (consumer, producer): (u32, u32),
    ) -> Self {
        Self {
            client,
            depth,
            taker: Taker::new(words.clone(), queue::submission(depth), consumer),
            poster: Poster::new(words.clone(), queue::completion(depth), producer),
            words,
            wake,
            in_flight: 0,
            touched: false,
            renewing: false,
        }
    }

    /// Wakes the client if it says that it sleeps. After a fence.
    #[inline]
    pub(super) fn wake_client(&self) {
        if queue::says_it_sleeps(&self.words, Side::Client) {
            self.send_wake();
        }
    }

    #[cold]
    pub(super) fn send_wake(&self) {
        // A full socket holds wake-ups enough; one that is closed has nobody to wake.
        let _ = send(&self.wake, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}
