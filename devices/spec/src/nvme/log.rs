//! What Get Log Page returns. NVMe Base 2.0 §5.16.1.
//!
//! The Changed Attached Namespace List is a
//! [`NamespaceList`](super::identify::NamespaceList).

use super::identify::Text;
use super::status::Status;
use core::fmt;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Error Information log entry, 64 bytes; the newest comes first. NVMe Base 2.0 §5.16.1.2.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ErrorInformation {
    /// Error Count: rises by one an error, over power cycles; 0 for an entry not in use.
    pub error_count: U64,
    /// Submission Queue ID.
    pub sqid: U16,
    /// Command ID.
    pub cid: U16,
    /// Status Field in bits 15:1; see [`status`](Self::status).
    pub status: U16,
    /// Parameter Error Location.
    pub location: U16,
    /// LBA.
    pub lba: U64,
    /// Namespace.
    pub nsid: U32,
    /// Vendor Specific Information Available: a log page, or 0.
    pub vendor_log: u8,
    /// Transport Type.
    pub trtype: u8,
    reserved_30: [u8; 2],
    /// Command Specific Information.
    pub command_specific: U64,
    /// Transport Type Specific Information.
    pub transport_specific: U16,
    reserved_42: [u8; 22],
}

const _: () = assert!(size_of::<ErrorInformation>() == 64);

impl ErrorInformation {
    /// Status Field.
    pub const fn status(&self) -> Status {
        Status::from_bits(self.status.get() >> 1)
    }

    /// Sets [`status`](Self::status).
    pub const fn set_status(&mut self, status: Status) {
        self.status = U16::new(status.bits() << 1);
    }

    /// Parameter Error Location.
    pub const fn location(&self) -> ParameterLocation {
        ParameterLocation::from_bits(self.location.get())
    }
}

impl fmt::Debug for ErrorInformation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorInformation")
            .field("error_count", &self.error_count.get())
            .field("sqid", &self.sqid.get())
            .field("cid", &self.cid.get())
            .field("status", &self.status())
            .field("location", &self.location())
            .field("lba", &self.lba.get())
            .field("nsid", &self.nsid.get())
            .finish_non_exhaustive()
    }
}

bits! {
    /// Parameter Error Location: which bit of a command was at fault.
    pub struct ParameterLocation(u16);
    /// Byte in the command.
    byte / with_byte = [7:0] u8;
    /// Bit in the byte.
    bit / with_bit = [10:8] u8;
}

/// SMART / Health Information log, 512 bytes. NVMe Base 2.0 §5.16.1.3.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SmartHealth {
    /// Critical Warning.
    pub critical_warning: CriticalWarning,
    /// Composite Temperature in kelvins.
    pub temperature: U16,
    /// Available Spare in percent, 0 to 100.
    pub available_spare: u8,
    /// Available Spare Threshold in percent.
    pub available_spare_threshold: u8,
    /// Percentage Used: estimated wear, may go over 100.
    pub percentage_used: u8,
    /// Endurance Group Critical Warning Summary.
    pub endurance_group_warning: u8,
    reserved_7: [u8; 25],
    /// Data Units Read: thousands of 512 bytes.
    pub data_units_read: U128,
    /// Data Units Written: thousands of 512 bytes.
    pub data_units_written: U128,
    /// Host Read Commands.
    pub host_reads: U128,
    /// Host Write Commands.
    pub host_writes: U128,
    /// Controller Busy Time in minutes.
    pub busy_minutes: U128,
    /// Power Cycles.
    pub power_cycles: U128,
    /// Power On Hours.
    pub power_on_hours: U128,
    /// Unsafe Shutdowns.
    pub unsafe_shutdowns: U128,
    /// Media and Data Integrity Errors.
    pub media_errors: U128,
    /// Number of Error Information Log Entries over the life of the controller.
    pub error_entries: U128,
    /// Warning Composite Temperature Time in minutes.
    pub warning_temperature_minutes: U32,
    /// Critical Composite Temperature Time in minutes.
    pub critical_temperature_minutes: U32,
    /// Temperature Sensors 1 to 8 in kelvins; 0 for one that is not there.
    pub sensors: [U16; 8],
    /// Thermal Management Temperature 1 and 2 Transition Count.
    pub thermal_transitions: [U32; 2],
    /// Total Time For Thermal Management Temperature 1 and 2, in seconds.
    pub thermal_seconds: [U32; 2],
    reserved_232: [u8; 280],
}

