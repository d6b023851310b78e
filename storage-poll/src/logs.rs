//! Log pages. NVMe Base 2.0 §5.16.1.

pub use uniddrv_spec::nvme::identify::NamespaceList;
pub use uniddrv_spec::nvme::log::{CommandsEffects, ErrorInformation, FirmwareSlots, SmartHealth};

use uniddrv_spec::nvme::admin::{GetLogPage, LogId};
use zerocopy::FromBytes;

use crate::controller::{Controller, parse};
use crate::error::ControllerError;

/// The namespace identifier that means the controller as a whole.
const ALL: u32 = u32::MAX;

impl Controller {
    /// The newest entries of the error log, at most `count` and what the controller keeps;
    /// entries that hold no error are left out. §5.16.1.2.
    ///
    /// # Errors
    /// When the controller does not answer, or with an error status.
    pub fn error_log(&self, count: usize) -> Result<Vec<ErrorInformation>, ControllerError> {
        let kept = usize::from(self.identity().elpe) + 1;
        let size = size_of::<ErrorInformation>();
        // Without offsets into log pages there is no more than one piece.
        let most = if self.identity().lpa.extended_data() { kept } else { kept.min(4096 / size) };
        let len = count.clamp(1, most) * size;
        let bytes = self.log(LogId::ERROR_INFORMATION, ALL, len)?;
        let entries = bytes.chunks_exact(size).filter_map(parse::<ErrorInformation>);
        Ok(entries.filter(|entry| entry.error_count.get() != 0).take(count).collect())
    }

    /// SMART / Health Information of the controller. §5.16.1.3.
    ///
    /// # Errors
    /// When the controller does not answer, or with an error status.
    pub fn smart_log(&self) -> Result<SmartHealth, ControllerError> {
        self.log_page(LogId::SMART_HEALTH, ALL)
    }

    /// The firmware slots. §5.16.1.4.
    ///
    /// # Errors
    /// When the controller does not answer, or with an error status.
    pub fn firmware_log(&self) -> Result<FirmwareSlots, ControllerError> {
        self.log_page(LogId::FIRMWARE_SLOT, ALL)
    }

    /// The namespaces that changed since this was last read. §5.16.1.5.
    ///
    /// # Errors
    /// When the controller does not answer, or with an error status.
    pub fn changed_namespaces(&self) -> Result<NamespaceList, ControllerError> {
        self.log_page(LogId::CHANGED_NAMESPACES, ALL)
    }

    /// Which commands the controller takes, and what they do to it. §5.16.1.6.
    ///
    /// # Errors
    /// When the controller does not answer, or with an error status.
    pub fn command_effects(&self) -> Result<Box<CommandsEffects>, ControllerError> {
        self.log_page(LogId::COMMANDS_EFFECTS, 0).map(Box::new)
    }

    fn log_page<T: FromBytes>(&self, id: LogId, nsid: u32) -> Result<T, ControllerError> {
        let bytes = self.log(id, nsid, size_of::<T>())?;
        parse(&bytes).ok_or_else(|| self.malformed(&format!("log page {id}: too short")))
    }

    fn log(&self, id: LogId, nsid: u32, len: usize) -> Result<Vec<u8>, ControllerError> {
        // A page at a time: the largest transfer of any controller allows that.
        let step = self.max_transfer().min(4096);
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let part = (len - bytes.len()).min(step);
            let command = GetLogPage::new(id, part)
                .ok_or_else(|| self.unsupported(format!("log page {id} of {part} bytes")))?;
            let command = GetLogPage { nsid, lpo: bytes.len() as u64, ..command };
            let buffer = self.device().dma_buffer(part)?;
            let executed = self.execute("Get Log Page", command.to_entry(), Some(buffer))?;
            bytes.extend_from_slice(executed.data());
        }
        Ok(bytes)
    }
}
