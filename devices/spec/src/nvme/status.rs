//! The Status Field of a completion. NVMe Base 2.0 §3.3.3.2.1.

use core::fmt;

bits! {
    /// Status Field, 15 bits, without the Phase Tag. NVMe Base 2.0 §3.3.3.2.1.
    ///
    /// The constants hold type and code alone, so compare [`code`](Self::code) with them:
    /// `status.code() == Status::LBA_OUT_OF_RANGE`.
    pub struct Status(u16);
    /// Status Code.
    sc / with_sc = [7:0] u8;
    /// Status Code Type: 0 generic, 1 command specific, 2 media, 3 path, 7 vendor.
    sct / with_sct = [10:8] u8;
    /// Command Retry Delay: 0 none, 1 to 3 the CRDT field of Identify Controller to wait.
    crd / with_crd = [12:11] u8;
    /// More: the Error Information log has more on this.
    more / with_more = [13:13] bool;
    /// Do Not Retry: the same command would fail again.
    dnr / with_dnr = [14:14] bool;
}

impl Status {
    /// Status code type and status code.
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self::from_bits(((sct as u16 & 7) << 8) | sc as u16)
    }

    /// Type and code alone, without retry delay, More and Do Not Retry.
    #[inline]
    #[must_use]
    pub const fn code(self) -> Self {
        Self::from_bits(self.bits() & 0x7ff)
    }

    /// Whether the command succeeded.
    #[inline]
    pub const fn is_success(self) -> bool {
        self.code().bits() == 0
    }
}

/// The standard's name where it has one; else type and code in hexadecimal.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name)?,
            None => write!(f, "status type {:#x} code {:#04x}", self.sct(), self.sc())?,
        }
        if self.dnr() { f.write_str(" (do not retry)") } else { Ok(()) }
    }
}

impl core::error::Error for Status {}

