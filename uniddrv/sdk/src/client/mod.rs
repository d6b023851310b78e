//! Programs that use a device by its name: `nvme:0/ns1`.
//!
//! [`Core::connect`] reaches the core, [`Core::open`] opens a name. What comes back is a
//! [`BlockClient`]: an arena that buffers are cut from, and queues in shared memory at whose
//! other end the driver polls. A queue is used in one of three ways:
//!
//! | type | how |
//! |---|---|
//! | [`ClientQueue`] | polled: [`BlockQueue`](crate::block::BlockQueue), as with a driver in the same process, and [`ClientQueue::wait`] to sleep |
//! | [`BlockingQueue`] | one request after the other, each method returning when it has ended |
//! | [`AsyncQueue`] | futures, for any executor |
//!
//! ```no_run
//! use uniddrv::block::{BlockQueue, Operation, Request};
//! use uniddrv::client::{Core, OpenOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let core = Core::connect()?;
//! let client = core.open("nvme:0/ns1", &OpenOptions::default())?;
//! let mut queue = client.take_queue().ok_or("no queue")?;
//! let buffer = Some(client.buffer(4096)?);
//! queue
//!     .submit(Request { operation: Operation::Read { lba: 0 }, buffer, tag: 7 })
//!     .map_err(|(error, _)| error)?;
//! let mut done = None;
//! while queue.poll(|completion| done = Some(completion)) == 0 {
//!     queue.wait(std::time::Duration::from_secs(1))?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The right to the device lives as long as any part of the [`BlockClient`]: itself, its queues.
//! A request that was accepted ends exactly once, also where the driver dies and another takes
//! over (nothing is to be seen of that but a pause), where the right is taken away, and where
//! the core ends ([`BlockError::Gone`](crate::block::BlockError::Gone)).

mod async_queue;
mod blocking;
mod capability;
mod core;
mod error;
mod link;
mod open;
mod path;
mod queue;
mod reactor;
mod requests;
mod slots;
mod wait;

pub use self::core::Core;
pub use async_queue::{AsyncQueue, DataFuture, RequestFuture};
pub use blocking::{BlockingQueue, RequestError};
pub use error::CoreError;
pub use open::{BlockClient, OpenOptions};
pub use path::socket_path;
pub use queue::ClientQueue;
pub use uniddrv_abi::message::{Death, DriverStatus, Harm, Holder, Name, Refusal, Rights, Target};
