//! The client against servers that do all they should not.

#![expect(clippy::single_range_in_vec_init, reason = "it is meant: one area")]

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::*;
use crate::interrupt::Interrupt;
use crate::vfio_user::protocol::{CapabilityHeader, DmaAccess, SparseArea, SparseMmap, Version};
use crate::vfio_user::protocol::{dma_unmap_flags, region_flags};
use crate::window::Window;

/// A reply on its way; a script may spoil it.
struct Reply {
    /// What was asked.
    header: Header,
    request: Vec<u8>,
    /// The right answer, header and payload.
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    then: Then,
}

#[derive(Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    HangUp,
    Wait,
}

impl Reply {
    fn is(&self, command: Command) -> bool {
        self.header.command == command as u16
    }

    fn header_mut(&mut self) -> &mut Header {
        Header::mut_from_prefix(&mut self.bytes).unwrap().0
    }

    /// Replaces the payload, and says its size.
    fn set_payload(&mut self, payload: &[u8]) {
        self.bytes.truncate(Header::SIZE);
        self.bytes.extend_from_slice(payload);
        self.header_mut().size = self.bytes.len() as u32;
    }

    fn cut(&mut self, len: usize, then: Then) {
        self.bytes.truncate(len);
        self.then = then;
    }

    fn fail(&mut self, errno: u32) {
        self.bytes = self.header.error_reply(errno).as_bytes().to_vec();
        self.fds.clear();
    }
}

fn memfd(len: u64) -> OwnedFd {
    let fd = memfd_create("bar", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len).unwrap();
    fd
}

fn region_payload(info: RegionInfo, areas: &[(u64, u64)]) -> Vec<u8> {
    let mut payload = info.as_bytes().to_vec();
    payload.extend(CapabilityHeader { id: 1, version: 1, next: 0 }.as_bytes());
    payload.extend(SparseMmap { nr_areas: areas.len() as u32, reserved: 0 }.as_bytes());
    for &(offset, size) in areas {
        payload.extend(SparseArea { offset, size }.as_bytes());
    }
    payload
}

/// BAR 0 as it should be described: 16 KiB, of which the second page can be mapped.
fn bar0() -> RegionInfo {
    use region_flags::{CAPS, MMAP, READ, WRITE};
    let flags = READ | WRITE | MMAP | CAPS;
    RegionInfo { argsz: 64, flags, index: 0, cap_offset: 32, size: 0x4000, offset: 0 }
}

/// A server of a device with a BAR, configuration space that reads as its offsets, and 20
/// MSI-X interrupts. `spoil` sees each reply before it goes.
fn serve(
    stream: UnixStream,
    bar: OwnedFd,
    mut spoil: impl FnMut(usize, &mut Reply) + Send + 'static,
) -> JoinHandle<Vec<Header>> {
    thread::spawn(move || {
        let channel = Channel::new(stream);
        let deadline = Instant::now() + Duration::from_mins(1);
        let mut seen = Vec::new();
        let mut request = Vec::new();
        loop {
            let Ok((header, _fds)) = channel.receive(&mut request, 1 << 20, 253, deadline) else {
                return seen;
            };
            seen.push(header);
            if header.is_reply() {
                continue;
            }
            let mut fds = Vec::new();
            let payload = match Command::from_raw(header.command).unwrap() {
                Command::Version => Capabilities { max_msg_fds: 8, ..OURS }.version_payload(1),
                Command::DeviceGetInfo => {
                    DeviceInfo { argsz: 16, flags: 3, num_regions: 9, num_irqs: 5 }
                        .as_bytes()
                        .into()
                }
                Command::DeviceGetRegionInfo => {
                    let ask = RegionInfo::read_from_bytes(&request).unwrap();
                    match ask.index {
                        0 => {
                            fds.push(bar.try_clone().unwrap());
                            region_payload(bar0(), &[(0x1000, 0x1000)])
                        }
                        7 => RegionInfo { argsz: 32, flags: 3, size: 256, ..ask }.as_bytes().into(),
                        _ => RegionInfo { argsz: 32, ..ask }.as_bytes().into(),
                    }
                }
                Command::DeviceGetIrqInfo => {
                    let ask = IrqInfo::read_from_bytes(&request).unwrap();
                    let count = if ask.index == 2 { 20 } else { 0 };
                    IrqInfo { flags: 1, count, ..ask }.as_bytes().into()
                }
                Command::RegionRead => {
                    let (access, _) = RegionAccess::read_from_prefix(&request).unwrap();
                    let data = (0..access.count).map(|byte| byte as u8 + access.offset as u8);
                    access.as_bytes().iter().copied().chain(data).collect()
                }
                Command::RegionWrite => request[..16].to_vec(),
                Command::DmaUnmap => request.clone(),
                _ => Vec::new(),
            };
            let mut bytes = header.reply(payload.len()).as_bytes().to_vec();
            bytes.extend(payload);
            let request = request.clone();
            let mut reply = Reply { header, request, bytes, fds, then: Then::GoOn };
            spoil(seen.len() - 1, &mut reply);
            let fds: Vec<_> = reply.fds.iter().map(AsFd::as_fd).collect();
            let sent = channel.send(&reply.bytes, &fds, deadline);
            if sent.is_err() || reply.then == Then::HangUp {
                return seen;
            }
            if reply.then == Then::Wait {
                while !channel.is_hung_up() {
                    thread::sleep(Duration::from_millis(1));
                }
                return seen;
            }
        }
    })
}

