//! A core that drives QEMU's controller over VFIO: taken from Linux, used, its driver killed, and
//! given back.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use super::{DATA, assert_with_linux, driver, guest, read, run, signal};

const SERVICE: &str = "nvme:0/ns1";

/// `uniddrv core`, without a device yet.
fn core() -> Child {
    let program = Path::new(env!("CARGO_BIN_EXE_uniddrv"));
    let nvme = program.with_file_name("uniddrv-nvme");
    assert!(nvme.exists(), "{} has to be built: cargo build -p storage-poll", nvme.display());
    let mut command = Command::new(program);
    command.arg("core").env("UNIDDRV_LOG", "error").stdout(Stdio::piped());
    let mut core = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(core.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready on /run/uniddrv/core.sock"), "{line}");
    core
}

fn json(arguments: &[&str]) -> Value {
    let (status, stdout, stderr) = run(&[arguments, &["--json"]].concat());
    assert_eq!(status, Some(0), "{arguments:?}: {stderr}\n{stdout}");
    serde_json::from_str(&stdout).unwrap()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} in {value:#}"))
}

#[test]
fn a_device_is_given_to_the_core_tortured_and_given_back_to_linux() {
    let Some(_turn) = guest() else { return };
    let core = core();
    let value = json(&["bind", DATA]);
    let names: Vec<_> = value[0]["names"].as_array().unwrap().iter().collect();
    assert_eq!(names, ["disk:0", "disk:1", "nvme:0", "nvme:0/ns1", "nvme:0/ns2"]);
    assert_eq!(driver(DATA).as_deref(), Some("vfio-pci"));

    let value = json(&["identify", "nvme:0"]);
    assert_eq!((&value["transport"], &value["served"]), (&"vfio".into(), &true.into()));
    assert_eq!(value["controller"]["serial"], "uniddrv-data");
    assert_eq!(value["namespaces"][1]["block_size"], 4096);

    let arguments = ["--rw", "randrw", "--verify", "--overwrite", "--size", "16M", "--ios", "3000"];
    for name in [SERVICE, "disk:1"] {
        let value = json(&[&["bench", name, "--qd", "8"], &arguments[..]].concat());
        assert_eq!((number(&value, "ios"), number(&value, "mismatches")), (3000, 0));
    }

    let value = json(&[
        "torture",
        SERVICE,
        "--yes",
        "--seconds",
        "60",
        "--kills-per-second",
        "1",
        "--size",
        "16M",
        "--harm",
        "kill=3,fault,abort",
        "--qd",
        "32",
    ]);
    for key in ["lost", "duplicated", "corrupted", "errors", "resets"] {
        assert_eq!(number(&value, key), 0, "{value:#}");
    }
    assert!(number(&value, "kills") >= 20 && number(&value, "adoptions") >= 20, "{value:#}");

    let value = json(&["restart", "nvme:0"]);
    assert_eq!(value["succession"]["recovery"], "adopted", "{value:#}");

    let value = json(&["unbind", DATA]);
    assert_eq!((&value["driver"], &value["from_core"]), (&"nvme".into(), &true.into()));
    assert_with_linux(DATA);
    assert_eq!(json(&["ls"]), serde_json::json!([]));
    signal(&core, Signal::INT);
    let (status, _, stderr) = read(&core.wait_with_output().unwrap());
    assert_eq!(status, Some(0), "{stderr}");
}
