//! The driver of the 82574L on its model, in this process.

use std::collections::VecDeque;
use std::sync::Arc;

use net_poll::e1000e::{E1000e, Queue};
use uniddrv::net::{Checksums, Insert, MacAddress, Packet, PacketPool, Port, PortQueue, Reception};
use uniddrv::{Address, Device};
use uniddrv_models::net::{Cable, Loopback, Wire};
use uniddrv_models::{E1000e as Model, Inline};

const OWN: MacAddress = MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const OTHER: MacAddress = MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x57]);

/// A port on a model.
struct Bench {
    model: Arc<Inline<Model>>,
    port: E1000e,
    queue: Queue,
    /// Received, and not looked at yet.
    waiting: VecDeque<Packet>,
}

impl Bench {
    fn new(wire: impl Wire + 'static) -> Self {
        Self::with(wire, 64, 256)
    }

    fn with(wire: impl Wire + 'static, descriptors: usize, packets: usize) -> Self {
        let model = Arc::new(Inline::new(Model::new(OWN, Box::new(wire))));
        let address: Address = "model:e1000e".parse().unwrap();
        let mut port = E1000e::attach(Device::new(model.clone(), address)).unwrap();
        let pool = PacketPool::new(port.dma(), packets, 2048).unwrap();
        let queue = port.start_queue(0, descriptors, pool).unwrap();
        Self { model, port, queue, waiting: VecDeque::new() }
    }

    /// Sends a frame cut into packets of at most `piece` bytes.
    fn send(&mut self, frame: &[u8], piece: usize) {
        let mut packets = Vec::new();
        let count = frame.len().div_ceil(piece);
        for (index, part) in frame.chunks(piece).enumerate() {
            let mut packet = self.queue.pool().take().unwrap();
            assert!(packet.copy_from(part));
            packet.more = index + 1 < count;
            packets.push(packet);
        }
        assert_eq!(self.queue.transmit(&mut packets), count);
        while self.model.poll() {}
    }

    fn receive(&mut self, most: usize) -> Vec<Packet> {
        let mut packets = Vec::with_capacity(most);
        self.queue.receive(&mut packets, most);
        packets
    }

    /// The next frame, put together.
    fn frame(&mut self) -> Option<Vec<u8>> {
        let mut frame = Vec::new();
        let received = self.receive(8);
        self.waiting.extend(received);
        while let Some(packet) = self.waiting.pop_front() {
            frame.extend_from_slice(packet.as_slice());
            let more = packet.more;
            self.queue.pool().give(packet);
            if !more {
                return Some(frame);
            }
        }
        None
    }
}

/// Bytes that differ from frame to frame, behind an Ethernet header.
fn frame(to: MacAddress, seed: u64, len: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(len);
    frame.extend(to.0);
    frame.extend(OWN.0);
    frame.extend([0x88, 0xb5]);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while frame.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        frame.push(state as u8);
    }
    frame
}

#[test]
fn it_says_what_it_is_and_has_a_link() {
    let mut bench = Bench::new(Loopback::default());
    assert_eq!(bench.port.info().mac, OWN);
    let link = bench.port.link();
    assert!(link.up && link.full_duplex);
    assert_eq!(link.megabits, 1_000);
    let (one, other) = Cable::new();
    let mut bench = Bench::new(one);
    assert!(bench.port.link().up);
    drop(other);
    assert!(!bench.port.link().up);
}

#[test]
fn frames_of_every_size_come_back() {
    let mut bench = Bench::new(Loopback::default());
    let mut bytes = 0;
    for (seed, len) in (60..=2_200).chain([4_095, 4_096, 4_097, 8_999, 9_014]).enumerate() {
        let sent = frame(OWN, seed as u64, len);
        bench.send(&sent, 2_048);
        assert_eq!(bench.frame().as_ref(), Some(&sent), "{len} bytes");
        bytes += len as u64;
    }
    let statistics = bench.queue.statistics();
    assert_eq!((statistics.sent, statistics.received), (2_146, 2_146));
    assert_eq!((statistics.sent_bytes, statistics.received_bytes), (bytes, bytes));
    assert_eq!((statistics.bad, statistics.refused, statistics.no_packet), (0, 0, 0));
    // Everything is back but what the ring holds.
    bench.queue.transmit(&mut Vec::new());
    assert_eq!(bench.queue.pool().free(), 256 - 64);
}

#[test]
fn a_frame_in_many_pieces_is_one() {
    let mut bench = Bench::new(Loopback::default());
    for piece in [1, 7, 14, 60, 100] {
        let sent = frame(OWN, piece as u64, 62);
        bench.send(&sent, piece);
        assert_eq!(bench.frame(), Some(sent));
    }
}

