//! One client: its requests, answered by a model.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use uniddrv::vfio_user::capabilities::Capabilities;
use uniddrv::vfio_user::channel::{Channel, ChannelError};
use uniddrv::vfio_user::protocol::{
    CAP_SPARSE_MMAP, CONFIG_REGION, CapabilityHeader, Command, DeviceInfo, Header, IRQ_KINDS,
    IrqInfo, MINOR, REGIONS, RegionAccess, RegionInfo, SparseArea, SparseMmap, device_flags,
    dma_flags, irq_flags, region_flags,
};
use zerocopy::IntoBytes;

use super::request::{MAX_DATA, Refusal, Request, parse};
use crate::host::{GRANULE, Host, MapError, REGIONS as MAPPINGS};
use crate::model::Model;

/// What this server says it can do. QEMU refuses servers that take more than 16 fds.
const OURS: Capabilities = Capabilities {
    max_msg_fds: 16,
    max_data_xfer_size: MAX_DATA as u64,
    pgsizes: GRANULE,
    max_dma_maps: MAPPINGS as u64,
};

/// The largest message taken: a write of `MAX_DATA`, and room for the JSON of any client.
const MAX_MESSAGE: usize = 16 << 10;

/// How long a client may take for the rest of a message, or to make room for a reply. The
/// model stands still meanwhile, which hurts nobody but this client.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connected client.
#[derive(Debug)]
pub struct Session {
    channel: Channel,
    negotiated: bool,
    payload: Vec<u8>,
    reply: Vec<u8>,
}

/// Why a client is served no longer.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The connection broke; most often the client hung up.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// It sent what no client sends.
    #[error("it broke the protocol: {0}")]
    Protocol(String),
}

