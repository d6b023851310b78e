//! A queue: a ring in each direction.

use std::sync::Arc;

use uniddrv::net::{Packet, PacketPool, PortError, PortQueue, QueueStatistics};

use super::Shared;
use super::receive::Receiver;
use super::transmit::Transmitter;

/// A queue of an [`E1000e`](super::E1000e).
pub struct Queue {
    receiver: Receiver,
    transmitter: Transmitter,
    pool: PacketPool,
    statistics: QueueStatistics,
    // Dropped last: stops the device before the memory goes.
    _shared: Arc<Shared>,
}

impl Queue {
    pub(super) fn start(
        shared: &Arc<Shared>,
        number: usize,
        descriptors: usize,
        mut pool: PacketPool,
    ) -> Result<Self, PortError> {
        let transmitter = Transmitter::new(shared, number, descriptors)?;
        let receiver = Receiver::new(shared, number, descriptors, &mut pool)?;
        let statistics = QueueStatistics::default();
        Ok(Self { receiver, transmitter, pool, statistics, _shared: shared.clone() })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.receiver.stop();
        self.transmitter.stop();
    }
}

impl PortQueue for Queue {
    #[inline]
    fn receive(&mut self, packets: &mut Vec<Packet>, most: usize) -> usize {
        self.receiver.receive(packets, most, &mut self.pool, &mut self.statistics)
    }

    #[inline]
    fn transmit(&mut self, packets: &mut Vec<Packet>) -> usize {
        self.transmitter.transmit(packets, &mut self.pool, &mut self.statistics)
    }

    fn pool(&mut self) -> &mut PacketPool {
        &mut self.pool
    }

    fn statistics(&self) -> QueueStatistics {
        self.statistics
    }
}
