//! The controller: what it holds, and how it is enabled, reset and shut down.
//! NVMe Base 2.0 §3.5 to §3.7.

use std::collections::VecDeque;
use std::time::Duration;

use uniddrv::clock;
use uniddrv_spec::nvme::admin::event::Event;
use uniddrv_spec::nvme::entry::SubmissionEntry;
use uniddrv_spec::nvme::registers::{Cc, Csts, doorbell_at};

use super::NewError;
use super::data::{Data, Pointers};
use super::events::Events;
use super::fault::Faults;
use super::features::{self, Features};
use super::firmware::Firmware;
use super::logs::Logs;
use super::namespace::Namespace;
use super::params::Params;
use super::process::Late;
use super::queues::{Completion, CompletionQueue, SubmissionQueue};
use super::registers::{Action, DOORBELL_START, Doorbells, Registers};
use super::shadow::Shadow;
use crate::host::Host;

/// Commands are taken in batches of at most this many a queue.
pub(super) const BATCH: usize = 32;

/// An NVMe controller.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) params: Params,
    pub(super) registers: Registers,
    pub(super) doorbells: Doorbells,
    pub(super) shadow: Option<Shadow>,
    // By identifier; 0 is the admin queue.
    pub(super) sqs: Vec<Option<Box<SubmissionQueue>>>,
    pub(super) cqs: Vec<Option<Box<CompletionQueue>>>,
    // The I/O submission queues that there are.
    pub(super) active: Vec<u16>,
    pub(super) batch: Box<[SubmissionEntry; BATCH]>,
    pub(super) data: Data,
    pub(super) pointers: Pointers,
    pub(super) vectors: u16,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) features: Features,
    pub(super) logs: Logs,
    pub(super) events: Events,
    pub(super) firmware: Firmware,
    pub(super) faults: Option<Faults>,
    // Completions that could not or were not to be posted at once.
    pub(super) late: Vec<Late>,
    // Completions that were dropped on purpose, so that Abort finds their commands.
    pub(super) dropped: VecDeque<Completion>,
    // When the keep alive timer expires, in ticks.
    pub(super) keep_alive: Option<u64>,
    /// Enabled, ready, and neither shut down nor failed: commands are processed.
    pub(super) running: bool,
    /// It has disappeared.
    pub(super) gone: bool,
    /// How often it was enabled.
    pub(super) enables: u64,
    /// Doorbells that were written with the value that they had.
    pub(super) repeated_doorbells: u64,
}

impl Controller {
    pub(super) fn new(params: Params, namespaces: Vec<Namespace>) -> Result<Self, NewError> {
        let vectors = params.queues.saturating_add(1).min(2048);
        let queues = usize::from(params.queues) + 1;
        let doorbells = Doorbells::new(params.queues).map_err(NewError::Doorbells)?;
        let limits = features::Limits {
            queues: params.queues,
            vectors,
            namespaces: namespaces.len() as u32,
        };
        Ok(Self {
            registers: Registers::new(&params),
            doorbells,
            shadow: None,
            sqs: (0..queues).map(|_| None).collect(),
            cqs: (0..queues).map(|_| None).collect(),
            active: Vec::new(),
            batch: Box::new([SubmissionEntry::default(); BATCH]),
            data: Data::default(),
            pointers: Pointers { page_size: super::registers::MIN_PAGE, sgl: params.sgl },
            vectors,
            namespaces,
            features: Features::new(limits),
            logs: Logs::default(),
            events: Events::default(),
            firmware: Firmware::new(),
            faults: params.faults.clone().map(Faults::new),
            late: Vec::new(),
            dropped: VecDeque::new(),
            keep_alive: None,
            running: false,
            gone: false,
            enables: 0,
            repeated_doorbells: 0,
            params,
        })
    }

