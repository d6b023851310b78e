//! Register access: windows onto a BAR, mapped or trapped.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::mapping::Mapping;
use crate::transport::Transport;

/// Part of a BAR.
///
/// A mapped window is a bounds-checked pointer that is read and written volatile, one
/// instruction an access, never split or merged. A trapped one asks the transport, a call an
/// access. Reads return all ones from a device that is gone, as PCI does; the transport knows
/// why ([`Device::lost`](crate::Device::lost)).
///
/// Offsets are the program's own, so one outside the window is a defect of the program and
/// panics. Offsets that follow from what a device says go through
/// [`register32`](Self::register32), which returns an error.
#[derive(Clone)]
pub struct Window {
    access: Access,
    len: usize,
}

#[derive(Clone)]
enum Access {
    Mapped(MappedAccess),
    Trapped(TrappedAccess),
}

#[derive(Clone)]
struct MappedAccess {
    base: NonNull<u8>,
    // Keeps what `base` points into.
    _mapping: Arc<Mapping>,
}

// SAFETY: `base` points into the mapping that lies beside it, which is `Send` and `Sync`, and
// is only used for volatile accesses of machine words, which any thread may do at any time.
unsafe impl Send for MappedAccess {}
// SAFETY: as above.
unsafe impl Sync for MappedAccess {}

#[derive(Clone)]
struct TrappedAccess {
    transport: Arc<dyn Transport>,
    bar: u8,
    offset: u64,
}

/// A window that cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{len} bytes at offset {offset:#x} do not fit (aligned) into {available:#x} bytes of registers"
)]
pub struct WindowError {
    /// Where it was to start, in bytes.
    pub offset: u64,
    /// How long it was to be, in bytes.
    pub len: u64,
    /// How much there is, in bytes.
    pub available: u64,
}

macro_rules! accessors {
    ($($read:ident $write:ident $word:ty, $bits:literal;)*) => { $(
        #[doc = concat!("Reads the ", $bits, "-bit little-endian register at byte `offset`.")]
        ///
        /// # Panics
        /// When the register does not lie, aligned, in the window.
        #[inline]
        pub fn $read(&self, offset: usize) -> $word {
            self.check(offset, size_of::<$word>());
            match &self.access {
                // SAFETY: `check` saw that the word lies aligned in the window, and the window
                // in the mapping, which `_mapping` keeps; the memory is shared, so volatile.
                Access::Mapped(mapped) => <$word>::from_le(unsafe {
                    mapped.base.add(offset).cast::<$word>().read_volatile()
                }),
                Access::Trapped(trapped) => {
                    let mut bytes = [0xff; size_of::<$word>()];
                    trapped.read(offset, &mut bytes);
                    <$word>::from_le_bytes(bytes)
                }
            }
        }

        #[doc = concat!("Writes the ", $bits, "-bit little-endian register at byte `offset`.")]
        ///
        /// # Panics
        /// When the register does not lie, aligned, in the window.
        #[inline]
        pub fn $write(&self, offset: usize, value: $word) {
            self.check(offset, size_of::<$word>());
            match &self.access {
                // SAFETY: as for reading; no Rust reference to this memory exists.
                Access::Mapped(mapped) => unsafe {
                    mapped.base.add(offset).cast::<$word>().write_volatile(value.to_le());
                },
                Access::Trapped(trapped) => trapped.write(offset, &value.to_le_bytes()),
            }
        }
    )* };
}

impl Window {
    /// `len` bytes at `offset` of a mapping.
    ///
    /// # Errors
    /// When they do not lie in it, or not aligned to 8 bytes.
    pub fn mapped(mapping: Arc<Mapping>, offset: usize, len: usize) -> Result<Self, WindowError> {
        let available = mapping.len();
        if !offset.is_multiple_of(8) || offset.checked_add(len).is_none_or(|end| end > available) {
            return Err(WindowError {
                offset: offset as u64,
                len: len as u64,
                available: available as u64,
            });
        }
        // SAFETY: `offset` lies in the mapping, so the pointer stays inside one object.
        let base = unsafe { mapping.base().add(offset) };
        Ok(Self { access: Access::Mapped(MappedAccess { base, _mapping: mapping }), len })
    }

    /// `len` bytes at `offset` of BAR `bar`, reached by calls.
    pub fn trapped(transport: Arc<dyn Transport>, bar: u8, offset: u64, len: usize) -> Self {
        Self { access: Access::Trapped(TrappedAccess { transport, bar, offset }), len }
    }

    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "an empty window has no use")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether an access costs an instruction (true) or a call to the transport (false).
    pub fn is_mapped(&self) -> bool {
        matches!(self.access, Access::Mapped(_))
    }

    accessors! {
        read8 write8 u8, "8";
        read16 write16 u16, "16";
        read32 write32 u32, "32";
        read64 write64 u64, "64";
    }

    /// The 32-bit register at byte `offset`, checked once, for a data path.
    ///
    /// # Errors
    /// When it does not lie, aligned, in the window.
    pub fn register32(&self, offset: usize) -> Result<Register32, WindowError> {
        if !offset.is_multiple_of(4) || offset.checked_add(4).is_none_or(|end| end > self.len) {
            return Err(WindowError { offset: offset as u64, len: 4, available: self.len as u64 });
        }
        Ok(Register32 { window: self.clone(), offset })
    }

    #[inline]
    fn check(&self, offset: usize, size: usize) {
        assert!(
            offset.is_multiple_of(size) && offset < self.len && size <= self.len - offset,
            "register of {size} bytes at {offset:#x} in a window of {:#x} bytes",
            self.len
        );
    }
}

/// One 32-bit register, such as a doorbell.
#[derive(Clone)]
pub struct Register32 {
    window: Window,
    offset: usize,
}

impl Register32 {
    /// Reads it.
    #[inline]
    pub fn read(&self) -> u32 {
        self.window.read32(self.offset)
    }

    /// Writes it.
    #[inline]
    pub fn write(&self, value: u32) {
        self.window.write32(self.offset, value);
    }
}

impl TrappedAccess {
    #[cold]
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        if let Err(error) = self.transport.read_bar(self.bar, self.offset + offset as u64, bytes) {
            tracing::debug!(%error, bar = self.bar, offset, "register read failed");
            bytes.fill(0xff);
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        if let Err(error) = self.transport.write_bar(self.bar, self.offset + offset as u64, bytes) {
            tracing::debug!(%error, bar = self.bar, offset, "register write failed");
        }
    }
}
