//! An NVMe controller, played by the fuzzer: an honest one that does as the script says.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use uniddrv::mapping::Mapping;
use uniddrv::transport::{BarInfo, DmaLimits};
use uniddrv::{Arena, InterruptKind, Transport, TransportError, TransportKind};
use uniddrv_spec::nvme::entry::{CompletionDword2, CompletionDword3, CompletionEntry};
use uniddrv_spec::nvme::identify::{IdentifyController, IdentifyNamespace};
use uniddrv_spec::nvme::registers::{Acq, Aqa, Asq, Cap, Cc, Csts, DOORBELLS, Vs, doorbell_at};
use zerocopy::{FromZeros, IntoBytes};

const BAR: u64 = 0x2000;
const ENTRIES: u16 = 63;

/// The controller. Once the script has run out it is an honest one.
pub struct Hostile(Mutex<State>);

#[derive(Default)]
struct State {
    script: Vec<u8>,
    at: usize,
    memory: Vec<(u64, u64, File)>,
    cc: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    submission: BTreeMap<u16, Ring>,
    completion: BTreeMap<u16, Ring>,
    removed: bool,
}

#[derive(Clone, Copy, Default)]
struct Ring {
    base: u64,
    len: u32,
    // The head of a submission ring, the tail of a completion ring.
    index: u32,
    phase: bool,
    // The completion ring of a submission ring.
    partner: u16,
}

