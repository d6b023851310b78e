//! The lists of capabilities. PCI Local Bus 3.0 §6.7, PCI Express Base 4.0 §7.5.1.1.11,
//! §7.6.3.
//!
//! Both walks take a function that reads an aligned dword of configuration space,
//! `None` past its end; [`dword_at`](super::dword_at) makes one of a copy. A device may
//! claim what it likes: a walk visits each place once at most, and ends with the first
//! error.

use super::config::{Header, Status};
use core::fmt;

codes! {
    /// Capability ID. PCI Code and ID Assignment 1.11 §2.
    pub struct CapabilityId(u8);
    POWER_MANAGEMENT = 0x01, "Power Management";
    VPD = 0x03, "Vital Product Data";
    SLOT_IDENTIFICATION = 0x04, "Slot Identification";
    MSI = 0x05, "MSI";
    PCI_X = 0x07, "PCI-X";
    VENDOR_SPECIFIC = 0x09, "Vendor Specific";
    HOT_PLUG = 0x0c, "Hot-Plug";
    SUBSYSTEM = 0x0d, "Subsystem ID";
    EXPRESS = 0x10, "PCI Express";
    MSI_X = 0x11, "MSI-X";
    SATA = 0x12, "SATA Configuration";
    ADVANCED_FEATURES = 0x13, "Advanced Features";
    ENHANCED_ALLOCATION = 0x14, "Enhanced Allocation";
}

codes! {
    /// Extended Capability ID. PCI Code and ID Assignment 1.11 §3.
    pub struct ExtendedCapabilityId(u16);
    ADVANCED_ERROR_REPORTING = 0x01, "Advanced Error Reporting";
    VIRTUAL_CHANNEL = 0x02, "Virtual Channel";
    SERIAL_NUMBER = 0x03, "Device Serial Number";
    POWER_BUDGETING = 0x04, "Power Budgeting";
    VENDOR_SPECIFIC = 0x0b, "Vendor-Specific Extended";
    ACCESS_CONTROL_SERVICES = 0x0d, "Access Control Services";
    ALTERNATIVE_ROUTING_ID = 0x0e, "Alternative Routing-ID Interpretation";
    ADDRESS_TRANSLATION = 0x0f, "Address Translation Services";
    SR_IOV = 0x10, "Single Root I/O Virtualization";
    PAGE_REQUEST = 0x13, "Page Request Interface";
    RESIZABLE_BAR = 0x15, "Resizable BAR";
    LATENCY_TOLERANCE = 0x18, "Latency Tolerance Reporting";
    SECONDARY_EXPRESS = 0x19, "Secondary PCI Express";
    PROCESS_ADDRESS_SPACE = 0x1b, "Process Address Space ID";
    DOWNSTREAM_CONTAINMENT = 0x1d, "Downstream Port Containment";
    L1_PM_SUBSTATES = 0x1e, "L1 PM Substates";
    PRECISION_TIME = 0x1f, "Precision Time Measurement";
    DATA_LINK_FEATURE = 0x25, "Data Link Feature";
    PHYSICAL_LAYER_16_GT = 0x26, "Physical Layer 16.0 GT/s";
}

/// A capability list that does not hold together. Offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListError {
    /// A pointer leads to where no capability can be: into the header, or past the end.
    OutOfRange {
        /// Where the pointer stands.
        from: usize,
        /// Where it leads.
        to: usize,
    },
    /// A pointer leads to a capability that was visited before.
    Loop {
        /// Where the pointer stands.
        from: usize,
        /// Where it leads.
        to: usize,
    },
    /// Configuration space could not be read, or reads as all ones: the device is gone.
    Unreadable {
        /// Where.
        at: usize,
    },
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { from, to } => write!(
                f,
                "capability pointer at {from:#x} leads to {to:#x}, where no capability can be"
            ),
            Self::Loop { from, to } => write!(
                f,
                "capability pointer at {from:#x} leads back to {to:#x}: the list never ends"
            ),
            Self::Unreadable { at } => {
                write!(f, "no capability can be read at {at:#x} of configuration space")
            }
        }
    }
}

impl core::error::Error for ListError {}

/// A capability and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Which.
    pub id: CapabilityId,
    /// Offset in bytes, a multiple of 4 from 0x40 to 0xfc.
    pub offset: usize,
}

/// Walks the capability list of a device.
#[derive(Debug)]
pub struct Capabilities<R> {
    read: R,
    /// Where the pointer to follow stands, and where it leads; `None` at the end.
    next: Option<(usize, usize)>,
    /// A bit for each dword of conventional configuration space.
    visited: u64,
}

