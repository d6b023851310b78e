//! Waiting, with an end to it.

use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes on the slowest machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until there is something.
///
/// # Panics
/// With `otherwise` when it takes too long.
pub fn until<T>(otherwise: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(it) = there() {
            return it;
        }
        assert!(Instant::now() < end, "{otherwise}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A moment.
pub fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}
