//! Which registers a native driver's process may map: what its data path writes, and nothing
//! by which it could harm more than its own device.
//!
//! | class | window |
//! |---|---|
//! | NVMe (01 08 02) | the pages of BAR 0 with the doorbells of the admin queues and of one pair of I/O queues, unless an MSI-X table or its pending bits lie in one of them |
//!
//! Whatever else a driver reads or writes is trapped. (Through VFIO, the file by which a window
//! is mapped is that of the whole device: which part of it a process maps, its sandbox has to
//! hold it to.)

use std::ops::Range;

use uniddrv::Transport;
use uniddrv::transport::{BarInfo, TransportError};
use uniddrv_spec::nvme::registers::{Cap, DOORBELLS, completion_doorbell};
use uniddrv_spec::pci::capability::{self, CapabilityId};
use uniddrv_spec::pci::class::ClassCode;
use uniddrv_spec::pci::msix::Msix;
use zerocopy::FromBytes;

/// The smallest page of every machine that is supported.
const PAGE: u64 = 4096;
/// Bytes of a doorbell.
const DOORBELL: u64 = 4;

/// Bytes of a BAR that no driver process touches: an MSI-X table or its pending bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hidden {
    pub(super) bar: u8,
    pub(super) range: Range<u64>,
}

impl Hidden {
    /// Whether `range` of BAR `bar` has a byte of it.
    pub(super) fn meets(&self, bar: u8, range: &Range<u64>) -> bool {
        self.bar == bar && self.range.start < range.end && range.start < self.range.end
    }
}

/// Where the MSI-X table of a device lies, and its pending bits.
///
/// # Errors
/// When the capability cannot be: it lies outside of the BARs, whose sizes are `bars`, or the
/// list that leads to it is broken.
pub(super) fn hidden(
    transport: &dyn Transport,
    bars: &[u64; 6],
) -> Result<Vec<Hidden>, TransportError> {
    let action = "look for the MSI-X capability";
    let malformed = |claim: String| TransportError::malformed(action, claim);
    let read = |offset: usize| {
        let mut dword = [0; 4];
        transport.read_config(offset as u32, &mut dword).ok()?;
        Some(u32::from_le_bytes(dword))
    };
    let found = capability::find(read, CapabilityId::MSI_X)
        .map_err(|error| malformed(error.to_string()))?;
    let Some(at) = found else { return Ok(Vec::new()) };
    let mut bytes = [0; size_of::<Msix>()];
    for (index, dword) in bytes.chunks_exact_mut(4).enumerate() {
        transport.read_config((at + 4 * index) as u32, dword)?;
    }
    let msix = Msix::read_from_bytes(&bytes)
        .map_err(|_| malformed(format!("the capability at {at:#x} cannot be read")))?;
    msix.check(bars).map_err(|error| malformed(error.to_string()))?;
    Ok(vec![
        Hidden { bar: msix.table().bir(), range: msix.table_range() },
        Hidden { bar: msix.pba().bir(), range: msix.pba_range() },
    ])
}

/// What a driver process may map of a device of class `class`. `cap` reads the controller
/// capabilities of an NVMe device.
pub(super) fn windows(
    class: u32,
    bars: &[BarInfo; 6],
    hidden: &[Hidden],
    cap: impl FnOnce() -> Result<u64, TransportError>,
) -> Result<Vec<(u8, Range<u64>)>, TransportError> {
    if class != ClassCode::NVME.bits() {
        return Ok(Vec::new());
    }
    let [registers, ..] = bars;
    let stride = Cap::from_bits(cap()?).dstrd();
    let end = (completion_doorbell(1, stride) as u64 + DOORBELL).next_multiple_of(PAGE);
    let doorbells = DOORBELLS as u64..end;
    let mappable = registers
        .mappable
        .iter()
        .any(|part| part.start <= doorbells.start && doorbells.end <= part.end);
    let shares_a_page = hidden.iter().any(|hidden| hidden.meets(0, &doorbells));
    if doorbells.end > registers.size || !mappable || shares_a_page {
        return Ok(Vec::new());
    }
    Ok(vec![(0, doorbells)])
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "it is meant: one part")]
mod tests {
    use super::*;

    const NVME: u32 = 0x01_0802;

    fn bars(size: u64, mappable: &[Range<u64>]) -> [BarInfo; 6] {
        let mut bars: [BarInfo; 6] = Default::default();
        bars[0] = BarInfo { size, mappable: mappable.to_vec() };
        bars
    }

    fn plan(bars: &[BarInfo; 6], hidden: &[Hidden], stride: u8) -> Vec<(u8, Range<u64>)> {
        let cap = Cap::from_bits(0).with_dstrd(stride).bits();
        windows(NVME, bars, hidden, || Ok(cap)).unwrap()
    }

    #[test]
    fn doorbells_are_mapped_as_far_as_they_are_needed() {
        let whole = bars(1 << 20, &[0..1 << 20]);
        assert_eq!(plan(&whole, &[], 0), [(0, 0x1000..0x2000)]);
        assert_eq!(plan(&whole, &[], 8), [(0, 0x1000..0x2000)]);
        // Four doorbells, 2 KiB apart.
        assert_eq!(plan(&whole, &[], 9), [(0, 0x1000..0x3000)]);
        assert_eq!(plan(&whole, &[], 15), [(0, 0x1000..0x6_2000)]);
        let sparse = bars(0x4000, &[0x3000..0x4000, 0x1000..0x2000]);
        assert_eq!(plan(&sparse, &[], 0), [(0, 0x1000..0x2000)]);
    }

    #[test]
    fn what_cannot_be_mapped_or_holds_more_stays_trapped() {
        let whole = bars(0x8000, &[0..0x8000]);
        assert_eq!(plan(&whole, &[], 15), []);
        assert_eq!(plan(&bars(0x4000, &[]), &[], 0), []);
        assert_eq!(plan(&bars(0x2000, &[0x1000..0x2000]), &[], 9), []);
        assert_eq!(plan(&bars(0x1800, &[0..0x1000]), &[], 0), []);
        assert_eq!(plan(&bars(0x4000, &[0..0x1000, 0x2000..0x4000]), &[], 0), []);
        for (bar, range, there) in [
            (0, 0x1ff0..0x2000, false),
            (0, 0x800..0x1008, false),
            (0, 0x2000..0x2010, true),
            (0, 0xff0..0x1000, true),
            (4, 0x1000..0x1010, true),
        ] {
            let found = plan(&whole, &[Hidden { bar, range: range.clone() }], 0);
            assert_eq!(found.is_empty(), !there, "{bar} {range:#x?}");
        }
    }

    #[test]
    fn other_classes_have_no_windows() {
        let whole = bars(1 << 20, &[0..1 << 20]);
        let cap = || -> Result<u64, TransportError> { panic!("read without need") };
        assert_eq!(windows(0x02_0000, &whole, &[], cap).unwrap(), []);
    }

    #[test]
    fn a_device_that_cannot_be_asked_is_an_error() {
        let failure = || Err(TransportError::Unsupported("no".into()));
        assert!(windows(NVME, &bars(0x4000, &[]), &[], failure).is_err());
    }
}
