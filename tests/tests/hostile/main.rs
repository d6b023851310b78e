//! A core with the real NVMe driver, among clients and drivers that mean harm. Whatever they do,
//! the core lives, the driver goes on as the same process where it is a client's doing, and a
//! client that behaves is not disturbed.

#![forbid(unsafe_code)]

mod crowds;
mod forged;
mod host;
mod liars;
mod messages;
mod rings;
mod scene;
mod shortage;
mod users;
mod wakes;
