//! Percentiles and histograms of times in nanoseconds.

use serde::Serialize;

/// Bins in a decade of a histogram.
const BINS: u32 = 10;

/// What a number of times are like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Stats {
    pub(crate) count: usize,
    pub(crate) min: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
    /// Where each bin begins, ten in a decade, and how many times are in it; without empty bins.
    pub(crate) histogram: Vec<(u64, u64)>,
}

impl Stats {
    /// Of these times.
    pub(crate) fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            // The nearest rank: as many as `percent` say are not above it.
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).copied().unwrap_or(0)
        };
        let mut histogram: Vec<(u64, u64)> = Vec::new();
        for &time in &times {
            let begin = edge(bin(time));
            match histogram.last_mut() {
                Some((last, count)) if *last == begin => *count += 1,
                _ => histogram.push((begin, 1)),
            }
        }
        Self {
            count: times.len(),
            min: times.first().copied().unwrap_or(0),
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: times.last().copied().unwrap_or(0),
            histogram,
        }
    }

    /// All bins from the first that has a time in it to the last: where each begins and ends, and
    /// how many are in it.
    pub(crate) fn bins(&self) -> Vec<(u64, u64, u64)> {
        let (Some(first), Some(last)) = (self.histogram.first(), self.histogram.last()) else {
            return Vec::new();
        };
        (bin(first.0)..=bin(last.0))
            .map(|bin| {
                let begin = edge(bin);
                let count = self.histogram.iter().find(|(edge, _)| *edge == begin);
                (begin, edge(bin + 1), count.map_or(0, |(_, count)| *count))
            })
            .collect()
    }
}

/// Where a bin begins; the bins around 1 ns are empty, as times are whole nanoseconds.
fn edge(bin: u32) -> u64 {
    10f64.powf(f64::from(bin) / f64::from(BINS)).ceil() as u64
}

/// The bin that a time is in.
fn bin(time: u64) -> u32 {
    let guess = (time.max(1) as f64).log10() * f64::from(BINS);
    // Rounding must not put a time outside of its bin.
    let guess = guess as u32 + 1;
    (0..=guess).rev().find(|&bin| edge(bin) <= time.max(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let stats = Stats::of((1..=1000).rev().collect());
        assert_eq!((stats.count, stats.min, stats.max), (1000, 1, 1000));
        assert_eq!((stats.p50, stats.p90, stats.p99), (500, 900, 990));
        let one = Stats::of(vec![7]);
        assert_eq!((one.p50, one.p99, one.max), (7, 7, 7));
        assert_eq!(Stats::of(Vec::new()), Stats::default());
    }

    #[test]
    fn every_time_is_in_the_bin_that_holds_it() {
        let times = [0, 1, 2, 9, 10, 99, 100, 1_000, 1_258, 1_259, 1_999, 100_000_000, u64::MAX];
        for time in times {
            let stats = Stats::of(vec![time]);
            let bins = stats.bins();
            let [(begin, end, 1)] = bins[..] else { panic!("{time}: {bins:?}") };
            let within = begin <= time.max(1) && (time < end || end == u64::MAX);
            assert!(within, "{time} in {begin}..{end}");
        }
        let stats = Stats::of(vec![1_000, 1_000, 3_000]);
        assert_eq!(stats.histogram, [(1_000, 2), (2_512, 1)]);
        assert_eq!(stats.bins().len(), 5);
        assert_eq!(stats.bins().iter().map(|bin| bin.2).sum::<u64>(), 3);
    }
}
