//! The three ways to begin with a controller: from nothing, by adoption, and by a reset.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use uniddrv::dma::DmaMemory;
use uniddrv::serve::{AdoptError, DriverLedger, Steps, Table};
use uniddrv::{AttachError, Device, DmaBuf, DmaError, Window};
use uniddrv_abi::ledger::{LedgerError, Phase as LedgerPhase};
use uniddrv_abi::message::Settings;
use uniddrv_spec::nvme::identify::{IdentifyController, IdentifyNamespace};
use uniddrv_spec::nvme::registers::{Cap, Cc, Csts, DOORBELLS};
use zerocopy::IntoBytes;

use super::queue::{PROBES, Queue};
use super::record::{self, AdminPlace, MOST_NAMESPACES, Record};
use super::watch::Watch;
use super::{Kept, Nvme, QUEUE, options, serves};
use crate::admin::Admin;
use crate::controller::{Controller, admin_shape, attach_error, parse};
use crate::memory::Placed;
use crate::namespace::Namespace;
use crate::queue::QueuePair;
use crate::shared::{self, Shared};

/// Where in the arena things are: the admin queue, what the controller and its namespaces say of
/// themselves, where probes read to, and the I/O queue. What else is needed for a while is cut
/// from the gaps.
const ADMIN: usize = 0;
const IDENTITY: usize = 256 << 10;
const SCRATCH: usize = 512 << 10;
const IO: usize = 1 << 20;

const IDENTIFY: usize = 4096;
const SCRATCH_LEN: usize = 128 << 10;

/// Brings up a controller.
pub(super) fn attach<S: Steps>(
    device: Device,
    ledger: &DriverLedger,
    settings: &Settings,
) -> Result<Nvme<S>, AttachError> {
    ledger.set_phase(LedgerPhase::BringingUp);
    record::invalidate(ledger);
    let memory = arena(&device)?;
    let mut kept = keep(&memory)?;
    let options = options(settings);
    let watch = Watch::new(&options);
    let area = Placed::new(memory.clone(), ADMIN);
    let controller = Controller::attach_in(device, options, Some(area))?;
    let fail = |error| attach_error(error, &controller.shared);
    let mut identity = controller.identity().as_bytes().to_vec();
    let mut namespaces = Vec::new();
    for namespace in controller.namespaces().iter().filter(|namespace| serves(namespace)) {
        if namespaces.len() == MOST_NAMESPACES {
            tracing::warn!("only the first {MOST_NAMESPACES} namespaces are served");
            break;
        }
        let said = controller.identify_namespace(namespace.nsid()).map_err(fail)?;
        identity.extend_from_slice(said.as_bytes());
        namespaces.push(*namespace);
    }
    kept.identity.as_mut_slice()[..identity.len()].copy_from_slice(&identity);
    let shared = controller.shared.clone();
    drop(controller);
    let depth = Queue::<S>::depth_for(&shared.limits, settings.depth);
    let doorbells = shared.doorbells(QUEUE).map_err(|error| attach_error(error, &shared))?;
    let mut area = Placed::new(memory, IO);
    let mut queue = Queue::new(&mut area, &shared.limits, depth, doorbells)?;
    let mut admin = shared.lock();
    admin
        .take_queue()
        .filter(|(id, _)| *id == QUEUE)
        .ok_or_else(|| claim(&shared, "it granted no I/O queue"))?;
    admin
        .create_queue(&shared, QUEUE, &mut queue.rings, None)
        .map_err(|error| attach_error(error, &shared))?;
    let record = Record {
        limits: shared.limits,
        depth: depth as u32,
        nsids: namespaces.iter().map(Namespace::nsid).collect(),
    };
    record::set_tail(ledger, 0);
    record::set_head(ledger, 0);
    let place = admin_place(&mut admin);
    drop(admin);
    record::admin_rests(ledger, &place);
    record.save(ledger);
    ledger.set_phase(LedgerPhase::Running);
    Ok(Nvme { queue, namespaces, watch, identity, kept, record, shared })
}

