//! The server with good clients, bad clients and other servers.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use tempfile::TempDir;
use uniddrv::device::Identity;
use uniddrv::vfio_user::capabilities::Capabilities;
use uniddrv::vfio_user::channel::{Channel, ChannelError};
use uniddrv::vfio_user::protocol::{
    Command, DeviceInfo, DmaMap, DmaUnmap, Header, IrqInfo, IrqSet, RegionAccess, RegionInfo,
    header_flags,
};
use uniddrv::vfio_user::{Client, Timeouts};
use uniddrv::{Arena, Device, InterruptKind, Transport, TransportError};
use uniddrv_spec::edu as spec;
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::config_space::ConfigSpace;
use crate::edu::Edu;
use crate::host::REGIONS;
use crate::model::{ModelBar, SharedPart};

/// A device that shows what its server does: how many regions its client has mapped (register
/// 0), how often it was reset (8); a write to 0x10 makes it write 8 bytes at that address, and
/// one to the shared page signals interrupt 0.
struct Probe {
    config: ConfigSpace,
    bar: File,
    resets: u64,
    present: bool,
}

const DOORBELL: usize = 0x1000;

fn new_bar() -> File {
    let bar = memfd_create("bar", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&bar, 0x2000).unwrap();
    bar.into()
}

impl Probe {
    fn new() -> Self {
        let identity = Identity { vendor: 1, device: 2, class: 3, revision: 4 };
        Self {
            config: ConfigSpace::builder(identity).bar32(0, 0x4000).build(),
            bar: new_bar(),
            resets: 0,
            present: true,
        }
    }
}

impl Model for Probe {
    fn config(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn bar(&self, index: u8) -> ModelBar<'_> {
        if index != 0 {
            return ModelBar::default();
        }
        let shared = SharedPart { range: 0x1000..0x2000, file: self.bar.as_fd() };
        ModelBar { size: 0x4000, shared: Some(shared) }
    }
    fn read_bar(&mut self, host: &mut Host, _: u8, offset: u64, data: &mut [u8]) {
        let value = match offset {
            0 => host.memory.regions() as u64,
            8 => self.resets,
            _ => 0,
        };
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
    }
    fn write_bar(&mut self, host: &mut Host, _: u8, offset: u64, data: &[u8]) {
        match (offset, data.try_into()) {
            (0x10, Ok(address)) => {
                let _ = host.memory.write(u64::from_le_bytes(address), b"written!");
            }
            (0x18, _) => self.present = false,
            _ => {}
        }
    }
    fn interrupts(&self, kind: InterruptKind) -> u32 {
        if kind == InterruptKind::Msix { 20 } else { 0 }
    }
    fn reset(&mut self, _: &mut Host) {
        self.resets += 1;
    }
    fn revoke(&mut self) -> io::Result<()> {
        self.bar = new_bar();
        Ok(())
    }
    fn poll(&mut self, host: &mut Host) -> bool {
        let mut doorbell = [0];
        self.bar.read_exact_at(&mut doorbell, DOORBELL as u64).unwrap();
        if doorbell == [0] {
            return false;
        }
        self.bar.write_all_at(&[0], DOORBELL as u64).unwrap();
        host.interrupts.signal(0);
        true
    }
    fn present(&self) -> bool {
        self.present
    }
}

/// A server in a thread of its own.
struct Served {
    folder: TempDir,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), ServeError>>,
}

