//! PCI class codes and what people call them.

use std::fmt;

/// A class code: base class, sub-class and programming interface.
/// PCI Code and ID Assignment 1.x §1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class(u32);

impl Class {
    /// From the 24-bit code as sysfs gives it, `0x010802`.
    pub const fn new(code: u32) -> Self {
        Self(code & 0xff_ffff)
    }

    /// The 24-bit code.
    pub const fn code(self) -> u32 {
        self.0
    }

    /// The base class.
    pub const fn base(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// The sub-class.
    pub const fn sub(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// A bridge: never given to user space, and no obstacle in an IOMMU group.
    pub const fn is_bridge(self) -> bool {
        self.base() == 0x06
    }

    /// What people call this class.
    pub const fn name(self) -> &'static str {
        match (self.base(), self.sub(), self.0 as u8) {
            (0x01, 0x08, 0x02) => "NVMe",
            (0x01, 0x00, _) => "SCSI",
            (0x01, 0x01, _) => "IDE",
            (0x01, 0x04, _) => "RAID",
            (0x01, 0x06, _) => "SATA",
            (0x01, 0x07, _) => "SAS",
            (0x01, ..) => "Storage",
            (0x02, 0x00, _) => "Ethernet",
            (0x02, 0x07, _) => "InfiniBand",
            (0x02, ..) => "Network",
            (0x03, ..) => "Display",
            (0x04, ..) => "Multimedia",
            (0x05, ..) => "Memory",
            (0x06, 0x00, _) => "Host bridge",
            (0x06, 0x01, _) => "ISA bridge",
            (0x06, 0x04, _) => "PCI bridge",
            (0x06, ..) => "Bridge",
            (0x07, ..) => "Communication",
            (0x08, 0x06, _) => "IOMMU",
            (0x08, ..) => "System",
            (0x09, ..) => "Input",
            (0x0c, 0x03, _) => "USB",
            (0x0c, 0x05, _) => "SMBus",
            (0x0c, ..) => "Serial bus",
            (0x0d, ..) => "Wireless",
            (0x10, ..) => "Encryption",
            (0x12, ..) => "Accelerator",
            (0x00 | 0xff, ..) => "Unclassified",
            _ => "Other",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_that_matter_have_names() {
        assert_eq!(Class::new(0x01_0802).name(), "NVMe");
        assert_eq!(Class::new(0x02_0000).name(), "Ethernet");
        assert_eq!(Class::new(0x06_0400).name(), "PCI bridge");
        assert_eq!(Class::new(0x00_ff00).name(), "Unclassified");
        assert!(Class::new(0x06_0100).is_bridge());
        assert!(!Class::new(0x01_0802).is_bridge());
    }
}
