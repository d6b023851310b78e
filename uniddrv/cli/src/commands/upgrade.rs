//! `uniddrv upgrade NAME`.

use std::path::PathBuf;

use anyhow::Context as _;

use super::restart::tell;
use crate::Context;
use crate::error::Failure;
use crate::served;

/// Replace the driver of a name by a new program, without resetting the device
///
/// Without --program, the file that the present program came from is read anew.
#[derive(Debug, clap::Args)]
pub(crate) struct Upgrade {
    /// The name of the device, such as nvme:0
    name: String,

    /// The new program
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl Upgrade {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        // The core runs in another folder.
        let program = self.program.map(|path| {
            let path = std::fs::canonicalize(&path)
                .with_context(|| format!("cannot find the program {}", path.display()))?;
            path.into_os_string().into_string().map_err(|path| {
                anyhow::anyhow!("the path {} is no UTF-8, which the core needs", path.display())
            })
        });
        let program = program.transpose()?;
        let core = served::connect()?;
        let before = served::driver(&core, &self.name)?;
        core.upgrade(&before.name, program.as_deref())?;
        tell(context, &core, &before)
    }
}
