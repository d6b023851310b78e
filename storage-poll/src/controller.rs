//! The controller: bring-up, what it is, and its queues.

use std::sync::Arc;
use std::time::Duration;

use uniddrv::{AttachError, Device, DmaBuf, Driver, InterruptKind, Match, Progress};
use uniddrv_spec::nvme::admin::features::AsyncEvents;
use uniddrv_spec::nvme::admin::{AsyncEvent, Identify};
use uniddrv_spec::nvme::entry::SubmissionEntry;
use uniddrv_spec::nvme::identify::{IdentifyController, IdentifyNamespace, NamespaceList};
use uniddrv_spec::nvme::log::CriticalWarning;
use uniddrv_spec::nvme::registers::{Cap, DOORBELLS, Vs};
use zerocopy::FromBytes;

use crate::admin::{Admin, DEPTH, Executed};
use crate::block::NamespaceQueue;
use crate::bring_up;
use crate::error::ControllerError;
use crate::io_queue::IoQueue;
use crate::memory::Placed;
use crate::namespace::{Metadata, Namespace};
use crate::options::Options;
use crate::queue::{QueuePair, Shape};
use crate::shared::{self, Limits, Phase, Shared};

/// The class code of an NVM Express I/O controller. PCIe Transport 1.0 §3.8.
pub const CLASS: u32 = 0x01_08_02;
/// How long a shutdown may take when the controller does not say, and at most.
const SHUTDOWN: Duration = Duration::from_secs(5);
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(30);
/// The most bytes that an admin command moves, where the controller allows as many.
const ADMIN_TRANSFER: usize = 128 << 10;
/// The largest transfer that queues make PRP lists for, whatever the options ask for.
const LARGEST_TRANSFER: usize = 64 << 20;
/// The most active namespaces that are looked at.
const NAMESPACES: usize = 65_536;
/// The most where a controller of NVMe 1.0 has no list of them.
const NAMESPACES_UNLISTED: u32 = 1_024;
/// Bytes in an Identify structure.
const IDENTIFY: usize = 4096;

/// An NVMe controller that is up and running.
///
/// It is used from one thread; each of its queues is used from a thread of its own and may
/// outlive it. The controller is shut down when the last of them is dropped.
pub struct Controller {
    pub(crate) shared: Arc<Shared>,
    version: Vs,
    identity: Box<IdentifyController>,
    namespaces: Vec<Namespace>,
    events: Vec<AsyncEvent>,
}

impl Driver for Controller {
    const MATCHES: &'static [Match] = &[Match::class(CLASS)];

    fn attach(device: Device) -> Result<Self, AttachError> {
        Self::attach_with(device, Options::default())
    }

    fn poll(&mut self) -> Progress {
        let events = self.shared.lock().take_events();
        let progress = if events.is_empty() { Progress::Idle } else { Progress::Busy };
        self.events.extend(events);
        // Whoever never asks for them is not made to keep them.
        let excess = self.events.len().saturating_sub(64);
        self.events.drain(..excess);
        progress
    }
}

impl Controller {
    /// Takes an NVMe device and brings it up.
    ///
    /// # Errors
    /// When it is another kind of device, does not come up within CAP.TO, or says of itself
    /// what cannot be.
    pub fn attach_with(device: Device, options: Options) -> Result<Self, AttachError> {
        Self::attach_in(device, options, None)
    }

