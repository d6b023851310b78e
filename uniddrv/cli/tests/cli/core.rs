//! `uniddrv core check`.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::Machine;

/// A machine of four CPUs with users and a folder of drivers.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("sys/devices/system/cpu/online", "0-3\n");
    machine.write("proc/self/status", "Cpus_allowed_list:\t0-3\n");
    machine.write("etc/passwd", "root:x:0:0:::\nann:x:1000:100:::\n");
    machine.write("etc/group", "disk:x:6:\n");
    let drivers = machine.path("drivers");
    fs::create_dir(&drivers).unwrap();
    // Any static program will do.
    fs::copy(env!("CARGO_BIN_EXE_uniddrv"), drivers.join("uniddrv-nvme")).unwrap();
    machine
}

/// A configuration file with the machine's folder of drivers in its third line.
fn configuration(machine: &Machine, text: &str) -> PathBuf {
    let path = machine.path("core.toml");
    let drivers = machine.path("drivers");
    let text = format!("[core]\ncpu = 0\ndrivers = \"{}\"\n{text}", drivers.display());
    fs::write(&path, text).unwrap();
    path
}

const GOOD: &str = r#"
[[device]]
address = "0000:03:00.0"
name = "nvme:0"
cpu = 2

[[device]]
address = "model:nvme?size=1G"
idle = "poll"

[[allow]]
name = "nvme:0/*"
user = "ann"
rights = "write"
iops = 1000

[[allow]]
name = "nvme:*"
group = "disk"
rights = "read"
"#;

#[test]
fn a_good_configuration_shows_what_would_run_where() {
    let machine = machine();
    let path = configuration(&machine, GOOD);
    let path = path.to_str().unwrap();
    let (status, stdout, stderr) = machine.run(&["core", "check", "--config", path]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    for line in [
        "core.toml: nothing is wrong",
        "the core runs on CPU 0",
        "nvme:0    0000:03:00.0        nvme    2    sleep  4M",
        "numbered  model:nvme?size=1G  nvme    any  poll   4M",
        "nvme:0/*  user ann    write   1000 IOPS",
        "nvme:*    group disk  read",
    ] {
        assert!(stdout.contains(line), "{line:?} is not in:\n{stdout}");
    }
    let (status, stdout, _) = machine.run(&["core", "--config", path, "check", "--json"]);
    assert_eq!(status, 0);
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["devices"][0]["cpu"], 2);
    assert_eq!(json["allow"][0]["who"], "user ann");
}

#[test]
fn every_error_is_told_with_its_place() {
    let machine = machine();
    let path = configuration(
        &machine,
        "[[device]]\naddress = \"model:nvme?sizes=1\"\ncpu = 9\n[[allow]]\nname = \"*\"\nuser = \"eve\"\nrights = \"read\"\n",
    );
    let path = path.to_str().unwrap();
    let (status, stdout, stderr) = machine.run(&["core", "check", "--config", path]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 4, "{stderr}");
    assert!(lines[0].starts_with(&format!("{path}:5:11: `\"model:nvme?sizes=1\"`: ")), "{stderr}");
    assert!(lines[0].contains("no parameter `sizes`"), "{stderr}");
    assert_eq!(lines[1], format!("{path}:6:7: `9`: there is no such CPU; this machine has 0-3"));
    assert!(lines[2].starts_with(&format!("{path}:9:8: `\"eve\"`: there is no such user")));
    assert_eq!(lines[3], format!("error: 3 errors in {path}"));

    let (status, stdout, _) = machine.run(&["core", "check", "--json", "--config", path]);
    assert_eq!(status, 1);
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(json["ok"], false);
    assert_eq!((&json["errors"][1]["line"], &json["errors"][1]["column"]), (&6.into(), &7.into()));
}

