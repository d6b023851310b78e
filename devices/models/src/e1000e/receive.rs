//! Receiving. §7.1.

use uniddrv_spec::e1000e::{
    ChecksumControl, Counter, DeviceControl, MOST_FRAME, Queue, ReceiveControl, ReceiveDescriptor,
    ReceiveErrors, ReceiveStatus,
};
use zerocopy::{FromBytes, IntoBytes};

use super::registers::Ring;
use super::{E1000e, TURN};
use crate::host::Host;
use crate::net::checksum;

/// The longest frame without [`ReceiveControl::long_packets`], without its frame check sequence.
const USUAL: usize = 1_518;

impl E1000e {
    /// Takes what the wire has, one turn at most. Whether there was something.
    pub(super) fn receive(&mut self, host: &mut Host) -> bool {
        let mut work = false;
        let mut frame = std::mem::take(&mut self.received);
        for _ in 0..TURN {
            frame.clear();
            if !self.wire.receive(&mut frame) {
                break;
            }
            work = true;
            self.deliver(host, &frame);
        }
        self.received = frame;
        work
    }

    fn deliver(&mut self, host: &mut Host, frame: &[u8]) {
        let control = ReceiveControl::from_bits(self.registers.get(ReceiveControl::OFFSET));
        let device = DeviceControl::from_bits(self.registers.get(DeviceControl::OFFSET));
        if !control.enable() || device.master_disable() || !self.config.bus_master() {
            return;
        }
        self.registers.count(Counter::TotalReceived, 1);
        let most = if control.long_packets() { MOST_FRAME } else { USUAL };
        if frame.len() < 60 || frame.len() > most {
            let counter = if frame.len() < 60 { Counter::Undersized } else { Counter::Oversized };
            return self.registers.count(counter, 1);
        }
        if !self.wants(frame, control) {
            return;
        }
        let Some(size) = control.buffer_size() else { return };
        let ring = Ring::of(&self.registers, Queue::receive(0));
        let needed = frame.len().div_ceil(size);
        let Some(mut ring) = ring.filter(|ring| ring.available() as usize >= needed) else {
            self.registers.count(Counter::NoBuffer, 1);
            return self.registers.count(Counter::MissedPackets, 1);
        };
        let (status, errors) = self.verdict(frame);
        let mut pieces = frame.chunks(size).peekable();
        while let Some(piece) = pieces.next() {
            let mut bytes = [0; 16];
            if host.memory.read(ring.address(), &mut bytes).is_err() {
                return;
            }
            let Ok(mut descriptor) = ReceiveDescriptor::read_from_bytes(&bytes) else { return };
            if host.memory.write(descriptor.address.get(), piece).is_err() {
                return;
            }
            let last = pieces.peek().is_none();
            descriptor.length = (piece.len() as u16).into();
            descriptor.status = status.with_done(true).with_end_of_packet(last).bits();
            descriptor.errors = if last { errors.bits() } else { 0 };
            // The status comes last: with it the rest is there.
            let address = ring.address();
            let word = ReceiveDescriptor::STATUS_WORD;
            let bytes = descriptor.as_bytes();
            if host.memory.write(address, &bytes[..word]).is_err()
                || host.memory.write(address + word as u64, &bytes[word..]).is_err()
            {
                return;
            }
            ring.advance(&mut self.registers);
        }
        self.registers.count(Counter::GoodReceived, 1);
        self.registers.count(Counter::GoodBytesReceived, frame.len() as u64 + 4);
        if frame.starts_with(&[0xff; 6]) {
            self.registers.count(Counter::BroadcastReceived, 1);
        } else if frame[0] & 1 == 1 {
            self.registers.count(Counter::MulticastReceived, 1);
        }
    }

    fn wants(&self, frame: &[u8], control: ReceiveControl) -> bool {
        let (to, own) = (&frame[..6], self.registers.station());
        if to == [0xff; 6] {
            control.broadcast()
        } else if to[0] & 1 == 1 {
            control.all_multicast()
        } else {
            control.all_unicast() || own.is_some_and(|own| to == own.0)
        }
    }

    fn verdict(&self, frame: &[u8]) -> (ReceiveStatus, ReceiveErrors) {
        let wanted = ChecksumControl::from_bits(self.registers.get(ChecksumControl::OFFSET));
        let found = checksum::verify(frame);
        let ip = found.ip.filter(|_| wanted.ip());
        let l4 = found.l4.filter(|_| wanted.tcp_udp());
        let status = ReceiveStatus::default()
            .with_ip_checksum(ip.is_some())
            .with_tcp_checksum(l4.is_some())
            .with_udp_checksum(l4.is_some() && found.udp);
        let errors =
            ReceiveErrors::default().with_ip(ip == Some(false)).with_tcp(l4 == Some(false));
        (status, errors)
    }
}
