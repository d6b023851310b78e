//! The type1 container: the I/O address space of one device.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use vfio_bindings::bindings::vfio::{
    self, VFIO_API_VERSION, VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_INFO_PGSIZES, VFIO_TYPE1v2_IOMMU,
    vfio_iommu_type1_info,
};
use zerocopy::FromBytes;

use super::chain;
use super::group::{self, Host};
use super::ioctl::{self, Answer, TAIL};
use crate::arena::Arena;
use crate::dma::PAGE;
use crate::transport::{DmaLimits, TransportError};

/// A container with one group in it.
pub(super) struct Container {
    fd: OwnedFd,
    limits: DmaLimits,
}

/// What the kernel says of a container.
#[derive(Debug, PartialEq, Eq)]
struct Info {
    limits: DmaLimits,
    // How many more mappings it takes; Linux says so since 5.11.
    available: Option<u32>,
}

impl Container {
    /// A new container that holds `group`.
    pub(super) fn with(host: &Host<'_>, group: &OwnedFd) -> Result<Self, TransportError> {
        let path = host.vfio.join("vfio");
        let fd = group::open(&path)
            .map_err(|error| TransportError::io(format!("open {}", path.display()), error))?;
        let version = ioctl::api_version(fd.as_fd())
            .map_err(|error| TransportError::io("VFIO_GET_API_VERSION", error))?;
        if u32::try_from(version) != Ok(VFIO_API_VERSION) {
            return Err(TransportError::Unsupported(format!(
                "Linux speaks version {version} of VFIO, this program {VFIO_API_VERSION}"
            )));
        }
        let type1 = ioctl::check_extension(fd.as_fd(), VFIO_TYPE1v2_IOMMU)
            .map_err(|error| TransportError::io("VFIO_CHECK_EXTENSION", error))?;
        if !type1 {
            return Err(TransportError::Unsupported(
                "Linux offers no type1 IOMMU: `modprobe vfio_iommu_type1` loads it".into(),
            ));
        }
        ioctl::set_container(group.as_fd(), fd.as_fd())
            .map_err(|error| TransportError::io("VFIO_GROUP_SET_CONTAINER", error))?;
        ioctl::set_iommu(fd.as_fd(), VFIO_TYPE1v2_IOMMU).map_err(refused_iommu)?;
        let Info { limits, .. } = Info::query(&fd)?;
        Ok(Self { fd, limits })
    }

    /// Where DMA memory may lie.
    pub(super) fn limits(&self) -> &DmaLimits {
        &self.limits
    }

    /// Lets the device read and write `arena` at `iova`.
    pub(super) fn map(&self, arena: &Arena, iova: u64) -> Result<(), TransportError> {
        let Err(error) = ioctl::map_dma(self.fd.as_fd(), arena, iova) else { return Ok(()) };
        let action = format!("VFIO_IOMMU_MAP_DMA of {} bytes at {iova:#x}", arena.len());
        Err(match Errno::from_io_error(&error) {
            Some(Errno::NOMEM | Errno::PERM | Errno::AGAIN) => {
                refused_memory(action, &error, getrlimit(Resource::Memlock).current)
            }
            Some(Errno::NOSPC) => {
                let left = Info::query(&self.fd).ok().and_then(|info| info.available);
                let left = left.map_or_else(|| "no".to_owned(), |left| left.to_string());
                TransportError::Unsupported(format!(
                    "{action}: the container takes {left} more mappings; use fewer, larger arenas \
                     or raise dma_entry_limit of Linux's module vfio_iommu_type1"
                ))
            }
            _ => TransportError::io(action, error),
        })
    }

    /// Takes the `len` bytes at `iova` away from the device.
    pub(super) fn unmap(&self, iova: u64, len: u64) -> Result<(), TransportError> {
        let action = || format!("VFIO_IOMMU_UNMAP_DMA of {len} bytes at {iova:#x}");
        match ioctl::unmap_dma(self.fd.as_fd(), iova, len) {
            Ok(unmapped) if unmapped == len => Ok(()),
            Ok(unmapped) => {
                Err(TransportError::malformed(action(), format!("{unmapped} bytes were unmapped")))
            }
            Err(error) => Err(TransportError::io(action(), error)),
        }
    }
}

fn refused_iommu(error: io::Error) -> TransportError {
    let action = "VFIO_SET_IOMMU";
    if Errno::from_io_error(&error) == Some(Errno::PERM) {
        return TransportError::Unsupported(format!(
            "{action}: the IOMMU does not remap interrupts, so a device could forge them; switch \
             interrupt remapping on (intremap=on, x2APIC in the firmware), or accept the risk \
             with allow_unsafe_interrupts=1 of Linux's module vfio_iommu_type1"
        ));
    }
    TransportError::io(action, error)
}

/// Pinning memory failed: the limit on locked memory is what is nearly always behind it.
fn refused_memory(action: String, error: &io::Error, limit: Option<u64>) -> TransportError {
    let hint = match limit {
        None => "there is not enough memory, although locking it is not limited".to_owned(),
        Some(bytes) => format!(
            "this process may lock {} KiB of memory; raise it (`ulimit -l`, or LimitMEMLOCK= of a \
             systemd unit) or give the program CAP_IPC_LOCK",
            bytes / 1024
        ),
    };
    TransportError::io(action, io::Error::new(error.kind(), format!("{error}; {hint}")))
}

