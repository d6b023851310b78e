//! PCI configuration space of a model. PCI Local Bus 3.0 §6, PCI Express Base 4.0 §7.

use std::mem::offset_of;

use uniddrv::device::Identity;
use uniddrv_spec::pci::config::{Command, Header, Status};
use uniddrv_spec::pci::express::{
    DeviceCapabilities, DeviceControl, ExpressCapabilities, LinkCapabilities, LinkStatus,
};
use uniddrv_spec::pci::msi::MsiControl;
use uniddrv_spec::pci::msix::{Location, Msix, MsixControl};
use uniddrv_spec::pci::power::{Pmc, Pmcsr};
use uniddrv_spec::pci::{CONFIG_SIZE, CapabilityId, EXTENDED_CONFIG_SIZE};
use zerocopy::IntoBytes;

/// What the model has to do after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigEffect {
    /// Nothing.
    None,
    /// Reset the function: Initiate Function Level Reset was set.
    FunctionReset,
}

/// Configuration space: bytes, and which of their bits can be written.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    initial: Vec<u8>,
    device_control: Option<usize>,
}

/// Puts a [`ConfigSpace`] together.
#[derive(Clone, Debug)]
pub struct ConfigSpaceBuilder {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    // Where the next capability goes, and the byte that points to it.
    next: usize,
    link: usize,
    device_control: Option<usize>,
}

const BARS: usize = offset_of!(Header, bars);

impl ConfigSpace {
    /// Starts with the header of a function that has no BAR and no capability.
    pub fn builder(identity: Identity) -> ConfigSpaceBuilder {
        let mut builder = ConfigSpaceBuilder {
            bytes: vec![0; CONFIG_SIZE],
            writable: vec![0; CONFIG_SIZE],
            next: size_of::<Header>(),
            link: offset_of!(Header, capabilities),
            device_control: None,
        };
        let mut header = Header::zeroed();
        header.vendor = identity.vendor.into();
        header.device = identity.device.into();
        header.revision = identity.revision;
        header.set_class(identity.class.into());
        header.subsystem_vendor = identity.vendor.into();
        header.subsystem = identity.device.into();
        builder.put(0, header.as_bytes());
        let command = Command::default()
            .with_memory(true)
            .with_bus_master(true)
            .with_parity_response(true)
            .with_serr(true)
            .with_interrupt_disable(true);
        builder.writable(Command::OFFSET, &command.bits().to_le_bytes());
        builder.writable(offset_of!(Header, interrupt_line), &[0xff]);
        builder
    }

    /// Length in bytes: 256, or 4,096 for a PCI Express function.
    #[expect(clippy::len_without_is_empty, reason = "it always has a header")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Reads `data.len()` bytes at `offset`; all ones outside of it.
    pub fn read(&self, offset: u32, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            let place = (offset as usize).saturating_add(index);
            *byte = self.bytes.get(place).copied().unwrap_or(0xff);
        }
    }

    /// Writes the bits of `data` at `offset` that can be written.
    pub fn write(&mut self, offset: u32, data: &[u8]) -> ConfigEffect {
        let mut effect = ConfigEffect::None;
        for (index, &byte) in data.iter().enumerate() {
            let place = (offset as usize).saturating_add(index);
            let (Some(old), Some(&mask)) = (self.bytes.get_mut(place), self.writable.get(place))
            else {
                continue;
            };
            *old = *old & !mask | byte & mask;
            // The bit to reset stands in the high byte and is never seen set.
            if self.device_control.is_some_and(|control| place == control + 1)
                && DeviceControl::from_bits(u16::from(byte) << 8).initiate_flr()
            {
                effect = ConfigEffect::FunctionReset;
            }
        }
        effect
    }

    /// Whether the function may do DMA. PCI Local Bus 3.0 §6.2.2.
    #[inline]
    pub fn bus_master(&self) -> bool {
        let command = self.bytes.get(Command::OFFSET).copied().unwrap_or(0);
        Command::from_bits(command.into()).bus_master()
    }

    /// As after a reset of the function.
    pub fn reset(&mut self) {
        self.bytes.copy_from_slice(&self.initial);
    }
}

impl ConfigSpaceBuilder {
    /// A 32-bit memory BAR of `size` bytes, a power of two of at least 16.
    ///
    /// # Panics
    /// When there is no such BAR.
    #[must_use]
    pub fn bar32(mut self, index: u8, size: u32) -> Self {
        assert!(index < 6 && size.is_power_of_two() && size >= 16);
        self.writable(BARS + 4 * index as usize, &(!(size - 1)).to_le_bytes());
        self
    }

