//! Receiving. §7.1.

use std::sync::Arc;

use uniddrv::barrier::{observe_device, publish_to_device};
use uniddrv::net::{Checksums, Packet, PacketPool, PortError, QueueStatistics};
use uniddrv::{DmaRing, Register32};
use uniddrv_spec::e1000e::{
    MOST_FRAME, Queue as Registers, ReceiveControl, ReceiveDescriptor, ReceiveErrors, ReceiveStatus,
};

use super::{BUFFER, Shared, queue};

/// The most packets that a frame is in.
const PIECES: usize = MOST_FRAME.div_ceil(BUFFER) + 1;

/// A receive ring. Every descriptor has a packet; all but one are the device's.
pub(super) struct Receiver {
    ring: DmaRing<ReceiveDescriptor>,
    packets: Box<[Packet]>,
    /// The descriptor that the device fills next.
    next: usize,
    tail: Register32,
    /// The first packets of a frame whose last one is not there yet.
    begun: Vec<Packet>,
    /// The rest of a frame that is bad is let go.
    skipping: bool,
    shared: Arc<Shared>,
}

impl Receiver {
    pub(super) fn new(
        shared: &Arc<Shared>,
        place: Registers,
        descriptors: usize,
        pool: &mut PacketPool,
    ) -> Result<Self, PortError> {
        let (ring, tail) = queue::ring(shared, place, descriptors)?;
        let packets: Box<[Packet]> = std::iter::from_fn(|| pool.take()).take(descriptors).collect();
        if packets.len() < descriptors {
            let found = packets.len();
            return Err(PortError::Queue(format!(
                "each of {descriptors} descriptors takes a packet, and the pool has {found}"
            )));
        }
        for (index, packet) in packets.iter().enumerate() {
            ring.write(index, ReceiveDescriptor::buffer(packet.iova()));
        }
        shared.change(ReceiveControl::OFFSET, |bits| {
            ReceiveControl::from_bits(bits).with_enable(true).bits()
        });
        publish_to_device();
        tail.write(descriptors as u32 - 1);
        let begun = Vec::with_capacity(PIECES);
        Ok(Self { ring, packets, next: 0, tail, begun, skipping: false, shared: shared.clone() })
    }

    #[inline]
    pub(super) fn receive(
        &mut self,
        into: &mut Vec<Packet>,
        most: usize,
        pool: &mut PacketPool,
        statistics: &mut QueueStatistics,
    ) -> usize {
        let before = into.len();
        let room = most.min(into.capacity() - before);
        let start = self.next;
        // No more than the ring has: a device that never stops is left in time.
        for _ in 1..self.packets.len() {
            let word = self.ring.word(self.next, ReceiveDescriptor::STATUS_WORD);
            let status = ReceiveStatus::from_bits(word as u8);
            if !status.done() {
                break;
            }
            let taken = into.len() - before;
            if taken + self.begun.len() >= room {
                break;
            }
            let Some(fresh) = pool.take() else {
                statistics.no_packet += 1;
                break;
            };
            observe_device();
            let descriptor = self.ring.read(self.next);
            self.ring.write(self.next, ReceiveDescriptor::buffer(fresh.iova()));
            let packet = std::mem::replace(&mut self.packets[self.next], fresh);
            self.next += 1;
            if self.next == self.packets.len() {
                self.next = 0;
            }
            self.accept(packet, &descriptor, into, pool, statistics);
        }
        if self.next != start {
            publish_to_device();
            // All but the one before the next are the device's again.
            let last = if self.next == 0 { self.packets.len() } else { self.next } - 1;
            self.tail.write(last as u32);
        }
        into.len() - before
    }

    /// Takes a packet that the device has filled, as it says in `descriptor`.
    #[inline]
    fn accept(
        &mut self,
        mut packet: Packet,
        descriptor: &ReceiveDescriptor,
        into: &mut Vec<Packet>,
        pool: &mut PacketPool,
        statistics: &mut QueueStatistics,
    ) {
        let (status, errors) = (descriptor.status(), descriptor.errors());
        let length = usize::from(descriptor.length.get());
        let last = status.end_of_packet();
        let whole = last || self.begun.len() + 1 < PIECES;
        let good = (1..=BUFFER).contains(&length) && whole && !(last && errors.is_damaged());
        if self.skipping || !good {
            // One count for a frame, however many pieces are left of it.
            statistics.bad += u64::from(!self.skipping);
            self.skipping = !last;
            pool.give(packet);
            self.begun.drain(..).for_each(|packet| pool.give(packet));
            return;
        }
        packet.set_len(length);
        if !last {
            packet.more = true;
            self.begun.push(packet);
            return;
        }
        let checksums = checksums(status, errors);
        let mut bytes = length;
        if !self.begun.is_empty() {
            for mut packet in self.begun.drain(..) {
                bytes += packet.len();
                packet.checksums = checksums;
                into.push(packet);
            }
        }
        packet.checksums = checksums;
        into.push(packet);
        statistics.received += 1;
        statistics.received_bytes += bytes as u64;
    }

    /// No descriptor is touched any more once this returns.
    pub(super) fn stop(&self) {
        self.shared.change(ReceiveControl::OFFSET, |bits| {
            ReceiveControl::from_bits(bits).with_enable(false).bits()
        });
        // The frame that is being stored ends. §7.1.8.
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// What the device says of the checksums of a frame. §7.1.11.
#[inline]
fn checksums(status: ReceiveStatus, errors: ReceiveErrors) -> Checksums {
    if status.ignore_checksum() || !status.ip_checksum() && !status.tcp_checksum() {
        Checksums::Unknown
    } else if errors.ip() || errors.tcp() {
        Checksums::Bad
    } else if status.tcp_checksum() || status.udp_checksum() {
        Checksums::Good
    } else {
        Checksums::Unknown
    }
}
