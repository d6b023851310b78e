//! PCI and PCI Express configuration space. PCI Local Bus 3.0 §6, PCI Express Base 4.0 §7.
//!
//! * [`config`]: the header of a device
//! * [`class`]: what a device says it is
//! * [`bar`]: base address registers
//! * [`capability`]: the lists of capabilities, walked whatever a device claims
//! * [`msi`], [`msix`]: interrupts as messages
//! * [`power`]: power states
//! * [`express`]: the PCI Express capability, with function level reset

pub mod bar;
pub mod capability;
pub mod class;
pub mod config;
pub mod express;
pub mod msi;
pub mod msix;
pub mod power;

pub use bar::Bar;
pub use capability::{Capabilities, CapabilityId, ExtendedCapabilities, ExtendedCapabilityId};
pub use class::ClassCode;
pub use config::{Command, Header, Status};

/// Size in bytes of the configuration space of a conventional device.
pub const CONFIG_SIZE: usize = 256;
/// Size in bytes of the configuration space of a PCI Express device.
pub const EXTENDED_CONFIG_SIZE: usize = 4096;

/// The dword at `offset` of a copy of configuration space, for the walks of
/// [`capability`]; `None` past its end.
pub fn dword_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}
