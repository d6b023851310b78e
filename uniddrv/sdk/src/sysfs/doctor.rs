//! What a machine lacks for drivers in user space, and the command that mends
//! each: first what VFIO needs, then what makes it fast.

mod boot;
mod speed;
mod vfio;

use super::Sysfs;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing to do.
    Ok,
    /// It works, and could be faster or more convenient.
    Advice,
    /// Devices cannot be taken without it.
    Missing,
}

impl State {
    /// As one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Advice => "advice",
            Self::Missing => "missing",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub found: String,
    /// The command that mends it, or what to do where no command can.
    pub mend: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), mend: None }
    }

    fn advice(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, state: State::Advice, found: found.into(), mend: Some(mend.into()) }
    }

    fn missing(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, state: State::Missing, found: found.into(), mend: Some(mend.into()) }
    }
}

impl Sysfs {
    /// Looks at all that drivers in user space need. Changes nothing.
    pub fn doctor(&self) -> Vec<Check> {
        vec![
            self.check_iommu(),
            self.check_vfio_pci(),
            self.check_vfio_device(),
            self.check_locked_memory(),
            self.check_huge_pages(),
            self.check_isolated_cores(),
            self.check_governor(),
            self.check_fio(),
        ]
    }
}

#[cfg(test)]
#[path = "doctor/tests.rs"]
mod tests;