#[test]
fn bursts_go_round_the_ring_in_order() {
    let mut bench = Bench::with(Loopback::default(), 64, 512);
    let (mut sent, mut received) = (0_u64, 0_u64);
    let mut packets = Vec::with_capacity(48);
    let mut back = Vec::with_capacity(48);
    while received < 20_000 {
        while packets.len() < 48 {
            let mut packet = bench.queue.pool().take().unwrap();
            assert!(packet.copy_from(&frame(OWN, sent, 60 + (sent % 400) as usize)));
            packets.push(packet);
            sent += 1;
        }
        bench.queue.transmit(&mut packets);
        bench.model.poll();
        bench.queue.receive(&mut back, 48);
        for packet in back.drain(..) {
            let expected = frame(OWN, received, 60 + (received % 400) as usize);
            assert_eq!(packet.as_slice(), expected, "frame {received}");
            received += 1;
            bench.queue.pool().give(packet);
        }
    }
}

#[test]
fn a_frame_is_received_whole_or_not_yet() {
    let mut bench = Bench::new(Loopback::default());
    let sent = frame(OWN, 1, 5_000);
    bench.send(&sent, 2_048);
    // Three packets: not where there is room for two.
    assert!(bench.receive(2).is_empty());
    let packets = bench.receive(3);
    assert_eq!(packets.iter().map(|packet| packet.more).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(packets.iter().map(Packet::len).sum::<usize>(), 5_000);
}

#[test]
fn only_what_was_asked_for_is_received() {
    let mut bench = Bench::new(Loopback::default());
    let group = MacAddress([0x01, 0, 0x5e, 0, 0, 1]);
    let mut received = |reception: Reception| {
        bench.port.set_reception(reception);
        [OWN, OTHER, group, MacAddress::BROADCAST].map(|to| {
            bench.send(&frame(to, 1, 60), 2_048);
            bench.frame().is_some()
        })
    };
    assert_eq!(received(Reception::default()), [true, false, false, true]);
    let groups = Reception { all_multicast: true, ..Reception::default() };
    assert_eq!(received(groups), [true, false, true, true]);
    let all = Reception { promiscuous: true, ..Reception::default() };
    assert_eq!(received(all), [true; 4]);
    assert_eq!(received(Reception::default()), [true, false, false, true]);
}

/// A UDP datagram in IPv4 with the sum of the pseudo header where the checksum belongs.
fn datagram(payload: &[u8]) -> (Vec<u8>, Insert) {
    let mut frame = Vec::new();
    frame.extend(OWN.0);
    frame.extend(OWN.0);
    let (udp, ip) = (8 + payload.len() as u16, 28 + payload.len() as u16);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(ip.to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x03, 0xe8, 0x07, 0xd0]);
    frame.extend(udp.to_be_bytes());
    let pseudo = 0x0a00 + 1 + 0x0a00 + 2 + 17 + u32::from(udp);
    frame.extend((pseudo as u16).to_be_bytes());
    frame.extend(payload);
    (frame, Insert { ip: 14, ipv4: true, l4: 34, tcp: false })
}

#[test]
fn checksums_are_inserted_and_verified() {
    let mut bench = Bench::new(Loopback::default());
    for round in 0_u8..5 {
        let (bytes, insert) = datagram(&[round; 100]);
        let mut packet = bench.queue.pool().take().unwrap();
        assert!(packet.copy_from(&bytes));
        packet.checksums = Checksums::Insert(insert);
        assert_eq!(bench.queue.transmit(&mut vec![packet]), 1);
        while bench.model.poll() {}
        let mut back = bench.receive(1).pop().unwrap();
        assert_eq!(back.checksums, Checksums::Good);
        assert_ne!(back.as_slice(), bytes);
        assert_eq!(back.as_slice()[42..], bytes[42..]);
        // Sent on as it is, with one bit wrong.
        back.as_mut_slice()[50] ^= 1;
        back.checksums = Checksums::Unknown;
        assert_eq!(bench.queue.transmit(&mut vec![back]), 1);
        while bench.model.poll() {}
        assert_eq!(bench.receive(1).pop().unwrap().checksums, Checksums::Bad);
    }
    bench.send(&frame(OWN, 1, 100), 2_048);
    assert_eq!(bench.receive(1).pop().unwrap().checksums, Checksums::Unknown);
}

