//! How the command fails: a message with its causes, a line of help, and an
//! exit status.

use std::fmt::Write as _;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use uniddrv::sysfs;

/// Exit status of an error.
const ERROR: u8 = 1;
/// Exit status of wrong usage; clap's own is the same.
const USAGE: u8 = 2;
/// Exit status of what Ctrl-C ended: 128 and SIGINT's number, as shells have it.
const INTERRUPTED: u8 = 130;

/// Why a subcommand failed, and what the user can do.
///
/// Any error turns into one by `?`; library errors that know what helps are
/// asked for it in [`known_help`].
#[derive(Debug)]
pub(crate) struct Failure {
    error: anyhow::Error,
    help: Option<String>,
    status: u8,
}

impl Failure {
    /// An error with a message of its own.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        anyhow::Error::msg(message.into()).into()
    }

    /// Arguments that do not fit together, or a value that clap cannot judge:
    /// exit status 2.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { status: USAGE, ..error.into().into() }
    }

    /// The user ended it: exit status 130.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self { status: INTERRUPTED, ..Self::new(message) }
    }

    /// Adds what the user can do; replaces a library's own help.
    #[must_use]
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Prints the failure to standard error and gives the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        anstream::eprint!("{}", self.render());
        ExitCode::from(self.status)
    }

    /// `error: what: because: because` and, where there is one, `help: ...`.
    fn render(&self) -> String {
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        let green = Style::new().bold().fg_color(Some(AnsiColor::Green.into()));
        let mut text = format!("{red}error:{red:#} {}\n", told_once(&self.error));
        let help = self.help.clone().or_else(|| known_help(&self.error));
        if let Some(help) = help {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{green}help:{green:#} {help}");
        }
        text
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), help: None, status: ERROR }
    }
}

/// The error and its causes; a cause that an error has told already is left out.
fn told_once(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// The help of a library's error, wherever in the chain it stands. One line
/// per library that has any.
fn known_help(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| cause.downcast_ref::<sysfs::Error>()?.help())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error =
            anyhow::anyhow!("no such file").context("open /x (no such file)").context("attach");
        assert_eq!(told_once(&error), "attach: open /x (no such file)");
    }
}
