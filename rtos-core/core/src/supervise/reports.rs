//! What is told of deaths: in the log, in files, and to those who ask.

use uniddrv_abi::ledger::Breadcrumb;
use uniddrv_abi::message::Death;

use super::{State, Supervisor};
use crate::context::{Context, monotonic};
use crate::death::{Cause, KEPT, Report, describe};
use crate::driver::Process;

impl Supervisor {
    /// The report on a death, as far as it can be written.
    pub(super) fn tell_of_death(
        &mut self,
        dead: &Process,
        cause: &Cause,
        (last_sign, detected): (Option<u64>, u64),
        breadcrumb: Option<Breadcrumb>,
        words: Option<String>,
    ) {
        if *cause == Cause::Unwanted {
            return;
        }
        // A hang was detected when the process was killed for it.
        let detected = dead.killed_at.map_or(detected, |killed| killed.min(detected));
        let mut report = Report::new(dead.pid(), cause, detected, last_sign);
        report.death.last_words = words;
        let memory = self.ledger.as_ref();
        report.death.request = breadcrumb.and_then(|it| memory.map(|memory| memory.request(it)));
        if self.active.is_some()
            && let Some(begun) = self.begun
        {
            report.has_begun(begun);
        }
        let stopped = !matches!(self.state, State::Serving | State::Away);
        if stopped {
            report.death.recovery = "stopped".into();
        }
        self.report = Some(report);
        if stopped {
            self.finish_report();
        }
    }

    /// Tells what is known of the last death.
    pub(super) fn finish_report(&mut self) {
        if let Some(report) = self.take_report() {
            self.file(report);
        }
    }

    /// The report on the last death, with what is known by now.
    pub(super) fn take_report(&mut self) -> Option<Report> {
        let mut report = self.report.take()?;
        if let Some(memory) = &self.ledger {
            report.look(memory.ledger.adoption().2, monotonic());
        }
        Some(report)
    }

    /// Keeps and tells a report.
    pub(super) fn file(&mut self, report: Report) {
        let death = report.death;
        let Death { pid, cause, last_words, request, recovery, .. } = &death;
        tracing::warn!(
            name = self.label(),
            pid,
            cause,
            last_words,
            request,
            recovery,
            detection_ns = death.detection_ns,
            hand_over_ns = death.hand_over_ns,
            adoption_ns = death.adoption_ns,
            first_completion_ns = death.first_completion_ns,
            "a driver process ended"
        );
        self.unwritten.push(describe(&self.label(), &self.address.to_string(), &death));
        if self.reports.len() >= KEPT {
            self.reports.pop_front();
        }
        self.reports.push_back(death);
    }

    /// Writes reports on deaths to files. Without them the log has it all.
    pub(super) fn write_reports(&mut self, cx: &Context<'_>) {
        if self.unwritten.is_empty() {
            return;
        }
        let texts = std::mem::take(&mut self.unwritten);
        let (folder, label) = (cx.shared.reports.clone(), self.label());
        let first = self.reported;
        self.reported += texts.len() as u64;
        cx.shared.maker.run(move || {
            for (number, text) in (first..).zip(texts) {
                // As many are kept as in memory: a number is used again.
                let number = number % KEPT as u64;
                let name: String =
                    label.chars().map(|c| if c == '/' || c == ':' { '-' } else { c }).collect();
                let path = folder.join(format!("{name}-{number}"));
                if let Err(error) = std::fs::write(&path, text) {
                    tracing::warn!("cannot write {}: {error}", path.display());
                }
            }
        });
    }
}
