//! The admin queue: commands to the controller itself, one at a time, with a deadline each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uniddrv::{DmaBuf, DmaWords, Interrupt};
use uniddrv_spec::nvme::admin::queue::{CompletionQueueDword11, SubmissionQueueDword11};
use uniddrv_spec::nvme::admin::{
    Abort, AsyncEvent, CreateIoCompletionQueue, CreateIoSubmissionQueue, DeleteIoCompletionQueue,
    DeleteIoSubmissionQueue, DoorbellBufferConfig, async_event_request,
};
use uniddrv_spec::nvme::entry::{CompletionEntry, SubmissionEntry};

use crate::bring_up;
use crate::doorbell::ShadowBuffers;
use crate::error::ControllerError;
use crate::queue::QueuePair;
use crate::rings::Rings;
use crate::shared::{Phase, Shared};

/// Commands on their way at once: the one that is executed, asynchronous event requests, and
/// room for commands that were given up.
pub(crate) const DEPTH: u16 = 31;
/// Asynchronous event requests on their way.
const EVENT_REQUESTS: u8 = 3;
/// Events that are kept for the user; older ones are dropped.
const EVENTS: usize = 64;
/// Resets in a row, without a command that completed in between, after which a controller is
/// given up.
const RESETS: u32 = 8;
/// The tag of asynchronous event requests; all others count up from it.
const EVENT_TAG: u64 = 0;

pub(crate) struct Admin {
    pub(crate) pair: QueuePair,
    last_tag: u64,
    events: VecDeque<AsyncEvent>,
    /// Whether each I/O queue that the controller granted exists, by its identifier less one.
    queues: Vec<bool>,
    /// The interrupt of each vector, while no queue has it.
    vectors: Vec<Option<Interrupt>>,
    shadow: Option<Arc<ShadowBuffers>>,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Executed {
    /// Dword 0 of the completion.
    pub(crate) dw0: u32,
    /// The buffer that went with the command.
    pub(crate) buffer: Option<DmaBuf>,
}

impl Executed {
    /// The data that the command brought.
    pub(crate) fn data(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], DmaBuf::as_slice)
    }
}

impl Admin {
    pub(crate) fn new(pair: QueuePair, vectors: Vec<Interrupt>) -> Self {
        Self {
            pair,
            last_tag: EVENT_TAG,
            events: VecDeque::with_capacity(EVENTS),
            queues: Vec::new(),
            vectors: vectors.into_iter().map(Some).collect(),
            shadow: None,
        }
    }

    /// Executes a command that moves all of `buffer`, within the usual time.
    pub(crate) fn execute(
        &mut self,
        shared: &Shared,
        name: &'static str,
        entry: SubmissionEntry,
        buffer: Option<DmaBuf>,
    ) -> Result<Executed, ControllerError> {
        self.execute_within(shared, name, entry, buffer, shared.options.admin_timeout)
    }

    /// Executes a command. When the controller does not answer within `limit`, it is reset.
    pub(crate) fn execute_within(
        &mut self,
        shared: &Shared,
        name: &'static str,
        entry: SubmissionEntry,
        buffer: Option<DmaBuf>,
        limit: Duration,
    ) -> Result<Executed, ControllerError> {
        let result = self.try_execute(shared, name, entry, buffer, limit);
        if matches!(result, Err(ControllerError::Timeout { .. } | ControllerError::Fatal { .. }))
            && shared.state().phase() == Phase::Running
        {
            self.reset(shared, "an admin command got no answer");
        }
        result
    }