    /// A 64-bit memory BAR of `size` bytes, a power of two of at least 16; takes `index` and
    /// the one after it.
    ///
    /// # Panics
    /// When there is no such pair of BARs.
    #[must_use]
    pub fn bar64(mut self, index: u8, size: u64) -> Self {
        const TYPE_64_BIT: u8 = 0b100;
        assert!(index < 5 && size.is_power_of_two() && size >= 16);
        self.put(BARS + 4 * index as usize, &[TYPE_64_BIT]);
        self.writable(BARS + 4 * index as usize, &(!(size - 1)).to_le_bytes());
        self
    }

    /// The interrupt pin INTA#.
    #[must_use]
    pub fn interrupt_pin(mut self) -> Self {
        self.put(offset_of!(Header, interrupt_pin), &[1]);
        self
    }

    /// Power Management, with No_Soft_Reset. PCI Power Management 1.2 §3.2.
    #[must_use]
    pub fn power_management(mut self) -> Self {
        let place = self.capability(CapabilityId::POWER_MANAGEMENT, 8);
        self.put(place + Pmc::OFFSET, &Pmc::default().with_version(3).bits().to_le_bytes());
        let kept = Pmcsr::default().with_no_soft_reset(true);
        self.put(place + Pmcsr::OFFSET, &kept.bits().to_le_bytes());
        let state = Pmcsr::default().with_state(Pmcsr::D3_HOT);
        self.writable(place + Pmcsr::OFFSET, &state.bits().to_le_bytes());
        self
    }

    /// MSI with 64-bit addresses and `vectors` vectors, a power of two up to 32. PCI Local Bus
    /// 3.0 §6.8.1.
    ///
    /// # Panics
    /// When there cannot be that many.
    #[must_use]
    pub fn msi(mut self, vectors: u16) -> Self {
        assert!(vectors.is_power_of_two() && vectors <= 32);
        let control = MsiControl::default()
            .with_address_64(true)
            .with_capable(vectors.trailing_zeros() as u8);
        let place = self.capability(CapabilityId::MSI, control.length());
        self.put(place + MsiControl::OFFSET, &control.bits().to_le_bytes());
        let writable = MsiControl::default().with_enable(true).with_enabled(7);
        self.writable(place + MsiControl::OFFSET, &writable.bits().to_le_bytes());
        self.writable(place + MsiControl::ADDRESS, &0xffff_ffff_ffff_fffc_u64.to_le_bytes());
        self.writable(place + control.data_offset(), &[0xff, 0xff]);
        self
    }

    /// MSI-X with `vectors` vectors, its table and its pending bits each in a BAR at a multiple
    /// of 8 bytes. PCI Local Bus 3.0 §6.8.2.
    ///
    /// # Panics
    /// When there cannot be that many, or they cannot lie there.
    #[must_use]
    pub fn msix(mut self, vectors: u16, table: (u8, u32), pending: (u8, u32)) -> Self {
        assert!(table.1.is_multiple_of(8) && pending.1.is_multiple_of(8));
        let at = |(bir, offset)| Location::new(bir, offset);
        let Some(msix) = Msix::new(vectors, at(table), at(pending)) else {
            panic!("{vectors} vectors of MSI-X");
        };
        let place = self.capability(CapabilityId::MSI_X, size_of::<Msix>());
        // Its first two bytes are the identifier and the link.
        if let Some(rest) = msix.as_bytes().get(2..) {
            self.put(place + 2, rest);
        }
        let writable = MsixControl::default().with_enable(true).with_function_mask(true);
        self.writable(place + MsixControl::OFFSET, &writable.bits().to_le_bytes());
        self
    }