impl<R: FnMut(usize) -> Option<u32>> Capabilities<R> {
    /// Walks the list of the device whose configuration space `read` reads.
    pub fn new(mut read: R) -> Result<Self, ListError> {
        let unreadable = |at| move || ListError::Unreadable { at };
        // Status is the high half of the dword that begins with Command.
        let dword = read(Status::OFFSET & !3).ok_or_else(unreadable(Status::OFFSET))?;
        if dword == u32::MAX {
            return Err(ListError::Unreadable { at: Status::OFFSET });
        }
        let mut next = None;
        if Status::from_bits((dword >> 16) as u16).capabilities() {
            let pointer =
                read(Header::CAPABILITIES).ok_or_else(unreadable(Header::CAPABILITIES))?;
            next = Some((Header::CAPABILITIES, pointer as usize & 0xff));
        }
        Ok(Self { read, next, visited: 0 })
    }

    fn follow(&mut self, from: usize, to: usize) -> Result<Capability, ListError> {
        // The low 2 bits of a pointer are reserved, and to be masked.
        let to = to & !3;
        if to < size_of::<Header>() {
            return Err(ListError::OutOfRange { from, to });
        }
        let bit = 1u64 << (to / 4);
        if self.visited & bit != 0 {
            return Err(ListError::Loop { from, to });
        }
        self.visited |= bit;
        match (self.read)(to) {
            None | Some(u32::MAX) => Err(ListError::Unreadable { at: to }),
            Some(dword) => {
                let [id, next, _, _] = dword.to_le_bytes();
                if next & !3 != 0 {
                    self.next = Some((to + 1, usize::from(next)));
                }
                Ok(Capability { id: CapabilityId(id), offset: to })
            }
        }
    }
}

impl<R: FnMut(usize) -> Option<u32>> Iterator for Capabilities<R> {
    type Item = Result<Capability, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (from, to) = self.next.take()?;
        (to & !3 != 0).then(|| self.follow(from, to))
    }
}

/// The first capability `id`, of a walk that takes `read`. An error of the list before
/// it was found is told; one after it does not matter.
pub fn find<R: FnMut(usize) -> Option<u32>>(
    read: R,
    id: CapabilityId,
) -> Result<Option<usize>, ListError> {
    for capability in Capabilities::new(read)? {
        let capability = capability?;
        if capability.id == id {
            return Ok(Some(capability.offset));
        }
    }
    Ok(None)
}

bits! {
    /// Extended Capability Header. PCI Express Base 4.0 §7.6.3.
    pub struct ExtendedHeader(u32);
    /// Extended Capability ID.
    id / with_id = [15:0] u16;
    /// Capability Version.
    version / with_version = [19:16] u8;
    /// Next Capability Offset in bytes; 0 at the end.
    next / with_next = [31:20] u16;
}

/// An extended capability and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedCapability {
    /// Which.
    pub id: ExtendedCapabilityId,
    /// Its version.
    pub version: u8,
    /// Offset in bytes, a multiple of 4 from 0x100 to 0xffc.
    pub offset: usize,
}

/// Where the first extended capability lies.
pub const EXTENDED_START: usize = super::CONFIG_SIZE;

/// Walks the extended capability list of a device. Yields nothing where the device has no
/// extended configuration space, or nothing in it.
#[derive(Debug)]
pub struct ExtendedCapabilities<R> {
    read: R,
    next: Option<(usize, usize)>,
    /// A bit for each dword of extended configuration space.
    visited: [u64; 16],
}

impl<R: FnMut(usize) -> Option<u32>> ExtendedCapabilities<R> {
    /// Walks the list of the device whose configuration space `read` reads.
    pub const fn new(read: R) -> Self {
        Self { read, next: Some((EXTENDED_START, EXTENDED_START)), visited: [0; 16] }
    }

    fn follow(&mut self, from: usize, to: usize) -> Result<ExtendedCapability, ListError> {
        let to = to & !3;
        if to < EXTENDED_START {
            return Err(ListError::OutOfRange { from, to });
        }
        let Some(word) = self.visited.get_mut(to / 256) else {
            return Err(ListError::OutOfRange { from, to });
        };
        let bit = 1u64 << (to / 4 % 64);
        if *word & bit != 0 {
            return Err(ListError::Loop { from, to });
        }
        *word |= bit;
        match (self.read)(to) {
            None | Some(u32::MAX) => Err(ListError::Unreadable { at: to }),
            Some(dword) => {
                let header = ExtendedHeader::from_bits(dword);
                if header.next() & !3 != 0 {
                    self.next = Some((to, usize::from(header.next())));
                }
                let (id, version) = (ExtendedCapabilityId(header.id()), header.version());
                Ok(ExtendedCapability { id, version, offset: to })
            }
        }
    }
}

impl<R: FnMut(usize) -> Option<u32>> Iterator for ExtendedCapabilities<R> {
    type Item = Result<ExtendedCapability, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (from, to) = self.next.take()?;
        // An empty list is a first header of zeroes (or ones, where nobody answers).
        let first = from == EXTENDED_START && to == EXTENDED_START;
        if first && matches!((self.read)(EXTENDED_START), None | Some(0 | u32::MAX)) {
            return None;
        }
        Some(self.follow(from, to))
    }
}

#[cfg(test)]
mod tests;
