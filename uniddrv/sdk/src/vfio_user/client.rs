//! The client's end: a transport.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::capabilities::Capabilities;
use super::channel::{Channel, ChannelError};
use super::protocol::{
    CONFIG_REGION, Command, DeviceInfo, DmaMap, DmaUnmap, Header, IRQ_KINDS, IrqInfo, IrqSet,
    MINOR, REGIONS, RegionAccess, RegionInfo, device_flags, dma_flags, irq_flags, irq_set_flags,
};
use super::region::{self, Region, RegionReply};
use crate::arena::Arena;
use crate::interrupt::InterruptKind;
use crate::mapping::Mapping;
use crate::transport::{BarInfo, DmaLimits, Transport, TransportError, TransportKind};

/// What this side says it can do. Data transfers are those of servers that have no fd for our
/// memory; ours all have, so the size is of no weight.
const OURS: Capabilities =
    Capabilities { max_msg_fds: 16, max_data_xfer_size: 4096, pgsizes: 4096, max_dma_maps: 65_535 };

/// The largest message taken: room for some thousand mappable areas of a region.
const MAX_MESSAGE: usize = 64 << 10;

/// How much room for a region's description is offered at first.
const REGION_REPLY: u32 = 4096;

/// How many commands of its own a server may send during one of ours.
const MAX_SERVER_COMMANDS: u32 = 16;

/// The most interrupts of a kind, by kind. PCI Local Bus 3.0 §6.8.1 (MSI) and §6.8.2 (MSI-X).
const MAX_INTERRUPTS: [u32; IRQ_KINDS as usize] = [1, 32, 2048, 1, 1];

/// How long a server may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To accept the connection, and to answer each message but the slow ones.
    pub exchange: Duration,
    /// To answer DMA_MAP, DMA_UNMAP and DEVICE_RESET: a server touches all of the memory, or
    /// waits for what is in flight.
    pub slow: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { exchange: Duration::from_secs(5), slow: Duration::from_secs(30) }
    }
}

/// A connection to a vfio-user server.
///
/// A server that breaks the protocol or misses a deadline is given up: the connection ends,
/// which makes it stop DMA, and every later call fails at once. An error reply to a single
/// command leaves the connection as it is.
pub struct Client {
    channel: Channel,
    exchange: Mutex<Exchange>,
    lost: OnceLock<String>,
    timeouts: Timeouts,
    peer: Capabilities,
    resettable: bool,
    bars: [MappedRegion; 6],
    config: Region,
    interrupts: [u32; IRQ_KINDS as usize],
}

/// A region and the files of its mappable areas.
#[derive(Debug, Default)]
struct MappedRegion {
    region: Region,
    // One for all areas, or one for each.
    fds: Vec<OwnedFd>,
}

/// What an exchange of messages needs. Exchanges exclude each other.
#[derive(Debug, Default)]
struct Exchange {
    next_id: u16,
    request: Vec<u8>,
    reply: Vec<u8>,
}

/// A command on its way.
struct Request<'a> {
    command: Command,
    parts: &'a [&'a [u8]],
    fds: &'a [BorrowedFd<'a>],
    timeout: Duration,
    // What is being tried, for errors.
    action: fmt::Arguments<'a>,
}

impl Client {
    /// Connects to the server behind the socket `path`.
    ///
    /// # Errors
    /// When there is no such socket, nobody serves it, or who does breaks the protocol or
    /// does not answer in time.
    pub fn connect(path: &Path, timeouts: Timeouts) -> Result<Self, TransportError> {
        let stream = open(path, Instant::now() + timeouts.exchange).map_err(|error| {
            TransportError::io(format!("connect to the socket {}", path.display()), error)
        })?;
        Self::over(stream, timeouts)
    }

