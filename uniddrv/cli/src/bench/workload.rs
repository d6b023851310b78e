//! Which blocks are read and written, and in which order.

use std::fmt;

/// The kinds of workload, named as fio names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Rw {
    /// Read at random
    #[value(name = "randread")]
    RandRead,
    /// Write at random
    #[value(name = "randwrite")]
    RandWrite,
    /// Read and write at random, half each
    #[value(name = "randrw")]
    RandReadWrite,
    /// Read in order
    #[value(name = "read")]
    Read,
    /// Write in order
    #[value(name = "write")]
    Write,
}

impl Rw {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
            Self::RandReadWrite => "randrw",
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    /// Whether it writes.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::RandWrite | Self::RandReadWrite | Self::Write)
    }

    /// Whether it reads.
    pub(crate) fn reads(self) -> bool {
        matches!(self, Self::RandRead | Self::RandReadWrite | Self::Read)
    }

    /// Whether it jumps about.
    pub(crate) fn is_random(self) -> bool {
        matches!(self, Self::RandRead | Self::RandWrite | Self::RandReadWrite)
    }
}

impl fmt::Display for Rw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The part of a device that one thread works on, in units of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    /// The first block.
    pub(crate) first: u64,
    /// Blocks in a unit.
    pub(crate) unit_blocks: u32,
    /// Units.
    pub(crate) units: u64,
}

impl Area {
    /// The first block of a unit.
    #[inline]
    pub(crate) fn lba(&self, unit: u64) -> u64 {
        self.first + unit * u64::from(self.unit_blocks)
    }

    /// The parts for `threads` threads, of equal size; the remainder is left out.
    pub(crate) fn split(&self, threads: usize) -> impl Iterator<Item = Self> + use<'_> {
        let units = self.units / threads.max(1) as u64;
        (0..threads as u64).map(move |thread| Self {
            first: self.lba(thread * units),
            units,
            ..*self
        })
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): every state is good, and the chain from one number to
/// the next is a single addition, so that the CPU works on several at a time.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline(always)]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

/// SplitMix64's output function: a bijection in which each bit depends on all.
#[inline(always)]
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What the next request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Write rather than read.
    pub(crate) write: bool,
    /// Which unit of the area.
    pub(crate) unit: u64,
}

/// An endless stream of steps over an area.
#[derive(Debug)]
pub(crate) struct Generator {
    rw: Rw,
    units: u64,
    random: Random,
    next: u64,
}

impl Generator {
    pub(crate) fn new(rw: Rw, units: u64, seed: u64) -> Self {
        Self { rw, units, random: Random::new(seed), next: 0 }
    }

    #[inline(always)]
    pub(crate) fn step(&mut self) -> Step {
        if self.rw.is_random() {
            let number = self.random.next();
            // The high bits choose the unit by a multiplication (a division would cost as much
            // as the rest of the loop), the lowest bit the direction.
            let unit = ((u128::from(number) * u128::from(self.units)) >> 64) as u64;
            let write = match self.rw {
                Rw::RandRead => false,
                Rw::RandWrite => true,
                _ => number & 1 == 0,
            };
            Step { write, unit }
        } else {
            let unit = self.next;
            self.next = if unit + 1 >= self.units { 0 } else { unit + 1 };
            Step { write: self.rw == Rw::Write, unit }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_steps_cover_the_area_evenly() {
        let mut generator = Generator::new(Rw::RandReadWrite, 10, 7);
        let mut hits = [0u32; 10];
        let mut writes = 0;
        for _ in 0..100_000 {
            let step = generator.step();
            hits[step.unit as usize] += 1;
            writes += u32::from(step.write);
        }
        assert!(hits.iter().all(|&n| (9_000..11_000).contains(&n)), "{hits:?}");
        assert!((49_000..51_000).contains(&writes), "{writes}");
    }

    #[test]
    fn sequential_steps_wrap() {
        let mut generator = Generator::new(Rw::Write, 3, 0);
        let steps: Vec<_> = (0..5).map(|_| generator.step()).collect();
        assert_eq!(steps.iter().map(|s| s.unit).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
        assert!(steps.iter().all(|step| step.write));
    }

    #[test]
    fn the_direction_follows_the_kind() {
        for (rw, write) in [(Rw::RandRead, false), (Rw::RandWrite, true), (Rw::Read, false)] {
            let mut generator = Generator::new(rw, 1 << 40, 1);
            for _ in 0..100 {
                let step = generator.step();
                assert_eq!(step.write, write);
                assert!(step.unit < 1 << 40);
            }
        }
    }

    #[test]
    fn parts_do_not_overlap() {
        let area = Area { first: 100, unit_blocks: 8, units: 10 };
        let parts: Vec<_> = area.split(3).collect();
        assert_eq!(
            parts.iter().map(|a| (a.first, a.units)).collect::<Vec<_>>(),
            [(100, 3), (124, 3), (148, 3)]
        );
        assert_eq!(parts[2].lba(2), 164);
    }
}
