//! An NVMe 2.0 controller. NVMe Base 2.0, NVM Command Set 1.0, PCIe Transport 1.0.
//!
//! | BAR | what it holds |
//! |---|---|
//! | 0, from 0 | registers, trapped |
//! | 0, from 0x1000 | doorbells, in a memfd that a client may map |
//! | 4 | MSI-X table and pending bits, trapped |
//!
//! One look at the doorbells takes the new commands of each queue in batches, executes them
//! and posts their completions; an interrupt follows each batch. What is special is made by a
//! [fault plan](fault::FaultPlan).

mod admin;
mod backing;
mod controller;
mod data;
mod events;
pub mod fault;
mod features;
mod firmware;
mod identify;
mod io;
mod logs;
mod namespace;
pub mod params;
mod process;
mod queues;
mod registers;
mod shadow;

use std::sync::Arc;

pub use backing::BackingError;
pub use fault::{FaultCounts, FaultPlan};
pub use params::{BackingParams, NamespaceParams, ParamError, Params};
use uniddrv::InterruptKind;
use uniddrv::device::Identity;
use uniddrv_spec::nvme::admin::event::Event;
use uniddrv_spec::pci::{ClassCode, msix};

use self::backing::Backing;
use self::controller::Controller;
use self::namespace::Namespace;
use self::registers::{DOORBELL_START, Doorbells};
use crate::config_space::ConfigSpace;
use crate::host::{Host, MapError};
use crate::model::{Model, ModelBar, SharedPart};

const DEVICE: u16 = 0x4e56;
const TABLE_BAR: u8 = 4;
const TABLE_ENTRY: usize = size_of::<msix::TableEntry>();
/// Where a namespace has no size of its own and no file gives one.
const DEFAULT_SIZE: u64 = 1 << 30;

/// An NVMe controller as a PCI function.
#[derive(Debug)]
pub struct NvmeModel {
    controller: Controller,
    config: ConfigSpace,
    // MSI-X table, then pending bits.
    table: Vec<u8>,
    table_len: usize,
}

/// A controller that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// A namespace cannot be kept.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// The memory for the doorbells is missing.
    #[error("cannot make the doorbells: {0}")]
    Doorbells(#[source] MapError),
    /// A namespace is smaller than a block, or all of them together larger than 64 bits.
    #[error("namespace {nsid} of {size} bytes in blocks of {block_size} cannot be")]
    Size {
        /// Which namespace.
        nsid: u32,
        /// Its bytes.
        size: u64,
        /// Bytes of a block.
        block_size: u32,
    },
    /// Several namespaces share a file, and not each has a size.
    #[error("namespaces that share a file need sizes: give size=SIZE or namespaces=BLOCK:SIZE,...")]
    SharedFile,
}

impl NvmeModel {
    /// A controller that is made like `params` say.
    ///
    /// # Errors
    /// When the memory or the file for a namespace cannot be had, or the sizes do not fit.
    pub fn new(params: Params) -> Result<Self, NewError> {
        let namespaces = make_namespaces(&params)?;
        let controller = Controller::new(params, namespaces)?;
        let vectors = controller.vectors;
        let table_len = (usize::from(vectors) * TABLE_ENTRY).next_multiple_of(4096);
        let pending_len = usize::from(vectors).div_ceil(64) * 8;
        let mut table = vec![0; (table_len + pending_len).next_power_of_two().max(4096)];
        reset_table(&mut table, vectors);
        let identity = Identity {
            vendor: identify::VENDOR,
            device: DEVICE,
            class: ClassCode::NVME.bits(),
            revision: 1,
        };
        let config = ConfigSpace::builder(identity)
            .bar64(0, controller.doorbells.bar())
            .bar32(TABLE_BAR, table.len() as u32)
            .interrupt_pin()
            .power_management()
            .pci_express()
            .msix(vectors, (TABLE_BAR, 0), (TABLE_BAR, table_len as u32))
            .build();
        Ok(Self { controller, config, table, table_len })
    }

    /// How many faults were made; nothing where there is no plan.
    pub fn fault_counts(&self) -> Option<FaultCounts> {
        self.controller.faults.as_ref().map(fault::Faults::counts)
    }

    /// How often the controller was enabled.
    pub fn enables(&self) -> u64 {
        self.controller.enables
    }

    /// How many trapped writes gave a doorbell the value that it had, which a controller may take
    /// for an error (Invalid Doorbell Write Value, NVMe Base 2.0 §5.2).
    pub fn repeated_doorbells(&self) -> u64 {
        self.controller.repeated_doorbells
    }

    /// Attaches or detaches the namespace `nsid` behind the client's back, which is told by an
    /// asynchronous event. Whether there is such a namespace.
    pub fn set_attached(&mut self, nsid: u32, attached: bool) -> bool {
        self.change(nsid, |namespace| namespace.attached = attached)
    }

    /// Shrinks the namespace `nsid` to `bytes`, or lets it grow again to what it was made
    /// with, behind the client's back, which is told by an asynchronous event. Whether there
    /// is such a namespace.
    pub fn set_size(&mut self, nsid: u32, bytes: u64) -> bool {
        self.change(nsid, |namespace| namespace.resize(bytes))
    }

    /// Lets the device disappear, as when it is pulled out: reads are all ones from now on.
    pub fn vanish(&mut self) {
        self.controller.running = false;
        self.controller.gone = true;
    }

