//! The driver alone: criterion's and callgrind's figures for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::callgrind::{self, Instructions};
use crate::run::{self, Stop};
use crate::suite::cargo_command;
use crate::uniddrv::executable;

/// Submission and completion of a read on devices inside the process, the device's part
/// included: nanoseconds a request by queue depth.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Times {
    /// On a device that does nothing but complete.
    pub(crate) driver: BTreeMap<u32, f64>,
    /// On the NVMe model.
    pub(crate) model: BTreeMap<u32, f64>,
}

/// What the driver costs.
#[derive(Serialize)]
pub(crate) struct Driver {
    pub(crate) ns: Times,
    /// Instructions a request at queue depth 32, on the device that does nothing but complete.
    pub(crate) instructions: Instructions,
}

/// Builds and runs `storage-poll/benches/queue`. `target` is cargo's target folder.
pub(crate) fn measure(target: &Path, quick: bool, stop: &Stop) -> Result<Driver> {
    let program = build("queue", stop)?;

    let home = target.join("bench/criterion");
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("removing {}", home.display()))?;
    }
    let mut command = Command::new(&program);
    command.args(["--bench", "--noplot"]).env("CRITERION_HOME", &home).stdout(Stdio::null());
    if quick {
        command.arg("--quick");
    }
    let status = run::to_end(&mut command, stop, |_| {})?;
    if !status.success() {
        bail!("{}: {status}", run::shown(&command));
    }
    let ns = collect(&home)?;
    Ok(Driver { ns, instructions: callgrind::a_request(&program, stop)? })
}

/// Builds one of the driver's benchmarks.
pub(super) fn build(name: &str, stop: &Stop) -> Result<PathBuf> {
    let mut cargo = cargo_command(&[
        "bench",
        "--package",
        "storage-poll",
        "--bench",
        name,
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    let messages = run::output(&mut cargo, stop, |_| {})?;
    executable(&messages, name).context("cargo built no benchmark")
}

/// The medians of `queue_submit_complete_DEVICE/qdN/new/estimates.json`.
fn collect(home: &Path) -> Result<Times> {
    let of = |device: &str| {
        let mut times = BTreeMap::new();
        let folder = home.join(format!("queue_submit_complete_{device}"));
        let entries =
            fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(Ok(depth)) = name.strip_prefix("qd").map(str::parse) else { continue };
            let file = path.join("new/estimates.json");
            let text =
                fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            let value: Value = serde_json::from_str(&text).context("criterion's estimates")?;
            let median = value.pointer("/median/point_estimate").and_then(Value::as_f64);
            times.insert(depth, median.context("criterion's estimates have no median")?);
        }
        if times.is_empty() {
            bail!("criterion left no figures in {}", folder.display());
        }
        Ok(times)
    };
    Ok(Times { driver: of("driver")?, model: of("model")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_collected_by_device_and_depth() {
        let home = tempfile::tempdir().unwrap();
        assert!(collect(home.path()).is_err());
        for (place, median) in [("driver/qd1", 150.5), ("driver/qd32", 70.0), ("model/qd32", 90.0)]
        {
            let folder = home.path().join(format!("queue_submit_complete_{place}/new"));
            fs::create_dir_all(&folder).unwrap();
            let text = format!(r#"{{"median": {{"point_estimate": {median}}}}}"#);
            fs::write(folder.join("estimates.json"), text).unwrap();
        }
        let driver = BTreeMap::from([(1, 150.5), (32, 70.0)]);
        let model = BTreeMap::from([(32, 90.0)]);
        assert_eq!(collect(home.path()).unwrap(), Times { driver, model });
    }
}
