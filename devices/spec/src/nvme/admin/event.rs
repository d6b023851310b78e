//! Asynchronous Event Request. NVMe Base 2.0 §5.2.

use super::{LogId, Opcode};
use crate::nvme::entry::SubmissionEntry;
use core::fmt;

/// Asynchronous Event Request; completes when there is an event, with an [`AsyncEvent`].
pub const fn async_event_request() -> SubmissionEntry {
    SubmissionEntry::new(Opcode::ASYNC_EVENT_REQUEST.0)
}

bits! {
    /// Completion Dword 0 of Asynchronous Event Request. NVMe Base 2.0 §5.2.1.
    pub struct AsyncEvent(u32);
    /// Asynchronous Event Type.
    kind / with_kind = [2:0] u8;
    /// Asynchronous Event Information.
    info / with_info = [15:8] u8;
    /// Log Page Identifier, whose reading clears the event.
    lid / with_lid = [23:16] u8;
}

impl AsyncEvent {
    /// An event; `event` is one of the constants of [`Event`].
    pub const fn new(event: Event, log: LogId) -> Self {
        Self::from_bits(0).with_kind(event.kind).with_info(event.info).with_lid(log.0)
    }

    /// Type and information.
    pub const fn event(self) -> Event {
        Event { kind: self.kind(), info: self.info() }
    }

    /// The log page to read.
    pub const fn log(self) -> LogId {
        LogId(self.lid())
    }
}

/// Type and information of an asynchronous event. `Display` gives the standard's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// Asynchronous Event Type: 0 error, 1 SMART / health, 2 notice, 3 immediate,
    /// 6 I/O command set specific, 7 vendor specific.
    pub kind: u8,
    /// Asynchronous Event Information.
    pub info: u8,
}

macro_rules! events {
    ($($NAME:ident = $kind:literal, $info:literal, $text:literal;)*) => {
        impl Event {
            $(
                #[doc = concat!($text, ".")]
                pub const $NAME: Self = Self { kind: $kind, info: $info };
            )*

            /// The standard's name; `None` where it has none here.
            pub const fn name(self) -> Option<&'static str> {
                match (self.kind, self.info) {
                    $(($kind, $info) => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

// NVMe Base 2.0 §5.2.1.
events! {
    INVALID_DOORBELL_REGISTER = 0, 0x00, "Write to Invalid Doorbell Register";
    INVALID_DOORBELL_VALUE = 0, 0x01, "Invalid Doorbell Write Value";
    DIAGNOSTIC_FAILURE = 0, 0x02, "Diagnostic Failure";
    PERSISTENT_INTERNAL_ERROR = 0, 0x03, "Persistent Internal Error";
    TRANSIENT_INTERNAL_ERROR = 0, 0x04, "Transient Internal Error";
    FIRMWARE_IMAGE_LOAD_ERROR = 0, 0x05, "Firmware Image Load Error";
    SUBSYSTEM_RELIABILITY = 1, 0x00, "NVM Subsystem Reliability";
    TEMPERATURE_THRESHOLD = 1, 0x01, "Temperature Threshold";
    SPARE_BELOW_THRESHOLD = 1, 0x02, "Spare Below Threshold";
    NAMESPACE_ATTRIBUTE_CHANGED = 2, 0x00, "Namespace Attribute Changed";
    FIRMWARE_ACTIVATION_STARTING = 2, 0x01, "Firmware Activation Starting";
    TELEMETRY_LOG_CHANGED = 2, 0x02, "Telemetry Log Changed";
    ANA_CHANGE = 2, 0x03, "Asymmetric Namespace Access Change";
    PREDICTABLE_LATENCY_CHANGE = 2, 0x04, "Predictable Latency Event Aggregate Log Change";
    LBA_STATUS_ALERT = 2, 0x05, "LBA Status Information Alert";
    ENDURANCE_GROUP_CHANGE = 2, 0x06, "Endurance Group Event Aggregate Log Page Change";
    NORMAL_SUBSYSTEM_SHUTDOWN = 3, 0x00, "Normal NVM Subsystem Shutdown";
    RESERVATION_LOG_AVAILABLE = 6, 0x00, "Reservation Log Page Available";
    SANITIZE_COMPLETED = 6, 0x01, "Sanitize Operation Completed";
    SANITIZE_COMPLETED_DEALLOCATION = 6, 0x02, "Sanitize Operation Completed With Unexpected Deallocation";
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "event type {:#x} information {:#04x}", self.kind, self.info),
        }
    }
}