const _: () = assert!(size_of::<SmartHealth>() == 512);

impl SmartHealth {
    /// Composite temperature in degrees Celsius; `None` where the log says 0 K.
    pub const fn celsius(&self) -> Option<i32> {
        celsius(self.temperature.get())
    }

    /// Bytes that [`data_units_read`](Self::data_units_read) stands for, at most; stays
    /// at the largest number where the log claims more.
    pub const fn bytes_read(&self) -> u128 {
        self.data_units_read.get().saturating_mul(512_000)
    }

    /// Bytes that [`data_units_written`](Self::data_units_written) stands for, as
    /// [`bytes_read`](Self::bytes_read).
    pub const fn bytes_written(&self) -> u128 {
        self.data_units_written.get().saturating_mul(512_000)
    }
}

/// Kelvins, as NVMe has temperatures, in degrees Celsius; `None` for 0, which says that
/// there is no such temperature.
pub const fn celsius(kelvins: u16) -> Option<i32> {
    if kelvins == 0 { None } else { Some(kelvins as i32 - 273) }
}

impl Default for SmartHealth {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl fmt::Debug for SmartHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmartHealth")
            .field("critical_warning", &self.critical_warning)
            .field("temperature", &self.temperature.get())
            .field("available_spare", &self.available_spare)
            .field("percentage_used", &self.percentage_used)
            .field("data_units_read", &self.data_units_read.get())
            .field("data_units_written", &self.data_units_written.get())
            .field("power_cycles", &self.power_cycles.get())
            .field("power_on_hours", &self.power_on_hours.get())
            .field("media_errors", &self.media_errors.get())
            .finish_non_exhaustive()
    }
}

bits! {
    /// Critical Warning, byte 0 of the SMART log.
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct CriticalWarning(u8);
    /// Available spare is below the threshold.
    spare / with_spare = [0:0] bool;
    /// A temperature is past a threshold.
    temperature / with_temperature = [1:1] bool;
    /// Reliability is degraded by media or internal errors.
    reliability / with_reliability = [2:2] bool;
    /// All media is read only.
    read_only / with_read_only = [3:3] bool;
    /// The volatile memory backup device has failed.
    backup_failed / with_backup_failed = [4:4] bool;
    /// The Persistent Memory Region is read only or unreliable.
    pmr_unreliable / with_pmr_unreliable = [5:5] bool;
}

/// Firmware Slot Information log, 512 bytes. NVMe Base 2.0 §5.16.1.4.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FirmwareSlots {
    /// Active Firmware Info.
    pub afi: ActiveFirmware,
    reserved_1: [u8; 7],
    /// Firmware Revision for slots 1 to 7, ASCII padded with spaces; zeroes for one that
    /// is empty.
    pub revisions: [[u8; 8]; 7],
    reserved_64: [u8; 448],
}

const _: () = assert!(size_of::<FirmwareSlots>() == 512);

impl FirmwareSlots {
    /// Firmware revision in `slot`, 1 to 7; `None` for another slot.
    pub fn revision(&self, slot: u8) -> Option<Text<'_>> {
        let index = usize::from(slot).checked_sub(1)?;
        self.revisions.get(index).map(|revision| Text::new(revision))
    }
}

impl Default for FirmwareSlots {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl fmt::Debug for FirmwareSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirmwareSlots")
            .field("afi", &self.afi)
            .field("revisions", &self.revisions.each_ref().map(|revision| Text::new(revision)))
            .finish_non_exhaustive()
    }
}

bits! {
    /// Active Firmware Info (AFI).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct ActiveFirmware(u8);
    /// Slot that runs, 1 to 7.
    active / with_active = [2:0] u8;
    /// Slot that will run after the next reset; 0 not told.
    next / with_next = [6:4] u8;
}

