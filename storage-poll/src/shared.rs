//! What the controller object and its I/O queues share, on whatever threads they are.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use uniddrv::device::BarError;
use uniddrv::{Device, Window};
use uniddrv_spec::nvme::admin::features::AsyncEvents;
use uniddrv_spec::nvme::registers::{Cap, Csts, completion_doorbell, submission_doorbell};

use uniddrv_spec::nvme::shadow::{completion_offset, submission_offset};

use crate::admin::Admin;
use crate::bring_up;
use crate::doorbell::{Doorbell, Shadow};
use crate::error::ControllerError;
use crate::options::Options;

/// The life of a controller, in one word that queues compare with what they last saw: the
/// phase in the low bits, above them how often it was reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State(u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Phase {
    /// I/O goes on.
    Running = 0,
    /// The controller is being stopped and brought up again.
    Resetting = 1,
    /// For ever: it was removed, or cannot be brought up again. Both bits, so that setting it
    /// hides no other phase.
    Gone = 3,
}

impl State {
    pub(crate) const fn phase(self) -> Phase {
        match self.0 & 3 {
            0 => Phase::Running,
            1 => Phase::Resetting,
            _ => Phase::Gone,
        }
    }

    const fn with_phase(self, phase: Phase) -> Self {
        Self(self.0 & !3 | phase as u32)
    }

    /// How often the controller came up again after it first did.
    pub(crate) const fn resets(self) -> u32 {
        (self.0 >> 2).saturating_sub(1)
    }

    const fn after_reset(self) -> Self {
        Self((self.0 & !3).wrapping_add(4))
    }
}

/// What the controller can do, as checked when it was attached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) cap: Cap,
    /// Length of BAR 0 in bytes.
    pub(crate) bar: u64,
    /// Page size in bytes.
    pub(crate) page: usize,
    /// Bytes.
    pub(crate) max_transfer: usize,
    pub(crate) sgl: bool,
    pub(crate) shadow_doorbells: bool,
    /// Asynchronous event requests that it takes at once, 0's based.
    pub(crate) event_requests: u8,
    /// The events that are asked for, of those that are optional.
    pub(crate) async_events: AsyncEvents,
    /// How long a normal shutdown may take.
    pub(crate) shutdown: Duration,
    /// Whether commands of the NVM Command Set are chosen alone (0) or with all others.
    pub(crate) css: u8,
}

pub(crate) struct Shared {
    /// The admin queue: whoever holds it may create queues and reset the controller.
    admin: Mutex<Admin>,
    pub(crate) registers: Window,
    state: AtomicU32,
    lost: Mutex<Option<String>>,
    /// Resets since a command last completed.
    resets: AtomicU32,
    pub(crate) limits: Limits,
    pub(crate) options: Options,
    /// Goes last, when nothing points into its registers and memory any more.
    pub(crate) device: Device,
}

