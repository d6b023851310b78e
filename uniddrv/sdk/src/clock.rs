//! Time on a data path: the CPU's time-stamp counter, read without a system call.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Ticks of the time-stamp counter since some moment in the past.
///
/// Monotonic on one CPU, and across CPUs wherever Linux uses it as its clock source.
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC exists on every x86-64 CPU, reads no memory and has no operands; Linux
    // lets user space execute it unless the process forbade it to itself (PR_SET_TSC).
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        Instant::now().duration_since(*START.get_or_init(Instant::now)).as_nanos() as u64
    }
}

#[cfg(not(target_arch = "x86_64"))]
static START: OnceLock<Instant> = OnceLock::new();

/// Ticks in a second, measured once over 5 ms against the system's monotonic clock.
pub fn ticks_per_second() -> u64 {
    static RATE: OnceLock<u64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (start, first) = (Instant::now(), ticks());
        std::thread::sleep(Duration::from_millis(5));
        let (passed, last) = (start.elapsed(), ticks());
        (u128::from(last.wrapping_sub(first)) * 1_000_000_000 / passed.as_nanos().max(1)) as u64
    })
}

/// Nanoseconds of the system's monotonic clock, the same in all processes.
pub fn monotonic_nanoseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// A duration in ticks.
pub fn to_ticks(duration: Duration) -> u64 {
    let ticks = duration.as_nanos().saturating_mul(ticks_per_second().into()) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// Ticks in nanoseconds.
pub fn to_nanoseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000_000 / u128::from(ticks_per_second().max(1))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_follow_the_clock() {
        let rate = ticks_per_second();
        assert!(rate > 1_000_000, "{rate} ticks a second");
        let first = ticks();
        std::thread::sleep(Duration::from_millis(10));
        assert!(to_nanoseconds(ticks() - first) >= 5_000_000);
        assert_eq!(to_ticks(Duration::from_secs(1)), rate);
    }
}