    /// As `attach_with`, with the admin queue in `area`, where another process finds it again.
    pub(crate) fn attach_in(
        device: Device,
        options: Options,
        area: Option<Placed>,
    ) -> Result<Self, AttachError> {
        device.expect_one_of(Self::MATCHES)?;
        let address = device.address().clone();
        let claim = |claim: String| AttachError::Device { address: address.clone(), claim };
        device.disable_intx()?;
        let bar = device.bar(0)?;
        let registers = bar.window(0..DOORBELLS as u64)?;
        let cap = Cap::from_bits(registers.read64(Cap::OFFSET));
        let (page, css) = bring_up::choose(cap).map_err(claim)?;
        let limits = Limits {
            cap,
            bar: bar.size(),
            page,
            // Until the controller has said more.
            max_transfer: page,
            sgl: false,
            shadow_doorbells: false,
            event_requests: 0,
            async_events: AsyncEvents::default(),
            shutdown: SHUTDOWN,
            css,
        };
        let (tail, head) = shared::doorbells(&device, cap, 0)?;
        let shape = admin_shape(page);
        let pair = match area {
            Some(mut area) => QueuePair::new(&mut area, shape, tail, head)?,
            None => QueuePair::new(&mut &device, shape, tail, head)?,
        };
        let vectors = vectors(&device, &options)?;
        let admin = Admin::new(pair, vectors);
        let mut shared = Shared::new(device, admin, registers, limits, options);
        let (version, identity) =
            bring_up_and_identify(&mut shared).map_err(|error| attach_error(error, &shared))?;
        let mut controller = Self {
            shared: Arc::new(shared),
            version,
            identity,
            namespaces: Vec::new(),
            events: Vec::new(),
        };
        controller.rescan().map_err(|error| attach_error(error, &controller.shared))?;
        Ok(controller)
    }

    /// What the controller says of itself. NVMe Base 2.0 §5.17.2.1.
    pub fn identity(&self) -> &IdentifyController {
        &self.identity
    }

    /// The version of the standard that it says it implements.
    pub fn version(&self) -> Vs {
        self.version
    }

