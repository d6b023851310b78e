//! Latencies: counted in the loop, made percentiles of afterwards.

use hdrhistogram::Histogram;
use serde::Serialize;
use uniddrv::clock;

/// Buckets in an octave, as a power of two: a bucket is at most 1/64 wide.
const PRECISION: u32 = 6;
/// Buckets; a power of two above `(64 - PRECISION + 1) << PRECISION`, so that masking an index
/// replaces the bounds check.
const BUCKETS: usize = 4096;

/// Counts of latencies in ticks of [`clock::ticks`], in buckets whose width grows with the
/// value. Counting is a shift, an addition and two comparisons: hdrhistogram's own `record`
/// costs several times that, so it only gets the sums.
#[derive(Clone)]
pub(crate) struct Latencies {
    counts: Box<[u64; BUCKETS]>,
    min: u64,
    max: u64,
}

impl Latencies {
    #[expect(clippy::large_stack_arrays, reason = "32 KiB, moved to the heap at once")]
    pub(crate) fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), min: u64::MAX, max: 0 }
    }

    /// Counts one latency.
    #[inline(always)]
    pub(crate) fn record(&mut self, ticks: u64) {
        self.counts[index(ticks) & (BUCKETS - 1)] += 1;
        self.min = self.min.min(ticks);
        self.max = self.max.max(ticks);
    }

    /// Adds what another thread counted.
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(other.counts.iter()) {
            *sum += count;
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The median in nanoseconds, not rounded to whole ones; 0 where nothing was counted.
    pub(crate) fn median_ns(&self) -> f64 {
        let half = self.counts.iter().sum::<u64>().div_ceil(2);
        let mut seen = 0;
        let median = self.counts.iter().position(|count| {
            seen += count;
            seen >= half && seen > 0
        });
        let rate = clock::ticks_per_second().max(1) as f64;
        median.map_or(0.0, |index| middle(index) as f64 * 1e9 / rate)
    }

    /// The distribution in nanoseconds.
    pub(crate) fn distribution(&self) -> Distribution {
        self.distribution_with(clock::to_nanoseconds)
    }

    fn distribution_with(&self, nanoseconds: impl Fn(u64) -> u64) -> Distribution {
        // Three digits are finer than our own buckets; from 1 ns on it grows as needed.
        let mut histogram = Histogram::<u64>::new(3).unwrap_or_else(|error| {
            unreachable!("hdrhistogram knows three significant digits: {error}")
        });
        for (index, &count) in self.counts.iter().enumerate() {
            if count > 0 {
                // It grows on demand, so only a lack of memory could stop it.
                if histogram.record_n(nanoseconds(middle(index)).max(1), count).is_err() {
                    break;
                }
            }
        }
        let (min, max) = if self.max < self.min {
            (0, 0)
        } else {
            (nanoseconds(self.min), nanoseconds(self.max))
        };
        let at = |quantile: f64| histogram.value_at_quantile(quantile).clamp(min, max);
        let curve = if histogram.is_empty() {
            Vec::new()
        } else {
            quantiles(histogram.len()).map(|quantile| (quantile, at(quantile))).collect()
        };
        Distribution {
            lat_ns: LatencyNs {
                min,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                p9999: at(0.9999),
                max,
            },
            mean_ns: histogram.mean(),
            curve,
        }
    }
}

/// The bucket of a value: exact below 128, then 64 an octave.
#[inline(always)]
fn index(value: u64) -> usize {
    let top = (value | ((2 << PRECISION) - 1)).ilog2();
    let shift = top - PRECISION;
    ((shift as usize) << PRECISION) + (value >> shift) as usize
}

/// The value in the middle of a bucket.
fn middle(index: usize) -> u64 {
    if index < 2 << PRECISION {
        return index as u64;
    }
    let shift = (index >> PRECISION) - 1;
    let low = ((index & ((1 << PRECISION) - 1)) + (1 << PRECISION)) as u64;
    (low << shift) + (1 << shift) / 2
}

/// The quantiles of a curve: eight in each decade of nines, as far as `count` values tell.
fn quantiles(count: u64) -> impl Iterator<Item = f64> {
    let nines = (count.max(10) as f64).log10();
    let steps = (nines.min(6.0) * 8.0) as u32;
    (0..=steps).map(|step| 1.0 - 10f64.powf(-f64::from(step) / 8.0))
}

/// Percentiles in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct LatencyNs {
    pub(crate) min: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) p9999: u64,
    pub(crate) max: u64,
}

/// What the latencies of a run were like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Distribution {
    pub(crate) lat_ns: LatencyNs,
    pub(crate) mean_ns: f64,
    /// Quantiles (0 to below 1) and nanoseconds, to be drawn.
    pub(crate) curve: Vec<(f64, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_narrow() {
        let mut last = 0;
        for shift in 0..64 {
            for value in [1u64 << shift, (1 << shift) | (1 << shift >> 1), u64::MAX >> (63 - shift)]
            {
                let at = index(value);
                assert!(at >= last && at < BUCKETS, "{value} in {at}");
                last = at;
                let error = middle(at).abs_diff(value) as f64 / value as f64;
                assert!(error <= 1.0 / 64.0, "{value}: middle {}", middle(at));
            }
        }
        assert_eq!((0..128).map(index).collect::<Vec<_>>(), (0..128).collect::<Vec<_>>());
    }

    #[test]
    fn percentiles_of_a_ramp() {
        let mut latencies = Latencies::new();
        let mut other = Latencies::new();
        for value in 1..=100_000 {
            if value % 2 == 0 { latencies.record(value) } else { other.record(value) }
        }
        latencies.add(&other);
        let LatencyNs { min, p50, p90, p99, p999, p9999, max } =
            latencies.distribution_with(|ticks| ticks).lat_ns;
        assert_eq!((min, max), (1, 100_000));
        for (got, wanted) in [(p50, 50_000u64), (p90, 90_000), (p99, 99_000), (p999, 99_900)] {
            assert!(got.abs_diff(wanted) * 50 < wanted, "{got} for {wanted}");
        }
        assert!(p9999 <= max && p9999 >= p999);
    }

    #[test]
    fn the_tail_is_seen() {
        let mut latencies = Latencies::new();
        (0..9_990).for_each(|_| latencies.record(100));
        (0..10).for_each(|_| latencies.record(1_000_000));
        let distribution = latencies.distribution_with(|ticks| ticks);
        assert_eq!((distribution.lat_ns.p50, distribution.lat_ns.p99), (100, 100));
        assert!(distribution.lat_ns.p9999 > 980_000);
        assert_eq!(distribution.lat_ns.max, 1_000_000);
        assert!(distribution.curve.is_sorted_by_key(|&(_, ns)| ns));
        assert!(distribution.curve.len() > 30);
    }

    #[test]
    fn nothing_measured_is_all_zeroes() {
        let distribution = Latencies::new().distribution();
        assert_eq!(distribution.lat_ns, LatencyNs::default());
        assert!(distribution.curve.is_empty());
        assert!(Latencies::new().median_ns().abs() < f64::EPSILON);
    }
}