/// Commands Supported and Effects log, 4096 bytes. NVMe Base 2.0 §5.16.1.6.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CommandsEffects {
    admin: [U32; 256],
    io: [U32; 256],
    reserved_2048: [u8; 2048],
}

const _: () = assert!(size_of::<CommandsEffects>() == 4096);

impl CommandsEffects {
    /// Of an admin command.
    pub fn admin(&self, opcode: super::admin::Opcode) -> Effects {
        Effects::from_bits(self.admin[usize::from(opcode.0)].get())
    }

    /// Of an I/O command.
    pub fn io(&self, opcode: super::io::Opcode) -> Effects {
        Effects::from_bits(self.io[usize::from(opcode.0)].get())
    }

    /// Sets [`admin`](Self::admin).
    pub fn set_admin(&mut self, opcode: super::admin::Opcode, effects: Effects) {
        self.admin[usize::from(opcode.0)].set(effects.bits());
    }

    /// Sets [`io`](Self::io).
    pub fn set_io(&mut self, opcode: super::io::Opcode, effects: Effects) {
        self.io[usize::from(opcode.0)].set(effects.bits());
    }
}

impl Default for CommandsEffects {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl fmt::Debug for CommandsEffects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let supported = |effects: &[U32; 256]| {
            effects.iter().filter(|effects| Effects::from_bits(effects.get()).csupp()).count()
        };
        f.debug_struct("CommandsEffects")
            .field("admin_commands", &supported(&self.admin))
            .field("io_commands", &supported(&self.io))
            .finish_non_exhaustive()
    }
}

