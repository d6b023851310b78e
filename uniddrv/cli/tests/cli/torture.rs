//! `uniddrv torture`, with a core in the test's process whose driver dies and comes back.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use uniddrv_abi::message::{Harm, Refusal, ToCore};

use crate::fake::{FakeCore, Fault, SERVICE, refused};
use crate::support::{read, run};

/// A short torture.
const SHORT: [&str; 8] =
    ["torture", "nvme:0", "--seconds", "1", "--kills-per-second", "20", "--size", "2M"];

fn torture(core: &FakeCore, extra: &[&str]) -> (i32, Value, String) {
    core.json(&[&SHORT[..], &["--yes"], extra].concat())
}

#[test]
fn a_driver_that_recovers_passes() {
    let core = FakeCore::new();
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.html");
    let (status, value, stderr) =
        torture(&core, &["--seed", "7", "--report", report.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr} {value}");
    for key in ["lost", "duplicated", "corrupted", "errors", "poisoned", "resets"] {
        assert_eq!(value[key], 0, "{key} in {value}");
    }
    let number = |key: &str| value[key].as_u64().unwrap();
    assert!(number("kills") > 3 && number("adoptions") == number("kills"), "{value}");
    for kind in ["reads", "writes", "write_zeroes", "flushes", "verified"] {
        assert!(number(kind) > 0, "{kind} in {value}");
    }
    assert_eq!(
        (&value["target"], &value["served"], &value["qd"]),
        (&SERVICE.into(), &true.into(), &32.into())
    );
    assert_eq!((&value["seed"], &value["worked_on"]), (&7.into(), &(2 << 20).into()));
    // The driver of this core is away for 2 ms.
    let gap = &value["gap_ns"];
    assert!(gap["p50"].as_u64().unwrap() >= 2_000_000, "{gap}");
    assert!(
        gap["p50"].as_u64() <= gap["p99"].as_u64() && gap["p99"].as_u64() <= gap["max"].as_u64()
    );
    assert_eq!(value["paths"]["adopted"]["detection_ns"]["p50"], 20_000);
    let page = std::fs::read_to_string(&report).unwrap();
    for part in
        ["Requests a second, and each harm", "gap: adopted", "class=\"event harm\"", "--seed 7"]
    {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    assert!(!page.contains("<script") && !page.contains("src="));
}

#[test]
fn only_the_harm_that_was_asked_for_is_done() {
    let core = FakeCore::new();
    let (status, value, stderr) = torture(&core, &["--harm", "fault=3,hang"]);
    assert_eq!(status, 0, "{stderr}");
    let mut seen = [0, 0];
    for question in &core.state().asked {
        if let ToCore::Kill { name, how } = question {
            assert_eq!(name, "nvme:0");
            match how {
                Harm::Fault => seen[0] += 1,
                Harm::Hang => seen[1] += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(seen[0] + seen[1], value["kills"].as_u64().unwrap());
    assert_eq!(value["by_harm"]["fault"].as_u64().unwrap_or(0), seen[0]);
    assert!(value["by_harm"]["kill"].is_null());
}

#[test]
fn what_is_lost_duplicated_or_corrupted_is_found() {
    for (fault, key, text) in [
        (Fault::Lose, "lost", "1 request lost"),
        (Fault::Repeat, "duplicated", "1 request duplicated"),
        (Fault::Corrupt, "corrupted", "request"),
    ] {
        let core = FakeCore::new();
        // Early: a busy machine does not get far.
        core.state().fault = Some((fault, 100));
        // Whatever takes that long on a busy machine counts as lost, too.
        let patience = if fault == Fault::Lose { "0.5" } else { "60" };
        let (status, value, stderr) = torture(&core, &["--patience", patience, "--qd", "20"]);
        assert_eq!(status, 1, "{fault:?}: {value}");
        assert!(value[key].as_u64().unwrap() > 0, "{fault:?}: {value}");
        let others = ["lost", "duplicated", "corrupted"].iter().filter(|other| **other != key);
        for other in others {
            assert_eq!(value[other], 0, "{fault:?}: {value}");
        }
        assert!(value["samples"][0].as_str().unwrap().starts_with(key), "{value}");
        assert!(fault == Fault::Lose || stderr.contains(text), "{fault:?}: {stderr}");
    }
}

#[test]
fn data_is_overwritten_only_when_that_was_said() {
    let core = FakeCore::new();
    core.state().disk[..4].copy_from_slice(b"XFSB");
    let before = core.state().disk.clone();
    let mut command = core.command(&SHORT);
    let (status, stdout, stderr) = read(&command.stdin(Stdio::null()).output().unwrap());
    assert_eq!((status, stdout.as_str()), (1, ""));
    for part in ["overwrite the first 2 MiB of nvme:0/ns1", "an XFS filesystem", "--yes"] {
        assert!(stderr.contains(part), "{part} is missing in {stderr}");
    }
    assert!(core.state().disk == before);
    assert!(!core.state().asked.iter().any(|question| matches!(question, ToCore::Kill { .. })));
}

#[test]
fn a_device_without_write_zeroes_is_tortured_without() {
    let core = FakeCore::new();
    core.state().write_zeroes = false;
    let (status, value, stderr) = torture(&core, &[]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!((&value["writes_zeroes"], &value["errors"]), (&false.into(), &0.into()));
    // The one that asked.
    assert_eq!(value["write_zeroes"], 0);
}

#[test]
fn who_may_not_harm_or_finds_no_driver_is_told() {
    let kill = ToCore::Kill { name: "nvme:0".into(), how: Harm::Kill };
    let core = FakeCore::new();
    core.state().answers.push((kill, refused(Refusal::Denied, "only root may kill a driver")));
    let (status, value, stderr) = torture(&core, &["--harm", "kill"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("harm the driver of nvme:0: only root may"), "{stderr}");
    // What was found until then is told all the same.
    assert_eq!((&value["kills"], &value["lost"]), (&0.into(), &0.into()));
}

#[test]
fn a_core_that_goes_away_ends_it() {
    let core = FakeCore::new();
    let arguments = ["torture", SERVICE, "--yes", "--seconds", "60", "--size", "2M"];
    let mut command = core.command(&arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let killed = |question: &ToCore| matches!(question, ToCore::Kill { .. });
    while !core.state().asked.iter().any(killed) {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(core);
    let (status, stdout, stderr) = read(&child.wait_with_output().unwrap());
    assert_eq!(status, 1, "{stdout}");
    assert!(stderr.starts_with("error: "), "{stderr}");
}

#[test]
fn arguments_that_cannot_be_say_why() {
    let core = FakeCore::new();
    for (arguments, status, says) in [
        (&["--seconds", "0"][..], 2, "--seconds 0"),
        (&["--kills-per-second", "nan"], 2, "--kills-per-second"),
        (&["--qd", "0"], 2, "--qd 0"),
        (&["--qd", "2000"], 2, "1024"),
        (&["--size", "1M"], 2, "2 MiB"),
        (&["--harm", "poke"], 2, "kill, fault, abort, hang, scramble"),
        (&["--report", "/no/such/folder/x.html"], 1, "no such folder"),
        (&["--namespace", "9"], 1, "no namespace 9"),
    ] {
        let arguments = [&["torture", "nvme:0", "--yes"], arguments].concat();
        let (found, stdout, stderr) = core.run(&arguments);
        assert_eq!((found, stdout.as_str()), (status, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
    let (status, _, stderr) = run(&["torture", "nvme:0", "--yes"]);
    assert!(status == 1 && stderr.contains("no core runs"), "{stderr}");
}
