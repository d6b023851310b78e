//! Features. NVMe Base 2.0 §5.15, §5.27.

use std::time::Instant;

use uniddrv_spec::nvme::BROADCAST;
use uniddrv_spec::nvme::admin::features::{
    AsyncEvents, CommandSetProfile, ErrorRecovery, FeatureCapabilities,
    InterruptVectorConfiguration, NumberOfQueues, PowerManagement, Select, TemperatureThreshold,
    Timestamp, VolatileWriteCache,
};
use uniddrv_spec::nvme::admin::{FeatureId, GetFeatures, SetFeatures};
use uniddrv_spec::nvme::status::Status;

use super::logs::TEMPERATURE;

/// The warning threshold, in kelvins.
pub(super) const WARNING: u16 = 343;

const FEATURES: [FeatureId; 14] = [
    FeatureId::ARBITRATION,
    FeatureId::POWER_MANAGEMENT,
    FeatureId::TEMPERATURE_THRESHOLD,
    FeatureId::ERROR_RECOVERY,
    FeatureId::VOLATILE_WRITE_CACHE,
    FeatureId::NUMBER_OF_QUEUES,
    FeatureId::INTERRUPT_COALESCING,
    FeatureId::INTERRUPT_VECTOR_CONFIGURATION,
    FeatureId::WRITE_ATOMICITY,
    FeatureId::ASYNC_EVENT_CONFIGURATION,
    FeatureId::TIMESTAMP,
    FeatureId::KEEP_ALIVE_TIMER,
    FeatureId::HOST_BEHAVIOR,
    FeatureId::COMMAND_SET_PROFILE,
];

/// What a controller is like, as far as its features need to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) queues: u16,
    pub(super) vectors: u16,
    pub(super) namespaces: u32,
}

/// The values of the features.
#[derive(Clone, Debug)]
pub(super) struct Features {
    limits: Limits,
    arbitration: u32,
    power: u32,
    over: u16,
    under: u16,
    error_recovery: Vec<u32>,
    /// Whether the volatile write cache is on.
    pub(super) cached: bool,
    /// How many I/O submission and completion queues the client may create.
    pub(super) queues: (u16, u16),
    coalescing: u32,
    uncoalesced: Vec<u16>,
    atomicity: u32,
    /// The events that the client wants to be told of.
    pub(super) events: AsyncEvents,
    timestamp: (u64, Instant, bool),
    /// Keep Alive Timeout in milliseconds; 0 where there is none.
    pub(super) keep_alive: u32,
    behavior: [u8; 512],
}