/// Long enough for any machine; what waits this long has failed.
const PATIENT: Timeouts =
    Timeouts { exchange: Duration::from_secs(20), slow: Duration::from_secs(20) };
/// For servers that are silent: long enough for all that goes well before that.
const HASTY: Timeouts = Timeouts { exchange: Duration::from_secs(2), slow: Duration::from_secs(2) };
/// Where nothing is expected to go well.
const BRIEF: Timeouts =
    Timeouts { exchange: Duration::from_millis(10), slow: Duration::from_millis(10) };

fn arena() -> Arc<Arena> {
    static ARENA: OnceLock<Arc<Arena>> = OnceLock::new();
    ARENA.get_or_init(|| Arc::new(Arena::new(1).unwrap())).clone()
}

fn connect(
    timeouts: Timeouts,
    spoil: impl FnMut(usize, &mut Reply) + Send + 'static,
) -> (Result<Client, TransportError>, JoinHandle<Vec<Header>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = serve(theirs, memfd(0x4000), spoil);
    (Client::over(ours, timeouts), server)
}

/// Messages until a client is connected.
const CONNECT: usize = 1 + 1 + 7 + 5;
/// Messages of `steps`, one each.
const STEPS: usize = 8;

/// One message each.
fn steps(client: &Client) -> [Result<(), TransportError>; STEPS] {
    let interrupts: Vec<_> = (0..3).map(|_| Interrupt::new().unwrap()).collect();
    let fds: Vec<_> = interrupts.iter().map(AsFd::as_fd).collect();
    [
        client.read_config(0, &mut [0; 4]),
        client.write_config(4, &[6, 0]),
        client.read_bar(0, 8, &mut [0; 8]),
        client.write_bar(0, 0x14, &[1, 2, 3, 4]),
        client.map_dma(&arena(), 0x20_0000),
        client.set_interrupts(InterruptKind::Msix, &fds),
        client.unmap_dma(0x20_0000, 2 << 20),
        client.reset(),
    ]
}

#[test]
fn a_good_server_is_understood() {
    let (client, server) = connect(PATIENT, |_, _| ());
    let client = client.unwrap();
    let mut bytes = [0; 4];
    client.read_config(0x10, &mut bytes).unwrap();
    assert_eq!(bytes, [0x10, 0x11, 0x12, 0x13]);
    let mut all = [0; 256];
    client.read_config(0, &mut all).unwrap();
    assert_eq!(all[255], 255);
    assert_eq!(client.bar(0).unwrap(), BarInfo { size: 0x4000, mappable: vec![0x1000..0x2000] });
    assert_eq!(client.bar(1).unwrap(), BarInfo::default());
    assert_eq!(client.interrupts(InterruptKind::Msix), 20);
    assert_eq!(client.interrupts(InterruptKind::Intx), 0);
    assert_eq!(client.dma_limits().granule, 4096);
    for result in steps(&client) {
        result.unwrap();
    }
    assert_eq!(client.lost(), None);
    drop(client);
    assert_eq!(server.join().unwrap().len(), CONNECT + 2 + STEPS);
}

