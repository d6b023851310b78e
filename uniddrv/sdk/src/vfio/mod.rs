//! Devices through Linux's VFIO: one type1 container, one group and one device each.
//!
//! Of a BAR, whole pages are mapped where the kernel allows it. The pages of an MSI-X table
//! stay trapped, and the kernel ignores writes to it: interrupts are set up through
//! [`Transport::set_interrupts`] only. INTx is masked by Linux when it fires; connecting it
//! again arms it again.

#[expect(unsafe_code)]
mod ioctl;

mod chain;
mod container;
mod group;
mod irq;
mod msix;
mod regions;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_PCI_CONFIG_REGION_INDEX,
};

use crate::address::PciAddress;
use crate::arena::Arena;
use crate::interrupt::InterruptKind;
use crate::mapping::Mapping;
use crate::transport::{BarInfo, DmaLimits, Transport, TransportError, TransportKind};

use container::Container;
use group::{Group, Host};
use irq::Interrupts;
use regions::Region;

const BARS: usize = 6;

/// Opens a PCI function that is bound to vfio-pci. Linux resets it on the way where it can.
///
/// # Errors
/// When there is no such function, it is bound to another driver, has no IOMMU group or one
/// with members that Linux drives, permission is missing, another process has it open, or
/// VFIO is not loaded: the text says which and what helps.
pub fn open(address: PciAddress) -> Result<Arc<dyn Transport>, TransportError> {
    Ok(Arc::new(Vfio::open(&Host::linux(), address)?))
}

// Dropped in this order: the device before what holds it.
struct Vfio {
    address: PciAddress,
    device: OwnedFd,
    bars: [Region; BARS],
    config: Region,
    interrupts: Interrupts,
    resettable: bool,
    lost: OnceLock<String>,
    _group: OwnedFd,
    container: Container,
}

impl Vfio {
    fn open(host: &Host<'_>, address: PciAddress) -> Result<Self, TransportError> {
        let group = Group::of(host, address)?.open(host)?;
        let container = Container::with(host, &group)?;
        let device = group::device(&group, address)?;
        let action = "VFIO_DEVICE_GET_INFO";
        let info = ioctl::device_info(device.as_fd())
            .map_err(|error| TransportError::io(action, error))?;
        if info.flags & VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(TransportError::malformed(action, "it is no PCI device"));
        }
        if info.num_regions <= VFIO_PCI_CONFIG_REGION_INDEX {
            let claim = format!("{} regions, too few for a PCI device", info.num_regions);
            return Err(TransportError::malformed(action, claim));
        }
        let config = Region::query(device.as_fd(), VFIO_PCI_CONFIG_REGION_INDEX)?;
        let mut bars: [Region; BARS] = Default::default();
        for (index, bar) in bars.iter_mut().enumerate() {
            *bar = Region::query(device.as_fd(), index as u32)?;
        }
        let table = msix::table(|offset| {
            let mut dword = [0; 4];
            config.read(&device, offset as u64, &mut dword).ok()?;
            Some(u32::from_le_bytes(dword))
        })?;
        if let Some(table) = table
            && let Some(bar) = bars.get_mut(usize::from(table.bar))
        {
            bar.hide(&table.range);
        }
        Ok(Self {
            address,
            bars,
            config,
            interrupts: Interrupts::query(device.as_fd(), info.num_irqs)?,
            resettable: info.flags & VFIO_DEVICE_FLAGS_RESET != 0,
            lost: OnceLock::new(),
            device,
            _group: group,
            container,
        })
    }

    fn region(&self, index: u8) -> Result<&Region, TransportError> {
        self.bars.get(usize::from(index)).ok_or_else(|| {
            TransportError::Unsupported(format!("BAR {index} of a PCI function with BARs 0 to 5"))
        })
    }

    /// The error of an access that failed; notes when the device is gone.
    /// Where in the device's file the mappable `range` of BAR `index` starts.
    fn place_in_file(&self, index: u8, range: &Range<u64>) -> Result<u64, TransportError> {
        let region = self.region(index)?;
        let inside = |part: &Range<u64>| part.start <= range.start && range.end <= part.end;
        if range.is_empty() || !region.mappable.iter().any(inside) {
            return Err(TransportError::Unsupported(format!(
                "map {range:#x?} of BAR {index}: only {:#x?} can be mapped",
                region.mappable
            )));
        }
        Ok(region.offset + range.start)
    }

    fn failed(&self, action: String, error: io::Error) -> TransportError {
        let gone = match Errno::from_io_error(&error) {
            Some(Errno::NODEV | Errno::NXIO) => true,
            // A BAR also answers EIO while memory decoding is off.
            Some(Errno::IO) => self.absent(),
            _ => false,
        };
        if gone {
            let reason = self.lost.get_or_init(|| error.to_string()).clone();
            return TransportError::Gone { action, reason };
        }
        TransportError::io(action, error)
    }

    /// Whether configuration space reads as it does without a device: not at all, or all ones.
    fn absent(&self) -> bool {
        let mut identity = [0; 4];
        self.config.read(&self.device, 0, &mut identity).is_err() || identity == [0xff; 4]
    }
}

