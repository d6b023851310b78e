//! What `cargo test` prints: counted, and told of in a line a program unless it fails.

use std::collections::VecDeque;

/// Lines told of what was printed before a test failed: by its own processes, mostly.
const CONTEXT: usize = 40;

/// Tests that passed and failed so far.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// All there is to say about those that failed.
    pub(crate) failures: String,
}

/// Reads the output of one `cargo test`, line by line.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    /// Cargo's line about the test program that runs; nothing while cargo still builds.
    program: Option<String>,
    /// Its tests have begun and not ended.
    running: bool,
    /// The last lines, none of them about a failure yet.
    recent: VecDeque<String>,
    /// What is to be said about the program's failures.
    failures: Vec<String>,
    /// Its list of failures has begun: everything matters until it ends.
    listing: bool,
}

impl Digest {
    /// What is to be printed of a line and what came before it.
    pub(crate) fn line(&mut self, line: &str, tally: &mut Tally) -> Option<String> {
        let line = line.trim_end();
        if line.starts_with("     Running ") || line.starts_with("   Doc-tests ") {
            self.end(tally);
            self.program = Some(line.trim_start().to_owned());
            return None;
        }
        let Some(program) = &self.program else { return Some(line.to_owned()) };
        self.running |=
            line.starts_with("running ") && (line.ends_with(" test") || line.ends_with(" tests"));
        // Processes that print at the same time may have begun the line.
        let result = line.find("test result: ").map(|start| &line[start..]);
        if let Some(result) = result {
            let told = format!("{program}: {result}");
            tally.add(result);
            self.running = false;
            self.conclude(tally);
            return Some(told);
        }
        if line.ends_with("... FAILED") {
            self.failures.extend(self.recent.drain(..));
            self.failures.push(line.to_owned());
            return Some(line.to_owned());
        }
        self.listing |= line == "failures:";
        if self.listing {
            self.failures.push(line.to_owned());
        } else {
            if self.recent.len() == CONTEXT {
                self.recent.pop_front();
            }
            self.recent.push_back(line.to_owned());
        }
        None
    }

    /// The program's output is at an end. One that stopped amid its tests is a failure.
    pub(crate) fn end(&mut self, tally: &mut Tally) {
        if self.running {
            self.running = false;
            tally.failed += 1;
            self.failures.extend(self.recent.drain(..));
            self.failures.push("it ended amid its tests".to_owned());
        }
        self.conclude(tally);
    }

    fn conclude(&mut self, tally: &mut Tally) {
        if let Some(program) = &self.program
            && !self.failures.is_empty()
        {
            tally.failures.extend(["\n-- ", program, "\n"]);
            tally.failures.extend(self.failures.drain(..).map(|line| line + "\n"));
        }
        self.recent.clear();
        self.listing = false;
    }
}

impl Tally {
    /// Takes note of `test result: ok. 5 passed; 0 failed; 0 ignored; ...`.
    fn add(&mut self, result: &str) {
        let Some((_, counts)) = result.split_once(". ") else { return };
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(output: &str) -> (Tally, Vec<String>) {
        let (mut tally, mut digest) = (Tally::default(), Digest::default());
        let told = output.lines().filter_map(|line| digest.line(line, &mut tally)).collect();
        digest.end(&mut tally);
        (tally, told)
    }

    #[test]
    fn a_program_that_passes_is_a_line() {
        let (tally, told) = digest(
            "   Compiling a v0.1.0\n     Running tests/a.rs (a-0123)\n\nrunning 2 tests\nnoise\n\
             test one ... ok\ntest two ... ok\n\n\
             noise test result: ok. 2 passed; 0 failed; 0 ignored\n\
             \x20  Doc-tests a\n\nrunning 1 test\ntest src/lib.rs - (line 1) ... ok\n\n\
             test result: ok. 1 passed; 0 failed; 0 ignored\n",
        );
        assert_eq!(tally, Tally { passed: 3, ..Tally::default() });
        assert_eq!(
            told,
            [
                "   Compiling a v0.1.0",
                "Running tests/a.rs (a-0123): test result: ok. 2 passed; 0 failed; 0 ignored",
                "Doc-tests a: test result: ok. 1 passed; 0 failed; 0 ignored",
            ]
        );
    }

    #[test]
    fn all_about_a_failure_is_told_at_the_end() {
        let (tally, told) = digest(
            "     Running tests/a.rs (a-0123)\n\nrunning 2 tests\na word before\n\
             test one ... FAILED\ntest two ... ok\n\nfailures:\n\n---- one stdout ----\n\
             panicked at here\n\nfailures:\n    one\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored\nerror: 1 target failed:\n",
        );
        assert_eq!((tally.passed, tally.failed), (1, 1));
        assert_eq!(told[0], "test one ... FAILED");
        for part in ["-- Running tests/a.rs", "a word before", "one ... FAILED", "at here"] {
            assert!(tally.failures.contains(part), "{part} is not in {}", tally.failures);
        }
        assert!(!tally.failures.contains("two ... ok"));
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        for next in ["", "     Running tests/b.rs (b-0123)\n"] {
            let output = "     Running tests/a.rs (a-0123)\n\nrunning 2 tests\nlast words\n";
            let (tally, _) = digest(&format!("{output}{next}"));
            assert_eq!((tally.passed, tally.failed), (0, 1));
            assert!(tally.failures.contains("last words\nit ended amid its tests"));
        }
    }
}
