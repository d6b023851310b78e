//! A device: one PCI function, real or software.

use std::ops::Range;
use std::sync::Arc;

use crate::address::Address;
use crate::dma::{DmaBuf, DmaError, DmaSpace};
use crate::interrupt::{Interrupt, InterruptKind};
use crate::transport::{BarInfo, Transport, TransportError, TransportKind};
use crate::window::{Window, WindowError};
use crate::{vfio, vfio_user};

use uniddrv_spec::pci::Command;

/// Where the Command register lies in configuration space.
const COMMAND: u32 = Command::OFFSET as u32;

/// A device that this process holds. Dropping it (and every window and buffer that was taken
/// from it) stops its DMA and lets it go.
pub struct Device {
    transport: Arc<dyn Transport>,
    dma: Arc<DmaSpace>,
    address: Address,
}

/// What identifies a PCI function. PCI Local Bus 3.0 §6.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class code: base class, sub-class, programming interface, from bit 16 down.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
}

/// A device that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The transport says no.
    #[error("cannot open {address}: {error}")]
    Transport {
        /// Which device.
        address: Address,
        /// Why.
        #[source]
        error: TransportError,
    },
    /// This kind of address is not opened here.
    #[error("cannot open {address}: {reason}")]
    Kind {
        /// Which device.
        address: Address,
        /// Why, and what to do instead.
        reason: &'static str,
    },
}

/// A BAR or part of one that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BarError {
    /// The device does not have this BAR.
    #[error("{address} has no BAR {index}")]
    Missing {
        /// Which device.
        address: Address,
        /// Which BAR.
        index: u8,
    },
    /// The BAR is too small for this.
    #[error("BAR {index} of {address}: {error}")]
    Window {
        /// Which device.
        address: Address,
        /// Which BAR.
        index: u8,
        /// What does not fit.
        #[source]
        error: WindowError,
    },
    /// The transport failed.
    #[error("BAR {index} of {address}: {error}")]
    Transport {
        /// Which device.
        address: Address,
        /// Which BAR.
        index: u8,
        /// What it said.
        #[source]
        error: TransportError,
    },
}

impl Device {
    /// Opens a device through VFIO or a vfio-user server, whichever its address names.
    ///
    /// # Errors
    /// When there is none, it is not bound to vfio-pci, permission is missing, nobody serves
    /// the socket, or the address names a model (`uniddrv_models::open` opens all kinds).
    pub fn open(address: &Address) -> Result<Self, OpenError> {
        let kind = |reason| OpenError::Kind { address: address.clone(), reason };
        let transport: Result<Arc<dyn Transport>, TransportError> = match address {
            Address::Pci(pci) => vfio::open(*pci),
            Address::VfioUser(path) => vfio_user::connect(path),
            Address::VhostUser(_) => {
                return Err(kind("vhost-user offers virtio queues only, not a PCI device"));
            }
            Address::Model(_) => return Err(kind("a model is opened by uniddrv_models::open")),
        };
        match transport {
            Ok(transport) => Ok(Self::new(transport, address.clone())),
            Err(error) => Err(OpenError::Transport { address: address.clone(), error }),
        }
    }

    /// A device behind a transport that is connected already.
    pub fn new(transport: Arc<dyn Transport>, address: Address) -> Self {
        Self { dma: DmaSpace::new(transport.clone()), transport, address }
    }

    /// A device that somebody else holds and lets this process drive, with its address space.
    pub fn held(transport: Arc<dyn Transport>, dma: Arc<DmaSpace>, address: Address) -> Self {
        Self { transport, dma, address }
    }

