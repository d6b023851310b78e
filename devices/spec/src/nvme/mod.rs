//! NVM Express: Base specification 2.0, NVM Command Set 1.0, PCIe Transport 1.0.
//!
//! * [`registers`]: controller registers and doorbells
//! * [`entry`]: submission and completion queue entries
//! * [`status`]: what a completion says of its command
//! * [`identify`]: what controllers and namespaces say of themselves

pub mod entry;
pub mod identify;
pub mod registers;
pub mod status;
