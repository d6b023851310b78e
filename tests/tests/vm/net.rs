//! QEMU's 82574L: two of them on one hub, both ours.

use std::time::{Duration, Instant};

use net_poll::e1000e::{E1000e, Queue};
use uniddrv::net::{Packet, PacketPool, Port, PortQueue, Reception};

use super::guest;

/// Two controllers on one hub.
const ONE: &str = "0000:00:13.0";
const OTHER: &str = "0000:00:14.0";

/// Bytes that differ from frame to frame, behind an Ethernet header.
fn frame(to: [u8; 6], seed: u64, len: usize) -> Vec<u8> {
    let header = [to, [2, 0, 0, 0, 0, 1]].concat();
    [header, vec![0x88, 0xb5], super::pattern(seed, len - 14)].concat()
}

fn start(port: &mut E1000e) -> Queue {
    let pool = PacketPool::new(port.dma(), 1024, 2048).unwrap();
    port.start_queue(0, 256, pool).unwrap()
}

fn fill(queue: &mut Queue, bytes: &[u8], packets: &mut Vec<Packet>) {
    let pieces = bytes.len().div_ceil(2048);
    for (index, piece) in bytes.chunks(2048).enumerate() {
        let mut packet = queue.pool().take().unwrap();
        assert!(packet.copy_from(piece));
        packet.more = index + 1 < pieces;
        packets.push(packet);
    }
}

fn spin(otherwise: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{otherwise}");
    }
}

#[test]
fn frames_of_all_sizes_go_from_one_to_the_other() {
    let Some(guest) = guest() else { return };
    let (mut one, mut other) =
        (E1000e::attach(guest.take(ONE)).unwrap(), E1000e::attach(guest.take(OTHER)).unwrap());
    assert_ne!(one.info().mac, other.info().mac);
    let to = other.info().mac.0;
    other.set_reception(Reception::default());
    spin("there is no link", || one.link().up && other.link().up);
    let (mut sender, mut receiver) = (start(&mut one), start(&mut other));
    let mut packets = Vec::new();
    let mut received = Vec::with_capacity(16);
    for seed in 0..2_000_u64 {
        let len = 60 + (seed * 7 % 1_455) as usize;
        let bytes = frame(to, seed, len);
        fill(&mut sender, &bytes, &mut packets);
        spin("it is not sent", || {
            sender.transmit(&mut packets);
            packets.is_empty()
        });
        spin("it is not received", || receiver.receive(&mut received, 16) > 0);
        let mut whole = Vec::new();
        for packet in received.drain(..) {
            whole.extend_from_slice(packet.as_slice());
            receiver.pool().give(packet);
        }
        assert!(whole == bytes, "frame {seed} of {len} bytes: {} came", whole.len());
    }
    assert_eq!((sender.statistics().sent, receiver.statistics().received), (2_000, 2_000));
    assert_eq!(receiver.statistics().bad, 0);
    drop((sender, receiver, one, other));
    guest.give_back(ONE);
    guest.give_back(OTHER);
}
