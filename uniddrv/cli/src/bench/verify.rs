//! What is written under `--verify`, and whether it is read back.
//!
//! Each block says which run wrote it, where and at which turn, is filled with numbers made of
//! these, and carries a checksum. So a block that does not match tells how it went wrong: torn,
//! left behind by an earlier write, or meant for another place.

use std::fmt;

use super::workload::{Area, Step, mix};

/// The first eight bytes of a block: `uniddrvB`.
const MAGIC: u64 = u64::from_le_bytes(*b"uniddrvB");
/// Words of a block's header: magic, seed, LBA, generation, checksum.
const HEADER: usize = 5;

/// A unit has a request on its way: no other may touch it, or its content would be anyone's guess.
const BUSY: u32 = 1 << 31;
/// What the unit holds is not known: never written, or a write of it failed.
const UNKNOWN: u32 = 1 << 30;
const GENERATION: u32 = UNKNOWN - 1;

/// A block that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// The block that was read.
    pub(crate) lba: u64,
    /// The turn at which it was last written.
    pub(crate) generation: u32,
    /// What is there instead.
    pub(crate) found: Found,
}

/// What a block holds that is not what was written last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing but zeroes.
    Zeroes,
    /// Not a block of this program, or one whose start is damaged.
    Foreign([u8; 8]),
    /// Another run's block.
    OtherRun,
    /// A whole block, meant for another place.
    Misplaced(u64),
    /// A whole block, of another turn.
    Stale(u32),
    /// Damaged from this byte on.
    Damaged(usize),
    /// Not the zeroes that were written, from this byte on.
    NotZero(usize),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lba, generation, found } = self;
        write!(f, "LBA {lba}, write {generation} of it: ")?;
        match found {
            Found::Zeroes => f.write_str("all zeroes"),
            Found::Foreign(bytes) => write!(f, "foreign data, starting {bytes:02x?}"),
            Found::OtherRun => f.write_str("data of another run"),
            Found::Misplaced(lba) => write!(f, "the data of LBA {lba}"),
            Found::Stale(generation) => write!(f, "the data of write {generation}"),
            Found::Damaged(offset) => write!(f, "damaged from byte {offset} on"),
            Found::NotZero(offset) => write!(f, "not the zeroes written, from byte {offset} on"),
        }
    }
}

/// Memory for the state of all units is missing.
#[derive(Debug, thiserror::Error)]
#[error("no memory to keep track of {0} blocks; give a smaller --size")]
pub(crate) struct VerifierError(u64);

/// What one thread has written to its area, unit by unit.
#[derive(Debug)]
pub(crate) struct Verifier {
    seed: u64,
    area: Area,
    block_size: usize,
    units: Vec<u32>,
}

impl Verifier {
    /// A verifier for an area of which nothing is known yet.
    pub(crate) fn new(area: Area, block_size: u32, seed: u64) -> Result<Self, VerifierError> {
        let count = usize::try_from(area.units).map_err(|_| VerifierError(area.units))?;
        let mut units = Vec::new();
        units.try_reserve_exact(count).map_err(|_| VerifierError(area.units))?;
        units.resize(count, UNKNOWN);
        Ok(Self { seed, area, block_size: block_size as usize, units })
    }

    /// Takes the unit of `step`, or the next one that is free, and readies the buffer: filled
    /// for a write, its blocks' headers wiped for a read, so that an old copy cannot pass.
    pub(crate) fn begin(&mut self, step: Step, buffer: &mut [u8]) -> Option<Step> {
        let at = step.unit as usize;
        let free = |&unit: &usize| self.units.get(unit).is_some_and(|state| state & BUSY == 0);
        let unit = (at..self.units.len()).chain(0..at).find(free)?;
        let state = self.units.get_mut(unit)?;
        if step.write {
            let generation = ((*state & GENERATION) + 1) & GENERATION;
            *state = BUSY | (*state & UNKNOWN) | generation;
            let lba = self.area.lba(unit as u64);
            for (block, lba) in buffer.chunks_exact_mut(self.block_size).zip(lba..) {
                fill(block, self.seed, lba, generation);
            }
        } else {
            *state |= BUSY;
            for block in buffer.chunks_exact_mut(self.block_size) {
                block.iter_mut().take(8).for_each(|byte| *byte = 0xa5);
            }
        }
        Some(Step { unit: unit as u64, ..step })
    }