impl Served {
    fn new(mut model: impl Model + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::bind(&folder.path().join("socket")).unwrap();
        server.negotiation = Duration::from_millis(300);
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = thread::spawn(move || server.run(&mut model, &flag));
        Self { folder, stop, thread }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// A client; turned away as long as another one is served, so it asks again.
    fn client(&self) -> Client {
        let timeouts = Timeouts::default();
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match Client::connect(&self.path(), timeouts) {
                Ok(client) => return client,
                Err(TransportError::Gone { .. }) if Instant::now() < until => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// A client by hand, past the negotiation.
    fn raw(&self) -> Raw {
        drop(self.client());
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let mut raw = Raw::new(UnixStream::connect(self.path()).unwrap());
            match raw.ask(Command::Version, &Capabilities::default().version_payload(1), 0) {
                Ok(reply) => {
                    assert_eq!(Capabilities::parse_version(&reply).unwrap().0, 1);
                    return raw;
                }
                Err(_) => assert!(Instant::now() < until),
            }
        }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap();
        assert!(!self.folder.path().join("socket").exists());
    }
}

/// A client by hand.
struct Raw {
    channel: Channel,
    last_id: u16,
    file: OwnedFd,
}

impl Raw {
    fn new(stream: UnixStream) -> Self {
        let file = memfd_create("client", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 0x10000).unwrap();
        Self { channel: Channel::new(stream), last_id: 0, file }
    }

    fn deadline() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn send(&self, bytes: &[u8], fds: usize) -> Result<(), ChannelError> {
        self.channel.send(bytes, &vec![self.file.as_fd(); fds], Self::deadline())
    }

    fn receive(&self) -> Result<(Header, Vec<u8>, Vec<OwnedFd>), ChannelError> {
        let mut payload = Vec::new();
        let (header, fds) = self.channel.receive(&mut payload, 1 << 20, 253, Self::deadline())?;
        Ok((header, payload, fds))
    }

    /// Sends a command and gives the reply's payload, or its errno (none: the server hung up).
    fn ask(
        &mut self,
        command: Command,
        payload: &[u8],
        fds: usize,
    ) -> Result<Vec<u8>, Option<u32>> {
        self.last_id += 1;
        let header = Header::command(self.last_id, command, payload.len());
        self.send(&[header.as_bytes(), payload].concat(), fds).map_err(|_| None)?;
        let (reply, payload, _) = self.receive().map_err(|_| None)?;
        assert!(reply.is_reply() && reply.id == self.last_id && reply.command == header.command);
        if reply.is_error() {
            assert!(payload.is_empty());
            return Err(Some(reply.error));
        }
        Ok(payload)
    }

    fn errno(&mut self, command: Command, payload: &[u8], fds: usize) -> u32 {
        self.ask(command, payload, fds).unwrap_err().expect("the server hung up")
    }

    fn map(&mut self, map: DmaMap) -> Result<Vec<u8>, Option<u32>> {
        self.ask(Command::DmaMap, map.as_bytes(), 1)
    }

    fn regions(&mut self) -> u64 {
        let access = RegionAccess { offset: 0, region: 0, count: 8 };
        let reply = self.ask(Command::RegionRead, access.as_bytes(), 0).unwrap();
        u64::from_le_bytes(reply[16..].try_into().unwrap())
    }

    /// The server hung up on it.
    fn is_over(&self) -> bool {
        matches!(self.receive(), Err(ChannelError::HungUp | ChannelError::Truncated { .. }))
    }
}

const MAP: DmaMap = DmaMap { argsz: 32, flags: 3, offset: 0, address: 0x10000, size: 0x1000 };
const EPERM: u32 = 1;
const ENOENT: u32 = 2;
const EEXIST: u32 = 17;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ENOTSUP: u32 = 95;

#[test]
fn edu_works_over_the_socket() {
    let served = Served::new(Edu::new(None));
    let address = format!("vfio-user:{}", served.path().display()).parse().unwrap();
    let device = Device::open(&address).unwrap();
    assert_eq!(device.identity().unwrap().device, spec::DEVICE);
    device.set_bus_master(true).unwrap();
    let bar = device.bar(0).unwrap();
    let registers = bar.window(0..spec::BAR_SIZE as u64).unwrap();
    assert!(!registers.is_mapped());
    registers.write32(spec::Liveness::OFFSET, 0x1234_5678);
    assert_eq!(registers.read32(spec::Liveness::OFFSET), !0x1234_5678);
    registers.write32(spec::Factorial::OFFSET, 5);
    assert_eq!(registers.read32(spec::Factorial::OFFSET), 120);
    drop(bar);
    drop(registers);
    drop(device);
    served.end();
}

#[test]
fn memory_interrupts_and_doorbells_are_shared() {
    let served = Served::new(Probe::new());
    let client = Arc::new(served.client());
    let device = Device::new(client.clone(), "vfio-user:/x".parse().unwrap());
    let bar = device.bar(0).unwrap();
    let registers = bar.window(0..0x20).unwrap();
    let doorbells = bar.window(0x1000..0x1010).unwrap();
    assert!(!registers.is_mapped() && doorbells.is_mapped());
    let buffer = device.dma_buffer(4096).unwrap();
    assert_eq!(registers.read64(0), 1);
    registers.write64(0x10, buffer.iova());
    assert_eq!(registers.read64(8), 0);
    assert_eq!(&buffer.as_slice()[..9], b"written!\0");
    let interrupts = device.interrupts(InterruptKind::Msix, 20).unwrap();
    for pause in [0, 1, 30] {
        // Spinning, yielding and asleep, the server sees a doorbell.
        thread::sleep(Duration::from_millis(pause));
        doorbells.write8(0, 1);
        assert!(interrupts[0].wait(Duration::from_secs(20)).unwrap());
    }
    device.disable_interrupts(InterruptKind::Msix).unwrap();
    device.reset().unwrap();
    assert_eq!(registers.read64(8), 1);
    drop(buffer);
    drop(bar);
    drop(device);
    let mut regions = [0; 8];
    client.read_bar(0, 0, &mut regions).unwrap();
    assert_eq!(u64::from_le_bytes(regions), 0);
    drop(client);
    served.end();
}

#[test]
fn a_device_that_disappears_reads_as_ones() {
    let served = Served::new(Probe::new());
    let client = served.client();
    client.write_bar(0, 0x18, &[1]).unwrap();
    let mut bytes = [0; 4];
    client.read_bar(0, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [0xff; 4]);
    client.read_config(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0xff; 4]);
    client.write_bar(0, 0, &bytes).unwrap();
    served.end();
}

#[test]
fn one_client_at_a_time_and_none_sees_another_ones_state() {
    let served = Served::new(Probe::new());
    let first = served.client();
    first.map_dma(&Arc::new(Arena::new(1).unwrap()), 0x20_0000).unwrap();
    for _ in 0..3 {
        let error = Client::connect(&served.path(), Timeouts::default()).err().unwrap();
        assert!(error.to_string().contains("another client"), "{error}");
        let mut word = [0; 8];
        first.read_bar(0, 0, &mut word).unwrap();
        assert_eq!(u64::from_le_bytes(word), 1);
    }
    drop(first);
    for resets in 1u64..4 {
        let next = served.client();
        let (mut regions, mut count) = ([0; 8], [0; 8]);
        next.read_bar(0, 0, &mut regions).unwrap();
        next.read_bar(0, 8, &mut count).unwrap();
        assert_eq!(u64::from_le_bytes(regions), 0);
        assert_eq!(u64::from_le_bytes(count), resets);
    }
    served.end();
}

#[test]
fn what_a_client_has_mapped_is_of_no_use_once_it_left() {
    let served = Served::new(Probe::new());
    let mut old = None;
    for _ in 0..2 {
        let client = Arc::new(served.client());
        let device = Device::new(client, "vfio-user:/x".parse().unwrap());
        let doorbells = device.bar(0).unwrap().window(0x1000..0x1010).unwrap();
        let interrupts = device.interrupts(InterruptKind::Msix, 1).unwrap();
        if let Some(old) = old.replace(doorbells.clone()) {
            let old: uniddrv::Window = old;
            old.write8(0, 1);
            assert!(!interrupts[0].wait(Duration::from_millis(50)).unwrap());
        }
        doorbells.write8(0, 1);
        assert!(interrupts[0].wait(Duration::from_secs(20)).unwrap());
    }
    served.end();
}

#[test]
fn a_client_sees_its_server_stop() {
    let served = Served::new(Probe::new());
    let client = served.client();
    assert_eq!(client.lost(), None);
    served.end();
    assert!(client.lost().is_some());
}

#[test]
fn a_client_that_says_nothing_does_not_keep_others_out() {
    let served = Served::new(Probe::new());
    let silent = Raw::new(UnixStream::connect(served.path()).unwrap());
    let half = UnixStream::connect(served.path());
    assert!(silent.is_over());
    drop(half);
    drop(served.client());
    served.end();
}

#[test]
fn sockets_of_the_dead_are_replaced_and_of_the_living_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = Server::bind(&path).unwrap();
    assert!(matches!(Server::bind(&path), Err(ServeError::InUse { .. })));
    drop(server);
    assert!(!path.exists());

    fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::bind(&path), Err(ServeError::NoSocket { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();

    // Somebody moved in while we served: theirs stays.
    let server = Server::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());

    assert!(matches!(Server::bind(&folder.path().join("no/folder")), Err(ServeError::Io { .. })));
    assert!(Server::bind(&folder.path().join("x".repeat(200))).is_err());
}

#[test]
fn mappings_are_checked() {
    let served = Served::new(Probe::new());
    let mut raw = served.raw();
    raw.map(MAP).unwrap();
    for (map, errno) in [
        (MAP, EEXIST),
        (DmaMap { address: 0xf000, size: 0x2000, ..MAP }, EEXIST),
        (DmaMap { address: 0, size: 1 << 46, ..MAP }, EEXIST),
        (DmaMap { address: 0x20000, size: 0x11000, ..MAP }, EINVAL),
        (DmaMap { address: 0x20000, offset: 0x10000, ..MAP }, EINVAL),
        (DmaMap { address: 0x20000, offset: !0xfff, ..MAP }, EINVAL),
        (DmaMap { address: 0x20000, size: 1 << 46, ..MAP }, EINVAL),
        (DmaMap { address: 0x20000, size: !0xfff, ..MAP }, EINVAL),
        (DmaMap { address: !0xfff, size: 0x2000, ..MAP }, EINVAL),
        (DmaMap { address: 0x20000, size: 0, ..MAP }, EINVAL),
        (DmaMap { address: 0x20001, ..MAP }, EINVAL),
        (DmaMap { address: 0x20000, offset: 1, ..MAP }, EINVAL),
        (DmaMap { address: 0x20000, size: 1, ..MAP }, EINVAL),
        (DmaMap { address: 0x20000, flags: 0, ..MAP }, EINVAL),
    ] {
        assert_eq!(raw.map(map), Err(Some(errno)), "{map:x?}");
    }
    let other = DmaMap { address: 0x20000, ..MAP };
    assert_eq!(raw.errno(Command::DmaMap, other.as_bytes(), 0), ENOTSUP);
    assert_eq!(raw.errno(Command::DmaMap, other.as_bytes(), 2), EINVAL);
    assert_eq!(raw.regions(), 1);

    let unmap = DmaUnmap { argsz: 24, flags: 0, address: 0x10000, size: 0x1000 };
    for (address, size) in [(0x10000, 0x800), (0x11000, 0x1000), (0, 0), (!0, !0)] {
        let wrong = DmaUnmap { address, size, ..unmap };
        assert_eq!(raw.errno(Command::DmaUnmap, wrong.as_bytes(), 0), ENOENT);
    }
    assert_eq!(raw.ask(Command::DmaUnmap, unmap.as_bytes(), 0).unwrap(), unmap.as_bytes());
    assert_eq!(raw.regions(), 0);

    for index in 0..REGIONS as u64 {
        raw.map(DmaMap { address: index << 12, ..MAP }).unwrap();
    }
    assert_eq!(raw.map(DmaMap { address: 1 << 40, ..MAP }), Err(Some(ENOSPC)));
    let all = DmaUnmap { argsz: 24, flags: 2, address: 0, size: 0 };
    raw.ask(Command::DmaUnmap, all.as_bytes(), 0).unwrap();
    assert_eq!(raw.regions(), 0);
    served.end();
}

#[test]
fn accesses_are_checked() {
    let served = Served::new(Probe::new());
    let mut raw = served.raw();
    for (region, offset, count) in [
        (0, 0x4000, 1),
        (0, 0x3ffd, 4),
        (0, u64::MAX, 8),
        (0, 0, 3),
        (0, 0, 16),
        (1, 0, 4),
        (6, 0, 4),
        (8, 0, 4),
        (99, 0, 4),
        (u32::MAX, 0, 4),
        (7, 255, 2),
        (7, 1 << 32, 1),
        (7, 0, 4096),
        (7, u64::MAX, 1),
    ] {
        let access = RegionAccess { offset, region, count };
        assert_eq!(raw.errno(Command::RegionRead, access.as_bytes(), 0), EINVAL, "{access:x?}");
        let write = [access.as_bytes(), &vec![0; count as usize]].concat();
        assert_eq!(raw.errno(Command::RegionWrite, &write, 0), EINVAL, "{access:x?}");
    }
    let all = RegionAccess { offset: 0, region: 7, count: 256 };
    let reply = raw.ask(Command::RegionRead, all.as_bytes(), 0).unwrap();
    assert_eq!(&reply[16..20], [1, 0, 2, 0]);
    served.end();
}

#[test]
fn interrupts_are_checked() {
    let served = Served::new(Probe::new());
    let mut raw = served.raw();
    let set = IrqSet { argsz: 20, flags: 0x24, index: 2, start: 0, count: 1 };
    for (set, fds) in [
        (IrqSet { start: 20, ..set }, 1),
        (IrqSet { start: 19, count: 2, ..set }, 2),
        (IrqSet { start: 5, count: u32::MAX, ..set }, 0),
        (IrqSet { index: 0, ..set }, 1),
        (IrqSet { index: 9, ..set }, 1),
        (set, 2),
    ] {
        assert_eq!(raw.errno(Command::DeviceSetIrqs, set.as_bytes(), fds), EINVAL, "{set:?}");
    }
    // A file is no eventfd, but that hurts nobody.
    raw.ask(Command::DeviceSetIrqs, IrqSet { count: 16, ..set }.as_bytes(), 16).unwrap();
    raw.ask(Command::DeviceSetIrqs, IrqSet { count: 16, ..set }.as_bytes(), 0).unwrap();
    let info = IrqInfo { argsz: 16, flags: 0, index: 2, count: 0 };
    let reply = raw.ask(Command::DeviceGetIrqInfo, info.as_bytes(), 0).unwrap();
    assert_eq!(IrqInfo::read_from_bytes(&reply).unwrap().count, 20);
    served.end();
}

#[test]
fn descriptions_fit_into_what_the_client_has() {
    let served = Served::new(Probe::new());
    let mut raw = served.raw();
    let ask = RegionInfo { argsz: 32, index: 0, ..RegionInfo::default() };
    let reply = raw.ask(Command::DeviceGetRegionInfo, ask.as_bytes(), 0).unwrap();
    let info = RegionInfo::read_from_bytes(&reply).unwrap();
    assert_eq!((info.argsz, info.size, info.flags), (64, 0x4000, 15));
    let ask = RegionInfo { argsz: 64, ..ask };
    assert_eq!(raw.ask(Command::DeviceGetRegionInfo, ask.as_bytes(), 0).unwrap().len(), 64);
    let ask = DeviceInfo { argsz: 16, ..DeviceInfo::default() };
    let reply = raw.ask(Command::DeviceGetInfo, ask.as_bytes(), 0).unwrap();
    let info = DeviceInfo::read_from_bytes(&reply).unwrap();
    assert_eq!(info, DeviceInfo { argsz: 16, flags: 3, num_regions: 9, num_irqs: 5 });
    served.end();
}

#[test]
fn commands_without_reply_get_none() {
    let served = Served::new(Probe::new());
    let mut raw = served.raw();
    for map in [MAP, MAP] {
        let mut header = Header::command(99, Command::DmaMap, 32);
        header.flags |= header_flags::NO_REPLY;
        raw.send(&[header.as_bytes(), map.as_bytes()].concat(), 1).unwrap();
    }
    assert_eq!(raw.regions(), 1);
    served.end();
}

#[test]
fn file_descriptors_that_come_along_are_closed() {
    let served = Served::new(Probe::new());
    let mut raw = served.raw();
    let (mut reader, writer) = std::io::pipe().unwrap();
    raw.file = writer.into();
    assert_eq!(raw.errno(Command::DeviceReset, &[], 16), EINVAL);
    assert_eq!(raw.errno(Command::DmaMap, MAP.as_bytes(), 1), EINVAL);
    raw.file = memfd_create("none", MemfdFlags::CLOEXEC).unwrap();
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    served.end();
}

#[test]
fn what_no_client_sends_ends_it_and_nobody_else() {
    let served = Served::new(Probe::new());
    let good = Header::command(1, Command::DeviceReset, 0);
    for bytes in [
        Header { size: 15, ..good }.as_bytes(),
        Header { size: 0, ..good }.as_bytes(),
        Header { size: u32::MAX, ..good }.as_bytes(),
        Header { size: 16385, ..good }.as_bytes(),
        good.reply(0).as_bytes(),
        Header { flags: 15, ..good }.as_bytes(),
        // Cut short.
        &Header { size: 17, ..good }.as_bytes()[..16],
        &good.as_bytes()[..7],
    ] {
        let raw = served.raw();
        raw.send(bytes, 0).unwrap();
        assert!(raw.is_over());
    }
    let raw = served.raw();
    raw.send(good.as_bytes(), 17).unwrap();
    assert!(raw.is_over());
    // The version is first, right, and once.
    for (command, payload) in [
        (Command::DeviceReset, Vec::new()),
        (Command::Version, vec![1, 0, 0, 0]),
        (Command::Version, vec![0]),
        (Command::Version, b"\0\0\x01\0not json".to_vec()),
    ] {
        drop(served.raw());
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let mut raw = Raw::new(UnixStream::connect(served.path()).unwrap());
            match raw.ask(command, &payload, 0) {
                Err(Some(errno)) => {
                    assert_eq!(errno, EINVAL);
                    assert!(raw.is_over());
                    break;
                }
                // The one before is still being seen off.
                Err(None) => assert!(Instant::now() < until),
                Ok(_) => panic!("{command} was taken"),
            }
        }
    }
    let mut raw = served.raw();
    assert_eq!(raw.errno(Command::Version, &Capabilities::default().version_payload(1), 0), EINVAL);
    assert_eq!(raw.regions(), 0);
    drop(raw);
    drop(served.client());
    served.end();
}

