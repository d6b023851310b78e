//! `uniddrv completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::error::Failure;
use crate::{Cli, output};

/// Print the completion script of a shell
///
/// For bash: uniddrv completions bash > /etc/bash_completion.d/uniddrv
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell to complete for
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "uniddrv", &mut script);
        output::bytes(&script)
    }
}
