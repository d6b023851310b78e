//! `docs/write-a-driver.md`, word for word: its code is the example's, its commands are run,
//! and what they print is what it says.

#![forbid(unsafe_code)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A fenced block: its language and its lines.
struct Block {
    language: String,
    text: String,
}

/// A command of the page, and the lines that it is said to print.
#[derive(Debug, PartialEq)]
struct Step {
    command: String,
    output: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn blocks() -> Vec<Block> {
    let page = fs::read_to_string(repository().join("docs/write-a-driver.md")).unwrap();
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let inside = lines.by_ref().take_while(|line| *line != "```");
            let text = inside.flat_map(|line| [line, "\n"]).collect();
            blocks.push(Block { language: language.to_owned(), text });
        }
    }
    blocks
}

/// Splits a transcript: `$ ` starts a command, a quote that is open continues it, and the rest
/// is what it prints.
fn steps(transcript: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in transcript.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), output: String::new() });
            continue;
        }
        let step = steps.last_mut().expect("a transcript starts with a command");
        let open = !step.command.matches('\'').count().is_multiple_of(2);
        let place = if open { &mut step.command } else { &mut step.output };
        place.push_str(if open { "\n" } else { "" });
        place.push_str(line);
        place.push_str(if open { "" } else { "\n" });
    }
    steps
}

/// After `cargo new`: what the reader puts into the new crate, and a folder for what cargo
/// builds of it that outlives this test.
const WRITE_PROGRAM: &str =
    "cp \"$PROGRAM\" \"$CRATE/src/main.rs\" && ln -s \"$BUILD\" \"$CRATE/target\"";

#[test]
fn the_code_is_the_examples() {
    let blocks = blocks();
    let code = blocks.iter().filter(|block| block.language == "rust");
    let code = code.map(|block| block.text.as_str()).collect::<Vec<_>>().join("\n");
    let example = repository().join("uniddrv/sdk/examples/edu.rs");
    let example = fs::read_to_string(example).unwrap();
    assert_eq!(code, example);
    let driver = example.split("#[cfg(test)]").next().unwrap().trim_end();
    assert!(driver.lines().count() < 150, "{} lines", driver.lines().count());
}

#[test]
fn the_program_for_a_core_is_the_examples() {
    let blocks = blocks();
    let program = blocks.iter().find(|block| block.language == "rust,program").unwrap();
    let example = fs::read_to_string(repository().join("uniddrv/sdk/examples/served.rs")).unwrap();
    assert_eq!(program.text, example);
}

#[test]
fn the_commands_print_what_it_says() {
    let can_boot = can_boot();
    let mut steps: Vec<Step> =
        blocks().iter().filter(|one| one.language == "console").flat_map(transcript).collect();
    let boots = |step: &Step| step.command.contains("xtask vm");
    assert_eq!(steps.iter().filter(|step| boots(step)).count(), 2);
    steps.retain(|step| can_boot || !boots(step));

    // The crate beside the clone is made elsewhere: this test leaves nothing behind there.
    let place = tempfile::tempdir().unwrap();
    let new_crate = place.path().join("edu-driver");
    let build = Path::new(env!("CARGO_TARGET_TMPDIR")).join("edu-driver");
    fs::create_dir_all(&build).unwrap();
    let mut written = false;
    let mut script = vec!["exec 2>&1".to_owned()];
    for (index, Step { command, .. }) in steps.iter().enumerate() {
        let command = command
            .replace("../edu-driver", new_crate.to_str().unwrap())
            .replace("../uniddrv", repository().to_str().unwrap());
        script.extend([format!("echo '@@{index}'"), command, "echo \"@@$?\"".to_owned()]);
        if script.iter().any(|line| line.starts_with("cargo new")) && !written {
            script.push(WRITE_PROGRAM.to_owned());
            written = true;
        }
    }
    let output = Command::new("sh")
        .args(["-c", &script.join("\n")])
        .current_dir(repository())
        .env("PROGRAM", repository().join("uniddrv/sdk/examples/edu.rs"))
        .env("CRATE", &new_crate)
        .env("BUILD", &build)
        // The page names programs by the folder that cargo puts them in of itself.
        .env_remove("CARGO_TARGET_DIR")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    for (index, Step { command, output: expected }) in steps.iter().enumerate() {
        let (_, rest) = output.split_once(&format!("@@{index}\n")).unwrap();
        let (printed, rest) = rest.split_once("@@").unwrap();
        let status: i32 = rest.lines().next().unwrap().parse().unwrap();
        let fails = expected.lines().any(|line| line.starts_with("error: "));
        assert_eq!(status != 0, fails, "`{command}` ended with {status}:\n{printed}");
        assert!(expected.is_empty() || printed == expected, "`{command}` printed:\n{printed}");
        if command.contains("uniddrv bind") {
            let all = blocks();
            let text = all.iter().find(|block| block.language == "text").unwrap();
            assert!(printed.contains(&text.text), "`{command}` printed:\n{printed}");
        }
    }
}

fn transcript(block: &Block) -> Vec<Step> {
    steps(&block.text)
}

/// Whether this machine can boot the virtual machine; says it where not.
fn can_boot() -> bool {
    let check = Command::new(env!("CARGO"))
        .args(["xtask", "vm", "--check"])
        .current_dir(repository())
        .output()
        .unwrap();
    if !check.status.success() {
        let reason = String::from_utf8_lossy(&check.stderr).into_owned();
        let notice = format!("skipped in part, no virtual machine: {}\n", reason.trim());
        std::io::stderr().write_all(notice.as_bytes()).unwrap();
    }
    check.status.success()
}

#[test]
fn a_transcript_is_split_into_commands_and_output() {
    let found = steps("$ a\n1\n2\n$ b 'c\n  d'\n3\n$ e\n");
    let step =
        |command: &str, output: &str| Step { command: command.into(), output: output.into() };
    assert_eq!(found, [step("a", "1\n2\n"), step("b 'c\n  d'", "3\n"), step("e", "")]);
}
