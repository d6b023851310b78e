//! A device that lies in its registers and scribbles over all memory that it can reach: rings,
//! PRP lists, identify data, logs. The driver may give it up, but neither panics nor hangs, and
//! every buffer comes back.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use storage_poll::{Controller, Options};
use uniddrv::mapping::Mapping;
use uniddrv::transport::{BarInfo, DmaLimits};
use uniddrv::{Arena, Device, InterruptKind, Transport, TransportError, TransportKind};
use uniddrv_models::Inline;
use uniddrv_models::nvme::NvmeModel;

use crate::content::Random;
use crate::ground::{PATIENCE, model};

/// The model behind a transport that does harm: the same for the same seed.
struct Hostile {
    inner: Inline<NvmeModel>,
    state: Mutex<State>,
}

struct State {
    random: Random,
    /// Memory that the device reaches.
    mapped: Vec<(u64, u64)>,
    /// One of so many register accesses does harm.
    harm: u64,
    /// One of so many register reads is a lie; 0 is none.
    lies: u64,
}

impl Hostile {
    fn new(seed: u64, harm: u64, lies: u64) -> Self {
        let parameters = format!(
            "namespaces=512:1M,4096:1M&ready-timeout=500&shadow-doorbells=on\
             &fault=seed={seed},drop=0.01"
        );
        let state = State { random: Random::new(seed), mapped: Vec::new(), harm, lies };
        Self { inner: Inline::new(model(&parameters)), state: Mutex::new(state) }
    }

    fn harm(&self) {
        let State { random, mapped, harm, .. } = &mut *self.state.lock().unwrap();
        if mapped.is_empty() || random.below(*harm) != 0 {
            return;
        }
        for _ in 0..=random.below(24) {
            let (start, len) = mapped[random.below(mapped.len() as u64) as usize];
            // Rings and structures of the driver are what comes first in an arena.
            let reach = if random.below(4) == 0 { len } else { len.min(40 << 10) };
            let place = start + (random.below(reach - 64) & !3);
            let mut bytes = [0; 64];
            for word in bytes.chunks_exact_mut(8) {
                let value = match random.below(4) {
                    0 => 0,
                    1 => u64::MAX,
                    // What looks like the end of an entry, with a phase and an identifier.
                    2 => random.below(2) << 48 | random.below(256) << 32,
                    _ => random.next(),
                };
                word.copy_from_slice(&value.to_le_bytes());
            }
            let len = 4 << random.below(5);
            self.inner.with(|_, host| host.memory.write(place, &bytes[..len])).unwrap();
        }
    }
}

impl Transport for Hostile {
    fn kind(&self) -> TransportKind {
        TransportKind::Inline
    }
    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), TransportError> {
        self.inner.read_config(offset, data)
    }
    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), TransportError> {
        self.inner.write_config(offset, data)
    }
    fn bar(&self, index: u8) -> Result<BarInfo, TransportError> {
        self.inner.bar(index)
    }
    fn map_bar(&self, index: u8, range: Range<u64>) -> Result<Arc<Mapping>, TransportError> {
        self.inner.map_bar(index, range)
    }
    fn read_bar(&self, index: u8, offset: u64, data: &mut [u8]) -> Result<(), TransportError> {
        self.inner.read_bar(index, offset, data)?;
        let State { random, lies, .. } = &mut *self.state.lock().unwrap();
        if *lies > 0 && random.below(*lies) == 0 {
            let bytes = random.next().to_le_bytes();
            let len = data.len();
            // All ones would be the end of it.
            data.copy_from_slice(&bytes[..len]);
        }
        Ok(())
    }
    fn write_bar(&self, index: u8, offset: u64, data: &[u8]) -> Result<(), TransportError> {
        self.harm();
        self.inner.write_bar(index, offset, data)?;
        self.harm();
        Ok(())
    }
    fn dma_limits(&self) -> DmaLimits {
        self.inner.dma_limits()
    }
    fn map_dma(&self, arena: &Arc<Arena>, iova: u64) -> Result<(), TransportError> {
        self.inner.map_dma(arena, iova)?;
        self.state.lock().unwrap().mapped.push((iova, arena.len() as u64));
        Ok(())
    }
    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), TransportError> {
        self.state.lock().unwrap().mapped.retain(|&mapped| mapped != (iova, len));
        self.inner.unmap_dma(iova, len)
    }
    fn interrupts(&self, kind: InterruptKind) -> u32 {
        self.inner.interrupts(kind)
    }
    fn set_interrupts(
        &self,
        kind: InterruptKind,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), TransportError> {
        self.inner.set_interrupts(kind, fds)
    }
    fn reset(&self) -> Result<(), TransportError> {
        self.inner.reset()
    }
    fn lost(&self) -> Option<String> {
        self.inner.lost()
    }
}

/// Attaches to such a device and works with it. How often it was reset; nothing where it could
/// not be attached.
fn survive(hostile: Hostile) -> Option<u32> {
    let device = Device::new(Arc::new(hostile), "model:nvme".parse().unwrap());
    let brief = Duration::from_millis(4);
    let options = Options { timeout: brief, admin_timeout: brief, ..Options::default() };
    let mut controller = Controller::attach_with(device, options).ok()?;
    drop(controller.smart_log());
    drop(controller.error_log(64));
    drop(controller.changed_namespaces());
    drop(controller.rescan());
    let namespaces = controller.namespaces().to_vec();
    let Some(&namespace) = namespaces.first() else { return Some(controller.resets()) };
    let Ok(mut queue) = controller.io_queue(8) else { return Some(controller.resets()) };
    let len = namespace.transfer_len(4);
    let mut free: Vec<_> = (0..8).map(|_| controller.device().dma_buffer(len).unwrap()).collect();
    let start = Instant::now();
    let (mut tag, mut ended) = (0, 0);
    let mut refused = 0;
    while ended < 400 && refused < 10_000 {
        while let Some(buffer) = free.pop() {
            let lba = tag % (namespace.blocks() / 4).max(1);
            let command =
                if tag % 2 == 0 { namespace.read(lba, 4) } else { namespace.write(lba, 4, false) };
            let Ok(command) = command else { return Some(controller.resets()) };
            match queue.submit(&command, Some(buffer), tag) {
                Ok(()) => tag += 1,
                Err((_, buffer)) => {
                    free.extend(buffer);
                    refused += 1;
                    break;
                }
            }
        }
        if let Some(done) = queue.poll() {
            free.extend(done.buffer);
            ended += 1;
        }
        assert!(start.elapsed() < PATIENCE, "{ended} ended, {} on their way", queue.in_flight());
        drop(controller.take_events());
    }
    while queue.in_flight() > 0 {
        assert!(start.elapsed() < PATIENCE, "{} have no verdict", queue.in_flight());
        free.extend(queue.poll().and_then(|done| done.buffer));
    }
    assert_eq!(free.len(), 8, "every buffer came back");
    Some(controller.resets())
}

fn survive_all(devices: impl Iterator<Item = Hostile>) {
    let resets: Vec<_> = devices.filter_map(survive).collect();
    let harmed = resets.iter().filter(|&&resets| resets > 0).count();
    assert!(harmed > 5, "{harmed} of {} were reset: too tame", resets.len());
}

#[test]
fn a_device_that_scribbles_does_no_harm() {
    survive_all((0..100).map(|seed| Hostile::new(seed, 1 + seed % 24, 0)));
}

#[test]
fn a_device_that_lies_in_its_registers_does_no_harm() {
    survive_all((100..160).map(|seed| Hostile::new(seed, 1000, 2 + seed % 8)));
}
