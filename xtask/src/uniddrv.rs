//! The `uniddrv` command, built for release and run by tasks.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::measured::{self, Measurement};
use crate::run::{self, Stop};
use crate::suite::cargo_command;

/// The built command.
pub(crate) struct Uniddrv {
    pub(crate) program: PathBuf,
    stop: Stop,
}

impl Uniddrv {
    /// Builds it and the drivers' programs beside it, with cargo's progress on stderr.
    pub(crate) fn build(stop: &Stop) -> Result<Self> {
        let mut cargo = cargo_command(&[
            "build",
            "--release",
            "--package",
            "uniddrv-cli",
            "--package",
            "storage-poll",
            "--bins",
            "--message-format",
            "json-render-diagnostics",
        ]);
        let messages = run::output(&mut cargo, stop, |_| {})?;
        let program = executable(&messages, "uniddrv").context("cargo built no uniddrv")?;
        Ok(Self { program, stop: stop.clone() })
    }

    /// Cargo's target folder: the program is in `<triple>/<profile>` there, as
    /// `.cargo/config.toml` names a target.
    pub(crate) fn target(&self) -> Result<&Path> {
        self.program.ancestors().nth(3).context("cargo's target folder has no name")
    }

    /// The command with `arguments`.
    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        command
    }

    /// Says what is run, runs it with its output on ours, and wants it to succeed.
    pub(crate) fn show(&self, arguments: &[impl AsRef<OsStr>]) -> Result<()> {
        self.show_command(self.command(arguments))
    }

    /// The same for a command that was made before.
    pub(crate) fn show_command(&self, mut command: Command) -> Result<()> {
        let line = announce(&command)?;
        succeeded(&line, run::to_end(&mut command, &self.stop, |_| {})?)
    }

    /// Says what is run, `uniddrv bench` with `--json` among its arguments, and reads what it
    /// measured.
    pub(crate) fn measure(&self, arguments: &[impl AsRef<OsStr>]) -> Result<Vec<Measurement>> {
        let mut command = self.command(arguments);
        announce(&command)?;
        measured::parse(&run::output(&mut command, &self.stop, |_| {})?)
    }

    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }
}

/// Prints the line that one would type.
pub(crate) fn announce(command: &Command) -> Result<String> {
    let line = run::shown(command);
    println!("$ {line}");
    io::stdout().flush().context("writing to stdout")?;
    Ok(line)
}

fn succeeded(line: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// The program `name` in cargo's messages, a JSON object on each line.
pub(crate) fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages.lines().rev().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let target = message.pointer("/target/name")?.as_str()?;
        let path = message.get("executable")?.as_str()?;
        (target == name).then(|| PathBuf::from(path))
    })
}

/// This program's task `vm` with `arguments`.
pub(crate) fn virtual_machine(arguments: &[impl AsRef<OsStr>]) -> Result<Command> {
    let mut command = Command::new(crate::program().context("finding this program")?);
    command.arg("vm").args(arguments).stdin(Stdio::null());
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_tells_where_the_program_is() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"name":"uniddrv"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"uniddrv"},"executable":"/t/x86_64-unknown-linux-gnu/release/uniddrv"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(
            executable(messages, "uniddrv"),
            Some(PathBuf::from("/t/x86_64-unknown-linux-gnu/release/uniddrv"))
        );
        assert_eq!(executable(messages, "other"), None);
    }
}
