//! A model of QEMU's `edu` device, register by register. QEMU documentation, `docs/specs/edu`.
//!
//! It differs in time only: QEMU's computes in a thread and waits 100 ms before a transfer,
//! this one has finished when the write that started it returns.

use std::io;

use uniddrv::InterruptKind;
use uniddrv::device::Identity;
use uniddrv_spec::edu::{
    BAR_SIZE, BUFFER, BUFFER_SIZE, DEVICE, DMA_MASK, DmaCommand, DmaCount, DmaDestination,
    DmaSource, Factorial, Identification, Interrupts, Liveness, Status, VENDOR,
};

use crate::config_space::ConfigSpace;
use crate::host::Host;
use crate::model::{Model, ModelBar};

/// "Unclassified device", as QEMU's. PCI Code and ID Assignment §1.1.
const CLASS: u32 = 0x00_ff00;
/// The revision of QEMU's.
const REVISION: u8 = 0x10;

/// What an [`Edu`] does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It identifies itself as something else.
    Identification,
    /// The liveness check answers with what was written.
    Liveness,
    /// A factorial is computed for ever.
    Factorial,
    /// A transfer never ends.
    Dma,
    /// A transfer to memory changes a bit.
    Data,
    /// It raises interrupts in its register but does not signal them.
    Interrupt,
}

impl Fault {
    /// Each with its name in an address, as in `model:edu?fault=dma`.
    pub const NAMES: &[(&str, Self)] = &[
        ("identification", Self::Identification),
        ("liveness", Self::Liveness),
        ("factorial", Self::Factorial),
        ("dma", Self::Dma),
        ("data", Self::Data),
        ("interrupt", Self::Interrupt),
    ];
}

/// Parameters that no [`Edu`] has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// There is no such parameter.
    #[error("the edu model has no parameter `{0}`; it has `fault`")]
    Unknown(String),
    /// There is no such fault.
    #[error("the edu model has no fault `{0}`; it has {names}", names = fault_names())]
    Fault(String),
}

