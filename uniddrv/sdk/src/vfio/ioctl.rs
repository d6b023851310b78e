//! The ioctls of `linux/vfio.h`, each with its own arguments.
//!
//! The only unsafe file of this transport. Every wrapper passes the kernel a structure of
//! `vfio-bindings` that lives on the caller's stack and whose `argsz` says how long it is, so
//! the kernel writes nothing beyond it. What comes back is a claim that the callers check.

use std::ffi::{CStr, c_int, c_ulong};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use vfio_bindings::bindings::vfio;
use vfio_bindings::bindings::vfio::{
    vfio_device_info, vfio_group_status, vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap,
    vfio_iommu_type1_info, vfio_irq_info, vfio_region_info,
};

use crate::arena::Arena;

/// Room for the capabilities after a structure, in bytes. Linux 6.18 needs 16 for each IOVA
/// range or mappable area and under 100 for the rest.
pub(super) const TAIL: usize = 8192;

/// Interrupts of one kind at most: an MSI-X table has up to 2,048 entries.
pub(super) const MAX_IRQS: usize = 2048;

/// A structure and the capabilities that the kernel appends to it.
#[repr(C)]
pub(super) struct Answer<T> {
    pub(super) head: T,
    pub(super) tail: [u8; TAIL],
}

impl<T> Answer<T> {
    fn new(head: T) -> Self {
        // No padding before the tail: the capability offsets count from the structure's start.
        const { assert!(size_of::<Self>() == size_of::<T>() + TAIL) };
        Self { head, tail: [0; TAIL] }
    }
}

/// `struct vfio_irq_set` with room for its trailing eventfds.
#[repr(C)]
struct IrqSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    fds: [i32; MAX_IRQS],
}

const IRQ_SET_HEADER: usize = size_of::<vfio::vfio_irq_set>();
const _: () = assert!(std::mem::offset_of!(IrqSet, fds) == IRQ_SET_HEADER);

const fn argsz<T>() -> u32 {
    size_of::<T>() as u32
}

/// The number of an ioctl: `_IO(';', 100 + number)`.
const fn request(number: u8) -> c_ulong {
    rustix::ioctl::opcode::none(vfio::VFIO_TYPE, vfio::VFIO_BASE as u8 + number) as c_ulong
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An ioctl whose argument is a plain number.
fn with_number(fd: BorrowedFd<'_>, number: u8, argument: c_ulong) -> io::Result<c_int> {
    // SAFETY: the callers below pass the numbers of ioctls that take none or an integer, never
    // an address; the kernel touches no memory of this process. `fd` is borrowed, hence open;
    // one that is no VFIO file answers ENOTTY, as ';' with 100 and above is VFIO's.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request(number), argument) })
}

/// An ioctl on a structure that starts with its `argsz`, or on the `int` of SET_CONTAINER.
fn with_structure<T>(fd: BorrowedFd<'_>, number: u8, structure: &mut T) -> io::Result<c_int> {
    // SAFETY: the callers below pair each number with the type that linux/vfio.h gives for it
    // (or an `Answer` or `IrqSet` that begins with it), initialised and with `argsz` no larger
    // than it; the kernel reads and writes no bytes beyond, and all of them are integers or
    // byte arrays, for which every value is valid. The borrow lasts for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request(number), std::ptr::from_mut(structure)) })
}

/// VFIO_GET_API_VERSION.
pub(super) fn api_version(container: BorrowedFd<'_>) -> io::Result<c_int> {
    with_number(container, 0, 0)
}

/// VFIO_CHECK_EXTENSION.
pub(super) fn check_extension(container: BorrowedFd<'_>, extension: u32) -> io::Result<bool> {
    Ok(with_number(container, 1, extension.into())? > 0)
}

/// VFIO_SET_IOMMU.
pub(super) fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    with_number(container, 2, kind.into()).map(drop)
}

/// VFIO_GROUP_GET_STATUS: its flags.
pub(super) fn group_flags(group: BorrowedFd<'_>) -> io::Result<u32> {
    let mut status = vfio_group_status { argsz: argsz::<vfio_group_status>(), flags: 0 };
    with_structure(group, 3, &mut status)?;
    Ok(status.flags)
}

/// VFIO_GROUP_SET_CONTAINER.
pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let mut fd = container.as_raw_fd();
    with_structure(group, 4, &mut fd).map(drop)
}