    /// A PCI Express endpoint that can be reset as a function. PCI Express Base 4.0 §7.5.3.
    #[must_use]
    pub fn pci_express(mut self) -> Self {
        const SPEED_8_GT: u8 = 3;
        const LANES: u8 = 4;
        let place = self.capability(CapabilityId::EXPRESS, 60);
        let version = ExpressCapabilities::default().with_version(2);
        self.put(place + ExpressCapabilities::OFFSET, &version.bits().to_le_bytes());
        let device = DeviceCapabilities::default()
            .with_flr(true)
            .with_role_based_errors(true)
            .with_max_payload(1);
        self.put(place + DeviceCapabilities::OFFSET, &device.bits().to_le_bytes());
        let writable = DeviceControl::from_bits(u16::MAX).with_initiate_flr(false);
        self.writable(place + DeviceControl::OFFSET, &writable.bits().to_le_bytes());
        let link = LinkCapabilities::default().with_speed(SPEED_8_GT).with_width(LANES);
        self.put(place + LinkCapabilities::OFFSET, &link.bits().to_le_bytes());
        let link = LinkStatus::default().with_speed(SPEED_8_GT).with_width(LANES);
        self.put(place + LinkStatus::OFFSET, &link.bits().to_le_bytes());
        self.device_control = Some(place + DeviceControl::OFFSET);
        self.bytes.resize(EXTENDED_CONFIG_SIZE, 0);
        self.writable.resize(EXTENDED_CONFIG_SIZE, 0);
        self
    }

    /// Done.
    pub fn build(self) -> ConfigSpace {
        ConfigSpace {
            initial: self.bytes.clone(),
            bytes: self.bytes,
            writable: self.writable,
            device_control: self.device_control,
        }
    }

    fn capability(&mut self, id: CapabilityId, len: usize) -> usize {
        let place = self.next;
        assert!(place + len <= CONFIG_SIZE, "no room for the capability {id}");
        let status = Status::default().with_capabilities(true);
        self.put(Status::OFFSET, &status.bits().to_le_bytes());
        self.put(self.link, &[place as u8]);
        self.put(place, &[id.0]);
        self.link = place + 1;
        self.next = (place + len).next_multiple_of(4);
        place
    }

    fn put(&mut self, place: usize, bytes: &[u8]) {
        self.bytes[place..place + bytes.len()].copy_from_slice(bytes);
    }

    fn writable(&mut self, place: usize, mask: &[u8]) {
        self.writable[place..place + mask.len()].copy_from_slice(mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::builder(Identity {
            vendor: 0x1234,
            device: 0x5678,
            class: 0x01_08_02,
            revision: 9,
        })
        .bar64(0, 0x4000)
        .bar32(4, 0x1000)
        .interrupt_pin()
        .power_management()
        .msi(8)
        .msix(17, (4, 0), (4, 0x800))
        .pci_express()
        .build()
    }

    fn read32(space: &ConfigSpace, offset: u32) -> u32 {
        let mut bytes = [0; 4];
        space.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn the_header_says_what_it_is_and_stays_so() {
        let mut space = space();
        space.write(0, &[0xaa; 16]);
        assert_eq!(read32(&space, 0), 0x5678_1234);
        assert_eq!(read32(&space, 8), 0x0108_0209);
        assert_eq!(space.len(), 4096);
        assert_eq!(read32(&space, 0x100), 0);
        assert_eq!(read32(&space, 4094), 0xffff_0000);
        assert_eq!(read32(&space, u32::MAX), u32::MAX);
        space.write(u32::MAX, &[0; 8]);
    }

    #[test]
    fn bars_are_sized_by_writing_ones() {
        let mut space = space();
        for index in 0..6 {
            space.write(0x10 + 4 * index, &[0xff; 4]);
        }
        let bars: Vec<_> = (0..6).map(|index| read32(&space, 0x10 + 4 * index)).collect();
        assert_eq!(bars, [0xffff_c004, 0xffff_ffff, 0, 0, 0xffff_f000, 0]);
        space.write(0x10, &0x1234_5678_u32.to_le_bytes());
        assert_eq!(read32(&space, 0x10), 0x1234_4004);
    }

    #[test]
    fn capabilities_form_a_list() {
        let space = space();
        let mut ids = Vec::new();
        let mut place = read32(&space, 0x34) & 0xff;
        while place != 0 {
            let header = read32(&space, place);
            ids.push(header & 0xff);
            place = header >> 8 & 0xff;
        }
        assert_eq!(ids, [0x01, 0x05, 0x11, 0x10]);
    }

    #[test]
    fn a_function_level_reset_is_seen_and_not_kept() {
        let mut space = space();
        let control = space.device_control.unwrap() as u32;
        assert_eq!(space.write(control, &[0, 0x80]), ConfigEffect::FunctionReset);
        assert_eq!(read32(&space, control) & 0x8000, 0);
        assert_eq!(space.write(control, &[0x10, 0]), ConfigEffect::None);
        space.write(4, &[6, 0]);
        assert!(space.bus_master());
        space.reset();
        assert!(!space.bus_master());
        assert_eq!(read32(&space, control) & 0xffff, 0);
    }
}
