//! What each unit of the device holds, and whether it is read back.

use crate::bench::verify::{Found, Mismatch, check, fill};
use crate::bench::workload::Area;

/// A unit has a request on its way: no other may touch it, or its content would be anyone's guess.
const BUSY: u32 = 1 << 31;
/// What the unit holds is not known: never written, or a write of it failed.
const UNKNOWN: u32 = 1 << 30;
/// It was written with zeroes last.
const ZEROES: u32 = 1 << 29;
const GENERATION: u32 = ZEROES - 1;

/// What a buffer to be read into is filled with, so that no old copy passes for what was read.
const POISON: u8 = 0xa5;

/// How a request changes what it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// It reads.
    Read,
    /// It writes data.
    Write,
    /// It writes zeroes.
    Zero,
}

/// Successive units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first.
    pub(crate) unit: u64,
    /// How many.
    pub(crate) units: u32,
}

/// Memory for the state of all units is missing.
#[derive(Debug, thiserror::Error)]
#[error("no memory to keep track of {0} units; give a smaller --size")]
pub(crate) struct BookError(u64);

/// What was written to an area.
#[derive(Debug)]
pub(crate) struct Book {
    seed: u64,
    area: Area,
    block_size: usize,
    units: Vec<u32>,
}

impl Book {
    /// A book of an area of which nothing is known yet.
    pub(crate) fn new(area: Area, block_size: u32, seed: u64) -> Result<Self, BookError> {
        let count = usize::try_from(area.units).map_err(|_| BookError(area.units))?;
        let mut units = Vec::new();
        units.try_reserve_exact(count).map_err(|_| BookError(area.units))?;
        units.resize(count, UNKNOWN);
        Ok(Self { seed, area, block_size: block_size as usize, units })
    }

    /// What it is of.
    pub(crate) fn area(&self) -> &Area {
        &self.area
    }

    /// The first block of a span, and how many it has.
    pub(crate) fn blocks(&self, span: Span) -> (u64, u32) {
        (self.area.lba(span.unit), span.units * self.area.unit_blocks)
    }

    /// Bytes of a span.
    pub(crate) fn bytes(&self, span: Span) -> usize {
        span.units as usize * self.area.unit_blocks as usize * self.block_size
    }

    fn states(&self, span: Span) -> Option<&[u32]> {
        let first = usize::try_from(span.unit).ok()?;
        self.units.get(first..first.checked_add(span.units as usize)?)
    }

    /// Whether all of a span exists and has no request on its way.
    pub(crate) fn is_free(&self, span: Span) -> bool {
        self.states(span).is_some_and(|states| states.iter().all(|state| state & BUSY == 0))
    }

    /// Fills `buffer` with what a write of `span` is to write, or with poison for a read.
    pub(crate) fn ready(&self, touch: Touch, span: Span, buffer: &mut [u8]) {
        if touch != Touch::Write {
            buffer.fill(POISON);
            return;
        }
        let states = self.states(span).unwrap_or_default();
        let unit_bytes = self.area.unit_blocks as usize * self.block_size;
        for ((bytes, state), unit) in
            buffer.chunks_exact_mut(unit_bytes).zip(states).zip(span.unit..)
        {
            let lba = self.area.lba(unit);
            for (block, lba) in bytes.chunks_exact_mut(self.block_size).zip(lba..) {
                fill(block, self.seed, lba, next(*state));
            }
        }
    }

    /// A request on `span` is on its way.
    pub(crate) fn begin(&mut self, touch: Touch, span: Span) {
        for state in states_mut(&mut self.units, span) {
            *state = match touch {
                Touch::Read => *state,
                Touch::Write => (*state & UNKNOWN) | next(*state),
                Touch::Zero => (*state & UNKNOWN) | ZEROES | next(*state),
            } | BUSY;
        }
    }

    /// A request on `span` has ended. For a read that went well: how many blocks were checked, or
    /// the first that is not what was written.
    pub(crate) fn end(
        &mut self,
        touch: Touch,
        span: Span,
        went_well: bool,
        buffer: &[u8],
    ) -> Result<u64, Mismatch> {
        for state in states_mut(&mut self.units, span) {
            *state &= !BUSY;
            if touch != Touch::Read {
                *state = if went_well { *state & !UNKNOWN } else { *state | UNKNOWN };
            }
        }
        if touch != Touch::Read || !went_well {
            return Ok(0);
        }
        let mut checked = 0;
        let states = self.states(span).unwrap_or_default();
        let unit_bytes = self.area.unit_blocks as usize * self.block_size;
        for ((bytes, &state), unit) in buffer.chunks_exact(unit_bytes).zip(states).zip(span.unit..)
        {
            if state & UNKNOWN != 0 {
                continue;
            }
            let generation = state & GENERATION;
            let lba = self.area.lba(unit);
            for (block, lba) in bytes.chunks_exact(self.block_size).zip(lba..) {
                let found = if state & ZEROES != 0 {
                    let other = block.iter().position(|&byte| byte != 0);
                    other.map_or(Ok(()), |offset| Err(Found::NotZero(offset)))
                } else {
                    check(block, self.seed, lba, generation)
                };
                found.map_err(|found| Mismatch { lba, generation, found })?;
                checked += 1;
            }
        }
        Ok(checked)
    }
}

