//! Log pages. NVMe Base 2.0 §5.16.

use std::collections::VecDeque;
use std::time::Instant;

use uniddrv_spec::nvme::admin::{self, LogId};
use uniddrv_spec::nvme::identify::NamespaceList;
use uniddrv_spec::nvme::io;
use uniddrv_spec::nvme::log::{
    CommandsEffects, CriticalWarning, Effects, ErrorInformation, SmartHealth,
};
use uniddrv_spec::nvme::status::Status;
use zerocopy::{FromZeros, IntoBytes};

/// Entries of the Error Information log (ELPE + 1).
pub(super) const ERRORS: usize = 64;

/// The composite temperature, in kelvins: it never changes.
pub(super) const TEMPERATURE: u16 = 310;

/// What the SMART log counts.
#[derive(Debug)]
pub(super) struct Health {
    bytes_read: u64,
    bytes_written: u64,
    reads: u64,
    writes: u64,
    media_errors: u64,
    /// Composite temperature is past a threshold.
    pub(super) hot: bool,
    /// The controller was turned off without a shutdown.
    pub(super) unsafe_shutdowns: u64,
    since: Instant,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            bytes_read: 0,
            bytes_written: 0,
            reads: 0,
            writes: 0,
            media_errors: 0,
            hot: false,
            unsafe_shutdowns: 0,
            since: Instant::now(),
        }
    }
}

impl Health {
    /// A read or compare of `len` bytes succeeded.
    #[inline]
    pub(super) fn read(&mut self, len: u64) {
        self.reads += 1;
        self.bytes_read += len;
    }

    /// A write of `len` bytes succeeded.
    #[inline]
    pub(super) fn write(&mut self, len: u64) {
        self.writes += 1;
        self.bytes_written += len;
    }

    fn log(&self, errors: u64) -> SmartHealth {
        let units = |bytes: u64| u128::from(bytes.div_ceil(512_000)).into();
        let mut log = SmartHealth::default();
        log.critical_warning = CriticalWarning::default().with_temperature(self.hot);
        log.temperature = TEMPERATURE.into();
        log.available_spare = 100;
        log.available_spare_threshold = 10;
        log.data_units_read = units(self.bytes_read);
        log.data_units_written = units(self.bytes_written);
        log.host_reads = u128::from(self.reads).into();
        log.host_writes = u128::from(self.writes).into();
        log.power_cycles = 1.into();
        log.power_on_hours = u128::from(self.since.elapsed().as_secs() / 3600).into();
        log.unsafe_shutdowns = u128::from(self.unsafe_shutdowns).into();
        log.media_errors = u128::from(self.media_errors).into();
        log.error_entries = u128::from(errors).into();
        log
    }
}

/// What the log pages tell.
#[derive(Debug, Default)]
pub(super) struct Logs {
    /// The SMART log.
    pub(super) health: Health,
    errors: VecDeque<ErrorInformation>,
    error_count: u64,
    changed: Vec<u32>,
}

/// A command that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) sqid: u16,
    pub(super) cid: u16,
    pub(super) nsid: u32,
    pub(super) lba: u64,
    pub(super) status: Status,
}

impl Logs {
    /// Adds an entry to the Error Information log.
    pub(super) fn failed(&mut self, failure: Failure) {
        const MEDIA: u8 = 2;
        self.error_count += 1;
        if failure.status.sct() == MEDIA && failure.status.code() != Status::COMPARE_FAILURE {
            self.health.media_errors += 1;
        }
        let mut entry = ErrorInformation::default();
        entry.error_count = self.error_count.into();
        entry.sqid = failure.sqid.into();
        entry.cid = failure.cid.into();
        entry.location = 0xffff.into();
        entry.lba = failure.lba.into();
        entry.nsid = failure.nsid.into();
        entry.set_status(failure.status);
        self.errors.truncate(ERRORS - 1);
        self.errors.push_front(entry);
    }

    /// Adds a namespace to the Changed Attached Namespace List.
    pub(super) fn namespace_changed(&mut self, nsid: u32) {
        if let Err(place) = self.changed.binary_search(&nsid) {
            self.changed.insert(place, nsid);
        }
    }

    /// The log page, but for the firmware's; nothing where there is no such log.
    pub(super) fn page(&self, log: LogId, shadow_doorbells: bool) -> Option<Vec<u8>> {
        Some(match log {
            LogId::SUPPORTED_PAGES => supported(),
            LogId::ERROR_INFORMATION => {
                let mut page = vec![0; ERRORS * size_of::<ErrorInformation>()];
                for (place, entry) in page.chunks_exact_mut(64).zip(&self.errors) {
                    place.copy_from_slice(entry.as_bytes());
                }
                page
            }
            LogId::SMART_HEALTH => self.health.log(self.error_count).as_bytes().to_vec(),
            LogId::CHANGED_NAMESPACES => {
                let list = NamespaceList::new(&self.changed)
                    .or_else(|| NamespaceList::new(&[NamespaceList::ALL_CHANGED]));
                list.unwrap_or_default().as_bytes().to_vec()
            }
            LogId::COMMANDS_EFFECTS => effects(shadow_doorbells).as_bytes().to_vec(),
            LogId::FEATURE_EFFECTS => super::features::effects(),
            _ => return None,
        })
    }

