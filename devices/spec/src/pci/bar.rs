//! Base Address Registers. PCI Local Bus 3.0 §6.2.5.1.

/// How many there are in a type 0 header.
pub const COUNT: usize = 6;

bits! {
    /// A base address register for memory, the low half where it has 64 bits.
    pub struct MemoryBar(u32);
    /// Memory Space Indicator: clear, for memory.
    is_io / with_is_io = [0:0] bool;
    /// Type: 0 anywhere in 32 bits, 2 anywhere in 64.
    kind / with_kind = [2:1] u8;
    /// Prefetchable: reading has no side effects.
    prefetchable / with_prefetchable = [3:3] bool;
    /// Bits 31:4 of the address.
    base / with_base = [31:4] u32;
}

bits! {
    /// A base address register for I/O.
    pub struct IoBar(u32);
    /// I/O Space Indicator: set, for I/O.
    is_io / with_is_io = [0:0] bool;
    /// Bits 31:2 of the address.
    base / with_base = [31:2] u32;
}

/// What a base address register says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Memory, addressed by 32 bits.
    Memory32 {
        /// Where.
        address: u32,
        /// Reading has no side effects.
        prefetchable: bool,
    },
    /// Memory, addressed by 64 bits; takes the next register too.
    Memory64 {
        /// Where.
        address: u64,
        /// Reading has no side effects.
        prefetchable: bool,
    },
    /// I/O ports.
    Io {
        /// Where.
        address: u32,
    },
}

impl Bar {
    /// Address, in memory or I/O space.
    pub const fn address(self) -> u64 {
        match self {
            Self::Memory32 { address, .. } | Self::Io { address } => address as u64,
            Self::Memory64 { address, .. } => address,
        }
    }

    /// Whether this is memory, not I/O ports.
    pub const fn is_memory(self) -> bool {
        !matches!(self, Self::Io { .. })
    }

    /// Reads register `low`, whose next one is `high`; `None` where the type is one that
    /// the standard reserves, or takes a register that is not there.
    pub const fn parse(low: u32, high: Option<u32>) -> Option<Self> {
        let memory = MemoryBar::from_bits(low);
        if memory.is_io() {
            return Some(Self::Io { address: IoBar::from_bits(low).base() << 2 });
        }
        let address = memory.base() << 4;
        let prefetchable = memory.prefetchable();
        match (memory.kind(), high) {
            (0, _) => Some(Self::Memory32 { address, prefetchable }),
            (2, Some(high)) => {
                let address = ((high as u64) << 32) | address as u64;
                Some(Self::Memory64 { address, prefetchable })
            }
            _ => None,
        }
    }

    /// The register, and the next one where it takes both. Drops the bits of the address
    /// that the register has no room for.
    pub const fn to_raw(self) -> (u32, Option<u32>) {
        match self {
            Self::Memory32 { address, prefetchable } => {
                let bar = MemoryBar::from_bits(0).with_base(address >> 4);
                (bar.with_prefetchable(prefetchable).bits(), None)
            }
            Self::Memory64 { address, prefetchable } => {
                let bar = MemoryBar::from_bits(0).with_base(address as u32 >> 4).with_kind(2);
                (bar.with_prefetchable(prefetchable).bits(), Some((address >> 32) as u32))
            }
            Self::Io { address } => {
                (IoBar::from_bits(0).with_is_io(true).with_base(address >> 2).bits(), None)
            }
        }
    }
}

/// Reads all registers of a header. `None` for one that is 0, that is the high half of
/// the one before, or that says nonsense. A device may well have a BAR whose register
/// reads as 0 (32-bit memory that has no address yet): only [`size`] tells.
pub fn decode(raw: &[u32; COUNT]) -> [Option<Bar>; COUNT] {
    let mut bars = [None; COUNT];
    let mut high_half = false;
    for (index, bar) in bars.iter_mut().enumerate() {
        if core::mem::take(&mut high_half) || raw[index] == 0 {
            continue;
        }
        *bar = Bar::parse(raw[index], raw.get(index + 1).copied());
        high_half = matches!(bar, Some(Bar::Memory64 { .. }));
    }
    bars
}