#[test]
fn a_mapped_bar_is_the_servers_memory() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let bar = memfd(0x4000);
    let memory = File::from(bar.try_clone().unwrap());
    let _server = serve(theirs, bar, |_, _| ());
    let client = Client::over(ours, PATIENT).unwrap();
    let window = Window::mapped(client.map_bar(0, 0x1000..0x2000).unwrap(), 0, 0x1000).unwrap();
    window.write32(0x10, 0x0403_0201);
    let mut bytes = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, 0x1010).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
    for (start, end) in [(0, 0x1000), (0x1000, 0x3000), (0x1000, 0x1000), (0x2000, 0x1000), (0, !0)]
    {
        let error = client.map_bar(0, start..end).unwrap_err();
        assert!(matches!(error, TransportError::Unsupported(_)), "{error}");
    }
    assert!(client.map_bar(6, 0..0x1000).is_err());
    // The server shortens its file: reads see a removed device, the process lives.
    memory.set_len(0).unwrap();
    assert_eq!(window.read32(0x10), u32::MAX);
}

#[test]
fn accesses_that_make_no_sense_are_not_sent() {
    let (client, server) = connect(PATIENT, |_, _| ());
    let client = client.unwrap();
    for (offset, len) in [(0x4000, 1), (0x3fff, 2), (u64::MAX, 8), (0, 0), (0, 3), (0, 16)] {
        for error in [
            client.read_bar(0, offset, &mut vec![0; len]).unwrap_err(),
            client.write_bar(0, offset, &vec![0; len]).unwrap_err(),
        ] {
            assert!(matches!(error, TransportError::Unsupported(_)), "{error}");
        }
    }
    assert!(client.read_config(255, &mut [0; 2]).is_err());
    assert!(client.read_bar(1, 0, &mut [0; 4]).is_err());
    assert!(client.read_bar(9, 0, &mut [0; 4]).is_err());
    let interrupt = Interrupt::new().unwrap();
    assert!(client.set_interrupts(InterruptKind::Msix, &[interrupt.as_fd(); 21]).is_err());
    assert!(client.set_interrupts(InterruptKind::Intx, &[interrupt.as_fd()]).is_err());
    drop(client);
    assert_eq!(server.join().unwrap().len(), CONNECT);
}

/// Spoils, for each message of a connection and of each step, that message in a connection of
/// its own, and hands what the client makes of it to `check`.
fn spoil_each(
    timeouts: Timeouts,
    spoil: impl Fn(&mut Reply) + Copy + Send + Sync + 'static,
    check: impl Fn(usize, &TransportError) + Sync,
    still_there: bool,
) {
    thread::scope(|scope| {
        for at in 0..CONNECT + STEPS {
            let check = &check;
            scope.spawn(move || spoil_one(at, timeouts, spoil, check, still_there));
        }
    });
}

fn spoil_one(
    at: usize,
    timeouts: Timeouts,
    spoil: impl Fn(&mut Reply) + Send + 'static,
    check: &impl Fn(usize, &TransportError),
    still_there: bool,
) {
    let (client, server) = connect(timeouts, move |index, reply| {
        if index == at {
            spoil(reply);
        }
    });
    match client {
        Err(error) => {
            assert!(at < CONNECT, "message {at}: {error}");
            check(at, &error);
        }
        Ok(client) => {
            assert!(at >= CONNECT, "message {at} was taken");
            let results = steps(&client);
            for (step, result) in results.iter().enumerate() {
                match (step + CONNECT).cmp(&at) {
                    std::cmp::Ordering::Equal => check(at, result.as_ref().unwrap_err()),
                    std::cmp::Ordering::Greater if !still_there => {
                        let error = result.as_ref().unwrap_err();
                        assert!(matches!(error, TransportError::Gone { .. }), "{at}: {error}");
                    }
                    _ => assert!(result.is_ok(), "{at}, step {step}: {result:?}"),
                }
            }
            assert_eq!(client.lost().is_some(), !still_there);
            assert_eq!(client.map_bar(0, 0x1000..0x2000).is_err(), !still_there);
        }
    }
    server.join().unwrap();
}

fn is_gone(word: &str) -> impl Fn(usize, &TransportError) + Sync {
    move |at, error| match error {
        TransportError::Gone { reason, .. } if reason.contains(word) => {}
        other => panic!("message {at}: {other}"),
    }
}

