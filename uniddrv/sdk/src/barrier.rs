//! The order of memory accesses between a CPU and a device.
//!
//! A device reads and writes memory behind the compiler's back. Two points need an order:
//! what the CPU has written must be visible before the doorbell that announces it, and what
//! the device has written must be read after the flag that announces it. Queues and rings
//! hold only volatile accesses, so a fence between them is all that is needed. On x86-64,
//! stores are seen in order and loads are done in order (Intel SDM volume 3, §9.2.2), also by
//! devices, so both fences cost no instruction there; elsewhere they are real ones.

use std::sync::atomic::{Ordering, fence};

/// Everything written before is visible to the device before what is written after.
///
/// Stands between the last store to a queue entry and the doorbell.
#[inline(always)]
pub fn publish_to_device() {
    fence(Ordering::Release);
}

/// Everything read after was written by the device no earlier than what was read before.
///
/// Stands between the load of a phase bit or index and the loads that it allows.
#[inline(always)]
pub fn observe_device() {
    fence(Ordering::Acquire);
}

/// What was written before is visible to the device before what is read after.
///
/// Stands between publishing an index and asking whether the other side sleeps (event index
/// of shadow doorbells): a store and a later load, which even x86-64 may swap.
#[inline(always)]
pub fn publish_then_ask() {
    fence(Ordering::SeqCst);
}