    /// Negotiates over a stream that is connected already, and asks for all there is to know
    /// of the device.
    ///
    /// # Errors
    /// When the server breaks the protocol, does not answer in time, or what it serves is no
    /// PCI device.
    pub fn over(stream: UnixStream, timeouts: Timeouts) -> Result<Self, TransportError> {
        let mut client = Self {
            channel: Channel::new(stream),
            exchange: Mutex::default(),
            lost: OnceLock::new(),
            timeouts,
            peer: Capabilities::default(),
            resettable: false,
            bars: Default::default(),
            config: Region::default(),
            interrupts: [0; IRQ_KINDS as usize],
        };
        client.peer = client.negotiate()?;
        let info = client.device_info()?;
        client.resettable = info.flags & device_flags::RESET != 0;
        for index in 0..client.bars.len() {
            client.bars[index] = client.region(index as u32)?;
        }
        client.config = client.region(CONFIG_REGION)?.region;
        if !(256..=4096).contains(&client.config.size) || !client.config.readable {
            return Err(client.malformed(
                format_args!("ask for configuration space"),
                format!("{} bytes, 256 to 4,096 that can be read are right", client.config.size),
            ));
        }
        for kind in 0..info.num_irqs.min(IRQ_KINDS) {
            client.interrupts[kind as usize] = client.irq_count(kind)?;
        }
        Ok(client)
    }

    /// From now on the server may take this long.
    #[must_use]
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    fn negotiate(&self) -> Result<Capabilities, TransportError> {
        let payload = OURS.version_payload(MINOR);
        let request = Request {
            command: Command::Version,
            parts: &[&payload],
            fds: &[],
            timeout: self.timeouts.exchange,
            action: format_args!("negotiate the version"),
        };
        self.exchange(&request, |reply, fds| {
            no_fds(&fds)?;
            Capabilities::parse_version(reply).map(|(_minor, capabilities)| capabilities)
        })
    }

    fn device_info(&self) -> Result<DeviceInfo, TransportError> {
        let action = format_args!("ask what the device is");
        let argsz = size_of::<DeviceInfo>() as u32;
        let ask = DeviceInfo { argsz, ..DeviceInfo::default() };
        let info: DeviceInfo = self.ask(Command::DeviceGetInfo, &ask, action)?;
        if info.flags & device_flags::PCI == 0 {
            return Err(TransportError::Unsupported(format!(
                "the server's device is no PCI device (flags {:#x})",
                info.flags
            )));
        }
        if info.num_regions <= CONFIG_REGION {
            let claim = format!("{} regions, a PCI device has {REGIONS}", info.num_regions);
            return Err(self.malformed(action, claim));
        }
        Ok(info)
    }

    fn region(&self, index: u32) -> Result<MappedRegion, TransportError> {
        let action = format_args!("ask for region {index}");
        let mut argsz = REGION_REPLY;
        loop {
            let ask = RegionInfo { argsz, index, ..RegionInfo::default() };
            let request = Request {
                command: Command::DeviceGetRegionInfo,
                parts: &[ask.as_bytes()],
                fds: &[],
                timeout: self.timeouts.exchange,
                action,
            };
            let found = self.exchange(&request, |reply, fds| {
                Ok(match region::parse(index, reply, fds.len())? {
                    RegionReply::Complete(region) => {
                        check_files(&region, &fds)?;
                        Ok(MappedRegion { region, fds })
                    }
                    RegionReply::NeedsBytes(len) => Err(len),
                })
            })?;
            match found {
                Ok(region) => return Ok(region),
                // Asking again makes sense once, for more, and for no more than is taken.
                Err(len)
                    if argsz == REGION_REPLY
                        && len > argsz
                        && len as usize <= MAX_MESSAGE - Header::SIZE =>
                {
                    argsz = len;
                }
                Err(len) => {
                    let claim = format!("a description of {len} bytes, {argsz} were offered");
                    return Err(self.malformed(action, claim));
                }
            }
        }
    }

    fn irq_count(&self, kind: u32) -> Result<u32, TransportError> {
        let action = format_args!("ask for interrupts of kind {kind}");
        let argsz = size_of::<IrqInfo>() as u32;
        let ask = IrqInfo { argsz, index: kind, ..IrqInfo::default() };
        let info: IrqInfo = self.ask(Command::DeviceGetIrqInfo, &ask, action)?;
        let most = MAX_INTERRUPTS[kind as usize];
        if info.index != kind || info.count > most {
            let claim = format!(
                "{} interrupts of kind {}, at most {most} of kind {kind} are right",
                info.count, info.index
            );
            return Err(self.malformed(action, claim));
        }
        Ok(if info.flags & irq_flags::EVENTFD == 0 { 0 } else { info.count })
    }

