//! The client library against a core and a driver in this process.
#![forbid(unsafe_code)]

mod asynchronous;
mod blocking;
mod data_path;
mod ending;
mod fake;
mod hostile;
mod opening;
mod polled;
mod renewal;
mod waiting;
