//! Measuring a block device: `uniddrv bench`.
//!
//! | module | what it does |
//! |---|---|
//! | [`workload`] | which blocks are read and written, in which order |
//! | [`engine`] | the loop of one thread: submit, poll, take the time |
//! | [`latency`] | latencies counted in the loop, percentiles made of them afterwards |
//! | [`verify`] | what is written, and whether it is read back |
//! | [`run`] | threads on CPUs, progress, stopping, the sum of it all |
//! | [`session`] | a whole benchmark: fill, measure each depth, read back |
//! | [`cpu`] | which CPUs |
//! | [`calibrate`] | what the loop and the machine themselves cost |
//! | [`loss`], [`signature`] | what a writing benchmark would destroy |
//! | [`disk`], [`native`] | the same device while Linux has it, measured by fio |
//! | [`progress`], [`result`] | what is shown meanwhile, what is printed |
//! | [`verdict`] | how it ended |
//! | [`report`], [`chart`], [`machine`] | the HTML report |
//! | [`size`] | sizes as people write them |

pub(crate) mod calibrate;
pub(crate) mod chart;
pub(crate) mod cpu;
pub(crate) mod disk;
pub(crate) mod engine;
pub(crate) mod latency;
pub(crate) mod loss;
pub(crate) mod machine;
pub(crate) mod native;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod result;
pub(crate) mod run;
pub(crate) mod session;
pub(crate) mod signature;
pub(crate) mod size;
pub(crate) mod verdict;
pub(crate) mod verify;
pub(crate) mod workload;

#[cfg(test)]
pub(crate) mod fake;