    /// The log page was read and its events cleared.
    pub(super) fn read(&mut self, log: LogId) {
        if log == LogId::CHANGED_NAMESPACES {
            self.changed.clear();
        }
    }
}

/// Supported Log Pages, 1024 bytes: a dword for each identifier, bit 0 saying that there is
/// one. NVMe Base 2.0 §5.16.1.1.
fn supported() -> Vec<u8> {
    let mut page = vec![0; 1024];
    for log in [
        LogId::SUPPORTED_PAGES,
        LogId::ERROR_INFORMATION,
        LogId::SMART_HEALTH,
        LogId::FIRMWARE_SLOT,
        LogId::CHANGED_NAMESPACES,
        LogId::COMMANDS_EFFECTS,
        LogId::FEATURE_EFFECTS,
    ] {
        if let Some(byte) = page.get_mut(4 * usize::from(log.0)) {
            *byte = 1;
        }
    }
    page
}

/// Commands Supported and Effects. NVMe Base 2.0 §5.16.1.6.
fn effects(shadow_doorbells: bool) -> CommandsEffects {
    let mut effects = CommandsEffects::new_zeroed();
    let plain = Effects::default().with_csupp(true);
    let changes = plain.with_lbcc(true);
    for opcode in [
        admin::Opcode::DELETE_IO_SQ,
        admin::Opcode::CREATE_IO_SQ,
        admin::Opcode::GET_LOG_PAGE,
        admin::Opcode::DELETE_IO_CQ,
        admin::Opcode::CREATE_IO_CQ,
        admin::Opcode::IDENTIFY,
        admin::Opcode::ABORT,
        admin::Opcode::SET_FEATURES,
        admin::Opcode::GET_FEATURES,
        admin::Opcode::ASYNC_EVENT_REQUEST,
        admin::Opcode::FIRMWARE_COMMIT,
        admin::Opcode::FIRMWARE_DOWNLOAD,
        admin::Opcode::KEEP_ALIVE,
    ] {
        effects.set_admin(opcode, plain);
    }
    if shadow_doorbells {
        effects.set_admin(admin::Opcode::DOORBELL_BUFFER_CONFIG, plain);
    }
    effects.set_admin(admin::Opcode::FORMAT_NVM, changes.with_ncc(true).with_cse(1));
    for opcode in [io::Opcode::FLUSH, io::Opcode::READ, io::Opcode::COMPARE, io::Opcode::VERIFY] {
        effects.set_io(opcode, plain);
    }
    for opcode in [
        io::Opcode::WRITE,
        io::Opcode::WRITE_UNCORRECTABLE,
        io::Opcode::WRITE_ZEROES,
        io::Opcode::DATASET_MANAGEMENT,
        io::Opcode::COPY,
    ] {
        effects.set_io(opcode, changes);
    }
    effects
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes;

    use super::*;

    fn failure(cid: u16, status: Status) -> Failure {
        Failure { sqid: 1, cid, nsid: 1, lba: 5, status }
    }

    #[test]
    fn the_newest_error_comes_first_and_the_log_is_bounded() {
        let mut logs = Logs::default();
        for cid in 0..100 {
            logs.failed(failure(cid, Status::UNRECOVERED_READ_ERROR));
        }
        logs.failed(failure(7, Status::COMPARE_FAILURE));
        let page = logs.page(LogId::ERROR_INFORMATION, false).unwrap();
        assert_eq!(page.len(), 64 * ERRORS);
        let first = ErrorInformation::read_from_bytes(&page[..64]).unwrap();
        assert_eq!((first.error_count.get(), first.cid.get()), (101, 7));
        assert_eq!(first.status(), Status::COMPARE_FAILURE);
        let smart = logs.page(LogId::SMART_HEALTH, false).unwrap();
        let smart = SmartHealth::read_from_bytes(&smart).unwrap();
        assert_eq!((smart.media_errors.get(), smart.error_entries.get()), (100, 101));
    }

    #[test]
    fn changed_namespaces_rise_and_are_cleared() {
        let mut logs = Logs::default();
        for nsid in [3, 1, 3] {
            logs.namespace_changed(nsid);
        }
        let page = logs.page(LogId::CHANGED_NAMESPACES, false).unwrap();
        let list = NamespaceList::read_from_bytes(&page).unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), [1, 3]);
        logs.read(LogId::CHANGED_NAMESPACES);
        let page = logs.page(LogId::CHANGED_NAMESPACES, false).unwrap();
        assert!(page.iter().all(|&byte| byte == 0));
    }
}
