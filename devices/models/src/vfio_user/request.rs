//! What a client asks, as claimed and as checked.

use rustix::io::Errno;
use uniddrv::InterruptKind;
use uniddrv::vfio_user::capabilities::Capabilities;
use uniddrv::vfio_user::protocol::{
    Command, DeviceInfo, DmaMap, DmaUnmap, IrqInfo, IrqSet, REGIONS, RegionAccess, RegionInfo,
    dma_flags, dma_unmap_flags, irq_set_flags,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// The most bytes of data that a region access may move: all of configuration space.
pub const MAX_DATA: usize = 4096;

/// A request whose form is right. Whether the model has what it names is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The version to speak: the lower minor version of both ends.
    Version {
        /// It.
        minor: u16,
        /// What the client can do.
        capabilities: Capabilities,
    },
    /// Map the fd that came along.
    DmaMap(DmaMap),
    /// Unmap what was mapped as one.
    DmaUnmap(DmaUnmap),
    /// Unmap everything.
    DmaUnmapAll(DmaUnmap),
    /// What the device is.
    DeviceInfo,
    /// A region, described in at most `argsz` bytes.
    RegionInfo {
        /// Room for the description.
        argsz: u32,
        /// Which region.
        index: u32,
    },
    /// How many interrupts there are of a kind; nothing for a kind that models do not have.
    IrqInfo {
        /// Which kind, as the client said.
        index: u32,
        /// Which kind.
        kind: Option<InterruptKind>,
    },
    /// Connect interrupts to the eventfds that came along, or to nothing where none did.
    ConnectIrqs {
        /// Which kind.
        kind: InterruptKind,
        /// The first.
        start: u32,
        /// How many.
        count: u32,
    },
    /// Disconnect all interrupts of a kind.
    DisconnectIrqs {
        /// Which kind.
        kind: InterruptKind,
    },
    /// Unmask interrupts. They are never masked here.
    UnmaskIrqs,
    /// Read from a region.
    Read(RegionAccess),
    /// Write to a region.
    Write(RegionAccess, &'a [u8]),
    /// Reset the function.
    Reset,
}

/// A request that is refused: the errno that the client gets, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({errno})")]
pub struct Refusal {
    /// For the reply.
    pub errno: Errno,
    /// For the log.
    pub reason: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(errno: Errno, reason: impl Into<String>) -> Self {
        Self { errno, reason: reason.into() }
    }
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(Errno::INVAL, reason))
}

/// Checks a message: the number of its command, its payload, and how many fds came along.
///
/// # Errors
/// When there is no such command, it is not for a server, or its payload or fds are not what
/// the command calls for.
pub fn parse(command: u16, payload: &[u8], fds: usize) -> Result<Request<'_>, Refusal> {
    let Some(command) = Command::from_raw(command) else {
        return Err(Refusal::new(Errno::NOTSUP, format!("there is no command {command}")));
    };
    if fds > 0 && !matches!(command, Command::DmaMap | Command::DeviceSetIrqs) {
        return invalid(format!("{fds} file descriptors with {command}"));
    }
    match command {
        Command::Version => Capabilities::parse_version(payload)
            .map(|(minor, capabilities)| Request::Version { minor, capabilities })
            .or_else(invalid),
        Command::DmaMap => dma_map(exact(command, payload)?, fds),
        Command::DmaUnmap => dma_unmap(exact(command, payload)?),
        Command::DeviceGetInfo => {
            let info: DeviceInfo = exact(command, payload)?;
            check_argsz::<DeviceInfo>(command, info.argsz)?;
            Ok(Request::DeviceInfo)
        }
        Command::DeviceGetRegionInfo => {
            let RegionInfo { argsz, index, .. } = exact(command, payload)?;
            check_argsz::<RegionInfo>(command, argsz)?;
            if index >= REGIONS {
                return invalid(format!("region {index}, there are {REGIONS}"));
            }
            Ok(Request::RegionInfo { argsz, index })
        }
        Command::DeviceGetIrqInfo => {
            let IrqInfo { argsz, index, .. } = exact(command, payload)?;
            check_argsz::<IrqInfo>(command, argsz)?;
            let kind = match index {
                3 | 4 => None,
                _ => Some(irq_kind(index)?),
            };
            Ok(Request::IrqInfo { index, kind })
        }
        Command::DeviceSetIrqs => set_irqs(payload, fds),
        Command::RegionRead => {
            let access = exact(command, payload)?;
            check_access(access)?;
            Ok(Request::Read(access))
        }
        Command::RegionWrite => {
            let Ok((access, data)) = RegionAccess::read_from_prefix(payload) else {
                return invalid(format!("{} bytes of {command}", payload.len()));
            };
            check_access(access)?;
            if data.len() != access.count as usize {
                return invalid(format!("{} bytes of data, {} said", data.len(), access.count));
            }
            Ok(Request::Write(access, data))
        }
        Command::DeviceReset if payload.is_empty() => Ok(Request::Reset),
        Command::DeviceReset => invalid(format!("{} bytes with {command}", payload.len())),
        Command::DeviceGetRegionIoFds
        | Command::DmaRead
        | Command::DmaWrite
        | Command::RegionWriteMulti => {
            Err(Refusal::new(Errno::NOTSUP, format!("{command} is not offered here")))
        }
    }
}

