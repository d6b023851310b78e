//! A block queue in memory for tests: instant, and faulty where told to be.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use uniddrv::block::{
    BlockError, BlockInfo, BlockQueue, Completion, Operation, Request, SubmitError,
};
use uniddrv::dma::DmaSpace;
use uniddrv::mapping::Mapping;
use uniddrv::transport::{BarInfo, DmaLimits, Transport};
use uniddrv::{Arena, DmaBuf, InterruptKind, TransportError, TransportKind};

/// What goes wrong, and at which request (counted from 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Every n-th request fails.
    Fail(u64, BlockError),
    /// From the n-th on, all end with `Gone`.
    Gone(u64),
    /// From the n-th on, nothing completes.
    Hang(u64),
    /// From the n-th on, nothing is accepted.
    Refuse(u64, SubmitError),
    /// The n-th completes with another tag.
    WrongTag(u64),
    /// The n-th completes twice.
    Twice(u64),
    /// The n-th comes back without its buffer.
    KeepBuffer(u64),
    /// The n-th write is not carried out.
    DropWrite(u64),
    /// The n-th read has a bit turned.
    FlipBit(u64),
    /// The n-th poll panics.
    Panic(u64),
}

/// Blocks of 512 bytes in memory.
pub(crate) struct FakeQueue {
    data: Vec<u8>,
    depth: usize,
    fault: Fault,
    waiting: VecDeque<Request>,
    accepted: u64,
    ended: u64,
    polls: u64,
    pub(crate) most: usize,
}

pub(crate) const BLOCK: u32 = 512;

impl FakeQueue {
    pub(crate) fn new(blocks: u64, depth: usize, fault: Fault) -> Self {
        Self {
            data: vec![0; blocks as usize * BLOCK as usize],
            depth,
            fault,
            waiting: VecDeque::new(),
            accepted: 0,
            ended: 0,
            polls: 0,
            most: 0,
        }
    }

    /// Puts bytes on the medium.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn carry_out(&mut self, request: &mut Request, number: u64) {
        match request.operation {
            Operation::Flush => return,
            Operation::WriteZeroes { lba, blocks } => {
                let at = lba as usize * BLOCK as usize;
                self.data[at..at + blocks as usize * BLOCK as usize].fill(0);
                return;
            }
            _ => {}
        }
        let buffer = request.buffer.as_mut().unwrap();
        let len = buffer.len();
        match request.operation {
            Operation::Read { lba } => {
                let at = lba as usize * BLOCK as usize;
                buffer.as_mut_slice().copy_from_slice(&self.data[at..at + len]);
                if self.fault == Fault::FlipBit(number) {
                    buffer.as_mut_slice()[len - 1] ^= 4;
                }
            }
            Operation::Write { lba, .. } => {
                if self.fault != Fault::DropWrite(number) {
                    let at = lba as usize * BLOCK as usize;
                    self.data[at..at + len].copy_from_slice(buffer.as_slice());
                }
            }
            other => panic!("the bench sent {other:?}"),
        }
    }
}

impl BlockQueue for FakeQueue {
    fn info(&self) -> BlockInfo {
        BlockInfo {
            block_size: BLOCK,
            blocks: self.data.len() as u64 / u64::from(BLOCK),
            max_transfer: 1 << 20,
            volatile_write_cache: false,
        }
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn submit(&mut self, request: Request) -> Result<(), (SubmitError, Request)> {
        if let Fault::Refuse(from, error) = self.fault
            && self.accepted >= from
        {
            return Err((error, request));
        }
        if self.waiting.len() >= self.depth {
            return Err((SubmitError::Full, request));
        }
        self.accepted += 1;
        self.waiting.push_back(request);
        self.most = self.most.max(self.waiting.len());
        Ok(())
    }

    fn poll(&mut self, mut done: impl FnMut(Completion)) -> usize {
        let mut ended = 0;
        self.polls += 1;
        assert!(self.fault != Fault::Panic(self.polls), "told to");
        while let Some(mut request) = self.waiting.pop_front() {
            let number = self.ended;
            let mut tag = request.tag;
            let result = match self.fault {
                Fault::Hang(from) if number >= from => {
                    self.waiting.push_front(request);
                    break;
                }
                Fault::Fail(every, error) if number % every == every - 1 => Err(error),
                Fault::Gone(from) if number >= from => Err(BlockError::Gone),
                _ => Ok(()),
            };
            if result.is_ok() {
                self.carry_out(&mut request, number);
            }
            if self.fault == Fault::WrongTag(number) {
                tag = 1 << 40;
            }
            self.ended += 1;
            if self.fault == Fault::KeepBuffer(number) {
                request.buffer = None;
            }
            done(Completion { tag, result, buffer: request.buffer });
            if self.fault == Fault::Twice(number) {
                done(Completion { tag, result, buffer: None });
            }
            ended += 1;
        }
        ended
    }
}

/// `count` buffers of `len` bytes that no device is behind.
pub(crate) fn buffers(count: usize, len: usize) -> Vec<DmaBuf> {
    let space = DmaSpace::new(Arc::new(NoDevice));
    (0..count).map(|_| space.buffer(len).unwrap()).collect()
}

struct NoDevice;

fn nothing<T>() -> Result<T, TransportError> {
    Err(TransportError::Unsupported("there is no device".into()))
}

impl Transport for NoDevice {
    fn kind(&self) -> TransportKind {
        TransportKind::Inline
    }
    fn read_config(&self, _: u32, _: &mut [u8]) -> Result<(), TransportError> {
        nothing()
    }
    fn write_config(&self, _: u32, _: &[u8]) -> Result<(), TransportError> {
        nothing()
    }
    fn bar(&self, _: u8) -> Result<BarInfo, TransportError> {
        nothing()
    }
    fn map_bar(&self, _: u8, _: Range<u64>) -> Result<Arc<Mapping>, TransportError> {
        nothing()
    }
    fn read_bar(&self, _: u8, _: u64, _: &mut [u8]) -> Result<(), TransportError> {
        nothing()
    }
    fn write_bar(&self, _: u8, _: u64, _: &[u8]) -> Result<(), TransportError> {
        nothing()
    }
    fn dma_limits(&self) -> DmaLimits {
        DmaLimits { ranges: vec![0..=u64::MAX], granule: 4096 }
    }
    fn map_dma(&self, _: &Arc<Arena>, _: u64) -> Result<(), TransportError> {
        Ok(())
    }
    fn unmap_dma(&self, _: u64, _: u64) -> Result<(), TransportError> {
        Ok(())
    }
    fn interrupts(&self, _: InterruptKind) -> u32 {
        0
    }
    fn set_interrupts(&self, _: InterruptKind, _: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
        nothing()
    }
    fn reset(&self) -> Result<(), TransportError> {
        nothing()
    }
    fn lost(&self) -> Option<String> {
        None
    }
}
