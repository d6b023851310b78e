//! `cargo xtask fuzz`: builds the fuzz targets and runs them.
//!
//! LLVM's coverage instrumentation and libFuzzer work with the stable compiler; only the
//! flags are not spelt out for the user as cargo-fuzz would.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::packages;

/// Options of `cargo xtask fuzz`.
#[derive(Args)]
pub(crate) struct Options {
    /// The target to run; all of them, one after another, if none is named.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// How long each target runs as part of the test suite.
const BRIEF: u64 = 5;

/// What cargo-fuzz passes too, less the address sanitizer, which needs a nightly compiler.
const RUSTFLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

/// Runs what `options` name.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut targets = build()?;
    if let Some(name) = &options.target {
        let known = targets.keys().cloned().collect::<Vec<_>>().join(", ");
        targets.retain(|target, _| target == name);
        if targets.is_empty() {
            bail!("there is no fuzz target `{name}`; there are: {known}");
        }
    }
    let failed = fuzz(&targets, options.seconds)?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs each target for a few seconds: how many passed and failed.
pub(crate) fn brief() -> Result<(u64, u64)> {
    let manifest = folder().join("Cargo.toml");
    let status = cargo()
        .args(["fmt", "--check", "--manifest-path"])
        .arg(manifest)
        .status()
        .context("running cargo")?;
    if !status.success() {
        bail!("the fuzz targets are not formatted");
    }
    let targets = build()?;
    let failed = fuzz(&targets, BRIEF)?;
    Ok((targets.len() as u64 - failed, failed))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz")
}

fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    command.stdin(Stdio::null());
    command
}

/// Builds all targets: their programs by name.
fn build() -> Result<BTreeMap<String, PathBuf>> {
    // libFuzzer is C++.
    if !Command::new("c++").arg("--version").output().is_ok_and(|output| output.status.success()) {
        packages::ensure(&["g++"])?;
    }
    // With --target, build scripts and macros are spared the instrumentation.
    let output = cargo()
        .args(["build", "--release", "--target", "host-tuple", "--message-format"])
        .args(["json-render-diagnostics", "--manifest-path"])
        .arg(folder().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(crate::target().join("fuzz"))
        .env("RUSTFLAGS", RUSTFLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo")?;
    if !output.status.success() {
        bail!("building the fuzz targets ended with {}", output.status);
    }
    let programs = programs(&String::from_utf8_lossy(&output.stdout));
    if programs.is_empty() {
        bail!("cargo built no fuzz target");
    }
    Ok(programs)
}

/// The programs that cargo's JSON messages name.
fn programs(messages: &str) -> BTreeMap<String, PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| {
            let program = message.get("executable")?.as_str()?;
            let name = message.get("target")?.get("name")?.as_str()?;
            Some((name.to_owned(), program.into()))
        })
        .collect()
}

/// Runs `targets`, `seconds` each, and says how many of them found something.
fn fuzz(targets: &BTreeMap<String, PathBuf>, seconds: u64) -> Result<u64> {
    let mut failed = 0;
    for (name, program) in targets {
        let create = |kind: &str| {
            let path = folder().join(kind).join(name);
            fs::create_dir_all(&path)
                .with_context(|| format!("creating {}", path.display()))
                .map(|()| path)
        };
        let corpus = create("corpus")?;
        let artifacts = create("artifacts")?;
        let log = artifacts.join("log");
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = Command::new(program);
        command
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=20", "-rss_limit_mb=2048", "-len_control=10"])
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(corpus);
        // What was once found stays found.
        let regressions = folder().join("regressions").join(name);
        if regressions.is_dir() {
            command.arg(regressions);
        }
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .status()
            .with_context(|| format!("running {}", program.display()))?;
        let text = fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
        let text = String::from_utf8_lossy(&text);
        if status.success() {
            println!("{name}: {}", summary(&text));
        } else {
            failed += 1;
            println!("{name} FAILED with {status}; the end of {}:", log.display());
            let lines = text.lines().collect::<Vec<_>>();
            println!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
    Ok(failed)
}

/// What libFuzzer says at the end of a run that found nothing.
fn summary(log: &str) -> &str {
    log.lines().rev().find(|line| line.starts_with("Done ")).unwrap_or("done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"a"},"executable":"/x/a"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"lib"},"executable":null}"#,
            "\nnot JSON\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let found = programs(messages);
        assert_eq!(found.len(), 1);
        assert_eq!(found["a"], Path::new("/x/a"));
    }

    #[test]
    fn the_summary_is_libfuzzers_last_word() {
        let log = "INFO: x\nDone 5 runs in 2 second(s)\nstat::y: 1\n";
        assert_eq!(summary(log), "Done 5 runs in 2 second(s)");
        assert_eq!(summary("killed"), "done");
    }
}