fn dma_map(map: DmaMap, fds: usize) -> Result<Request<'static>, Refusal> {
    check_argsz::<DmaMap>(Command::DmaMap, map.argsz)?;
    if map.flags == 0 || map.flags & !(dma_flags::READ | dma_flags::WRITE) != 0 {
        return invalid(format!("a DMA mapping with flags {:#x}", map.flags));
    }
    match fds {
        0 => Err(Refusal::new(
            Errno::NOTSUP,
            "a DMA mapping without a file descriptor: models need shared memory",
        )),
        1 => Ok(Request::DmaMap(map)),
        _ => invalid(format!("{fds} file descriptors for one DMA mapping")),
    }
}

fn dma_unmap(unmap: DmaUnmap) -> Result<Request<'static>, Refusal> {
    check_argsz::<DmaUnmap>(Command::DmaUnmap, unmap.argsz)?;
    match unmap.flags {
        0 => Ok(Request::DmaUnmap(unmap)),
        dma_unmap_flags::ALL if unmap.address == 0 && unmap.size == 0 => {
            Ok(Request::DmaUnmapAll(unmap))
        }
        dma_unmap_flags::ALL => invalid("an address with \"unmap all\""),
        dma_unmap_flags::GET_DIRTY_BITMAP => {
            Err(Refusal::new(Errno::NOTSUP, "dirty pages are not tracked here"))
        }
        flags => invalid(format!("an unmapping with flags {flags:#x}")),
    }
}

fn set_irqs(payload: &[u8], fds: usize) -> Result<Request<'static>, Refusal> {
    use irq_set_flags::{
        ACTION_MASK, ACTION_TRIGGER, ACTION_UNMASK, DATA_BOOL, DATA_EVENTFD, DATA_NONE,
    };
    const EVENTFD: u32 = DATA_EVENTFD | ACTION_TRIGGER;
    const DISABLE: u32 = DATA_NONE | ACTION_TRIGGER;
    const UNMASK: u32 = DATA_NONE | ACTION_UNMASK;
    const ALL: u32 =
        DATA_NONE | DATA_BOOL | DATA_EVENTFD | ACTION_MASK | ACTION_UNMASK | ACTION_TRIGGER;
    let Ok((set, data)) = IrqSet::read_from_prefix(payload) else {
        return invalid(format!("{} bytes of {}", payload.len(), Command::DeviceSetIrqs));
    };
    if set.argsz as usize != payload.len() || set.flags & !ALL != 0 {
        return invalid(format!(
            "{} said to have {} bytes has {}, flags {:#x}",
            Command::DeviceSetIrqs,
            set.argsz,
            payload.len(),
            set.flags
        ));
    }
    let kind = irq_kind(set.index)?;
    let IrqSet { start, count, .. } = set;
    if start.checked_add(count).is_none() {
        return invalid(format!("{count} interrupts from {start}"));
    }
    if fds > 0 && set.flags != EVENTFD {
        return invalid(format!("{fds} file descriptors with flags {:#x}", set.flags));
    }
    match set.flags {
        EVENTFD if !data.is_empty() || count == 0 => {
            invalid(format!("{count} eventfds with {} bytes of data", data.len()))
        }
        EVENTFD if fds != 0 && fds != count as usize => {
            invalid(format!("{fds} eventfds for {count} interrupts"))
        }
        EVENTFD => Ok(Request::ConnectIrqs { kind, start, count }),
        DISABLE if start == 0 && count == 0 && data.is_empty() => {
            Ok(Request::DisconnectIrqs { kind })
        }
        UNMASK if data.is_empty() => Ok(Request::UnmaskIrqs),
        flags => Err(Refusal::new(
            Errno::NOTSUP,
            format!("interrupts with flags {flags:#x} and {count} from {start}"),
        )),
    }
}

