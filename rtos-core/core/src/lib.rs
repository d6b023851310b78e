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

#![forbid(unsafe_code)]

pub mod config;
pub mod cpus;
pub mod device;
pub mod notify;
pub mod partition;
pub mod program;
pub mod sandbox;
pub mod socket;
