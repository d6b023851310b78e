//! What a transport provides: how registers, DMA and interrupts of a device are reached.

use std::fmt;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::arena::Arena;
use crate::interrupt::InterruptKind;
use crate::mapping::Mapping;

/// The kinds of transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// Linux's VFIO: a real device, or one of a virtual machine.
    Vfio,
    /// A vfio-user server: a software device in another process.
    VfioUser,
    /// A model in this process.
    Inline,
    /// A device that the core holds for this process.
    Held,
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vfio => "vfio",
            Self::VfioUser => "vfio-user",
            Self::Inline => "inline",
            Self::Held => "held by the core",
        })
    }
}

/// A BAR as the transport offers it; `size` 0 where the device does not have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BarInfo {
    /// Length in bytes.
    pub size: u64,
    /// Page-aligned parts that can be mapped; accesses to the rest are trapped.
    pub mappable: Vec<Range<u64>>,
}

/// Where DMA memory may lie and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DmaLimits {
    /// Ranges of I/O virtual addresses that the IOMMU and the transport can map.
    pub ranges: Vec<RangeInclusive<u64>>,
    /// Mappings have to start and end at multiples of this many bytes.
    pub granule: u64,
}

/// A request to a transport that failed.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The system or the peer refused.
    #[error("{action}: {error}")]
    Io {
        /// What was tried.
        action: String,
        /// What came back.
        #[source]
        error: io::Error,
    },
    /// The device or its server is gone, or broke the protocol and was given up.
    #[error("{action}: the device is gone: {reason}")]
    Gone {
        /// What was tried.
        action: String,
        /// How it was lost.
        reason: String,
    },
    /// The device or its transport does not offer this.
    #[error("{0}")]
    Unsupported(String),
    /// The peer or the device said something that cannot be.
    #[error("{action}: {claim}")]
    Malformed {
        /// What was tried.
        action: String,
        /// What came back, and what would have been right.
        claim: String,
    },
}

impl TransportError {
    /// An error of the system while trying `action`.
    pub fn io(action: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self::Io { action: action.into(), error: error.into() }
    }

    /// A claim that does not hold, met while trying `action`.
    pub fn malformed(action: impl Into<String>, claim: impl Into<String>) -> Self {
        Self::Malformed { action: action.into(), claim: claim.into() }
    }
}

/// One device's connection. All methods may be called from any thread; none belongs on a data
/// path but [`write_bar`](Self::write_bar) for doorbells that the transport cannot map.
pub trait Transport: Send + Sync {
    /// Which kind it is.
    fn kind(&self) -> TransportKind;

    /// Reads `data.len()` bytes at `offset` of PCI configuration space.
    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), TransportError>;

    /// Writes `data` at `offset` of PCI configuration space.
    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), TransportError>;

    /// BAR `index`, 0 to 5. The parts said to be mappable lie inside it, are page-aligned and
    /// do not overlap: the transport has checked.
    fn bar(&self, index: u8) -> Result<BarInfo, TransportError>;

    /// Maps `range` of BAR `index`, which lies inside one of its mappable parts.
    fn map_bar(&self, index: u8, range: Range<u64>) -> Result<Arc<Mapping>, TransportError>;

    /// The file by which another process maps `range` of BAR `index`, which lies inside one of its
    /// mappable parts, and where in the file it starts.
    fn bar_file(&self, index: u8, range: Range<u64>) -> Result<(OwnedFd, u64), TransportError> {
        Err(TransportError::Unsupported(format!(
            "{} has no file for {range:#x?} of BAR {index}",
            self.kind()
        )))
    }

    /// Reads 1, 2, 4 or 8 bytes at `offset` of BAR `index`.
    fn read_bar(&self, index: u8, offset: u64, data: &mut [u8]) -> Result<(), TransportError>;

    /// Writes 1, 2, 4 or 8 bytes at `offset` of BAR `index`.
    fn write_bar(&self, index: u8, offset: u64, data: &[u8]) -> Result<(), TransportError>;

    /// Where DMA memory may lie.
    fn dma_limits(&self) -> DmaLimits;

    /// Lets the device read and write `arena` at `iova`.
    fn map_dma(&self, arena: &Arc<Arena>, iova: u64) -> Result<(), TransportError>;

    /// Takes the `len` bytes at `iova`, mapped before as one, away from the device.
    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), TransportError>;

    /// How many interrupts of this kind the device has; 0 where none.
    fn interrupts(&self, kind: InterruptKind) -> u32;

    /// Signals the eventfds `fds` for the interrupts 0 to `fds.len() - 1` of `kind`; an empty
    /// slice disables them all.
    fn set_interrupts(
        &self,
        kind: InterruptKind,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), TransportError>;

    /// Resets the function.
    fn reset(&self) -> Result<(), TransportError>;

    /// Why the device is gone, once it is: reads return all ones from then on.
    fn lost(&self) -> Option<String>;

    /// The file on which the end of the device shows as a hang-up (poll it for RDHUP): nothing
    /// where only [`lost`](Self::lost) or an interrupt tells.
    fn hang_up(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Ends the connection to a server that is not to be waited for any more; the device is gone
    /// then. Nothing happens where there is no server.
    fn disconnect(&self, reason: &str) {
        let _ = reason;
    }
}