/// Size in bytes of a BAR from what its register (and the next, where it takes both)
/// reads as after all ones were written to it; `None` where there is no BAR, or the
/// device claims a size that is not a power of two.
pub fn size(low: u32, high: Option<u32>) -> Option<u64> {
    let bar = Bar::parse(low, high)?;
    let unwritable = match bar {
        _ if bar.address() == 0 => return None,
        Bar::Memory64 { .. } => 0,
        // A device may leave the upper 16 bits of an I/O register at 0.
        Bar::Io { address } if address >> 16 == 0 => 0xffff_ffff_ffff_0000,
        Bar::Memory32 { .. } | Bar::Io { .. } => 0xffff_ffff_0000_0000,
    };
    let size = (bar.address() | unwritable).wrapping_neg();
    size.is_power_of_two().then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_stand_alone() {
        check_fields!(MemoryBar, IoBar);
    }

    #[test]
    fn raw_values_both_ways() {
        let cases = [
            (Bar::Memory32 { address: 0xfebf_0000, prefetchable: false }, (0xfebf_0000, None)),
            (Bar::Memory32 { address: 0x10, prefetchable: true }, (0x18, None)),
            (
                Bar::Memory64 { address: 0x12_fea0_4000, prefetchable: true },
                (0xfea0_400c, Some(0x12)),
            ),
            (Bar::Io { address: 0xc040 }, (0xc041, None)),
        ];
        for (bar, raw) in cases {
            assert_eq!(bar.to_raw(), raw);
            assert_eq!(Bar::parse(raw.0, Some(raw.1.unwrap_or(0))), Some(bar));
        }
        assert!(!Bar::Io { address: 0 }.is_memory());
        assert_eq!(Bar::parse(0x02, Some(0)), None);
        assert_eq!(Bar::parse(0x06, Some(0)), None);
        assert_eq!(Bar::parse(0x04, None), None);
    }

    #[test]
    fn a_header() {
        let bars = decode(&[0xfea0_4004, 1, 0, 0xc001, 0xfeb0_0008, 0xfeb1_0004]);
        assert_eq!(
            bars,
            [
                Some(Bar::Memory64 { address: 0x1_fea0_4000, prefetchable: false }),
                None,
                None,
                Some(Bar::Io { address: 0xc000 }),
                Some(Bar::Memory32 { address: 0xfeb0_0000, prefetchable: true }),
                // 64 bits in the last register: there is no room for them
                None,
            ]
        );
    }

    #[test]
    fn sizes() {
        assert_eq!(size(0xffff_c004, Some(u32::MAX)), Some(0x4000));
        assert_eq!(size(0x0000_000c, Some(0xffff_fff0)), Some(16 << 32));
        assert_eq!(size(0xfff0_0000, None), Some(1 << 20));
        assert_eq!(size(0xffff_ffe1, None), Some(32));
        assert_eq!(size(0x0000_ffe1, None), Some(32));
        assert_eq!(size(0, None), None);
        assert_eq!(size(0xfff1_0000, None), None);
        assert_eq!(size(8, None), None);
        assert_eq!(size(1, None), None);
        assert_eq!(size(0x0000_0004, Some(0)), None);
    }

    proptest! {
        #[test]
        fn any_registers_decode(raw in any::<[u32; 6]>()) {
            for (index, bar) in decode(&raw).into_iter().enumerate() {
                if let Some(bar) = bar {
                    let (low, high) = bar.to_raw();
                    prop_assert_eq!(Bar::parse(low, high.or(Some(0))), Some(bar));
                    prop_assert_eq!(low & !2, raw[index] & !2);
                }
            }
            if let Some(size) = size(raw[0], Some(raw[1])) {
                prop_assert!(size.is_power_of_two());
            }
        }
    }
}
