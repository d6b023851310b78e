//! Workers with servers in this process and fakes, and driver processes of all kinds.

mod hostile;
mod memory;
mod refused;
mod returns;
mod session;