/// No device: for memory that somebody else maps for one.
pub(crate) struct NoDevice;

impl NoDevice {
    fn refuse<T>() -> Result<T, TransportError> {
        Err(TransportError::Unsupported("there is no device here, only memory".into()))
    }
}

impl Transport for NoDevice {
    fn kind(&self) -> TransportKind {
        TransportKind::Held
    }
    fn read_config(&self, _: u32, _: &mut [u8]) -> Result<(), TransportError> {
        Self::refuse()
    }
    fn write_config(&self, _: u32, _: &[u8]) -> Result<(), TransportError> {
        Self::refuse()
    }
    fn bar(&self, _: u8) -> Result<BarInfo, TransportError> {
        Self::refuse()
    }
    fn map_bar(&self, _: u8, _: Range<u64>) -> Result<Arc<Mapping>, TransportError> {
        Self::refuse()
    }
    fn read_bar(&self, _: u8, _: u64, _: &mut [u8]) -> Result<(), TransportError> {
        Self::refuse()
    }
    fn write_bar(&self, _: u8, _: u64, _: &[u8]) -> Result<(), TransportError> {
        Self::refuse()
    }
    fn dma_limits(&self) -> DmaLimits {
        DmaLimits { ranges: Vec::new(), granule: 4096 }
    }
    fn map_dma(&self, _: &Arc<Arena>, _: u64) -> Result<(), TransportError> {
        Self::refuse()
    }
    fn unmap_dma(&self, _: u64, _: u64) -> Result<(), TransportError> {
        Self::refuse()
    }
    fn interrupts(&self, _: InterruptKind) -> u32 {
        0
    }
    fn set_interrupts(&self, _: InterruptKind, _: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
        Self::refuse()
    }
    fn reset(&self) -> Result<(), TransportError> {
        Self::refuse()
    }
    fn lost(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! A transport that only remembers what is mapped.

    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    pub(crate) struct Fake {
        mapped: Mutex<Vec<(u64, u64)>>,
        ranges: Vec<RangeInclusive<u64>>,
        refuse: AtomicBool,
    }

    impl Default for Fake {
        fn default() -> Self {
            Self::with_ranges(vec![0..=u64::MAX])
        }
    }

    impl Fake {
        pub(crate) fn with_ranges(ranges: Vec<RangeInclusive<u64>>) -> Self {
            Self { mapped: Mutex::default(), ranges, refuse: AtomicBool::new(false) }
        }

        pub(crate) fn mapped(&self) -> Vec<(u64, u64)> {
            self.mapped.lock().unwrap().clone()
        }

        pub(crate) fn refuse(&self, refuse: bool) {
            self.refuse.store(refuse, Ordering::Relaxed);
        }
    }

    fn nothing<T>() -> Result<T, TransportError> {
        Err(TransportError::Unsupported("the fake has no registers".into()))
    }

    impl Transport for Fake {
        fn kind(&self) -> TransportKind {
            TransportKind::Inline
        }
        fn read_config(&self, _: u32, _: &mut [u8]) -> Result<(), TransportError> {
            nothing()
        }
        fn write_config(&self, _: u32, _: &[u8]) -> Result<(), TransportError> {
            nothing()
        }
        fn bar(&self, _: u8) -> Result<BarInfo, TransportError> {
            Ok(BarInfo::default())
        }
        fn map_bar(&self, _: u8, _: Range<u64>) -> Result<Arc<Mapping>, TransportError> {
            nothing()
        }
        fn read_bar(&self, _: u8, _: u64, _: &mut [u8]) -> Result<(), TransportError> {
            nothing()
        }
        fn write_bar(&self, _: u8, _: u64, _: &[u8]) -> Result<(), TransportError> {
            nothing()
        }
        fn dma_limits(&self) -> DmaLimits {
            DmaLimits { ranges: self.ranges.clone(), granule: 4096 }
        }
        fn map_dma(&self, arena: &Arc<Arena>, iova: u64) -> Result<(), TransportError> {
            if self.refuse.load(Ordering::Relaxed) {
                return nothing();
            }
            self.mapped.lock().unwrap().push((iova, arena.len() as u64));
            Ok(())
        }
        fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), TransportError> {
            let mut mapped = self.mapped.lock().unwrap();
            let position = mapped.iter().position(|&m| m == (iova, len)).unwrap();
            mapped.remove(position);
            Ok(())
        }
        fn interrupts(&self, _: InterruptKind) -> u32 {
            0
        }
        fn set_interrupts(
            &self,
            _: InterruptKind,
            _: &[BorrowedFd<'_>],
        ) -> Result<(), TransportError> {
            nothing()
        }
        fn reset(&self) -> Result<(), TransportError> {
            nothing()
        }
        fn lost(&self) -> Option<String> {
            None
        }
    }
}