impl Transport for Vfio {
    fn kind(&self) -> TransportKind {
        TransportKind::Vfio
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), TransportError> {
        self.config
            .read(&self.device, offset.into(), data)
            .map_err(|error| self.failed(format!("read configuration space at {offset:#x}"), error))
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), TransportError> {
        self.config.write(&self.device, offset.into(), data).map_err(|error| {
            self.failed(format!("write configuration space at {offset:#x}"), error)
        })
    }

    fn bar(&self, index: u8) -> Result<BarInfo, TransportError> {
        let region = self.region(index)?;
        Ok(BarInfo { size: region.size, mappable: region.mappable.clone() })
    }

    fn map_bar(&self, index: u8, range: Range<u64>) -> Result<Arc<Mapping>, TransportError> {
        let (offset, len) = (self.place_in_file(index, &range)?, range.end - range.start);
        Mapping::of_device(self.device.as_fd(), offset, len as usize)
            .map(Arc::new)
            .map_err(|error| self.failed(format!("map {range:#x?} of BAR {index}"), error))
    }

    fn bar_file(&self, index: u8, range: Range<u64>) -> Result<(OwnedFd, u64), TransportError> {
        let offset = self.place_in_file(index, &range)?;
        let fd = self.device.as_fd().try_clone_to_owned();
        Ok((fd.map_err(|error| self.failed("hand over the device".into(), error))?, offset))
    }

    fn read_bar(&self, index: u8, offset: u64, data: &mut [u8]) -> Result<(), TransportError> {
        self.region(index)?
            .read(&self.device, offset, data)
            .map_err(|error| self.failed(format!("read BAR {index} at {offset:#x}"), error))
    }

    fn write_bar(&self, index: u8, offset: u64, data: &[u8]) -> Result<(), TransportError> {
        self.region(index)?
            .write(&self.device, offset, data)
            .map_err(|error| self.failed(format!("write BAR {index} at {offset:#x}"), error))
    }

    fn dma_limits(&self) -> DmaLimits {
        self.container.limits().clone()
    }

    fn map_dma(&self, arena: &Arc<Arena>, iova: u64) -> Result<(), TransportError> {
        self.container.map(arena, iova)
    }

    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), TransportError> {
        self.container.unmap(iova, len)
    }

    fn interrupts(&self, kind: InterruptKind) -> u32 {
        self.interrupts.count(kind)
    }

    fn set_interrupts(
        &self,
        kind: InterruptKind,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), TransportError> {
        self.interrupts.set(self.device.as_fd(), kind, fds)
    }

    fn reset(&self) -> Result<(), TransportError> {
        if !self.resettable {
            return Err(TransportError::Unsupported(format!(
                "{} knows no reset of a single function that Linux could use",
                self.address
            )));
        }
        ioctl::reset(self.device.as_fd())
            .map_err(|error| self.failed("VFIO_DEVICE_RESET".into(), error))
    }

    fn lost(&self) -> Option<String> {
        if self.lost.get().is_none() && self.absent() {
            let reason = "its configuration space reads as all ones or not at all".to_owned();
            let _ = self.lost.set(reason);
        }
        self.lost.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    const LEN: u64 = 256;

    /// A device whose configuration space and BAR 0 are the bytes of `file` from `offset`.
    fn device(file: File, offset: u64) -> Vfio {
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let region = Region { size: LEN, offset, mappable: Vec::new() };
        let mut bars: [Region; BARS] = Default::default();
        bars[0] = region.clone();
        Vfio {
            address: PciAddress { domain: 0, bus: 0, device: 0, function: 0 },
            device: file.into(),
            bars,
            config: region,
            interrupts: Interrupts::default(),
            resettable: false,
            lost: OnceLock::new(),
            _group: null(),
            container: Container::of_file(null()),
        }
    }

    fn holding(byte: u8) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[byte; LEN as usize]).unwrap();
        file
    }

    #[test]
    fn a_device_that_reads_as_ones_is_lost() {
        assert_eq!(device(holding(0x12), 0).lost(), None);
        assert!(device(holding(0xff), 0).lost().unwrap().contains("all ones"));
    }

    #[test]
    fn an_error_of_input_and_output_is_a_loss_where_nothing_else_answers() {
        // Reading this file where nothing is mapped is what answers EIO.
        let gone = device(File::open("/proc/self/mem").unwrap(), 0);
        let error = gone.read_bar(0, 0, &mut [0; 4]).unwrap_err();
        assert!(matches!(error, TransportError::Gone { .. }), "{error}");
        assert!(gone.lost().is_some());
        let present = device(holding(0x12), 0);
        let error = present.failed("try".into(), Errno::IO.into());
        assert!(matches!(error, TransportError::Io { .. }), "{error}");
        let error = present.failed("try".into(), Errno::NODEV.into());
        assert!(matches!(error, TransportError::Gone { .. }), "{error}");
        assert!(present.lost().is_some());
    }

    #[test]
    fn refusals_of_linux_are_no_loss() {
        let vfio = device(holding(0x12), 0);
        assert!(vfio.map_dma(&Arc::new(Arena::new(1).unwrap()), 0x20_0000).is_err());
        assert!(vfio.unmap_dma(0, 4096).is_err());
        assert!(vfio.reset().unwrap_err().to_string().contains("no reset"));
        assert!(vfio.read_config(LEN as u32, &mut [0]).is_err());
        assert!(vfio.read_bar(6, 0, &mut [0; 4]).is_err());
        assert!(vfio.map_bar(0, 0..4096).is_err());
        assert_eq!(vfio.lost(), None);
    }
}