fn fault_names() -> String {
    Fault::NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The device.
#[derive(Debug)]
pub struct Edu {
    config: ConfigSpace,
    registers: Registers,
    buffer: Box<[u8; BUFFER_SIZE]>,
    fault: Option<Fault>,
}

#[derive(Debug, Default)]
struct Registers {
    liveness: Liveness,
    factorial: Factorial,
    status: Status,
    causes: Interrupts,
    source: DmaSource,
    destination: DmaDestination,
    count: DmaCount,
    command: DmaCommand,
}

impl Default for Edu {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Edu {
    /// A device with this fault, or with none.
    pub fn new(fault: Option<Fault>) -> Self {
        let identity =
            Identity { vendor: VENDOR, device: DEVICE, class: CLASS, revision: REVISION };
        let config =
            ConfigSpace::builder(identity).bar32(0, BAR_SIZE as u32).interrupt_pin().msi(1).build();
        let buffer = Box::new([0; BUFFER_SIZE]);
        Self { config, registers: Registers::default(), buffer, fault }
    }

    /// A device with the parameters of an address such as `model:edu?fault=dma`.
    ///
    /// # Errors
    /// When there is no such parameter or fault.
    pub fn with_parameters(parameters: &[(String, String)]) -> Result<Self, ParameterError> {
        let mut fault = None;
        for (key, value) in parameters {
            if key != "fault" {
                return Err(ParameterError::Unknown(key.clone()));
            }
            let named = Fault::NAMES.iter().find(|(name, _)| name == value);
            fault = Some(named.ok_or_else(|| ParameterError::Fault(value.clone()))?.1);
        }
        Ok(Self::new(fault))
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The register at `offset`; all ones where there is none.
    fn read(&self, offset: usize) -> u64 {
        let registers = &self.registers;
        match offset {
            Identification::OFFSET if self.has(Fault::Identification) => 0,
            Identification::OFFSET => Identification::QEMU.bits().into(),
            Liveness::OFFSET if self.has(Fault::Liveness) => registers.liveness.bits().into(),
            Liveness::OFFSET => registers.liveness.answer().bits().into(),
            Factorial::OFFSET => registers.factorial.bits().into(),
            Status::OFFSET => registers.status.bits().into(),
            Interrupts::STATUS => registers.causes.bits().into(),
            DmaSource::OFFSET => registers.source.bits(),
            DmaDestination::OFFSET => registers.destination.bits(),
            DmaCount::OFFSET => registers.count.bits(),
            DmaCommand::OFFSET => registers.command.bits(),
            _ => u64::MAX,
        }
    }

    fn write(&mut self, host: &mut Host, offset: usize, value: u64) {
        let registers = &mut self.registers;
        let idle = !registers.command.run();
        match offset {
            Liveness::OFFSET => registers.liveness = Liveness::from_bits(value as u32),
            Factorial::OFFSET if !registers.status.computing() => {
                self.compute(host, Factorial::from_bits(value as u32));
            }
            Status::OFFSET => {
                let interrupt = Status::from_bits(value as u32).interrupt();
                registers.status = registers.status.with_interrupt(interrupt);
            }
            Interrupts::RAISE => self.raise(host, Interrupts::from_bits(value as u32)),
            Interrupts::ACKNOWLEDGE => {
                let left = registers.causes.bits() & !(value as u32);
                registers.causes = Interrupts::from_bits(left);
            }
            DmaSource::OFFSET if idle => registers.source = DmaSource::from_bits(value),
            DmaDestination::OFFSET if idle => {
                registers.destination = DmaDestination::from_bits(value);
            }
            DmaCount::OFFSET if idle => registers.count = DmaCount::from_bits(value),
            DmaCommand::OFFSET if idle => {
                registers.command = DmaCommand::from_bits(value);
                if registers.command.run() {
                    self.transfer(host);
                }
            }
            _ => {}
        }
    }

    fn compute(&mut self, host: &mut Host, number: Factorial) {
        if self.has(Fault::Factorial) {
            self.registers.status = self.registers.status.with_computing(true);
            return;
        }
        self.registers.factorial = number.compute();
        if self.registers.status.interrupt() {
            self.raise(host, Interrupts::default().with_factorial(true));
        }
    }

    fn transfer(&mut self, host: &mut Host) {
        if self.has(Fault::Dma) {
            return;
        }
        if self.copy(host).is_none() {
            tracing::debug!(registers = ?self.registers, "the edu model skipped a transfer");
        }
        let command = self.registers.command;
        self.registers.command = command.with_run(false);
        if command.interrupt() {
            self.raise(host, Interrupts::default().with_dma(true));
        }
    }

    /// Copies what the registers say; nothing where that is not possible, as on QEMU's.
    fn copy(&mut self, host: &Host) -> Option<()> {
        let Registers { source, destination, count, command, .. } = &self.registers;
        let to_memory = command.to_memory();
        let (inner, outer) = if to_memory {
            (source.bits(), destination.bits())
        } else {
            (destination.bits(), source.bits())
        };
        let start = usize::try_from(inner.checked_sub(BUFFER)?).ok()?;
        let end = start.checked_add(usize::try_from(count.bits()).ok()?)?;
        let bytes = self.buffer.get_mut(start..end)?;
        if !self.config.bus_master() {
            return None;
        }
        let iova = outer & DMA_MASK;
        if !to_memory {
            return host.memory.read(iova, bytes).ok();
        }
        let mut copy = bytes.to_vec();
        if self.has(Fault::Data)
            && let Some(byte) = copy.first_mut()
        {
            *byte ^= 1;
        }
        host.memory.write(iova, &copy).ok()
    }

    fn raise(&mut self, host: &mut Host, causes: Interrupts) {
        let raised = self.registers.causes.bits() | causes.bits();
        self.registers.causes = Interrupts::from_bits(raised);
        if raised != 0 && !self.has(Fault::Interrupt) {
            host.interrupts.signal(0);
        }
    }
}

impl Model for Edu {
    fn config(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bar(&self, index: u8) -> ModelBar<'_> {
        ModelBar { size: if index == 0 { BAR_SIZE as u64 } else { 0 }, shared: None }
    }

    fn read_bar(&mut self, _host: &mut Host, _bar: u8, offset: u64, data: &mut [u8]) {
        let value = if allowed(offset, data.len()) { self.read(offset as usize) } else { u64::MAX };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn write_bar(&mut self, host: &mut Host, _bar: u8, offset: u64, data: &[u8]) {
        if allowed(offset, data.len()) {
            let mut bytes = [0; 8];
            for (byte, value) in bytes.iter_mut().zip(data) {
                *byte = *value;
            }
            self.write(host, offset as usize, u64::from_le_bytes(bytes));
        }
    }

    fn interrupts(&self, kind: InterruptKind) -> u32 {
        match kind {
            InterruptKind::Intx | InterruptKind::Msi => 1,
            InterruptKind::Msix | InterruptKind::Error | InterruptKind::Request => 0,
        }
    }

    fn reset(&mut self, _host: &mut Host) {
        self.config.reset();
        self.registers = Registers::default();
        self.buffer.fill(0);
    }

    fn revoke(&mut self) -> io::Result<()> {
        // Nothing of it can be mapped.
        Ok(())
    }

    fn poll(&mut self, _host: &mut Host) -> bool {
        false
    }

    fn present(&self) -> bool {
        true
    }
}

/// Below 0x80 only 4 bytes, from there on also 8.
fn allowed(offset: u64, len: usize) -> bool {
    len == 4 || len == 8 && offset >= DmaSource::OFFSET as u64
}

#[cfg(test)]
mod tests;