#[test]
fn a_server_that_hangs_up_is_gone() {
    spoil_each(PATIENT, |reply| reply.cut(0, Then::HangUp), is_gone("hung up"), false);
    spoil_each(PATIENT, |reply| reply.cut(1, Then::HangUp), is_gone("hung up after 1 "), false);
    spoil_each(PATIENT, |reply| reply.cut(15, Then::HangUp), is_gone("hung up after 15 "), false);
    // A size that the payload falls short of.
    let longer = |reply: &mut Reply| {
        reply.header_mut().size += 1;
        reply.then = Then::HangUp;
    };
    spoil_each(PATIENT, longer, is_gone("hung up after"), false);
}

#[test]
fn a_silent_server_is_given_up() {
    spoil_each(HASTY, |reply| reply.cut(0, Then::Wait), is_gone("no answer"), false);
    spoil_each(HASTY, |reply| reply.cut(9, Then::Wait), is_gone("9 of 16 bytes"), false);
}

#[test]
fn a_reply_to_something_else_ends_the_connection() {
    spoil_each(PATIENT, |reply| reply.header_mut().id ^= 1, is_gone("was due"), false);
    spoil_each(PATIENT, |reply| reply.header_mut().command ^= 0x20, is_gone("was due"), false);
    spoil_each(PATIENT, |reply| reply.header_mut().flags = 2, is_gone("was due"), false);
}

#[test]
fn a_size_that_cannot_be_ends_the_connection() {
    spoil_each(PATIENT, |reply| reply.header_mut().size = 15, is_gone("15 bytes"), false);
    spoil_each(PATIENT, |reply| reply.header_mut().size = 65537, is_gone("65537 bytes"), false);
    spoil_each(PATIENT, |reply| reply.header_mut().size = !0, is_gone("4294967295 bytes"), false);
}

#[test]
fn file_descriptors_that_should_not_be_there_end_the_connection() {
    let one_more = |reply: &mut Reply| reply.fds.push(memfd(0x4000));
    let malformed = |at, error: &TransportError| {
        assert!(matches!(error, TransportError::Malformed { .. }), "{at}: {error}");
        assert!(error.to_string().contains("file descriptors"), "{at}: {error}");
    };
    spoil_each(PATIENT, one_more, malformed, false);
    let many = |reply: &mut Reply| reply.fds.extend((0..17).map(|_| memfd(0)));
    spoil_each(PATIENT, many, is_gone("file descriptors"), false);
}

#[test]
fn an_error_reply_is_an_error_and_no_more() {
    let errno = |number: u32| {
        move |at: usize, error: &TransportError| match error {
            TransportError::Io { error, .. } => {
                assert_eq!(error.raw_os_error().map(|error| error as u32), Some(number));
            }
            other => panic!("message {at}: {other}"),
        }
    };
    spoil_each(PATIENT, |reply| reply.fail(1), errno(1), true);
    spoil_each(PATIENT, |reply| reply.fail(95), errno(95), true);
    for odd in [|reply: &mut Reply| reply.fail(0), |reply: &mut Reply| reply.fail(!0)] {
        let check = |_, error: &TransportError| {
            assert!(error.to_string().contains("without a reason"), "{error}");
        };
        spoil_each(PATIENT, odd, check, true);
    }
}

/// Connects while the reply to `command` is spoiled, and gives the error.
fn refused(command: Command, spoil: impl Fn(&mut Reply) + Send + 'static) -> TransportError {
    let (client, server) = connect(PATIENT, move |_, reply| {
        if reply.is(command) {
            spoil(reply);
        }
    });
    let error = client.err().expect("the claim was believed");
    server.join().unwrap();
    error
}