    /// Its capabilities register.
    pub fn capabilities(&self) -> Cap {
        self.shared.limits.cap
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// Its active namespaces, as of the last [`rescan`](Self::rescan), by identifier.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// The active namespace `nsid`.
    ///
    /// # Errors
    /// When there is none.
    pub fn namespace(&self, nsid: u32) -> Result<&Namespace, ControllerError> {
        self.namespaces.iter().find(|namespace| namespace.nsid() == nsid).ok_or_else(|| {
            let known = self.namespaces.iter().map(|n| n.nsid().to_string()).collect::<Vec<_>>();
            let known =
                if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            self.unsupported(format!("it has no usable namespace {nsid} (known: {known})"))
        })
    }

    /// The most bytes that one command moves.
    pub fn max_transfer(&self) -> usize {
        self.shared.limits.max_transfer
    }

    /// Whether data longer than two pages are described by SGLs.
    pub fn uses_sgl(&self) -> bool {
        self.shared.limits.sgl
    }

    /// Whether queues use shadow doorbells.
    pub fn uses_shadow_doorbells(&self) -> bool {
        self.shared.lock().shadow_buffers().is_some()
    }

    /// How many I/O queue pairs the controller granted.
    pub fn granted_queues(&self) -> usize {
        self.shared.lock().granted()
    }

    /// The most commands that one queue has on their way.
    pub fn max_depth(&self) -> usize {
        // A ring is never filled to the last entry; command identifiers keep a bit to tell uses.
        (self.shared.limits.cap.max_queue_entries() as usize - 1).min(1 << 15)
    }

    /// An I/O queue pair for `depth` commands on their way, for one thread.
    ///
    /// # Errors
    /// When all that the controller granted are taken, the depth is 0 or more than
    /// [`max_depth`](Self::max_depth), memory is missing, or the controller refuses.
    pub fn io_queue(&self, depth: usize) -> Result<IoQueue, ControllerError> {
        let most = self.max_depth();
        if depth == 0 || depth > most {
            return Err(self.unsupported(format!(
                "queues of 1 to {most} commands are possible, not of {depth}"
            )));
        }
        let shared = &self.shared;
        let shape = Shape {
            depth: depth as u16,
            max_entries: shared.limits.cap.max_queue_entries(),
            max_transfer: shared.limits.max_transfer,
            page: shared.limits.page,
            sgl: shared.limits.sgl,
        };
        let mut admin = shared.lock();
        let granted = admin.granted();
        let (id, vector) = admin.take_queue().ok_or_else(|| {
            self.unsupported(format!("all {granted} I/O queues that it granted are taken"))
        })?;
        let created = shared
            .doorbells(id)
            .and_then(|(tail, head)| Ok(QueuePair::new(&mut &shared.device, shape, tail, head)?))
            .and_then(|mut pair| {
                let number = vector.as_ref().map(|(vector, _)| *vector);
                admin.create_queue(shared, id, pair.rings(), number).map(|()| pair)
            });
        match created {
            Ok(pair) => {
                let state = shared.state();
                if state.phase() != Phase::Running {
                    admin.return_queue(id, vector);
                    return Err(shared.gone());
                }
                Ok(IoQueue::new(shared.clone(), id, pair, vector, state))
            }
            Err(error) => {
                admin.return_queue(id, vector);
                Err(error)
            }
        }
    }

    /// A block service on namespace `nsid` over a queue pair of its own.
    ///
    /// # Errors
    /// As for [`io_queue`](Self::io_queue), and when there is no such namespace or its
    /// format has metadata between the blocks, which a block service has no place for.
    pub fn block_queue(&self, nsid: u32, depth: usize) -> Result<NamespaceQueue, ControllerError> {
        let namespace = *self.namespace(nsid)?;
        let mut queue = self.io_queue(depth)?;
        match namespace.metadata() {
            Metadata::None | Metadata::Stripped { .. } => {}
            Metadata::Separate(size) => {
                queue.prepare_metadata(namespace.max_blocks() as usize * usize::from(size))?;
            }
            Metadata::Interleaved(size) => {
                return Err(self.unsupported(format!(
                    "namespace {nsid} has {size} bytes of metadata after each block; format it \
                     without, or use `IoQueue`"
                )));
            }
        }
        Ok(NamespaceQueue::new(queue, namespace))
    }

    /// Asks again which namespaces are active and what they are like. Queues that are bound to
    /// one keep what they know. A namespace that says what cannot be is left out, with a
    /// warning.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn rescan(&mut self) -> Result<(), ControllerError> {
        let mut namespaces = Vec::new();
        for nsid in self.active_namespaces()? {
            // One that went away since, or is of another command set, is left out.
            let said = bring_up::tolerate_status(self.identify_namespace(nsid))?;
            let Some(said) = said else { continue };
            let max = self.shared.limits.max_transfer;
            match Namespace::check(nsid, &said, &self.identity, max) {
                // Size 0: it went away since.
                Ok(namespace) if namespace.blocks() == 0 => {}
                Ok(namespace) => namespaces.push(namespace),
                Err(error) => tracing::warn!(address = %self.shared.device.address(), %error),
            }
        }
        self.namespaces = namespaces;
        Ok(())
    }

    fn active_namespaces(&self) -> Result<Vec<u32>, ControllerError> {
        let most = self.identity.nn.get();
        if (self.version.major(), self.version.minor()) < (1, 1) {
            return Ok((1..=most.min(NAMESPACES_UNLISTED)).collect());
        }
        let mut active: Vec<u32> = Vec::new();
        loop {
            let last = active.last().copied().unwrap_or(0);
            let list: NamespaceList =
                self.identify(Identify::active_namespaces(last), "Identify: active namespaces")?;
            for nsid in list.iter() {
                // The list rises and stays below the number of namespaces: also what ends this.
                if nsid <= active.last().copied().unwrap_or(0)
                    || nsid > most
                    || active.len() == NAMESPACES
                {
                    return Err(self.malformed(&format!(
                        "its list of active namespaces has {nsid} after {:?}; it should rise, to at \
                         most {most}, and have at most {NAMESPACES} entries",
                        active.last()
                    )));
                }
                active.push(nsid);
            }
            if !list.is_full() {
                return Ok(active);
            }
        }
    }