#[test]
fn a_driver_that_is_no_program_is_an_error() {
    let machine = machine();
    let path = configuration(&machine, GOOD);
    let path = path.to_str().unwrap();
    fs::write(machine.path("drivers/uniddrv-nvme"), "#!/bin/sh\n").unwrap();
    let (status, _, stderr) = machine.run(&["core", "check", "--config", path]);
    assert_eq!(status, 1, "{stderr}");
    assert!(stderr.contains("core.toml:5:1: the program "), "{stderr}");
    fs::remove_file(machine.path("drivers/uniddrv-nvme")).unwrap();
    let (status, _, stderr) = machine.run(&["core", "check", "--config", path]);
    assert_eq!(status, 1, "{stderr}");
    assert!(stderr.contains("cannot read the program "), "{stderr}");
    assert!(stderr.contains("error: 1 error in "), "told once for two devices: {stderr}");
}

#[test]
fn a_device_without_a_driver_is_an_error() {
    let machine = machine();
    let path = configuration(&machine, "[[device]]\naddress = \"0000:04:00.0\"\n");
    let path = path.to_str().unwrap();
    let (status, _, stderr) = machine.run(&["core", "check", "--config", path]);
    assert_eq!(status, 1, "{stderr}");
    assert!(
        stderr.contains("core.toml:4:1: 0000:04:00.0: no driver is known for Ethernet; name one"),
        "{stderr}"
    );
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    let machine = machine();
    let path = configuration(
        &machine,
        "[[device]]\naddress = \"0000:77:00.0\"\ndriver = \"nvme\"\ncpu = 0\nidle = \"poll\"\n",
    );
    let (status, stdout, stderr) =
        machine.run(&["core", "check", "--config", path.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("nothing is wrong"), "{stdout}");
    assert!(stderr.contains("core.toml:7:7: `0`: the core itself runs on CPU 0"), "{stderr}");
    assert!(stderr.contains("0000:77:00.0"), "there is no such device: {stderr}");
}

#[test]
fn without_a_file_the_defaults_hold() {
    let machine = machine();
    let folder = machine.path("home");
    let mut command = machine.command(&["core", "check"]);
    let output = command.env("XDG_CONFIG_HOME", &folder).output().unwrap();
    assert!(output.status.success());
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.starts_with("no configuration, so the defaults hold: nothing"), "{stdout}");
    let (status, _, stderr) = machine.run(&["core", "check", "--config", "/nowhere/core.toml"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("cannot read the configuration /nowhere/core.toml"), "{stderr}");
}

/// A file of the folder `packaging`.
fn packaged(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(name)
}

#[test]
fn the_example_is_good_as_it_is_and_with_every_setting_in_use() {
    let machine = machine();
    let path = packaged("core.toml");
    let (status, stdout, stderr) =
        machine.run(&["core", "check", "--config", path.to_str().unwrap()]);
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");

    let text = fs::read_to_string(&path).unwrap();
    let used = text.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting,
        _ => line,
    });
    let used: Vec<_> = used.collect();
    let drivers = machine.path("drivers");
    let used = used.join("\n").replace("/usr/lib/uniddrv", drivers.to_str().unwrap());
    let path = machine.path("used.toml");
    fs::write(&path, used).unwrap();
    let (status, stdout, stderr) =
        machine.run(&["core", "check", "--config", path.to_str().unwrap()]);
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.contains("256 in flight, 100000 IOPS, 1G/s, 4 queues, 256M of memory"));
}

#[test]
fn the_unit_runs_what_there_is() {
    let unit = fs::read_to_string(packaged("uniddrv-core.service")).unwrap();
    let setting = |key: &str| {
        let lines: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix(key)).collect();
        assert_eq!(lines.len(), 1, "{key}");
        lines[0].to_owned()
    };
    assert_eq!(setting("Type="), "notify");
    let command = setting("ExecStart=");
    let mut words = command.split(' ');
    assert!(words.next().unwrap().ends_with("/uniddrv"));
    let arguments: Vec<_> = words.chain(["--help"]).collect();
    let (status, _, stderr) = crate::support::run(&arguments);
    assert_eq!((status, stderr.as_str()), (0, ""), "{command}");
    // The folder of the socket, where root's core listens.
    assert_eq!(format!("/run/{}", setting("RuntimeDirectory=")), "/run/uniddrv");
    for line in unit.lines() {
        let fine = line.is_empty() || line.starts_with(['#', '[']) || line.contains('=');
        assert!(fine, "{line}");
    }
}