fn states_mut(units: &mut [u32], span: Span) -> impl Iterator<Item = &mut u32> {
    let first = usize::try_from(span.unit).unwrap_or(usize::MAX);
    units.iter_mut().skip(first).take(span.units as usize)
}

/// The generation after that of a state.
fn next(state: u32) -> u32 {
    ((state & GENERATION) + 1) & GENERATION
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREA: Area = Area { first: 64, unit_blocks: 2, units: 8 };
    const SPAN: Span = Span { unit: 2, units: 3 };

    fn book() -> Book {
        Book::new(AREA, 512, 9).unwrap()
    }

    fn write(book: &mut Book, span: Span) -> Vec<u8> {
        let mut buffer = vec![0; book.bytes(span)];
        book.ready(Touch::Write, span, &mut buffer);
        book.begin(Touch::Write, span);
        assert_eq!(book.end(Touch::Write, span, true, &buffer), Ok(0));
        buffer
    }

    fn read(book: &mut Book, span: Span, data: &[u8]) -> Result<u64, Mismatch> {
        book.begin(Touch::Read, span);
        book.end(Touch::Read, span, true, data)
    }

    #[test]
    fn what_was_written_is_checked_unit_by_unit() {
        let mut book = book();
        assert_eq!(book.blocks(SPAN), (68, 6));
        let mut data = write(&mut book, SPAN);
        assert_eq!(read(&mut book, SPAN, &data), Ok(6));
        // One unit of it anew: the whole is what it was but for that.
        let one = Span { unit: 3, units: 1 };
        let newer = write(&mut book, one);
        let stale = read(&mut book, SPAN, &data).unwrap_err();
        assert_eq!((stale.lba, stale.found), (70, Found::Stale(1)));
        data[1024..2048].copy_from_slice(&newer);
        assert_eq!(read(&mut book, SPAN, &data), Ok(6));
        for at in [0, 511, 2048, 3071] {
            data[at] ^= 1;
            assert!(read(&mut book, SPAN, &data).is_err(), "byte {at}");
            data[at] ^= 1;
        }
    }

    #[test]
    fn zeroes_are_zeroes_and_nothing_else() {
        let mut book = book();
        let data = write(&mut book, SPAN);
        book.begin(Touch::Zero, SPAN);
        book.end(Touch::Zero, SPAN, true, &[]).unwrap();
        assert_eq!(read(&mut book, SPAN, &[0; 3072]), Ok(6));
        assert!(matches!(read(&mut book, SPAN, &data).unwrap_err().found, Found::NotZero(0)));
        let mut last = vec![0; 3072];
        last[3071] = 1;
        let wrong = read(&mut book, SPAN, &last).unwrap_err();
        assert_eq!((wrong.lba, wrong.found), (73, Found::NotZero(511)));
        let data = write(&mut book, SPAN);
        assert!(matches!(read(&mut book, SPAN, &[0; 3072]).unwrap_err().found, Found::Zeroes));
        assert_eq!(read(&mut book, SPAN, &data), Ok(6));
    }

    #[test]
    fn units_with_a_request_on_its_way_are_left_alone() {
        let mut book = book();
        assert!(book.is_free(Span { unit: 0, units: 8 }));
        book.begin(Touch::Read, SPAN);
        assert!(
            book.is_free(Span { unit: 0, units: 2 }) && book.is_free(Span { unit: 5, units: 3 })
        );
        for unit in 1..5 {
            assert!(!book.is_free(Span { unit, units: 2 }), "{unit}");
        }
        for beyond in [Span { unit: 7, units: 2 }, Span { unit: u64::MAX, units: 1 }] {
            assert!(!book.is_free(beyond));
        }
        book.end(Touch::Read, SPAN, false, &[]).unwrap();
        assert!(book.is_free(SPAN));
    }

    #[test]
    fn a_write_that_failed_leaves_anything() {
        let mut book = book();
        let old = write(&mut book, SPAN);
        let mut new = vec![0; 3072];
        book.ready(Touch::Write, SPAN, &mut new);
        book.begin(Touch::Write, SPAN);
        book.end(Touch::Write, SPAN, false, &new).unwrap();
        for data in [&old, &new, &vec![7; 3072]] {
            assert_eq!(read(&mut book, SPAN, data), Ok(0));
        }
        let data = write(&mut book, SPAN);
        assert_eq!(read(&mut book, SPAN, &data), Ok(6));
        assert!(read(&mut book, SPAN, &new).is_err());
    }

    #[test]
    fn a_read_that_moves_nothing_is_noticed() {
        let mut book = book();
        let mut data = write(&mut book, SPAN);
        book.ready(Touch::Read, SPAN, &mut data);
        assert!(read(&mut book, SPAN, &data).is_err());
    }
}
