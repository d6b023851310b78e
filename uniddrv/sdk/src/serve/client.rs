//! A client as the driver process sees it: rings, limits, counts.

use std::fmt::Display;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use uniddrv_abi::block::{Opcode, Outcome, Submission};
use uniddrv_abi::message::{self, Limits, Rights, Target};
use uniddrv_abi::queue::{self, Poster, Side, Taker};

use crate::clock;
use crate::dma::PAGE;
use crate::shared::SharedWords;

/// Wake-ups that are taken from a socket at a time: a client may send them for ever.
const WAKES: usize = 16;

/// A client queue: the rings' ends, and how to wake the client.
pub(super) struct Queue {
    pub(super) client: usize,
    pub(super) words: SharedWords,
    pub(super) depth: u32,
    pub(super) taker: Taker<SharedWords>,
    pub(super) poster: Poster<SharedWords>,
    wake: OwnedFd,
    /// The wake-up socket says nothing any more.
    pub(super) deaf: bool,
    /// Requests taken whose completion is not posted.
    pub(super) in_flight: u32,
    /// Completions were posted since the client was last told.
    pub(super) touched: bool,
    /// The client has to follow into a new epoch first.
    pub(super) renewing: bool,
    /// The position of the request that waits for a limit.
    pub(super) throttled: Option<u32>,
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
    /// The index of the queue whose turn it is.
    pub(super) turn: usize,
    pub(super) in_flight: u32,
    pub(super) most_in_flight: u32,
    pub(super) share: u32,
    /// Requests that may be taken in a turn: its share beside others'.
    pub(super) quantum: u32,
    /// How many of these are left.
    pub(super) credit: u32,
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
    fn new(rate: u64, now: u64) -> Self {
        Self { rate, level: 0, filled: now }
    }

    /// Whether something may be used at `now`. Debts are paid off by waiting.
    #[inline]
    pub(super) fn open(&mut self, now: u64) -> bool {
        self.rate == 0 || self.fill(now) >= 0
    }

    fn fill(&mut self, now: u64) -> i128 {
        let passed = now.saturating_sub(self.filled);
        self.filled = self.filled.max(now);
        let second = i128::from(clock::ticks_per_second());
        let most = i128::from(self.rate) * second / 10;
        self.level = (self.level + i128::from(passed) * i128::from(self.rate)).min(most);
        self.level
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
    /// A client, of `target` where that is known already.
    pub(super) fn new(client: &message::Client, target: Option<&Target>) -> Self {
        let Limits { in_flight, iops, bytes_per_second, weight } = client.limits;
        let now = clock::ticks();
        let mut new = Self {
            number: client.client,
            rights: client.rights,
            block_shift: 0,
            target: Target {
                path: String::new(),
                id: client.target,
                block_size: 512,
                blocks: 0,
                max_transfer: 0,
                volatile_write_cache: false,
            },
            arena_iova: client.arena_iova,
            arena_len: client.arena_len,
            queues: client.queues.clone(),
            turn: 0,
            in_flight: 0,
            most_in_flight: if in_flight == 0 { u32::MAX } else { in_flight },
            share: weight.clamp(1, 64),
            quantum: u32::MAX,
            credit: 0,
            ios: Bucket::new(iops, now),
            bytes: Bucket::new(bytes_per_second, now),
            leaving: false,
            hostile: None,
        };
        new.set_target(target);
        new
    }

    /// Goes by what `target` says from now on; where there is none, it has no blocks.
    pub(super) fn set_target(&mut self, target: Option<&Target>) {
        match target {
            Some(target) if target.block_size.is_power_of_two() => self.target = target.clone(),
            _ => self.target.blocks = 0,
        }
        self.block_shift = self.target.block_size.trailing_zeros();
    }

    /// It wrote what cannot be: nothing more is taken from it.
    #[cold]
    pub(super) fn expel(&mut self, error: &dyn Display) {
        self.leaving = true;
        self.hostile = Some(error.to_string());
    }
}

/// Where the data of a request are for the device, and how many bytes.
#[inline]
pub(super) fn check(client: &Client, request: &Submission) -> Result<(u64, u32), Outcome> {
    if request.opcode.writes() && client.rights < Rights::Write {
        return Err(Outcome::Denied);
    }
    if request.opcode == Opcode::Flush {
        return Ok((0, 0));
    }
    if request.blocks == 0 {
        return Err(Outcome::Invalid);
    }
    let end = request.lba.checked_add(request.blocks.into());
    if end.is_none_or(|end| end > client.target.blocks) {
        return Err(Outcome::OutOfRange);
    }
    if !request.opcode.has_data() {
        return Ok((0, 0));
    }
    let len = u64::from(request.blocks) << client.block_shift;
    let inside = request.offset.checked_add(len).is_some_and(|end| end <= client.arena_len);
    let whole = request.offset.is_multiple_of(PAGE as u64);
    if len > client.target.max_transfer.into() || !inside || !whole {
        return Err(Outcome::Invalid);
    }
    Ok((client.arena_iova + request.offset, len as u32))
}

impl Queue {
    /// A queue of which `consumer` requests were taken and `producer` completions posted.
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
            // A predecessor may have started the rings over, and the client not have followed.
            renewing: !queue::renewed(&words),
            words,
            wake,
            deaf: false,
            in_flight: 0,
            touched: false,
            throttled: None,
        }
    }

    /// Goes on from `consumer` and `producer`.
    pub(super) fn resume(&mut self, (consumer, producer): (u32, u32)) {
        let (words, depth) = (&self.words, self.depth);
        self.taker = Taker::new(words.clone(), queue::submission(depth), consumer);
        self.poster = Poster::new(words.clone(), queue::completion(depth), producer);
    }

    /// Whether requests can be taken: the client has followed into the present epoch.
    #[inline]
    pub(super) fn followed(&mut self) -> bool {
        if self.renewing {
            self.renewing = !queue::renewed(&self.words);
        }
        !self.renewing
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

    /// The socket by which the client wakes the driver.
    pub(super) fn socket(&self) -> &OwnedFd {
        &self.wake
    }

    /// Takes wake-ups from the socket.
    pub(super) fn drain(&mut self) {
        let mut buffer = [0; 256];
        for _ in 0..WAKES {
            match recv(&self.wake, &mut buffer[..], RecvFlags::DONTWAIT) {
                // The end, or what looks like it: a socket that is always readable.
                Ok((_, 0)) => return self.deaf = true,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.deaf = true,
            }
        }
    }
}
