//! Faults that the controller makes on purpose, each reproducible from a seed.

mod plan;

use std::time::Duration;

pub use plan::{FaultPlan, PlanError, Scope};
use uniddrv_spec::nvme::status::Status;

/// What happens to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing unusual.
    None,
    /// It is executed, its completion is never posted.
    Drop,
    /// It is executed, its completion is posted later.
    Delay(Duration),
    /// It is executed, its completion is posted twice.
    Duplicate,
    /// It is executed, its completion is posted after the next one.
    Reorder,
    /// It is executed, its completion carries the identifier of no command on its way.
    WrongCid,
    /// It is executed, its completion carries the phase of an old entry.
    WrongPhase,
    /// It is not executed and fails with this status.
    Status(Status),
    /// It is not executed: the controller stops with CSTS.CFS set.
    Fatal,
    /// It is not executed: the device disappears.
    Vanish,
}

/// How many faults of each kind were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Commands that the plan was asked about.
    pub commands: u64,
    /// Completions dropped.
    pub dropped: u64,
    /// Completions delayed.
    pub delayed: u64,
    /// Completions posted twice.
    pub duplicated: u64,
    /// Completions posted after their successor.
    pub reordered: u64,
    /// Completions with another command identifier.
    pub wrong_cid: u64,
    /// Completions with the wrong phase.
    pub wrong_phase: u64,
    /// Commands failed with a status.
    pub status: u64,
    /// Enables after which the controller did not get ready.
    pub never_ready: u64,
    /// Times that the controller went fatal.
    pub fatal: u64,
    /// Whether the device has disappeared: 0 or 1.
    pub vanished: u64,
}

/// A plan being carried out.
#[derive(Clone, Debug)]
pub struct Faults {
    plan: FaultPlan,
    counts: FaultCounts,
    enables: u64,
    fatal: bool,
}

impl Faults {
    /// Starts a plan from its seed.
    pub fn new(plan: FaultPlan) -> Self {
        Self { plan, counts: FaultCounts::default(), enables: 0, fatal: false }
    }

    /// What was made so far.
    pub fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// Whether commands of this queue are in the plan's scope.
    pub fn concerns(&self, admin: bool) -> bool {
        match self.plan.scope {
            Scope::Io => !admin,
            Scope::Admin => admin,
            Scope::All => true,
        }
    }

    /// Whether the controller that is being enabled gets ready.
    pub fn gets_ready(&mut self) -> bool {
        self.enables += 1;
        let never = self.plan.never_ready.is_some_and(|after| self.enables > after);
        self.counts.never_ready += u64::from(never);
        !never
    }

    /// What happens to the next command.
    pub fn decide(&mut self) -> Verdict {
        self.counts.commands += 1;
        let (plan, counts) = (&self.plan, &mut self.counts);
        if plan.vanish_after.is_some_and(|after| counts.commands > after) {
            counts.vanished = 1;
            return Verdict::Vanish;
        }
        if !self.fatal && plan.fatal_after.is_some_and(|after| counts.commands > after) {
            // Once: the driver may reset the controller and go on.
            self.fatal = true;
            counts.fatal += 1;
            return Verdict::Fatal;
        }
        if counts.commands <= plan.after {
            return Verdict::None;
        }
        // What one kind does follows from the seed and the command's number alone, whatever
        // the other kinds do.
        let (seed, number) = (plan.seed, counts.commands);
        let draw = |kind: u64, chance: Chance| {
            chance.0 != 0 && random(seed, number.wrapping_mul(8).wrapping_add(kind)) <= chance.0
        };
        let drop = draw(0, plan.drop);
        let delay = draw(1, plan.delay.0);
        let duplicate = draw(2, plan.duplicate);
        let reorder = draw(3, plan.reorder);
        let wrong_cid = draw(4, plan.wrong_cid);
        let wrong_phase = draw(5, plan.wrong_phase);
        let status = draw(6, plan.status.0);
        if drop {
            counts.dropped += 1;
            Verdict::Drop
        } else if delay {
            counts.delayed += 1;
            Verdict::Delay(plan.delay.1)
        } else if duplicate {
            counts.duplicated += 1;
            Verdict::Duplicate
        } else if reorder {
            counts.reordered += 1;
            Verdict::Reorder
        } else if wrong_cid {
            counts.wrong_cid += 1;
            Verdict::WrongCid
        } else if wrong_phase {
            counts.wrong_phase += 1;
            Verdict::WrongPhase
        } else if status {
            counts.status += 1;
            Verdict::Status(plan.status.1)
        } else {
            Verdict::None
        }
    }
}

