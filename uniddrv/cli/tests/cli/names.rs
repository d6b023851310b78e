//! What works on names of the core: `ls`, `status`, `restart`, `upgrade`, `revoke`, and the core's
//! part of `bind` and `unbind`, with a core in the test's process.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};
use uniddrv_abi::message::{FromCore, Name, Refusal, Rights, ToCore};

use crate::fake::{BLOCK, BLOCKS, DEVICE, FakeCore, PID, SERVICE, name, refused};
use crate::support::{Machine, NVME, read, run};

#[test]
fn ls_shows_names_targets_and_holders() {
    let core = FakeCore::new();
    let (status, stdout, stderr) = core.run(&["ls"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{stdout}");
    assert!(lines[0].starts_with("NAME") && lines[1].starts_with("nvme:0 "), "{stdout}");
    for part in [SERVICE, DEVICE, "16 MiB", "512 B", " 77 ", "1,234,567", "write"] {
        assert!(lines[2].contains(part), "{part} is missing in {stdout}");
    }
    assert!(!stdout.contains('\u{1b}'), "a client's name moves the cursor: {stdout:?}");

    let (status, value, _) = core.json(&["ls", "nvme:0/ns1"]);
    assert_eq!(status, 0);
    assert_eq!(value.as_array().unwrap().len(), 1);
    let target = &value[0]["target"];
    assert_eq!(target["size"], BLOCKS * u64::from(BLOCK));
    assert_eq!(target["block_size"], BLOCK);
    let holder = &value[0]["holders"][0];
    for (key, wanted) in
        [("client", json!(3)), ("pid", json!(77)), ("rights", json!("write")), ("queues", json!(4))]
    {
        assert_eq!(holder[key], wanted, "{key}");
    }
    assert_eq!(holder["ios"], 1_234_567);
}

#[test]
fn a_name_does_not_mean_those_that_begin_alike() {
    let core = FakeCore::new();
    core.state().names.extend([name("nvme:01", false), name("nvme:01/ns1", true)]);
    let names = |given: &str| {
        let (_, value, _) = core.json(&["ls", given]);
        let names = value.as_array().unwrap().clone();
        names.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("nvme:0"), ["nvme:0", SERVICE]);
    assert_eq!(names("nvme:").len(), 4);
    let (status, stdout, stderr) = core.run(&["ls", "nvme:7"]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("nvme:7") && stderr.contains("help: to see what it has"), "{stderr}");
}

#[test]
fn an_empty_core_says_what_to_do() {
    let core = FakeCore::new();
    core.state().names.clear();
    core.state().drivers.clear();
    for command in ["ls", "status"] {
        let (status, stdout, _) = core.run(&[command]);
        assert_eq!(status, 0);
        assert!(stdout.contains("uniddrv bind"), "{stdout}");
        assert_eq!(core.json(&[command]).1, json!([]));
    }
}

#[test]
fn without_a_core_each_says_how_to_start_one() {
    for arguments in [
        &["ls"][..],
        &["status"],
        &["status", "--watch", "1"],
        &["restart", "nvme:0"],
        &["upgrade", "nvme:0"],
        &["revoke", "nvme:0/ns1"],
        &["identify", "nvme:0"],
        &["bench", "nvme:0/ns1"],
    ] {
        let (status, stdout, stderr) = run(arguments);
        assert_eq!((status, stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(stderr.contains("uniddrv core"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn status_shows_rates_latencies_deaths_and_holders() {
    let core = FakeCore::new();
    let (status, stdout, stderr) = core.run(&["status"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    for part in [
        "nvme:0  running",
        "123,456 IOPS, 512 MiB/s, 5 in flight",
        "p50 1.00 µs, p99 20.0 µs, p99.9 300 µs, max 4.00 ms",
        "1,000 requests, 2 failed, 4 MiB read, 8 MiB written, in 12 s",
        "a successor is ready",
        "1 time: 1 adoption, 0 resets",
        "client 3",
        "killed by SIGSEGV; adopted (detection 20.0 µs, hand-over 30.0 µs, adoption 40.0 µs, \
         first completion 5.00 µs)",
        "2000-02-29 00:01:01 UTC",
        "request: read of 8 blocks at 4096",
        "last words: panicked at queue.rs:7",
    ] {
        assert!(stdout.contains(part), "{part} is missing in\n{stdout}");
    }
    assert!(!stdout.contains('\u{1b}'), "{stdout:?}");
    let (_, value, _) = core.json(&["status", SERVICE]);
    let driver = &value[0];
    assert_eq!(
        driver["latency_ns"],
        json!({"p50": 1000, "p99": 20000, "p999": 300_000, "max": 4_000_000})
    );
    assert_eq!((driver["mib_s"].as_f64(), driver["seconds"].as_f64()), (Some(512.0), Some(12.0)));
    assert_eq!(driver["deaths"][0]["cause"], "killed by SIGSEGV");
    assert_eq!(driver["deaths"][0]["hand_over_ns"], 30_000);
    let (status, _, stderr) = core.run(&["status", "nvme:9"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("nvme:9"), "{stderr}");
}

#[test]
fn a_core_that_counts_nonsense_does_no_harm() {
    let core = FakeCore::new();
    let nonsense = [f64::NAN, f64::INFINITY];
    {
        let driver = &mut core.state().drivers[0];
        [driver.iops, driver.bytes_per_second] = nonsense;
        (driver.ios, driver.elapsed_ns, driver.deaths[0].time) = (u64::MAX, u64::MAX, u64::MAX);
    }
    let (status, stdout, _) = core.run(&["status"]);
    assert!(status == 0 && stdout.contains("0 IOPS"), "{stdout}");
    assert_eq!(core.json(&["status"]).1[0]["iops"], 0.0);
}

#[test]
fn watching_goes_on_until_nobody_reads() {
    let core = FakeCore::new();
    let mut command = core.command(&["status", "nvme:0", "--watch", "0.02", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.take(3) {
        let value: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(value[0]["name"], "nvme:0");
    }
    // The reader is gone now.
    let (status, _, stderr) = read(&child.wait_with_output().unwrap());
    assert_eq!((status, stderr.as_str()), (0, ""));
    for bad in ["0", "-1", "nan", "1e9"] {
        let (status, _, stderr) = core.run(&["status", &format!("--watch={bad}")]);
        assert!(status == 2 && stderr.contains("--watch"), "{bad}: {stderr}");
    }
}

#[test]
fn restart_tells_how_it_went() {
    let core = FakeCore::new();
    let (status, stdout, stderr) = core.run(&["restart", SERVICE]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let (old, new) = (PID, PID + 1);
    let wanted = format!("nvme:0 is driven by process {new} (uniddrv-nvme) after process {old}");
    assert!(stdout.starts_with(&wanted) && stdout.contains(": adopted (detection"), "{stdout}");
    assert!(core.was_asked(&ToCore::Restart { name: "nvme:0".into() }));
    let (_, value, _) = core.json(&["restart", "nvme:0"]);
    assert_eq!(
        (value["pid"].as_i64(), value["previous_pid"].as_i64()),
        (Some(new as i64 + 1), Some(new as i64))
    );
    assert_eq!(value["succession"]["cause"], "restart");

    core.state().answers.push((
        ToCore::Restart { name: "nvme:0".into() },
        refused(Refusal::Denied, "only root and the user that runs the core (7) may restart"),
    ));
    let (status, stdout, stderr) = core.run(&["restart", "nvme:0"]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("restart nvme:0: only root"), "{stderr}");
}

#[test]
fn upgrade_gives_the_core_a_path_that_it_finds() {
    let core = FakeCore::new();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let program = folder.join("new-driver");
    std::fs::write(&program, "").unwrap();
    let mut command = core.command(&["upgrade", "nvme:0", "--program", "./new-driver"]);
    let (status, stdout, stderr) = read(&command.current_dir(&folder).output().unwrap());
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(stdout.contains("adopted"), "{stdout}");
    let asked = |program: Option<&str>| {
        let program = program.map(str::to_owned);
        core.was_asked(&ToCore::Upgrade { name: "nvme:0".into(), program })
    };
    assert!(asked(program.to_str()));
    assert_eq!(core.run(&["upgrade", "nvme:0"]).0, 0);
    assert!(asked(None));
    let (status, _, stderr) = core.run(&["upgrade", "nvme:0", "--program", "/no/such/file"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("/no/such/file"), "{stderr}");
}

#[test]
fn revoke_names_those_who_lose_it() {
    let core = FakeCore::new();
    let (status, stdout, _) = core.run(&["revoke", SERVICE]);
    assert_eq!((status, stdout.as_str()), (0, "nvme:0/ns1 was taken from client 3\n"));
    let (_, value, _) = core.json(&["revoke", SERVICE, "--client", "3"]);
    assert_eq!(value, json!({"name": SERVICE, "clients": [3]}));
    assert!(core.was_asked(&ToCore::Revoke { name: SERVICE.into(), client: Some(3) }));
    core.state().answers.push((
        ToCore::Revoke { name: SERVICE.into(), client: Some(9) },
        refused(Refusal::NotFound, "client 9 does not hold nvme:0/ns1"),
    ));
    let (status, _, stderr) = core.run(&["revoke", SERVICE, "--client", "9"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("client 9 does not hold"), "{stderr}");
}

#[test]
fn software_devices_are_given_to_the_core_and_taken_back() {
    let core = FakeCore::new();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let address = format!("vfio-user:{}/socket", folder.display());
    let mut command = core.command(&["bind", "vfio-user:./socket"]);
    let (status, stdout, stderr) = read(&command.current_dir(&folder).output().unwrap());
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(stdout, format!("{address}: the core serves it as nvme:1, nvme:1/ns1\n"));
    assert!(core.was_asked(&ToCore::Add { address: address.clone(), driver: None }));
    // Once more changes nothing.
    let (status, value, _) = core.json(&["bind", &address]);
    assert_eq!((status, &value[0]["names"]), (0, &json!(["nvme:1", "nvme:1/ns1"])));
    let adds =
        |asked: &[ToCore]| asked.iter().filter(|it| matches!(it, ToCore::Add { .. })).count();
    assert_eq!(adds(&core.state().asked), 1);

    let (status, stdout, _) = core.run(&["unbind", &address]);
    assert_eq!((status, stdout), (0, format!("the core has let go of {address}\n")));
    // What it does not have is nobody's to give back.
    let (status, _, stderr) = core.run(&["unbind", &address]);
    assert_eq!(status, 1);
    assert!(stderr.contains("software device"), "{stderr}");
    let (status, _, stderr) = core.run(&["bind", "--no-core", &address]);
    assert_eq!(status, 1);
    assert!(stderr.contains("software device"), "{stderr}");
}

#[test]
fn a_device_that_does_not_come_up_says_so() {
    let core = FakeCore::new();
    let question = ToCore::Add { address: "model:nvme".into(), driver: None };
    core.state().answers.push((question, refused(Refusal::Failed, "it did not come up: no space")));
    let (status, stdout, stderr) = core.run(&["bind", "model:nvme"]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("give model:nvme to the core: it did not come up"), "{stderr}");
}

#[test]
fn a_dry_run_mentions_the_core_and_asks_it_nothing() {
    let (core, machine) = (FakeCore::new(), Machine::new());
    let bind = |arguments: &[&str]| {
        let command =
            core.with(machine.command(&[&["bind", "--dry-run", NVME], arguments].concat()));
        let (status, stdout, stderr) = read(&{ command }.output().unwrap());
        assert_eq!(status, 0, "{stderr}");
        stdout
    };
    assert!(bind(&[]).contains(&format!("# the core is asked to serve {NVME}")));
    assert!(!bind(&["--no-core"]).contains("the core"));
    assert!(!core.state().asked.iter().any(|it| matches!(it, ToCore::Add { .. })));
}

#[test]
fn a_device_is_taken_from_the_core_before_linux_gets_it() {
    let (core, machine) = (FakeCore::new(), Machine::new());
    let question = ToCore::Remove { address: NVME.into() };
    let unbind = |arguments: &[&str]| {
        let mut command = core.with(machine.command(&[&["unbind", NVME], arguments].concat()));
        read(&command.output().unwrap())
    };
    // It has it, and does not let go: nothing more is done.
    let answer = |answer| core.state().answers.push((question.clone(), answer));
    answer(refused(Refusal::Failed, "the device does not stop"));
    let (status, _, stderr) = unbind(&[]);
    assert_eq!(status, 1);
    assert!(stderr.contains("the device does not stop"), "{stderr}");
    let asked = core.state().asked.len();
    unbind(&["--no-core"]);
    assert_eq!(core.state().asked.len(), asked);
    // A core that may not be asked is told of, and Linux decides.
    answer(refused(Refusal::Denied, "only root may"));
    let (_, _, stderr) = unbind(&[]);
    assert!(stderr.contains("warning:") && stderr.contains("only root may"), "{stderr}");
    answer(FromCore::Done);
    let (status, _, stderr) = unbind(&[]);
    assert!(core.was_asked(&question));
    // This machine's driver file takes no device, so the rest shows in Linux's part.
    assert!(status == 1 && !stderr.contains("core"), "{stderr}");
}

#[test]
fn identify_shows_the_controller_behind_a_name() {
    let core = FakeCore::new();
    for given in ["nvme:0", SERVICE] {
        let (status, value, stderr) = core.json(&["identify", given]);
        assert_eq!((status, stderr.as_str()), (0, ""));
        assert_eq!((&value["address"], &value["served"]), (&json!(given), &json!(true)));
        assert_eq!(value["transport"], "vfio-user");
        assert_eq!(value["controller"]["model"], "Fake <model>");
        assert_eq!(value["limits"]["io_queues"], Value::Null);
        let namespaces = value["namespaces"].as_array().unwrap();
        assert_eq!(namespaces.len(), 1);
        assert_eq!((&namespaces[0]["nsid"], &namespaces[0]["blocks"]), (&json!(1), &json!(BLOCKS)));
    }
    let (_, text, _) = core.run(&["identify", "nvme:0"]);
    for part in ["nvme:0 (vfio-user, driven by the core)", "Fake <model>", "16 MiB"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn an_identity_that_cannot_be_is_an_error() {
    let core = FakeCore::new();
    for (kind, bytes, says) in [
        ("nvme", vec![0; 4095], "4095 bytes"),
        ("nvme", vec![0; 4096], "4096 bytes"),
        ("tape", vec![], "tape"),
    ] {
        let question = ToCore::Identify { name: "nvme:0".into() };
        core.state().answers.push((question, FromCore::Identity { kind: kind.into(), bytes }));
        let (status, stdout, stderr) = core.run(&["identify", "nvme:0"]);
        assert_eq!((status, stdout.as_str()), (1, ""));
        assert!(stderr.contains(says), "{stderr}");
    }
    let (status, _, stderr) = core.run(&["identify", "nvme:5"]);
    assert!(status == 1 && stderr.contains("nvme:5"), "{stderr}");
    let (status, _, stderr) = core.run(&["smart", "nvme:0"]);
    assert!(status == 2 && stderr.contains("the core drives"), "{stderr}");
}

#[test]
fn bench_measures_through_a_name() {
    let core = FakeCore::new();
    for cores in ["1", "2"] {
        let (status, value, stderr) =
            core.json(&["bench", "nvme:0", "--qd", "3", "--ios", "2000", "--cores", cores]);
        assert_eq!(status, 0, "{stderr}");
        assert_eq!((&value["target"], &value["served"]), (&json!(SERVICE), &json!(true)));
        assert_eq!(
            (&value["transport"], &value["model"]),
            (&json!("vfio-user"), &json!("Fake <model>"))
        );
        assert_eq!(
            (&value["ios"], &value["reads"], &value["errors"]),
            (&json!(2000), &json!(2000), &json!(0))
        );
        let opened = |question: &ToCore| {
            matches!(question,
            ToCore::Open { queues, depth: 4, rights: Rights::Read, .. } if queues.to_string() == cores)
        };
        assert!(core.state().asked.iter().any(opened));
    }
    let (status, value, stderr) = core.json(&[
        "bench",
        SERVICE,
        "--rw",
        "randrw",
        "--verify",
        "--overwrite",
        "--size",
        "1M",
        "--ios",
        "1000",
        "--calibrate",
    ]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!((value["mismatches"].as_u64(), value["served"].as_bool()), (Some(0), Some(true)));
    assert!(value["verified"].as_u64().unwrap() > 0 && value["calibration"]["loop_ns"].is_f64());
}

#[test]
fn what_a_name_holds_is_not_overwritten_unasked() {
    let core = FakeCore::new();
    core.state().disk[..4].copy_from_slice(b"XFSB");
    let before = core.state().disk.clone();
    for extra in [&["--rw", "write"][..], &["--verify"]] {
        let (status, _, stderr) = core.run(&[&["bench", SERVICE], extra].concat());
        assert_eq!(status, 1);
        for part in ["would destroy", SERVICE, "an XFS filesystem", "--overwrite"] {
            assert!(stderr.contains(part), "{part} is missing in {stderr}");
        }
    }
    assert!(core.state().disk == before);
}

#[test]
fn what_cannot_be_measured_by_name_says_why() {
    let core = FakeCore::new();
    core.state().names.push(Name { name: "nvme:0/ns2".into(), ..name(SERVICE, true) });
    for (arguments, status, says) in [
        (&["nvme:9"][..], 1, "nvme:9"),
        (&["nvme:0"], 1, "nvme:0/ns1, nvme:0/ns2"),
        (&["nvme:0", "--namespace", "7"], 1, "no namespace 7"),
        (&[SERVICE, "--qd", "2000"], 2, "1024"),
        (&[SERVICE, "--cores", "17"], 2, "16 queues"),
        (&[SERVICE, "--shadow-doorbells"], 2, "--shadow-doorbells"),
        (&[SERVICE, "--compare", "native"], 2, "Linux has no driver"),
        (&[SERVICE, "--bs", "100"], 1, "--bs 100"),
    ] {
        let (found, stdout, stderr) = core.run(&[&["bench", "--ios", "9"], arguments].concat());
        assert_eq!((found, stdout.as_str()), (status, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_name_that_is_taken_away_ends_the_benchmark() {
    let core = FakeCore::new();
    let mut command = core.command(&["bench", SERVICE, "--time", "60"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let opened = |question: &ToCore| matches!(question, ToCore::Open { .. });
    while !core.state().asked.iter().any(opened) {
        std::thread::yield_now();
    }
    drop(core);
    let (status, _, stderr) = read(&child.wait_with_output().unwrap());
    assert_eq!(status, 1);
    assert!(stderr.contains("the device is gone") && stderr.contains("help: "), "{stderr}");
}