#[test]
fn what_cannot_be_sent_is_refused_and_the_rest_goes() {
    let mut bench = Bench::new(Loopback::default());
    let other = Bench::new(Loopback::default());
    let mut packets = Vec::new();
    let mut add = |packet: Option<Packet>, bytes: &[u8], more: bool| {
        let mut packet = packet.unwrap();
        assert!(packet.copy_from(bytes));
        packet.more = more;
        packets.push(packet);
    };
    // Empty.
    add(bench.queue.pool().take(), &[], false);
    add(bench.queue.pool().take(), &frame(OWN, 1, 60), false);
    // Too long.
    for index in 0..5 {
        add(bench.queue.pool().take(), &[0; 2_048], index < 4);
    }
    // In more pieces than the ring has.
    for index in 0..70 {
        add(bench.queue.pool().take(), &[0], index < 69);
    }
    // In another device's memory.
    let mut foreign = PacketPool::new(other.port.dma(), 1, 2_048).unwrap();
    add(foreign.take(), &frame(OWN, 1, 60), false);
    add(bench.queue.pool().take(), &frame(OWN, 2, 60), false);
    // Without its end: it stays.
    add(bench.queue.pool().take(), &[1; 60], true);
    assert_eq!(bench.queue.transmit(&mut packets), 79);
    assert_eq!(packets.len(), 1);
    while bench.model.poll() {}
    assert_eq!(bench.frame(), Some(frame(OWN, 1, 60)));
    assert_eq!(bench.frame(), Some(frame(OWN, 2, 60)));
    assert_eq!(bench.frame(), None);
    let statistics = bench.queue.statistics();
    assert_eq!((statistics.sent, statistics.refused), (2, 4));
    assert_eq!(foreign.free(), 1);
}

#[test]
fn a_full_ring_takes_no_more_until_the_device_has_sent() {
    let (one, _other) = Cable::new();
    let mut bench = Bench::with(one, 64, 512);
    // Nothing is sent at once: the model carries out 64 descriptors for each tail that it sees.
    let mut packets: Vec<_> = (0..200)
        .map(|number| {
            let mut packet = bench.queue.pool().take().unwrap();
            assert!(packet.copy_from(&frame(OTHER, number, 60)));
            packet
        })
        .collect();
    let first = bench.queue.transmit(&mut packets);
    assert!(first <= 63, "{first}");
    while !packets.is_empty() {
        bench.model.poll();
        bench.queue.transmit(&mut packets);
    }
    assert_eq!(bench.queue.statistics().sent, 200);
}

#[test]
fn without_packets_nothing_is_received_and_nothing_is_lost_that_there_was_room_for() {
    let mut bench = Bench::with(Loopback::default(), 8, 16);
    let mut kept = Vec::new();
    for number in 0..7 {
        bench.send(&frame(OWN, number, 60), 2_048);
    }
    kept.extend(bench.receive(16));
    assert_eq!(kept.len(), 7);
    bench.queue.transmit(&mut Vec::new());
    while let Some(packet) = bench.queue.pool().take() {
        kept.push(packet);
    }
    let mut last = kept.pop().unwrap();
    assert!(last.copy_from(&frame(OWN, 9, 60)));
    assert_eq!(bench.queue.transmit(&mut vec![last]), 1);
    while bench.model.poll() {}
    assert!(bench.receive(16).is_empty());
    assert_eq!(bench.queue.statistics().no_packet, 1);
    for packet in kept {
        bench.queue.pool().give(packet);
    }
    assert_eq!(bench.frame(), Some(frame(OWN, 9, 60)));
}

#[test]
fn queues_that_cannot_be_are_refused() {
    let mut bench = Bench::new(Loopback::default());
    let dma = bench.port.dma().clone();
    let mut start = |number, descriptors, packets, room| {
        let pool = PacketPool::new(&dma, packets, room).unwrap();
        bench.port.start_queue(number, descriptors, pool).err().unwrap()
    };
    assert_eq!(start(0, 64, 64, 2_048).to_string(), "queue 0 was started before");
    let error = start(1, 64, 64, 2_048);
    assert_eq!(error.to_string(), "there is no queue 1: the port has 1");
    let model = Arc::new(Inline::new(Model::new(OWN, Box::new(Loopback::default()))));
    let address: Address = "model:e1000e".parse().unwrap();
    let mut port = E1000e::attach(Device::new(model, address)).unwrap();
    let dma = port.dma().clone();
    for (descriptors, packets, room) in
        [(0, 64, 2_048), (12, 64, 2_048), (1 << 20, 64, 2_048), (64, 63, 2_048), (64, 64, 1_984)]
    {
        let pool = PacketPool::new(&dma, packets, room).unwrap();
        assert!(port.start_queue(0, descriptors, pool).is_err(), "{descriptors} {packets} {room}");
    }
}