#[test]
fn lies_about_the_device_are_found() {
    let device = |info: DeviceInfo| {
        refused(Command::DeviceGetInfo, move |reply| reply.set_payload(info.as_bytes()))
    };
    let good = DeviceInfo { argsz: 16, flags: 3, num_regions: 9, num_irqs: 5 };
    let error = device(DeviceInfo { flags: 1, ..good });
    assert!(matches!(error, TransportError::Unsupported(_)), "{error}");
    let error = device(DeviceInfo { num_regions: 7, ..good });
    assert!(matches!(error, TransportError::Malformed { .. }), "{error}");

    for change in [0, 1, 17, 4096] {
        let error =
            refused(Command::DeviceGetInfo, move |reply| reply.set_payload(&vec![0; change]));
        assert!(error.to_string().contains("16 are right"), "{error}");
    }
    for irq in [
        IrqInfo { argsz: 16, flags: 1, index: 0, count: 2 },
        IrqInfo { argsz: 16, flags: 1, index: 2, count: 1 },
        IrqInfo { argsz: 16, flags: 1, index: 0, count: u32::MAX },
    ] {
        let error =
            refused(Command::DeviceGetIrqInfo, move |reply| reply.set_payload(irq.as_bytes()));
        assert!(matches!(error, TransportError::Malformed { .. }), "{error}");
    }
    let version = Version { major: 1, minor: 0 };
    let error = refused(Command::Version, move |reply| reply.set_payload(version.as_bytes()));
    assert!(error.to_string().contains("version 1.0"), "{error}");
    for junk in [&b"\0\0\0"[..], b"\0\0\x01\0{", b"\0\0\x01\0{\"capabilities\":3}"] {
        let error = refused(Command::Version, |reply| reply.set_payload(junk));
        assert!(matches!(error, TransportError::Malformed { .. }), "{error}");
    }
}

#[test]
fn a_device_with_more_than_we_know_is_taken() {
    let (client, _server) = connect(PATIENT, |_, reply| {
        if reply.is(Command::DeviceGetInfo) {
            let info = DeviceInfo { argsz: 16, flags: 2, num_regions: !0, num_irqs: !0 };
            reply.set_payload(info.as_bytes());
        }
        // As old releases of libvfio-user do.
        reply.header_mut().command = 0;
    });
    let client = client.unwrap();
    assert_eq!(client.interrupts(InterruptKind::Request), 0);
    let error = client.reset().unwrap_err();
    assert!(matches!(error, TransportError::Unsupported(_)), "{error}");
    client.read_config(0, &mut [0; 4]).unwrap();
}

/// Connects while the description of region `index` is replaced.
fn described(index: u32, payload: Vec<u8>, fds: fn() -> Vec<OwnedFd>) -> TransportError {
    refused(Command::DeviceGetRegionInfo, move |reply| {
        if RegionInfo::read_from_bytes(&reply.request).unwrap().index == index {
            reply.set_payload(&payload);
            reply.fds = fds();
        }
    })
}

