//! A queue: a ring in each direction.

use std::sync::Arc;

use uniddrv::net::{Packet, PacketPool, PortError, PortQueue, QueueStatistics};
use uniddrv::{DmaRing, Register32};
use uniddrv_spec::e1000e::Queue as Registers;
use zerocopy::{FromBytes, IntoBytes};

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
        let registers = (Registers::receive(number), Registers::transmit(number));
        let (Some(receive), Some(transmit)) = registers else {
            return Err(PortError::Queue(format!("the device has no queue {number}")));
        };
        let transmitter = Transmitter::new(shared, transmit, descriptors)?;
        let receiver = Receiver::new(shared, receive, descriptors, &mut pool)?;
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

/// Makes an empty ring of `descriptors` descriptors, and tells the device of it. The ring, and the
/// register by which the device is told how far it may go.
pub(super) fn ring<T: FromBytes + IntoBytes + Copy>(
    shared: &Shared,
    place: Registers,
    descriptors: usize,
) -> Result<(DmaRing<T>, Register32), PortError> {
    let refused = |error: &dyn std::fmt::Display| PortError::Queue(error.to_string());
    let bytes = descriptors * size_of::<T>();
    let ring = DmaRing::<T>::new(shared.device.dma_buffer(bytes)?, descriptors);
    let ring = ring.map_err(|error| refused(&error))?;
    let registers = &shared.registers;
    let tail = registers.register32(place.tail()).map_err(|error| refused(&error))?;
    registers.write32(place.base_low(), ring.iova() as u32);
    registers.write32(place.base_high(), (ring.iova() >> 32) as u32);
    registers.write32(place.length(), bytes as u32);
    registers.write32(place.head(), 0);
    tail.write(0);
    Ok((ring, tail))
}
