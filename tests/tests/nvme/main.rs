//! The NVMe driver on the NVMe model, in this process and over vfio-user.
//!
//! | module | what it tries |
//! |---|---|
//! | `commands` | every I/O command, by PRP and SGL, at several depths, with data checked |
//! | `admin` | identify, logs, features, format, events |
//! | `status` | every error status, of I/O and of admin commands |
//! | `faults` | every fault of the model, with a verdict on every request |
//! | `recovery` | resets and removal under load, on several threads at once |
//! | `limits` | what is refused, and what is just allowed |
//! | `lifetime` | attach, drop and attach again, in any order and from any state |
//! | `interrupts` | waiting for completions |
//! | `hostile` | a device that lies and writes where it should not |
//! | `data` | random work on two namespaces, checked against what was written |
//!
//! `ground`, `content` and `work` are what they share.

mod admin;
mod commands;
mod content;
mod data;
mod faults;
mod ground;
mod hostile;
mod interrupts;
mod lifetime;
mod limits;
mod recovery;
mod status;
mod work;
