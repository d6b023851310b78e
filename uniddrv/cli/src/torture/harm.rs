//! Harming a driver at random, and seeing it recover.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use uniddrv::client::{Core, CoreError, Death, DriverStatus, Harm, Refusal};
use uniddrv::clock;

use super::gap;
use super::watch::{Pause, Watch};
use crate::bench::workload::Random;

/// How long a successor may take to become ready to take over, before the driver is harmed without.
const WARM: Duration = Duration::from_secs(5);
/// How long a driver may take to recover: that of a device whose reset takes long.
const RECOVERY: Duration = Duration::from_mins(3);
/// How long the core's report may lack the first completion, once the driver runs.
const REPORT: Duration = Duration::from_secs(2);
/// How often the core is asked how it is. Asking takes CPU time from whoever recovers.
const ASK: Duration = Duration::from_millis(10);
/// How long a hang takes to be found, at least; before, there is nothing to ask.
const HANG: Duration = Duration::from_millis(100);
/// How long a death may take to be noticed, a hang's too.
const NOTICED: Duration = Duration::from_millis(300);
/// A harmed driver completes nothing more so long after the core has answered.
const SLACK: Duration = Duration::from_millis(1);
/// How long the load may take to see what is there.
const SEEN: Duration = Duration::from_secs(1);
/// One harm in so many is followed by another at once.
const AGAIN: u64 = 8;
/// How long after the first a second harm comes at most: while the successor takes over.
const SECOND: Duration = Duration::from_millis(3);

/// How a driver is harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// SIGKILL.
    Kill,
    /// SIGSEGV.
    Fault,
    /// SIGABRT.
    Abort,
    /// SIGSTOP.
    Hang,
    /// SIGKILL, with a ledger that cannot be read: the device has to be reset.
    Scramble,
}

impl Kind {
    /// All there are.
    pub(crate) const ALL: [Self; 5] =
        [Self::Kill, Self::Fault, Self::Abort, Self::Hang, Self::Scramble];

    fn harm(self) -> Harm {
        match self {
            Self::Kill => Harm::Kill,
            Self::Fault => Harm::Fault,
            Self::Abort => Harm::Abort,
            Self::Hang => Harm::Hang,
            Self::Scramble => Harm::Scramble,
        }
    }

    /// As arguments name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Fault => "fault",
            Self::Abort => "abort",
            Self::Hang => "hang",
            Self::Scramble => "scramble",
        }
    }
}

/// How often each kind comes, relative to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Weights(Vec<(Kind, u32)>);

impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut weights = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                let all = Kind::ALL.map(Kind::name).join(", ");
                format!("`{name}` is no harm; there are: {all}")
            })?;
            let weight = weight.parse().ok().filter(|weight| (1..=1000).contains(weight));
            let weight = weight.ok_or_else(|| format!("`{part}`: a weight is 1 to 1000"))?;
            if weights.iter().any(|&(other, _)| other == kind) {
                return Err(format!("`{name}` twice"));
            }
            weights.push((kind, weight));
        }
        Ok(Self(weights))
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            self.0.iter().map(|(kind, weight)| format!("{}={weight}", kind.name())).collect();
        f.write_str(&parts.join(","))
    }
}

impl Weights {
    fn pick(&self, random: &mut Random) -> Kind {
        let sum: u64 = self.0.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = random.next() % sum.max(1);
        for &(kind, weight) in &self.0 {
            if left < u64::from(weight) {
                return kind;
            }
            left -= u64::from(weight);
        }
        Kind::Kill
    }
}

/// Harm that could not be done, or that a driver did not recover from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HarmError {
    #[error(transparent)]
    Core(#[from] CoreError),
    #[error("the core has no driver {0} any more")]
    Gone(String),
    #[error("{name} did not recover from {kind} within {waited:?}: it is {state}")]
    NotRecovered { name: String, kind: &'static str, waited: Duration, state: String },
    #[error("{name} did not recover from {kind}: it is stopped; {last}")]
    Stopped { name: String, kind: &'static str, last: String },
}

/// What happened to a driver, and how it went on.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    /// The second harm, while the successor of the first took over.
    pub(crate) again: Option<Kind>,
    /// Just before the order was sent, in ticks.
    pub(crate) sent: u64,
    /// Whether a successor was ready.
    pub(crate) warm: bool,
    /// Until the client saw the successor's first completion.
    pub(crate) gap_ns: Option<u64>,
    /// What the core reports.
    pub(crate) deaths: Vec<Death>,
}

impl Event {
    /// How the device was taken over at last.
    pub(crate) fn recovery(&self) -> &str {
        self.deaths.last().map_or("", |death| death.recovery.as_str())
    }
}

/// Whom to harm, how and how often.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The driver's name: `nvme:0`.
    pub(crate) name: String,
    pub(crate) weights: Weights,
    pub(crate) per_second: f64,
    pub(crate) seed: u64,
    /// When no more harm is done.
    pub(crate) end: Instant,
}

