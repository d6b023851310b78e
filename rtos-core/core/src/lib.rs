//! The core of uniddrv: the one privileged process. It owns devices, memory,
//! CPU cores and names, and spawns and supervises the drivers.
//!
//! | module | what it knows |
//! |---|---|
//! | [`config`] | the configuration file, checked whole before anything is done |
//! | [`cpus`] | sets of CPUs |
//! | [`partition`] | the CPUs and memory that the core holds |
//! | [`socket`] | where clients come to, and who they are |
//! | [`notify`] | what systemd is told |
//! | [`device`] | devices, the memory they reach, and the driver processes they belong to |
//! | [`program`] | driver programs in sealed memory |
//! | [`sandbox`] | what a driver process is executed in |
//! | `core`, `event_loop` | the core as a whole, and what it waits for |
//! | `clients`, `connection`, `requests`, `names` | who comes, asks for what, and under which name |
//! | `supervise` | a device and its drivers: one that runs it, one that waits to take over |
//! | `driver`, `death`, `ledger`, `attachment` | what a supervisor has to do with |
//! | `context`, `ids`, `mailbox`, `signals` | what the event loop is made of |

#![forbid(unsafe_code)]

mod attachment;
mod clients;
mod connection;
mod context;
mod core;
mod death;
mod driver;
mod event_loop;
mod ids;
mod ledger;
mod mailbox;
mod names;
mod placement;
mod requests;
mod shares;
mod signals;
mod supervise;
mod voice;

pub mod config;
pub mod cpus;
pub mod device;
pub mod notify;
pub mod partition;
pub mod program;
pub mod sandbox;
pub mod socket;

pub use self::core::{Core, CoreError, Milestone, OnMilestone, Options};
pub use uniddrv_abi::message::Name;