impl Hostile {
    /// A controller that goes by `script`.
    pub fn new(script: &[u8]) -> Self {
        Self(Mutex::new(State { script: script.to_vec(), ..State::default() }))
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn next(&mut self) -> u8 {
        let byte = self.script.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    fn next_u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.next()))
    }

    /// What a register reads as, which may be anything.
    fn spoil(&mut self, value: u64) -> u64 {
        match self.next() {
            0xff => self.removed = true,
            0xfe => return value ^ self.next_u64(),
            0xf0..=0xfd => return value ^ (1 << (self.next() % 64)),
            _ => {}
        }
        if self.removed { u64::MAX } else { value }
    }

    fn register(&self, offset: u64) -> u64 {
        let running = Cc::from_bits(self.cc).en();
        let shut_down = Cc::from_bits(self.cc).shn() != Cc::SHN_NONE;
        let csts = Csts::default().with_rdy(running).with_shst(if shut_down {
            Csts::SHST_COMPLETE
        } else {
            Csts::SHST_NORMAL
        });
        match offset as usize {
            Cap::OFFSET => Cap::default()
                .with_mqes(ENTRIES)
                .with_to(1)
                .with_css_nvm(true)
                .with_cqr(true)
                .bits(),
            Vs::OFFSET => 0x0002_0000,
            Cc::OFFSET => self.cc.into(),
            Csts::OFFSET => csts.bits().into(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u64) {
        match offset as usize {
            Cc::OFFSET => self.enable(value as u32),
            Aqa::OFFSET => self.aqa = value as u32,
            Asq::OFFSET => self.asq = value,
            Acq::OFFSET => self.acq = value,
            offset @ DOORBELLS.. => {
                if let Some((queue, false)) = doorbell_at(offset, 0) {
                    self.ring(queue, value as u32);
                }
            }
            _ => {}
        }
    }

    fn enable(&mut self, cc: u32) {
        let starts = Cc::from_bits(cc).en() && !Cc::from_bits(self.cc).en();
        self.cc = cc;
        if starts {
            let aqa = Aqa::from_bits(self.aqa);
            let ring = |base, len: u16| Ring {
                base,
                len: u32::from(len) + 1,
                phase: true,
                ..Ring::default()
            };
            self.submission = BTreeMap::from([(0, ring(self.asq, aqa.asqs()))]);
            self.completion = BTreeMap::from([(0, ring(self.acq, aqa.acqs()))]);
        }
    }

    fn ring(&mut self, queue: u16, tail: u32) {
        for _ in 0..=u32::from(ENTRIES) {
            let Some(ring) = self.submission.get_mut(&queue) else { return };
            if ring.index == tail % ring.len {
                return;
            }
            let address = ring.base + u64::from(ring.index) * 64;
            ring.index = (ring.index + 1) % ring.len;
            let (head, partner) = (ring.index as u16, ring.partner);
            let mut entry = [0; 64];
            self.read(address, &mut entry);
            let dword = |index: usize| {
                u32::from_le_bytes(std::array::from_fn(|byte| entry[4 * index + byte]))
            };
            let prp1 = u64::from(dword(6)) | u64::from(dword(7)) << 32;
            let (opcode, cid) = (entry[0], (dword(0) >> 16) as u16);
            let result = if queue == 0 {
                let Some(result) = self.admin(opcode, dword(10), dword(11), prp1) else { continue };
                result
            } else {
                0
            };
            self.complete(partner, queue, head, cid, result);
        }
    }

    /// Executes an admin command: dword 0 of the completion, unless there is none yet.
    fn admin(&mut self, opcode: u8, dword10: u32, dword11: u32, prp1: u64) -> Option<u32> {
        let (queue, len) = (dword10 as u16, (dword10 >> 16) + 1);
        let ring = Ring { base: prp1, len, phase: true, index: 0, partner: (dword11 >> 16) as u16 };
        match opcode {
            0x00 => drop(self.submission.remove(&queue)),
            0x01 => drop(self.submission.insert(queue, ring)),
            0x04 => drop(self.completion.remove(&queue)),
            0x05 => drop(self.completion.insert(queue, ring)),
            0x02 => {
                let mut log = [0; 512];
                self.spoil_bytes(&mut log);
                self.write(prp1, &log);
            }
            0x06 => self.identify(dword10 as u8, prp1),
            0x09 => return Some(0x0001_0001 ^ u32::from(self.next())),
            // An asynchronous event, if the script has one.
            0x0c => {
                let event = self.next();
                return (event > 0x80).then(|| u32::from(event) * 0x0001_0101);
            }
            _ => {}
        }
        Some(0)
    }

    fn identify(&mut self, cns: u8, address: u64) {
        let mut data = [0; 4096];
        match cns {
            0 => {
                let mut namespace = IdentifyNamespace::new_zeroed();
                namespace.nsze = 1000.into();
                namespace.ncap = 1000.into();
                namespace.lbaf[0].lbads = 9;
                data.copy_from_slice(namespace.as_bytes());
            }
            1 => {
                let mut controller = IdentifyController::new_zeroed();
                controller.nn = 2.into();
                controller.oncs = 0x1ff.into();
                controller.mdts = 4;
                controller.aerl = 3;
                controller.oacs = 0x100.into();
                data.copy_from_slice(controller.as_bytes());
                // Entries of 64 and 16 bytes. NVMe Base 2.0 §5.17.2.1.
                data[512] = 0x66;
                data[513] = 0x44;
            }
            2 => data[..8].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]),
            _ => {}
        }
        self.spoil_bytes(&mut data);
        self.write(address, &data);
    }

    fn spoil_bytes(&mut self, data: &mut [u8]) {
        for _ in 0..self.next() % 5 {
            let place = usize::from(self.next()) | usize::from(self.next()) << 8;
            let value = self.next();
            if let Some(byte) = data.get_mut(place % 4096) {
                *byte = value;
            }
        }
    }

    fn complete(&mut self, queue: u16, sqid: u16, sqhd: u16, cid: u16, result: u32) {
        let entry = |cid, phase, status: u16| {
            let dword3 = u32::from(cid) | u32::from(phase) << 16 | u32::from(status) << 17;
            let dword2 = u32::from(sqhd) | u32::from(sqid) << 16;
            CompletionEntry::new(
                result.into(),
                CompletionDword2::from_bits(dword2),
                CompletionDword3::from_bits(dword3),
            )
        };
        let Some(&ring) = self.completion.get(&queue) else { return };
        match self.next() {
            // Lost.
            0xf0 => {}
            // With another identifier, a status, the wrong phase.
            0xf1 => {
                let cid = cid ^ u16::from(self.next());
                self.post(queue, entry(cid, ring.phase, 0).as_bytes());
            }
            0xf2 => {
                let status = u16::from(self.next()) | u16::from(self.next()) << 8;
                self.post(queue, entry(cid, ring.phase, status & 0x7fff).as_bytes());
            }
            0xf3 => self.post(queue, entry(cid, !ring.phase, 0).as_bytes()),
            // Twice.
            0xf4 => {
                for _ in 0..2 {
                    let phase = self.completion.get(&queue).is_some_and(|ring| ring.phase);
                    self.post(queue, entry(cid, phase, 0).as_bytes());
                }
            }
            // Anything at all.
            0xf5 => {
                let words = [self.next_u64(), self.next_u64()];
                self.post(queue, words.as_bytes());
            }
            // A whole ring of completions at once.
            0xf6 => {
                for cid in 0..ring.len {
                    let phase = self.completion.get(&queue).is_some_and(|ring| ring.phase);
                    self.post(queue, entry(cid as u16, phase, 0).as_bytes());
                }
            }
            0xf7 => self.removed = true,
            _ => self.post(queue, entry(cid, ring.phase, 0).as_bytes()),
        }
    }

    fn post(&mut self, queue: u16, entry: &[u8]) {
        let Some(ring) = self.completion.get_mut(&queue) else { return };
        let address = ring.base + u64::from(ring.index) * 16;
        ring.index += 1;
        if ring.index >= ring.len {
            ring.index = 0;
            ring.phase = !ring.phase;
        }
        // The word with the phase goes last, as by a device.
        self.write(address, &entry[..12]);
        self.write(address + 12, &entry[12..]);
    }

    fn place(&self, address: u64, len: usize) -> Option<(&File, u64)> {
        self.memory.iter().find_map(|(iova, size, file)| {
            let offset = address.checked_sub(*iova)?;
            (offset.checked_add(len as u64)? <= *size).then_some((file, offset))
        })
    }

    fn read(&self, address: u64, data: &mut [u8]) {
        if let Some((file, offset)) = self.place(address, data.len()) {
            file.read_exact_at(data, offset).expect("an arena can be read");
        }
    }

    fn write(&self, address: u64, data: &[u8]) {
        if let Some((file, offset)) = self.place(address, data.len()) {
            file.write_all_at(data, offset).expect("an arena can be written");
        }
    }
}

