//! What the worker of the device says.

use uniddrv_abi::message::Beginning;

use super::{Pending, State, Step, Supervisor, Then};
use crate::attachment::Stage;
use crate::context::Context;
use crate::death::Cause;
use crate::device::Event;
use crate::driver::Process;

impl Supervisor {
    /// The worker has something to say.
    pub(crate) fn told(&mut self, event: Event, cx: &mut Context<'_>) {
        tracing::trace!(address = %self.address, ?event, state = ?self.state, "from the worker");
        match event {
            Event::Opened(opened) => {
                let identity = opened.identity;
                tracing::info!(
                    address = %self.address,
                    vendor = format_args!("{:04x}", identity.vendor),
                    device = format_args!("{:04x}", identity.device),
                    class = format_args!("{:06x}", identity.class),
                    "holding the device"
                );
                self.held = Some(opened);
            }
            Event::Failed { text, gone } => self.failed(&text, gone, cx),
            Event::Mapped { token, iova } => self.mapped(token.0 as u32, iova, cx),
            Event::MapFailed { token, text } => self.not_mapped(token.0 as u32, text, cx),
            Event::Unmapped { token, kept } => self.unmapped(token.0 as u32, kept, cx),
            Event::Fenced(result) => {
                if let Err(error) = result {
                    tracing::error!(address = %self.address, "cannot stop the device's DMA: {error}");
                }
                self.fenced(cx);
            }
            Event::WasReset(result) => {
                if let Err(error) = result {
                    tracing::error!(address = %self.address, "cannot reset the device: {error}");
                }
            }
            Event::Lost { reason } => self.lost(&reason, cx),
            Event::Reopened(opened) => {
                tracing::warn!(name = self.label(), "the device is back");
                self.held = Some(opened);
            }
            Event::Closed => return self.closed(cx),
            Event::Refused { driver, text } => {
                tracing::warn!(name = self.label(), process = driver.0, "refused: {text}");
            }
            Event::Unserved { driver, reason } => {
                if let Some(reason) = reason
                    && let Some(process) = self.process(driver)
                {
                    process.kill(Cause::Violation(reason));
                }
            }
        }
        self.advance(cx);
    }

    fn failed(&mut self, text: &str, gone: bool, cx: &mut Context<'_>) {
        match self.state {
            State::Away if gone => self.lost_for_good(text, cx),
            _ => self.stop(text.to_owned(), cx),
        }
    }

    /// Nothing reaches memory through the device any more: clients' is given back.
    fn fenced(&mut self, cx: &mut Context<'_>) {
        let State::Ending { step, .. } = &mut self.state else { return };
        if *step != Step::Fencing {
            return;
        }
        *step = Step::Unmapping;
        let attached = self.attachments.values().filter(|one| one.is_attached());
        let handles: Vec<u32> = attached.map(|one| one.handle).collect();
        for handle in handles {
            self.let_go(handle, cx);
        }
    }

    /// The device is gone, or its server is.
    fn lost(&mut self, reason: &str, cx: &mut Context<'_>) {
        tracing::error!(name = self.label(), address = %self.address, "the device is gone: {reason}");
        let served =
            matches!(self.address, uniddrv::Address::VfioUser(_) | uniddrv::Address::Model(_));
        match &mut self.state {
            State::Serving if served && !self.config.reconnect.is_zero() => {
                if let Some(active) = &mut self.active {
                    active.kill(Cause::Lost);
                }
                self.discard_successor();
                self.held = None;
                self.pending = None;
                self.state = State::Away;
                self.worker.reopen(cx.now + self.config.reconnect);
            }
            // A loss while it is awaited is told by the answer to that.
            State::Away => {}
            State::Ending { then, .. } => *then = Then::Go(reason.to_owned()),
            _ => self.lost_for_good(reason, cx),
        }
    }

    fn lost_for_good(&mut self, reason: &str, cx: &mut Context<'_>) {
        let text = format!("{} is gone: {reason}", self.address);
        self.finish(Then::Go(text), Cause::Lost, cx);
    }

    /// The server is back: a driver that resets the device and goes on.
    pub(super) fn come_back(&mut self, cx: &mut Context<'_>) {
        let ended = self.active.is_none()
            && self.successor.is_none()
            && self.spawning.is_none()
            && self.ending.is_empty();
        if self.held.is_none() || !ended {
            return;
        }
        self.state = State::Serving;
        let how = match self.beginning() {
            Beginning::Adopt => Beginning::Reset,
            how => how,
        };
        if how == Beginning::Renew && !self.renew_ledger(cx) {
            return;
        }
        (self.stillborn, self.spawn_after, self.deaths_in_row) = (0, None, 0);
        self.pending = Some(Pending { how, not_before: None });
        self.advance(cx);
    }

    /// The worker has let the device go: always its last word.
    fn closed(&mut self, cx: &mut Context<'_>) {
        self.held = None;
        if let State::Ending { step: Step::Closing, .. } = self.state {
            return self.gone(cx);
        }
        // Its thread has ended before it was to.
        let alive = [&mut self.active, &mut self.successor].into_iter().flatten();
        alive.for_each(|process: &mut Process| process.kill(Cause::Lost));
        let unmapping = self.attachments.values_mut().filter(|one| one.stage == Stage::Unmapping);
        let handles: Vec<u32> = unmapping.map(|one| one.handle).collect();
        for handle in handles {
            self.unmapped(handle, None, cx);
        }
        if !matches!(self.state, State::Gone) {
            self.lost_for_good("its worker has ended", cx);
            self.gone(cx);
        }
    }
}