    /// Sends a structure and takes one of the same kind as the reply.
    fn ask<T: FromBytes + IntoBytes + KnownLayout + Immutable>(
        &self,
        command: Command,
        ask: &T,
        action: fmt::Arguments<'_>,
    ) -> Result<T, TransportError> {
        let request = Request {
            command,
            parts: &[ask.as_bytes()],
            fds: &[],
            timeout: self.timeouts.exchange,
            action,
        };
        self.exchange(&request, |reply, fds| {
            no_fds(&fds)?;
            T::read_from_bytes(reply).map_err(|_| wrong_length(reply, size_of::<T>()))
        })
    }

    /// Sends a command whose reply says no more than that it is done.
    fn tell(&self, request: &Request<'_>) -> Result<(), TransportError> {
        self.exchange(request, |reply, fds| {
            no_fds(&fds)?;
            // What DMA_UNMAP echoes; the other replies are empty.
            let most = if request.command == Command::DmaUnmap { size_of::<DmaUnmap>() } else { 0 };
            if reply.len() > most { Err(wrong_length(reply, most)) } else { Ok(()) }
        })
    }

    /// Sends a command, receives its reply and lets `parse` check it.
    fn exchange<T>(
        &self,
        request: &Request<'_>,
        parse: impl FnOnce(&[u8], Vec<OwnedFd>) -> Result<T, String>,
    ) -> Result<T, TransportError> {
        let gone = |reason| TransportError::Gone { action: request.action.to_string(), reason };
        // An exchange that panicked half way left a stream that nobody can make sense of.
        let mut exchange = self.exchange.lock().unwrap_or_else(|poisoned| {
            self.give_up("an earlier call ended half way");
            PoisonError::into_inner(poisoned)
        });
        if let Some(reason) = self.lost.get() {
            return Err(gone(reason.clone()));
        }
        let outcome =
            self.run(&mut exchange, request).map_err(|reason| gone(self.give_up(&reason)))?;
        match outcome {
            Ok(fds) => {
                parse(&exchange.reply, fds).map_err(|claim| self.malformed(request.action, claim))
            }
            Err(errno) => Err(TransportError::io(request.action.to_string(), refusal(errno))),
        }
    }

    /// Runs an exchange: the fds of the reply, whose payload is left in `exchange.reply`, or
    /// the errno of an error reply. An error is a broken connection.
    fn run(
        &self,
        exchange: &mut Exchange,
        request: &Request<'_>,
    ) -> Result<Result<Vec<OwnedFd>, u32>, String> {
        let deadline = Instant::now() + request.timeout;
        let command = request.command;
        let id = exchange.next_id;
        exchange.next_id = id.wrapping_add(1);
        let len = request.parts.iter().map(|part| part.len()).sum();
        exchange.request.clear();
        exchange.request.extend_from_slice(Header::command(id, command, len).as_bytes());
        for part in request.parts {
            exchange.request.extend_from_slice(part);
        }
        // What a server does that serves somebody already.
        let hint = match command {
            Command::Version => "; does another client have it?",
            _ => "",
        };
        let failed = |what: &str, error: ChannelError| match error {
            ChannelError::HungUp => format!("the server hung up{hint}"),
            ChannelError::TimedOut { got: 0, .. } => {
                format!("no answer to {command} within {:?}{hint}", request.timeout)
            }
            error => format!("{what} {command}: {error}"),
        };
        self.channel
            .send(&exchange.request, request.fds, deadline)
            .map_err(|error| failed("sending", error))?;
        for _ in 0..=MAX_SERVER_COMMANDS {
            let most_fds = OURS.max_msg_fds as usize;
            let (header, fds) = self
                .channel
                .receive(&mut exchange.reply, MAX_MESSAGE, most_fds, deadline)
                .map_err(|error| failed("the answer to", error))?;
            if header.is_command() {
                // DMA_READ or DMA_WRITE: for memory without an fd, and ours always has one.
                if !header.wants_no_reply() {
                    let refusal = header.error_reply(Errno::NOTSUP.raw_os_error() as u32);
                    self.channel
                        .send(refusal.as_bytes(), &[], deadline)
                        .map_err(|error| failed("refusing a command during", error))?;
                }
                continue;
            }
            // Old releases of libvfio-user leave the command of a reply 0.
            let right_command = header.command == command as u16 || header.command == 0;
            if !header.is_reply() || header.id != id || !right_command {
                return Err(format!(
                    "a message {} of command {} with flags {:#x} where the reply {id} to \
                     {command} was due",
                    header.id, header.command, header.flags
                ));
            }
            return Ok(if header.is_error() { Err(header.error) } else { Ok(fds) });
        }
        Err(format!("{MAX_SERVER_COMMANDS} commands of its own instead of a reply to {command}"))
    }