/// A probability: hit by a random number that is at most this; 0 never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chance(u64);

/// Number `index` of the sequence of SplitMix64 (Steele, Lea, Flood: Fast Splittable
/// Pseudorandom Number Generators, 2014) that `seed` starts.
fn random(seed: u64, index: u64) -> u64 {
    let mut mixed = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(plan: &str, commands: usize) -> (Vec<Verdict>, FaultCounts) {
        let mut faults = Faults::new(plan.parse().unwrap());
        let verdicts = (0..commands).map(|_| faults.decide()).collect();
        (verdicts, faults.counts())
    }

    #[test]
    fn the_generator_is_splitmix64() {
        let first: Vec<_> = (1..=3).map(|index| random(1_234_567, index)).collect();
        assert_eq!(
            first,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn the_same_seed_makes_the_same_faults() {
        let plan = "seed=7,drop=0.1,delay=0.1:2ms,duplicate=0.1,reorder=0.1,wrong-cid=0.1,wrong-phase=0.1,status=0.1:0x281";
        let (verdicts, counts) = verdicts(plan, 10_000);
        assert_eq!(verdicts, self::verdicts(plan, 10_000).0);
        assert_ne!(verdicts, self::verdicts(&plan.replace("seed=7", "seed=8"), 10_000).0);
        for count in [
            counts.dropped,
            counts.delayed,
            counts.duplicated,
            counts.reordered,
            counts.wrong_cid,
            counts.wrong_phase,
            counts.status,
        ] {
            assert!((400..1100).contains(&count), "{counts:?}");
        }
        assert!(verdicts.contains(&Verdict::Status(Status::UNRECOVERED_READ_ERROR)));
        assert!(verdicts.contains(&Verdict::Delay(Duration::from_millis(2))));
    }

    #[test]
    fn one_kind_does_not_change_what_another_does_when() {
        let drops = |plan| {
            let all = verdicts(plan, 1000).0;
            let drops = all.iter().enumerate().filter(|(_, verdict)| **verdict == Verdict::Drop);
            drops.map(|(index, _)| index).collect::<Vec<_>>()
        };
        assert_eq!(drops("seed=3,drop=0.2"), drops("seed=3,drop=0.2,duplicate=0.5"));
    }

    #[test]
    fn chances_of_zero_and_one_are_exact() {
        assert_eq!(verdicts("drop=0", 1000).1.dropped, 0);
        assert_eq!(verdicts("drop=1", 1000).1.dropped, 1000);
        assert_eq!(verdicts("drop=1,after=100", 1000).1.dropped, 900);
    }

    #[test]
    fn fatal_comes_once_and_vanishing_stays() {
        let (all, counts) = verdicts("fatal-after=5", 20);
        assert_eq!(all.iter().position(|&verdict| verdict == Verdict::Fatal), Some(5));
        assert_eq!(counts.fatal, 1);
        let (all, _) = verdicts("vanish-after=5", 20);
        assert_eq!(all.iter().filter(|&&verdict| verdict == Verdict::Vanish).count(), 15);
    }

    #[test]
    fn never_ready_may_start_later() {
        let mut faults = Faults::new("never-ready=1".parse().unwrap());
        assert!(faults.gets_ready());
        assert!(!faults.gets_ready());
        let mut faults = Faults::new("never-ready".parse().unwrap());
        assert!(!faults.gets_ready());
        assert_eq!(faults.counts().never_ready, 1);
    }
}
