//! Sending. §7.2.

use std::sync::Arc;

use uniddrv::barrier::publish_to_device;
use uniddrv::dma::DmaSpace;
use uniddrv::net::{Checksums, Insert, Packet, PacketPool, PortError, QueueStatistics};
use uniddrv::{DmaRing, Register32};
use uniddrv_spec::e1000e::{
    MOST_FRAME, Queue as Registers, TransmitCommand, TransmitContext, TransmitControl,
    TransmitData, TransmitDescriptorControl, TransmitStatus,
};

use super::{Shared, queue};

/// After so many descriptors the device reports that it is done with them all.
const BATCH: usize = 32;

/// A frame that is to be sent.
#[derive(Clone, Copy)]
struct Frame {
    /// How many packets it is in.
    pieces: usize,
    bytes: usize,
    /// Whether it can be sent.
    good: bool,
}

/// A transmit ring.
pub(super) struct Transmitter {
    ring: DmaRing<TransmitData>,
    /// The packet of each descriptor that has one.
    packets: Box<[Option<Packet>]>,
    /// For the first descriptor of a batch, the last one: the one that is reported.
    ends: Box<[u32]>,
    /// The first descriptor that the device has not reported.
    oldest: usize,
    /// The next one to be written.
    next: usize,
    /// The first one of the batch that is being written.
    batch: usize,
    /// What the device was told of checksums last.
    context: Option<Insert>,
    /// The frames of a burst.
    planned: Vec<Frame>,
    dma: Arc<DmaSpace>,
    tail: Register32,
    shared: Arc<Shared>,
}

impl Transmitter {
    pub(super) fn new(
        shared: &Arc<Shared>,
        place: Registers,
        descriptors: usize,
    ) -> Result<Self, PortError> {
        let (ring, tail) = queue::ring(shared, place, descriptors)?;
        let control = TransmitDescriptorControl::default()
            .with_prefetch(31)
            .with_host(1)
            .with_counted(true)
            .with_descriptors(true);
        shared.registers.write32(place.control(), control.bits());
        shared.change(TransmitControl::OFFSET, |bits| {
            TransmitControl::from_bits(bits).with_enable(true).bits()
        });
        Ok(Self {
            ring,
            packets: (0..descriptors).map(|_| None).collect(),
            ends: vec![0; descriptors].into(),
            oldest: 0,
            next: 0,
            batch: 0,
            context: None,
            planned: Vec::with_capacity(descriptors),
            dma: shared.device.dma().clone(),
            tail,
            shared: shared.clone(),
        })
    }

    #[inline]
    pub(super) fn transmit(
        &mut self,
        from: &mut Vec<Packet>,
        pool: &mut PacketPool,
        statistics: &mut QueueStatistics,
    ) -> usize {
        self.reap(pool);
        let (taken, last_good) = self.plan(from);
        let mut packets = from.drain(..taken);
        let start = self.next;
        for number in 0..self.planned.len() {
            let Frame { pieces, bytes, good } = self.planned[number];
            let mut pieces = packets.by_ref().take(pieces);
            if !good {
                statistics.refused += 1;
                pieces.for_each(|packet| pool.give(packet));
                continue;
            }
            statistics.sent += 1;
            statistics.sent_bytes += bytes as u64;
            let Some(first) = pieces.next() else { continue };
            self.write_frame(first, pieces, Some(number) == last_good);
        }
        drop(packets);
        self.planned.clear();
        if self.next != start {
            publish_to_device();
            self.tail.write(self.next as u32);
        }
        taken
    }

    /// Settles which frames go now: how many packets they are, and which frame is the last one
    /// that is sent.
    #[inline]
    fn plan(&mut self, from: &[Packet]) -> (usize, Option<usize>) {
        let mut room = self.room();
        let mut context = self.context;
        let (mut taken, mut last_good) = (0, None);
        while self.planned.len() < self.planned.capacity()
            && let Some(mut frame) = Frame::first(from.get(taken..).unwrap_or_default(), &self.dma)
        {
            let insert = match from[taken].checksums {
                Checksums::Insert(insert) => Some(insert),
                _ => None,
            };
            let anew = insert.is_some() && insert != context;
            let descriptors = frame.pieces + usize::from(anew);
            frame.good &= descriptors < self.packets.len();
            if frame.good {
                if descriptors > room {
                    break;
                }
                room -= descriptors;
                context = insert.or(context);
                last_good = Some(self.planned.len());
            }
            taken += frame.pieces;
            self.planned.push(frame);
        }
        (taken, last_good)
    }

