//! Where a device keeps its MSI-X table, which is not for drivers to touch.

use std::ops::Range;

use crate::transport::TransportError;

/// The BAR and the bytes of it in which the MSI-X table lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) bar: u8,
    pub(super) range: Range<u64>,
}

/// Looks for the MSI-X capability in configuration space, read two or four bytes at a time
/// with `read(offset, bytes)`. Nothing where the device has none, or a broken list.
pub(super) fn table(
    read: impl Fn(u32, &mut [u8]) -> Result<(), TransportError>,
) -> Result<Option<Table>, TransportError> {
    const STATUS: u32 = 0x06;
    const STATUS_LIST: u16 = 1 << 4;
    const POINTER: u32 = 0x34;
    const MSIX: u8 = 0x11;
    // 192 bytes of capabilities of at least 4 bytes each; PCI Local Bus 3.0 §6.7.
    const MOST: usize = 48;
    let word = |offset| {
        let mut bytes = [0; 2];
        read(offset, &mut bytes).map(|()| u16::from_le_bytes(bytes))
    };
    if word(STATUS)? & STATUS_LIST == 0 {
        return Ok(None);
    }
    let mut at = word(POINTER)? & 0xfc;
    for _ in 0..MOST {
        if at < 0x40 {
            return Ok(None);
        }
        let [id, next] = word(at.into())?.to_le_bytes();
        if id == MSIX {
            let control = word(u32::from(at) + 2)?;
            let mut place = [0; 4];
            read(u32::from(at) + 4, &mut place)?;
            return Ok(Some(Table::decode(control, u32::from_le_bytes(place))));
        }
        at = u16::from(next & 0xfc);
    }
    Ok(None)
}

impl Table {
    /// Message Control and Table Offset/BIR. PCI Local Bus 3.0 §6.8.2.3 and §6.8.2.4.
    fn decode(control: u16, place: u32) -> Self {
        const ENTRY: u64 = 16;
        let entries = u64::from(control & 0x7ff) + 1;
        let start = u64::from(place & !7);
        Self { bar: (place & 7) as u8, range: start..start + entries * ENTRY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(status: u16, pointer: u8, capabilities: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        bytes[6..8].copy_from_slice(&status.to_le_bytes());
        bytes[0x34] = pointer;
        for (at, body) in capabilities {
            let at = usize::from(*at);
            bytes[at..at + body.len()].copy_from_slice(body);
        }
        bytes
    }

    fn find(bytes: &[u8]) -> Option<Table> {
        let read = |offset: u32, data: &mut [u8]| {
            let at = offset as usize;
            data.copy_from_slice(&bytes[at..at + data.len()]);
            Ok(())
        };
        table(read).unwrap()
    }

    #[test]
    fn the_table_is_found_behind_other_capabilities() {
        // QEMU's nvme: 65 entries at 0x2000 of BAR 0.
        let msix = [0x11, 0, 64, 0x80, 0, 0x20, 0, 0];
        let bytes = space(0x10, 0x60, &[(0x60, &[1, 0x40]), (0x40, &msix)]);
        assert_eq!(find(&bytes), Some(Table { bar: 0, range: 0x2000..0x2410 }));
    }

    #[test]
    fn a_device_without_table_has_none() {
        assert_eq!(find(&space(0, 0x40, &[(0x40, &[0x11])])), None);
        assert_eq!(find(&space(0x10, 0, &[])), None);
        assert_eq!(find(&space(0x10, 0x40, &[(0x40, &[5, 0])])), None);
    }

    #[test]
    fn lists_that_cannot_be_end() {
        assert_eq!(find(&space(0x10, 0x40, &[(0x40, &[5, 0x40])])), None);
        assert_eq!(find(&space(0x10, 0x40, &[(0x40, &[5, 0x3c])])), None);
        assert_eq!(find(&[0xff; 256]), None);
        let last =
            find(&space(0x10, 0xf8, &[(0xf8, &[0x11, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])]));
        assert_eq!(last, Some(Table { bar: 7, range: 0xffff_fff8..0x1_0000_7ff8 }));
    }
}