    /// Its transport.
    pub fn connection(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Its address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The kind of its transport.
    pub fn transport(&self) -> TransportKind {
        self.transport.kind()
    }

    /// Reads `N` (1, 2 or 4) bytes at `offset` of configuration space, little-endian.
    ///
    /// # Errors
    /// When the transport fails.
    pub fn read_config<const N: usize>(&self, offset: u32) -> Result<[u8; N], TransportError> {
        let mut bytes = [0; N];
        self.transport.read_config(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes `N` (1, 2 or 4) bytes at `offset` of configuration space, little-endian.
    ///
    /// # Errors
    /// When the transport fails.
    pub fn write_config<const N: usize>(
        &self,
        offset: u32,
        bytes: [u8; N],
    ) -> Result<(), TransportError> {
        self.transport.write_config(offset, &bytes)
    }

    /// Vendor, device, class and revision.
    ///
    /// # Errors
    /// When the transport fails.
    pub fn identity(&self) -> Result<Identity, TransportError> {
        let id = u32::from_le_bytes(self.read_config(0)?);
        let class = u32::from_le_bytes(self.read_config(8)?);
        Ok(Identity {
            vendor: id as u16,
            device: (id >> 16) as u16,
            class: class >> 8,
            revision: class as u8,
        })
    }

    /// Lets the device start DMA (true) or stops it (false): Bus Master Enable, together with
    /// Memory Space Enable. PCI Local Bus 3.0 §6.2.2.
    ///
    /// # Errors
    /// When the transport fails.
    pub fn set_bus_master(&self, on: bool) -> Result<(), TransportError> {
        let command = self.command()?;
        let wanted = command.with_memory(true).with_bus_master(on);
        if wanted == command {
            return Ok(());
        }
        self.write_config(COMMAND, wanted.bits().to_le_bytes())
    }

    /// Keeps the device from asserting its interrupt pin, which a driver that polls does not
    /// serve: Interrupt Disable. PCI Local Bus 3.0 §6.2.2.
    ///
    /// # Errors
    /// When the transport fails.
    pub fn disable_intx(&self) -> Result<(), TransportError> {
        let command = self.command()?;
        self.write_config(COMMAND, command.with_interrupt_disable(true).bits().to_le_bytes())
    }

    fn command(&self) -> Result<Command, TransportError> {
        Ok(Command::from_bits(u16::from_le_bytes(self.read_config(COMMAND)?)))
    }

    /// BAR `index`, 0 to 5.
    ///
    /// # Errors
    /// When the device does not have it or the transport fails.
    pub fn bar(&self, index: u8) -> Result<Bar<'_>, BarError> {
        let error = |error| BarError::Transport { address: self.address.clone(), index, error };
        let info = self.transport.bar(index).map_err(error)?;
        if info.size == 0 {
            return Err(BarError::Missing { address: self.address.clone(), index });
        }
        Ok(Bar { device: self, index, info })
    }

    /// Its I/O virtual address space.
    pub fn dma(&self) -> &Arc<DmaSpace> {
        &self.dma
    }

    /// A zeroed buffer of `len` bytes that the device can reach.
    ///
    /// # Errors
    /// When memory or addresses run out.
    pub fn dma_buffer(&self, len: usize) -> Result<DmaBuf, DmaError> {
        self.dma.buffer(len)
    }

    /// How many interrupts of a kind the device has.
    pub fn interrupt_count(&self, kind: InterruptKind) -> u32 {
        self.transport.interrupts(kind)
    }

    /// Connects the interrupts 0 to `count - 1` of `kind` to eventfds.
    ///
    /// # Errors
    /// When the device has fewer, no fd is left, or the transport fails.
    pub fn interrupts(
        &self,
        kind: InterruptKind,
        count: u32,
    ) -> Result<Vec<Interrupt>, TransportError> {
        let available = self.transport.interrupts(kind);
        if count == 0 || count > available {
            return Err(TransportError::Unsupported(format!(
                "{count} interrupts ({kind:?}) asked for, {} has {available}",
                self.address
            )));
        }
        let interrupts = (0..count)
            .map(|_| Interrupt::new())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| TransportError::io("eventfd", error))?;
        let fds: Vec<_> = interrupts.iter().map(std::os::fd::AsFd::as_fd).collect();
        self.transport.set_interrupts(kind, &fds)?;
        Ok(interrupts)
    }

    /// Disconnects all interrupts of `kind`.
    ///
    /// # Errors
    /// When the transport fails.
    pub fn disable_interrupts(&self, kind: InterruptKind) -> Result<(), TransportError> {
        self.transport.set_interrupts(kind, &[])
    }

    /// Resets the function. All state of the device is lost; configuration space is restored
    /// by the transport where it needs to be.
    ///
    /// # Errors
    /// When the device cannot be reset.
    pub fn reset(&self) -> Result<(), TransportError> {
        self.transport.reset()
    }

    /// Why the device is gone, once it is.
    pub fn lost(&self) -> Option<String> {
        self.transport.lost()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Fence: what is unmapped next must not be in the device's reach any more.
        if self.lost().is_none()
            && let Err(error) = self.set_bus_master(false)
        {
            tracing::debug!(%error, address = %self.address, "bus mastering stays on");
        }
        self.dma.release();
    }
}

/// A BAR of a device.
pub struct Bar<'a> {
    device: &'a Device,
    index: u8,
    info: BarInfo,
}

impl Bar<'_> {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.info.size
    }

    /// The parts that can be mapped, page-aligned; accesses to the rest are trapped.
    pub fn mappable(&self) -> &[Range<u64>] {
        &self.info.mappable
    }

    /// The bytes `range`, mapped where the transport offers that for all of them, else trapped.
    ///
    /// # Errors
    /// When they do not lie in the BAR, are not aligned to 8 bytes, or mapping fails.
    pub fn window(&self, range: Range<u64>) -> Result<Window, BarError> {
        let (address, index) = (&self.device.address, self.index);
        let len = range.end.saturating_sub(range.start);
        let outside = || BarError::Window {
            address: address.clone(),
            index,
            error: WindowError { offset: range.start, len, available: self.info.size },
        };
        if len == 0 || range.end > self.info.size || !range.start.is_multiple_of(8) {
            return Err(outside());
        }
        let inside = |part: &&Range<u64>| part.start <= range.start && range.end <= part.end;
        let Some(part) = self.info.mappable.iter().find(inside) else {
            let transport = self.device.transport.clone();
            return Ok(Window::trapped(transport, index, range.start, len as usize));
        };
        let page = crate::dma::PAGE as u64;
        let start = range.start / page * page;
        let end = range.end.next_multiple_of(page).min(part.end);
        let mapping = self
            .device
            .transport
            .map_bar(index, start..end)
            .map_err(|error| BarError::Transport { address: address.clone(), index, error })?;
        Window::mapped(mapping, (range.start - start) as usize, len as usize).map_err(|_| outside())
    }
}
