//! What is told of a device and its drivers.

use std::time::Instant;

use uniddrv::clock;
use uniddrv_abi::ledger::bucket_start;
use uniddrv_abi::message::{Beginning, DriverStatus, Holder, Name, Target};

use super::{State, Supervisor, Then};
use crate::driver::{Process, Stage};
use crate::ledger::Totals;

/// What was counted when a client asked last.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    at: Instant,
    totals: Totals,
}

impl Supervisor {
    /// All that was counted so far.
    fn counted(&self) -> Totals {
        let mut totals = self.totals.clone();
        // What is in flight is of now, and ended clients have nothing.
        totals.in_flight = 0;
        if let Some(memory) = &self.ledger {
            for attachment in self.attachments.values().filter(|one| one.is_attached()) {
                totals.add(&attachment.totals(&memory.ledger));
            }
        }
        totals
    }

    /// Who holds `path`; anything, where it is `None`.
    pub(crate) fn holders(&self, path: Option<&str>) -> Vec<Holder> {
        let ledger = self.ledger.as_ref().map(|memory| &memory.ledger);
        let held = self
            .attachments
            .values()
            .filter(|one| one.is_attached() && path.is_none_or(|path| path == one.request.path));
        held.map(|attachment| attachment.holder(ledger)).collect()
    }

    /// Its own name, and those of its targets.
    pub(crate) fn names(&self) -> Vec<Name> {
        let goes = matches!(self.state, State::Ending { then: Then::Go(_), .. } | State::Gone);
        let Some(name) = self.name.as_ref().filter(|_| !goes) else { return Vec::new() };
        let address = self.address.to_string();
        let entry = |name: String, target: Option<&Target>| Name {
            name,
            address: address.clone(),
            target: target.cloned(),
            holders: target.map_or_else(Vec::new, |target| self.holders(Some(&target.path))),
        };
        let own = entry(name.to_string(), None);
        let targets = self.targets.iter();
        let targets = targets.map(|target| entry(format!("{name}/{}", target.path), Some(target)));
        std::iter::once(own).chain(targets).collect()
    }

    /// Kind and structures of the device, once they are known.
    pub(crate) fn identity(&self) -> Option<(String, Vec<u8>)> {
        (!self.kind.is_empty()).then(|| (self.kind.clone(), self.identity.clone()))
    }

    /// The name of its state, as `status` shows it.
    pub(crate) fn state_name(&self) -> &'static str {
        match (&self.state, self.active.as_ref().map(|active| active.stage)) {
            (State::Serving, Some(Stage::Up)) => "running",
            (State::Opening, _) | (State::Serving, Some(Stage::Begun(Beginning::Fresh))) => {
                "starting"
            }
            (State::Serving, Some(Stage::Begun(Beginning::Adopt))) => "adopting",
            (State::Serving, Some(_)) => "resetting",
            (State::Serving, None) => match self.pending.map(|pending| pending.how) {
                Some(Beginning::Fresh) | None => "starting",
                Some(_) => "waiting",
            },
            (State::Away, _) => "waiting",
            (State::Ending { .. } | State::Stopped(_) | State::Gone, _) => "stopped",
        }
    }

    /// What goes on, since `before`, if the client has asked before.
    pub(crate) fn status(
        &mut self,
        before: Option<&Snapshot>,
        now: Instant,
    ) -> (DriverStatus, Snapshot) {
        self.look_for_completion(now);
        let totals = self.counted();
        let since = before.map_or(self.began, |before| before.at);
        let seconds = (now - since).as_secs_f64().max(1e-9);
        let nothing = Totals::default();
        let earlier = before.map_or(&nothing, |before| &before.totals);
        let difference = |now: u64, before: u64| now.wrapping_sub(before);
        let latencies: Vec<u64> = totals
            .latencies
            .iter()
            .zip(&earlier.latencies)
            .map(|(&now, &before)| difference(now, before))
            .collect();
        let bytes = |totals: &Totals| totals.bytes_read.wrapping_add(totals.bytes_written);
        let ledger = self.ledger.as_ref().map(|memory| &memory.ledger);
        let resets = ledger.map_or(0, |ledger| ledger.resets().0);
        let program = self.active.as_ref().map(|active| &active.program).or(self.program.as_ref());
        let mut deaths: Vec<_> = self.reports.iter().cloned().collect();
        deaths.extend(self.report.as_ref().map(|report| report.death.clone()));
        let status = DriverStatus {
            name: self.label(),
            address: self.address.to_string(),
            driver: program
                .map_or_else(|| self.config.driver.to_string(), |program| program.name()),
            state: self.state_name().into(),
            pid: self.active.as_ref().map_or(0, Process::pid),
            cpu: self.config.cpu.map(crate::cpus::Cpu::number),
            warm: self.successor.as_ref().is_some_and(Process::is_ready),
            asleep: self.active.is_some()
                && ledger.is_some_and(uniddrv_abi::ledger::Ledger::asleep),
            in_flight: totals.in_flight,
            ios: totals.ios,
            errors: totals.errors,
            bytes_read: totals.bytes_read,
            bytes_written: totals.bytes_written,
            elapsed_ns: u64::try_from((now - self.began).as_nanos()).unwrap_or(u64::MAX),
            iops: difference(totals.ios, earlier.ios) as f64 / seconds,
            bytes_per_second: difference(bytes(&totals), bytes(earlier)) as f64 / seconds,
            latency_ns: percentiles(&latencies),
            restarts: self.restarts,
            adoptions: self.adoptions,
            resets: self.resets.saturating_add(self.resets_seen.max(resets)),
            deaths,
            holders: self.holders(None),
        };
        (status, Snapshot { at: now, totals })
    }
}

/// Median, 99th and 99.9th percentile and maximum of a histogram, in nanoseconds.
fn percentiles(buckets: &[u64]) -> [u64; 4] {
    let all = buckets.iter().fold(0_u64, |sum, &count| sum.saturating_add(count));
    [500, 990, 999, 1000].map(|permille| {
        let rank = (u128::from(all) * permille).div_ceil(1000).max(1);
        let mut seen = 0_u128;
        let bucket = buckets.iter().position(|&count| {
            seen += u128::from(count);
            seen >= rank
        });
        // The middle of a bucket, whose ends are an eighth apart.
        bucket.map_or(0, |bucket| {
            let (start, end) = (bucket_start(bucket), bucket_start(bucket + 1));
            clock::to_nanoseconds(start + (end - start) / 2)
        })
    })
}

#[cfg(test)]
mod tests {
    use uniddrv_abi::ledger::{BUCKETS, bucket};

    use super::*;

    #[test]
    fn percentiles_are_of_what_was_counted() {
        let mut buckets = vec![0; BUCKETS];
        assert_eq!(percentiles(&buckets), [0; 4]);
        let (short, long) = (clock::to_ticks(std::time::Duration::from_micros(10)), 1 << 30);
        buckets[bucket(short)] = 989;
        buckets[bucket(long)] = 11;
        let [median, p99, _, most] = percentiles(&buckets);
        assert!((8_000..12_000).contains(&median), "{median}");
        assert_eq!(p99, most);
        let long = clock::to_nanoseconds(long);
        assert!((long..=long + long / 8).contains(&most), "{most} {long}");
        // A hostile driver's counts overflow nothing.
        assert_eq!(percentiles(&vec![u64::MAX; BUCKETS])[0], clock::to_nanoseconds(0));
    }
}
