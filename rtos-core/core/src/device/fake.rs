//! A device for tests that does as it is told, and remembers what was done to it.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use uniddrv::mapping::Mapping;
use uniddrv::transport::{BarInfo, DmaLimits, TransportError};
use uniddrv::{Arena, InterruptKind, Transport, TransportKind};
use uniddrv_spec::pci::msix::{Location, Msix};
use zerocopy::IntoBytes;

use super::opener::Open;

/// What the device is, does and has seen.
pub(super) struct Fake {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    config: Vec<u8>,
    mapped: Vec<(u64, u64, Weak<Arena>)>,
    // Arenas that had gone when they were unmapped.
    late: usize,
    refuse_unmap: bool,
    refuse_map: bool,
    ignore_fence: bool,
    lost: Option<String>,
    resets: u32,
    requests: Vec<OwnedFd>,
    bar_writes: Vec<(u64, Vec<u8>)>,
    // Opening fails this many times.
    absent: u32,
    opened: u32,
    end: Option<UnixStream>,
    peer: Option<UnixStream>,
}

/// The size of BAR 0 and of BAR 2, which is small.
pub(super) const BAR: u64 = 0x4000;
pub(super) const SMALL: u64 = 0x18;

impl Fake {
    /// An NVMe controller whose MSI-X table (2 entries) lies at `table` of BAR 0, its pending
    /// bits at `pending`.
    pub(super) fn new(table: u32, pending: u32) -> Arc<Self> {
        let mut config = vec![0; 256];
        config[..4].copy_from_slice(&[0x36, 0x1b, 0x10, 0]);
        config[4..8].copy_from_slice(&[0, 0, 0x10, 0]);
        config[8..12].copy_from_slice(&[2, 0x02, 0x08, 0x01]);
        config[0x34] = 0x40;
        let msix = Msix::new(2, Location::new(0, table), Location::new(0, pending)).unwrap();
        config[0x40..0x4c].copy_from_slice(msix.as_bytes());
        let (end, peer) = UnixStream::pair().unwrap();
        let state = State { config, end: Some(end), peer: Some(peer), ..State::default() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    pub(super) fn opener(self: &Arc<Self>, comes_back: bool) -> Box<dyn Open> {
        Box::new(FakeOpener { fake: self.clone(), comes_back })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap())
    }

    pub(super) fn config(&self, offset: usize, bytes: &[u8]) {
        self.with(|s| s.config[offset..offset + bytes.len()].copy_from_slice(bytes));
    }

    pub(super) fn configuration(&self) -> Vec<u8> {
        self.with(|s| s.config.clone())
    }

    pub(super) fn command(&self) -> u8 {
        self.with(|s| s.config[4])
    }

    pub(super) fn mapped(&self) -> Vec<u64> {
        self.with(|s| s.mapped.iter().map(|&(iova, ..)| iova).collect())
    }

    pub(super) fn late(&self) -> usize {
        self.with(|s| s.late)
    }

    pub(super) fn refuse_unmap(&self, refuse: bool) {
        self.with(|s| s.refuse_unmap = refuse);
    }

    pub(super) fn refuse_map(&self, refuse: bool) {
        self.with(|s| s.refuse_map = refuse);
    }

    pub(super) fn ignore_fence(&self) {
        self.with(|s| s.ignore_fence = true);
    }

    pub(super) fn resets(&self) -> u32 {
        self.with(|s| s.resets)
    }

    pub(super) fn opened(&self) -> u32 {
        self.with(|s| s.opened)
    }

    /// Not there for the next `times` times that it is opened.
    pub(super) fn absent(&self, times: u32) {
        self.with(|s| s.absent = times);
    }

    pub(super) fn bar_writes(&self) -> Vec<(u64, Vec<u8>)> {
        self.with(|s| s.bar_writes.clone())
    }

    /// Its server dies: what it mapped is forgotten.
    pub(super) fn die(&self) {
        self.with(|s| {
            s.lost = Some("the server hung up".into());
            s.mapped.clear();
            s.peer = None;
        });
    }

    /// Linux wants it back.
    pub(super) fn request(&self) {
        let request = self.with(|s| s.requests[0].try_clone().unwrap());
        rustix::io::write(&request, &1u64.to_ne_bytes()).unwrap();
    }
}

struct FakeOpener {
    fake: Arc<Fake>,
    comes_back: bool,
}

/// One connection to the fake. It ends with its first user.
struct Connection {
    fake: Arc<Fake>,
    end: UnixStream,
    watched: bool,
}

impl Open for FakeOpener {
    fn open(&mut self, _: Duration) -> Result<Arc<dyn Transport>, TransportError> {
        let watched = self.comes_back;
        let end = self.fake.with(|s| {
            s.opened += 1;
            if s.absent > 0 {
                s.absent -= 1;
                return Err(TransportError::io("open", std::io::ErrorKind::NotFound));
            }
            s.lost = None;
            if s.peer.is_none() {
                let (end, peer) = UnixStream::pair().unwrap();
                (s.end, s.peer) = (Some(end), Some(peer));
            }
            Ok(s.end.as_ref().unwrap().try_clone().unwrap())
        })?;
        Ok(Arc::new(Connection { fake: self.fake.clone(), end, watched }))
    }

