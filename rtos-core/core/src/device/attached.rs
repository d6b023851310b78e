//! A device that is open, and what was found out about it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use uniddrv::device::Identity;
use uniddrv::transport::{BarInfo, TransportError};
use uniddrv::{Address, Device, Interrupt, InterruptKind, Transport, TransportKind};
use uniddrv_abi::message::BarWindow;
use uniddrv_spec::nvme::registers::Cap;
use uniddrv_spec::pci::Command;

use super::policy::{self, Hidden};
use super::{Interrupts, Opened};

/// A device that is open. Dropped, its bus mastering is switched off.
pub(super) struct Attached {
    pub(super) device: Device,
    pub(super) identity: Identity,
    pub(super) bars: [BarInfo; 6],
    pub(super) hidden: Vec<Hidden>,
    alarms: Vec<Alarm>,
    // Why it is gone, once that was told.
    pub(super) lost: Option<String>,
}

/// An interrupt that tells the end of a device.
struct Alarm {
    interrupt: Interrupt,
    says: &'static str,
}

/// Vendor ID of a device that does not answer. PCI Local Bus 3.0 §6.1.
const NOBODY: u16 = 0xffff;

impl Attached {
    /// Looks at the device behind `transport`: memory decoding is switched on, bus mastering off.
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        address: Address,
    ) -> Result<Self, TransportError> {
        let device = Device::new(transport, address);
        let identity = device.identity()?;
        if identity.vendor == NOBODY {
            let claim = "its configuration space reads as all ones: the device is not there";
            return Err(TransportError::malformed("ask what the device is", claim));
        }
        device.set_bus_master(false)?;
        let transport = device.connection();
        let mut bars: [BarInfo; 6] = Default::default();
        for (index, bar) in (0..).zip(&mut bars) {
            *bar = transport.bar(index)?;
        }
        let sizes = bars.each_ref().map(|bar| bar.size);
        let hidden = policy::hidden(&**transport, &sizes)?;
        let mut attached = Self { device, identity, bars, hidden, alarms: Vec::new(), lost: None };
        attached.connect_alarms();
        Ok(attached)
    }

    /// Connects the interrupts by which Linux tells that a device ends. One that cannot be had
    /// is done without: the loss then shows at the next access.
    fn connect_alarms(&mut self) {
        let kinds = [
            (InterruptKind::Error, "the PCI bus reported an error of the device"),
            (InterruptKind::Request, "Linux wants the device back, most likely to remove it"),
        ];
        for (kind, says) in kinds {
            if self.device.interrupt_count(kind) == 0 {
                continue;
            }
            match self.device.interrupts(kind, 1) {
                Ok(interrupts) => self
                    .alarms
                    .extend(interrupts.into_iter().map(|interrupt| Alarm { interrupt, says })),
                Err(error) => tracing::warn!(
                    %error,
                    address = %self.device.address(),
                    "the end of the device will be noticed late"
                ),
            }
        }
    }

    /// The transport.
    pub(super) fn transport(&self) -> &dyn Transport {
        &**self.device.connection()
    }

    /// The files of the interrupts that tell its end.
    pub(super) fn alarms(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.alarms.iter().map(|alarm| alarm.interrupt.as_fd())
    }

    /// What the interrupts tell, if any was signalled since this was asked last.
    pub(super) fn alarmed(&self) -> Option<&'static str> {
        let rang = |alarm: &&Alarm| alarm.interrupt.clear().unwrap_or(false);
        self.alarms.iter().find(rang).map(|alarm| alarm.says)
    }

    /// What a driver process may map.
    pub(super) fn windows(&self) -> Result<Vec<(BarWindow, OwnedFd)>, TransportError> {
        let transport = self.transport();
        let cap = || {
            let mut bytes = [0; 8];
            transport.read_bar(0, Cap::OFFSET as u64, &mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        };
        policy::windows(self.identity.class, &self.bars, &self.hidden, cap)?
            .into_iter()
            .map(|(bar, range)| {
                let (start, len) = (range.start, range.end - range.start);
                let (file, offset) = transport.bar_file(bar, range)?;
                Ok((BarWindow { bar, start, len, offset }, file))
            })
            .collect()
    }

    /// What the core is told.
    pub(super) fn opened(
        &self,
        arena: Arc<uniddrv::Arena>,
        arena_iova: u64,
    ) -> Result<Opened, TransportError> {
        let count = |kind| self.device.interrupt_count(kind);
        Ok(Opened {
            identity: self.identity,
            transport: self.device.transport(),
            bars: self.bars.each_ref().map(|bar| bar.size),
            arena,
            arena_iova,
            windows: self.windows()?,
            interrupts: Interrupts {
                intx: count(InterruptKind::Intx),
                msi: count(InterruptKind::Msi),
                msix: count(InterruptKind::Msix),
            },
        })
    }

    /// Stops its DMA. A software device may not heed the Command register, so it is reset too.
    pub(super) fn fence(&self) -> Result<(), TransportError> {
        self.device.set_bus_master(false)?;
        let command = self.device.read_config(Command::OFFSET as u32)?;
        if Command::from_bits(u16::from_le_bytes(command)).bus_master() {
            let claim = "the Command register still says Bus Master Enable";
            return Err(TransportError::malformed("switch bus mastering off", claim));
        }
        if self.device.transport() == TransportKind::VfioUser {
            self.device.reset()?;
        }
        Ok(())
    }
}