    /// Ends the connection for good, and says why. The first reason stays.
    fn give_up(&self, reason: &str) -> String {
        let reason = self.lost.get_or_init(|| {
            tracing::debug!(reason, "vfio-user server given up");
            reason.to_owned()
        });
        self.channel.hang_up();
        reason.clone()
    }

    /// A claim that cannot be: the server is given up.
    fn malformed(&self, action: fmt::Arguments<'_>, claim: String) -> TransportError {
        self.give_up(&format!("it broke the protocol: {action}: {claim}"));
        TransportError::malformed(action.to_string(), claim)
    }

    fn mapped_region(&self, index: u8) -> Result<&MappedRegion, TransportError> {
        self.bars
            .get(usize::from(index))
            .ok_or_else(|| TransportError::Unsupported(format!("there is no BAR {index}")))
    }

    fn read_region(
        &self,
        index: u32,
        region: &Region,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), TransportError> {
        let action = format_args!("read {} bytes at {offset:#x} of region {index}", data.len());
        self.check_access(index, region, region.readable, offset, data.len(), action)?;
        let access = RegionAccess { offset, region: index, count: data.len() as u32 };
        let request = Request {
            command: Command::RegionRead,
            parts: &[access.as_bytes()],
            fds: &[],
            timeout: self.timeouts.exchange,
            action,
        };
        self.exchange(&request, |reply, fds| {
            no_fds(&fds)?;
            let read = check_echo(reply, access, access.count as usize)?;
            data.copy_from_slice(read);
            Ok(())
        })
    }

    fn write_region(
        &self,
        index: u32,
        region: &Region,
        offset: u64,
        data: &[u8],
    ) -> Result<(), TransportError> {
        let action = format_args!("write {} bytes at {offset:#x} of region {index}", data.len());
        self.check_access(index, region, region.writable, offset, data.len(), action)?;
        let access = RegionAccess { offset, region: index, count: data.len() as u32 };
        let request = Request {
            command: Command::RegionWrite,
            parts: &[access.as_bytes(), data],
            fds: &[],
            timeout: self.timeouts.exchange,
            action,
        };
        self.exchange(&request, |reply, fds| {
            no_fds(&fds)?;
            check_echo(reply, access, 0).map(|_| ())
        })
    }

    /// Whether `len` bytes at `offset` can be accessed: registers in machine words,
    /// configuration space in any length.
    fn check_access(
        &self,
        index: u32,
        region: &Region,
        allowed: bool,
        offset: u64,
        len: usize,
        action: fmt::Arguments<'_>,
    ) -> Result<(), TransportError> {
        let inside = offset.checked_add(len as u64).is_some_and(|end| end <= region.size);
        let word = matches!(len, 1 | 2 | 4 | 8)
            || (index == CONFIG_REGION
                && (1..=self.peer.max_data_xfer_size).contains(&(len as u64)));
        if word && inside && allowed {
            return Ok(());
        }
        Err(TransportError::Unsupported(format!(
            "cannot {action}: 1, 2, 4 or 8 of its {:#x} bytes can be accessed at a time \
             (readable: {}, writable: {})",
            region.size, region.readable, region.writable
        )))
    }