    /// Reads `data.len()` bytes at `offset` of BAR 0.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        if offset < DOORBELL_START {
            self.registers.read(offset as usize, data);
        } else {
            let value = self.doorbells.read(offset & !3) >> (8 * (offset & 3));
            let bytes = u64::from(value).to_le_bytes();
            data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }
    }

    /// Writes `data` at `offset` of BAR 0. Registers are written as dwords or pairs of them;
    /// other widths are ignored, as the standard leaves them undefined.
    pub(super) fn write(&mut self, host: &mut Host, offset: u64, data: &[u8]) {
        let dwords = data.chunks_exact(4);
        if !offset.is_multiple_of(4) || !dwords.remainder().is_empty() {
            return;
        }
        for (offset, dword) in (offset..).step_by(4).zip(dwords) {
            let Ok(bytes) = <[u8; 4]>::try_from(dword) else { return };
            let value = u32::from_le_bytes(bytes);
            if offset < DOORBELL_START {
                self.write_register(host, offset as usize, value);
            } else {
                self.write_doorbell(offset, value);
            }
        }
    }

    fn write_register(&mut self, host: &mut Host, offset: usize, value: u32) {
        match self.registers.write(offset, value) {
            Action::None => {}
            Action::Configured(old) => self.configure(old),
            Action::SubsystemReset => {
                self.power_on_reset();
                self.registers.csts = self.registers.csts.with_nssro(true);
            }
            Action::Unmasked => self.signal_pending(host),
        }
    }

    fn write_doorbell(&mut self, offset: u64, value: u32) {
        let exists = match doorbell_at(offset as usize, 0) {
            Some((qid, false)) => self.sqs.get(usize::from(qid)).is_some_and(Option::is_some),
            Some((qid, true)) => self.cqs.get(usize::from(qid)).is_some_and(Option::is_some),
            None => false,
        };
        if exists {
            self.repeated_doorbells += u64::from(self.doorbells.read(offset) == value);
            self.doorbells.write(offset, value);
        } else if self.running {
            self.events.raise(Event::INVALID_DOORBELL_REGISTER, self.features.events);
        }
    }

    /// CC was written: enable, reset, shut down. NVMe Base 2.0 §3.1.3.5.
    fn configure(&mut self, old: Cc) {
        let new = self.registers.cc;
        if old.en() && !new.en() {
            self.reset();
        }
        if !old.en() && new.en() {
            self.enable();
        }
        if new.shn() != Cc::SHN_NONE && old.shn() == Cc::SHN_NONE {
            self.shut_down();
        }
    }

    fn enable(&mut self) {
        self.enables += 1;
        let Registers { cc, aqa, asq, acq, .. } = self.registers;
        let csts = Csts::default().with_nssro(self.registers.csts.nssro());
        self.registers.csts = csts;
        let page_size = cc.page_size();
        let cap = self.registers.cap();
        let addresses = [asq.bits(), acq.bits()];
        let valid = page_size <= cap.max_page_size()
            && addresses.iter().all(|address| address.is_multiple_of(page_size as u64))
            && matches!(cc.css(), Cc::CSS_NVM | Cc::CSS_ALL | Cc::CSS_ADMIN_ONLY)
            && cc.ams() == 0
            && aqa.asqs() > 0
            && aqa.acqs() > 0;
        if !valid {
            tracing::warn!(?cc, ?aqa, ?asq, ?acq, "enabled with an impossible configuration");
            self.registers.csts = csts.with_cfs(true);
            return;
        }
        if self.faults.as_mut().is_some_and(|faults| !faults.gets_ready()) {
            return;
        }
        self.pointers.page_size = page_size;
        self.doorbells.clear(0);
        let sq = SubmissionQueue::new(asq.bits(), u32::from(aqa.asqs()) + 1, 0);
        let cq = CompletionQueue::new(acq.bits(), u32::from(aqa.acqs()) + 1, Some(0));
        if let (Some(to_sq), Some(to_cq)) = (self.sqs.first_mut(), self.cqs.first_mut()) {
            *to_sq = Some(Box::new(sq));
            *to_cq = Some(Box::new(cq));
        }
        self.registers.csts = csts.with_rdy(true);
        self.running = true;
    }

    /// A controller reset. NVMe Base 2.0 §3.7.2: queues, commands and features go, admin queue
    /// registers stay.
    fn reset(&mut self) {
        self.running = false;
        for qid in 0..self.sqs.len() as u32 {
            let index = qid as usize;
            let was = [
                self.sqs.get_mut(index).and_then(Option::take).is_some(),
                self.cqs.get_mut(index).and_then(Option::take).is_some(),
            ];
            if was.contains(&true) {
                self.doorbells.clear(qid as u16);
            }
        }
        self.active.clear();
        self.shadow = None;
        self.late.clear();
        self.dropped.clear();
        self.events.reset();
        self.features.reset();
        self.firmware.reset();
        self.logs.health.hot = self.features.hot();
        self.keep_alive = None;
        self.registers.masked = 0;
        self.registers.csts = Csts::default().with_nssro(self.registers.csts.nssro());
    }

    /// A reset of the function or of the NVM subsystem: registers go too.
    pub(super) fn power_on_reset(&mut self) {
        if self.running {
            self.logs.health.unsafe_shutdowns += 1;
        }
        self.reset();
        self.registers = Registers::new(&self.params);
    }

    fn shut_down(&mut self) {
        self.running = false;
        let mut failed = false;
        for namespace in &mut self.namespaces {
            failed |= namespace.backing.flush().is_err();
        }
        let csts = self.registers.csts.with_shst(Csts::SHST_COMPLETE);
        self.registers.csts = csts.with_cfs(csts.cfs() || failed);
    }

    /// The controller cannot go on: CSTS.CFS, until it is reset.
    #[cold]
    pub(super) fn fail(&mut self, why: &str) {
        tracing::warn!(why, "the controller goes into its fatal state");
        self.registers.csts = self.registers.csts.with_cfs(true);
        self.running = false;
    }

    /// Something happened on behalf of the client: the keep alive timer starts anew.
    pub(super) fn kept_alive(&mut self) {
        let timeout = self.features.keep_alive;
        self.keep_alive = (timeout > 0)
            .then(|| clock::ticks() + clock::to_ticks(Duration::from_millis(timeout.into())));
    }

    /// Interrupts that were masked while completions came are due now.
    fn signal_pending(&mut self, host: &Host) {
        if host.interrupts.by_table() {
            return;
        }
        for cq in self.cqs.iter().flatten() {
            if let Some(vector) = cq.vector
                && !cq.cursor.is_empty()
                && self.registers.unmasked(vector)
            {
                host.interrupts.signal(vector);
            }
        }
    }
}