    /// Writes the descriptors of a frame for which there is room.
    #[inline]
    fn write_frame(&mut self, first: Packet, others: impl Iterator<Item = Packet>, last: bool) {
        let mut options = 0;
        if let Checksums::Insert(insert) = first.checksums {
            if self.context != Some(insert) {
                self.context = Some(insert);
                self.write(None, context(insert));
            }
            options = TransmitData::L4_CHECKSUM;
            if insert.ipv4 {
                options |= TransmitData::IP_CHECKSUM;
            }
        }
        let mut packet = first;
        for next in others {
            self.write_piece(packet, options, false, false);
            packet = next;
        }
        let used = self.distance(self.batch, self.next) + 1;
        let report = last || used >= BATCH;
        self.write_piece(packet, options, true, report);
        if report {
            let end = if self.next == 0 { self.packets.len() } else { self.next } - 1;
            self.ends[self.batch] = end as u32;
            self.batch = self.next;
        }
    }

    #[inline]
    fn write_piece(&mut self, packet: Packet, options: u8, end: bool, report: bool) {
        let command = TransmitCommand::default()
            .with_insert_crc(true)
            .with_end_of_packet(end)
            .with_report(report);
        let descriptor = TransmitData::new(packet.iova(), packet.len() as u32, command, options);
        self.write(Some(packet), descriptor);
    }

    #[inline]
    fn write(&mut self, packet: Option<Packet>, descriptor: TransmitData) {
        self.ring.write(self.next, descriptor);
        self.packets[self.next] = packet;
        self.next += 1;
        if self.next == self.packets.len() {
            self.next = 0;
        }
    }

    /// Takes back what was sent.
    #[inline]
    fn reap(&mut self, pool: &mut PacketPool) {
        // Each batch is reported by its last descriptor.
        while self.oldest != self.batch {
            let end = self.ends[self.oldest] as usize;
            let word = self.ring.word(end, TransmitData::STATUS_WORD);
            if !TransmitStatus::from_bits(word as u8).done() {
                break;
            }
            loop {
                let index = self.oldest;
                if let Some(packet) = self.packets[index].take() {
                    pool.give(packet);
                }
                self.oldest = if index + 1 == self.packets.len() { 0 } else { index + 1 };
                if index == end {
                    break;
                }
            }
        }
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.packets.len() - from }
    }

    /// Descriptors that may be written: one always stays empty, or a full ring would look like
    /// an empty one.
    fn room(&self) -> usize {
        self.packets.len() - 1 - self.distance(self.oldest, self.next)
    }

    /// No descriptor and no packet is touched any more once this returns.
    pub(super) fn stop(&self) {
        self.shared.change(TransmitControl::OFFSET, |bits| {
            TransmitControl::from_bits(bits).with_enable(false).bits()
        });
        // The frame that is being sent ends: at 10 Mbit/s a jumbo frame takes 7 ms.
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

impl Frame {
    /// The first frame of `packets`; nothing where its last packet is not there.
    #[inline]
    fn first(packets: &[Packet], dma: &Arc<DmaSpace>) -> Option<Self> {
        let (mut bytes, mut good) = (0, true);
        for (index, packet) in packets.iter().enumerate() {
            bytes += packet.len();
            good &= !packet.is_empty() && packet.is_of(dma);
            if !packet.more {
                good &= bytes <= MOST_FRAME;
                return Some(Self { pieces: index + 1, bytes, good });
            }
        }
        None
    }
}

/// The descriptor that tells of `insert`.
#[cold]
fn context(insert: Insert) -> TransmitData {
    let mut kinds = 0;
    if insert.tcp {
        kinds |= TransmitContext::TCP;
    }
    if insert.ipv4 {
        kinds |= TransmitContext::IPV4;
    }
    let ip = (insert.ip, u16::from(insert.l4).saturating_sub(1));
    let context = TransmitContext::checksums(ip, (insert.l4, insert.field()), kinds);
    context.into()
}
