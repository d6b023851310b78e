//! What could not be had.

use std::fmt;

/// Something that the core does without: said once, with what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// What is missing, and what that means.
    pub what: String,
    /// Why.
    pub why: String,
    /// What the user can do.
    pub mend: String,
}

impl Shortfall {
    pub(super) fn new(
        what: impl Into<String>,
        why: impl fmt::Display,
        mend: impl Into<String>,
    ) -> Self {
        Self { what: what.into(), why: why.to_string(), mend: mend.into() }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, why, mend } = self;
        write!(f, "{what}: {why}; {mend}")
    }
}
