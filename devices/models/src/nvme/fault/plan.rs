//! Fault plans as text.

use std::str::FromStr;
use std::time::Duration;

use uniddrv_spec::nvme::status::Status;

use super::Chance;

/// Which faults to make, and how often.
///
/// Parsed from `key=value` pairs separated by commas, such as
/// `seed=7,drop=0.01,delay=0.05:2ms,after=100`:
///
/// | key | what it does |
/// |---|---|
/// | `seed=N` | starts the generator; the same seed and commands give the same faults |
/// | `drop=P` | a completion is never posted, with probability P (0 to 1) |
/// | `delay=P:TIME` | it is posted TIME later (`us`, `ms` or `s`) |
/// | `duplicate=P` | it is posted twice |
/// | `reorder=P` | it is posted after the next one |
/// | `wrong-cid=P` | it carries its command identifier with the top bit inverted |
/// | `wrong-phase=P` | it carries the phase of an old entry |
/// | `status=P:CODE` | the command is not executed and fails with the status CODE, type in bits 10 to 8, code in bits 7 to 0 |
/// | `never-ready[=N]` | the controller does not get ready, after N enables that work |
/// | `fatal-after=N` | it goes fatal, once, after N commands |
/// | `vanish-after=N` | it disappears after N commands |
/// | `after=N` | the kinds with a probability start after N commands |
/// | `scope=io\|admin\|all` | which commands count, are counted and are hit; `io` unless told |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    pub(super) seed: u64,
    pub(super) drop: Chance,
    pub(super) delay: (Chance, Duration),
    pub(super) duplicate: Chance,
    pub(super) reorder: Chance,
    pub(super) wrong_cid: Chance,
    pub(super) wrong_phase: Chance,
    pub(super) status: (Chance, Status),
    pub(super) never_ready: Option<u64>,
    pub(super) fatal_after: Option<u64>,
    pub(super) vanish_after: Option<u64>,
    pub(super) after: u64,
    pub(super) scope: Scope,
}

/// Which commands a plan is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those of I/O queues.
    #[default]
    Io,
    /// Those of the admin queue.
    Admin,
    /// All.
    All,
}

/// A text that is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is no such key.
    #[error("fault plan: there is no `{0}`; there are: {KEYS}")]
    Key(String),
    /// The value is not what the key takes.
    #[error("fault plan: `{key}={value}` is malformed: expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// What was given.
        value: String,
        /// What is taken.
        expected: &'static str,
    },
}

const KEYS: &str = "seed, drop, delay, duplicate, reorder, wrong-cid, wrong-phase, status, \
                    never-ready, fatal-after, vanish-after, after, scope";

impl FromStr for FaultPlan {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut plan = Self::default();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            plan.set(key.trim(), value.trim())?;
        }
        Ok(plan)
    }
}

impl FaultPlan {
    fn set(&mut self, key: &str, value: &str) -> Result<(), PlanError> {
        let expects =
            |expected| PlanError::Value { key: key.to_owned(), value: value.to_owned(), expected };
        let number = || number(value).ok_or_else(|| expects("a number"));
        let chance = || chance(value).ok_or_else(|| expects("a probability, 0 to 1"));
        match key {
            "seed" => self.seed = number()?,
            "drop" => self.drop = chance()?,
            "delay" => {
                let expects = || expects("a probability and a time, such as 0.05:2ms");
                let (first, second) = value.split_once(':').ok_or_else(expects)?;
                self.delay = (
                    self::chance(first).ok_or_else(expects)?,
                    duration(second).ok_or_else(expects)?,
                );
            }
            "duplicate" => self.duplicate = chance()?,
            "reorder" => self.reorder = chance()?,
            "wrong-cid" => self.wrong_cid = chance()?,
            "wrong-phase" => self.wrong_phase = chance()?,
            "status" => {
                let expects = || expects("a probability and a status, such as 0.01:0x281");
                let (first, second) = value.split_once(':').ok_or_else(expects)?;
                let status = self::number(second).and_then(|code| u16::try_from(code).ok());
                let status = status.map(Status::from_bits).ok_or_else(expects)?;
                if status.is_success() || status.bits() > 0x7fff {
                    return Err(expects());
                }
                self.status = (self::chance(first).ok_or_else(expects)?, status);
            }
            "never-ready" if value.is_empty() => self.never_ready = Some(0),
            "never-ready" => self.never_ready = Some(number()?),
            "fatal-after" => self.fatal_after = Some(number()?),
            "vanish-after" => self.vanish_after = Some(number()?),
            "after" => self.after = number()?,
            "scope" => {
                self.scope = match value {
                    "io" => Scope::Io,
                    "admin" => Scope::Admin,
                    "all" => Scope::All,
                    _ => return Err(expects("io, admin or all")),
                }
            }
            _ => return Err(PlanError::Key(key.to_owned())),
        }
        Ok(())
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn chance(text: &str) -> Option<Chance> {
    let chance: f64 = text.parse().ok()?;
    // The cast saturates, so 1 becomes "always".
    (0.0..=1.0).contains(&chance).then_some(Chance((chance * u64::MAX as f64) as u64))
}

fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(split);
    let count: u64 = digits.parse().ok()?;
    match unit {
        "us" => Some(Duration::from_micros(count)),
        "ms" => Some(Duration::from_millis(count)),
        "s" => Some(Duration::from_secs(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_parsed() {
        let plan: FaultPlan = "seed=7,drop=0.01,delay=0.05:2ms,duplicate=0.01,reorder=0.1,\
             wrong-cid=0.01,wrong-phase=0.01,status=0.01:0x0281,never-ready,fatal-after=1000,\
             vanish-after=1000,after=100,scope=all"
            .parse()
            .unwrap();
        assert_eq!(plan.seed, 7);
        assert_eq!(plan.delay.1, Duration::from_millis(2));
        assert_eq!(plan.status.1, Status::UNRECOVERED_READ_ERROR);
        assert_eq!((plan.never_ready, plan.fatal_after), (Some(0), Some(1000)));
        assert_eq!((plan.after, plan.scope), (100, Scope::All));
        assert_eq!("".parse(), Ok(FaultPlan::default()));
    }

    #[test]
    fn malformed_plans_are_errors() {
        for text in [
            "x=1",
            "drop",
            "drop=2",
            "drop=-0.1",
            "drop=nan",
            "delay=0.1",
            "delay=0.1:2",
            "delay=0.1:ms",
            "delay=0.1:99999999999999999999s",
            "status=0.1",
            "status=0.1:0",
            "status=0.1:0x8000",
            "status=0.1:0x10000",
            "seed=-1",
            "seed=0xg",
            "after=",
            "scope=some",
        ] {
            assert!(text.parse::<FaultPlan>().is_err(), "{text} was accepted");
        }
        let error = "frop=1".parse::<FaultPlan>().unwrap_err().to_string();
        assert!(error.contains("`frop`") && error.contains("drop, delay"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in ".*") {
            let _ = text.parse::<FaultPlan>();
        }
    }
}
