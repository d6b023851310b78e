//! PCI configuration space of a model. PCI Local Bus 3.0 §6, PCI Express Base 4.0 §7.

use uniddrv::device::Identity;

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

// Offsets of the header. PCI Local Bus 3.0 §6.1.
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
const HEADER: usize = 0x40;

// Command: memory space, bus master, parity error response, SERR#, interrupt disable.
const COMMAND_WRITABLE: u16 = 0x0546;
const BUS_MASTER: u8 = 1 << 2;
const STATUS_CAPABILITIES: u8 = 1 << 4;

// Capability identifiers. PCI Code and ID Assignment §2.
const POWER_MANAGEMENT: u8 = 0x01;
const MSI: u8 = 0x05;
const PCI_EXPRESS: u8 = 0x10;
const MSI_X: u8 = 0x11;

// Device Capabilities: Function Level Reset, role-based error reporting, 256-byte payloads.
const DEVICE_CAPABILITIES: u32 = 1 << 28 | 1 << 15 | 1;
// Device Control: all but the reset bit, which is never seen set.
const DEVICE_CONTROL_WRITABLE: u16 = 0x7fff;
const INITIATE_RESET: u16 = 1 << 15;

impl ConfigSpace {
    /// Starts with the header of a function that has no BAR and no capability.
    pub fn builder(identity: Identity) -> ConfigSpaceBuilder {
        let mut builder = ConfigSpaceBuilder {
            bytes: vec![0; 256],
            writable: vec![0; 256],
            next: HEADER,
            link: CAPABILITIES,
            device_control: None,
        };
        builder.put(0x00, &identity.vendor.to_le_bytes());
        builder.put(0x02, &identity.device.to_le_bytes());
        builder.put(0x08, &[identity.revision]);
        builder.put(0x09, &identity.class.to_le_bytes()[..3]);
        builder.put(SUBSYSTEM, &identity.vendor.to_le_bytes());
        builder.put(SUBSYSTEM + 2, &identity.device.to_le_bytes());
        builder.writable(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        builder.writable(INTERRUPT_LINE, &[0xff]);
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
            if self.device_control.is_some_and(|control| place == control + 1)
                && byte & (INITIATE_RESET >> 8) as u8 != 0
            {
                effect = ConfigEffect::FunctionReset;
            }
        }
        effect
    }

    /// Whether the function may do DMA. PCI Local Bus 3.0 §6.2.2.
    #[inline]
    pub fn bus_master(&self) -> bool {
        self.bytes.get(COMMAND).is_some_and(|command| command & BUS_MASTER != 0)
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
        self.put(INTERRUPT_PIN, &[1]);
        self
    }

    /// Power Management, with No_Soft_Reset. PCI Power Management 1.2 §3.2.
    #[must_use]
    pub fn power_management(mut self) -> Self {
        const VERSION_3: u16 = 3;
        const NO_SOFT_RESET: u8 = 1 << 3;
        let place = self.capability(POWER_MANAGEMENT, 8);
        self.put(place + 2, &VERSION_3.to_le_bytes());
        self.put(place + 4, &[NO_SOFT_RESET]);
        self.writable(place + 4, &[0b11]);
        self
    }

    /// MSI with 64-bit addresses and `vectors` vectors, a power of two up to 32. PCI Local Bus
    /// 3.0 §6.8.1.
    ///
    /// # Panics
    /// When there cannot be that many.
    #[must_use]
    pub fn msi(mut self, vectors: u16) -> Self {
        const ADDRESS_64_BIT: u16 = 1 << 7;
        assert!(vectors.is_power_of_two() && vectors <= 32);
        let place = self.capability(MSI, 14);
        let control = ADDRESS_64_BIT | (vectors.trailing_zeros() as u16) << 1;
        self.put(place + 2, &control.to_le_bytes());
        self.writable(place + 2, &[0x71]);
        self.writable(place + 4, &0xffff_ffff_ffff_fffc_u64.to_le_bytes());
        self.writable(place + 12, &[0xff, 0xff]);
        self
    }

    /// MSI-X with `vectors` vectors, its table and its pending bits each in a BAR at a multiple
    /// of 8 bytes. PCI Local Bus 3.0 §6.8.2.
    ///
    /// # Panics
    /// When there cannot be that many, or they cannot lie there.
    #[must_use]
    pub fn msix(mut self, vectors: u16, table: (u8, u32), pending: (u8, u32)) -> Self {
        assert!((1..=2048).contains(&vectors));
        assert!(table.1.is_multiple_of(8) && pending.1.is_multiple_of(8));
        let place = self.capability(MSI_X, 12);
        self.put(place + 2, &(vectors - 1).to_le_bytes());
        self.writable(place + 2, &0xc000_u16.to_le_bytes());
        self.put(place + 4, &(table.1 | u32::from(table.0)).to_le_bytes());
        self.put(place + 8, &(pending.1 | u32::from(pending.0)).to_le_bytes());
        self
    }

    /// A PCI Express endpoint that can be reset as a function. PCI Express Base 4.0 §7.5.3.
    #[must_use]
    pub fn pci_express(mut self) -> Self {
        const ENDPOINT_VERSION_2: u16 = 2;
        const LINK_8_GT_X4: u16 = 0x43;
        let place = self.capability(PCI_EXPRESS, 60);
        self.put(place + 2, &ENDPOINT_VERSION_2.to_le_bytes());
        self.put(place + 4, &DEVICE_CAPABILITIES.to_le_bytes());
        self.writable(place + 8, &DEVICE_CONTROL_WRITABLE.to_le_bytes());
        self.put(place + 12, &LINK_8_GT_X4.to_le_bytes());
        self.put(place + 18, &LINK_8_GT_X4.to_le_bytes());
        self.device_control = Some(place + 8);
        self.bytes.resize(4096, 0);
        self.writable.resize(4096, 0);
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

    fn capability(&mut self, id: u8, len: usize) -> usize {
        let place = self.next;
        assert!(place + len <= 256, "no room for the capability {id:#x}");
        self.put(STATUS, &[STATUS_CAPABILITIES]);
        self.put(self.link, &[place as u8]);
        self.put(place, &[id]);
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
