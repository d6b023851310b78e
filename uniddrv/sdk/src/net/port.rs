//! The traits of ports and of their queues.

use std::sync::Arc;

use super::{MacAddress, Packet, PacketPool};
use crate::dma::{DmaError, DmaSpace};

/// What a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// What the device is called.
    pub model: &'static str,
    /// Its own address.
    pub mac: MacAddress,
    /// How many queues it has.
    pub queues: usize,
    /// The most descriptors of a queue, in each direction.
    pub most_descriptors: usize,
    /// The longest frame, in bytes from the destination address on, without the frame check
    /// sequence.
    pub most_frame: usize,
    /// Whether it verifies the checksums of IPv4, TCP and UDP in what it receives.
    pub verifies_checksums: bool,
    /// Whether it calculates them in what it sends.
    pub inserts_checksums: bool,
}

/// State of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether there is one.
    pub up: bool,
    /// How fast it is, in Mbit/s; 0 where that is not known.
    pub megabits: u32,
    /// Whether both sides may send at once.
    pub full_duplex: bool,
}

/// Which frames are received beside those to the port's own address and to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reception {
    /// Those to any address.
    pub promiscuous: bool,
    /// Those to any group.
    pub all_multicast: bool,
}

/// What a queue has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStatistics {
    /// Frames received.
    pub received: u64,
    /// Bytes of them, without frame check sequences.
    pub received_bytes: u64,
    /// Frames sent.
    pub sent: u64,
    /// Bytes of them, without frame check sequences.
    pub sent_bytes: u64,
    /// Frames that the device delivered damaged, longer than their buffers, or in pieces that do
    /// not fit together.
    pub bad: u64,
    /// Times that nothing was received because no packet was left in the pool.
    pub no_packet: u64,
    /// Frames that could not be sent: empty, too long, in too many pieces, or in memory that the
    /// device does not reach.
    pub refused: u64,
}

/// What a port cannot do.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// A queue that cannot be as it was asked for: why.
    #[error("{0}")]
    Queue(String),
    /// Memory for it is missing.
    #[error(transparent)]
    Dma(#[from] DmaError),
}

/// A port of a network controller.
pub trait Port: Send {
    /// Its queues.
    type Queue: PortQueue;

    /// What it is.
    fn info(&self) -> &PortInfo;

    /// The state of its link, asked of the device.
    fn link(&mut self) -> Link;

    /// Where the memory of packets has to be.
    fn dma(&self) -> &Arc<DmaSpace>;

    /// Starts queue `number` with `descriptors` descriptors in each direction, and packets of
    /// `pool` to receive into.
    ///
    /// # Errors
    /// Where there is no such queue, it runs, or the pool's packets are too small.
    fn start_queue(
        &mut self,
        number: usize,
        descriptors: usize,
        pool: PacketPool,
    ) -> Result<Self::Queue, PortError>;

    /// Changes which frames are received.
    fn set_reception(&mut self, reception: Reception);
}

/// A queue of a port, in both directions. It is one thread's.
pub trait PortQueue: Send {
    /// Appends what was received to `packets`, at most `most` packets and at most as many as it
    /// has capacity for. How many. A frame whose last packet is not there yet is not begun.
    ///
    /// What a device says that cannot be is counted as [`bad`](QueueStatistics::bad).
    fn receive(&mut self, packets: &mut Vec<Packet>, most: usize) -> usize;

    /// Sends from the front of `packets` as many as there is room for now, whole frames only. How
    /// many packets; the rest stays. Frames that cannot be sent are taken, and counted as
    /// [`refused`](QueueStatistics::refused).
    fn transmit(&mut self, packets: &mut Vec<Packet>) -> usize;

    /// Packets for what is to be sent, and for what was received once it was looked at.
    fn pool(&mut self) -> &mut PacketPool;

    /// What it has done.
    fn statistics(&self) -> QueueStatistics;
}
