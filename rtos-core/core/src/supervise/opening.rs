//! Clients' names: opening, closing, revoking.

use std::time::Duration;

use uniddrv_abi::message::{FromCore, Refusal, Rights, ToDriver};

use super::{State, Supervisor, Then};
use crate::attachment::{Attachment, Made, Request, Stage};
use crate::context::{Context, Effect, Event};
use crate::device::Token;
use crate::ids::ClientId;

/// How long a driver may take to attach a client.
pub(super) const ATTACH: Duration = Duration::from_secs(5);

impl Supervisor {
    /// A client opens a target: answered later, unless it is refused at once.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) fn open(
        &mut self,
        handle: u32,
        request: Request,
        cx: &mut Context<'_>,
    ) -> Result<(), (Refusal, String)> {
        let known = self.targets.iter().find(|target| target.path == request.path);
        // What a device has is not known before it runs.
        let unknown = known.is_none() && !self.is_settled();
        if unknown || !matches!(self.state, State::Serving | State::Away) {
            return Err((Refusal::NotReady, self.why_not()));
        }
        let Some(target) = known else {
            let text = format!("{} has no `{}`", self.label(), request.path);
            return Err((Refusal::NotFound, text));
        };
        let target = target.id;
        let Some(numbers) = self.numbers.take(request.queues) else {
            let text = format!("{} has no {} queues left", self.label(), request.queues);
            return Err((Refusal::Limit, text));
        };
        let (arena, len) = (request.arena.clone(), request.arena_len);
        let (queues, depth) = (request.queues, request.depth);
        self.attachments.insert(handle, Attachment::new(handle, request, target, numbers));
        let (mailbox, device) = (cx.shared.mailbox.clone(), self.id);
        cx.shared.maker.run(move || {
            let result = Made::new(arena, len, queues, depth);
            mailbox.post(Event::Made { device, handle, result });
        });
        Ok(())
    }

    /// Why nothing can be opened.
    pub(crate) fn why_not(&self) -> String {
        match &self.state {
            State::Stopped(text) | State::Ending { then: Then::Stop(text), .. } => {
                format!("{} is stopped: {text}", self.label())
            }
            State::Ending { .. } | State::Gone => format!("{} is being taken away", self.label()),
            _ => format!("{} is starting; try again", self.label()),
        }
    }

    /// The memory for an attachment is there, or cannot be had.
    pub(crate) fn made(&mut self, handle: u32, result: Result<Made, String>, cx: &mut Context<'_>) {
        let Some(attachment) = self.attachments.get_mut(&handle) else { return };
        match result {
            Ok(made) => {
                let client = attachment.request.client;
                cx.effects.push(Effect::Arena(client, made.arena.clone()));
                attachment.queues = made.queues;
                attachment.arena = Some(made.arena.clone());
                if attachment.abandoned {
                    self.forget(handle, cx);
                } else {
                    attachment.stage = Stage::Mapping;
                    self.worker.map(made.arena, Token(handle.into()));
                }
            }
            Err(text) => self.refuse_opening(handle, Refusal::Limit, text, cx),
        }
        self.advance(cx);
    }

    /// The device does not reach an attachment's arena.
    pub(super) fn not_mapped(&mut self, handle: u32, text: String, cx: &mut Context<'_>) {
        self.refuse_opening(handle, Refusal::Failed, text, cx);
    }

    fn refuse_opening(&mut self, handle: u32, code: Refusal, text: String, cx: &mut Context<'_>) {
        let Some(attachment) = self.attachments.get_mut(&handle) else { return };
        if std::mem::take(&mut attachment.awaited) {
            let client = attachment.request.client;
            cx.effects.push(Effect::Answer(client, FromCore::Refused { code, text }));
        }
        self.forget(handle, cx);
    }

    /// The device reaches an attachment's arena: the driver is told of it.
    pub(super) fn mapped(&mut self, handle: u32, iova: u64, cx: &mut Context<'_>) {
        let Some(attachment) = self.attachments.get_mut(&handle) else { return };
        if attachment.stage != Stage::Mapping {
            return;
        }
        attachment.iova = iova;
        if attachment.abandoned {
            return self.unmap(handle);
        }
        let Some(memory) = &self.ledger else { return self.unmap(handle) };
        // No driver has these queues: they were given back only when none did.
        for &number in &attachment.numbers {
            memory.ledger.clear_queue(number);
        }
        if let Err(error) = attachment.watch(cx.registry) {
            let text = format!("cannot watch its queues: {error}");
            if std::mem::take(&mut attachment.awaited) {
                let message = FromCore::Refused { code: Refusal::Limit, text };
                cx.effects.push(Effect::Answer(attachment.request.client, message));
            }
            return self.unmap(handle);
        }
        attachment.stage = Stage::Attaching;
        attachment.deadline = None;
        if let Some(active) = &mut self.active {
            attachment.attach_at(active, true);
        }
        if let Some(successor) = &mut self.successor {
            attachment.attach_at(successor, false);
        }
        self.call_attention();
        if self.active.as_ref().is_some_and(crate::driver::Process::is_up) {
            attachment_deadline(&mut self.attachments, handle, cx.now + ATTACH);
        }
        self.advance(cx);
    }

    /// An attachment is there: its client gets it.
    pub(super) fn opened(&mut self, handle: u32, cx: &mut Context<'_>) {
        let Some(attachment) = self.attachments.get_mut(&handle) else { return };
        let target = self.targets.iter().find(|target| target.path == attachment.request.path);
        let (Some(target), Some(arena)) = (target, attachment.arena.clone()) else {
            let text = format!("`{}` is there no longer", attachment.request.path);
            return self.take_away(handle, &text, cx);
        };
        let request = &attachment.request;
        let limit = request.limits.in_flight;
        let most = u32::from(self.config.depth.get());
        let message = FromCore::Opened {
            handle,
            target: target.clone(),
            arena: arena.len() as u64,
            depth: request.depth,
            in_flight: if limit == 0 { most } else { limit.min(most) },
            queues: request.queues,
        };
        let client = request.client;
        let (name, path) = (self.name.as_ref().map(ToString::to_string), &request.path);
        let write = request.rights == Rights::Write;
        tracing::info!(name, path, %client, write, queues = request.queues, "opened");
        attachment.awaited = false;
        let (memories, ends) = attachment.for_client();
        cx.effects.push(Effect::Opened { client, message, arena, memories, ends });
    }

    /// A client closes what it has open: answered when that is done. Whether it has it.
    pub(crate) fn close(&mut self, handle: u32, client: ClientId, cx: &mut Context<'_>) -> bool {
        let Some(attachment) = self.attachments.get_mut(&handle) else { return false };
        if attachment.request.client != client || attachment.stage != Stage::Open {
            return false;
        }
        attachment.awaited = true;
        self.detach(handle, cx);
        true
    }

    /// Takes an attachment away from its client, who is told why.
    pub(super) fn take_away(&mut self, handle: u32, text: &str, cx: &mut Context<'_>) {
        let Some(attachment) = self.attachments.get_mut(&handle) else { return };
        let client = attachment.request.client;
        match attachment.stage {
            Stage::Open => {
                attachment.close();
                let text = text.to_owned();
                cx.effects.push(Effect::Taken { client, handle, text });
            }
            Stage::Making | Stage::Mapping | Stage::Attaching => {
                if std::mem::take(&mut attachment.awaited) {
                    let message =
                        FromCore::Refused { code: Refusal::NotReady, text: text.to_owned() };
                    cx.effects.push(Effect::Answer(client, message));
                }
            }
            Stage::Detaching | Stage::Unmapping => {}
        }
        self.detach(handle, cx);
    }

    /// Ends an attachment, as far as it has come.
    fn detach(&mut self, handle: u32, cx: &mut Context<'_>) {
        let limit = self.stall_limit();
        let Some(attachment) = self.attachments.get_mut(&handle) else { return };
        match attachment.stage {
            Stage::Making | Stage::Mapping => attachment.abandoned = true,
            Stage::Attaching | Stage::Open => {
                attachment.stage = Stage::Detaching;
                attachment.close();
                attachment.deadline = None;
                if let Some(active) = &mut self.active
                    && active.tell(&ToDriver::Detach { client: handle }, &[])
                {
                    attachment.told = Some(active.id);
                    attachment.deadline = active.is_up().then(|| cx.now + limit);
                }
                self.call_attention();
            }
            Stage::Detaching | Stage::Unmapping => {}
        }
    }

    /// No driver has an attachment any more.
    pub(super) fn let_go(&mut self, handle: u32, cx: &mut Context<'_>) {
        let Some(attachment) = self.attachments.get(&handle) else { return };
        if let Some(memory) = &self.ledger {
            self.totals.add(&attachment.totals(&memory.ledger));
            // What the queue counted is counted now.
            for &number in &attachment.numbers {
                memory.ledger.clear_queue(number);
            }
        }
        if let Some(successor) = &mut self.successor {
            successor.tell(&ToDriver::Detach { client: handle }, &[]);
        }
        self.unmap(handle);
        self.advance(cx);
    }

    pub(super) fn unmap(&mut self, handle: u32) {
        let Some(attachment) = self.attachments.get_mut(&handle) else { return };
        attachment.stage = Stage::Unmapping;
        attachment.deadline = None;
        self.worker.unmap(Token(handle.into()));
    }

    /// An attachment's arena is the device's no longer.
    pub(super) fn unmapped(&mut self, handle: u32, kept: Option<String>, cx: &mut Context<'_>) {
        if let Some(text) = kept {
            tracing::warn!(name = self.label(), "an arena is kept for now: {text}");
        }
        if let Some(attachment) = self.attachments.get(&handle) {
            if attachment.awaited {
                let client = attachment.request.client;
                cx.effects.push(Effect::Answer(client, FromCore::Done));
            }
            self.forget(handle, cx);
        }
        self.advance(cx);
    }

    /// Forgets an attachment. Unmapping its memory may take a while.
    fn forget(&mut self, handle: u32, cx: &mut Context<'_>) {
        if let Some(mut attachment) = self.attachments.remove(&handle) {
            attachment.unwatch(cx.registry);
            self.numbers.give_back(&attachment.numbers);
            cx.shared.maker.run(move || drop(attachment));
        }
    }

    /// A client is gone: what it has open ends, and it gets no answers.
    pub(crate) fn client_gone(&mut self, client: ClientId, cx: &mut Context<'_>) {
        let mine = self.attachments.values_mut().filter(|one| one.request.client == client);
        let mut handles = Vec::new();
        for attachment in mine {
            attachment.awaited = false;
            handles.push(attachment.handle);
        }
        for handle in handles {
            self.detach(handle, cx);
        }
        self.waiting.retain(|&one| one != client);
        if let Some(hand_over) = &mut self.hand_over {
            hand_over.client.take_if(|one| *one == client);
        }
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.client.take_if(|one| *one == client);
        }
        self.advance(cx);
    }

    /// Takes `path` (all where it is empty) away from `client` (all where there is none). From how
    /// many.
    pub(crate) fn revoke(
        &mut self,
        path: &str,
        client: Option<ClientId>,
        cx: &mut Context<'_>,
    ) -> usize {
        let meant = |one: &Attachment| {
            (path.is_empty() || one.request.path == path)
                && client.is_none_or(|client| client == one.request.client)
                && !matches!(one.stage, Stage::Detaching | Stage::Unmapping)
        };
        let handles: Vec<u32> =
            self.attachments.values().filter(|one| meant(one)).map(|one| one.handle).collect();
        for &handle in &handles {
            self.take_away(handle, "it was revoked", cx);
        }
        self.advance(cx);
        handles.len()
    }
}

fn attachment_deadline(
    attachments: &mut crate::attachment::Attachments,
    handle: u32,
    deadline: std::time::Instant,
) {
    if let Some(attachment) = attachments.get_mut(&handle) {
        attachment.deadline = Some(deadline);
    }
}