    /// What the controller says of namespace `nsid`. NVM Command Set 1.0 §4.1.5.1.
    ///
    /// # Errors
    /// When it does not answer, or with an error status.
    pub fn identify_namespace(&self, nsid: u32) -> Result<Box<IdentifyNamespace>, ControllerError> {
        self.identify(Identify::namespace(nsid), "Identify: namespace").map(Box::new)
    }

    fn identify<T: FromBytes>(
        &self,
        command: Identify,
        name: &'static str,
    ) -> Result<T, ControllerError> {
        let buffer = self.shared.device.dma_buffer(IDENTIFY)?;
        let executed = self.execute(name, command.to_entry(), Some(buffer))?;
        parse(executed.data()).ok_or_else(|| self.malformed(&format!("{name}: too short")))
    }

    /// What happened since this was last asked: errors, health, changed namespaces.
    /// NVMe Base 2.0 §5.2.1. The log page that an event names has to be read
    /// ([`logs`](crate::logs)) before the controller reports one of its kind again.
    pub fn take_events(&mut self) -> Vec<AsyncEvent> {
        self.poll();
        std::mem::take(&mut self.events)
    }

    /// Resets the controller: every command on its way ends with an error, queues come back by
    /// themselves.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn reset(&self) -> Result<(), ControllerError> {
        self.shared.made_progress();
        self.shared.reset(self.shared.state(), "asked for");
        match self.shared.state().phase() {
            Phase::Gone => Err(self.shared.gone()),
            _ => Ok(()),
        }
    }

    /// How often it was reset since it was attached, and came up again.
    pub fn resets(&self) -> u32 {
        self.shared.state().resets()
    }

    /// Whether the controller is there and running.
    pub fn is_running(&self) -> bool {
        self.shared.state().phase() == Phase::Running
    }

    /// Executes any admin command, with a buffer of which all is moved, within `limit`.
    ///
    /// # Errors
    /// When the controller answers with an error status, or not in time: then it was reset.
    pub fn admin_command(
        &self,
        entry: SubmissionEntry,
        buffer: Option<DmaBuf>,
        limit: Duration,
    ) -> Result<(u32, Option<DmaBuf>), ControllerError> {
        let mut admin = self.shared.lock();
        let done = admin.execute_within(&self.shared, "admin command", entry, buffer, limit)?;
        Ok((done.dw0, done.buffer))
    }

    pub(crate) fn execute(
        &self,
        name: &'static str,
        entry: SubmissionEntry,
        buffer: Option<DmaBuf>,
    ) -> Result<Executed, ControllerError> {
        self.shared.lock().execute(&self.shared, name, entry, buffer)
    }

    pub(crate) fn execute_within(
        &self,
        name: &'static str,
        entry: SubmissionEntry,
        limit: Duration,
    ) -> Result<Executed, ControllerError> {
        self.shared.lock().execute_within(&self.shared, name, entry, None, limit)
    }

    pub(crate) fn unsupported(&self, reason: String) -> ControllerError {
        ControllerError::Unsupported { address: self.shared.address(), reason }
    }

    pub(crate) fn malformed(&self, claim: &str) -> ControllerError {
        malformed(&self.shared, claim)
    }
}

/// How large the admin queue is, of a controller with pages of `page` bytes.
pub(crate) const fn admin_shape(page: usize) -> Shape {
    Shape { depth: DEPTH, max_entries: 4096, max_transfer: ADMIN_TRANSFER, page, sgl: false }
}

/// The whole of `bytes` as a `T`.
pub(crate) fn parse<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

