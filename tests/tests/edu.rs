//! The example driver, as a process of its own, on the edu model behind a vfio-user socket.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use uniddrv_models::Edu;
use uniddrv_models::edu::Fault;
use uniddrv_models::vfio_user::Server;

/// The example, built now.
fn example() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--package", "uniddrv", "--example", "edu", "--message-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).unwrap();
    let programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        message["executable"].as_str().map(PathBuf::from)
    });
    programs.collect::<Vec<_>>().pop().expect("cargo names the program")
}

/// Whether it succeeded, and what it printed and complained about.
fn run(example: &Path, address: &str) -> (bool, String) {
    let output = Command::new(example).arg(address).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn the_driver_reaches_the_model_over_a_socket() {
    let example = example();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edu.sock");
    let address = format!("vfio-user:{}", path.display());
    for (fault, end) in [
        (None, "2048 bytes came back from it as they were\n"),
        (Some(Fault::Data), "error: the data came back changed\n"),
        (Some(Fault::Dma), "error: a transfer took longer than 2s\n"),
    ] {
        let server = Server::bind(&path).unwrap();
        let stop = AtomicBool::new(false);
        // One client after another, each of which finds the device as after a reset.
        let runs = thread::scope(|scope| {
            let serving = scope.spawn(|| server.run(&mut Edu::new(fault), &stop));
            let runs = [run(&example, &address), run(&example, &address)];
            stop.store(true, Ordering::Relaxed);
            serving.join().unwrap().unwrap();
            runs
        });
        for run in runs {
            let expected = format!("10! is 3628800, says {address}\n{end}");
            assert_eq!(run, (fault.is_none(), expected));
        }
    }
    let (success, text) = run(&example, &address);
    assert!(!success && text.contains(&address), "{text}");
}
