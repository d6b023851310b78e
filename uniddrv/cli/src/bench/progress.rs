//! How far a benchmark is, on standard error where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::result::{rate, thousands};
use super::session::{Progress, Stage};
use super::workload::Rw;

/// A bar that fills as time passes, or requests end, whichever decides.
pub(crate) struct Bar {
    line: ProgressBar,
    time: Option<Duration>,
    last: (Duration, u64),
    shown: String,
}

impl Bar {
    pub(crate) fn new(time: Option<Duration>) -> Self {
        let bar = ProgressBar::new(1000);
        // The template is ours and well-formed; without it the bar is merely plainer.
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Self { line: bar, time, last: (Duration::ZERO, 0), shown: String::new() }
    }

    /// Shows the progress of our own driver.
    pub(crate) fn show(&mut self, rw: Rw, progress: Progress) {
        let Progress { stage, done, total, elapsed } = progress;
        if elapsed < self.last.0 {
            self.last = (Duration::ZERO, 0);
        }
        let of_time = self.time.filter(|_| matches!(stage, Stage::Measure(_)));
        let of_time = of_time.map_or(0.0, |time| elapsed.as_secs_f64() / time.as_secs_f64());
        let of_total = total.map_or(0.0, |total| done as f64 / total.max(1) as f64);
        self.line.set_position((of_time.max(of_total).min(1.0) * 1000.0) as u64);
        // The rate of the last quarter second; steadier than that of the last tick.
        let passed = elapsed.saturating_sub(self.last.0);
        if passed >= Duration::from_millis(250) || self.shown.is_empty() || done == 0 {
            let iops = rate(done.saturating_sub(self.last.1), passed.as_secs_f64());
            self.last = (elapsed, done);
            let what = match stage {
                Stage::Fill => "filling".to_owned(),
                Stage::Measure(depth) => format!("{rw}, queue depth {depth}"),
                Stage::ReadBack => "reading back".to_owned(),
            };
            // At the start there is no rate yet.
            self.shown = if done == 0 { what } else { format!("{what}: {} IOPS", thousands(iops)) };
            self.line.set_message(self.shown.clone());
        }
    }

    /// Shows that something is waited for that does not tell how far it is.
    pub(crate) fn wait(&mut self, what: &str) {
        self.line.set_position(0);
        self.line.set_message(what.to_owned());
        self.line.enable_steady_tick(Duration::from_millis(250));
    }

    /// Shows how much of something is done, 0 to 1, in words of its own.
    pub(crate) fn at(&self, share: f64, text: String) {
        self.line.set_position((share.clamp(0.0, 1.0) * 1000.0) as u64);
        self.line.set_message(text);
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        self.line.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}
