//! A model as a transport of this process.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uniddrv::mapping::Mapping;
use uniddrv::transport::{BarInfo, DmaLimits};
use uniddrv::{Arena, InterruptKind, Transport, TransportError, TransportKind};

use crate::host::Host;
use crate::host::MapError;
use crate::model::Model;

/// A model behind the methods of a transport. Every access is trapped: what a write starts is
/// finished when the write returns, so that the device is an instant one.
///
/// What a model delays on purpose goes on with the next register access, or when somebody
/// calls [`poll`](Self::poll).
pub struct Inline<M> {
    state: Mutex<State<M>>,
}

struct State<M> {
    model: M,
    host: Host,
}

/// A poll does a bounded amount of work; so many of them finish whatever a write can start.
const POLLS: usize = 4096;

impl<M: Model> Inline<M> {
    /// Connects to a model.
    pub fn new(model: M) -> Self {
        Self { state: Mutex::new(State { model, host: Host::new() }) }
    }

    /// Looks at the model and what it sees of its client, for tests and tools.
    pub fn with<R>(&self, f: impl FnOnce(&mut M, &mut Host) -> R) -> R {
        let state = &mut *self.lock();
        f(&mut state.model, &mut state.host)
    }

    /// Lets the model go on. Whether there was work.
    pub fn poll(&self) -> bool {
        self.with(Model::poll)
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // A model that panicked is a defect found elsewhere; registers are still served.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(bar: u8, offset: u64, len: usize, size: u64) -> Result<(), TransportError> {
        if matches!(len, 1 | 2 | 4 | 8)
            && offset.checked_add(len as u64).is_some_and(|end| end <= size)
        {
            return Ok(());
        }
        Err(TransportError::Unsupported(format!(
            "an access of {len} bytes at {offset:#x} of BAR {bar}, which has {size:#x} bytes"
        )))
    }
}

impl<M: Model> Transport for Inline<M> {
    fn kind(&self) -> TransportKind {
        TransportKind::Inline
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), TransportError> {
        self.lock().model.read_config(offset, data);
        Ok(())
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), TransportError> {
        let State { model, host } = &mut *self.lock();
        model.write_config(host, offset, data);
        Ok(())
    }

    fn bar(&self, index: u8) -> Result<BarInfo, TransportError> {
        Ok(BarInfo { size: self.lock().model.bar(index).size, mappable: Vec::new() })
    }

    fn map_bar(&self, index: u8, range: Range<u64>) -> Result<Arc<Mapping>, TransportError> {
        Err(TransportError::Unsupported(format!(
            "{range:#x?} of BAR {index} cannot be mapped: an inline model traps every access"
        )))
    }

    fn read_bar(&self, index: u8, offset: u64, data: &mut [u8]) -> Result<(), TransportError> {
        let State { model, host } = &mut *self.lock();
        Self::check(index, offset, data.len(), model.bar(index).size)?;
        model.poll(host);
        if model.present() {
            model.read_bar(host, index, offset, data);
        } else {
            data.fill(0xff);
        }
        Ok(())
    }

    fn write_bar(&self, index: u8, offset: u64, data: &[u8]) -> Result<(), TransportError> {
        let State { model, host } = &mut *self.lock();
        Self::check(index, offset, data.len(), model.bar(index).size)?;
        if model.present() {
            model.write_bar(host, index, offset, data);
        }
        for _ in 0..POLLS {
            if !model.poll(host) {
                break;
            }
        }
        Ok(())
    }

    fn dma_limits(&self) -> DmaLimits {
        DmaLimits { ranges: vec![0..=(1 << 48) - 1], granule: crate::host::GRANULE }
    }

    fn map_dma(&self, arena: &Arc<Arena>, iova: u64) -> Result<(), TransportError> {
        let mapped = self.lock().host.memory.map(iova, arena.len() as u64, arena.fd(), 0, true);
        mapped.map_err(|error| map_error(iova, error))
    }

    fn unmap_dma(&self, iova: u64, len: u64) -> Result<(), TransportError> {
        let unmapped = self.lock().host.memory.unmap(iova, len);
        unmapped.map_err(|error| map_error(iova, error))
    }

    fn interrupts(&self, kind: InterruptKind) -> u32 {
        self.lock().model.interrupts(kind)
    }

    fn set_interrupts(
        &self,
        kind: InterruptKind,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), TransportError> {
        let State { model, host } = &mut *self.lock();
        let available = model.interrupts(kind);
        if fds.len() > available as usize {
            return Err(TransportError::Unsupported(format!(
                "{} interrupts ({kind:?}) of a model that has {available}",
                fds.len()
            )));
        }
        host.interrupts.disconnect(kind);
        for (vector, fd) in (0..).zip(fds) {
            fd.try_clone_to_owned()
                .and_then(|fd| host.interrupts.connect(kind, vector, Some(fd)))
                .map_err(|error| TransportError::io(format!("connect vector {vector}"), error))?;
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), TransportError> {
        let State { model, host } = &mut *self.lock();
        model.reset(host);
        Ok(())
    }

    fn lost(&self) -> Option<String> {
        (!self.lock().model.present()).then(|| "the model was told to disappear".to_owned())
    }
}

fn map_error(iova: u64, error: MapError) -> TransportError {
    match error {
        MapError::Io { len, error } => {
            TransportError::io(format!("map {len:#x} bytes for DMA at {iova:#x}"), error)
        }
        error => TransportError::Unsupported(error.to_string()),
    }
}