/// Harms a driver, over a connection of its own.
pub(crate) struct Tormentor<'a> {
    pub(crate) core: &'a Core,
    pub(crate) plan: Plan,
    pub(crate) watch: &'a Watch,
    pub(crate) pauses: Receiver<Pause>,
    pub(crate) stop: &'a AtomicBool,
    /// Counts harms.
    pub(crate) done: &'a AtomicU64,
}

impl Tormentor<'_> {
    /// Until the end, or a stop. What happened until then is in `events`, whatever is returned.
    pub(crate) fn run(self, events: &mut Vec<Event>) -> Result<(), HarmError> {
        let mut random = Random::new(self.plan.seed);
        let mut known: HashSet<(u64, i32)> =
            self.status()?.deaths.iter().map(|death| (death.time, death.pid)).collect();
        let interval = |random: &mut Random| {
            let share = 0.5 + random.next() as f64 / u64::MAX as f64;
            Duration::from_secs_f64(share / self.plan.per_second)
        };
        let mut next = Instant::now() + interval(&mut random);
        while self.sleep_until(next) {
            let Some((before, warm)) = self.wait_for_warm()? else { break };
            let kind = self.plan.weights.pick(&mut random);
            // One that hangs has no successor yet that could be harmed.
            let again = (random.next().is_multiple_of(AGAIN) && kind != Kind::Hang).then(|| {
                let delay = SECOND.mul_f64(random.next() as f64 / u64::MAX as f64);
                (self.plan.weights.pick(&mut random), delay)
            });
            next = Instant::now() + interval(&mut random);
            while self.pauses.try_recv().is_ok() {}
            self.watch.set(true);
            let event = self.harm(kind, again, warm, &before, &mut known);
            self.watch.set(false);
            events.extend(event?);
        }
        Ok(())
    }

    fn status(&self) -> Result<DriverStatus, HarmError> {
        let name = &self.plan.name;
        let all = self.core.status(name)?;
        let found = all.into_iter().find(|driver| driver.name == *name);
        found.ok_or_else(|| HarmError::Gone(name.clone()))
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || Instant::now() >= self.plan.end
    }

    /// Whether it is not over then.
    fn sleep_until(&self, until: Instant) -> bool {
        while !self.is_over() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(ASK));
        }
        false
    }

    /// The driver, and whether a successor is ready; nothing when it is over.
    fn wait_for_warm(&self) -> Result<Option<(DriverStatus, bool)>, HarmError> {
        let limit = Instant::now() + WARM;
        loop {
            let status = self.status()?;
            if self.is_over() {
                return Ok(None);
            }
            if status.state == "running" && (status.warm || Instant::now() >= limit) {
                let warm = status.warm;
                return Ok(Some((status, warm)));
            }
            if Instant::now() >= limit + RECOVERY {
                return Err(self.not_recovered("what came before", limit + RECOVERY, &status));
            }
            std::thread::sleep(ASK);
        }
    }

    fn not_recovered(
        &self,
        kind: &'static str,
        since: Instant,
        status: &DriverStatus,
    ) -> HarmError {
        let (name, state) = (self.plan.name.clone(), status.state.clone());
        HarmError::NotRecovered { name, kind, waited: since.elapsed(), state }
    }

    /// Harms the driver once, or twice in a row. Nothing where there was none to be harmed.
    fn harm(
        &self,
        kind: Kind,
        again: Option<(Kind, Duration)>,
        warm: bool,
        before: &DriverStatus,
        known: &mut HashSet<(u64, i32)>,
    ) -> Result<Option<Event>, HarmError> {
        let began = Instant::now();
        let sent = clock::ticks();
        if !self.order(kind)? {
            return Ok(None);
        }
        // Until a hang is found nothing ends, so what ends late can only have been seen late.
        let slack = if kind == Kind::Hang { HANG } else { SLACK };
        let over = clock::ticks() + clock::to_ticks(slack);
        let mut second = None;
        if let Some((kind, delay)) = again {
            std::thread::sleep(delay);
            // Nobody may be there to be harmed, for a moment.
            let limit = Instant::now() + SEEN;
            while second.is_none() && Instant::now() < limit {
                second = self.order(kind)?.then_some(kind);
            }
        }
        if [Some(kind), second].contains(&Some(Kind::Hang)) {
            std::thread::sleep(HANG);
        }
        let harms = 1 + usize::from(second.is_some());
        let deaths = self.wait_for_recovery(kind, harms, before, began, known)?;
        // Fewer deaths than harms: the second met a driver that was dying of the first.
        let second = second.filter(|_| deaths.len() > 1);
        // What the core says that was posted, the load has seen once it sees more.
        let (recovered, seen) = (clock::ticks(), Instant::now() + SEEN);
        while self.watch.last() <= recovered && Instant::now() < seen {
            std::thread::sleep(Duration::from_millis(1));
        }
        let pauses: Vec<Pause> = self.pauses.try_iter().collect();
        let end = if second.is_some() {
            // Of two deaths in a row nobody can tell which pause is whose: the longest is told.
            gap::end(&pauses, sent, u64::MAX, 0)
        } else {
            gap::end(&pauses, sent, over, clock::to_ticks(at_least(kind, &deaths)))
        };
        let gap_ns = end.map(|end| clock::to_nanoseconds(end.saturating_sub(sent)));
        Ok(Some(Event { kind, again: second, sent, warm, gap_ns, deaths }))
    }

    /// Whether there was a driver to be harmed.
    fn order(&self, kind: Kind) -> Result<bool, HarmError> {
        match self.core.kill(&self.plan.name, kind.harm()) {
            Ok(()) => {
                self.done.fetch_add(1, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) if error.code() == Some(Refusal::NotReady) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until another process drives the device after so many harms. The reports on the
    /// deaths until then.
    fn wait_for_recovery(
        &self,
        kind: Kind,
        harms: usize,
        before: &DriverStatus,
        began: Instant,
        known: &mut HashSet<(u64, i32)>,
    ) -> Result<Vec<Death>, HarmError> {
        let mut running = None;
        loop {
            std::thread::sleep(ASK);
            let status = self.status()?;
            let new = |death: &&Death| !known.contains(&(death.time, death.pid));
            let deaths: Vec<Death> = status.deaths.iter().filter(new).cloned().collect();
            let last = deaths.last();
            if status.state == "stopped" {
                let last = last.map_or_else(String::new, |death| death.cause.clone());
                return Err(HarmError::Stopped { name: status.name, kind: kind.name(), last });
            }
            let runs = status.state == "running" && status.pid != before.pid;
            let recovered = last.is_some_and(|last| matches!(&*last.recovery, "adopted" | "reset"));
            if runs && recovered {
                let since = *running.get_or_insert_with(Instant::now);
                let complete = last.is_some_and(|last| last.first_completion_ns > 0);
                // A harm that was done may not have been noticed yet.
                let all = deaths.len() >= harms || since.elapsed() > NOTICED;
                if complete && all || since.elapsed() > REPORT {
                    known.extend(deaths.iter().map(|death| (death.time, death.pid)));
                    return Ok(deaths);
                }
            }
            if began.elapsed() > RECOVERY {
                return Err(self.not_recovered(kind.name(), began, &status));
            }
        }
    }
}

/// How long it took from the harm to the first completion that was posted, as the core says.
fn at_least(kind: Kind, deaths: &[Death]) -> Duration {
    match deaths {
        // A hang is counted from the last sign of life, which came before the harm.
        [death] if kind != Kind::Hang && death.first_completion_ns > 0 => {
            let times = [
                death.detection_ns,
                death.hand_over_ns,
                death.adoption_ns,
                death.first_completion_ns,
            ];
            let sum = times.iter().fold(0u64, |sum, &time| sum.saturating_add(time));
            // What cannot be is a claim not worth having.
            Duration::from_nanos(sum).min(RECOVERY)
        }
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_parsed_and_obeyed() {
        let weights: Weights = "kill=8,hang,fault=3".parse().unwrap();
        assert_eq!(weights.to_string(), "kill=8,hang=1,fault=3");
        let mut random = Random::new(5);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..12_000 {
            *counts.entry(weights.pick(&mut random)).or_insert(0) += 1;
        }
        let wanted = [(Kind::Kill, 8_000), (Kind::Fault, 3_000), (Kind::Hang, 1_000)];
        assert_eq!(counts.len(), 3);
        for (kind, count) in wanted {
            assert!(i32::abs(counts[&kind] - count) < 300, "{counts:?}");
        }
    }

    #[test]
    fn what_is_no_harm_is_an_error() {
        for text in ["", "kill,", "poke", "kill=0", "kill=x", "kill,kill=2", "kill=1001", "kill==1"]
        {
            assert!(text.parse::<Weights>().is_err(), "{text:?} was accepted");
        }
    }
}
