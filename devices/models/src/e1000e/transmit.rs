//! Sending. §7.2.

use uniddrv_spec::e1000e::{
    Counter, DeviceControl, MOST_FRAME, Queue, TransmitContext, TransmitControl, TransmitData,
    TransmitStatus,
};
use zerocopy::{FromBytes, IntoBytes};

use super::registers::Ring;
use super::{E1000e, TURN};
use crate::host::Host;
use crate::net::checksum;

/// A frame whose last descriptor is not there yet.
#[derive(Debug, Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    /// It cannot be sent.
    bad: bool,
    /// Which checksums its first descriptor asks for; none where there was no descriptor yet.
    options: Option<u8>,
    context: TransmitContext,
}

impl E1000e {
    /// Carries out what the ring holds, one turn at most. Whether there was work.
    pub(super) fn transmit(&mut self, host: &mut Host) -> bool {
        let control = TransmitControl::from_bits(self.registers.get(TransmitControl::OFFSET));
        let device = DeviceControl::from_bits(self.registers.get(DeviceControl::OFFSET));
        if !control.enable() || device.master_disable() || !self.config.bus_master() {
            return false;
        }
        let Some(mut ring) = Ring::of(&self.registers, Queue::transmit(0)) else { return false };
        let turn = ring.available().min(TURN as u32);
        for _ in 0..turn {
            let mut bytes = [0; 16];
            if host.memory.read(ring.address(), &mut bytes).is_err() {
                // A real one is stopped by the IOMMU's fault just as well.
                return false;
            }
            self.descriptor(host, bytes, ring.address(), control);
            ring.advance(&mut self.registers);
        }
        turn > 0
    }

    fn descriptor(&mut self, host: &mut Host, bytes: [u8; 16], at: u64, control: TransmitControl) {
        let Ok(data) = TransmitData::read_from_bytes(&bytes) else { return };
        let command = data.command();
        if command.extended() && data.kind() != TransmitData::DATA {
            if let Ok(context) = TransmitContext::read_from_bytes(&bytes) {
                self.frame.context = context;
            }
        } else {
            // A legacy descriptor's length has 16 bits.
            let len = data.length() as usize & if command.extended() { 0xf_ffff } else { 0xffff };
            let options = if command.extended() { data.options } else { 0 };
            self.gather(host, data.address.get(), len, options);
            if command.end_of_packet() {
                self.finish(control);
            }
        }
        if command.report() {
            let status = TransmitStatus::from_bits(data.status).with_done(true).bits();
            // Nothing is lost where it cannot be written: the driver waits in vain.
            let _ = host.memory.write(at + TransmitData::STATUS_WORD as u64, status.as_bytes());
        }
    }

    fn gather(&mut self, host: &Host, address: u64, len: usize, options: u8) {
        let frame = &mut self.frame;
        frame.options.get_or_insert(options);
        let start = frame.bytes.len();
        if frame.bad || start + len > MOST_FRAME {
            frame.bad = true;
            return;
        }
        frame.bytes.resize(start + len, 0);
        frame.bad |= host.memory.read(address, &mut frame.bytes[start..]).is_err();
    }

    fn finish(&mut self, control: TransmitControl) {
        let frame = &mut self.frame;
        let options = frame.options.take().unwrap_or(0);
        if !frame.bad && !frame.bytes.is_empty() {
            let context = &frame.context;
            let end = |end: u16| if end == 0 { None } else { Some(usize::from(end) + 1) };
            let bytes = &mut frame.bytes;
            if options & TransmitData::IP_CHECKSUM != 0 {
                let (start, field) = (context.ip_start.into(), context.ip_offset.into());
                checksum::insert(bytes, start, end(context.ip_end.get()), field, true);
            }
            if options & TransmitData::L4_CHECKSUM != 0 {
                let (start, field) = (context.l4_start.into(), context.l4_offset.into());
                checksum::insert(bytes, start, end(context.l4_end.get()), field, false);
            }
            if control.pad_short() && bytes.len() < 60 {
                bytes.resize(60, 0);
            }
            let (len, first) = (bytes.len() as u64 + 4, bytes[0]);
            self.wire.send(bytes);
            self.registers.count(Counter::GoodSent, 1);
            self.registers.count(Counter::TotalSent, 1);
            self.registers.count(Counter::GoodBytesSent, len);
            if self.frame.bytes.starts_with(&[0xff; 6]) {
                self.registers.count(Counter::BroadcastSent, 1);
            } else if first & 1 == 1 {
                self.registers.count(Counter::MulticastSent, 1);
            }
        }
        self.frame.bytes.clear();
        self.frame.bad = false;
    }
}
