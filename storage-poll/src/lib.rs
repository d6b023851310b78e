//! A polled NVMe driver in safe Rust.
//!
//! | module | what it holds |
//! |---|---|
//! | `controller` | [`Controller`]: bring-up, identity, queues |
//! | `bring_up` | CC.EN, CSTS.RDY, and what is configured before I/O |
//! | `admin` | the admin queue; queues created and deleted; resets |
//! | `shared` | what the controller and its queues share; its state |
//! | `io_queue` | [`IoQueue`]: one thread's queue pair; timeouts, aborts, resets, waiting |
//! | `queue` | rings, slots and data pointers as one |
//! | `rings` | entries, indices, phase, doorbells |
//! | `doorbell` | registers and shadow doorbells |
//! | `slots` | commands on their way, by identifier |
//! | `data` | PRPs and SGLs |
//! | `memory` | where queues get their memory from |
//! | [`served`] | the driver as a process of the core, which its successor adopts |
//! | `namespace` | [`Namespace`] and the commands on it |
//! | `block` | [`NamespaceQueue`]: the block service |
//! | `logs`, `features`, `format` | admin commands that are not part of I/O |
//!
//! Section numbers are those of the NVM Express Base Specification 2.0 and the NVM Command Set
//! Specification 1.0.
#![forbid(unsafe_code)]

mod admin;
mod block;
mod bring_up;
mod controller;
mod data;
mod doorbell;
mod error;
mod features;
mod format;
mod io_queue;
pub mod logs;
mod memory;
mod namespace;
mod options;
mod queue;
mod rings;
pub mod served;
mod shared;
mod slots;
#[cfg(test)]
mod testing;

pub use block::NamespaceQueue;
pub use controller::{CLASS, Controller};
pub use error::{CommandError, ControllerError};
pub use format::FormatOptions;
pub use io_queue::{Completed, IoQueue};
pub use namespace::{Command, Metadata, Namespace};
pub use options::Options;