    /// As `execute_within`, without a reset.
    pub(crate) fn try_execute(
        &mut self,
        shared: &Shared,
        name: &'static str,
        entry: SubmissionEntry,
        buffer: Option<DmaBuf>,
        limit: Duration,
    ) -> Result<Executed, ControllerError> {
        if shared.state().phase() == Phase::Gone {
            return Err(shared.gone());
        }
        self.last_tag += 1;
        let (tag, len) = (self.last_tag, buffer.as_ref().map_or(0, DmaBuf::len));
        if len > self.pair.max_transfer() {
            return Err(ControllerError::Unsupported {
                address: shared.address(),
                reason: format!(
                    "{name}: {len} bytes are more than the {} of an admin command",
                    self.pair.max_transfer()
                ),
            });
        }
        let full = |_| ControllerError::Unsupported {
            address: shared.address(),
            reason: format!("{name}: the admin queue is full of commands that did not end"),
        };
        self.pair.submit(entry, buffer, len, tag).map_err(full)?;
        self.pair.rings().ring_register();
        let start = Instant::now();
        let mut looked = start;
        loop {
            let reaped = self.reap(tag);
            self.pair.rings().acknowledge_register();
            if let Some((entry, buffer)) = reaped {
                let status = entry.status();
                if status.is_success() {
                    return Ok(Executed { dw0: entry.dw0(), buffer });
                }
                let (address, command) = (shared.address(), name);
                return Err(ControllerError::Status { address, command, status });
            }
            let now = Instant::now();
            if now - start >= limit {
                let (address, command) = (shared.address(), name);
                return Err(ControllerError::Timeout { address, command, limit });
            }
            if now - looked >= Duration::from_millis(1) {
                looked = now;
                let csts = shared.csts();
                if csts.is_gone() {
                    shared.lose(&shared.removal());
                    return Err(shared.gone());
                }
                if csts.cfs() || !csts.rdy() {
                    let claim = if csts.cfs() {
                        "it reports a fatal status (CSTS.CFS)"
                    } else {
                        "somebody else has stopped it (CSTS.RDY is 0)"
                    };
                    let claim = format!("{name}: {claim}");
                    return Err(ControllerError::Fatal { address: shared.address(), claim });
                }
            }
            // Most commands take microseconds; those that take longer can wait for the CPU.
            if now - start < Duration::from_millis(1) {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    }

    /// Takes completions until the one of `tag` comes: events are kept and asked for anew;
    /// what was given up before is dropped.
    fn reap(&mut self, tag: u64) -> Option<(CompletionEntry, Option<DmaBuf>)> {
        // Not more than were on their way: a device that completes event requests as fast as
        // they are sent must not keep us here.
        for _ in 0..DEPTH {
            let reaped = self.pair.reap()?;
            if reaped.tag == tag && tag != EVENT_TAG {
                return Some((reaped.entry, reaped.buffer));
            }
            // An error status (the limit was exceeded, the request was aborted) is no event,
            // and is not asked for again.
            if reaped.tag == EVENT_TAG && reaped.entry.status().is_success() {
                if self.events.len() == EVENTS {
                    self.events.pop_front();
                }
                self.events.push_back(AsyncEvent::from_bits(reaped.entry.dw0()));
                self.request_event();
            }
        }
        None
    }

    /// Sends a command whose completion nobody waits for.
    pub(crate) fn send(&mut self, entry: SubmissionEntry) {
        self.last_tag += 1;
        if self.pair.submit(entry, None, 0, self.last_tag).is_ok() {
            self.pair.rings().ring_register();
        }
    }

    /// The identifiers of the asynchronous event requests on their way.
    pub(crate) fn event_requests(&mut self) -> Vec<u16> {
        self.pair.busy().filter(|(_, slot)| slot.tag == EVENT_TAG).map(|(cid, _)| cid).collect()
    }

    /// Goes on where somebody else has left the queue at rest, at the `count`th change of hands.
    pub(crate) fn adopt(&mut self, place: &crate::served::AdminPlace, count: u64) {
        self.pair.rings().resume(place.tail.into(), place.head.into(), place.phase);
        self.pair.adopt(&place.events, EVENT_TAG, count as u16);
    }

    fn request_event(&mut self) {
        let entry = async_event_request();
        if self.pair.submit(entry, None, 0, EVENT_TAG).is_ok() {
            self.pair.rings().ring_register();
        }
    }

    /// Sends as many asynchronous event requests as the controller takes. NVMe Base 2.0 §5.2.
    pub(crate) fn request_events(&mut self, limit: u8) {
        for _ in 0..limit.saturating_add(1).min(EVENT_REQUESTS) {
            self.request_event();
        }
    }

    /// Takes what has happened since, and the events so far.
    pub(crate) fn take_events(&mut self) -> Vec<AsyncEvent> {
        self.reap(EVENT_TAG);
        self.pair.rings().acknowledge_register();
        self.events.drain(..).collect()
    }

    /// How many I/O queues the controller granted; those that exist stay as they are.
    pub(crate) fn grant(&mut self, queues: usize) {
        if self.queues.len() < queues {
            self.queues.resize(queues, false);
        }
    }

    /// How many I/O queues the controller granted.
    pub(crate) fn granted(&self) -> usize {
        self.queues.len()
    }

    /// An identifier that no queue has, and a vector of its own for it, where there are any.
    pub(crate) fn take_queue(&mut self) -> Option<(u16, Option<(u16, Interrupt)>)> {
        let index = self.queues.iter().position(|exists| !exists)?;
        self.queues[index] = true;
        // Vector 0 belongs to the admin queue.
        let mut free = self.vectors.iter_mut().enumerate().skip(1);
        let vector = free.find_map(|(vector, interrupt)| Some((vector as u16, interrupt.take()?)));
        Some((index as u16 + 1, vector))
    }

    pub(crate) fn return_queue(&mut self, id: u16, vector: Option<(u16, Interrupt)>) {
        if let Some(exists) = self.queues.get_mut(usize::from(id).wrapping_sub(1)) {
            *exists = false;
        }
        if let Some((vector, interrupt)) = vector
            && let Some(place) = self.vectors.get_mut(usize::from(vector))
        {
            *place = Some(interrupt);
        }
    }

    /// Creates the rings of `pair` as the queue `id`. NVMe Base 2.0 §5.4 and §5.5.
    pub(crate) fn create_queue(
        &mut self,
        shared: &Shared,
        id: u16,
        rings: &mut Rings,
        vector: Option<u16>,
    ) -> Result<(), ControllerError> {
        rings.restart();
        let (tail, head) = shared.shadows(self, id);
        let (tail_doorbell, head_doorbell) = rings.doorbells();
        tail_doorbell.set_shadow(tail);
        head_doorbell.set_shadow(head);
        let create_completion = CreateIoCompletionQueue {
            qid: id,
            qsize: (rings.completion_len() - 1) as u16,
            attributes: CompletionQueueDword11::default()
                .with_pc(true)
                .with_ien(vector.is_some())
                .with_iv(vector.unwrap_or(0)),
            address: rings.completion_iova(),
        };
        let create_submission = CreateIoSubmissionQueue {
            qid: id,
            qsize: (rings.submission_len() - 1) as u16,
            attributes: SubmissionQueueDword11::default().with_pc(true).with_cqid(id),
            address: rings.submission_iova(),
        };
        let entry = create_completion.to_entry();
        self.execute(shared, "Create I/O Completion Queue", entry, None)?;
        let entry = create_submission.to_entry();
        let created = self.execute(shared, "Create I/O Submission Queue", entry, None);
        if let Err(error @ ControllerError::Status { .. }) = created {
            let entry = DeleteIoCompletionQueue { qid: id }.to_entry();
            if self.execute(shared, "Delete I/O Completion Queue", entry, None).is_err() {
                // Its memory is about to be given back.
                self.reset(shared, "a completion queue could not be deleted");
            }
            return Err(error);
        }
        created.map(drop)
    }

    /// Asks the controller to end a command. That it agreed does not mean that it ended.
    pub(crate) fn abort(
        &mut self,
        shared: &Shared,
        queue: u16,
        cid: u16,
    ) -> Result<(), ControllerError> {
        let entry = Abort { sqid: queue, cid }.to_entry();
        self.execute(shared, "Abort", entry, None).map(drop)
    }

    /// Deletes the queue `id`: afterwards the controller does not touch its rings and buffers.
    pub(crate) fn delete_queue(&mut self, shared: &Shared, id: u16) -> Result<(), ControllerError> {
        let entry = DeleteIoSubmissionQueue { qid: id }.to_entry();
        self.execute(shared, "Delete I/O Submission Queue", entry, None)?;
        let entry = DeleteIoCompletionQueue { qid: id }.to_entry();
        self.execute(shared, "Delete I/O Completion Queue", entry, None)?;
        Ok(())
    }

    /// Stops the controller and brings it up again; gives it up where that fails. Queues see
    /// it by the state, end their commands with an error and come back by themselves.
    pub(crate) fn reset(&mut self, shared: &Shared, why: &str) {
        if shared.state().phase() != Phase::Running {
            return;
        }
        tracing::warn!(address = %shared.device.address(), why, "controller reset");
        let resets = shared.count_reset();
        if resets > RESETS {
            return shared.lose(&format!("{why}, after {RESETS} resets without any progress"));
        }
        let result = shared
            .enter_reset()
            .and_then(|()| bring_up::start(shared, self))
            .and_then(|()| bring_up::configure(shared, self))
            .and_then(|()| shared.enter_running());
        if let Err(error) = result {
            shared.lose(&format!("it did not come back after a reset: {error}"));
        }
    }

    /// Ends all commands, of a controller that was disabled, and clears the rings.
    pub(crate) fn restart(&mut self) {
        while self.pair.give_up_one().is_some() {}
        self.pair.rings().restart();
        self.shadow = None;
    }

    pub(crate) fn shadow_buffers(&self) -> Option<&Arc<ShadowBuffers>> {
        self.shadow.as_ref()
    }

    /// Hands shadow doorbells to the controller. NVMe Base 2.0 §5.8. The I/O queues that are
    /// created from here on use them.
    pub(crate) fn use_shadow_doorbells(&mut self, shared: &Shared) -> Result<(), ControllerError> {
        let page = shared.limits.page;
        let words = || shared.device.dma_buffer(page).map(DmaWords::new);
        let buffers = ShadowBuffers { values: words()?, events: words()? };
        let config = DoorbellBufferConfig {
            shadow: buffers.values.iova(),
            event_index: buffers.events.iova(),
        };
        let limit = shared.options.admin_timeout;
        // Kept whatever comes: without an answer, the controller may use them yet.
        self.shadow = Some(Arc::new(buffers));
        let name = "Doorbell Buffer Config";
        let done = self.try_execute(shared, name, config.to_entry(), None, limit);
        if bring_up::tolerate_status(done)?.is_none() {
            self.shadow = None;
        }
        Ok(())
    }
}
