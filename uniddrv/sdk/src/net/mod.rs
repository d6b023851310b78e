//! The network port: what drivers of network controllers implement and programs use.
//!
//! A port has queues, each of which is one thread's. Frames are passed in bursts of packets that
//! move: a port that sends a packet has it until it was sent, and gives it to the queue's pool
//! then. Nothing here waits, allocates or calls the kernel.

mod mac;
#[expect(unsafe_code)]
mod packet;
mod port;

pub use mac::MacAddress;
pub use packet::{Checksums, Insert, Packet, PacketPool};
pub use port::{Link, Port, PortError, PortInfo, PortQueue, QueueStatistics, Reception};