/// Takes over a controller that runs. Nothing in here waits for it.
pub(super) fn adopt<S: Steps>(
    device: Device,
    ledger: &DriverLedger,
    settings: &Settings,
    table: &mut Table<S>,
) -> Result<Nvme<S>, (AdoptError, Device)> {
    let found = match find(&device, ledger) {
        Ok(found) => found,
        Err(error) => return Err((error, device)),
    };
    let Found { record, place, tail, head, registers, memory, kept, namespaces, queue, admin } =
        found;
    let mut queue: Queue<S> = queue;
    let options = options(settings);
    // Its status is looked at soon, if nothing has completed by then: a register costs a message.
    let watch = Watch::soon(&options);
    let mut admin = Admin::new(admin, Vec::new());
    admin.adopt(&place, record::count_adoption(ledger));
    admin.grant(1);
    admin.take_queue();
    let identity = Vec::new();
    let shared = Arc::new(Shared::new(device, admin, registers, record.limits, options));
    drop(memory);
    if shared.enter_running().is_err() {
        tracing::error!("a controller that was just adopted is gone");
    }
    queue.resume(tail, head);
    for (slot, _, position) in table.submissions() {
        if position >= tail {
            // The doorbell never said so far: the controller did not see it.
            table.submit_again(slot);
        } else {
            queue.in_flight += 1;
        }
    }
    let probe = namespaces.first().and_then(|namespace| namespace.read(0, 1).ok());
    if let Some(command) = probe {
        let count = ledger.adoption().0;
        queue.probe(table, &command, kept.scratch.iova(), count);
    }
    Ok(Nvme { queue, namespaces, watch, identity, kept, record, shared })
}

/// What an adoption needs, all of it checked.
struct Found<S> {
    record: Record,
    place: AdminPlace,
    tail: u64,
    head: u64,
    registers: Window,
    memory: Arc<DmaMemory>,
    kept: Kept,
    namespaces: Vec<Namespace>,
    queue: Queue<S>,
    admin: QueuePair,
}

fn find<S: Steps>(device: &Device, ledger: &DriverLedger) -> Result<Found<S>, AdoptError> {
    let device_error = |error: &dyn std::fmt::Display| AdoptError::Device(error.to_string());
    let record = Record::load(ledger)?;
    let place = record::admin_place(ledger)
        .ok_or_else(|| AdoptError::Device("its admin queue was in use".into()))?;
    if record::probes(ledger) >= PROBES {
        return Err(AdoptError::Device(format!("{PROBES} probes did not come back")));
    }
    let (tail, head) = (record::tail(ledger), record::head(ledger));
    if tail.max(head) >> 62 != 0 {
        return Err(LedgerError(format!("{tail} entries submitted, {head} completed")).into());
    }
    let bar = device.bar(0).map_err(|error| device_error(&error))?;
    let registers = bar.window(0..DOORBELLS as u64).map_err(|error| device_error(&error))?;
    let memory = arena(device).map_err(|error| device_error(&error))?;
    let kept = keep(&memory).map_err(|error| device_error(&error))?;
    let namespaces = namespaces(&record, kept.identity.as_slice())?;
    let doorbells =
        |id| shared::doorbells(device, record.limits.cap, id).map_err(|error| device_error(&error));
    let mut area = Placed::new(memory.clone(), ADMIN);
    let (tail_doorbell, head_doorbell) = doorbells(0)?;
    let shape = admin_shape(record.limits.page);
    let mut admin = QueuePair::new(&mut area, shape, tail_doorbell, head_doorbell)
        .map_err(|error| device_error(&error))?;
    let (sq, cq) = (admin.rings().submission_len(), admin.rings().completion_len());
    if usize::from(place.tail) >= sq || usize::from(place.head) >= cq {
        return Err(LedgerError(format!("the admin queue: {place:?}")).into());
    }
    let mut area = Placed::new(memory.clone(), IO);
    let depth = record.depth as usize;
    let queue = Queue::new(&mut area, &record.limits, depth, doorbells(QUEUE)?)
        .map_err(|error| device_error(&error))?;
    Ok(Found { record, place, tail, head, registers, memory, kept, namespaces, queue, admin })
}

/// The namespaces, from what the controller said of them when it was brought up.
fn namespaces(record: &Record, identity: &[u8]) -> Result<Vec<Namespace>, LedgerError> {
    let mut pages = identity.chunks_exact(IDENTIFY);
    let missing = || LedgerError("a structure of the controller is missing".into());
    let controller: IdentifyController = pages.next().and_then(parse).ok_or_else(missing)?;
    let max = record.limits.max_transfer;
    let namespace = |(&nsid, page): (&u32, &[u8])| {
        let said: IdentifyNamespace = parse(page).ok_or_else(missing)?;
        Namespace::check(nsid, &said, &controller, max)
            .map_err(|error| LedgerError(error.to_string()))
    };
    record.nsids.iter().zip(pages).map(namespace).collect()
}

