//! A device that is nothing but memory and a list of register writes, for unit tests.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use uniddrv::mapping::Mapping;
use uniddrv::transport::{BarInfo, DmaLimits};
use uniddrv::{
    Arena, Device, DmaRing, InterruptKind, Register32, Transport, TransportError, TransportKind,
};
use zerocopy::{FromBytes, IntoBytes};

/// The device, and what was written to its registers.
pub(crate) struct Memory {
    pub(crate) device: Device,
    transport: Arc<Fake>,
}

struct Fake {
    written: Mutex<Vec<(u64, u32)>>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let transport = Arc::new(Fake { written: Mutex::default() });
        let address = "model:memory".parse().unwrap();
        Self { device: Device::new(transport.clone(), address), transport }
    }

    pub(crate) fn ring<T: FromBytes + IntoBytes + Copy>(&self, entries: usize) -> DmaRing<T> {
        let buffer = self.device.dma_buffer(entries * size_of::<T>()).unwrap();
        DmaRing::new(buffer, entries).unwrap()
    }

    pub(crate) fn register(&self, offset: usize) -> Register32 {
        let bar = self.device.bar(0).unwrap();
        bar.window(0..bar.size()).unwrap().register32(offset).unwrap()
    }

    /// Offset and value of each register that was written since this was last asked.
    pub(crate) fn written(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.transport.written.lock().unwrap())
    }
}

impl Transport for Fake {
    fn kind(&self) -> TransportKind {
        TransportKind::Inline
    }
    fn read_config(&self, _: u32, data: &mut [u8]) -> Result<(), TransportError> {
        data.fill(0);
        Ok(())
    }
    fn write_config(&self, _: u32, _: &[u8]) -> Result<(), TransportError> {
        Ok(())
    }
    fn bar(&self, _: u8) -> Result<BarInfo, TransportError> {
        Ok(BarInfo { size: 4096, mappable: Vec::new() })
    }
    fn map_bar(&self, _: u8, _: Range<u64>) -> Result<Arc<Mapping>, TransportError> {
        Err(TransportError::Unsupported("nothing can be mapped".into()))
    }
    fn read_bar(&self, _: u8, _: u64, data: &mut [u8]) -> Result<(), TransportError> {
        data.fill(0);
        Ok(())
    }
    fn write_bar(&self, _: u8, offset: u64, data: &[u8]) -> Result<(), TransportError> {
        let value = u32::from_le_bytes(data.try_into().unwrap());
        self.written.lock().unwrap().push((offset, value));
        Ok(())
    }
    fn dma_limits(&self) -> DmaLimits {
        DmaLimits { ranges: vec![0..=u64::MAX], granule: 4096 }
    }
    fn map_dma(&self, _: &Arc<Arena>, _: u64) -> Result<(), TransportError> {
        Ok(())
    }
    fn unmap_dma(&self, _: u64, _: u64) -> Result<(), TransportError> {
        Ok(())
    }
    fn interrupts(&self, _: InterruptKind) -> u32 {
        0
    }
    fn set_interrupts(&self, _: InterruptKind, _: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), TransportError> {
        Ok(())
    }
    fn lost(&self) -> Option<String> {
        None
    }
}
