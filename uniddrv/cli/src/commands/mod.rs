//! The subcommands: one file and one line of [`Command`] each.

mod bench;
mod bind;
mod completions;
mod core;
mod doctor;
mod identify;
mod list;
mod ls;
mod man;
mod model;
mod restart;
mod revoke;
mod smart;
mod status;
mod torture;
mod unbind;
mod upgrade;

use crate::Context;
use crate::error::Failure;

/// What `uniddrv` is asked to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    List(list::List),
    Bind(bind::Bind),
    Unbind(unbind::Unbind),
    Identify(identify::Identify),
    Smart(smart::Smart),
    Bench(bench::Bench),
    Model(model::Model),
    Core(core::Core),
    Ls(ls::Ls),
    Status(status::Status),
    Restart(restart::Restart),
    Upgrade(upgrade::Upgrade),
    Revoke(revoke::Revoke),
    Torture(torture::Torture),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Command {
    /// Runs the subcommand.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(command) => command.run(context),
            Self::Bind(command) => command.run(context),
            Self::Unbind(command) => command.run(context),
            Self::Identify(command) => command.run(context),
            Self::Smart(command) => command.run(context),
            Self::Bench(command) => command.run(context),
            Self::Model(command) => command.run(context),
            Self::Core(command) => command.run(context),
            Self::Ls(command) => command.run(context),
            Self::Status(command) => command.run(context),
            Self::Restart(command) => command.run(context),
            Self::Upgrade(command) => command.run(context),
            Self::Revoke(command) => command.run(context),
            Self::Torture(command) => command.run(context),
            Self::Doctor(command) => command.run(context),
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
        }
    }
}
