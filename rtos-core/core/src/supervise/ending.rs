//! Drivers, clients and the device are let go, in that order.

use std::time::Duration;

use uniddrv_abi::message::{Refusal, ToDriver};

use super::{State, Step, Supervisor, Then};
use crate::context::{Context, Effect};
use crate::death::Cause;

/// How long a driver process may take to shut its device down and end.
const SHUT_DOWN: Duration = Duration::from_secs(10);

impl Supervisor {
    /// Drivers and clients have to end: the device then stays without a driver.
    pub(crate) fn stop(&mut self, text: String, cx: &mut Context<'_>) {
        if matches!(self.state, State::Ending { .. } | State::Stopped(_) | State::Gone) {
            return;
        }
        tracing::error!(name = self.label(), "stopped: {text}");
        if self.on_trial {
            for client in std::mem::take(&mut self.waiting) {
                Self::refuse(Some(client), Refusal::Failed, text.clone(), cx);
            }
            return self.finish(Then::Go(text), Cause::Unwanted, cx);
        }
        self.finish(Then::Stop(text), Cause::Unwanted, cx);
    }

    /// Ends drivers and clients. `cause`: of the driver that runs; where it is `None` that is
    /// asked to shut the device down.
    pub(super) fn finish(&mut self, then: Then, cause: Cause, cx: &mut Context<'_>) {
        let (Then::Stop(text) | Then::Go(text)) = &then;
        let text = text.clone();
        tracing::info!(name = self.label(), "ending drivers and clients: {text}");
        self.hand_over_ends(&text, cx);
        if matches!(then, Then::Stop(_)) {
            for client in std::mem::take(&mut self.waiting) {
                Self::refuse(Some(client), Refusal::Failed, text.clone(), cx);
            }
        }
        let handles: Vec<u32> = self.attachments.keys().copied().collect();
        for handle in handles {
            self.take_away(handle, &text, cx);
        }
        self.pending = None;
        self.targets.clear();
        cx.effects.push(Effect::Names(self.id));
        self.discard_successor();
        if let Some(active) = &mut self.active {
            let asked =
                cause == Cause::Unwanted && active.is_up() && active.tell(&ToDriver::Stop, &[]);
            if asked {
                active.deadline = Some(cx.now + SHUT_DOWN);
            } else {
                active.kill(cause);
            }
        }
        self.call_attention();
        self.state = State::Ending { then, step: Step::Processes };
        self.end(cx);
    }

    /// The next step of an ending.
    pub(super) fn end(&mut self, cx: &mut Context<'_>) {
        let State::Ending { then, step } = &mut self.state else { return };
        let processes = self.active.is_some()
            || self.successor.is_some()
            || self.spawning.is_some()
            || !self.ending.is_empty();
        if *step == Step::Processes && !processes {
            *step = Step::Fencing;
            self.worker.fence();
        }
        if *step == Step::Unmapping && self.attachments.is_empty() {
            match then {
                Then::Stop(text) => {
                    self.state = State::Stopped(std::mem::take(text));
                    cx.effects.push(Effect::Settled);
                    if !self.waiting.is_empty() {
                        self.start_again(cx);
                        self.advance(cx);
                    }
                }
                Then::Go(_) => {
                    *step = Step::Closing;
                    self.worker.close();
                }
            }
        }
    }
}