#[test]
fn a_client_that_reads_no_replies_is_given_up() {
    let served = Served::new(Probe::new());
    let raw = served.raw();
    let access = RegionAccess { offset: 0, region: 7, count: 256 };
    let header = Header::command(1, Command::RegionRead, 16);
    let one = [header.as_bytes(), access.as_bytes()].concat();
    let mut stream = UnixStream::from(raw.channel.as_fd().try_clone_to_owned().unwrap());
    while stream.write_all(&one).is_ok() {}
    drop(served.client());
    served.end();
}

fn session() -> (Session, Raw) {
    let (server, client) = UnixStream::pair().unwrap();
    (Session::new(server), Raw::new(client))
}

#[derive(Debug, Clone)]
struct Message {
    header: Header,
    payload: Vec<u8>,
    fds: usize,
}

prop_compose! {
    fn message()(
        command in 1u16..17,
        flags in prop_oneof![9 => Just(0u32), 1 => any::<u32>()],
        fds in 0usize..3,
        words in proptest::collection::vec(
            prop_oneof![
                0u32..4, Just(7), Just(16), Just(20), Just(24), Just(32), Just(0x24), Just(0x1000),
                any::<u32>(),
            ],
            0..10,
        ),
        extra in 0usize..4,
    ) -> Message {
        let mut payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        payload.resize(payload.len() + extra % 2, 0);
        let mut header = Header::command(1, Command::Version, payload.len());
        header.command = command;
        header.flags = flags;
        Message { header, payload, fds }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>, fds in 0usize..20) {
        let (mut session, raw) = session();
        let (mut model, mut host) = (Probe::new(), Host::new());
        raw.send(&bytes, fds).unwrap();
        raw.channel.hang_up();
        while session.serve(&mut model, &mut host).is_ok() {}
        prop_assert!(host.memory.regions() <= 20);
    }

    #[test]
    fn arbitrary_requests_do_no_harm(messages in proptest::collection::vec(message(), 1..12)) {
        let (mut session, mut raw) = session();
        let (mut model, mut host) = (Probe::new(), Host::new());
        let version = Capabilities::default().version_payload(1);
        let header = Header::command(0, Command::Version, version.len());
        raw.send(&[header.as_bytes(), &version].concat(), 0).unwrap();
        session.serve(&mut model, &mut host).unwrap();
        raw.receive().unwrap();
        for Message { header, payload, fds } in messages {
            raw.send(&[header.as_bytes(), &payload].concat(), fds).unwrap();
            if session.serve(&mut model, &mut host).is_err() {
                prop_assert!(!header.is_command());
                break;
            }
            if header.wants_no_reply() {
                continue;
            }
            let (reply, payload, _) = raw.receive().unwrap();
            prop_assert_eq!((reply.id, reply.command), (header.id, header.command));
            prop_assert_eq!(reply.size as usize, payload.len() + Header::SIZE);
            prop_assert!(!reply.is_error() || (payload.is_empty() && reply.error >= EPERM));
        }
        raw.last_id = 0;
    }
}