/// An eventfd for each queue that may get one, and for the admin queue.
fn vectors(device: &Device, options: &Options) -> Result<Vec<uniddrv::Interrupt>, AttachError> {
    if !options.interrupts {
        return Ok(Vec::new());
    }
    let wanted = u32::from(options.queues.max(1)) + 1;
    let count = device.interrupt_count(InterruptKind::Msix).min(wanted);
    if count < 2 {
        return Err(AttachError::Device {
            address: device.address().clone(),
            claim: format!("{count} MSI-X interrupts do not suffice for queues with interrupts"),
        });
    }
    Ok(device.interrupts(InterruptKind::Msix, count)?)
}

fn bring_up_and_identify(
    shared: &mut Shared,
) -> Result<(Vs, Box<IdentifyController>), ControllerError> {
    let version = Vs::from_bits(shared.registers.read32(Vs::OFFSET));
    let buffer = shared.device.dma_buffer(IDENTIFY)?;
    let mut admin = shared.lock();
    bring_up::start(shared, &mut admin)?;
    let entry = Identify::controller().to_entry();
    let limit = shared.options.admin_timeout;
    let executed = admin.try_execute(shared, "Identify: controller", entry, Some(buffer), limit)?;
    let identity: IdentifyController = parse(executed.data())
        .ok_or_else(|| malformed(shared, "Identify: controller: too short"))?;
    drop(admin);
    let page = shared.limits.page;
    let most = shared.options.max_transfer.clamp(page, LARGEST_TRANSFER);
    let allowed = identity.max_transfer(page).unwrap_or(usize::MAX);
    shared.limits.max_transfer = most.min(allowed);
    shared.limits.sgl = shared.options.sgl && matches!(identity.sgls().support(), 1 | 2);
    shared.limits.shadow_doorbells =
        shared.options.shadow_doorbells && identity.oacs().doorbell_buffer();
    shared.limits.event_requests = identity.aerl;
    shared.limits.async_events = wanted_events(&identity);
    // RTD3E, or a usual time where it is not told.
    let told = Duration::from_micros(identity.rtd3e.get().into());
    shared.limits.shutdown = if told.is_zero() { SHUTDOWN } else { told.min(LONGEST_SHUTDOWN) };
    let shared = &*shared;
    let mut admin = shared.lock();
    bring_up::configure(shared, &mut admin)?;
    if admin.granted() == 0 {
        return Err(malformed(shared, "it granted no I/O queue that BAR 0 has doorbells for"));
    }
    drop(admin);
    shared.enter_running()?;
    Ok((version, Box::new(identity)))
}

/// All health warnings, and of the notices those that the controller offers and that mean
/// something here.
fn wanted_events(identity: &IdentifyController) -> AsyncEvents {
    let offered = AsyncEvents::from_bits(identity.oaes.get());
    let warnings = CriticalWarning::default()
        .with_spare(true)
        .with_temperature(true)
        .with_reliability(true)
        .with_read_only(true)
        .with_backup_failed(true);
    AsyncEvents::default()
        .with_smart(warnings.bits())
        .with_namespace_attribute(offered.namespace_attribute())
        .with_firmware_activation(offered.firmware_activation())
}

fn malformed(shared: &Shared, claim: &str) -> ControllerError {
    ControllerError::Malformed { address: shared.address(), claim: claim.to_owned() }
}

pub(crate) fn attach_error(error: ControllerError, shared: &Shared) -> AttachError {
    let address = shared.device.address().clone();
    match error {
        ControllerError::Timeout { command, limit, .. } => {
            AttachError::Timeout { address, what: command, limit }
        }
        ControllerError::Dma(error) => error.into(),
        ControllerError::Transport(error) => error.into(),
        ControllerError::Malformed { claim, .. } | ControllerError::Fatal { claim, .. } => {
            AttachError::Device { address, claim }
        }
        ControllerError::Status { command, status, .. } => {
            AttachError::Device { address, claim: format!("{command}: {status}") }
        }
        ControllerError::Gone { reason, .. } => {
            AttachError::Device { address, claim: format!("it is gone: {reason}") }
        }
        ControllerError::Unsupported { reason, .. } => {
            AttachError::Device { address, claim: reason }
        }
    }
}
