//! The device as a driver process reaches it: windows that are mapped, and the core's worker for
//! all else.

use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use uniddrv_abi::message::{BarWindow, FromDevice, ToDevice};

use super::DriverLedger;
use crate::arena::Arena;
use crate::control::Control;
use crate::dma::PAGE;
use crate::interrupt::InterruptKind;
use crate::mapping::Mapping;
use crate::transport::{BarInfo, DmaLimits, Transport, TransportError, TransportKind};

/// How long the core's worker may take for an answer: longer than any reset.
const PATIENCE: Duration = Duration::from_secs(30);
/// BARs of a function. PCI Local Bus 3.0 §6.2.5.
const BARS: u8 = 6;

/// A part of a BAR that is mapped.
struct Mapped {
    bar: u8,
    range: Range<u64>,
    mapping: Arc<Mapping>,
}

/// A device that the core holds for this process.
pub struct Held {
    worker: Mutex<Worker>,
    windows: Vec<Mapped>,
    arena: Range<u64>,
    /// Where it is said that an answer is waited for.
    ledger: OnceLock<DriverLedger>,
}

/// The connection to the core's worker of this device.
struct Worker {
    control: Control,
    /// Why it is not asked any more: after an answer that is missing, a later one could be taken
    /// for that of another question.
    broken: Option<String>,
    /// What each BAR is like, once asked.
    sizes: [Option<u64>; BARS as usize],
}

