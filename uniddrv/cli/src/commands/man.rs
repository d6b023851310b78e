//! `uniddrv man`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory;
use clap_mangen::Man as Page;

use crate::error::Failure;
use crate::{Cli, output};

/// Print the manual page, or write all manual pages to a folder
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Write uniddrv.1 and a page for each subcommand to this folder
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let command = Cli::command();
        let Some(folder) = self.output else {
            let mut page = Vec::new();
            Page::new(command).render(&mut page)?;
            return output::bytes(&page);
        };
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        clap_mangen::generate_to(command, &folder)
            .with_context(|| format!("cannot write manual pages to {}", folder.display()))?;
        Ok(())
    }
}