/// Stops a controller in whatever state it is, takes what it had completed, and brings it up.
pub(super) fn recover<S: Steps>(
    device: Device,
    ledger: &DriverLedger,
    settings: &Settings,
    table: &mut Table<S>,
) -> Result<Nvme<S>, AttachError> {
    ledger.set_phase(LedgerPhase::BringingUp);
    stop(&device)?;
    match harvest(&device, ledger, table) {
        Ok(count) => tracing::info!(count, "completions found after the controller was stopped"),
        Err(error) => tracing::warn!(%error, "no completions are taken from before the reset"),
    }
    let submissions = table.submissions();
    let again = submissions.len() as u64;
    for (slot, ..) in submissions {
        table.submit_again(slot);
    }
    let driver = attach(device, ledger, settings)?;
    ledger.count_reset(again);
    Ok(driver)
}

/// Disables the controller and waits until it has stopped; where it does not, the function is
/// reset. No DMA happens afterwards.
fn stop(device: &Device) -> Result<(), AttachError> {
    let registers = device.bar(0)?.window(0..DOORBELLS as u64)?;
    let cap = Cap::from_bits(registers.read64(Cap::OFFSET));
    let limit = Duration::from_millis(500) * u32::from(cap.to()).max(1);
    let cc = Cc::from_bits(registers.read32(Cc::OFFSET));
    if cc.en() {
        registers.write32(Cc::OFFSET, cc.with_en(false).with_shn(Cc::SHN_NONE).bits());
    }
    let start = Instant::now();
    loop {
        let csts = Csts::from_bits(registers.read32(Csts::OFFSET));
        if csts.is_gone() {
            let reason = device.lost().unwrap_or_else(|| "its registers read as all ones".into());
            return Err(AttachError::Device { address: device.address().clone(), claim: reason });
        }
        if !csts.rdy() {
            break;
        }
        if start.elapsed() >= limit {
            tracing::warn!("the controller does not stop: function reset");
            device.reset()?;
            break;
        }
        sleep(Duration::from_micros(100));
    }
    device.set_bus_master(false)?;
    Ok(())
}

/// Takes the completions that a predecessor left in its ring. How many.
fn harvest<S: Steps>(
    device: &Device,
    ledger: &DriverLedger,
    table: &mut Table<S>,
) -> Result<usize, AdoptError> {
    let device_error = |error: &dyn std::fmt::Display| AdoptError::Device(error.to_string());
    let record = Record::load(ledger)?;
    let memory = arena(device).map_err(|error| device_error(&error))?;
    let doorbells = shared::doorbells(device, record.limits.cap, QUEUE)
        .map_err(|error| device_error(&error))?;
    let mut area = Placed::new(memory, IO);
    let mut queue: Queue<S> =
        Queue::new(&mut area, &record.limits, record.depth as usize, doorbells)
            .map_err(|error| device_error(&error))?;
    queue.resume(record::tail(ledger), record::head(ledger));
    Ok(queue.harvest(table))
}

fn arena(device: &Device) -> Result<Arc<DmaMemory>, AttachError> {
    device.dma().current().ok_or(AttachError::Dma(DmaError::Full { len: 0 }))
}

fn keep(memory: &Arc<DmaMemory>) -> Result<Kept, AttachError> {
    let at = |offset, len| -> Result<DmaBuf, AttachError> {
        Ok(memory.buffer_at(offset, len).ok_or(DmaError::Full { len })?)
    };
    Ok(Kept {
        identity: at(IDENTITY, (1 + MOST_NAMESPACES) * IDENTIFY)?,
        scratch: at(SCRATCH, SCRATCH_LEN)?,
    })
}

fn claim(shared: &Shared, claim: &str) -> AttachError {
    AttachError::Device { address: shared.device.address().clone(), claim: claim.into() }
}

/// Where the admin queue is, for the ledger.
pub(super) fn admin_place(admin: &mut Admin) -> AdminPlace {
    let events = admin.event_requests();
    let (tail, head, phase) = admin.pair.rings().position();
    AdminPlace { tail: tail as u16, head: head as u16, phase, events }
}
