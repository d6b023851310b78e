//! The controller as a client sees it: registers and queues of the inline transport, without
//! any driver.

mod admin;
mod bring_up;
mod client;
mod faults;
mod hostile;
mod io;