/// VFIO_GROUP_GET_DEVICE_FD.
pub(super) fn device_fd(group: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the kernel copies the name up to its end, which a `CStr` has, and writes nothing.
    let fd = check(unsafe { libc::ioctl(group.as_raw_fd(), request(6), name.as_ptr()) })?;
    // SAFETY: the kernel has just made this fd for us; nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// VFIO_DEVICE_GET_INFO.
pub(super) fn device_info(device: BorrowedFd<'_>) -> io::Result<vfio_device_info> {
    let argsz = argsz::<vfio_device_info>();
    let mut info = vfio_device_info { argsz, ..Default::default() };
    with_structure(device, 7, &mut info)?;
    Ok(info)
}

/// VFIO_DEVICE_GET_REGION_INFO.
pub(super) fn region_info(
    device: BorrowedFd<'_>,
    index: u32,
) -> io::Result<Answer<vfio_region_info>> {
    let argsz = argsz::<Answer<vfio_region_info>>();
    let mut info = Answer::new(vfio_region_info { argsz, index, ..Default::default() });
    with_structure(device, 8, &mut info)?;
    Ok(info)
}

/// VFIO_DEVICE_GET_IRQ_INFO.
pub(super) fn irq_info(device: BorrowedFd<'_>, index: u32) -> io::Result<vfio_irq_info> {
    let argsz = argsz::<vfio_irq_info>();
    let mut info = vfio_irq_info { argsz, index, ..Default::default() };
    with_structure(device, 9, &mut info)?;
    Ok(info)
}

/// VFIO_DEVICE_SET_IRQS: signals `fds` for the interrupts from 0; none at all disables them.
/// At most [`MAX_IRQS`]; EINVAL for more.
pub(super) fn set_irqs(
    device: BorrowedFd<'_>,
    index: u32,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let data =
        if fds.is_empty() { vfio::VFIO_IRQ_SET_DATA_NONE } else { vfio::VFIO_IRQ_SET_DATA_EVENTFD };
    let mut set = IrqSet {
        argsz: (IRQ_SET_HEADER + size_of_val(fds)) as u32,
        flags: data | vfio::VFIO_IRQ_SET_ACTION_TRIGGER,
        index,
        start: 0,
        count: fds.len() as u32,
        fds: [-1; MAX_IRQS],
    };
    let slots = set.fds.get_mut(..fds.len()).ok_or(io::ErrorKind::InvalidInput)?;
    for (slot, fd) in slots.iter_mut().zip(fds) {
        *slot = fd.as_raw_fd();
    }
    with_structure(device, 10, &mut set).map(drop)
}

/// VFIO_DEVICE_RESET.
pub(super) fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    with_number(device, 11, 0).map(drop)
}

/// VFIO_IOMMU_GET_INFO.
pub(super) fn iommu_info(container: BorrowedFd<'_>) -> io::Result<Answer<vfio_iommu_type1_info>> {
    let argsz = argsz::<Answer<vfio_iommu_type1_info>>();
    let mut info = Answer::new(vfio_iommu_type1_info { argsz, ..Default::default() });
    with_structure(container, 12, &mut info)?;
    Ok(info)
}

/// VFIO_IOMMU_MAP_DMA: the device may read and write `arena` at `iova`. The kernel pins the
/// memory: it stays what it is even when the arena is unmapped from this process first.
pub(super) fn map_dma(container: BorrowedFd<'_>, arena: &Arena, iova: u64) -> io::Result<()> {
    let mut map = vfio_iommu_type1_dma_map {
        argsz: argsz::<vfio_iommu_type1_dma_map>(),
        flags: vfio::VFIO_DMA_MAP_FLAG_READ | vfio::VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: arena.base().as_ptr().addr() as u64,
        iova,
        size: arena.len() as u64,
    };
    with_structure(container, 13, &mut map).map(drop)
}

/// VFIO_IOMMU_UNMAP_DMA: how many bytes were unmapped.
pub(super) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, size: u64) -> io::Result<u64> {
    let mut unmap = vfio_iommu_type1_dma_unmap {
        argsz: argsz::<vfio_iommu_type1_dma_unmap>(),
        iova,
        size,
        ..Default::default()
    };
    with_structure(container, 14, &mut unmap)?;
    Ok(unmap.size)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn another_kind_of_file_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = file.as_fd();
        let not_vfio = |error: io::Error| error.raw_os_error() == Some(libc::ENOTTY);
        assert!(api_version(fd).is_err_and(not_vfio));
        assert!(group_flags(fd).is_err_and(not_vfio));
        assert!(device_fd(fd, c"0000:00:00.0").is_err_and(not_vfio));
        assert!(region_info(fd, 0).is_err_and(not_vfio));
        assert!(set_irqs(fd, 0, &[fd]).is_err_and(not_vfio));
        assert!(unmap_dma(fd, 0, 4096).is_err_and(not_vfio));
    }

    #[test]
    fn too_many_interrupts_are_refused_here() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fds = vec![file.as_fd(); MAX_IRQS + 1];
        let error = set_irqs(file.as_fd(), 2, &fds).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn requests_have_the_numbers_of_the_header() {
        // linux/vfio.h: _IO(VFIO_TYPE, VFIO_BASE + n), which is 0x3b64 + n on x86-64.
        #[cfg(target_arch = "x86_64")]
        assert_eq!((request(0), request(14)), (0x3b64, 0x3b72));
    }
}
