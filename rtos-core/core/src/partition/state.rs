//! What is to be put back, in a file beside the core's socket: it outlives a core that is killed.

use std::fmt::Write as _;

use super::cgroup::is_group_name;
use super::interrupts::{Interrupts, Move};
use crate::cpus::Cpus;

/// The first line. Another one is another version's.
const HEADER: &str = "uniddrv partition 1";

/// The most bytes of the file that are read.
pub(super) const MOST: u64 = 1 << 20;

/// What the partition changes. Written before anything is changed, so it may name what was not
/// changed yet: putting back what is unchanged changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The boot it is true for: after another one there is nothing to put back.
    pub(super) boot: String,
    /// The control group.
    pub(super) group: Option<String>,
    /// Whether `cpuset` was handed on to the top group's children for it.
    pub(super) enabled: bool,
    pub(super) interrupts: Interrupts,
}

impl State {
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\nboot {}\n", self.boot);
        // Writing to a string cannot fail.
        if let Some(group) = &self.group {
            let _ = writeln!(text, "group {group}");
        }
        if self.enabled {
            text.push_str("enabled cpuset\n");
        }
        if let Some(Move { original, moved }) = &self.interrupts.default {
            let _ = writeln!(text, "default {original} {moved}");
        }
        for (number, Move { original, moved }) in &self.interrupts.each {
            let _ = writeln!(text, "irq {number} {original} {moved}");
        }
        text
    }

    /// `None` for what is none: it was cut short, or another version wrote it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.lines();
        if lines.next() != Some(HEADER) {
            return None;
        }
        let mut state = Self::default();
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            match *words.as_slice() {
                ["boot", boot] => boot.clone_into(&mut state.boot),
                // A name and nothing else: what it names will be removed.
                ["group", group] if is_group_name(group) => state.group = Some(group.to_owned()),
                ["enabled", "cpuset"] => state.enabled = true,
                ["default", original, moved] => {
                    state.interrupts.default = Some(affinity(original, moved)?);
                }
                ["irq", number, original, moved] => {
                    let number = number.parse().ok()?;
                    state.interrupts.each.push((number, affinity(original, moved)?));
                }
                _ => return None,
            }
        }
        Some(state)
    }
}

fn affinity(original: &str, moved: &str) -> Option<Move> {
    let set = |text: &str| text.parse::<Cpus>().ok().filter(|cpus| !cpus.is_empty());
    Some(Move { original: set(original)?, moved: set(moved)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> State {
        let affinity = |original: &str, moved: &str| Move {
            original: original.parse().unwrap(),
            moved: moved.parse().unwrap(),
        };
        State {
            boot: "1-2-3".into(),
            group: Some("uniddrv-77".into()),
            enabled: true,
            interrupts: Interrupts {
                default: Some(affinity("0-3", "0-1")),
                each: vec![(9, affinity("2", "0,3")), (24, affinity("0-3", "0-1"))],
            },
        }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        for state in [full(), State { boot: "x".into(), ..State::default() }] {
            assert_eq!(State::parse(&state.to_text()), Some(state));
        }
    }

    #[test]
    fn what_is_none_is_not_believed() {
        let text = full().to_text();
        for cut in 0..text.len() {
            // Whole lines may be missing at the end only if the file ends there; a renamed file
            // is whole.
            if !text[..cut].ends_with('\n') {
                assert_eq!(State::parse(&text[..cut]), None, "{cut}");
            }
        }
        for line in [
            "group ../etc",
            "group uniddrv-",
            "group uniddrv-1/../x",
            "group system.slice",
            "irq x 1 2",
            "irq 1 1",
            "irq 1  2",
            "irq 1 x 2",
            "default 1",
            "more",
        ] {
            assert_eq!(State::parse(&format!("{HEADER}\n{line}\n")), None, "{line:?}");
        }
        assert_eq!(State::parse("uniddrv partition 2\nboot x\n"), None);
    }
}
