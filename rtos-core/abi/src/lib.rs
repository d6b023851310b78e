//! What crosses a process boundary: between a client, the core and a driver process.
//!
//! | module | what it holds |
//! |---|---|
//! | [`words`] | shared memory as 64-bit words |
//! | [`ring`] | rings of one producer and one consumer in it |
//! | [`queue`] | a client's queue: two rings, flags to sleep by, and an epoch |
//! | [`block`] | the entries of a block service's rings |
//! | [`ledger`] | what a driver process keeps for its successor |
//! | [`message`] | control messages |
//!
//! Nothing here maps memory or makes a system call. The other side of everything may be
//! hostile: what it wrote is copied once, checked, and only then used.
#![forbid(unsafe_code)]

pub mod block;
pub mod ledger;
pub mod message;
pub mod queue;
pub mod ring;
pub mod words;

pub use words::Words;
