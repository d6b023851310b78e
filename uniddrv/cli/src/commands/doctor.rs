//! `uniddrv doctor`.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use uniddrv::sysfs::{Check, State, Sysfs};

use crate::Context;
use crate::error::Failure;

/// Show what this machine lacks, and the command that mends each
///
/// First what taking devices needs, then what makes it fast.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// Exit with status 1 where something is missing that taking devices needs
    #[arg(long)]
    check: bool,
}

/// The JSON output.
#[derive(Serialize)]
struct Report {
    ready: bool,
    checks: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    name: &'static str,
    state: &'static str,
    found: String,
    mend: Option<String>,
}

impl Doctor {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let checks = Sysfs::new(&context.root).doctor();
        let missing: Vec<&str> = checks
            .iter()
            .filter(|check| check.state == State::Missing)
            .map(|check| check.name)
            .collect();
        let report =
            Report { ready: missing.is_empty(), checks: checks.iter().map(Line::from).collect() };
        context.out.data(&report, || text(&checks))?;
        if self.check && !missing.is_empty() {
            return Err(Failure::new(format!("missing: {}", missing.join(", "))));
        }
        Ok(())
    }
}

impl From<&Check> for Line {
    fn from(check: &Check) -> Self {
        Self {
            name: check.name,
            state: check.state.name(),
            found: check.found.clone(),
            mend: check.mend.clone(),
        }
    }
}

fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let style = style(check.state);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{style}{:<7}{style:#}  {:<width$}  {}",
            check.state.name(),
            check.name,
            check.found
        );
        if let Some(mend) = &check.mend {
            let _ = writeln!(text, "         {mend}");
        }
    }
    text
}

fn style(state: State) -> Style {
    let colour = match state {
        State::Ok => AnsiColor::Green,
        State::Advice => AnsiColor::Yellow,
        State::Missing => AnsiColor::Red,
    };
    Style::new().bold().fg_color(Some(colour.into()))
}
