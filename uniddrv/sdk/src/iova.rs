//! I/O virtual addresses: which of a device's are taken.

use std::collections::BTreeMap;

use crate::arena::HUGE_PAGE;
use crate::dma::DmaError;
use crate::transport::DmaLimits;

/// The addresses of one device's address space that have been given out.
#[derive(Debug)]
pub struct Addresses {
    // Start and length of what is taken, by start.
    taken: BTreeMap<u64, u64>,
    highest: u64,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { taken: BTreeMap::new(), highest: u64::MAX }
    }
}

impl Addresses {
    /// From now on, only addresses that fit in `bits` bits are given out.
    pub fn limit_bits(&mut self, bits: u32) {
        self.highest = u64::MAX.checked_shr(64u32.saturating_sub(bits)).unwrap_or(0);
    }

    /// Takes `len` bytes that nobody has, aligned to 2 MiB and to what `limits` says; where they
    /// start. Never 0: too many devices and programs take that for "none".
    ///
    /// # Errors
    /// `NoAddress` when there are no such bytes.
    pub fn take(&mut self, len: usize, limits: &DmaLimits) -> Result<u64, DmaError> {
        let align = limits.granule.max(HUGE_PAGE as u64);
        let size = (len as u64).max(1);
        for range in &limits.ranges {
            let mut start = *range.start().max(&align);
            let end = (*range.end()).min(self.highest);
            while let Some(aligned) = start.checked_next_multiple_of(align) {
                let Some(last) = aligned.checked_add(size - 1).filter(|&last| last <= end) else {
                    break;
                };
                // The one that starts last at or before our end is the one in the way.
                match self.taken.range(..=last).next_back() {
                    Some((&taken, &taken_len)) if taken + (taken_len - 1) >= aligned => {
                        let Some(next) = taken.checked_add(taken_len) else { break };
                        start = next;
                    }
                    _ => {
                        self.taken.insert(aligned, size);
                        return Ok(aligned);
                    }
                }
            }
        }
        Err(DmaError::NoAddress { len, limit: self.highest })
    }

    /// Gives back what was taken at `start`.
    pub fn give_back(&mut self, start: u64) {
        self.taken.remove(&start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_out_once_inside_the_limits_and_come_back() {
        let limits =
            DmaLimits { ranges: vec![0..=0x3f_ffff, 0x60_0000..=0xff_ffff], granule: 4096 };
        let mut addresses = Addresses::default();
        assert_eq!(addresses.take(HUGE_PAGE, &limits).unwrap(), 0x20_0000);
        assert_eq!(addresses.take(2 * HUGE_PAGE, &limits).unwrap(), 0x60_0000);
        assert_eq!(addresses.take(HUGE_PAGE, &limits).unwrap(), 0xa0_0000);
        addresses.give_back(0x60_0000);
        assert_eq!(addresses.take(1, &limits).unwrap(), 0x60_0000);
        assert_eq!(addresses.take(1, &limits).unwrap(), 0x80_0000);
        addresses.limit_bits(23);
        let error = addresses.take(1, &limits).unwrap_err();
        assert!(matches!(error, DmaError::NoAddress { len: 1, limit: 0x7f_ffff }), "{error}");
    }

    #[test]
    fn nothing_is_given_out_at_the_end_of_all_addresses() {
        let limits = DmaLimits { ranges: vec![u64::MAX - 10..=u64::MAX], granule: 4096 };
        assert!(Addresses::default().take(1, &limits).is_err());
        let limits = DmaLimits { ranges: vec![0..=u64::MAX], granule: 1 << 63 };
        let mut addresses = Addresses::default();
        assert_eq!(addresses.take(1 << 62, &limits).unwrap(), 1 << 63);
        assert!(addresses.take(1, &limits).is_err());
    }
}