impl Features {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            arbitration: 7,
            power: 0,
            over: WARNING,
            under: 0,
            error_recovery: vec![0; limits.namespaces as usize],
            cached: true,
            queues: (limits.queues, limits.queues),
            coalescing: 0,
            uncoalesced: Vec::new(),
            atomicity: 0,
            events: AsyncEvents::default(),
            timestamp: (0, Instant::now(), false),
            keep_alive: 0,
            behavior: [0; 512],
        }
    }

    /// As after a controller reset.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.limits);
    }

    /// Bytes of data that go with a feature's value.
    pub(super) fn data_len(fid: FeatureId) -> usize {
        match fid {
            FeatureId::TIMESTAMP => 8,
            FeatureId::HOST_BEHAVIOR => 512,
            _ => 0,
        }
    }

    /// Whether the composite temperature is past a threshold.
    pub(super) fn hot(&self) -> bool {
        TEMPERATURE >= self.over || TEMPERATURE <= self.under
    }

    /// Sets a feature; `idle` says that there is no I/O queue. Returns completion Dword 0.
    pub(super) fn set(
        &mut self,
        command: &SetFeatures,
        data: &[u8],
        idle: bool,
    ) -> Result<u32, Status> {
        let (fid, value) = (command.fid, command.dword11());
        if !FEATURES.contains(&fid) {
            return Err(Status::INVALID_FIELD);
        }
        if command.save {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        if fid != FeatureId::ERROR_RECOVERY && !matches!(command.nsid, 0 | BROADCAST) {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC);
        }
        match fid {
            FeatureId::ARBITRATION => self.arbitration = value,
            FeatureId::POWER_MANAGEMENT => {
                if PowerManagement::from_bits(value).ps() != 0 {
                    return Err(Status::INVALID_FIELD);
                }
                self.power = value;
            }
            FeatureId::TEMPERATURE_THRESHOLD => self.set_threshold(value)?,
            FeatureId::ERROR_RECOVERY => self.set_error_recovery(command.nsid, value)?,
            FeatureId::VOLATILE_WRITE_CACHE => {
                self.cached = VolatileWriteCache::from_bits(value).wce();
            }
            FeatureId::NUMBER_OF_QUEUES => return self.set_queues(value, idle),
            FeatureId::INTERRUPT_COALESCING => self.coalescing = value & 0xffff,
            FeatureId::INTERRUPT_VECTOR_CONFIGURATION => {
                let config = self.vector(value)?;
                self.uncoalesced.retain(|&vector| vector != config.iv());
                if config.cd() {
                    self.uncoalesced.push(config.iv());
                }
            }
            FeatureId::WRITE_ATOMICITY => self.atomicity = value & 1,
            FeatureId::ASYNC_EVENT_CONFIGURATION => self.events = AsyncEvents::from_bits(value),
            FeatureId::TIMESTAMP => {
                let bytes = data.first_chunk::<8>().ok_or(Status::INTERNAL_ERROR)?;
                let value = Timestamp::from_bits(u64::from_le_bytes(*bytes));
                self.timestamp = (value.milliseconds(), Instant::now(), true);
            }
            FeatureId::KEEP_ALIVE_TIMER => self.keep_alive = value,
            FeatureId::HOST_BEHAVIOR => {
                self.behavior = *data.first_chunk().ok_or(Status::INTERNAL_ERROR)?;
            }
            // There is one combination of command sets: number 0.
            FeatureId::COMMAND_SET_PROFILE => {
                if CommandSetProfile::from_bits(value).iocsci() != 0 {
                    return Err(Status::IO_COMMAND_SET_COMBINATION_REJECTED);
                }
            }
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(0)
    }

    /// A feature's value: completion Dword 0, and the data that goes with it.
    pub(super) fn get(&self, command: &GetFeatures) -> Result<(u32, Vec<u8>), Status> {
        if !FEATURES.contains(&command.fid) {
            return Err(Status::INVALID_FIELD);
        }
        match command.select {
            Select::CURRENT => self.value(command),
            // None can be saved, so what is saved is the default.
            Select::DEFAULT | Select::SAVED => Self::new(self.limits).value(command),
            Select::CAPABILITIES => {
                let capabilities = FeatureCapabilities::default()
                    .with_namespace_specific(command.fid == FeatureId::ERROR_RECOVERY)
                    .with_changeable(true);
                Ok((capabilities.bits(), Vec::new()))
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn value(&self, command: &GetFeatures) -> Result<(u32, Vec<u8>), Status> {
        let dword = match command.fid {
            FeatureId::ARBITRATION => self.arbitration,
            FeatureId::POWER_MANAGEMENT => self.power,
            FeatureId::TEMPERATURE_THRESHOLD => {
                let threshold = TemperatureThreshold::from_bits(command.dword11);
                match (threshold.tmpsel(), threshold.thsel()) {
                    (0, 0) => self.over.into(),
                    (0, 1) => self.under.into(),
                    _ => return Err(Status::INVALID_FIELD),
                }
            }
            FeatureId::ERROR_RECOVERY => {
                let index = command.nsid.wrapping_sub(1) as usize;
                *self.error_recovery.get(index).ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)?
            }
            FeatureId::VOLATILE_WRITE_CACHE => {
                VolatileWriteCache::default().with_wce(self.cached).bits()
            }
            FeatureId::NUMBER_OF_QUEUES => self.granted(),
            FeatureId::INTERRUPT_COALESCING => self.coalescing,
            FeatureId::INTERRUPT_VECTOR_CONFIGURATION => {
                let config = self.vector(command.dword11)?;
                config.with_cd(self.uncoalesced.contains(&config.iv())).bits()
            }
            FeatureId::WRITE_ATOMICITY => self.atomicity,
            FeatureId::ASYNC_EVENT_CONFIGURATION => self.events.bits(),
            FeatureId::TIMESTAMP => {
                let (start, since, set) = self.timestamp;
                let now = start.wrapping_add(since.elapsed().as_millis() as u64);
                let value = Timestamp::default().with_milliseconds(now).with_origin(u8::from(set));
                return Ok((0, value.bits().to_le_bytes().to_vec()));
            }
            FeatureId::KEEP_ALIVE_TIMER => self.keep_alive,
            FeatureId::HOST_BEHAVIOR => return Ok((0, self.behavior.to_vec())),
            FeatureId::COMMAND_SET_PROFILE => 0,
            _ => return Err(Status::INVALID_FIELD),
        };
        Ok((dword, Vec::new()))
    }

    fn set_threshold(&mut self, value: u32) -> Result<(), Status> {
        const ALL: u8 = 15;
        let threshold = TemperatureThreshold::from_bits(value);
        match (threshold.tmpsel(), threshold.thsel()) {
            (0 | ALL, 0) => self.over = threshold.tmpth(),
            (0 | ALL, 1) => self.under = threshold.tmpth(),
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(())
    }

    fn set_error_recovery(&mut self, nsid: u32, value: u32) -> Result<(), Status> {
        // An error for deallocated blocks is not offered (NSFEAT.DAE).
        if ErrorRecovery::from_bits(value).dulbe() {
            return Err(Status::INVALID_FIELD);
        }
        if nsid == BROADCAST {
            self.error_recovery.fill(value);
            return Ok(());
        }
        let place = self.error_recovery.get_mut(nsid.wrapping_sub(1) as usize);
        *place.ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)? = value;
        Ok(())
    }

    fn set_queues(&mut self, value: u32, idle: bool) -> Result<u32, Status> {
        let wanted = NumberOfQueues::from_bits(value);
        if wanted.nsq() == u16::MAX || wanted.ncq() == u16::MAX {
            return Err(Status::INVALID_FIELD);
        }
        if !idle {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        let most = self.limits.queues;
        self.queues = ((wanted.nsq() + 1).min(most), (wanted.ncq() + 1).min(most));
        Ok(self.granted())
    }

    fn granted(&self) -> u32 {
        let (submission, completion) = self.queues;
        NumberOfQueues::default().with_nsq(submission - 1).with_ncq(completion - 1).bits()
    }

    fn vector(&self, value: u32) -> Result<InterruptVectorConfiguration, Status> {
        let config = InterruptVectorConfiguration::from_bits(value);
        if config.iv() >= self.limits.vectors { Err(Status::INVALID_FIELD) } else { Ok(config) }
    }
}

/// Feature Identifiers Supported and Effects, 1024 bytes: a dword for each identifier, bit 0
/// saying that it is supported. NVMe Base 2.0 §5.16.1.18.
pub(super) fn effects() -> Vec<u8> {
    let mut page = vec![0; 1024];
    for fid in FEATURES {
        if let Some(byte) = page.get_mut(4 * usize::from(fid.0)) {
            *byte = 1;
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> Features {
        Features::new(Limits { queues: 4, vectors: 5, namespaces: 2 })
    }

    fn get(features: &Features, fid: FeatureId) -> u32 {
        features.get(&GetFeatures { nsid: 1, ..GetFeatures::new(fid) }).unwrap().0
    }

    #[test]
    fn values_are_kept_until_a_reset() {
        let mut features = features();
        for (fid, value) in [
            (FeatureId::ARBITRATION, 0x0102_0303),
            (FeatureId::TEMPERATURE_THRESHOLD, 300),
            (FeatureId::ERROR_RECOVERY, 50),
            (FeatureId::VOLATILE_WRITE_CACHE, 0),
            (FeatureId::NUMBER_OF_QUEUES, 0x0001_0001),
            (FeatureId::INTERRUPT_COALESCING, 0x0102),
            (FeatureId::WRITE_ATOMICITY, 1),
            (FeatureId::ASYNC_EVENT_CONFIGURATION, 0x102),
            (FeatureId::KEEP_ALIVE_TIMER, 5000),
        ] {
            let default = get(&features, fid);
            let nsid = u32::from(fid == FeatureId::ERROR_RECOVERY);
            let command = SetFeatures { nsid, ..SetFeatures::new(fid, value) };
            features.set(&command, &[], true).unwrap();
            assert_ne!(default, value, "{fid}");
            assert_eq!(get(&features, fid), value, "{fid}");
            let before = GetFeatures { select: Select::DEFAULT, nsid: 1, ..GetFeatures::new(fid) };
            assert_eq!(features.get(&before).unwrap().0, default, "{fid}");
        }
        assert!(features.hot());
        features.reset();
        assert_eq!(get(&features, FeatureId::KEEP_ALIVE_TIMER), 0);
        assert!(!features.hot());
    }

    #[test]
    fn queues_are_granted_up_to_the_limit() {
        let mut features = features();
        let ask = |value| SetFeatures::new(FeatureId::NUMBER_OF_QUEUES, value);
        assert_eq!(features.set(&ask(0x0063_0001), &[], true), Ok(0x0003_0001));
        assert_eq!(features.queues, (2, 4));
        let late = features.set(&ask(0), &[], false);
        assert_eq!(late, Err(Status::COMMAND_SEQUENCE_ERROR));
        assert_eq!(features.set(&ask(0xffff_0000), &[], true), Err(Status::INVALID_FIELD));
    }

    #[test]
    fn what_a_feature_does_not_take_has_its_status() {
        let mut features = features();
        let mut set = |command: SetFeatures| features.set(&command, &[], true).unwrap_err();
        let plain = |fid, value| SetFeatures::new(fid, value);
        assert_eq!(set(plain(FeatureId(0xc0), 0)), Status::INVALID_FIELD);
        let saved = SetFeatures { save: true, ..plain(FeatureId::ARBITRATION, 0) };
        assert_eq!(set(saved), Status::FEATURE_NOT_SAVEABLE);
        let specific = SetFeatures { nsid: 1, ..plain(FeatureId::ARBITRATION, 0) };
        assert_eq!(set(specific), Status::FEATURE_NOT_NAMESPACE_SPECIFIC);
        assert_eq!(set(plain(FeatureId::POWER_MANAGEMENT, 1)), Status::INVALID_FIELD);
        let sensor = plain(FeatureId::TEMPERATURE_THRESHOLD, 1 << 16);
        assert_eq!(set(sensor), Status::INVALID_FIELD);
        let dulbe = SetFeatures { nsid: 1, ..plain(FeatureId::ERROR_RECOVERY, 1 << 16) };
        assert_eq!(set(dulbe), Status::INVALID_FIELD);
        let missing = SetFeatures { nsid: 3, ..plain(FeatureId::ERROR_RECOVERY, 0) };
        assert_eq!(set(missing), Status::INVALID_NAMESPACE_OR_FORMAT);
        let vector = plain(FeatureId::INTERRUPT_VECTOR_CONFIGURATION, 5);
        assert_eq!(set(vector), Status::INVALID_FIELD);
        let profile = plain(FeatureId::COMMAND_SET_PROFILE, 1);
        assert_eq!(set(profile), Status::IO_COMMAND_SET_COMBINATION_REJECTED);
        let select = GetFeatures { select: Select(4), ..GetFeatures::new(FeatureId::ARBITRATION) };
        assert_eq!(features.get(&select).unwrap_err(), Status::INVALID_FIELD);
    }

    #[test]
    fn the_timestamp_runs() {
        let mut features = features();
        let command = SetFeatures::new(FeatureId::TIMESTAMP, 0);
        features.set(&command, &1000u64.to_le_bytes(), true).unwrap();
        let (_, data) = features.get(&GetFeatures::new(FeatureId::TIMESTAMP)).unwrap();
        let value = Timestamp::from_bits(u64::from_le_bytes(data.try_into().unwrap()));
        assert!(value.milliseconds() >= 1000 && value.origin() == 1);
    }
}
