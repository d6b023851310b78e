//! What the spawner and its launcher tell each other. Both are this program, so there is no
//! version.

use serde::{Deserialize, Serialize};

use super::{Missing, Window};

/// From the spawner to the launcher.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToLauncher {
    /// The first message: what to become.
    Orders(Orders),
    /// The second: execute the program.
    Go,
}

/// What the launcher is to become.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    /// The user and group to become, as numbers of the launcher's user namespace.
    pub(super) user: Option<(u32, u32)>,
    /// Whether it may give up supplementary groups; an unprivileged core's launcher may not.
    pub(super) clear_groups: bool,
    pub(super) cpu: Option<usize>,
    pub(super) memory: u64,
    pub(super) files: u32,
    pub(super) windows: Vec<Window>,
    /// The program's arguments, its name first.
    pub(super) arguments: Vec<String>,
}

/// From the launcher to the spawner.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromLauncher {
    /// The sandbox stands, but for what is missing. After [`ToLauncher::Go`], the end of the
    /// connection says that the program was executed.
    Standing(Vec<Missing>),
    /// A step failed that nothing works without.
    Failed { step: String, reason: String },
}
