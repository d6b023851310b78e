//! A model of Intel's 82574L. Section numbers are those of its datasheet, revision 3.4.
//!
//! It has one queue in each direction, legacy receive descriptors, and no interrupts yet.

mod receive;
mod registers;
mod transmit;

use std::io;

use uniddrv::InterruptKind;
use uniddrv::device::Identity;
use uniddrv::net::MacAddress;
use uniddrv_spec::e1000e::{BAR_SIZE, CLASS, DEVICE, VENDOR};

use crate::config_space::ConfigSpace;
use crate::host::Host;
use crate::model::{Model, ModelBar};
use crate::net::Wire;
use registers::Registers;
use transmit::Frame;

/// Descriptors that a poll deals with at most, in each direction.
const TURN: usize = 64;

/// The device.
pub struct E1000e {
    config: ConfigSpace,
    registers: Registers,
    wire: Box<dyn Wire>,
    /// What is being sent.
    frame: Frame,
    /// What was received.
    received: Vec<u8>,
}

impl E1000e {
    /// A device with this address, on this wire.
    pub fn new(mac: MacAddress, wire: Box<dyn Wire>) -> Self {
        let identity = Identity { vendor: VENDOR, device: DEVICE, class: CLASS, revision: 0 };
        let config = ConfigSpace::builder(identity).bar32(0, BAR_SIZE as u32).pci_express().build();
        let registers = Registers::new(mac);
        Self { config, registers, wire, frame: Frame::default(), received: Vec::new() }
    }
}

impl Model for E1000e {
    fn config(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bar(&self, index: u8) -> ModelBar<'_> {
        ModelBar { size: if index == 0 { BAR_SIZE as u64 } else { 0 }, shared: None }
    }

    fn read_bar(&mut self, _host: &mut Host, _bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (4, true) = (data.len(), offset.is_multiple_of(4)) {
            let value = self.registers.read(offset as usize, self.wire.is_up());
            data.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn write_bar(&mut self, host: &mut Host, _bar: u8, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        if !offset.is_multiple_of(4) {
            return;
        }
        if self.registers.write(offset as usize, u32::from_le_bytes(bytes)) {
            self.frame = Frame::default();
        }
        // What was announced is carried out at once, as far as one turn goes.
        if Registers::is_transmit_tail(offset as usize) {
            self.transmit(host);
        }
    }

    fn interrupts(&self, _kind: InterruptKind) -> u32 {
        0
    }

    fn reset(&mut self, _host: &mut Host) {
        self.config.reset();
        self.registers.reset();
        self.frame = Frame::default();
    }

    fn revoke(&mut self) -> io::Result<()> {
        // Nothing of it can be mapped.
        Ok(())
    }

    fn poll(&mut self, host: &mut Host) -> bool {
        let sent = self.transmit(host);
        self.receive(host) | sent
    }

    fn present(&self) -> bool {
        true
    }
}