impl Shared {
    pub(crate) fn new(
        device: Device,
        admin: Admin,
        registers: Window,
        limits: Limits,
        options: Options,
    ) -> Self {
        Self {
            admin: Mutex::new(admin),
            registers,
            state: AtomicU32::new(Phase::Resetting as u32),
            lost: Mutex::new(None),
            resets: AtomicU32::new(0),
            limits,
            options,
            device,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.device.address().to_string()
    }

    #[inline]
    pub(crate) fn state(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }

    /// Queues keep their hands off from here on.
    ///
    /// # Errors
    /// When the controller is gone, which it stays.
    pub(crate) fn enter_reset(&self) -> Result<(), ControllerError> {
        self.change(|state| state.with_phase(Phase::Resetting))
    }

    /// The controller runs, with no I/O queue: each queue attaches itself anew.
    ///
    /// # Errors
    /// When the controller is gone, which it stays.
    pub(crate) fn enter_running(&self) -> Result<(), ControllerError> {
        self.change(|state| state.after_reset().with_phase(Phase::Running))
    }

    /// Counts a reset. How many there were since a command last completed, this one included.
    pub(crate) fn count_reset(&self) -> u32 {
        self.resets.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Commands complete: earlier resets are forgiven.
    pub(crate) fn made_progress(&self) {
        if self.resets.load(Ordering::Relaxed) != 0 {
            self.resets.store(0, Ordering::Relaxed);
        }
    }

    fn change(&self, to: impl Fn(State) -> State) -> Result<(), ControllerError> {
        // Any thread may find out meanwhile that the controller is gone.
        let update = |state| match State(state) {
            state if state.phase() == Phase::Gone => None,
            state => Some(to(state).0),
        };
        match self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, update) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.gone()),
        }
    }

    /// The controller is given up: its DMA is stopped, and requests end with an error.
    pub(crate) fn lose(&self, reason: &str) {
        // Before any queue gives a buffer back: a controller that did not stop must not reach
        // it any more.
        if self.device.lost().is_none()
            && let Err(error) = self.device.set_bus_master(false)
        {
            tracing::warn!(%error, "bus mastering stays on");
        }
        tracing::error!(address = %self.device.address(), reason, "controller lost");
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get_or_insert_with(|| reason.to_owned());
        drop(lost);
        self.state.fetch_or(Phase::Gone as u32, Ordering::AcqRel);
    }

    pub(crate) fn gone(&self) -> ControllerError {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = lost.clone().or_else(|| self.device.lost());
        ControllerError::Gone {
            address: self.address(),
            reason: reason.unwrap_or_else(|| "it was never brought up".to_owned()),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Admin> {
        // A panic under this lock is a defect of this crate; what the admin queue holds is
        // consistent between any two calls on it.
        self.admin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn csts(&self) -> Csts {
        Csts::from_bits(self.registers.read32(Csts::OFFSET))
    }

    /// Why the device is gone, as far as its transport knows.
    pub(crate) fn removal(&self) -> String {
        self.device.lost().unwrap_or_else(|| "its registers read as all ones".to_owned())
    }

    /// Whether BAR 0 holds the doorbells of queue `id`.
    pub(crate) fn has_doorbells(&self, id: u16) -> bool {
        let end = completion_doorbell(id, self.limits.cap.dstrd()) + size_of::<u32>();
        end as u64 <= self.limits.bar
    }

    /// The doorbells of queue `id`.
    pub(crate) fn doorbells(&self, id: u16) -> Result<(Doorbell, Doorbell), ControllerError> {
        doorbells(&self.device, self.limits.cap, id).map_err(|error| ControllerError::Unsupported {
            address: self.address(),
            reason: format!("the doorbells of queue {id}: {error}"),
        })
    }

    /// Resets the controller unless that was done since the state `seen`. Every command on its
    /// way ends with an error, once its queue is polled.
    pub(crate) fn reset(&self, seen: State, why: &str) {
        let mut admin = self.lock();
        if self.state() == seen {
            admin.reset(self, why);
        }
    }

    /// The admin queue, unless somebody has it: for an I/O thread, which does not wait while
    /// another formats a namespace.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Admin>> {
        match self.admin.try_lock() {
            Ok(admin) => Some(admin),
            Err(TryLockError::Poisoned(admin)) => Some(admin.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The shadows of these doorbells, set to 0, where the controller uses shadows and its page of
    /// them reaches this far.
    pub(crate) fn shadows(&self, admin: &Admin, id: u16) -> (Option<Shadow>, Option<Shadow>) {
        let dstrd = self.limits.cap.dstrd();
        let shadow = |offset: usize| {
            let doorbells = admin.shadow_buffers()?.clone();
            let index = offset / size_of::<u32>();
            if index >= doorbells.values.len() {
                return None;
            }
            // A queue of this identifier may have been here before: the new one starts at 0,
            // and a value that stayed behind would have it take no notice of the next ones.
            doorbells.values.store(index, 0);
            doorbells.events.store(index, 0);
            Some(Shadow { doorbells, index, last: 0 })
        };
        (shadow(submission_offset(id, dstrd)), shadow(completion_offset(id, dstrd)))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.state().phase() == Phase::Gone {
            return;
        }
        let stopped =
            bring_up::shut_down(self, self.limits.shutdown).and_then(|()| bring_up::stop(self));
        if let Err(error) = stopped {
            tracing::warn!(%error, "the controller was left without a proper shutdown");
            // The rings of the admin queue are given back next.
            if let Err(error) = self.device.set_bus_master(false) {
                tracing::warn!(%error, "bus mastering stays on");
            }
        }
    }
}

/// The doorbells of queue `id`: of its submission and of its completion ring.
///
/// Each through a window of the page that it lies in: what else the BAR holds (an MSI-X table,
/// often) may not be mapped, and would have the doorbells trapped with it.
pub(crate) fn doorbells(
    device: &Device,
    cap: Cap,
    id: u16,
) -> Result<(Doorbell, Doorbell), BarError> {
    const PAGE: u64 = 4096;
    let bar = device.bar(0)?;
    let at = |offset: usize| {
        let page = offset as u64 / PAGE * PAGE;
        let window = bar.window(page..(page + PAGE).min(bar.size()))?;
        let register = window.register32((offset as u64 - page) as usize);
        register.map(Doorbell::new).map_err(|error| BarError::Window {
            address: device.address().clone(),
            index: 0,
            error,
        })
    };
    let tail = at(submission_doorbell(id, cap.dstrd()))?;
    let head = at(completion_doorbell(id, cap.dstrd()))?;
    Ok((tail, head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_changes_the_state_and_a_phase_does_not_hide_it() {
        let first = State(0);
        assert_eq!(first.phase(), Phase::Running);
        let resetting = first.with_phase(Phase::Resetting);
        assert_eq!(resetting.phase(), Phase::Resetting);
        let second = resetting.after_reset().with_phase(Phase::Running);
        assert_eq!(second.phase(), Phase::Running);
        assert_ne!(first, second);
        assert_eq!(second.with_phase(Phase::Gone).phase(), Phase::Gone);
        assert_eq!(State(!3).after_reset(), State(0));
        let up = State(Phase::Resetting as u32).after_reset().with_phase(Phase::Running);
        assert_eq!((up.resets(), up.after_reset().resets()), (0, 1));
    }
}
