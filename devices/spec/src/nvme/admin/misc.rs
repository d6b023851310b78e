//! Doorbell Buffer Config, Keep Alive, Sanitize, Security Send and Receive.
//! NVMe Base 2.0 §5.8, §5.18, §5.24, §5.25, §5.26.

use super::Opcode;
use crate::nvme::entry::SubmissionEntry;

/// Keep Alive. NVMe Base 2.0 §5.18.
pub const fn keep_alive() -> SubmissionEntry {
    SubmissionEntry::new(Opcode::KEEP_ALIVE.0)
}

/// Doorbell Buffer Config: doorbells in memory. NVMe Base 2.0 §5.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorbellBufferConfig {
    /// Shadow Doorbell buffer, one memory page, laid out as the doorbell registers: PRP1.
    pub shadow: u64,
    /// EventIdx buffer, one memory page, of the same layout: PRP2.
    pub event_index: u64,
}

impl DoorbellBufferConfig {
    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        SubmissionEntry::new(Opcode::DOORBELL_BUFFER_CONFIG.0)
            .with_prps(self.shadow, self.event_index)
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        Self { shadow: entry.prp1(), event_index: entry.prp2() }
    }
}

codes! {
    /// Sanitize Action. NVMe Base 2.0 §5.24.
    pub struct SanitizeAction(u8);
    EXIT_FAILURE_MODE = 1, "Exit Failure Mode";
    BLOCK_ERASE = 2, "Block Erase";
    OVERWRITE = 3, "Overwrite";
    CRYPTO_ERASE = 4, "Crypto Erase";
}

bits! {
    /// Command Dword 10 of Sanitize. NVMe Base 2.0 §5.24.
    pub struct SanitizeDword10(u32);
    /// Sanitize Action.
    sanact / with_sanact = [2:0] u8;
    /// Allow Unrestricted Sanitize Exit.
    ause / with_ause = [3:3] bool;
    /// Overwrite Pass Count; 0 means 16.
    owpass / with_owpass = [7:4] u8;
    /// Overwrite Invert Pattern Between Passes.
    oipbp / with_oipbp = [8:8] bool;
    /// No-Deallocate After Sanitize.
    ndas / with_ndas = [9:9] bool;
}

/// Sanitize: all user data of the NVM subsystem is lost. NVMe Base 2.0 §5.24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sanitize {
    /// What to do.
    pub dword10: SanitizeDword10,
    /// Overwrite Pattern.
    pub ovrpat: u32,
}

impl Sanitize {
    /// By `action`.
    pub const fn new(action: SanitizeAction) -> Self {
        Self { dword10: SanitizeDword10::from_bits(0).with_sanact(action.0), ovrpat: 0 }
    }

    /// What to do.
    pub const fn action(self) -> SanitizeAction {
        SanitizeAction(self.dword10.sanact())
    }

    /// The command.
    pub const fn to_entry(self) -> SubmissionEntry {
        SubmissionEntry::new(Opcode::SANITIZE.0)
            .with_cdw10(self.dword10.bits())
            .with_cdw11(self.ovrpat)
    }

    /// What `entry` says, taken as this command.
    pub const fn parse(entry: &SubmissionEntry) -> Self {
        Self { dword10: SanitizeDword10::from_bits(entry.cdw10()), ovrpat: entry.cdw11() }
    }
}

bits! {
    /// Command Dword 10 of Security Send and Security Receive.
    pub struct SecurityDword10(u32);
    /// NVMe Security Specific Field.
    nssf / with_nssf = [7:0] u8;
    /// SP Specific.
    spsp / with_spsp = [23:8] u16;
    /// Security Protocol.
    secp / with_secp = [31:24] u8;
}

macro_rules! security {
    ($(#[$meta:meta])* $Name:ident, $opcode:ident, $length:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $Name {
            /// Security protocol and what is specific to it.
            pub protocol: SecurityDword10,
            #[doc = $length]
            pub length: u32,
        }

        impl $Name {
            /// The command.
            pub const fn to_entry(self) -> SubmissionEntry {
                SubmissionEntry::new(Opcode::$opcode.0)
                    .with_cdw10(self.protocol.bits())
                    .with_cdw11(self.length)
            }

            /// What `entry` says, taken as this command.
            pub const fn parse(entry: &SubmissionEntry) -> Self {
                Self {
                    protocol: SecurityDword10::from_bits(entry.cdw10()),
                    length: entry.cdw11(),
                }
            }
        }
    };
}

security! {
    /// Security Send. NVMe Base 2.0 §5.26.
    SecuritySend, SECURITY_SEND, "Transfer Length in bytes."
}

security! {
    /// Security Receive. NVMe Base 2.0 §5.25.
    SecurityReceive, SECURITY_RECEIVE, "Allocation Length in bytes."
}
