//! Asynchronous events. NVMe Base 2.0 §5.2.

use uniddrv_spec::nvme::admin::event::Event;
use uniddrv_spec::nvme::admin::features::AsyncEvents;
use uniddrv_spec::nvme::admin::{AsyncEvent, LogId};
use uniddrv_spec::nvme::status::Status;

use super::queues::{Completion, Taken};

/// The most Asynchronous Event Requests at once (AERL + 1).
pub(super) const REQUESTS: usize = 4;

/// The kinds of events that are told apart here: each is pending at most once.
const KINDS: [(Event, LogId); 5] = [
    (Event::INVALID_DOORBELL_REGISTER, LogId::ERROR_INFORMATION),
    (Event::INVALID_DOORBELL_VALUE, LogId::ERROR_INFORMATION),
    (Event::PERSISTENT_INTERNAL_ERROR, LogId::ERROR_INFORMATION),
    (Event::TEMPERATURE_THRESHOLD, LogId::SMART_HEALTH),
    (Event::NAMESPACE_ATTRIBUTE_CHANGED, LogId::CHANGED_NAMESPACES),
];

/// The OAES field: the notices that may be sent.
pub(super) fn supported() -> AsyncEvents {
    AsyncEvents::default().with_namespace_attribute(true)
}

/// Requests that wait for an event, and events that wait for a request.
#[derive(Debug, Default)]
pub(super) struct Events {
    requests: Vec<Taken>,
    pending: [bool; KINDS.len()],
    // By type: no further event of it until its log page is read.
    masked: [bool; 8],
}

impl Events {
    /// Takes a request. Its completion where there are too many.
    pub(super) fn request(&mut self, taken: Taken) -> Option<Completion> {
        if self.requests.len() >= REQUESTS {
            return Some(taken.complete(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED, 0));
        }
        self.requests.push(taken);
        None
    }

    /// Notes an event that the client has asked to be told of by `enabled`; events of errors
    /// are always told.
    pub(super) fn raise(&mut self, event: Event, enabled: AsyncEvents) {
        let wanted = match event {
            Event::TEMPERATURE_THRESHOLD => enabled.smart() & 0b10 != 0,
            Event::NAMESPACE_ATTRIBUTE_CHANGED => enabled.namespace_attribute(),
            _ => true,
        };
        if !wanted || self.masked.get(usize::from(event.kind)).copied().unwrap_or(true) {
            return;
        }
        for ((known, _), pending) in KINDS.iter().zip(&mut self.pending) {
            *pending |= *known == event;
        }
    }

    /// The log page was read: events of the types that it clears may come again.
    pub(super) fn log_read(&mut self, log: LogId) {
        for ((event, cleared_by), pending) in KINDS.iter().zip(&mut self.pending) {
            if *cleared_by == log {
                *pending = false;
                if let Some(masked) = self.masked.get_mut(usize::from(event.kind)) {
                    *masked = false;
                }
            }
        }
    }

    /// Whether [`deliver`](Self::deliver) has something.
    #[inline]
    pub(super) fn deliverable(&self) -> bool {
        !self.requests.is_empty() && self.pending.contains(&true)
    }

    /// The completion of a request for an event, where both are there.
    pub(super) fn deliver(&mut self) -> Option<Completion> {
        if self.requests.is_empty() {
            return None;
        }
        let (_, &(event, log)) =
            KINDS.iter().enumerate().find(|(index, _)| self.pending.get(*index) == Some(&true))?;
        if let Some(masked) = self.masked.get_mut(usize::from(event.kind)) {
            *masked = true;
        }
        // What else of this type is pending is told by the same log page.
        for ((other, _), pending) in KINDS.iter().zip(&mut self.pending) {
            *pending &= other.kind != event.kind;
        }
        let request = self.requests.remove(0);
        Some(request.complete(Status::SUCCESS, AsyncEvent::new(event, log).bits().into()))
    }

    /// Ends the request `cid`, where it waits.
    pub(super) fn abort(&mut self, cid: u16) -> Option<Completion> {
        let place = self.requests.iter().position(|request| request.cid == cid)?;
        Some(self.requests.remove(place).complete(Status::ABORT_REQUESTED, 0))
    }

    /// As after a reset: requests end without a completion.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.requests.drain(..).for_each(Taken::abandon);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(completion: Completion) -> (Event, LogId) {
        let event = AsyncEvent::from_bits(completion.result as u32);
        (event.event(), event.log())
    }

    #[test]
    fn an_event_waits_for_a_request_and_is_told_once() {
        let mut events = Events::default();
        let all = AsyncEvents::from_bits(u32::MAX);
        events.raise(Event::INVALID_DOORBELL_VALUE, all);
        assert!(!events.deliverable() && events.deliver().is_none());
        assert!(events.request(Taken::new(0, 1)).is_none());
        let first = event(events.deliver().unwrap());
        assert_eq!(first, (Event::INVALID_DOORBELL_VALUE, LogId::ERROR_INFORMATION));
        assert!(events.request(Taken::new(0, 2)).is_none());
        events.raise(Event::INVALID_DOORBELL_REGISTER, all);
        assert!(events.deliver().is_none());
        events.raise(Event::NAMESPACE_ATTRIBUTE_CHANGED, all);
        assert_eq!(event(events.deliver().unwrap()).0, Event::NAMESPACE_ATTRIBUTE_CHANGED);
        events.log_read(LogId::ERROR_INFORMATION);
        events.raise(Event::INVALID_DOORBELL_REGISTER, all);
        assert!(events.request(Taken::new(0, 3)).is_none());
        assert_eq!(event(events.deliver().unwrap()).0, Event::INVALID_DOORBELL_REGISTER);
    }

    #[test]
    fn unwanted_notices_are_not_told() {
        let mut events = Events::default();
        events.raise(Event::NAMESPACE_ATTRIBUTE_CHANGED, AsyncEvents::default());
        events.raise(Event::TEMPERATURE_THRESHOLD, AsyncEvents::default().with_smart(1));
        assert!(events.request(Taken::new(0, 1)).is_none());
        assert!(events.deliver().is_none());
        events.reset();
    }

    #[test]
    fn requests_are_limited_and_can_be_aborted() {
        let mut events = Events::default();
        for cid in 0..REQUESTS as u16 {
            assert!(events.request(Taken::new(0, cid)).is_none());
        }
        let refused = events.request(Taken::new(0, 9)).unwrap();
        assert_eq!(refused.status, Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED);
        assert!(events.abort(9).is_none());
        assert_eq!(events.abort(2).unwrap().status, Status::ABORT_REQUESTED);
        assert!(events.abort(2).is_none());
        events.reset();
    }
}
