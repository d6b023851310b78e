//! The Power Management capability. PCI Bus Power Management Interface 1.2 §3.2, PCI
//! Express Base 4.0 §7.5.2.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Power Management capability, 8 bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PowerManagement {
    /// Capability ID: 01h.
    pub id: u8,
    /// Next capability.
    pub next: u8,
    /// Power Management Capabilities.
    pub pmc: U16,
    /// Power Management Control/Status.
    pub pmcsr: U16,
    /// Bridge Support Extensions.
    pub bridge: u8,
    /// Data.
    pub data: u8,
}

const _: () = assert!(size_of::<PowerManagement>() == 8);

impl PowerManagement {
    /// Power Management Capabilities.
    pub const fn pmc(&self) -> Pmc {
        Pmc::from_bits(self.pmc.get())
    }

    /// Power Management Control/Status.
    pub const fn pmcsr(&self) -> Pmcsr {
        Pmcsr::from_bits(self.pmcsr.get())
    }
}

bits! {
    /// Power Management Capabilities (PMC), at offset 2 of the capability.
    pub struct Pmc(u16) @ 0x02;
    /// Version.
    version / with_version = [2:0] u8;
    /// PME Clock.
    pme_clock / with_pme_clock = [3:3] bool;
    /// Immediate readiness on return to D0.
    immediate_readiness / with_immediate_readiness = [4:4] bool;
    /// Device Specific Initialization.
    dsi / with_dsi = [5:5] bool;
    /// Aux Current.
    aux_current / with_aux_current = [8:6] u8;
    /// D1 Support.
    d1 / with_d1 = [9:9] bool;
    /// D2 Support.
    d2 / with_d2 = [10:10] bool;
    /// PME Support, a bit a state: D0, D1, D2, D3hot, D3cold.
    pme / with_pme = [15:11] u8;
}

bits! {
    /// Power Management Control/Status (PMCSR), at offset 4 of the capability.
    pub struct Pmcsr(u16) @ 0x04;
    /// Power State: D0 to D3hot.
    state / with_state = [1:0] u8;
    /// No Soft Reset: going from D3hot to D0 does not reset the device.
    no_soft_reset / with_no_soft_reset = [3:3] bool;
    /// PME Enable.
    pme_enable / with_pme_enable = [8:8] bool;
    /// Data Select.
    data_select / with_data_select = [12:9] u8;
    /// Data Scale.
    data_scale / with_data_scale = [14:13] u8;
    /// PME Status, cleared by writing a 1.
    pme_status / with_pme_status = [15:15] bool;
}

impl Pmcsr {
    /// [`state`](Self::state): D0, full power.
    pub const D0: u8 = 0;
    /// [`state`](Self::state): D3hot.
    pub const D3_HOT: u8 = 3;
    /// Milliseconds to wait after a change between D0 and D3hot.
    pub const D3_HOT_DELAY_MS: u64 = 10;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_alone() {
        check_fields!(Pmc, Pmcsr);
        assert_eq!(Pmc::default().with_pme(0xff).bits(), 0xf800);
        assert_eq!(Pmc::default().with_d2(true).bits(), 0x400);
        assert_eq!(Pmcsr::default().with_no_soft_reset(true).bits(), 8);
        assert_eq!(Pmcsr::default().with_data_select(0xff).bits(), 0x1e00);
        assert_eq!(Pmcsr::default().with_data_scale(0xff).bits(), 0x6000);
    }

    #[test]
    fn golden_bytes_both_ways() {
        let bytes = [0x01, 0x70, 0x03, 0x00, 0x0b, 0x00, 0, 0];
        let read = PowerManagement::read_from_bytes(&bytes).unwrap();
        assert_eq!(read.pmc().version(), 3);
        assert_eq!(read.pmcsr().state(), Pmcsr::D3_HOT);
        assert!(read.pmcsr().no_soft_reset());
        let built = PowerManagement {
            id: 1,
            next: 0x70,
            pmc: Pmc::default().with_version(3).bits().into(),
            pmcsr: Pmcsr::default().with_state(3).with_no_soft_reset(true).bits().into(),
            ..PowerManagement::default()
        };
        assert_eq!(built.as_bytes(), bytes);
    }
}