macro_rules! statuses {
    ($($(#[$meta:meta])* $NAME:ident = $sct:literal, $sc:literal, $text:literal;)*) => {
        impl Status {
            $(
                #[doc = concat!($text, ".")]
                $(#[$meta])*
                pub const $NAME: Self = Self::new($sct, $sc);
            )*

            /// Every status that has a name here, with it.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$NAME, $text),)*];

            /// The standard's name of type and code; `None` where it has none here.
            pub const fn name(self) -> Option<&'static str> {
                match (self.sct(), self.sc()) {
                    $(($sct, $sc) => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    // Generic Command Status. NVMe Base 2.0 §3.3.3.2.1.1; from 0x80 NVM Command Set 1.0.
    SUCCESS = 0, 0x00, "Successful Completion";
    INVALID_COMMAND_OPCODE = 0, 0x01, "Invalid Command Opcode";
    INVALID_FIELD = 0, 0x02, "Invalid Field in Command";
    COMMAND_ID_CONFLICT = 0, 0x03, "Command ID Conflict";
    DATA_TRANSFER_ERROR = 0, 0x04, "Data Transfer Error";
    POWER_LOSS = 0, 0x05, "Commands Aborted due to Power Loss Notification";
    INTERNAL_ERROR = 0, 0x06, "Internal Error";
    ABORT_REQUESTED = 0, 0x07, "Command Abort Requested";
    ABORTED_SQ_DELETION = 0, 0x08, "Command Aborted due to SQ Deletion";
    ABORTED_FAILED_FUSED = 0, 0x09, "Command Aborted due to Failed Fused Command";
    ABORTED_MISSING_FUSED = 0, 0x0a, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE_OR_FORMAT = 0, 0x0b, "Invalid Namespace or Format";
    COMMAND_SEQUENCE_ERROR = 0, 0x0c, "Command Sequence Error";
    INVALID_SGL_SEGMENT_DESCRIPTOR = 0, 0x0d, "Invalid SGL Segment Descriptor";
    INVALID_NUMBER_OF_SGL_DESCRIPTORS = 0, 0x0e, "Invalid Number of SGL Descriptors";
    DATA_SGL_LENGTH_INVALID = 0, 0x0f, "Data SGL Length Invalid";
    METADATA_SGL_LENGTH_INVALID = 0, 0x10, "Metadata SGL Length Invalid";
    SGL_DESCRIPTOR_TYPE_INVALID = 0, 0x11, "SGL Descriptor Type Invalid";
    INVALID_USE_OF_CMB = 0, 0x12, "Invalid Use of Controller Memory Buffer";
    PRP_OFFSET_INVALID = 0, 0x13, "PRP Offset Invalid";
    ATOMIC_WRITE_UNIT_EXCEEDED = 0, 0x14, "Atomic Write Unit Exceeded";
    OPERATION_DENIED = 0, 0x15, "Operation Denied";
    SGL_OFFSET_INVALID = 0, 0x16, "SGL Offset Invalid";
    HOST_IDENTIFIER_INCONSISTENT_FORMAT = 0, 0x18, "Host Identifier Inconsistent Format";
    KEEP_ALIVE_TIMER_EXPIRED = 0, 0x19, "Keep Alive Timer Expired";
    KEEP_ALIVE_TIMEOUT_INVALID = 0, 0x1a, "Keep Alive Timeout Invalid";
    ABORTED_PREEMPT = 0, 0x1b, "Command Aborted due to Preempt and Abort";
    SANITIZE_FAILED = 0, 0x1c, "Sanitize Failed";
    SANITIZE_IN_PROGRESS = 0, 0x1d, "Sanitize In Progress";
    SGL_DATA_BLOCK_GRANULARITY_INVALID = 0, 0x1e, "SGL Data Block Granularity Invalid";
    NOT_SUPPORTED_FOR_QUEUE_IN_CMB = 0, 0x1f, "Command Not Supported for Queue in CMB";
    NAMESPACE_WRITE_PROTECTED = 0, 0x20, "Namespace is Write Protected";
    COMMAND_INTERRUPTED = 0, 0x21, "Command Interrupted";
    TRANSIENT_TRANSPORT_ERROR = 0, 0x22, "Transient Transport Error";
    PROHIBITED_BY_LOCKDOWN = 0, 0x23, "Command Prohibited by Command and Feature Lockdown";
    ADMIN_COMMAND_MEDIA_NOT_READY = 0, 0x24, "Admin Command Media Not Ready";
    LBA_OUT_OF_RANGE = 0, 0x80, "LBA Out of Range";
    CAPACITY_EXCEEDED = 0, 0x81, "Capacity Exceeded";
    NAMESPACE_NOT_READY = 0, 0x82, "Namespace Not Ready";
    RESERVATION_CONFLICT = 0, 0x83, "Reservation Conflict";
    FORMAT_IN_PROGRESS = 0, 0x84, "Format In Progress";
    INVALID_VALUE_SIZE = 0, 0x85, "Invalid Value Size";
    INVALID_KEY_SIZE = 0, 0x86, "Invalid Key Size";
    KV_KEY_DOES_NOT_EXIST = 0, 0x87, "KV Key Does Not Exist";
    UNRECOVERED_ERROR = 0, 0x88, "Unrecovered Error";
    KEY_EXISTS = 0, 0x89, "Key Exists";

    // Command Specific Status. NVMe Base 2.0 §3.3.3.2.1.2.
    COMPLETION_QUEUE_INVALID = 1, 0x00, "Completion Queue Invalid";
    INVALID_QUEUE_IDENTIFIER = 1, 0x01, "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = 1, 0x02, "Invalid Queue Size";
    ABORT_COMMAND_LIMIT_EXCEEDED = 1, 0x03, "Abort Command Limit Exceeded";
    ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED = 1, 0x05, "Asynchronous Event Request Limit Exceeded";
    INVALID_FIRMWARE_SLOT = 1, 0x06, "Invalid Firmware Slot";
    INVALID_FIRMWARE_IMAGE = 1, 0x07, "Invalid Firmware Image";
    INVALID_INTERRUPT_VECTOR = 1, 0x08, "Invalid Interrupt Vector";
    INVALID_LOG_PAGE = 1, 0x09, "Invalid Log Page";
    INVALID_FORMAT = 1, 0x0a, "Invalid Format";
    FIRMWARE_NEEDS_CONVENTIONAL_RESET = 1, 0x0b, "Firmware Activation Requires Conventional Reset";
    INVALID_QUEUE_DELETION = 1, 0x0c, "Invalid Queue Deletion";
    FEATURE_NOT_SAVEABLE = 1, 0x0d, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = 1, 0x0e, "Feature Not Changeable";
    FEATURE_NOT_NAMESPACE_SPECIFIC = 1, 0x0f, "Feature Not Namespace Specific";
    FIRMWARE_NEEDS_SUBSYSTEM_RESET = 1, 0x10, "Firmware Activation Requires NVM Subsystem Reset";
    FIRMWARE_NEEDS_CONTROLLER_RESET = 1, 0x11, "Firmware Activation Requires Controller Level Reset";
    FIRMWARE_MAXIMUM_TIME_VIOLATION = 1, 0x12, "Firmware Activation Requires Maximum Time Violation";
    FIRMWARE_ACTIVATION_PROHIBITED = 1, 0x13, "Firmware Activation Prohibited";
    OVERLAPPING_RANGE = 1, 0x14, "Overlapping Range";
    NAMESPACE_INSUFFICIENT_CAPACITY = 1, 0x15, "Namespace Insufficient Capacity";
    NAMESPACE_IDENTIFIER_UNAVAILABLE = 1, 0x16, "Namespace Identifier Unavailable";
    NAMESPACE_ALREADY_ATTACHED = 1, 0x18, "Namespace Already Attached";
    NAMESPACE_IS_PRIVATE = 1, 0x19, "Namespace Is Private";
    NAMESPACE_NOT_ATTACHED = 1, 0x1a, "Namespace Not Attached";
    THIN_PROVISIONING_NOT_SUPPORTED = 1, 0x1b, "Thin Provisioning Not Supported";
    CONTROLLER_LIST_INVALID = 1, 0x1c, "Controller List Invalid";
    SELF_TEST_IN_PROGRESS = 1, 0x1d, "Device Self-test In Progress";
    BOOT_PARTITION_WRITE_PROHIBITED = 1, 0x1e, "Boot Partition Write Prohibited";
    INVALID_CONTROLLER_IDENTIFIER = 1, 0x1f, "Invalid Controller Identifier";
    INVALID_SECONDARY_CONTROLLER_STATE = 1, 0x20, "Invalid Secondary Controller State";
    INVALID_NUMBER_OF_CONTROLLER_RESOURCES = 1, 0x21, "Invalid Number of Controller Resources";
    INVALID_RESOURCE_IDENTIFIER = 1, 0x22, "Invalid Resource Identifier";
    SANITIZE_PROHIBITED_BY_PMR = 1, 0x23, "Sanitize Prohibited While Persistent Memory Region is Enabled";
    ANA_GROUP_IDENTIFIER_INVALID = 1, 0x24, "ANA Group Identifier Invalid";
    ANA_ATTACH_FAILED = 1, 0x25, "ANA Attach Failed";
    INSUFFICIENT_CAPACITY = 1, 0x26, "Insufficient Capacity";
    NAMESPACE_ATTACHMENT_LIMIT_EXCEEDED = 1, 0x27, "Namespace Attachment Limit Exceeded";
    PROHIBITION_NOT_SUPPORTED = 1, 0x28, "Prohibition of Command Execution Not Supported";
    IO_COMMAND_SET_NOT_SUPPORTED = 1, 0x29, "I/O Command Set Not Supported";
    IO_COMMAND_SET_NOT_ENABLED = 1, 0x2a, "I/O Command Set Not Enabled";
    IO_COMMAND_SET_COMBINATION_REJECTED = 1, 0x2b, "I/O Command Set Combination Rejected";
    INVALID_IO_COMMAND_SET = 1, 0x2c, "Invalid I/O Command Set";
    IDENTIFIER_UNAVAILABLE = 1, 0x2d, "Identifier Unavailable";
    CONFLICTING_ATTRIBUTES = 1, 0x80, "Conflicting Attributes";
    INVALID_PROTECTION_INFORMATION = 1, 0x81, "Invalid Protection Information";
    WRITE_TO_READ_ONLY_RANGE = 1, 0x82, "Attempted Write to Read Only Range";
    COMMAND_SIZE_LIMIT_EXCEEDED = 1, 0x83, "Command Size Limit Exceeded";
    ZONED_BOUNDARY_ERROR = 1, 0xb8, "Zoned Boundary Error";
    ZONE_IS_FULL = 1, 0xb9, "Zone Is Full";
    ZONE_IS_READ_ONLY = 1, 0xba, "Zone Is Read Only";
    ZONE_IS_OFFLINE = 1, 0xbb, "Zone Is Offline";
    ZONE_INVALID_WRITE = 1, 0xbc, "Zone Invalid Write";
    TOO_MANY_ACTIVE_ZONES = 1, 0xbd, "Too Many Active Zones";
    TOO_MANY_OPEN_ZONES = 1, 0xbe, "Too Many Open Zones";
    INVALID_ZONE_STATE_TRANSITION = 1, 0xbf, "Invalid Zone State Transition";

    // Media and Data Integrity Errors. NVMe Base 2.0 §3.3.3.2.1.3.
    WRITE_FAULT = 2, 0x80, "Write Fault";
    UNRECOVERED_READ_ERROR = 2, 0x81, "Unrecovered Read Error";
    GUARD_CHECK_ERROR = 2, 0x82, "End-to-end Guard Check Error";
    APPLICATION_TAG_CHECK_ERROR = 2, 0x83, "End-to-end Application Tag Check Error";
    REFERENCE_TAG_CHECK_ERROR = 2, 0x84, "End-to-end Reference Tag Check Error";
    COMPARE_FAILURE = 2, 0x85, "Compare Failure";
    ACCESS_DENIED = 2, 0x86, "Access Denied";
    DEALLOCATED_OR_UNWRITTEN_BLOCK = 2, 0x87, "Deallocated or Unwritten Logical Block";
    STORAGE_TAG_CHECK_ERROR = 2, 0x88, "End-to-End Storage Tag Check Error";

    // Path Related Status. NVMe Base 2.0 §3.3.3.2.1.4.
    INTERNAL_PATH_ERROR = 3, 0x00, "Internal Path Error";
    ANA_PERSISTENT_LOSS = 3, 0x01, "Asymmetric Access Persistent Loss";
    ANA_INACCESSIBLE = 3, 0x02, "Asymmetric Access Inaccessible";
    ANA_TRANSITION = 3, 0x03, "Asymmetric Access Transition";
    CONTROLLER_PATHING_ERROR = 3, 0x60, "Controller Pathing Error";
    HOST_PATHING_ERROR = 3, 0x70, "Host Pathing Error";
    ABORTED_BY_HOST = 3, 0x71, "Command Aborted By Host";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashSet, string::ToString};

    #[test]
    fn fields_stand_alone() {
        check_fields!(Status);
        assert_eq!(Status::default().with_sc(0xff).bits(), 0xff);
        assert_eq!(Status::default().with_sct(0xff).bits(), 0x700);
        assert_eq!(Status::default().with_crd(0xff).bits(), 0x1800);
        assert_eq!(Status::default().with_more(true).bits(), 0x2000);
        assert_eq!(Status::default().with_dnr(true).bits(), 0x4000);
    }

    #[test]
    fn every_status_has_its_own_code_and_name() {
        let codes: HashSet<u16> = Status::ALL.iter().map(|(status, _)| status.bits()).collect();
        let names: HashSet<&str> = Status::ALL.iter().map(|(_, name)| *name).collect();
        assert_eq!(codes.len(), Status::ALL.len());
        assert_eq!(names.len(), Status::ALL.len());
        for (status, name) in Status::ALL {
            assert_eq!(status.to_string(), *name);
            let marked = status.with_dnr(true).with_more(true).with_crd(3);
            assert_eq!(marked.code(), *status);
            assert_eq!(marked.is_success(), *status == Status::SUCCESS);
        }
    }

    #[test]
    fn known_raw_values() {
        assert_eq!(Status::LBA_OUT_OF_RANGE.bits(), 0x080);
        assert_eq!(Status::INVALID_QUEUE_SIZE.bits(), 0x102);
        assert_eq!(Status::COMPARE_FAILURE.bits(), 0x285);
        assert_eq!(Status::ABORTED_BY_HOST.bits(), 0x371);
        assert_eq!(
            Status::from_bits(0x4002).to_string(),
            "Invalid Field in Command (do not retry)"
        );
        assert_eq!(Status::from_bits(0x7ab).to_string(), "status type 0x7 code 0xab");
    }
}