impl Transport for Hostile {
    fn kind(&self) -> TransportKind {
        TransportKind::Inline
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), TransportError> {
        let mut config = [0; 256];
        config[..4].copy_from_slice(&[0xf4, 0x1a, 1, 0]);
        config[8..12].copy_from_slice(&[0, 2, 8, 1]);
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = config.get(offset as usize + index).copied().unwrap_or(0xff);
        }
        Ok(())
    }

    fn write_config(&self, _: u32, _: &[u8]) -> Result<(), TransportError> {
        Ok(())
    }

    fn bar(&self, index: u8) -> Result<BarInfo, TransportError> {
        Ok(BarInfo { size: if index == 0 { BAR } else { 0 }, mappable: Vec::new() })
    }

    fn map_bar(&self, _: u8, _: Range<u64>) -> Result<Arc<Mapping>, TransportError> {
        Err(TransportError::Unsupported("nothing can be mapped".into()))
    }

    fn read_bar(&self, _: u8, offset: u64, data: &mut [u8]) -> Result<(), TransportError> {
        let value = self.with(|state| {
            let value = state.register(offset);
            state.spoil(value)
        });
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
        Ok(())
    }

    fn write_bar(&self, _: u8, offset: u64, data: &[u8]) -> Result<(), TransportError> {
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        self.with(|state| {
            if !state.removed {
                state.write_register(offset, u64::from_le_bytes(value));
            }
        });
        Ok(())
    }

    fn dma_limits(&self) -> DmaLimits {
        DmaLimits { ranges: vec![0..=(1 << 48) - 1], granule: 4096 }
    }

    fn map_dma(&self, arena: &Arc<Arena>, iova: u64) -> Result<(), TransportError> {
        let file = arena
            .fd()
            .try_clone_to_owned()
            .map_err(|error| TransportError::io("clone an fd", error))?;
        self.with(|state| state.memory.push((iova, arena.len() as u64, file.into())));
        Ok(())
    }

    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), TransportError> {
        self.with(|state| state.memory.retain(|&(at, size, _)| (at, size) != (iova, len)));
        Ok(())
    }

    fn interrupts(&self, _: InterruptKind) -> u32 {
        0
    }

    fn set_interrupts(&self, _: InterruptKind, _: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
        Ok(())
    }

    fn reset(&self) -> Result<(), TransportError> {
        self.with(|state| state.cc = 0);
        Ok(())
    }

    fn lost(&self) -> Option<String> {
        None
    }
}
