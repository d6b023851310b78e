//! Format NVM. NVMe Base 2.0 §5.14.

use std::time::Duration;

use uniddrv_spec::nvme::admin::FormatNvm;
use uniddrv_spec::nvme::admin::namespace::SecureErase;

use crate::controller::Controller;
use crate::error::ControllerError;

/// How a namespace is to be formatted.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// The index of one of its LBA formats.
    pub format: u8,
    /// What becomes of the data.
    pub erase: SecureErase,
    /// How long it may take.
    pub limit: Duration,
}

impl Controller {
    /// Formats namespace `nsid`: all data on it are lost. Its block size may change, so queues
    /// that are bound to it have to be made anew.
    ///
    /// # Errors
    /// When the controller does not offer it, the namespace or the format does not exist, or
    /// formatting fails or takes longer than the limit (then the controller was reset).
    pub fn format(&mut self, nsid: u32, options: FormatOptions) -> Result<(), ControllerError> {
        if !self.identity().oacs().format() {
            return Err(self.unsupported("it does not offer Format NVM".into()));
        }
        let said = self.identify_namespace(nsid)?;
        let formats = said.formats().len();
        if usize::from(options.format) >= formats {
            return Err(self.unsupported(format!(
                "namespace {nsid} has the LBA formats 0 to {}, not {}",
                formats - 1,
                options.format
            )));
        }
        let command = FormatNvm::new(nsid, options.format, options.erase);
        self.execute_within("Format NVM", command.to_entry(), options.limit)?;
        self.rescan()
    }
}