    /// Ends a step. For a read that went well: how many blocks were checked, or the first that
    /// does not match.
    pub(crate) fn end(
        &mut self,
        step: Step,
        went_well: bool,
        buffer: &[u8],
    ) -> Result<u64, Mismatch> {
        let Some(state) = self.units.get_mut(step.unit as usize) else { return Ok(0) };
        *state &= !BUSY;
        if step.write {
            *state = if went_well { *state & !UNKNOWN } else { *state | UNKNOWN };
            return Ok(0);
        }
        if !went_well || *state & UNKNOWN != 0 {
            return Ok(0);
        }
        let generation = *state & GENERATION;
        let mut checked = 0;
        let lba = self.area.lba(step.unit);
        for (block, lba) in buffer.chunks_exact(self.block_size).zip(lba..) {
            check(block, self.seed, lba, generation).map_err(|found| Mismatch {
                lba,
                generation,
                found,
            })?;
            checked += 1;
        }
        Ok(checked)
    }

    /// Takes a step back that was begun and not accepted.
    pub(crate) fn undo(&mut self, step: Step) {
        if let Some(state) = self.units.get_mut(step.unit as usize) {
            *state &= !BUSY;
            if step.write {
                *state = (*state & UNKNOWN) | (state.wrapping_sub(1) & GENERATION);
            }
        }
    }
}