    fn comes_back(&self) -> bool {
        self.comes_back
    }
}

fn refused<T>() -> Result<T, TransportError> {
    Err(TransportError::Unsupported("the fake refuses".into()))
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Whoever closes a device takes all memory from it first, or ends its address space.
        self.fake.with(|s| s.mapped.clear());
    }
}

impl Transport for Connection {
    fn kind(&self) -> TransportKind {
        if self.watched { TransportKind::VfioUser } else { TransportKind::Vfio }
    }
    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), TransportError> {
        let offset = offset as usize;
        self.fake.with(|s| match s.config.get(offset..offset + data.len()) {
            Some(bytes) => {
                data.copy_from_slice(bytes);
                Ok(())
            }
            None => refused(),
        })
    }
    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), TransportError> {
        self.fake.with(|s| {
            if !s.ignore_fence {
                s.config[offset as usize..offset as usize + data.len()].copy_from_slice(data);
            }
        });
        Ok(())
    }
    fn bar(&self, index: u8) -> Result<BarInfo, TransportError> {
        Ok(match index {
            0 => BarInfo { size: BAR, mappable: std::iter::once(0..BAR).collect() },
            2 => BarInfo { size: SMALL, mappable: Vec::new() },
            _ => BarInfo::default(),
        })
    }
    fn map_bar(&self, _: u8, _: Range<u64>) -> Result<Arc<Mapping>, TransportError> {
        refused()
    }
    fn bar_file(&self, _: u8, range: Range<u64>) -> Result<(OwnedFd, u64), TransportError> {
        Ok((std::fs::File::open("/dev/null").unwrap().into(), range.start))
    }
    fn read_bar(&self, _: u8, _: u64, data: &mut [u8]) -> Result<(), TransportError> {
        data.fill(0);
        self.fake.with(|s| match &s.lost {
            Some(reason) => {
                Err(TransportError::Gone { action: "read".into(), reason: reason.clone() })
            }
            None => Ok(()),
        })
    }
    fn write_bar(&self, _: u8, offset: u64, data: &[u8]) -> Result<(), TransportError> {
        self.fake.with(|s| s.bar_writes.push((offset, data.to_vec())));
        Ok(())
    }
    fn dma_limits(&self) -> DmaLimits {
        DmaLimits { ranges: vec![0..=0xff_ffff], granule: 4096 }
    }
    fn map_dma(&self, arena: &Arc<Arena>, iova: u64) -> Result<(), TransportError> {
        self.fake.with(|s| {
            if s.refuse_map {
                return refused();
            }
            s.mapped.push((iova, arena.len() as u64, Arc::downgrade(arena)));
            Ok(())
        })
    }
    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), TransportError> {
        self.fake.with(|s| {
            if s.refuse_unmap {
                return refused();
            }
            let found = s.mapped.iter().position(|&(at, size, _)| (at, size) == (iova, len));
            let (.., arena) = s.mapped.remove(found.unwrap());
            s.late += usize::from(arena.strong_count() == 0);
            Ok(())
        })
    }
    fn interrupts(&self, kind: InterruptKind) -> u32 {
        u32::from(kind == InterruptKind::Request && !self.watched)
    }
    fn set_interrupts(
        &self,
        _: InterruptKind,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), TransportError> {
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        self.fake.with(|s| s.requests = fds);
        Ok(())
    }
    fn reset(&self) -> Result<(), TransportError> {
        self.fake.with(|s| s.resets += 1);
        Ok(())
    }
    fn lost(&self) -> Option<String> {
        self.fake.with(|s| s.lost.clone())
    }
    fn hang_up(&self) -> Option<BorrowedFd<'_>> {
        self.watched.then(|| self.end.as_fd())
    }
}
