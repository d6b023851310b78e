//! Admin commands. NVMe Base 2.0 §5.

use uniddrv_spec::nvme::BROADCAST;
use uniddrv_spec::nvme::admin::event::Event;
use uniddrv_spec::nvme::admin::queue::AbortResult;
use uniddrv_spec::nvme::admin::{
    Abort, Command, CreateIoCompletionQueue, CreateIoSubmissionQueue, FeatureId, FirmwareDownload,
    FormatNvm, GetFeatures, GetLogPage, LogId, SetFeatures,
};
use uniddrv_spec::nvme::entry::SubmissionEntry;
use uniddrv_spec::nvme::status::Status;
use zerocopy::IntoBytes;

use super::controller::Controller;
use super::data::Pointers;
use super::identify::Description;
use super::io;
use super::namespace::FORMATS;
use super::process::end;
use super::queues::{Completion, CompletionQueue, SubmissionQueue, Taken};
use super::shadow::Shadow;
use crate::host::{Access, Host};

impl Controller {
    /// Executes an admin command. Nothing where its completion comes later.
    pub(super) fn admin(
        &mut self,
        host: &mut Host,
        taken: Taken,
        entry: &SubmissionEntry,
    ) -> Option<Completion> {
        self.kept_alive();
        let command = Command::parse(entry);
        if command == Command::AsyncEventRequest {
            return self.events.request(taken);
        }
        let outcome = if entry.cdw0().fuse() == 0 {
            self.execute(host, entry, command)
        } else {
            Err(Status::INVALID_FIELD)
        };
        Some(end(taken, entry, outcome, &mut self.logs))
    }

    fn execute(
        &mut self,
        host: &mut Host,
        entry: &SubmissionEntry,
        command: Command,
    ) -> Result<u32, Status> {
        match command {
            Command::Identify(identify) => {
                let page = self.description().answer(&identify)?;
                self.give(host, entry, &page)
            }
            Command::GetLogPage(command) => self.get_log_page(host, entry, command),
            Command::SetFeatures(command) => self.set_features(host, entry, command),
            Command::GetFeatures(command) => self.get_features(host, entry, command),
            Command::CreateIoCompletionQueue(command) => self.create_cq(command),
            Command::CreateIoSubmissionQueue(command) => self.create_sq(command),
            Command::DeleteIoCompletionQueue(command) => self.delete_cq(command.qid),
            Command::DeleteIoSubmissionQueue(command) => self.delete_sq(command.qid),
            Command::Abort(command) => Ok(self.abort(host, command)),
            Command::FirmwareDownload(command) => self.firmware_download(host, entry, command),
            Command::FirmwareCommit(command) => self.firmware.commit(command).map(|()| 0),
            Command::FormatNvm(command) => self.format(command),
            // Every admin command has restarted the timer already.
            Command::KeepAlive => Ok(0),
            Command::DoorbellBufferConfig(command) if self.params.shadow_doorbells => {
                let page = self.pointers.page_size;
                let buffers = [command.shadow, command.event_index];
                if !buffers.iter().all(|address| address.is_multiple_of(page as u64)) {
                    return Err(Status::INVALID_FIELD);
                }
                self.shadow = Some(Shadow::new(command.shadow, command.event_index, page));
                Ok(0)
            }
            _ => Err(Status::INVALID_COMMAND_OPCODE),
        }
    }

