//! Polled drivers of network controllers. All of them are ports ([`uniddrv::net`]).
//!
//! | module | devices |
//! |---|---|
//! | [`e1000e`] | Intel 82574L |
#![forbid(unsafe_code)]

pub mod e1000e;
