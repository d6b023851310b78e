//! A driver for QEMU's educational device `edu`, and a program that tries it out.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use uniddrv::barrier::{observe_device, publish_to_device};
use uniddrv::{Address, AttachError, Device, DmaBuf, Driver, Interrupt, InterruptKind, Match};
use uniddrv::{Progress, TransportError, Window};
use uniddrv_spec::edu::{self, DmaCommand, DmaCount, DmaDestination, DmaSource};
use uniddrv_spec::edu::{Factorial, Identification, Interrupts, Status};

/// How long one request may take. QEMU's device waits 100 ms before each transfer.
const LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a transfer. Not all that the device has: QEMU 7.2 aborts when its last is touched.
const LEN: usize = edu::BUFFER_SIZE / 2;

/// An `edu` device that was brought up.
struct Edu {
    device: Device,
    registers: Window,
    interrupt: Interrupt,
    memory: DmaBuf,
    done: u32,
    given_up: bool,
}

/// A request that failed.
#[derive(Debug, thiserror::Error)]
enum EduError {
    #[error("{what} took longer than {LIMIT:?}")]
    Timeout { what: &'static str },
    #[error("the driver gave the device up after a request that took too long")]
    GivenUp,
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("waiting for an interrupt: {0}")]
    Wait(#[from] std::io::Error),
}

impl Driver for Edu {
    const MATCHES: &'static [Match] = &[Match::device(edu::VENDOR, edu::DEVICE)];

    fn attach(device: Device) -> Result<Self, AttachError> {
        device.expect_one_of(Self::MATCHES)?;
        let registers = device.bar(0)?.window(0..0x100)?;
        let found = Identification::from_bits(registers.read32(Identification::OFFSET));
        if !found.is_edu() {
            let claim = format!("it identifies itself as {:#010x}, not 0x....00ed", found.bits());
            return Err(AttachError::Device { address: device.address().clone(), claim });
        }
        device.dma().limit_address_bits(edu::DMA_MASK.count_ones());
        let memory = device.dma_buffer(LEN)?;
        let interrupt = device.interrupts(InterruptKind::Msi, 1)?.remove(0);
        device.set_bus_master(true)?;
        Ok(Self { device, registers, interrupt, memory, done: 0, given_up: false })
    }

    fn poll(&mut self) -> Progress {
        let causes = self.registers.read32(Interrupts::STATUS);
        if causes == 0 || causes == u32::MAX {
            return Progress::Idle; // All ones is what a device reads as that is gone.
        }
        self.registers.write32(Interrupts::ACKNOWLEDGE, causes);
        self.done |= causes;
        Progress::Busy
    }
}

impl Edu {
    /// The factorial of `number`, modulo 2^32.
    fn factorial(&mut self, number: u32) -> Result<u32, EduError> {
        self.request("a factorial", Interrupts::factorial, |registers| {
            registers.write32(Status::OFFSET, Status::default().with_interrupt(true).bits());
            registers.write32(Factorial::OFFSET, number);
        })?;
        Ok(self.registers.read32(Factorial::OFFSET))
    }

    /// Copies `data` into the device's own memory.
    fn store(&mut self, data: &[u8; LEN]) -> Result<(), EduError> {
        self.memory.as_mut_slice().copy_from_slice(data);
        self.transfer(self.memory.iova(), edu::BUFFER, false)
    }

    /// Copies the device's own memory into `data`.
    fn load(&mut self, data: &mut [u8; LEN]) -> Result<(), EduError> {
        self.transfer(edu::BUFFER, self.memory.iova(), true)?;
        observe_device();
        data.copy_from_slice(self.memory.as_slice());
        Ok(())
    }

    fn transfer(&mut self, from: u64, to: u64, to_memory: bool) -> Result<(), EduError> {
        let command = DmaCommand::default().with_to_memory(to_memory).with_interrupt(true);
        self.request("a transfer", Interrupts::dma, |registers| {
            registers.write64(DmaSource::OFFSET, from);
            registers.write64(DmaDestination::OFFSET, to);
            registers.write64(DmaCount::OFFSET, LEN as u64);
            publish_to_device();
            registers.write64(DmaCommand::OFFSET, command.with_run(true).bits());
        })
    }

    /// Starts something and waits until the device says that it is done.
    fn request(
        &mut self,
        what: &'static str,
        is_done: fn(Interrupts) -> bool,
        start: impl FnOnce(&Window),
    ) -> Result<(), EduError> {
        if self.given_up {
            return Err(EduError::GivenUp);
        }
        self.poll();
        self.done = 0;
        start(&self.registers);
        let started = Instant::now();
        while self.poll() == Progress::Idle || !is_done(Interrupts::from_bits(self.done)) {
            let Some(left) = LIMIT.checked_sub(started.elapsed()) else {
                self.given_up = true;
                // It may copy later on: take memory out of its reach.
                self.device.set_bus_master(false)?;
                return Err(EduError::Timeout { what });
            };
            self.interrupt.wait(left)?;
        }
        Ok(())
    }
}

fn main() {
    if let Err(error) = run() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let address: Address = std::env::args().nth(1).unwrap_or("model:edu".into()).parse()?;
    let mut edu = Edu::attach(uniddrv_models::open(&address)?)?;
    println!("10! is {}, says {address}", edu.factorial(10)?);
    let sent: [u8; LEN] = std::array::from_fn(|index| (index * 31) as u8 ^ (index >> 8) as u8);
    let mut received = [0; LEN];
    edu.store(&sent)?;
    edu.load(&mut received)?;
    (received == sent).then_some(()).ok_or("the data came back changed")?;
    println!("{LEN} bytes came back from it as they were");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach(address: &str) -> Result<Edu, AttachError> {
        Edu::attach(uniddrv_models::open(&address.parse().unwrap()).unwrap())
    }

    #[test]
    fn data_comes_back_as_it_was() {
        let mut edu = attach("model:edu").unwrap();
        let mut received = [0; LEN];
        edu.store(&[0x5a; LEN]).unwrap();
        edu.load(&mut received).unwrap();
        assert_eq!(received, [0x5a; LEN]);
        assert_eq!(edu.factorial(5).unwrap(), 120);
    }

    #[test]
    fn a_device_that_says_it_is_another_is_refused() {
        let error = attach("model:edu?fault=identification").err().unwrap();
        assert!(error.to_string().contains("0x00000000"), "{error}");
    }

    #[test]
    fn a_transfer_that_never_ends_is_an_error() {
        let mut edu = attach("model:edu?fault=dma").unwrap();
        let result = edu.store(&[0; LEN]);
        assert!(matches!(result, Err(EduError::Timeout { what: "a transfer" })));
        assert!(matches!(edu.factorial(5), Err(EduError::GivenUp)));
    }
}