/// A description, the fds with it, and what is to be said of it.
type Claim = (Vec<u8>, fn() -> Vec<OwnedFd>, &'static str);

#[test]
fn lies_about_regions_are_found() {
    let areas = |areas: &[(u64, u64)]| region_payload(bar0(), areas);
    let claims: [Claim; 6] = [
        (areas(&[(0x1000, 0x4000)]), || vec![memfd(0x4000)], "in a region of 0x4000"),
        (areas(&[(0x1000, 0x1000); 2]), || vec![memfd(0x4000)], "overlap"),
        (areas(&[(0x1000, 0x1000)]), Vec::new, "0 file descriptors"),
        (areas(&[(0x1000, 0x1000)]), || vec![memfd(0x1fff)], "a file of 0x1fff bytes"),
        (bar0().as_bytes().to_vec(), || vec![memfd(0x4000)], "of 64 bytes"),
        (Vec::new(), Vec::new, "needed"),
    ];
    for (payload, fds, word) in claims {
        let error = described(0, payload, fds).to_string();
        // What is cut short asks for more, and more never comes.
        assert!(error.contains(word) || error.contains("were offered"), "{word}: {error}");
    }
    for size in [0, 64, 255, 4097, u64::MAX] {
        let config = RegionInfo { argsz: 32, flags: 3, index: 7, cap_offset: 0, size, offset: 0 };
        let error = described(7, config.as_bytes().to_vec(), Vec::new);
        assert!(matches!(error, TransportError::Malformed { .. }), "{error}");
    }
}

#[test]
fn a_long_description_is_asked_for_again() {
    let long = |argsz: u32| {
        move |_, reply: &mut Reply| {
            if !reply.is(Command::DeviceGetRegionInfo) {
                return;
            }
            let ask = RegionInfo::read_from_bytes(&reply.request).unwrap();
            if ask.index == 0 && ask.argsz < argsz {
                reply.set_payload(RegionInfo { argsz, ..bar0() }.as_bytes());
                reply.fds.clear();
            }
        }
    };
    let (client, _server) = connect(PATIENT, long(8192));
    assert_eq!(client.unwrap().bar(0).unwrap().mappable.len(), 1);
    for argsz in [1 << 16, u32::MAX] {
        let (client, _server) = connect(PATIENT, long(argsz));
        let error = client.err().unwrap();
        assert!(matches!(error, TransportError::Malformed { .. }), "{error}");
    }
    // A server that is never content.
    let (client, _server) = connect(PATIENT, |_, reply| {
        if reply.is(Command::DeviceGetRegionInfo) {
            let ask = RegionInfo::read_from_bytes(&reply.request).unwrap();
            reply.set_payload(RegionInfo { argsz: ask.argsz + 1, ..bar0() }.as_bytes());
            reply.fds.clear();
        }
    });
    assert!(client.err().unwrap().to_string().contains("were offered"));
}

#[test]
fn lies_about_accesses_are_found() {
    let right = RegionAccess { offset: 8, region: 0, count: 8 };
    for (echo, data) in [
        (RegionAccess { offset: 0, ..right }, 8),
        (RegionAccess { region: 1, ..right }, 8),
        (RegionAccess { count: 4, ..right }, 8),
        (right, 7),
        (right, 9),
        (right, 0),
        (right, 60_000),
    ] {
        let (client, _server) = connect(PATIENT, move |_, reply| {
            if reply.is(Command::RegionRead) {
                let mut payload = echo.as_bytes().to_vec();
                payload.resize(payload.len() + data, 0);
                reply.set_payload(&payload);
            }
            if reply.is(Command::RegionWrite) {
                reply.set_payload(&echo.as_bytes()[..data.min(15)]);
            }
        });
        let client = client.unwrap();
        let error = client.read_bar(0, 8, &mut [0; 8]).unwrap_err();
        assert!(matches!(error, TransportError::Malformed { .. }), "{error}");
        let error = client.write_bar(0, 8, &[0; 8]).unwrap_err();
        assert!(matches!(error, TransportError::Gone { .. }), "{error}");
        assert!(client.lost().unwrap().contains("broke the protocol"));
    }
    for command in
        [Command::DmaMap, Command::DmaUnmap, Command::DeviceSetIrqs, Command::DeviceReset]
    {
        let (client, _server) = connect(PATIENT, move |_, reply| {
            if reply.is(command) {
                reply.set_payload(&[0; 25]);
            }
        });
        let malformed = |error: &&TransportError| matches!(error, TransportError::Malformed { .. });
        let client = client.unwrap();
        let results = steps(&client);
        assert_eq!(results.iter().filter_map(|r| r.as_ref().err()).filter(malformed).count(), 1);
    }
}

#[test]
fn commands_of_the_server_are_refused() {
    let dma = |reply: &mut Reply, count: usize, flags: u32| {
        let access = DmaAccess { address: 0x20_0000, count: 4 };
        let mut header = Header::command(77, Command::DmaRead, 16);
        header.flags |= flags;
        let one = [header.as_bytes(), access.as_bytes()].concat();
        reply.bytes = [one.repeat(count), std::mem::take(&mut reply.bytes)].concat();
    };
    let no_reply = super::super::protocol::header_flags::NO_REPLY;
    for (flags, refusals) in [(0, 5), (no_reply, 0)] {
        let (client, server) = connect(PATIENT, move |index, reply| {
            if index == 3 {
                dma(reply, 5, flags);
            }
        });
        drop(client.unwrap());
        let seen = server.join().unwrap();
        let refused: Vec<_> = seen.iter().filter(|header| header.is_reply()).collect();
        assert_eq!(refused.len(), refusals);
        for header in refused {
            assert_eq!((header.id, header.command, header.error), (77, 11, 95));
            assert!(header.is_error());
        }
    }
    let (client, _server) = connect(PATIENT, move |index, reply| {
        if index == 3 {
            dma(reply, 17, 0);
        }
    });
    let error = client.err().unwrap();
    assert!(error.to_string().contains("commands of its own"), "{error}");
}

#[test]
fn many_interrupts_are_set_in_parts_and_all_or_none() {
    let interrupts: Vec<_> = (0..20).map(|_| Interrupt::new().unwrap()).collect();
    let fds: Vec<_> = interrupts.iter().map(AsFd::as_fd).collect();
    let log = Arc::new(Mutex::new(Vec::new()));
    for fails in [false, true] {
        let sets = log.clone();
        let (client, _server) = connect(PATIENT, move |_, reply| {
            if reply.is(Command::DeviceSetIrqs) {
                let set = IrqSet::read_from_bytes(&reply.request).unwrap();
                assert_eq!((set.argsz, set.index), (20, 2));
                sets.lock().unwrap().push((set.flags, set.start, set.count));
                if fails && set.start == 8 {
                    reply.fail(28);
                }
            }
        });
        let client = client.unwrap();
        assert_eq!(client.set_interrupts(InterruptKind::Msix, &fds).is_err(), fails);
        let sets = std::mem::take(&mut *log.lock().unwrap());
        if fails {
            assert_eq!(sets, [(0x24, 0, 8), (0x24, 8, 8), (0x21, 0, 0)]);
        } else {
            assert_eq!(sets, [(0x24, 0, 8), (0x24, 8, 8), (0x24, 16, 4)]);
        }
    }
}

#[test]
fn a_server_that_leaves_is_noticed() {
    let (client, server) = connect(PATIENT, |index, reply| {
        if index == CONNECT {
            reply.then = Then::HangUp;
        }
    });
    let client = client.unwrap();
    assert_eq!(client.lost(), None);
    client.read_config(0, &mut [0; 4]).unwrap();
    server.join().unwrap();
    assert!(client.lost().unwrap().contains("hung up"));
    let error = client.read_bar(0, 0, &mut [0; 4]).unwrap_err();
    assert!(matches!(error, TransportError::Gone { .. }), "{error}");
}

#[test]
fn sockets_without_a_server_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path, timeouts| match Client::connect(path, timeouts).err().unwrap() {
        TransportError::Io { error, .. } => error,
        other => panic!("{other}"),
    };
    let missing = folder.path().join("missing");
    assert_eq!(error(&missing, PATIENT).kind(), io::ErrorKind::NotFound);
    let stale = folder.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    assert_eq!(error(&stale, PATIENT).kind(), io::ErrorKind::ConnectionRefused);
    let file = folder.path().join("file");
    File::create(&file).unwrap();
    assert_eq!(error(&file, PATIENT).kind(), io::ErrorKind::ConnectionRefused);
    let long = folder.path().join("x".repeat(200));
    error(&long, PATIENT);

    // Nobody accepts: first silence, then a queue that is full.
    let listener = UnixListener::bind(folder.path().join("full")).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let full = folder.path().join("full");
    let silent = Client::connect(&full, HASTY).err().unwrap();
    assert!(silent.to_string().contains("another client"), "{silent}");
    let mut held = Vec::new();
    while let Ok(stream) = open(&full, Instant::now()) {
        held.push(stream);
    }
    let refused = Client::connect(&full, HASTY).err().unwrap();
    assert!(refused.to_string().contains("does not accept"), "{refused}");
}