bits! {
    /// Commands Supported and Effects of one command. NVMe Base 2.0 §5.16.1.6.
    pub struct Effects(u32);
    /// Command Supported.
    csupp / with_csupp = [0:0] bool;
    /// Logical Block Content Change.
    lbcc / with_lbcc = [1:1] bool;
    /// Namespace Capability Change.
    ncc / with_ncc = [2:2] bool;
    /// Namespace Inventory Change.
    nic / with_nic = [3:3] bool;
    /// Controller Capability Change.
    ccc / with_ccc = [4:4] bool;
    /// Command Submission and Execution: 0 no restriction, 1 no other command for the
    /// namespace, 2 no other command at all.
    cse / with_cse = [18:16] u8;
    /// UUID Selection Supported.
    uuid / with_uuid = [19:19] bool;
    /// Command Scope.
    csp / with_csp = [31:20] u16;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::{admin, io};
    use core::mem::offset_of;
    use std::string::ToString;

    #[test]
    fn fields_stand_alone() {
        check_fields!(ParameterLocation, CriticalWarning, ActiveFirmware, Effects);
        assert_eq!(CriticalWarning::default().with_read_only(true).bits(), 8);
        assert_eq!(ActiveFirmware::default().with_next(0xff).bits(), 0x70);
        assert_eq!(Effects::default().with_cse(0xff).bits(), 0x7_0000);
    }

    #[test]
    fn error_information_golden_bytes() {
        let mut bytes = [0u8; 64];
        bytes[..16]
            .copy_from_slice(&[1, 2, 0, 0, 0, 0, 0, 0, 3, 0, 0x11, 0x22, 0x05, 0xc1, 0x2c, 0x05]);
        bytes[16..24].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        bytes[24] = 9;
        bytes[32] = 0x77;
        bytes[40] = 0x88;
        let entry = ErrorInformation::read_from_bytes(&bytes).unwrap();
        assert_eq!(entry.error_count.get(), 0x201);
        assert_eq!((entry.sqid.get(), entry.cid.get()), (3, 0x2211));
        assert_eq!(entry.status(), Status::from_bits(0x6082));
        assert_eq!((entry.location().byte(), entry.location().bit()), (0x2c, 5));
        assert_eq!(entry.lba.get(), 0x0102_0304_0506_0708);
        assert_eq!(entry.nsid.get(), 9);
        let mut built = ErrorInformation {
            error_count: 0x201.into(),
            sqid: 3.into(),
            cid: 0x2211.into(),
            location: ParameterLocation::default().with_byte(0x2c).with_bit(5).bits().into(),
            lba: 0x0102_0304_0506_0708.into(),
            nsid: 9.into(),
            command_specific: 0x77.into(),
            transport_specific: 0x88.into(),
            ..ErrorInformation::default()
        };
        built.set_status(Status::from_bits(0x6082));
        bytes[12] = 0x04;
        assert_eq!(built.as_bytes(), bytes);
    }

    #[test]
    fn smart_golden_bytes() {
        macro_rules! offsets {
            ($($field:ident $at:literal,)*) => {
                $(assert_eq!(offset_of!(SmartHealth, $field), $at, stringify!($field));)*
            };
        }
        offsets! {
            critical_warning 0, temperature 1, available_spare 3, available_spare_threshold 4,
            percentage_used 5, endurance_group_warning 6, data_units_read 32,
            data_units_written 48, host_reads 64, host_writes 80, busy_minutes 96,
            power_cycles 112, power_on_hours 128, unsafe_shutdowns 144, media_errors 160,
            error_entries 176, warning_temperature_minutes 192, critical_temperature_minutes 196,
            sensors 200, thermal_transitions 216, thermal_seconds 224,
        }
        let mut bytes = [0u8; 512];
        bytes[..6].copy_from_slice(&[2, 0x36, 0x01, 100, 10, 3]);
        bytes[32] = 5;
        bytes[63] = 0x80;
        bytes[202] = 0x40;
        let log = SmartHealth::read_from_bytes(&bytes).unwrap();
        assert_eq!(log.celsius(), Some(37));
        assert_eq!(log.bytes_read(), 5 * 512_000);
        assert_eq!(log.data_units_written.get(), 0x80 << 120);
        assert_eq!(log.bytes_written(), u128::MAX);
        assert_eq!(log.sensors[1].get(), 0x40);
        assert_eq!(celsius(0), None);
        let mut built = SmartHealth {
            critical_warning: CriticalWarning::default().with_temperature(true),
            temperature: 310.into(),
            available_spare: 100,
            available_spare_threshold: 10,
            percentage_used: 3,
            data_units_read: 5.into(),
            data_units_written: (0x80 << 120).into(),
            ..SmartHealth::default()
        };
        built.sensors[1] = 0x40.into();
        assert_eq!(built.as_bytes(), bytes);
    }

    #[test]
    fn firmware_slots_golden_bytes() {
        let mut bytes = [0u8; 512];
        bytes[0] = 0x21;
        bytes[8..16].copy_from_slice(b"1.0     ");
        bytes[16..24].copy_from_slice(b"1.1     ");
        let log = FirmwareSlots::read_from_bytes(&bytes).unwrap();
        assert_eq!((log.afi.active(), log.afi.next()), (1, 2));
        assert_eq!(log.revision(2).unwrap().to_string(), "1.1");
        assert_eq!(log.revision(7).unwrap().to_string(), "");
        assert_eq!((log.revision(0), log.revision(8)), (None, None));
        let mut built = FirmwareSlots {
            afi: ActiveFirmware::default().with_active(1).with_next(2),
            ..FirmwareSlots::default()
        };
        built.revisions[0] = *b"1.0     ";
        built.revisions[1] = *b"1.1     ";
        assert_eq!(built.as_bytes(), bytes);
    }

    #[test]
    fn effects_golden_bytes() {
        let mut log = CommandsEffects::default();
        log.set_admin(admin::Opcode::FORMAT_NVM, Effects::from_bits(0x0002_0003));
        log.set_io(io::Opcode::WRITE, Effects::default().with_csupp(true).with_lbcc(true));
        let bytes = log.as_bytes();
        assert_eq!(bytes[0x200..0x204], [3, 0, 2, 0]);
        assert_eq!(bytes[0x404..0x408], [3, 0, 0, 0]);
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 3);
        let read = CommandsEffects::read_from_bytes(bytes).unwrap();
        assert_eq!(read.admin(admin::Opcode::FORMAT_NVM).cse(), 2);
        assert!(read.io(io::Opcode::WRITE).lbcc());
        assert!(!read.io(io::Opcode::READ).csupp());
    }
}
