//! What the ledger says of the controller: where its queues are and how far they got.
//!
//! Written when the controller is brought up, and the positions as they change. The device's part
//! of the ledger is the driver's own; a successor checks it all the same.

use std::time::Duration;

use uniddrv::serve::DriverLedger;
use uniddrv_abi::ledger::LedgerError;
use uniddrv_spec::nvme::admin::features::AsyncEvents;
use uniddrv_spec::nvme::registers::Cap;

use crate::shared::Limits;

/// Says that the rest is there; the last thing that is written at bring-up.
const VALID: usize = 0;
const MAGIC: u64 = u64::from_le_bytes(*b"nvme  01");
const CAP: usize = 1;
const BAR: usize = 2;
/// Page size, command sets, SGLs, event requests.
const TRAITS: usize = 3;
const MAX_TRANSFER: usize = 4;
const ASYNC_EVENTS: usize = 5;
const SHUTDOWN: usize = 6;
const DEPTH: usize = 7;
const NAMESPACES: usize = 8;
/// The admin queue's places, and whether a command is being sent.
const ADMIN: usize = 16;
/// The identifiers of the asynchronous event requests on their way, four at most.
const EVENTS: usize = 17;
/// Entries that were ever written to the submission ring, and taken from the completion ring.
const TAIL: usize = 24;
const HEAD: usize = 25;
/// Probes on their way.
const PROBES: usize = 32;
/// Adoptions so far.
const ADOPTIONS: usize = 33;
/// The namespaces' identifiers.
const NSIDS: usize = 64;

/// The most namespaces that are served.
pub(super) const MOST_NAMESPACES: usize = 31;

/// What stays the same while the controller runs.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) limits: Limits,
    pub(super) depth: u32,
    pub(super) nsids: Vec<u32>,
}

/// Where the admin queue is: what comes next, and the event requests on their way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdminPlace {
    pub(crate) tail: u16,
    pub(crate) head: u16,
    pub(crate) phase: bool,
    pub(crate) events: Vec<u16>,
}

impl Record {
    pub(super) fn save(&self, ledger: &DriverLedger) {
        let limits = &self.limits;
        ledger.set_device(CAP, limits.cap.bits());
        ledger.set_device(BAR, limits.bar);
        let traits = limits.page as u64
            | u64::from(limits.css) << 32
            | u64::from(limits.sgl) << 40
            | u64::from(limits.event_requests) << 48;
        ledger.set_device(TRAITS, traits);
        ledger.set_device(MAX_TRANSFER, limits.max_transfer as u64);
        ledger.set_device(ASYNC_EVENTS, limits.async_events.bits().into());
        ledger.set_device(SHUTDOWN, limits.shutdown.as_millis() as u64);
        ledger.set_device(DEPTH, self.depth.into());
        ledger.set_device(NAMESPACES, self.nsids.len() as u64);
        for (index, &nsid) in self.nsids.iter().enumerate() {
            ledger.set_device(NSIDS + index, nsid.into());
        }
        ledger.set_device(PROBES, 0);
        ledger.set_device(VALID, MAGIC);
    }

    pub(super) fn load(ledger: &DriverLedger) -> Result<Self, LedgerError> {
        let wrong = |what: &str| LedgerError(format!("the record of the controller: {what}"));
        if ledger.device(VALID) != MAGIC {
            return Err(wrong("there is none"));
        }
        let traits = ledger.device(TRAITS);
        let page = (traits & 0xffff_ffff) as usize;
        let max_transfer = ledger.device(MAX_TRANSFER);
        let depth = ledger.device(DEPTH);
        let namespaces = ledger.device(NAMESPACES);
        if page != uniddrv::dma::PAGE {
            return Err(wrong("its page size"));
        }
        if max_transfer < page as u64 || max_transfer > super::MAX_TRANSFER as u64 {
            return Err(wrong("its largest transfer"));
        }
        if depth == 0 || depth > uniddrv::serve::table::MOST as u64 {
            return Err(wrong("its depth"));
        }
        if namespaces > MOST_NAMESPACES as u64 {
            return Err(wrong("its namespaces"));
        }
        let limits = Limits {
            cap: Cap::from_bits(ledger.device(CAP)),
            bar: ledger.device(BAR),
            page,
            max_transfer: max_transfer as usize,
            sgl: traits >> 40 & 1 != 0,
            shadow_doorbells: false,
            event_requests: (traits >> 48) as u8,
            async_events: AsyncEvents::from_bits(ledger.device(ASYNC_EVENTS) as u32),
            shutdown: Duration::from_millis(ledger.device(SHUTDOWN).min(30_000)),
            css: (traits >> 32) as u8 & 7,
        };
        let nsids = (0..namespaces as usize).map(|index| ledger.device(NSIDS + index) as u32);
        Ok(Self { limits, depth: depth as u32, nsids: nsids.collect() })
    }
}

/// Nothing that the ledger says of the controller holds any more.
pub(super) fn invalidate(ledger: &DriverLedger) {
    ledger.set_device(VALID, 0);
}

/// The admin queue is about to be used: a successor does not find it at rest.
pub(super) fn admin_begins(ledger: &DriverLedger) {
    ledger.set_device(ADMIN, 1 << 63);
}

/// The admin queue is at rest.
pub(super) fn admin_rests(ledger: &DriverLedger, place: &AdminPlace) {
    let mut events = place.events.len().min(3) as u64;
    for (index, &cid) in place.events.iter().take(3).enumerate() {
        events |= u64::from(cid) << (16 * (index + 1));
    }
    ledger.set_device(EVENTS, events);
    let word = u64::from(place.tail)
        | u64::from(place.head) << 16
        | u64::from(place.phase) << 32
        | 1 << 62;
    ledger.set_device(ADMIN, word);
}

/// Where the admin queue rests; nothing while it is used.
pub(super) fn admin_place(ledger: &DriverLedger) -> Option<AdminPlace> {
    let word = ledger.device(ADMIN);
    if word >> 62 != 1 {
        return None;
    }
    let events = ledger.device(EVENTS);
    let count = (events & 0xffff).min(3) as usize;
    Some(AdminPlace {
        tail: word as u16,
        head: (word >> 16) as u16,
        phase: word >> 32 & 1 != 0,
        events: (1..=count).map(|index| (events >> (16 * index)) as u16).collect(),
    })
}

/// Entries that were ever written to the submission ring.
pub(super) fn tail(ledger: &DriverLedger) -> u64 {
    ledger.device(TAIL)
}

#[inline]
pub(super) fn set_tail(ledger: &DriverLedger, tail: u64) {
    ledger.set_device(TAIL, tail);
}

/// Entries that were ever taken from the completion ring.
pub(super) fn head(ledger: &DriverLedger) -> u64 {
    ledger.device(HEAD)
}

#[inline]
pub(super) fn set_head(ledger: &DriverLedger, head: u64) {
    ledger.set_device(HEAD, head);
}

/// Probes on their way.
pub(super) fn probes(ledger: &DriverLedger) -> u64 {
    ledger.device(PROBES)
}

pub(super) fn set_probes(ledger: &DriverLedger, probes: u64) {
    ledger.set_device(PROBES, probes);
}

/// Counts an adoption. How many there were, this one included.
pub(super) fn count_adoption(ledger: &DriverLedger) -> u64 {
    let count = ledger.device(ADOPTIONS).wrapping_add(1);
    ledger.set_device(ADOPTIONS, count);
    count
}
