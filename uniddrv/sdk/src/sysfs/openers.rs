//! Which processes hold device nodes open, from `/proc/PID/fd`.

use std::collections::BTreeMap;
use std::fs;

use super::{Sysfs, tree};

/// A process that holds a device node open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opener {
    pub(super) process: u32,
    pub(super) program: String,
}

/// Processes by the node below `/dev` that they hold open.
pub(super) type Openers = BTreeMap<String, Vec<Opener>>;

impl Sysfs {
    /// Who holds a node below `/dev` open. Other users' processes show to root
    /// only. udev looks at every device that appears and lets go of it at once,
    /// so its workers do not count.
    pub(super) fn openers(&self) -> Openers {
        let mut openers = Openers::new();
        for entry in tree::entries(&self.path("proc")) {
            let Ok(process) = entry.parse::<u32>() else {
                continue;
            };
            if process == std::process::id() {
                continue;
            }
            let folder = self.path(format!("proc/{process}"));
            for descriptor in tree::entries(&folder.join("fd")) {
                let Ok(target) = fs::read_link(folder.join("fd").join(descriptor)) else {
                    continue;
                };
                let Some(node) = target.to_str().and_then(|path| path.strip_prefix("/dev/")) else {
                    continue;
                };
                let program = tree::text(&folder.join("comm")).unwrap_or_default();
                if program.contains("udev") {
                    break;
                }
                let list = openers.entry(node.to_owned()).or_default();
                let opener = Opener { process, program };
                if !list.contains(&opener) {
                    list.push(opener);
                }
            }
        }
        openers
    }
}
