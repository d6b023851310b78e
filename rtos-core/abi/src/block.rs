//! The entries of a block service's rings.

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Fill the buffer.
    Read = 1,
    /// Write the buffer.
    Write = 2,
    /// Put what was written on the medium.
    Flush = 3,
    /// The blocks may be forgotten.
    Discard = 4,
    /// The blocks are to read as zeroes.
    WriteZeroes = 5,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::Read,
            2 => Self::Write,
            3 => Self::Flush,
            4 => Self::Discard,
            5 => Self::WriteZeroes,
            _ => return None,
        })
    }

    /// Whether it changes what is stored.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Discard | Self::WriteZeroes)
    }

    /// Whether it moves data.
    pub const fn has_data(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }
}

/// A submission entry, as four words.
///
/// | word | bits | field |
/// |---|---|---|
/// | 0 | 0-7 | opcode |
/// | 0 | 8 | force unit access |
/// | 0 | 32-63 | blocks |
/// | 1 | | first block |
/// | 2 | | where the data start in the client's arena, in bytes |
/// | 3 | | tag |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submission {
    /// What to do.
    pub opcode: Opcode,
    /// Done only once it is on the medium.
    pub fua: bool,
    /// How many blocks.
    pub blocks: u32,
    /// The first block.
    pub lba: u64,
    /// Where the data start in the client's arena, in bytes.
    pub offset: u64,
    /// The client's own.
    pub tag: u64,
}

impl Submission {
    /// As words.
    #[inline]
    pub const fn to_words(self) -> [u64; 4] {
        let first = self.opcode as u64 | (self.fua as u64) << 8 | (self.blocks as u64) << 32;
        [first, self.lba, self.offset, self.tag]
    }

    /// From words; nothing where they are no request.
    #[inline]
    pub const fn from_words(words: [u64; 4]) -> Option<Self> {
        let first = words[0];
        if first & 0xffff_fe00 != 0 {
            return None;
        }
        let Some(opcode) = Opcode::from_bits(first as u8) else { return None };
        Some(Self {
            opcode,
            fua: first & 0x100 != 0,
            blocks: (first >> 32) as u32,
            lba: words[1],
            offset: words[2],
            tag: words[3],
        })
    }
}

/// How a request ended: a kind in the upper half and the device's own code in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Success,
    /// The device reported an error; the code is its own.
    Device(u16),
    /// The request went beyond the end.
    OutOfRange,
    /// Aborted, as it took too long; whether it was carried out is unknown.
    Aborted,
    /// The device was reset; whether it was carried out is unknown.
    Reset,
    /// The device is gone; whether it was carried out is unknown.
    Gone,
    /// Three drivers in a row died while they worked on it.
    Poisoned,
    /// It was no request that can be carried out.
    Invalid,
    /// The client may not do this.
    Denied,
}

impl Outcome {
    /// As it crosses the boundary.
    pub const fn to_bits(self) -> u32 {
        match self {
            Self::Success => 0,
            Self::Device(code) => 1 << 16 | code as u32,
            Self::OutOfRange => 2 << 16,
            Self::Aborted => 3 << 16,
            Self::Reset => 4 << 16,
            Self::Gone => 5 << 16,
            Self::Poisoned => 6 << 16,
            Self::Invalid => 7 << 16,
            Self::Denied => 8 << 16,
        }
    }

    /// From what the other side wrote; what nobody knows is an error of the device.
    pub const fn from_bits(bits: u32) -> Self {
        match bits >> 16 {
            0 if bits == 0 => Self::Success,
            2 => Self::OutOfRange,
            3 => Self::Aborted,
            4 => Self::Reset,
            5 => Self::Gone,
            6 => Self::Poisoned,
            7 => Self::Invalid,
            8 => Self::Denied,
            _ => Self::Device(bits as u16),
        }
    }
}

/// A completion entry, as two words: the tag, and the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The tag of the request.
    pub tag: u64,
    /// How it ended.
    pub outcome: Outcome,
}

impl Completion {
    /// As words.
    #[inline]
    pub const fn to_words(self) -> [u64; 2] {
        [self.tag, self.outcome.to_bits() as u64]
    }

    /// From words.
    #[inline]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { tag: words[0], outcome: Outcome::from_bits(words[1] as u32) }
    }
}

#[cfg(test)]
mod tests;
