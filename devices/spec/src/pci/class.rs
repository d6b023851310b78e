//! What a device says it is. PCI Code and ID Assignment 1.11 §1.

use core::fmt;

bits! {
    /// Class Code, 24 bits. `Display` gives the name of class and sub-class.
    pub struct ClassCode(u32);
    /// Programming interface.
    interface / with_interface = [7:0] u8;
    /// Sub-class.
    sub / with_sub = [15:8] u8;
    /// Base class.
    base / with_base = [23:16] u8;
}

impl ClassCode {
    /// A controller of NVM Express.
    pub const NVME: Self = Self::new(0x01, 0x08, 0x02);
    /// An Ethernet controller.
    pub const ETHERNET: Self = Self::new(0x02, 0x00, 0x00);

    /// Of base class, sub-class and programming interface.
    pub const fn new(base: u8, sub: u8, interface: u8) -> Self {
        Self::from_bits(0).with_base(base).with_sub(sub).with_interface(interface)
    }

    /// Name of class and sub-class: of the class alone where the sub-class has none
    /// here, `None` where neither has.
    pub const fn name(self) -> Option<&'static str> {
        Some(match (self.base(), self.sub()) {
            (0x00, 0x01) => "VGA compatible device",
            (0x00, _) => "device older than class codes",
            (0x01, 0x00) => "SCSI controller",
            (0x01, 0x01) => "IDE controller",
            (0x01, 0x04) => "RAID controller",
            (0x01, 0x06) => "SATA controller",
            (0x01, 0x07) => "SAS controller",
            (0x01, 0x08) => "NVM controller",
            (0x01, 0x09) => "UFS controller",
            (0x01, _) => "mass storage controller",
            (0x02, 0x00) => "Ethernet controller",
            (0x02, 0x07) => "InfiniBand controller",
            (0x02, _) => "network controller",
            (0x03, 0x00) => "VGA controller",
            (0x03, 0x02) => "3D controller",
            (0x03, _) => "display controller",
            (0x04, 0x03) => "audio device",
            (0x04, _) => "multimedia device",
            (0x05, 0x00) => "RAM controller",
            (0x05, 0x02) => "CXL memory device",
            (0x05, _) => "memory controller",
            (0x06, 0x00) => "host bridge",
            (0x06, 0x01) => "ISA bridge",
            (0x06, 0x04) => "PCI-to-PCI bridge",
            (0x06, _) => "bridge",
            (0x07, 0x00) => "serial controller",
            (0x07, _) => "communication controller",
            (0x08, 0x06) => "IOMMU",
            (0x08, _) => "system peripheral",
            (0x09, _) => "input controller",
            (0x0a, _) => "docking station",
            (0x0b, _) => "processor",
            (0x0c, 0x03) => "USB controller",
            (0x0c, 0x05) => "SMBus controller",
            (0x0c, _) => "serial bus controller",
            (0x0d, _) => "wireless controller",
            (0x0e, _) => "intelligent controller",
            (0x0f, _) => "satellite communication controller",
            (0x10, _) => "encryption controller",
            (0x11, _) => "signal processing controller",
            (0x12, _) => "processing accelerator",
            (0x13, _) => "non-essential instrumentation",
            (0xff, _) => "device of no class",
            _ => return None,
        })
    }
}

impl fmt::Display for ClassCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "class {:#08x}", self.bits()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn fields_stand_alone() {
        check_fields!(ClassCode);
        assert_eq!(ClassCode::NVME.bits(), 0x01_0802);
    }

    #[test]
    fn names() {
        assert_eq!(ClassCode::NVME.to_string(), "NVM controller");
        assert_eq!(ClassCode::ETHERNET.to_string(), "Ethernet controller");
        assert_eq!(ClassCode::from_bits(0x06_7700).to_string(), "bridge");
        assert_eq!(ClassCode::from_bits(0x40_0000).to_string(), "class 0x400000");
    }
}
