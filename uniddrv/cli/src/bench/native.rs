//! The same workload through Linux's own driver: fio on its block device.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::latency::LatencyNs;
use super::result::{self, Native};
use super::session::Plan;

/// fio's engines that are compared with.
pub(crate) const ENGINES: [&str; 2] = ["io_uring", "libaio"];
/// The percentiles that fio is asked for.
const PERCENTILES: &str = "25:50:75:90:95:99:99.5:99.9:99.95:99.99:99.999";
/// How long fio may take beyond its time, to set up and to end.
const GRACE: Duration = Duration::from_mins(1);
/// The time that fio is given where the number of requests decides.
const DAY: Duration = Duration::from_hours(24);

/// fio did not give a result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NativeError {
    #[error("cannot run fio, which --compare native needs: {0}")]
    Missing(#[source] io::Error),
    #[error("fio ({engine}) on {path} failed ({status}): {says}")]
    Failed { engine: &'static str, path: PathBuf, status: ExitStatus, says: String },
    #[error("fio ({engine}) on {path} did not end {GRACE:?} after its time")]
    Hung { engine: &'static str, path: PathBuf },
    #[error("fio ({engine}) gave no result that is understood: {0}", engine = .1)]
    Output(#[source] serde_json::Error, &'static str),
}

/// Whether fio is there.
///
/// # Errors
/// When it cannot be run.
pub(crate) fn check() -> Result<(), NativeError> {
    let status = Command::new("fio").arg("--version").stdout(Stdio::null()).status();
    status.map(drop).map_err(NativeError::Missing)
}

/// Runs `plan` at one queue depth on the block device `path` of `size` bytes. Ends early when
/// `interrupted` is set; what was measured until then is the result.
///
/// # Errors
/// When fio fails, hangs or says what is not understood.
pub(crate) fn measure(
    engine: &'static str,
    path: &Path,
    plan: &Plan,
    depth: usize,
    size: u64,
    interrupted: &AtomicBool,
) -> Result<Native, NativeError> {
    let limit = plan.time.unwrap_or(DAY) + GRACE;
    let child = Command::new("fio")
        .args(arguments(engine, path, plan, depth, size))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NativeError::Missing)?;
    let (status, output, errors) = finish(child, limit, interrupted)
        .map_err(NativeError::Missing)?
        .ok_or_else(|| NativeError::Hung { engine, path: path.to_owned() })?;
    let said = || {
        let text = if errors.trim().is_empty() { &output } else { &errors };
        text.lines().take(5).collect::<Vec<_>>().join("; ")
    };
    let failed = || NativeError::Failed { engine, path: path.to_owned(), status, says: said() };
    let stopped = interrupted.load(Ordering::Relaxed);
    if !status.success() && !stopped {
        return Err(failed());
    }
    // Notes and warnings come before the object.
    let object = output.find('{').and_then(|at| output.get(at..)).ok_or_else(failed)?;
    parse(engine, object, plan.bs).map_err(|error| NativeError::Output(error, engine))
}

fn arguments(
    engine: &str,
    path: &Path,
    plan: &Plan,
    depth: usize,
    size: u64,
) -> Vec<std::ffi::OsString> {
    // As here: threads share the device at random, and divide it among them in order.
    let size = plan.size.unwrap_or(size) / plan.bs * plan.bs;
    let part = size / plan.bs / plan.cores as u64 * plan.bs;
    let mut filename = std::ffi::OsString::from("--filename=");
    filename.push(path);
    let mut arguments = vec![filename];
    let mut add = |argument: String| arguments.push(argument.into());
    add("--name=uniddrv".into());
    add(format!("--ioengine={engine}"));
    add(format!("--rw={}", plan.rw));
    add(format!("--bs={}", plan.bs));
    add(format!("--iodepth={depth}"));
    add(format!("--numjobs={}", plan.cores));
    if plan.rw.is_random() {
        add(format!("--size={size}"));
        add("--norandommap".into());
    } else {
        add(format!("--size={part}"));
        add(format!("--offset_increment={part}"));
    }
    add(format!("--runtime={}ms", plan.time.unwrap_or(DAY).as_millis()));
    if let Some(ios) = plan.ios {
        add(format!("--number_ios={}", ios.div_ceil(plan.cores as u64)));
    }
    if !plan.cpus.is_empty() {
        let cpus: Vec<_> = plan.cpus.iter().map(ToString::to_string).collect();
        add(format!("--cpus_allowed={}", cpus.join(",")));
        add("--cpus_allowed_policy=split".into());
    }
    add(format!("--percentile_list={PERCENTILES}"));
    for flag in [
        // A disk that is gone must not become a file of its name.
        "--allow_file_create=0",
        "--direct=1",
        "--time_based",
        "--thread",
        "--group_reporting",
        "--unified_rw_reporting=1",
        "--lat_percentiles=1",
        "--clat_percentiles=0",
        "--eta=never",
        "--output-format=json",
    ] {
        add(flag.into());
    }
    arguments
}

/// Waits for the child, at most `limit`; passes an interrupt on. Its exit status, output and
/// errors; nothing where it did not end in time and was killed.
fn finish(
    mut child: Child,
    limit: Duration,
    interrupted: &AtomicBool,
) -> io::Result<Option<(ExitStatus, String, String)>> {
    let output = child.stdout.take().map(read_in_thread);
    let errors = child.stderr.take().map(read_in_thread);
    let start = Instant::now();
    let mut limit = limit;
    let mut told = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if interrupted.load(Ordering::Relaxed) && !told {
            told = true;
            limit = limit.min(start.elapsed() + GRACE);
            let pid = rustix::process::Pid::from_child(&child);
            // Not SIGINT, which a child inherits as ignored where the shell put us in the
            // background. It may have ended since, or been told by the terminal already: both
            // are fine.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = |reader: Option<std::thread::JoinHandle<String>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    let (output, errors) = (text(output), text(errors));
    Ok(status.map(|status| (status, output, errors)))
}

fn read_in_thread(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is what there is.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The part of fio's report that is used.
#[derive(Deserialize)]
struct Report {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    mixed: Side,
}

#[derive(Deserialize)]
struct Side {
    total_ios: u64,
    /// Milliseconds.
    runtime: u64,
    iops: f64,
    lat_ns: Latency,
}

#[derive(Deserialize)]
struct Latency {
    min: u64,
    max: u64,
    #[serde(default)]
    percentile: BTreeMap<String, u64>,
}

fn parse(engine: &'static str, text: &str, bs: u64) -> serde_json::Result<Native> {
    let report: Report = serde_json::from_str(text)?;
    let Some(Job { mixed: side }) = report.jobs.into_iter().next() else {
        return Err(serde::de::Error::custom("it has no jobs"));
    };
    let mut curve: Vec<(f64, u64)> = side
        .lat_ns
        .percentile
        .iter()
        .filter_map(|(percent, &ns)| Some((percent.parse::<f64>().ok()? / 100.0, ns)))
        .collect();
    curve.sort_by(|one, other| one.0.total_cmp(&other.0));
    let at = |quantile: f64| {
        curve.iter().find(|(q, _)| (q - quantile).abs() < 1e-9).map_or(0, |&(_, ns)| ns)
    };
    let lat_ns = LatencyNs {
        min: side.lat_ns.min,
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        p9999: at(0.9999),
        max: side.lat_ns.max,
    };
    // Drawn are the least and as many nines as so many requests tell.
    let told = 1.0 - 1.0 / side.total_ios.max(1) as f64;
    curve.retain(|&(quantile, _)| quantile <= told);
    curve.insert(0, (0.0, side.lat_ns.min));
    Ok(Native {
        engine,
        seconds: side.runtime as f64 / 1e3,
        ios: side.total_ios,
        iops: side.iops,
        mib_s: result::mib_s(side.iops, bs),
        lat_ns,
        curve,
    })
}

#[cfg(test)]
mod tests {
    use super::super::workload::Rw;
    use super::*;

    const REPORT: &str = r#"{"fio version": "fio-3.33", "jobs": [{"jobname": "uniddrv", "error": 0,
        "mixed": {"io_bytes": 409600, "runtime": 2000, "total_ios": 100, "iops": 50.5,
        "lat_ns": {"min": 10, "max": 99, "mean": 5.5, "N": 100, "percentile": {
            "50.000000": 20, "90.000000": 30, "99.000000": 40, "99.900000": 50,
            "99.990000": 60, "99.999000": 70}}}}]}"#;

    fn plan(rw: Rw) -> Plan {
        Plan {
            rw,
            bs: 4096,
            depths: vec![4],
            cores: 2,
            cpus: vec![1, 3],
            time: Some(Duration::from_millis(300)),
            ios: None,
            size: None,
            verify: false,
            keep_going: false,
            patience: Duration::from_secs(1),
            spin: Duration::ZERO,
            seed: 0,
        }
    }

    fn text(rw: Rw) -> Vec<String> {
        let arguments = arguments("libaio", Path::new("/dev/nvme0n1"), &plan(rw), 4, 1_000_000);
        arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn a_report_is_read() {
        let native = parse("libaio", REPORT, 4096).unwrap();
        assert_eq!((native.ios, native.iops, native.seconds), (100, 50.5, 2.0));
        let LatencyNs { min, p50, p90, p99, p999, p9999, max } = native.lat_ns;
        assert_eq!([min, p50, p90, p99, p999, p9999, max], [10, 20, 30, 40, 50, 60, 99]);
        assert_eq!(native.curve, [(0.0, 10), (0.5, 20), (0.9, 30), (0.99, 40)]);
        assert!(native.curve.is_sorted_by_key(|&(_, ns)| ns));
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for text in ["", "{}", r#"{"jobs": []}"#, r#"{"jobs": [{"read": {}}]}"#] {
            assert!(parse("libaio", text, 4096).is_err(), "{text}");
        }
    }

    #[test]
    fn fio_gets_the_same_parameters() {
        let random = text(Rw::RandReadWrite);
        for wanted in [
            "--filename=/dev/nvme0n1",
            "--rw=randrw",
            "--bs=4096",
            "--iodepth=4",
            "--numjobs=2",
            "--cpus_allowed=1,3",
            "--runtime=300ms",
            "--direct=1",
            "--size=999424",
        ] {
            assert!(random.iter().any(|a| a == wanted), "{wanted} is missing in {random:?}");
        }
        let ordered = text(Rw::Read);
        assert!(ordered.contains(&"--size=499712".into()), "{ordered:?}");
        assert!(ordered.contains(&"--offset_increment=499712".into()));
    }

    #[test]
    fn a_child_that_hangs_is_ended() {
        let sleep = || {
            let mut command = Command::new("sleep");
            command.arg("600").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let go = AtomicBool::new(false);
        assert!(finish(sleep(), Duration::from_millis(50), &go).unwrap().is_none());
        let stop = AtomicBool::new(true);
        let (status, ..) = finish(sleep(), Duration::from_mins(1), &stop).unwrap().unwrap();
        assert!(!status.success());
    }

    #[test]
    fn fio_itself_is_understood() {
        if check().is_err() {
            eprintln!("skipped: fio is not installed (apt-get install fio)");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        let go = AtomicBool::new(false);
        let plan = Plan { cpus: vec![], ..plan(Rw::RandRead) };
        let native = match measure("libaio", &path, &plan, 4, 1 << 20, &go) {
            Ok(native) => native,
            Err(error) => {
                eprintln!("skipped: {error}");
                return;
            }
        };
        assert!(native.ios > 0 && native.lat_ns.p50 > 0 && native.lat_ns.max > 0);
        let gone = measure("libaio", &folder.path().join("no/disk"), &plan, 4, 1 << 20, &go);
        assert!(matches!(gone, Err(NativeError::Failed { .. })));
    }
}