    fn set_irqs(
        &self,
        kind: InterruptKind,
        start: u32,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), TransportError> {
        let data =
            if fds.is_empty() { irq_set_flags::DATA_NONE } else { irq_set_flags::DATA_EVENTFD };
        let set = IrqSet {
            argsz: size_of::<IrqSet>() as u32,
            flags: data | irq_set_flags::ACTION_TRIGGER,
            index: kind as u32,
            start,
            count: fds.len() as u32,
        };
        self.tell(&Request {
            command: Command::DeviceSetIrqs,
            parts: &[set.as_bytes()],
            fds,
            timeout: self.timeouts.exchange,
            action: format_args!("set {} interrupts ({kind:?}) from {start}", fds.len()),
        })
    }
}

impl Transport for Client {
    fn kind(&self) -> TransportKind {
        TransportKind::VfioUser
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), TransportError> {
        self.read_region(CONFIG_REGION, &self.config, offset.into(), data)
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), TransportError> {
        self.write_region(CONFIG_REGION, &self.config, offset.into(), data)
    }

    fn bar(&self, index: u8) -> Result<BarInfo, TransportError> {
        let Region { size, mappable, .. } = &self.mapped_region(index)?.region;
        Ok(BarInfo { size: *size, mappable: mappable.clone() })
    }

    fn map_bar(&self, index: u8, range: Range<u64>) -> Result<Arc<Mapping>, TransportError> {
        let len = (range.end.saturating_sub(range.start)) as usize;
        let action = format!("map {range:#x?} of BAR {index}");
        let (fd, offset) = self.bar_file(index, range)?;
        Mapping::of_device(fd.as_fd(), offset, len)
            .map(Arc::new)
            .map_err(|error| TransportError::io(action, error))
    }

    fn bar_file(&self, index: u8, range: Range<u64>) -> Result<(OwnedFd, u64), TransportError> {
        let action = || format!("map {range:#x?} of BAR {index}");
        if let Some(reason) = self.lost() {
            return Err(TransportError::Gone { action: action(), reason });
        }
        let MappedRegion { region, fds } = self.mapped_region(index)?;
        let inside = |area: &Range<u64>| {
            area.start <= range.start && range.start < range.end && range.end <= area.end
        };
        let fd = region
            .mappable
            .iter()
            .position(inside)
            .and_then(|area| fds.get(area).or(fds.first()))
            .ok_or_else(|| TransportError::Unsupported(format!("cannot {}", action())))?;
        let fd = fd.as_fd().try_clone_to_owned();
        let fd = fd.map_err(|error| TransportError::io(action(), error))?;
        Ok((fd, region.file_offset + range.start))
    }

    fn read_bar(&self, index: u8, offset: u64, data: &mut [u8]) -> Result<(), TransportError> {
        self.read_region(index.into(), &self.mapped_region(index)?.region, offset, data)
    }

    fn write_bar(&self, index: u8, offset: u64, data: &[u8]) -> Result<(), TransportError> {
        self.write_region(index.into(), &self.mapped_region(index)?.region, offset, data)
    }

    fn dma_limits(&self) -> DmaLimits {
        // The smallest page that the server maps; the memory is the server's to address.
        let granule = self.peer.pgsizes & self.peer.pgsizes.wrapping_neg();
        DmaLimits { ranges: vec![0..=u64::MAX], granule }
    }