impl Info {
    fn query(container: &OwnedFd) -> Result<Self, TransportError> {
        let action = "VFIO_IOMMU_GET_INFO";
        let answer = ioctl::iommu_info(container.as_fd())
            .map_err(|error| TransportError::io(action, error))?;
        Self::check(&answer).map_err(|claim| TransportError::malformed(action, claim))
    }

    fn check(answer: &Answer<vfio_iommu_type1_info>) -> Result<Self, String> {
        const RANGES: u16 = vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE as u16;
        const AVAILABLE: u16 = vfio::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL as u16;
        let info = &answer.head;
        let head = size_of::<vfio_iommu_type1_info>();
        if info.argsz as usize > head + TAIL {
            return Err(format!("{} bytes of capabilities, over {TAIL}", info.argsz));
        }
        let first = if info.flags & VFIO_IOMMU_INFO_CAPS == 0 { 0 } else { info.cap_offset };
        let find =
            |id| chain::find(&answer.tail, head, first, id).map_err(|error| error.to_string());
        let body = find(RANGES)?
            .ok_or("no list of IOVA ranges, which Linux gives since 5.4: use a newer kernel")?;
        let ranges = chain::pairs(body, RANGES).map_err(|error| error.to_string())?;
        let ranges: Vec<RangeInclusive<u64>> =
            ranges.into_iter().map(|[start, end]| start..=end).collect();
        if let Some(range) = ranges.iter().find(|range| range.is_empty()) {
            return Err(format!("the IOVA range {range:#x?} ends before it starts"));
        }
        let page_sizes =
            if info.flags & VFIO_IOMMU_INFO_PGSIZES == 0 { 0 } else { info.iova_pgsizes };
        let smallest = page_sizes & page_sizes.wrapping_neg();
        let limits = DmaLimits { ranges, granule: smallest.max(PAGE as u64) };
        let available = find(AVAILABLE)?
            .and_then(|body| <[u8; 4]>::read_from_prefix(body).ok())
            .map(|(bytes, _)| u32::from_ne_bytes(bytes));
        Ok(Self { limits, available })
    }
}

#[cfg(test)]
impl Container {
    /// One that every request fails on.
    pub(super) fn of_file(fd: OwnedFd) -> Self {
        Self { fd, limits: DmaLimits { ranges: Vec::new(), granule: 4096 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfio::chain::tests::{pairs_body, put};

    const HEAD: usize = size_of::<vfio_iommu_type1_info>();

    fn answer(ranges: &[[u64; 2]]) -> Answer<vfio_iommu_type1_info> {
        let head = vfio_iommu_type1_info {
            argsz: 200,
            flags: VFIO_IOMMU_INFO_CAPS | VFIO_IOMMU_INFO_PGSIZES,
            iova_pgsizes: 0x4020_1000,
            cap_offset: 96,
            pad: 0,
        };
        let mut answer = Answer { head, tail: [0; TAIL] };
        let body = pairs_body(ranges.len() as u32, ranges);
        put(&mut answer.tail, HEAD, 24, 1, 0, &body);
        put(&mut answer.tail, HEAD, 96, 3, 24, &65_535u32.to_ne_bytes());
        answer
    }

    #[test]
    fn ranges_page_size_and_room_are_read() {
        let info = Info::check(&answer(&[[0, 0xfedf_ffff], [0xfef0_0000, u64::MAX]])).unwrap();
        assert_eq!(info.limits.ranges, [0..=0xfedf_ffff, 0xfef0_0000..=u64::MAX]);
        assert_eq!(info.limits.granule, 4096);
        assert_eq!(info.available, Some(65_535));
        let mut large = answer(&[[0, 9]]);
        large.head.iova_pgsizes = 1 << 21;
        assert_eq!(Info::check(&large).unwrap().limits.granule, 1 << 21);
        large.head.flags = VFIO_IOMMU_INFO_CAPS;
        assert_eq!(Info::check(&large).unwrap().limits.granule, 4096);
    }

    #[test]
    fn claims_that_cannot_be_are_errors() {
        assert!(Info::check(&answer(&[[1, 0]])).is_err());
        let mut none = answer(&[]);
        none.head.flags = 0;
        assert!(Info::check(&none).unwrap_err().contains("newer kernel"));
        let mut outside = answer(&[]);
        outside.head.cap_offset = u32::MAX;
        assert!(Info::check(&outside).is_err());
        let mut long = answer(&[]);
        long.head.argsz = u32::MAX;
        assert!(Info::check(&long).is_err());
        let mut endless = answer(&[]);
        put(&mut endless.tail, HEAD, 96, 7, 96, &[]);
        assert!(Info::check(&endless).unwrap_err().contains("itself"));
    }

    #[test]
    fn refusals_say_what_helps() {
        let error = || io::Error::from(Errno::NOMEM);
        let text = refused_memory("map".into(), &error(), Some(8 << 20)).to_string();
        assert!(text.contains("8192 KiB") && text.contains("ulimit -l"), "{text}");
        let text = refused_memory("map".into(), &error(), None).to_string();
        assert!(text.contains("not limited"), "{text}");
        let text = refused_iommu(Errno::PERM.into()).to_string();
        assert!(text.contains("allow_unsafe_interrupts"), "{text}");
        assert!(!refused_iommu(Errno::IO.into()).to_string().contains("unsafe"));
    }
}
