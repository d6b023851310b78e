//! Harming a driver while requests go through it, each byte checked: `uniddrv torture`.
//!
//! | module | what it does |
//! |---|---|
//! | [`content`] | what each unit of the device holds, and whether it is read back |
//! | [`load`] | the loop of requests: each has to end once |
//! | [`mix`] | which request comes next |
//! | [`watch`] | pauses between completions, seen by the load, asked for by the harm |
//! | [`harm`] | harming the driver at random, and seeing it recover |
//! | [`gap`] | how long a client waited, from pauses |
//! | [`stats`] | percentiles and histograms of times |
//! | [`result`], [`report`] | what is printed, and the HTML report |

pub(crate) mod content;
pub(crate) mod gap;
pub(crate) mod harm;
pub(crate) mod load;
pub(crate) mod mix;
pub(crate) mod report;
pub(crate) mod result;
pub(crate) mod stats;
pub(crate) mod watch;
