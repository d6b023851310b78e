//! How much is said about clients that misbehave: none of them can fill the log.

use std::time::{Duration, Instant};

/// Lines in a second.
const LINES: u32 = 20;
const SECOND: Duration = Duration::from_secs(1);

/// What is said about clients, in a log that others want to read too.
#[derive(Debug)]
pub(crate) struct Voice {
    second: Instant,
    lines: u32,
    unsaid: u64,
}

impl Voice {
    pub(crate) fn new(now: Instant) -> Self {
        Self { second: now, lines: 0, unsaid: 0 }
    }

    /// Whether one more line may be said at `now`. Those that were not are counted, and that is
    /// said.
    pub(crate) fn speaks(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= SECOND {
            if self.unsaid > 0 {
                tracing::warn!(lines = self.unsaid, "more like this about clients was not said");
            }
            *self = Self::new(now);
        }
        self.lines += 1;
        let speaks = self.lines <= LINES;
        self.unsaid += u64::from(!speaks);
        speaks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_lines() {
        let start = Instant::now();
        let mut voice = Voice::new(start);
        let said = |voice: &mut Voice, now| (0..100).filter(|_| voice.speaks(now)).count();
        assert_eq!(said(&mut voice, start), 20);
        assert_eq!((said(&mut voice, start + SECOND / 2), voice.unsaid), (0, 180));
        assert_eq!((said(&mut voice, start + SECOND), voice.unsaid), (20, 80));
    }
}
