//! Usage, exit statuses, scripts and pages of the `uniddrv` command.

use std::process::Stdio;

use crate::support::{Machine, run, uniddrv};

#[test]
fn wrong_usage_is_exit_status_2() {
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["list", "--no-such-option"],
        &["bind"],
        &["unbind"],
        &["unbind", "03:00.0", "04:00.0"],
        &["completions"],
        &["completions", "no-such-shell"],
        &["bind", "0000:03:00"],
        &["bind", "a/b"],
        &["unbind", ""],
    ] {
        let (status, stdout, stderr) = run(arguments);
        assert_eq!(status, 2, "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert!(!stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    let (status, stdout, stderr) = run(&["--version"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(stdout, format!("uniddrv {}\n", env!("CARGO_PKG_VERSION")));
    let (status, stdout, _) = run(&["--help"]);
    assert_eq!(status, 0);
    for word in ["list", "bind", "unbind", "doctor", "completions", "man", "--json"] {
        assert!(stdout.contains(word), "{word}");
    }
    assert!(!stdout.contains("--root"), "the option for tests shows");
}

#[test]
fn every_shell_gets_a_script_that_knows_the_subcommands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (status, stdout, stderr) = run(&["completions", shell]);
        assert_eq!((status, stderr.as_str()), (0, ""), "{shell}");
        for word in
            ["unbind", "doctor", "persist", "status", "restart", "upgrade", "revoke", "no-core"]
        {
            assert!(stdout.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn a_script_that_bash_accepts() {
    let script = uniddrv().args(["completions", "bash"]).output().unwrap().stdout;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("uniddrv.bash");
    std::fs::write(&path, script).unwrap();
    let checked = std::process::Command::new("bash").arg("-n").arg(&path).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn manual_pages_are_printed_and_written() {
    let (status, stdout, _) = run(&["man"]);
    assert_eq!(status, 0);
    assert!(stdout.contains(".TH uniddrv 1"));
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new/man1");
    let (status, stdout, stderr) = run(&["man", "--output", target.to_str().unwrap()]);
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "", ""));
    let commands = ["list", "bind", "unbind", "doctor", "ls", "status", "restart", "revoke"];
    let pages = commands.map(|command| format!("uniddrv-{command}"));
    for page in pages.into_iter().chain([
        "uniddrv".into(),
        "uniddrv-upgrade".into(),
        "uniddrv-torture".into(),
    ]) {
        let text = std::fs::read_to_string(target.join(format!("{page}.1"))).unwrap();
        assert!(text.contains(&format!(".TH {page} 1")), "{page}");
        assert!(!text.contains("\\-\\-root"), "{page}");
    }
    // A file stands where the folder should be.
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (status, _, stderr) = run(&["man", "--output", file.to_str().unwrap()]);
    assert_eq!(status, 1);
    assert!(stderr.starts_with("error: cannot create the folder"), "{stderr}");
}

#[test]
fn colours_are_for_terminals_only() {
    let machine = Machine::new();
    let plain = machine.command(&["doctor"]).output().unwrap().stdout;
    assert!(!plain.contains(&0x1b));
    let forced = machine.command(&["doctor"]).env("CLICOLOR_FORCE", "1").output().unwrap().stdout;
    assert!(forced.contains(&0x1b));
    let both = machine
        .command(&["doctor"])
        .env("CLICOLOR_FORCE", "1")
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(!both.stdout.contains(&0x1b));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = uniddrv()
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"");
}

#[test]
fn a_full_disk_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = uniddrv().args(["completions", "zsh"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: cannot write to standard output: "), "{stderr}");
}