impl Session {
    /// A client that has just connected.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            channel: Channel::new(stream),
            negotiated: false,
            payload: Vec::new(),
            reply: Vec::new(),
        }
    }

    /// Whether the version has been negotiated: it speaks vfio-user.
    pub fn is_negotiated(&self) -> bool {
        self.negotiated
    }

    /// Receives a message, waiting for it a second at most, and answers it.
    ///
    /// # Errors
    /// When the client is to be served no longer. Refused requests are no error here: they
    /// get an error reply.
    pub fn serve<M: Model + ?Sized>(
        &mut self,
        model: &mut M,
        host: &mut Host,
    ) -> Result<(), SessionEnd> {
        let deadline = Instant::now() + PATIENCE;
        let mut payload = std::mem::take(&mut self.payload);
        let (header, fds) =
            self.channel.receive(&mut payload, MAX_MESSAGE, OURS.max_msg_fds as usize, deadline)?;
        let result = self.respond(header, &payload, fds, model, host);
        self.payload = payload;
        result
    }

    fn respond<M: Model + ?Sized>(
        &mut self,
        header: Header,
        payload: &[u8],
        fds: Vec<OwnedFd>,
        model: &mut M,
        host: &mut Host,
    ) -> Result<(), SessionEnd> {
        if !header.is_command() {
            return Err(SessionEnd::Protocol(format!(
                "a message with flags {:#x} where a command was due",
                header.flags
            )));
        }
        let is_version = header.command == Command::Version as u16;
        self.reply.clear();
        // The header is put in its place once the length is known.
        self.reply.resize(Header::SIZE, 0);
        let answer = if is_version == self.negotiated {
            Err(Refusal::new(Errno::INVAL, "the version is negotiated first, and once"))
        } else {
            parse(header.command, payload, fds.len())
                .and_then(|request| answer(&request, fds, model, host, &mut self.reply))
        };
        let ends = match &answer {
            Err(refusal) if !self.negotiated => Some(refusal.to_string()),
            _ => None,
        };
        let mut file = None;
        let reply = match answer {
            Ok(comes_along) => {
                file = comes_along;
                header.reply(self.reply.len() - Header::SIZE)
            }
            Err(refusal) => {
                tracing::debug!(command = header.command, %refusal, "request refused");
                self.reply.truncate(Header::SIZE);
                header.error_reply(refusal.errno.raw_os_error().unsigned_abs())
            }
        };
        if !header.wants_no_reply() {
            if let Some(place) = self.reply.first_chunk_mut::<{ Header::SIZE }>() {
                *place = zerocopy::transmute!(reply);
            }
            let fds = file.as_slice();
            self.channel.send(&self.reply, fds, Instant::now() + PATIENCE)?;
        }
        self.negotiated = true;
        ends.map_or(Ok(()), |reason| Err(SessionEnd::Protocol(reason)))
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Does what `request` asks, and appends the payload of the reply to `reply`. What is returned
/// is the file that comes along with it.
fn answer<'m, M: Model + ?Sized>(
    request: &Request<'_>,
    mut fds: Vec<OwnedFd>,
    model: &'m mut M,
    host: &mut Host,
    reply: &mut Vec<u8>,
) -> Result<Option<BorrowedFd<'m>>, Refusal> {
    match *request {
        Request::Version { minor, .. } => {
            reply.extend(OURS.version_payload(minor.min(MINOR)));
        }
        Request::DmaMap(map) => {
            let fd = fds.pop().ok_or_else(|| Refusal::new(Errno::BADF, "no file descriptor"))?;
            let writable = map.flags & dma_flags::WRITE != 0;
            host.memory
                .map(map.address, map.size, fd.as_fd(), map.offset, writable)
                .map_err(|error| map_refusal(&error))?;
        }
        Request::DmaUnmap(unmap) => {
            host.memory.unmap(unmap.address, unmap.size).map_err(|error| map_refusal(&error))?;
            reply.extend(unmap.as_bytes());
        }
        Request::DmaUnmapAll(unmap) => {
            host.memory.clear();
            reply.extend(unmap.as_bytes());
        }
        Request::DeviceInfo => {
            let info = DeviceInfo {
                argsz: size_of::<DeviceInfo>() as u32,
                flags: device_flags::RESET | device_flags::PCI,
                num_regions: REGIONS,
                num_irqs: IRQ_KINDS,
            };
            reply.extend(info.as_bytes());
        }
        Request::RegionInfo { argsz, index } => {
            return Ok(region_info(model, index, argsz, reply));
        }
        Request::IrqInfo { index, kind } => {
            let count = kind.map_or(0, |kind| model.interrupts(kind));
            let flags = if count > 0 { irq_flags::EVENTFD } else { 0 };
            let argsz = size_of::<IrqInfo>() as u32;
            reply.extend(IrqInfo { argsz, flags, index, count }.as_bytes());
        }
        Request::ConnectIrqs { kind, start, count } => {
            let available = model.interrupts(kind);
            if start.checked_add(count).is_none_or(|end| end > available) {
                let reason = format!("{count} interrupts from {start}, there are {available}");
                return Err(Refusal::new(Errno::INVAL, reason));
            }
            let mut fds = fds.into_iter();
            for vector in start..start + count {
                host.interrupts
                    .connect(kind, vector, fds.next())
                    .map_err(|error| Refusal::new(errno(&error), error.to_string()))?;
            }
        }
        Request::DisconnectIrqs { kind } => host.interrupts.disconnect(kind),
        Request::UnmaskIrqs => {}
        Request::Read(access) => {
            reply.extend(access.as_bytes());
            let start = reply.len();
            reply.resize(start + access.count as usize, 0xff);
            read(model, host, access, &mut reply[start..])?;
        }
        Request::Write(access, data) => {
            write(model, host, access, data)?;
            reply.extend(access.as_bytes());
        }
        Request::Reset => model.reset(host),
    }
    Ok(None)
}