    fn map_dma(&self, arena: &Arc<Arena>, iova: u64) -> Result<(), TransportError> {
        let map = DmaMap {
            argsz: size_of::<DmaMap>() as u32,
            flags: dma_flags::READ | dma_flags::WRITE,
            offset: 0,
            address: iova,
            size: arena.len() as u64,
        };
        self.tell(&Request {
            command: Command::DmaMap,
            parts: &[map.as_bytes()],
            fds: &[arena.fd()],
            timeout: self.timeouts.slow,
            action: format_args!("map {:#x} bytes at {iova:#x} for DMA", arena.len()),
        })
    }

    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), TransportError> {
        let argsz = size_of::<DmaUnmap>() as u32;
        let unmap = DmaUnmap { argsz, flags: 0, address: iova, size: len };
        self.tell(&Request {
            command: Command::DmaUnmap,
            parts: &[unmap.as_bytes()],
            fds: &[],
            timeout: self.timeouts.slow,
            action: format_args!("unmap {len:#x} bytes at {iova:#x} from DMA"),
        })
    }

    fn interrupts(&self, kind: InterruptKind) -> u32 {
        self.interrupts[kind as usize]
    }

    fn set_interrupts(
        &self,
        kind: InterruptKind,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), TransportError> {
        if fds.is_empty() {
            return self.set_irqs(kind, 0, &[]);
        }
        let available = self.interrupts(kind) as usize;
        if fds.len() > available {
            return Err(TransportError::Unsupported(format!(
                "{} interrupts ({kind:?}) asked for, the device has {available}",
                fds.len()
            )));
        }
        // As many at once as the server takes; it may know 16 where MSI-X has 2,048.
        let at_once = self.peer.max_msg_fds.min(super::channel::MAX_FDS as u64) as usize;
        for (index, some) in fds.chunks(at_once).enumerate() {
            if let Err(error) = self.set_irqs(kind, (index * at_once) as u32, some) {
                // All or none.
                if index > 0
                    && let Err(error) = self.set_irqs(kind, 0, &[])
                {
                    tracing::debug!(%error, ?kind, "some interrupts stay set");
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), TransportError> {
        if !self.resettable {
            return Err(TransportError::Unsupported("the server cannot reset its device".into()));
        }
        self.tell(&Request {
            command: Command::DeviceReset,
            parts: &[],
            fds: &[],
            timeout: self.timeouts.slow,
            action: format_args!("reset the device"),
        })
    }

    fn lost(&self) -> Option<String> {
        if self.lost.get().is_none() && self.channel.is_hung_up() {
            self.give_up("the server hung up");
        }
        self.lost.get().cloned()
    }

    fn hang_up(&self) -> Option<BorrowedFd<'_>> {
        Some(self.channel.as_fd())
    }

    fn disconnect(&self, reason: &str) {
        self.give_up(reason);
    }
}

/// Connects to the socket `path`, at latest at `deadline`.
fn open(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket.into()),
            Err(Errno::INTR) => {}
            // Its queue of connections is full.
            Err(Errno::AGAIN) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => {
                let hint = match error {
                    Errno::NOENT => "there is no such socket: is the server running?",
                    Errno::CONNREFUSED => "nobody serves it: start the server (again)",
                    Errno::AGAIN => "the server does not accept: it may have a client already",
                    _ => return Err(error.into()),
                };
                return Err(io::Error::new(io::Error::from(error).kind(), hint));
            }
        }
    }
}

fn refusal(errno: u32) -> io::Error {
    match i32::try_from(errno) {
        Ok(errno @ 1..4096) => io::Error::from_raw_os_error(errno),
        _ => io::Error::other(format!("the server refused without a reason (errno {errno})")),
    }
}

fn no_fds(fds: &[OwnedFd]) -> Result<(), String> {
    if fds.is_empty() { Ok(()) } else { Err(format!("{} file descriptors too many", fds.len())) }
}

fn wrong_length(reply: &[u8], right: usize) -> String {
    format!("a reply of {} bytes, {right} are right", reply.len())
}

/// The data in a reply to a region access.
fn check_echo(reply: &[u8], access: RegionAccess, data: usize) -> Result<&[u8], String> {
    match RegionAccess::read_from_prefix(reply) {
        Ok((echo, read)) if echo == access && read.len() == data => Ok(read),
        Ok((echo, read)) => Err(format!(
            "{} bytes at {:#x} of region {} with {} bytes of data came back, {data} are right",
            echo.count,
            echo.offset,
            echo.region,
            read.len()
        )),
        Err(_) => Err(wrong_length(reply, size_of::<RegionAccess>() + data)),
    }
}

/// Whether the files of a region are as long as its mappable areas say.
fn check_files(region: &Region, fds: &[OwnedFd]) -> Result<(), String> {
    for (index, area) in region.mappable.iter().enumerate() {
        let Some(fd) = fds.get(index).or(fds.first()) else { break };
        let stat = fstat(fd).map_err(|error| format!("a file that has no status: {error}"))?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let end = region.file_offset + area.end;
        if regular && u64::try_from(stat.st_size).unwrap_or(0) < end {
            return Err(format!(
                "a file of {:#x} bytes for an area that ends at {end:#x}",
                stat.st_size
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