/// The filler of a block: word `index` of what `key` stands for.
#[inline(always)]
fn filler(key: u64, index: usize) -> u64 {
    (key ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

fn key(seed: u64, lba: u64, generation: u32) -> u64 {
    mix(seed ^ mix(lba ^ mix(u64::from(generation))))
}

/// One more word in a checksum.
#[inline(always)]
fn fold(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(31)
}

/// Fills a block with what says that it is the `generation`-th write of `lba`.
pub(crate) fn fill(block: &mut [u8], seed: u64, lba: u64, generation: u32) {
    let key = key(seed, lba, generation);
    let header = [MAGIC, seed, lba, u64::from(generation), 0];
    let mut sum = 0;
    for (index, bytes) in block.chunks_exact_mut(8).enumerate() {
        let word = header.get(index).copied().unwrap_or_else(|| filler(key, index));
        sum = fold(sum, word);
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    if let Some(bytes) = block.get_mut(8 * (HEADER - 1)..8 * HEADER) {
        bytes.copy_from_slice(&sum.to_le_bytes());
    }
}

/// Whether each byte of a block is what [`fill`] makes of it.
pub(crate) fn check(block: &[u8], seed: u64, lba: u64, generation: u32) -> Result<(), Found> {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let mut header = [0u64; HEADER];
    let (mut sum, mut zeroes) = (0, true);
    let mut damaged = None;
    let expected = key(seed, lba, generation);
    for (index, bytes) in block.chunks_exact(8).enumerate() {
        let found = word(bytes);
        zeroes &= found == 0;
        if let Some(slot) = header.get_mut(index) {
            *slot = found;
            sum = fold(sum, if index == HEADER - 1 { 0 } else { found });
        } else {
            sum = fold(sum, found);
            if damaged.is_none() && found != filler(expected, index) {
                damaged = Some(8 * index);
            }
        }
    }
    let [magic, its_seed, its_lba, its_generation, its_sum] = header;
    let identity = [MAGIC, seed, lba, u64::from(generation)];
    let other = identity.iter().zip(header).position(|(&wanted, found)| wanted != found);
    match (other, damaged) {
        (None, None) if its_sum == sum => Ok(()),
        _ if zeroes => Err(Found::Zeroes),
        _ if magic != MAGIC => Err(Found::Foreign(magic.to_le_bytes())),
        // Whole in itself: somebody wrote it, just not this, here and now.
        (Some(1), _) if its_sum == sum => Err(Found::OtherRun),
        _ if its_sum == sum && its_seed == seed && its_lba != lba => Err(Found::Misplaced(its_lba)),
        _ if its_sum == sum && its_seed == seed => Err(Found::Stale(its_generation as u32)),
        (Some(field), _) => Err(Found::Damaged(8 * field)),
        (None, Some(offset)) => Err(Found::Damaged(offset)),
        (None, None) => Err(Found::Damaged(8 * (HEADER - 1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREA: Area = Area { first: 64, unit_blocks: 2, units: 4 };

    fn written(verifier: &mut Verifier, unit: u64) -> Vec<u8> {
        let mut buffer = vec![0; 1024];
        let step = verifier.begin(Step { write: true, unit }, &mut buffer).unwrap();
        assert_eq!(step.unit, unit);
        assert_eq!(verifier.end(step, true, &buffer), Ok(0));
        buffer
    }

    fn read(verifier: &mut Verifier, unit: u64, data: &[u8]) -> Result<u64, Mismatch> {
        let step = verifier.begin(Step { write: false, unit }, &mut vec![0; 1024]).unwrap();
        verifier.end(step, true, data)
    }

    #[test]
    fn what_was_written_is_read_back() {
        let mut verifier = Verifier::new(AREA, 512, 9).unwrap();
        let data = written(&mut verifier, 3);
        assert_eq!(read(&mut verifier, 3, &data), Ok(2));
        // Nothing is known of a unit that was never written.
        assert_eq!(read(&mut verifier, 2, &[1; 1024]), Ok(0));
    }

    #[test]
    fn each_way_of_going_wrong_is_told_apart() {
        let mut verifier = Verifier::new(AREA, 512, 9).unwrap();
        let old = written(&mut verifier, 1);
        let data = written(&mut verifier, 1);
        let elsewhere = written(&mut verifier, 2);
        let mut other_run = vec![0; 1024];
        Verifier::new(AREA, 512, 10)
            .unwrap()
            .begin(Step { write: true, unit: 1 }, &mut other_run)
            .unwrap();
        let mut flipped = data.clone();
        flipped[700] ^= 1;
        let mut sum = data.clone();
        sum[32] ^= 1;
        let mut lba = data.clone();
        lba[16] ^= 1;
        let mut torn = data.clone();
        torn[256..512].copy_from_slice(&old[256..512]);
        for (bytes, at, found) in [
            (vec![0; 1024], 66, Found::Zeroes),
            (vec![7; 1024], 66, Found::Foreign([7; 8])),
            (other_run, 66, Found::OtherRun),
            (elsewhere, 66, Found::Misplaced(68)),
            (old, 66, Found::Stale(1)),
            (flipped, 67, Found::Damaged(184)),
            (sum, 66, Found::Damaged(32)),
            (lba, 66, Found::Damaged(16)),
            (torn, 66, Found::Damaged(256)),
        ] {
            let wrong = read(&mut verifier, 1, &bytes).unwrap_err();
            assert_eq!((wrong.lba, wrong.found), (at, found));
        }
        assert_eq!(read(&mut verifier, 1, &data), Ok(2));
    }

    #[test]
    fn no_unit_is_taken_twice() {
        let mut verifier = Verifier::new(AREA, 512, 1).unwrap();
        let mut buffer = vec![0; 1024];
        let wanted = Step { write: false, unit: 2 };
        let taken: Vec<_> =
            (0..4).map(|_| verifier.begin(wanted, &mut buffer).unwrap().unit).collect();
        assert_eq!(taken, [2, 3, 0, 1]);
        assert_eq!(verifier.begin(wanted, &mut buffer), None);
        verifier.undo(Step { write: false, unit: 0 });
        assert_eq!(verifier.begin(wanted, &mut buffer).unwrap().unit, 0);
    }

    #[test]
    fn a_failed_write_leaves_the_content_unknown() {
        let mut verifier = Verifier::new(AREA, 512, 1).unwrap();
        let data = written(&mut verifier, 0);
        let mut buffer = vec![0; 1024];
        let step = verifier.begin(Step { write: true, unit: 0 }, &mut buffer).unwrap();
        verifier.end(step, false, &buffer).unwrap();
        assert_eq!(read(&mut verifier, 0, &data), Ok(0));
        let data = written(&mut verifier, 0);
        assert_eq!(read(&mut verifier, 0, &data), Ok(2));
    }

    #[test]
    fn a_write_that_was_not_accepted_changes_nothing() {
        let mut verifier = Verifier::new(AREA, 512, 1).unwrap();
        let data = written(&mut verifier, 0);
        let step = verifier.begin(Step { write: true, unit: 0 }, &mut [0; 1024]).unwrap();
        verifier.undo(step);
        assert_eq!(read(&mut verifier, 0, &data), Ok(2));
    }

    #[test]
    fn a_read_that_transfers_nothing_is_noticed() {
        let mut verifier = Verifier::new(AREA, 512, 1).unwrap();
        let mut data = written(&mut verifier, 0);
        let step = verifier.begin(Step { write: false, unit: 0 }, &mut data).unwrap();
        assert!(verifier.end(step, true, &data).is_err());
    }
}
