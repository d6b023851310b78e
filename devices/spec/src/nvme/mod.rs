//! NVM Express: Base specification 2.0, NVM Command Set 1.0, PCIe Transport 1.0.
//!
//! * [`registers`]: controller registers and doorbells
//! * [`shadow`]: doorbells in memory
//! * [`entry`]: submission and completion queue entries
//! * [`status`]: what a completion says of its command
//! * [`prp`], [`sgl`]: where a command's data lies
//! * [`admin`]: commands of the admin queue
//! * [`io`]: commands of I/O queues
//! * [`identify`]: what controllers and namespaces say of themselves
//! * [`log`]: what log pages say

pub mod admin;
pub mod entry;
pub mod identify;
pub mod io;
pub mod log;
pub mod prp;
pub mod registers;
pub mod sgl;
pub mod shadow;
pub mod status;

/// The namespace identifier that means all namespaces. NVMe Base 2.0 §3.2.1.
pub const BROADCAST: u32 = u32::MAX;