#[test]
fn unmap_all_is_no_part_of_what_we_send() {
    let (client, _server) = connect(PATIENT, |_, reply| {
        if reply.is(Command::DmaUnmap) {
            let unmap = DmaUnmap::read_from_bytes(&reply.request).unwrap();
            assert_eq!(unmap.flags & dma_unmap_flags::ALL, 0);
            // Some servers echo, some do not.
            reply.set_payload(&[]);
        }
    });
    client.unwrap().unmap_dma(0x20_0000, 2 << 20).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_bytes_as_replies_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(theirs);
        channel.send(&bytes, &[], Instant::now() + PATIENT.exchange).unwrap();
        prop_assert!(Client::over(ours, BRIEF).is_err());
    }

    #[test]
    fn spoiled_bytes_in_replies_do_no_harm(
        at in 0..CONNECT + STEPS,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut: Option<prop::sample::Index>,
        fds in 0usize..3,
    ) {
        let (client, server) = connect(BRIEF, move |index, reply| {
            if index == at {
                for (place, value) in &changes {
                    let place = place.index(reply.bytes.len());
                    reply.bytes[place] ^= value;
                }
                if let Some(cut) = &cut {
                    let len = cut.index(reply.bytes.len());
                    reply.bytes.truncate(len);
                }
                reply.fds.extend((0..fds).map(|_| memfd(0x1000)));
            }
        });
        if let Ok(client) = client {
            let results = steps(&client);
            if results.iter().any(|r| matches!(r, Err(TransportError::Gone { .. }))) {
                prop_assert!(client.lost().is_some());
            }
            if let Ok(info) = client.bar(0) {
                for area in info.mappable {
                    let _ = client.map_bar(0, area);
                }
            }
        }
        server.join().unwrap();
    }
}
