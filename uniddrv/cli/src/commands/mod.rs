//! The subcommands: one file and one line of [`Command`] each.

mod completions;
mod man;

use crate::Context;
use crate::error::Failure;

/// What `uniddrv` is asked to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Completions(completions::Completions),
    Man(man::Man),
}

impl Command {
    /// Runs the subcommand.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Completions(command) => command.run(context),
            Self::Man(command) => command.run(context),
        }
    }
}