fn irq_kind(index: u32) -> Result<InterruptKind, Refusal> {
    match index {
        0 => Ok(InterruptKind::Intx),
        1 => Ok(InterruptKind::Msi),
        2 => Ok(InterruptKind::Msix),
        _ => invalid(format!("interrupts of kind {index}")),
    }
}

fn check_access(access: RegionAccess) -> Result<(), Refusal> {
    if access.count == 0 || access.count as usize > MAX_DATA {
        return invalid(format!("an access of {} bytes, 1 to {MAX_DATA} are right", access.count));
    }
    Ok(())
}

fn check_argsz<T>(command: Command, argsz: u32) -> Result<(), Refusal> {
    let least = size_of::<T>();
    if (argsz as usize) < least {
        return invalid(format!("{command} with room for {argsz} bytes, {least} needed"));
    }
    Ok(())
}

fn exact<T: FromBytes + KnownLayout + Immutable>(
    command: Command,
    payload: &[u8],
) -> Result<T, Refusal> {
    T::read_from_bytes(payload).or_else(|_| {
        let right = size_of::<T>();
        invalid(format!("{command} with {} bytes, {right} are right", payload.len()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;

    const MAP: DmaMap = DmaMap { argsz: 32, flags: 3, offset: 0, address: 0x1000, size: 0x1000 };
    const UNMAP: DmaUnmap = DmaUnmap { argsz: 24, flags: 0, address: 0x1000, size: 0x1000 };
    const SET: IrqSet = IrqSet { argsz: 20, flags: 0x24, index: 2, start: 1, count: 2 };

    fn errno(command: Command, payload: &[u8], fds: usize) -> Errno {
        parse(command as u16, payload, fds).unwrap_err().errno
    }

    #[test]
    fn what_is_right_is_understood() {
        let parse = |command: Command, payload, fds| parse(command as u16, payload, fds).unwrap();
        assert_eq!(parse(Command::DmaMap, MAP.as_bytes(), 1), Request::DmaMap(MAP));
        assert_eq!(parse(Command::DmaUnmap, UNMAP.as_bytes(), 0), Request::DmaUnmap(UNMAP));
        let all = DmaUnmap { argsz: 24, flags: 2, ..DmaUnmap::default() };
        assert_eq!(parse(Command::DmaUnmap, all.as_bytes(), 0), Request::DmaUnmapAll(all));
        let connect = Request::ConnectIrqs { kind: InterruptKind::Msix, start: 1, count: 2 };
        assert_eq!(parse(Command::DeviceSetIrqs, SET.as_bytes(), 2), connect);
        assert_eq!(parse(Command::DeviceSetIrqs, SET.as_bytes(), 0), connect);
        let none = IrqSet { flags: 0x21, start: 0, count: 0, ..SET };
        let disconnect = Request::DisconnectIrqs { kind: InterruptKind::Msix };
        assert_eq!(parse(Command::DeviceSetIrqs, none.as_bytes(), 0), disconnect);
        let unmask = IrqSet { flags: 0x11, index: 0, start: 0, count: 1, ..SET };
        assert_eq!(parse(Command::DeviceSetIrqs, unmask.as_bytes(), 0), Request::UnmaskIrqs);
        let access = RegionAccess { offset: 8, region: 0, count: 4 };
        assert_eq!(parse(Command::RegionRead, access.as_bytes(), 0), Request::Read(access));
        let write = [access.as_bytes(), &[1, 2, 3, 4]].concat();
        assert_eq!(parse(Command::RegionWrite, &write, 0), Request::Write(access, &[1, 2, 3, 4]));
        assert_eq!(parse(Command::DeviceReset, &[], 0), Request::Reset);
        let info = IrqInfo { argsz: 16, index: 4, ..IrqInfo::default() };
        assert_eq!(
            parse(Command::DeviceGetIrqInfo, info.as_bytes(), 0),
            Request::IrqInfo { index: 4, kind: None }
        );
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for command in Command::ALL {
            for len in [1, 3, 13, 15, 17, 25, 33, 4096, 65536] {
                let errno = errno(command, &vec![0xff; len], 0);
                assert!(matches!(errno, Errno::INVAL | Errno::NOTSUP), "{command}, {len}");
            }
        }
        for command in [0, 14, 16, u16::MAX] {
            assert_eq!(parse(command, &[], 0).unwrap_err().errno, Errno::NOTSUP);
        }
    }

    #[test]
    fn lies_are_refused() {
        let map = |map: DmaMap, fds| errno(Command::DmaMap, map.as_bytes(), fds);
        assert_eq!(map(MAP, 0), Errno::NOTSUP);
        assert_eq!(map(MAP, 2), Errno::INVAL);
        assert_eq!(map(DmaMap { argsz: 31, ..MAP }, 1), Errno::INVAL);
        assert_eq!(map(DmaMap { flags: 0, ..MAP }, 1), Errno::INVAL);
        assert_eq!(map(DmaMap { flags: 4, ..MAP }, 1), Errno::INVAL);
        let unmap = |unmap: DmaUnmap| errno(Command::DmaUnmap, unmap.as_bytes(), 0);
        assert_eq!(unmap(DmaUnmap { flags: 1, ..UNMAP }), Errno::NOTSUP);
        assert_eq!(unmap(DmaUnmap { flags: 2, ..UNMAP }), Errno::INVAL);
        assert_eq!(unmap(DmaUnmap { flags: 3, ..UNMAP }), Errno::INVAL);
        let set = |set: IrqSet, fds| errno(Command::DeviceSetIrqs, set.as_bytes(), fds);
        assert_eq!(set(SET, 1), Errno::INVAL);
        assert_eq!(set(SET, 3), Errno::INVAL);
        assert_eq!(set(IrqSet { count: 0, ..SET }, 0), Errno::INVAL);
        assert_eq!(set(IrqSet { argsz: 21, ..SET }, 2), Errno::INVAL);
        assert_eq!(set(IrqSet { index: 3, ..SET }, 2), Errno::INVAL);
        assert_eq!(set(IrqSet { start: u32::MAX, ..SET }, 2), Errno::INVAL);
        assert_eq!(set(IrqSet { flags: 0x21, ..SET }, 2), Errno::INVAL);
        assert_eq!(set(IrqSet { flags: 0x09, ..SET }, 0), Errno::NOTSUP);
        assert_eq!(set(IrqSet { flags: 0x100, ..SET }, 0), Errno::INVAL);
        for count in [0, 4097, u32::MAX] {
            let access = RegionAccess { offset: 0, region: 0, count };
            assert_eq!(errno(Command::RegionRead, access.as_bytes(), 0), Errno::INVAL);
            assert_eq!(errno(Command::RegionWrite, access.as_bytes(), 0), Errno::INVAL);
        }
        let access = RegionAccess { offset: 0, region: 0, count: 4 };
        assert_eq!(errno(Command::RegionRead, access.as_bytes(), 1), Errno::INVAL);
        let info = RegionInfo { argsz: 32, index: 9, ..RegionInfo::default() };
        assert_eq!(errno(Command::DeviceGetRegionInfo, info.as_bytes(), 0), Errno::INVAL);
        let info = RegionInfo { argsz: 31, index: 0, ..RegionInfo::default() };
        assert_eq!(errno(Command::DeviceGetRegionInfo, info.as_bytes(), 0), Errno::INVAL);
    }

    proptest! {
        #[test]
        fn arbitrary_requests_do_no_harm(command in 0u16..18, payload: Vec<u8>, fds in 0usize..20) {
            let _ = parse(command, &payload, fds);
        }
    }
}
