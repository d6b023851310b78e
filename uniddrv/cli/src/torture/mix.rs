//! Which request comes next.

use super::content::{Book, Span, Touch};
use crate::bench::workload::Random;

/// How many places are tried for a request before the load waits for one to become free.
const TRIES: u64 = 64;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// One that touches units; a write may be forced to the medium.
    Touch { touch: Touch, span: Span, fua: bool },
    /// Everything to the medium.
    Flush,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send this.
    Step(Step),
    /// Send nothing more until something has ended.
    Wait,
    /// Send nothing more.
    End,
}

/// Where requests come from.
pub(crate) trait Source {
    /// The next one.
    fn next(&mut self, book: &Book) -> Next;
}

/// Random requests of all kinds, small and large, without end.
#[derive(Debug)]
pub(crate) struct Mix {
    random: Random,
    /// Units of a large request.
    large: u32,
    zeroes: bool,
}

impl Mix {
    /// Requests of one unit and of `large`; with write zeroes where the device has them.
    pub(crate) fn new(seed: u64, large: u32, zeroes: bool) -> Self {
        Self { random: Random::new(seed), large, zeroes }
    }
}

impl Source for Mix {
    fn next(&mut self, book: &Book) -> Next {
        let number = self.random.next();
        let (kind, size, fua) = (number as u8, (number >> 8) as u8, (number >> 16) as u8);
        let touch = match kind {
            0..4 => return Next::Step(Step::Flush),
            4..20 if self.zeroes => Touch::Zero,
            4..130 => Touch::Write,
            _ => Touch::Read,
        };
        let units = if size < 32 { self.large } else { 1 };
        let all = book.area().units;
        let places = all.saturating_sub(units.into()) + 1;
        let start = self.random.next();
        let place = |number: u64| ((u128::from(number) * u128::from(places)) >> 64) as u64;
        // Nearby first, so that a small area is filled up too.
        let found = (0..TRIES.min(places))
            .map(|offset| Span { unit: (place(start) + offset) % places, units })
            .find(|&span| book.is_free(span));
        match found {
            Some(span) => Next::Step(Step::Touch { touch, span, fua: fua < 32 }),
            None => Next::Wait,
        }
    }
}

/// Every unit once, in order.
#[derive(Debug)]
pub(crate) struct Sweep {
    touch: Touch,
    next: u64,
    large: u32,
}

impl Sweep {
    /// Reads or writes all in requests of `large` units.
    pub(crate) fn new(touch: Touch, large: u32) -> Self {
        Self { touch, next: 0, large }
    }
}

impl Source for Sweep {
    fn next(&mut self, book: &Book) -> Next {
        let left = book.area().units.saturating_sub(self.next);
        if left == 0 {
            return Next::End;
        }
        // Only whole spans and single units have buffers.
        let units = if left >= u64::from(self.large) { self.large } else { 1 };
        let span = Span { unit: self.next, units };
        self.next += u64::from(units);
        Next::Step(Step::Touch { touch: self.touch, span, fua: false })
    }
}

/// One request.
#[derive(Debug)]
pub(crate) struct Once(pub(crate) Option<Step>);

impl Source for Once {
    fn next(&mut self, _: &Book) -> Next {
        self.0.take().map_or(Next::End, Next::Step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::Area;

    fn book(units: u64) -> Book {
        Book::new(Area { first: 0, unit_blocks: 1, units }, 512, 1).unwrap()
    }

    #[test]
    fn every_kind_comes_and_none_leaves_the_area() {
        let book = book(100);
        for zeroes in [true, false] {
            let mut mix = Mix::new(7, 8, zeroes);
            let (mut counts, mut large, mut fuas) = ([0; 4], 0, 0);
            for _ in 0..10_000 {
                let Next::Step(step) = mix.next(&book) else { panic!("nothing is free") };
                match step {
                    Step::Flush => counts[3] += 1,
                    Step::Touch { touch, span, fua } => {
                        counts[touch as usize] += 1;
                        assert!(book.is_free(span));
                        large += usize::from(span.units == 8);
                        fuas += usize::from(fua);
                    }
                }
            }
            let [reads, writes, zeroed, flushes] = counts;
            assert!(reads > 4_000 && writes > 4_000 && flushes > 80, "{counts:?}");
            assert_eq!(zeroed > 300, zeroes, "{counts:?}");
            assert!((1_000..1_500).contains(&large) && fuas > 1_000);
        }
    }

    #[test]
    fn a_full_area_is_waited_for() {
        let mut book = book(8);
        let mut mix = Mix::new(1, 8, true);
        book.begin(Touch::Read, Span { unit: 0, units: 8 });
        let touches =
            (0..1000).map(|_| mix.next(&book)).filter(|next| *next != Next::Step(Step::Flush));
        assert!(touches.into_iter().all(|next| next == Next::Wait));
    }

    #[test]
    fn a_sweep_meets_each_unit_once() {
        let book = book(19);
        let mut sweep = Sweep::new(Touch::Write, 8);
        let mut seen = Vec::new();
        while let Next::Step(Step::Touch { span, .. }) = sweep.next(&book) {
            assert!(span.units == 8 || span.units == 1);
            seen.extend(span.unit..span.unit + u64::from(span.units));
        }
        assert_eq!(seen, (0..19).collect::<Vec<_>>());
        assert_eq!(sweep.next(&book), Next::End);
    }
}