fn region_info<'m, M: Model + ?Sized>(
    model: &'m mut M,
    index: u32,
    argsz: u32,
    reply: &mut Vec<u8>,
) -> Option<BorrowedFd<'m>> {
    let mut info =
        RegionInfo { argsz: size_of::<RegionInfo>() as u32, index, ..RegionInfo::default() };
    if index == CONFIG_REGION {
        info.size = model.config().len() as u64;
    }
    let bar = u8::try_from(index).ok().filter(|&bar| bar < 6).map(|bar| model.bar(bar));
    let shared = bar.and_then(|bar| {
        info.size = bar.size;
        bar.shared
    });
    if info.size > 0 {
        info.flags = region_flags::READ | region_flags::WRITE;
    }
    let Some(shared) = shared else {
        reply.extend(info.as_bytes());
        return None;
    };
    let area = SparseArea {
        offset: shared.range.start,
        size: shared.range.end.saturating_sub(shared.range.start),
    };
    let capability = CapabilityHeader { id: CAP_SPARSE_MMAP, version: 1, next: 0 };
    let sparse = SparseMmap { nr_areas: 1, reserved: 0 };
    info.flags |= region_flags::MMAP | region_flags::CAPS;
    info.argsz += (size_of_val(&capability) + size_of_val(&sparse) + size_of_val(&area)) as u32;
    if argsz < info.argsz {
        // No room: the client learns how much is needed, and asks again.
        reply.extend(info.as_bytes());
        return None;
    }
    info.cap_offset = size_of::<RegionInfo>() as u32;
    reply.extend(info.as_bytes());
    reply.extend(capability.as_bytes());
    reply.extend(sparse.as_bytes());
    reply.extend(area.as_bytes());
    Some(shared.file)
}

/// What a region access goes to.
enum Target {
    Config(u32),
    Bar(u8),
}

fn target<M: Model + ?Sized>(model: &mut M, access: RegionAccess) -> Result<Target, Refusal> {
    let RegionAccess { offset, region, count } = access;
    let (size, target, right_count) = match (region, u8::try_from(region)) {
        (CONFIG_REGION, _) => {
            // An offset too large for this fails the check of the size.
            let target = Target::Config(u32::try_from(offset).unwrap_or(u32::MAX));
            (model.config().len() as u64, target, true)
        }
        (_, Ok(bar @ 0..6)) => {
            (model.bar(bar).size, Target::Bar(bar), matches!(count, 1 | 2 | 4 | 8))
        }
        _ => (0, Target::Bar(0), false),
    };
    if right_count && offset.checked_add(count.into()).is_some_and(|end| end <= size) {
        return Ok(target);
    }
    Err(Refusal::new(
        Errno::INVAL,
        format!("an access of {count} bytes at {offset:#x} of region {region}, {size:#x} bytes"),
    ))
}

fn read<M: Model + ?Sized>(
    model: &mut M,
    host: &mut Host,
    access: RegionAccess,
    data: &mut [u8],
) -> Result<(), Refusal> {
    match target(model, access)? {
        Target::Config(offset) => model.read_config(offset, data),
        Target::Bar(bar) if model.present() => model.read_bar(host, bar, access.offset, data),
        Target::Bar(_) => data.fill(0xff),
    }
    Ok(())
}

fn write<M: Model + ?Sized>(
    model: &mut M,
    host: &mut Host,
    access: RegionAccess,
    data: &[u8],
) -> Result<(), Refusal> {
    match target(model, access)? {
        Target::Config(offset) => model.write_config(host, offset, data),
        Target::Bar(bar) if model.present() => model.write_bar(host, bar, access.offset, data),
        Target::Bar(_) => {}
    }
    Ok(())
}

fn map_refusal(error: &MapError) -> Refusal {
    let errno = match error {
        MapError::Shape { .. } | MapError::File { .. } => Errno::INVAL,
        MapError::Overlap { .. } => Errno::EXIST,
        MapError::Unknown { .. } => Errno::NOENT,
        MapError::TooMany => Errno::NOSPC,
        MapError::Io { error, .. } => errno(error),
    };
    Refusal::new(errno, error.to_string())
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::INVAL)
}
