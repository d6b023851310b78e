//! Interrupts that go elsewhere: `/proc/irq`. Linux's Documentation/core-api/irq/irq-affinity.rst.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::kernel::Kernel;
use crate::cpus::Cpus;

/// The CPUs of an interrupt before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) original: Cpus,
    pub(super) moved: Cpus,
}

/// What is to be moved, or was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interrupts {
    /// For interrupts that are yet to come.
    pub(super) default: Option<Move>,
    /// By number.
    pub(super) each: Vec<(u32, Move)>,
}

/// Interrupts that stayed on the CPUs that they were to leave.
#[derive(Debug, Default)]
pub(super) struct Stayed {
    pub(super) numbers: Vec<u32>,
    pub(super) error: Option<io::Error>,
}

impl Interrupts {
    /// What must be moved for no interrupt to meet `cpus`.
    pub(super) fn plan(root: &Path, cpus: &Cpus, online: &Cpus) -> Self {
        let others = online.without(cpus);
        let away = |original: Cpus| {
            if original.common(cpus).is_empty() || others.is_empty() {
                return None;
            }
            let rest = original.without(cpus);
            let moved = if rest.is_empty() { others.clone() } else { rest };
            Some(Move { original, moved })
        };
        let default = read_default(root).and_then(away);
        let mut numbers: Vec<u32> = fs::read_dir(root.join("proc/irq"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let each = numbers
            .into_iter()
            .filter(|&number| is_used(root, number))
            .filter_map(|number| Some((number, away(read(root, number)?)?)))
            .collect();
        Self { default, each }
    }

    /// Moves them. Those that could not be moved, and get through to `cpus`.
    pub(super) fn apply(&self, root: &Path, cpus: &Cpus, kernel: &mut dyn Kernel) -> Stayed {
        let mut stayed = Stayed::default();
        if let Some(default) = &self.default
            && let Err(error) = kernel.write(&default_path(root), &default.moved.to_mask())
        {
            stayed.error = Some(error);
        }
        for (number, affinity) in &self.each {
            let written = kernel.write(&path(root, *number), &affinity.moved.to_string());
            if let Err(error) = written
                && error.kind() != io::ErrorKind::NotFound
                && !effective(root, *number).common(cpus).is_empty()
            {
                stayed.numbers.push(*number);
                stayed.error = Some(error);
            }
        }
        stayed
    }

    /// Moves them back. What somebody else has set in the meantime keeps its other CPUs.
    pub(super) fn undo(&self, root: &Path, kernel: &mut dyn Kernel) -> io::Result<()> {
        let mut result = Ok(());
        let back = |affinity: &Move, current: Cpus| {
            if current == affinity.original {
                None
            } else if current == affinity.moved {
                Some(affinity.original.clone())
            } else {
                Some(current.union(&affinity.original.without(&affinity.moved)))
            }
        };
        if let Some(default) = &self.default
            && let Some(cpus) = read_default(root).and_then(|current| back(default, current))
        {
            result = kernel.write(&default_path(root), &cpus.to_mask());
        }
        for (number, affinity) in &self.each {
            // An interrupt that is gone, or that never could be moved, needs nothing.
            if let Some(cpus) = read(root, *number).and_then(|current| back(affinity, current)) {
                let written = kernel.write(&path(root, *number), &cpus.to_string());
                if let Err(error) = written
                    && error.kind() != io::ErrorKind::NotFound
                {
                    result = Err(error);
                }
            }
        }
        result
    }
}

fn path(root: &Path, number: u32) -> PathBuf {
    root.join(format!("proc/irq/{number}/smp_affinity_list"))
}

fn default_path(root: &Path) -> PathBuf {
    root.join("proc/irq/default_smp_affinity")
}

fn read(root: &Path, number: u32) -> Option<Cpus> {
    fs::read_to_string(path(root, number)).ok()?.parse().ok()
}

fn read_default(root: &Path) -> Option<Cpus> {
    Cpus::from_mask(&fs::read_to_string(default_path(root)).ok()?).ok()
}

/// Where the interrupt is really delivered; where it may be, if Linux does not say.
fn effective(root: &Path, number: u32) -> Cpus {
    let text = fs::read_to_string(root.join(format!("proc/irq/{number}/effective_affinity_list")));
    let cpus = text.ok().and_then(|text| text.parse::<Cpus>().ok());
    cpus.filter(|cpus| !cpus.is_empty()).or_else(|| read(root, number)).unwrap_or_default()
}

/// Whether a driver has asked for it: each has a folder there. The others get the default
/// affinity when one asks.
fn is_used(root: &Path, number: u32) -> bool {
    let entries = fs::read_dir(root.join(format!("proc/irq/{number}")));
    entries.into_iter().flatten().flatten().any(|entry| entry.path().is_dir())
}
