//! `docs/threat-model.md` names tests: each of them exists.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What the page names as `FILE::TEST`.
fn named(text: &str) -> Vec<(&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once(".rs::")).collect()
}

/// Whether a file has a test of that name.
fn has_test(text: &str, name: &str) -> bool {
    let function = format!("fn {name}(");
    text.match_indices(&function).any(|(at, _)| {
        let before = text[..at].rsplit_once("\n\n").map_or(&text[..at], |(_, last)| last);
        before.contains("#[test]")
    })
}

#[test]
fn every_test_that_the_page_names_exists() {
    let page = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let named = named(&page);
    assert!(named.len() > 50, "{} tests are named", named.len());
    let mut wrong = Vec::new();
    for (file, name) in named {
        let file = format!("{file}.rs");
        let found = ["tests/tests", "."]
            .iter()
            .find_map(|folder| fs::read_to_string(root().join(folder).join(&file)).ok());
        if !found.is_some_and(|text| has_test(&text, name)) {
            wrong.push(format!("{file}::{name}"));
        }
    }
    assert!(wrong.is_empty(), "there are no such tests: {wrong:#?}");
}

#[test]
fn every_line_on_a_danger_names_a_test() {
    let page = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let mut tests = false;
    let mut lines = 0;
    for line in page.lines() {
        if !line.starts_with('|') {
            tests = false;
        } else if line.ends_with("| test |") {
            tests = true;
        } else if tests && !line.starts_with("|---") {
            lines += 1;
            let last = line.trim_end_matches('|').rsplit('|').next().unwrap();
            assert!(!named(last).is_empty(), "no test for: {line}");
        }
    }
    assert!(lines > 40, "{lines} lines");
}

#[test]
fn a_test_that_does_not_exist_is_noticed() {
    let page = "| x | y | `a/b.rs::good`, `a/b.rs::bad` |";
    assert_eq!(named(page), [("a/b", "good"), ("a/b", "bad")]);
    let file =
        "#[test]\nfn good() {}\n\nfn bad() {}\n\n    #[test]\n    #[cfg(x)]\n    fn other() {}";
    assert!(has_test(file, "good") && has_test(file, "other"));
    assert!(!has_test(file, "bad") && !has_test(file, "goo") && !has_test(file, "none"));
}
