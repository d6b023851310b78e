//! Where a device keeps its MSI-X table, which is not for drivers to touch.

use std::ops::Range;

use uniddrv_spec::pci::msix::{Location, Msix, MsixControl, TableEntry};
use uniddrv_spec::pci::{CapabilityId, capability};

use crate::transport::TransportError;

/// The BAR and the bytes of it in which the MSI-X table lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) bar: u8,
    pub(super) range: Range<u64>,
}

/// Looks for the MSI-X capability in configuration space, of which `read` reads the four bytes
/// at an offset.
pub(super) fn table(
    mut read: impl FnMut(usize) -> Option<u32>,
) -> Result<Option<Table>, TransportError> {
    let action = "look for the MSI-X capability";
    let found = capability::find(&mut read, CapabilityId::MSI_X)
        .map_err(|error| TransportError::malformed(action, error.to_string()))?;
    let Some(at) = found else { return Ok(None) };
    let (Some(header), Some(place)) = (read(at), read(at + LOCATION)) else {
        let claim = format!("the capability at {at:#x} cannot be read");
        return Err(TransportError::malformed(action, claim));
    };
    let control = MsixControl::from_bits((header >> 16) as u16);
    let vectors = u64::from(control.table_size()) + 1;
    let place = Location::from_bits(place);
    let range = place.range(vectors * TableEntry::SIZE as u64);
    Ok(Some(Table { bar: place.bir(), range }))
}

/// Offset of Table Offset/Table BIR in the capability. PCI Local Bus 3.0 §6.8.2.4.
const LOCATION: usize = std::mem::offset_of!(Msix, table);

#[cfg(test)]
mod tests {
    use super::*;

    fn find(status: u16, pointer: u8, capabilities: &[(u8, &[u8])]) -> Result<Option<Table>, ()> {
        let mut bytes = [0; 256];
        bytes[6..8].copy_from_slice(&status.to_le_bytes());
        bytes[0x34] = pointer;
        for (at, body) in capabilities {
            let at = usize::from(*at);
            bytes[at..at + body.len()].copy_from_slice(body);
        }
        table(|at| uniddrv_spec::pci::dword_at(&bytes, at)).map_err(drop)
    }

    #[test]
    fn the_table_is_found_behind_other_capabilities() {
        // QEMU's nvme: 65 entries at 0x2000 of BAR 0.
        let msix = [0x11, 0, 64, 0x80, 0, 0x20, 0, 0];
        let found = find(0x10, 0x60, &[(0x60, &[1, 0x40]), (0x40, &msix)]);
        assert_eq!(found, Ok(Some(Table { bar: 0, range: 0x2000..0x2410 })));
        let most = find(0x10, 0x40, &[(0x40, &[0x11, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])]);
        assert_eq!(most, Ok(Some(Table { bar: 7, range: 0x7fff_fff8..0x8000_7ff8 })));
    }

    #[test]
    fn a_device_without_table_has_none() {
        assert_eq!(find(0, 0x40, &[(0x40, &[0x11])]), Ok(None));
        assert_eq!(find(0x10, 0, &[]), Ok(None));
        assert_eq!(find(0x10, 0x40, &[(0x40, &[5, 0])]), Ok(None));
    }

    #[test]
    fn lists_that_cannot_be_are_errors() {
        assert!(find(0x10, 0x40, &[(0x40, &[5, 0x40])]).is_err());
        assert!(find(0x10, 0x40, &[(0x40, &[5, 0x3c])]).is_err());
        assert!(find(0x10, 0xfc, &[(0xfc, &[0x11, 0])]).is_err());
        assert!(table(|_| Some(u32::MAX)).is_err());
        assert!(table(|_| None).is_err());
    }
}
