//! A device that writes whatever it likes into its rings.

use std::io;
use std::sync::Arc;

use net_poll::e1000e::E1000e;
use uniddrv::net::{MacAddress, Packet, PacketPool, Port, PortQueue};
use uniddrv::{Address, Device, InterruptKind};
use uniddrv_models::net::Loopback;
use uniddrv_models::{ConfigSpace, E1000e as Honest, Host, Inline, Model, ModelBar};
use uniddrv_spec::e1000e::Queue;

const OWN: MacAddress = MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const DESCRIPTORS: usize = 32;
const PACKETS: usize = 128;

struct Hostile {
    honest: Honest,
    random: u64,
}

impl Hostile {
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 8) % limit
    }

    fn register(&mut self, host: &mut Host, offset: usize) -> u64 {
        let mut bytes = [0; 4];
        self.honest.read_bar(host, 0, offset as u64, &mut bytes);
        u32::from_le_bytes(bytes).into()
    }
}

impl Model for Hostile {
    fn config(&mut self) -> &mut ConfigSpace {
        self.honest.config()
    }

    fn bar(&self, index: u8) -> ModelBar<'_> {
        self.honest.bar(index)
    }

    fn read_bar(&mut self, host: &mut Host, bar: u8, offset: u64, data: &mut [u8]) {
        self.honest.read_bar(host, bar, offset, data);
    }

    fn write_bar(&mut self, host: &mut Host, bar: u8, offset: u64, data: &[u8]) {
        self.honest.write_bar(host, bar, offset, data);
    }

    fn interrupts(&self, kind: InterruptKind) -> u32 {
        self.honest.interrupts(kind)
    }

    fn reset(&mut self, host: &mut Host) {
        self.honest.reset(host);
    }

    fn revoke(&mut self) -> io::Result<()> {
        self.honest.revoke()
    }

    fn present(&self) -> bool {
        true
    }

    fn poll(&mut self, host: &mut Host) -> bool {
        if self.below(4) == 0 {
            return self.honest.poll(host);
        }
        let queue = if self.below(2) == 0 { Queue::receive(0) } else { Queue::transmit(0) };
        let Some(queue) = queue else { return false };
        let base =
            self.register(host, queue.base_low()) | self.register(host, queue.base_high()) << 32;
        for _ in 0..8 {
            let descriptor = self.below(DESCRIPTORS as u64);
            // Length, status and errors, most of the time.
            let offset = if self.below(4) == 0 { self.below(16) } else { 8 + self.below(6) };
            let byte = match self.below(4) {
                0 => 0,
                1 => 0xff,
                2 => 3,
                _ => self.below(256) as u8,
            };
            let _ = host.memory.write(base + 16 * descriptor + offset, &[byte]);
        }
        true
    }
}

#[test]
fn a_device_that_scribbles_does_no_harm() {
    for seed in 1..=8_u64 {
        let honest = Honest::new(OWN, Box::new(Loopback::default()));
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let model = Arc::new(Inline::new(Hostile { honest, random }));
        let address: Address = "model:e1000e".parse().unwrap();
        let mut port = E1000e::attach(Device::new(model.clone(), address)).unwrap();
        let pool = PacketPool::new(port.dma(), PACKETS, 2_048).unwrap();
        let mut queue = port.start_queue(0, DESCRIPTORS, pool).unwrap();
        let mut packets: Vec<Packet> = Vec::with_capacity(16);
        let mut received: Vec<Packet> = Vec::with_capacity(16);
        let mut state = seed;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            while packets.len() < 8
                && let Some(mut packet) = queue.pool().take()
            {
                packet.set_len(60 + (state >> 40) as usize % 1_400);
                packet.as_mut_slice()[..6].copy_from_slice(&OWN.0);
                packet.more = state.is_multiple_of(5);
                packets.push(packet);
            }
            queue.transmit(&mut packets);
            model.poll();
            queue.receive(&mut received, 16);
            for packet in received.drain(..) {
                assert!(packet.len() <= 2_048 && packet.as_slice().len() == packet.len());
                queue.pool().give(packet);
            }
        }
        assert!(queue.statistics().bad > 0 && queue.statistics().received > 0);
        // No packet is in two places or in none.
        drop((packets, received));
        let mut left = Vec::new();
        while let Some(packet) = queue.pool().take() {
            left.push(packet);
        }
        let addresses: std::collections::BTreeSet<_> = left.iter().map(Packet::iova).collect();
        assert_eq!(addresses.len(), left.len());
        assert!(left.len() <= PACKETS - DESCRIPTORS);
    }
}