impl Held {
    /// Maps `windows`, each with the file that it lies in. `device` is the socket of the core's
    /// worker, `arena` the addresses at which the device has the driver's arena.
    ///
    /// # Errors
    /// `Malformed` where a window cannot be one, and what `mmap` returns.
    pub fn new(
        device: OwnedFd,
        windows: &[(BarWindow, BorrowedFd<'_>)],
        arena: Range<u64>,
    ) -> Result<Self, TransportError> {
        let mut mapped: Vec<Mapped> = Vec::with_capacity(windows.len());
        for (window, fd) in windows {
            let BarWindow { bar, start, len, offset } = *window;
            let action = || format!("map {len:#x} bytes at {start:#x} of BAR {bar}");
            let pages = [start, len, offset].iter().all(|x| x.is_multiple_of(PAGE as u64));
            let end = start.checked_add(len);
            let (Some(end), true) = (end, pages && len > 0 && bar < BARS) else {
                return Err(TransportError::malformed(action(), "that is no window"));
            };
            if mapped.iter().any(|m| m.bar == bar && m.range.start < end && start < m.range.end) {
                return Err(TransportError::malformed(action(), "part of it is mapped already"));
            }
            let bytes = usize::try_from(len)
                .map_err(|_| TransportError::malformed(action(), "it is too long"))?;
            let mapping = Mapping::of_device(*fd, offset, bytes)
                .map_err(|error| TransportError::io(action(), error))?;
            mapped.push(Mapped { bar, range: start..end, mapping: Arc::new(mapping) });
        }
        let worker = Worker { control: Control::new(device), broken: None, sizes: [None; 6] };
        let ledger = OnceLock::new();
        Ok(Self { worker: Mutex::new(worker), windows: mapped, arena, ledger })
    }

    /// From now on, `ledger` says when an answer is waited for.
    pub(super) fn tell_in(&self, ledger: DriverLedger) {
        self.ledger.get_or_init(|| ledger);
    }

    fn ask(&self, question: &ToDevice) -> Result<FromDevice, TransportError> {
        let ledger = self.ledger.get();
        if let Some(ledger) = ledger {
            ledger.set_asking(true);
        }
        let answer = self.worker.lock().unwrap_or_else(PoisonError::into_inner).ask(question);
        if let Some(ledger) = ledger {
            ledger.set_asking(false);
        }
        answer
    }

    /// Asks for what is answered by `Done`.
    fn tell(&self, question: &ToDevice) -> Result<(), TransportError> {
        match self.ask(question)? {
            FromDevice::Done => Ok(()),
            other => Err(wrong(question, &other)),
        }
    }

    /// Asks for as many bytes as `data` has.
    fn read(&self, question: &ToDevice, data: &mut [u8]) -> Result<(), TransportError> {
        match self.ask(question)? {
            FromDevice::Data(bytes) if bytes.len() == data.len() => {
                data.copy_from_slice(&bytes);
                Ok(())
            }
            other => Err(wrong(question, &other)),
        }
    }
}

impl Worker {
    fn ask(&mut self, question: &ToDevice) -> Result<FromDevice, TransportError> {
        let gone = |reason| TransportError::Gone { action: format!("{question:?}"), reason };
        if let Some(reason) = &self.broken {
            return Err(gone(reason.clone()));
        }
        match self.control.ask(question, PATIENCE) {
            Ok((FromDevice::Refused { gone: false, text }, _)) => {
                Err(TransportError::Unsupported(format!("{question:?}: {text}")))
            }
            Ok((FromDevice::Refused { gone: true, text }, _)) => Err(gone(text)),
            Ok((answer, _)) => Ok(answer),
            Err(error) => {
                let reason = format!("the core's worker for it does not answer: {error}");
                self.broken = Some(reason.clone());
                Err(gone(reason))
            }
        }
    }
}

fn wrong(question: &ToDevice, answer: &FromDevice) -> TransportError {
    // An answer may be long.
    let mut claim = format!("the answer is {answer:?}");
    if let Some((end, _)) = claim.char_indices().nth(120) {
        claim.truncate(end);
    }
    TransportError::malformed(format!("{question:?}"), claim)
}

/// A length that a register can have.
fn register(len: usize, most: usize) -> Result<u8, TransportError> {
    if len.is_power_of_two() && len <= most {
        return Ok(len as u8);
    }
    Err(TransportError::Unsupported(format!("a register of {len} bytes")))
}

impl Transport for Held {
    fn kind(&self) -> TransportKind {
        TransportKind::Held
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), TransportError> {
        let len = register(data.len(), 4)?;
        self.read(&ToDevice::ReadConfig { offset, len }, data)
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), TransportError> {
        register(data.len(), 4)?;
        self.tell(&ToDevice::WriteConfig { offset, data: data.to_vec() })
    }

    fn bar(&self, index: u8) -> Result<BarInfo, TransportError> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(&known) = worker.sizes.get(usize::from(index)) else {
            return Ok(BarInfo::default());
        };
        let question = ToDevice::Bar { bar: index };
        let size = match known {
            Some(size) => size,
            None => match worker.ask(&question)? {
                FromDevice::Bar { size } => size,
                other => return Err(wrong(&question, &other)),
            },
        };
        let windows = self.windows.iter().filter(|mapped| mapped.bar == index);
        let mappable: Vec<_> = windows.map(|mapped| mapped.range.clone()).collect();
        if let Some(outside) = mappable.iter().find(|range| range.end > size) {
            let claim = format!("{size:#x} bytes, but {outside:#x?} of it is mapped");
            return Err(TransportError::malformed(format!("{question:?}"), claim));
        }
        worker.sizes[usize::from(index)] = Some(size);
        Ok(BarInfo { size, mappable })
    }

    fn map_bar(&self, index: u8, range: Range<u64>) -> Result<Arc<Mapping>, TransportError> {
        let inside = |mapped: &&Mapped| {
            mapped.bar == index
                && mapped.range.start <= range.start
                && range.end <= mapped.range.end
        };
        let part = self.windows.iter().find(inside).and_then(|mapped| {
            let start = (range.start - mapped.range.start) as usize;
            let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
            mapped.mapping.part(start..start + len)
        });
        part.map(Arc::new).ok_or_else(|| {
            TransportError::Unsupported(format!("{range:#x?} of BAR {index} is not mapped"))
        })
    }

    fn read_bar(&self, index: u8, offset: u64, data: &mut [u8]) -> Result<(), TransportError> {
        let len = register(data.len(), 8)?;
        self.read(&ToDevice::ReadBar { bar: index, offset, len }, data)
    }

    fn write_bar(&self, index: u8, offset: u64, data: &[u8]) -> Result<(), TransportError> {
        register(data.len(), 8)?;
        self.tell(&ToDevice::WriteBar { bar: index, offset, data: data.to_vec() })
    }

    fn dma_limits(&self) -> DmaLimits {
        let last = self.arena.end.saturating_sub(1);
        DmaLimits { ranges: vec![self.arena.start..=last], granule: PAGE as u64 }
    }

    fn map_dma(&self, _: &Arc<Arena>, _: u64) -> Result<(), TransportError> {
        Err(TransportError::Unsupported("the core alone maps memory for this device".into()))
    }

    fn unmap_dma(&self, _: u64, _: u64) -> Result<(), TransportError> {
        Err(TransportError::Unsupported("the core alone unmaps memory of this device".into()))
    }

    fn interrupts(&self, _: InterruptKind) -> u32 {
        0
    }

    fn set_interrupts(
        &self,
        _: InterruptKind,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), TransportError> {
        if fds.is_empty() {
            return Ok(());
        }
        Err(TransportError::Unsupported("a driver process polls; it has no interrupts".into()))
    }

    fn reset(&self) -> Result<(), TransportError> {
        self.tell(&ToDevice::Reset)
    }

    fn lost(&self) -> Option<String> {
        match self.ask(&ToDevice::Lost) {
            Ok(FromDevice::Lost(reason)) => reason,
            Ok(other) => Some(wrong(&ToDevice::Lost, &other).to_string()),
            Err(TransportError::Gone { reason, .. }) => Some(reason),
            Err(error) => Some(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