    fn change(&mut self, nsid: u32, change: impl FnOnce(&mut Namespace)) -> bool {
        let controller = &mut self.controller;
        let Some(namespace) = controller.namespaces.get_mut(nsid.wrapping_sub(1) as usize) else {
            return false;
        };
        change(namespace);
        controller.logs.namespace_changed(nsid);
        let event = Event::NAMESPACE_ATTRIBUTE_CHANGED;
        controller.events.raise(event, controller.features.events);
        true
    }
}

impl Model for NvmeModel {
    fn config(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bar(&self, index: u8) -> ModelBar<'_> {
        let doorbells = &self.controller.doorbells;
        match index {
            0 => ModelBar {
                size: doorbells.bar(),
                shared: Some(SharedPart {
                    range: DOORBELL_START..doorbells.end(),
                    file: doorbells.fd(),
                }),
            },
            TABLE_BAR => ModelBar { size: self.table.len() as u64, shared: None },
            _ => ModelBar::default(),
        }
    }

    fn read_bar(&mut self, _: &mut Host, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match bar {
            0 => self.controller.read(offset, data),
            TABLE_BAR => {
                let from = self.table.iter().skip(offset as usize);
                data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
            _ => {}
        }
    }

    fn write_bar(&mut self, host: &mut Host, bar: u8, offset: u64, data: &[u8]) {
        match bar {
            0 => self.controller.write(host, offset, data),
            TABLE_BAR => {
                // What comes after the table, the pending bits, is read only.
                let table = self.table.iter_mut().take(self.table_len).skip(offset as usize);
                table.zip(data).for_each(|(to, from)| *to = *from);
            }
            _ => {}
        }
    }

    fn interrupts(&self, kind: InterruptKind) -> u32 {
        match kind {
            InterruptKind::Msix => self.controller.vectors.into(),
            InterruptKind::Intx => 1,
            InterruptKind::Msi | InterruptKind::Error | InterruptKind::Request => 0,
        }
    }

    fn reset(&mut self, _: &mut Host) {
        self.config.reset();
        reset_table(&mut self.table, self.controller.vectors);
        self.controller.power_on_reset();
    }

    fn revoke(&mut self) -> std::io::Result<()> {
        self.controller.doorbells = Doorbells::new(self.controller.params.queues)
            .map_err(|error| std::io::Error::other(format!("new doorbells: {error}")))?;
        Ok(())
    }

    #[inline]
    fn poll(&mut self, host: &mut Host) -> bool {
        // Without bus mastering there is no DMA: commands wait.
        self.config.bus_master() && self.controller.poll(host)
    }

    fn present(&self) -> bool {
        !self.controller.gone
    }
}

/// All vectors masked. PCI Local Bus 3.0 §6.8.2.9.
fn reset_table(table: &mut [u8], vectors: u16) {
    let masked = msix::VectorControl::from_bits(0).with_mask(true).bits().to_le_bytes();
    table.fill(0);
    for entry in table.chunks_exact_mut(TABLE_ENTRY).take(vectors.into()) {
        if let Some(control) = entry.last_chunk_mut() {
            *control = masked;
        }
    }
}

fn make_namespaces(params: &Params) -> Result<Vec<Namespace>, NewError> {
    let own_or_common = |one: &NamespaceParams| one.size.or(params.size);
    let sizes: Vec<Option<u64>> = params.namespaces.iter().map(own_or_common).collect();
    let check = |nsid, one: &NamespaceParams, size: u64| {
        let block_size = one.block_size;
        if size < u64::from(block_size) || size > isize::MAX as u64 {
            return Err(NewError::Size { nsid, size, block_size });
        }
        Ok(size / u64::from(block_size) * u64::from(block_size))
    };
    let ids = (1..).zip(&params.namespaces);
    let BackingParams::File(path) = &params.backing else {
        return ids
            .zip(sizes)
            .map(|((nsid, one), size)| {
                let size = check(nsid, one, size.unwrap_or(DEFAULT_SIZE))?;
                let backing = match params.backing {
                    BackingParams::Null => Backing::Null,
                    _ => Backing::ram(size)?,
                };
                Ok(Namespace::new(nsid, one.block_size, size, backing))
            })
            .collect();
    };
    let known: Option<Vec<u64>> = sizes.into_iter().collect();
    if known.is_none() && params.namespaces.len() > 1 {
        return Err(NewError::SharedFile);
    }
    let mut total: u64 = 0;
    for ((nsid, one), &size) in ids.clone().zip(known.iter().flatten()) {
        check(nsid, one, size)?;
        let block_size = one.block_size;
        total = total.checked_add(size).ok_or(NewError::Size { nsid, size, block_size })?;
    }
    let (file, found) = backing::open_file(path, known.is_some().then_some(total))?;
    if let (None, Some(one)) = (&known, params.namespaces.first())
        && found < u64::from(one.block_size)
    {
        return Err(BackingError::NoSize { path: path.clone(), found }.into());
    }
    let file = Arc::new(file);
    let mut start = 0;
    ids.zip(known.unwrap_or_else(|| vec![found]))
        .map(|((nsid, one), size)| {
            let backing = Backing::file(file.clone(), start);
            start += size;
            Ok(Namespace::new(nsid, one.block_size, check(nsid, one, size)?, backing))
        })
        .collect()
}

#[cfg(test)]
mod tests;
