//! Time: once in a tick, events are taken and commands that take too long are dealt with.

use std::time::Duration;

use uniddrv::clock;
use uniddrv::serve::{Steps, Table};
use uniddrv_abi::block::Outcome;
use uniddrv_abi::ledger::Phase as LedgerPhase;
use uniddrv_spec::nvme::admin::Abort;

use super::begin::admin_place;
use super::{Nvme, QUEUE, record};
use crate::options::Options;
use crate::shared::Phase;

/// When the next tick is, how long one lasts in ticks of the CPU, and how many of them a command
/// has, and an aborted one from then on.
pub(super) struct Watch {
    pub(super) next: u64,
    pub(super) period: u64,
    pub(super) timeout: u32,
    pub(super) grace: u32,
    /// What had completed at the last look.
    pub(super) completed: u64,
}

impl Watch {
    /// With the first look after a tick.
    pub(super) fn new(options: &Options) -> Self {
        let tick =
            (options.timeout / 8).clamp(Duration::from_millis(1), Duration::from_millis(100));
        let ticks = |time: Duration| {
            u32::try_from(time.as_nanos().div_ceil(tick.as_nanos())).unwrap_or(u32::MAX / 4)
        };
        let period = clock::to_ticks(tick).max(1);
        Self {
            next: clock::ticks() + period,
            period,
            timeout: ticks(options.timeout),
            grace: ticks(options.admin_timeout),
            completed: 0,
        }
    }

    /// With the first look after ten milliseconds.
    pub(super) fn soon(options: &Options) -> Self {
        let next = clock::ticks() + clock::to_ticks(Duration::from_millis(10));
        Self { next, ..Self::new(options) }
    }
}

impl<S: Steps> Nvme<S> {
    #[cold]
    pub(super) fn look(&mut self, table: &mut Table<S>) {
        let now = clock::ticks();
        let passed = now.saturating_sub(self.watch.next) / self.watch.period + 1;
        self.watch.next = now + self.watch.period;
        self.queue.tick = self.queue.tick.wrapping_add(u32::try_from(passed).unwrap_or(u32::MAX));
        self.take_events(table);
        let progress = self.queue.completed != self.watch.completed;
        self.watch.completed = self.queue.completed;
        if self.queue.in_flight == 0 {
            return;
        }
        if progress {
            self.shared.made_progress();
        } else {
            // A register read costs a message; it is worth it only where nothing happens.
            let csts = self.shared.csts();
            if csts.is_gone() {
                return self.shared.lose(&self.shared.removal());
            } else if csts.cfs() {
                return self.reset(table, "controller fatal status");
            } else if !csts.rdy() {
                return self.reset(table, "somebody else has stopped the controller");
            }
        }
        self.look_for_late_commands(table);
    }

    fn take_events(&mut self, table: &Table<S>) {
        let mut admin = self.shared.lock();
        if !admin.pair.pending() {
            return;
        }
        record::admin_begins(table.ledger());
        for event in admin.take_events() {
            tracing::warn!(?event, "the controller reports an event");
        }
        let place = admin_place(&mut admin);
        record::admin_rests(table.ledger(), &place);
    }

    fn look_for_late_commands(&mut self, table: &mut Table<S>) {
        let tick = self.queue.tick;
        for (slot, cid, _) in table.submissions() {
            let index = usize::from(slot);
            let age = tick.wrapping_sub(self.queue.submitted[index]);
            if self.queue.aborted[index] {
                if age > self.watch.grace {
                    return self.reset(table, "an aborted command did not end");
                }
            } else if age > self.watch.timeout {
                tracing::warn!(cid, "a command takes too long: abort");
                self.queue.aborted[index] = true;
                self.queue.submitted[index] = tick;
                // Not waited for: the heart has to beat on. Its completion finds nobody.
                record::admin_begins(table.ledger());
                let mut admin = self.shared.lock();
                admin.send(Abort { sqid: QUEUE, cid }.to_entry());
                let place = admin_place(&mut admin);
                record::admin_rests(table.ledger(), &place);
                return;
            }
        }
    }

    /// Resets the controller, and has everything issued again that it had not completed; but what
    /// was aborted in vain ends here.
    pub(super) fn reset(&mut self, table: &mut Table<S>, why: &str) {
        table.ledger().set_phase(LedgerPhase::BringingUp);
        let ledger = table.ledger().clone();
        record::invalidate(&ledger);
        let shared = self.shared.clone();
        let mut admin = shared.lock();
        admin.reset(&shared, why);
        // It was stopped in between: what it had completed before is all there is.
        self.queue.harvest(table);
        if shared.state().phase() == Phase::Gone {
            return;
        }
        if let Err(error) = admin.create_queue(&shared, QUEUE, &mut self.queue.rings, None) {
            return shared.lose(&format!("its queue did not come back after a reset: {error}"));
        }
        let submissions = table.submissions();
        let again = submissions.len() as u64;
        for (slot, ..) in submissions {
            if self.queue.aborted[usize::from(slot)] {
                table.finish(slot, Outcome::Aborted);
            } else {
                table.submit_again(slot);
            }
        }
        table.publish();
        table.release();
        self.queue.restart(table);
        let place = admin_place(&mut admin);
        record::admin_rests(&ledger, &place);
        self.record.save(&ledger);
        ledger.count_reset(again);
        ledger.set_phase(LedgerPhase::Running);
    }
}
