//! Why a driver process ended, and the report on it.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use uniddrv::process::Ended;
use uniddrv_abi::message::Death;

/// Reports that are kept of a device's drivers.
pub(crate) const KEPT: usize = 16;
/// How long a report waits for the first completion, which is told in it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a driver process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// By itself, or from outside.
    Ended(Ended),
    /// Its heart did not beat any more.
    Hung,
    /// It lived, and carried out nothing.
    Idle(Duration),
    /// It did what no driver does.
    Violation(String),
    /// It did not let go of a client.
    Holds(Duration),
    /// It took too long for something.
    Late(&'static str),
    /// It could not be put on its CPU.
    Misplaced(String),
    /// The device did not come up.
    Failed(String),
    /// The ledger did not check out.
    Unreadable(String),
    /// `uniddrv restart`.
    Restart,
    /// `uniddrv upgrade`.
    Upgrade,
    /// The device is gone.
    Lost,
    /// It is wanted no more.
    Unwanted,
}

impl Cause {
    /// Whether the core kills a process for it.
    pub(crate) fn kills(&self) -> bool {
        !matches!(self, Self::Restart | Self::Upgrade | Self::Failed(_) | Self::Ended(_))
    }

    /// Whether the request that was being worked on may be the reason.
    pub(crate) fn is_fault(&self) -> bool {
        match self {
            Self::Ended(Ended::Signaled(signal)) => {
                !matches!(*signal, 9 | 15) // SIGKILL, SIGTERM: from outside
            }
            Self::Ended(Ended::Exited(status)) => *status != 0,
            Self::Hung | Self::Idle(_) | Self::Holds(_) | Self::Violation(_) | Self::Late(_) => {
                true
            }
            _ => false,
        }
    }

    /// Whether somebody wanted it.
    pub(crate) fn is_wanted(&self) -> bool {
        matches!(self, Self::Restart | Self::Upgrade | Self::Lost | Self::Unwanted)
    }

    /// Whether the device can only be reset after it.
    pub(crate) fn needs_reset(&self) -> bool {
        matches!(self, Self::Idle(_) | Self::Holds(_) | Self::Failed(_))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(ended) => ended.fmt(f),
            Self::Hung => f.write_str("hung"),
            Self::Idle(time) => write!(f, "carried out nothing for {time:?}"),
            Self::Violation(text) => write!(f, "broke the protocol: {text}"),
            Self::Holds(time) => write!(f, "did not let go of a client for {time:?}"),
            Self::Late(what) => write!(f, "took too long to {what}"),
            Self::Misplaced(text) => f.write_str(text),
            Self::Failed(text) => write!(f, "the device did not come up: {text}"),
            Self::Unreadable(text) => write!(f, "could not read the ledger: {text}"),
            Self::Restart => f.write_str("restart"),
            Self::Upgrade => f.write_str("upgrade"),
            Self::Lost => f.write_str("the device is gone"),
            Self::Unwanted => f.write_str("not wanted any more"),
        }
    }
}

/// A report that is not complete yet.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) death: Death,
    /// When the death was detected, in nanoseconds of the monotonic clock.
    pub(crate) detected: u64,
    /// When the successor had the word.
    pub(crate) begun: Option<u64>,
    /// When the successor ran the device.
    pub(crate) up: Option<u64>,
    /// When it is told without the first completion.
    pub(crate) deadline: Option<Instant>,
}

impl Report {
    pub(crate) fn new(pid: i32, cause: &Cause, detected: u64, last_sign: Option<u64>) -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let death = Death {
            time: since_epoch.map_or(0, |since| since.as_secs()),
            pid,
            cause: cause.to_string(),
            last_words: None,
            request: None,
            recovery: "none".into(),
            detection_ns: last_sign.map_or(0, |sign| detected.saturating_sub(sign)),
            hand_over_ns: 0,
            adoption_ns: 0,
            first_completion_ns: 0,
        };
        Self { death, detected, begun: None, up: None, deadline: None }
    }

    /// A successor was told to begin.
    pub(crate) fn has_begun(&mut self, at: u64) {
        self.begun = Some(at);
        self.death.hand_over_ns = at.saturating_sub(self.detected);
    }

    /// The successor runs the device: since when, as it says itself, if it does.
    pub(crate) fn is_up(&mut self, adopted: bool, at: u64, now: Instant) {
        self.death.recovery = if adopted { "adopted" } else { "reset" }.into();
        self.death.adoption_ns = at.saturating_sub(self.begun.unwrap_or(at));
        self.up = Some(at);
        self.deadline = Some(now + PATIENCE);
    }

    /// Takes `first`, which the successor's ledger names as the time of its first completion, if
    /// that makes sense at `now`. Whether it does.
    pub(crate) fn look(&mut self, first: u64, now: u64) -> bool {
        let Some(up) = self.up.filter(|up| (*up..=now).contains(&first)) else { return false };
        self.death.first_completion_ns = first - up;
        true
    }
}

/// A report as text, for its file.
pub(crate) fn describe(name: &str, address: &str, death: &Death) -> String {
    let Death { time, pid, cause, last_words, request, recovery, .. } = death;
    let microseconds = |ns: u64| ns as f64 / 1000.0;
    format!(
        "driver of {name} ({address})\nprocess {pid}\ntime {time}\ncause {cause}\n\
         last words {}\nrequest {}\nrecovery {recovery}\ndetection {:.1} us\nhand-over {:.1} us\n\
         adoption {:.1} us\nfirst completion {:.1} us\n",
        last_words.as_deref().unwrap_or("none"),
        request.as_deref().unwrap_or("none"),
        microseconds(death.detection_ns),
        microseconds(death.hand_over_ns),
        microseconds(death.adoption_ns),
        microseconds(death.first_completion_ns),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_from_kills() {
        let signal = |number| Cause::Ended(Ended::Signaled(number));
        assert!(signal(11).is_fault() && signal(6).is_fault() && signal(31).is_fault());
        assert!(!signal(9).is_fault() && !signal(15).is_fault());
        assert!(Cause::Hung.is_fault() && Cause::Violation("x".into()).is_fault());
        assert!(!Cause::Restart.is_fault() && !Cause::Failed("x".into()).is_fault());
        assert!(Cause::Ended(Ended::Exited(101)).is_fault());
        assert!(!Cause::Ended(Ended::Exited(0)).is_fault());
    }

    #[test]
    fn a_report_counts_from_one_moment_to_the_next() {
        let mut report = Report::new(7, &Cause::Hung, 1_000, Some(400));
        report.has_begun(1_500);
        report.is_up(true, 2_500, Instant::now());
        assert!(!report.look(2_400, 3_000) && !report.look(3_100, 3_000));
        assert!(report.look(2_700, 3_000));
        let Death { detection_ns, hand_over_ns, adoption_ns, first_completion_ns, .. } =
            report.death;
        assert_eq!((detection_ns, hand_over_ns, adoption_ns), (600, 500, 1000));
        assert_eq!((first_completion_ns, report.death.recovery.as_str()), (200, "adopted"));
        let text = describe("nvme:0", "model:nvme", &report.death);
        assert!(text.contains("cause hung\n") && text.contains("hand-over 0.5 us\n"));
    }
}
