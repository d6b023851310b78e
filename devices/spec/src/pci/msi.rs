//! Message signalled interrupts: the MSI capability. PCI Local Bus 3.0 §6.8.1.

bits! {
    /// Message Control, at offset 2 of the capability. PCI Local Bus 3.0 §6.8.1.3.
    pub struct MsiControl(u16) @ 0x02;
    /// MSI Enable.
    enable / with_enable = [0:0] bool;
    /// Multiple Message Capable, as a power of two: 0 to 5.
    capable / with_capable = [3:1] u8;
    /// Multiple Message Enable, as a power of two: 0 to 5.
    enabled / with_enabled = [6:4] u8;
    /// 64-bit address capable.
    address_64 / with_address_64 = [7:7] bool;
    /// Per-vector masking capable.
    masking / with_masking = [8:8] bool;
}

impl MsiControl {
    /// Offset in the capability of the low half of the message address.
    pub const ADDRESS: usize = 0x04;

    /// Vectors that the device asks for: 1 to 32; `None` where it claims a value that the
    /// standard reserves.
    pub const fn vectors(self) -> Option<u8> {
        if self.capable() > 5 { None } else { Some(1 << self.capable()) }
    }

    /// Offset in the capability of the message data.
    pub const fn data_offset(self) -> usize {
        if self.address_64() { 0x0c } else { 0x08 }
    }

    /// Offset in the capability of the mask bits; `None` where there are none. The pending
    /// bits follow 4 bytes on.
    pub const fn mask_offset(self) -> Option<usize> {
        match (self.masking(), self.address_64()) {
            (false, _) => None,
            (true, false) => Some(0x0c),
            (true, true) => Some(0x10),
        }
    }

    /// Length of the capability in bytes.
    pub const fn length(self) -> usize {
        match self.mask_offset() {
            Some(offset) => offset + 8,
            None => self.data_offset() + 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_alone() {
        check_fields!(MsiControl);
        assert_eq!(MsiControl::default().with_capable(0xff).bits(), 0xe);
        assert_eq!(MsiControl::default().with_enabled(0xff).bits(), 0x70);
        assert_eq!(MsiControl::default().with_masking(true).bits(), 0x100);
    }

    #[test]
    fn the_four_layouts() {
        let layouts = [(0x000, 8, None, 10), (0x080, 12, None, 14), (0x100, 8, Some(12), 20)];
        for (bits, data, mask, length) in layouts {
            let control = MsiControl::from_bits(bits);
            assert_eq!(
                (control.data_offset(), control.mask_offset(), control.length()),
                (data, mask, length)
            );
        }
        let control = MsiControl::from_bits(0x18a);
        assert_eq!(control.mask_offset(), Some(16));
        assert_eq!(control.length(), 24);
        assert_eq!(control.vectors(), Some(32));
        assert_eq!(MsiControl::from_bits(0xe).vectors(), None);
    }
}