    fn description(&self) -> Description<'_> {
        Description {
            serial: &self.params.serial,
            revision: self.firmware.revision(),
            max_transfer: self.params.max_transfer,
            entries: self.params.entries,
            sgl: self.params.sgl,
            shadow_doorbells: self.params.shadow_doorbells,
            namespaces: &self.namespaces,
        }
    }

    /// Admin commands on PCIe have PRPs. NVMe Base 2.0 §3.3.3.1.
    fn admin_pointers(&self) -> Pointers {
        Pointers { sgl: false, ..self.pointers }
    }

    /// Gives the client `data`.
    fn give(&mut self, host: &Host, entry: &SubmissionEntry, data: &[u8]) -> Result<u32, Status> {
        let pointers = self.admin_pointers();
        self.data.locate(entry, data.len(), Access::Write, &host.memory, pointers)?;
        self.data.scatter(&host.memory, data)?;
        Ok(0)
    }

    /// Takes `len` bytes from the client.
    fn take(
        &mut self,
        host: &Host,
        entry: &SubmissionEntry,
        len: usize,
    ) -> Result<Vec<u8>, Status> {
        let pointers = self.admin_pointers();
        self.data.locate(entry, len, Access::Read, &host.memory, pointers)?;
        let mut data = vec![0; len];
        self.data.gather(&host.memory, &mut data)?;
        Ok(data)
    }

    fn get_log_page(
        &mut self,
        host: &Host,
        entry: &SubmissionEntry,
        command: GetLogPage,
    ) -> Result<u32, Status> {
        if !command.lpo.is_multiple_of(4)
            || command.dword14.ot()
            || command.length() > u64::from(self.params.max_transfer)
        {
            return Err(Status::INVALID_FIELD);
        }
        let mut page = match command.lid {
            LogId::FIRMWARE_SLOT => self.firmware.log().as_bytes().to_vec(),
            log => {
                let shadow = self.params.shadow_doorbells;
                self.logs.page(log, shadow).ok_or(Status::INVALID_LOG_PAGE)?
            }
        };
        // There is no log of a namespace's own.
        if command.lid == LogId::SMART_HEALTH && !matches!(command.nsid, 0 | BROADCAST) {
            return Err(Status::INVALID_FIELD);
        }
        if command.lpo > page.len() as u64 {
            return Err(Status::INVALID_FIELD);
        }
        page.drain(..command.lpo as usize);
        page.resize(command.length() as usize, 0);
        self.give(host, entry, &page)?;
        if !command.rae {
            self.logs.read(command.lid);
            self.events.log_read(command.lid);
        }
        Ok(0)
    }

    fn set_features(
        &mut self,
        host: &Host,
        entry: &SubmissionEntry,
        command: SetFeatures,
    ) -> Result<u32, Status> {
        let data = match super::features::Features::data_len(command.fid) {
            0 => Vec::new(),
            len => self.take(host, entry, len)?,
        };
        let idle = self.sqs.iter().skip(1).flatten().next().is_none()
            && self.cqs.iter().skip(1).flatten().next().is_none();
        let result = self.features.set(&command, &data, idle)?;
        match command.fid {
            FeatureId::KEEP_ALIVE_TIMER => self.kept_alive(),
            FeatureId::TEMPERATURE_THRESHOLD | FeatureId::ASYNC_EVENT_CONFIGURATION => {
                self.logs.health.hot = self.features.hot();
                if self.logs.health.hot {
                    self.events.raise(Event::TEMPERATURE_THRESHOLD, self.features.events);
                }
            }
            _ => {}
        }
        Ok(result)
    }

    fn get_features(
        &mut self,
        host: &Host,
        entry: &SubmissionEntry,
        command: GetFeatures,
    ) -> Result<u32, Status> {
        let (result, data) = self.features.get(&command)?;
        if !data.is_empty() {
            self.give(host, entry, &data)?;
        }
        Ok(result)
    }

    /// Size in entries of a queue, where it may have that.
    fn check_size(&self, qsize: u16) -> Result<u32, Status> {
        let size = u32::from(qsize) + 1;
        if size < 2 || size > self.registers.cap().max_queue_entries() {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        Ok(size)
    }

    fn check_place(&self, contiguous: bool, address: u64) -> Result<(), Status> {
        // CAP.CQR: only contiguous queues.
        if !contiguous {
            return Err(Status::INVALID_FIELD);
        }
        if !address.is_multiple_of(self.pointers.page_size as u64) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        Ok(())
    }

    fn create_cq(&mut self, command: CreateIoCompletionQueue) -> Result<u32, Status> {
        let index = usize::from(command.qid);
        let exists = self.cqs.get(index).is_some_and(Option::is_some);
        check_queue(command.qid, self.features.queues.1, exists)?;
        let size = self.check_size(command.qsize)?;
        self.check_place(command.attributes.pc(), command.address)?;
        if self.registers.cc.iocqes() != 4 {
            return Err(Status::INVALID_FIELD);
        }
        let vector = command.attributes.iv();
        if vector >= self.vectors {
            return Err(Status::INVALID_INTERRUPT_VECTOR);
        }
        let vector = command.attributes.ien().then_some(vector);
        self.doorbells.clear_head(command.qid);
        let queue = CompletionQueue::new(command.address, size, vector);
        *self.cqs.get_mut(index).ok_or(Status::INVALID_QUEUE_IDENTIFIER)? = Some(Box::new(queue));
        Ok(0)
    }

    fn create_sq(&mut self, command: CreateIoSubmissionQueue) -> Result<u32, Status> {
        let index = usize::from(command.qid);
        let exists = self.sqs.get(index).is_some_and(Option::is_some);
        check_queue(command.qid, self.features.queues.0, exists)?;
        let cqid = command.attributes.cqid();
        if cqid > self.features.queues.1 {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        }
        let size = self.check_size(command.qsize)?;
        self.check_place(command.attributes.pc(), command.address)?;
        if self.registers.cc.iosqes() != 6 {
            return Err(Status::INVALID_FIELD);
        }
        match self.cqs.get_mut(usize::from(cqid)) {
            Some(Some(cq)) if cqid != 0 => cq.users += 1,
            _ => return Err(Status::COMPLETION_QUEUE_INVALID),
        }
        self.doorbells.clear_tail(command.qid);
        let queue = SubmissionQueue::new(command.address, size, cqid);
        *self.sqs.get_mut(index).ok_or(Status::INVALID_QUEUE_IDENTIFIER)? = Some(Box::new(queue));
        self.active.push(command.qid);
        Ok(0)
    }

    fn delete_cq(&mut self, qid: u16) -> Result<u32, Status> {
        match self.cqs.get_mut(usize::from(qid)) {
            Some(Some(cq)) if qid != 0 && cq.users > 0 => Err(Status::INVALID_QUEUE_DELETION),
            Some(place @ Some(_)) if qid != 0 => {
                *place = None;
                Ok(0)
            }
            _ => Err(Status::INVALID_QUEUE_IDENTIFIER),
        }
    }

    fn delete_sq(&mut self, qid: u16) -> Result<u32, Status> {
        let place = self.sqs.get_mut(usize::from(qid)).filter(|_| qid != 0);
        let Some(sq) = place.and_then(Option::take) else {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        };
        if let Some(Some(cq)) = self.cqs.get_mut(usize::from(sq.cqid)) {
            cq.users = cq.users.saturating_sub(1);
        }
        self.active.retain(|&active| active != qid);
        self.forget(qid);
        Ok(0)
    }

    /// Commands are executed as soon as they are taken, so what can be aborted is an event
    /// request, or what a fault plan has delayed or dropped.
    fn abort(&mut self, host: &mut Host, command: Abort) -> u32 {
        let event = if command.sqid == 0 { self.events.abort(command.cid) } else { None };
        let found = event.or_else(|| self.recall(command.sqid, command.cid));
        if let Some(completion) = found {
            self.post_aborted(host, completion);
        }
        AbortResult::default().with_not_aborted(found.is_none()).bits()
    }

    fn firmware_download(
        &mut self,
        host: &Host,
        entry: &SubmissionEntry,
        command: FirmwareDownload,
    ) -> Result<u32, Status> {
        if command.length() > u64::from(self.params.max_transfer) {
            return Err(Status::INVALID_FIELD);
        }
        let data = self.take(host, entry, command.length() as usize)?;
        self.firmware.download(command, &data).map(|()| 0)
    }

    fn format(&mut self, command: FormatNvm) -> Result<u32, Status> {
        const MOST_ERASE: u8 = 2;
        if command.erase.0 > MOST_ERASE {
            return Err(Status::INVALID_FIELD);
        }
        if usize::from(command.format) >= FORMATS.len() || command.protection != 0 {
            return Err(Status::INVALID_FORMAT);
        }
        if command.nsid != BROADCAST {
            io::active(&mut self.namespaces, command.nsid)?.reformat(command.format)?;
            return Ok(0);
        }
        for namespace in self.namespaces.iter_mut().filter(|namespace| namespace.attached) {
            namespace.reformat(command.format)?;
        }
        Ok(0)
    }
}

fn check_queue(qid: u16, granted: u16, exists: bool) -> Result<(), Status> {
    if qid == 0 || qid > granted || exists {
        return Err(Status::INVALID_QUEUE_IDENTIFIER);
    }
    Ok(())
}
