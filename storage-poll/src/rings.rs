//! A submission and a completion ring with their doorbells. Knows nothing of PCI, of requests,
//! or of what becomes of an entry.

use uniddrv::barrier::observe_device;
use uniddrv::{DmaRing, Progress};
use uniddrv_spec::nvme::entry::{CompletionDword3, CompletionEntry, SubmissionEntry};

use crate::doorbell::Doorbell;

/// The pair. NVMe Base 2.0 §3.3.1.
///
/// Who uses it never has more commands on their way than one less than the submission ring
/// holds, so it never overtakes its head: an entry whose command has completed was fetched.
pub(crate) struct Rings {
    submission: DmaRing<SubmissionEntry>,
    completion: DmaRing<CompletionEntry>,
    tail_doorbell: Doorbell,
    head_doorbell: Doorbell,
    tail: usize,
    /// Entries written since the tail doorbell was rung.
    unrung: bool,
    head: usize,
    phase: bool,
    /// Completions taken since the head doorbell was rung, and how many may be.
    unacknowledged: usize,
    acknowledge_after: usize,
}

impl Rings {
    /// Rings over cleared memory. At most `in_flight` commands will be on their way at once;
    /// what the completion ring holds beyond that is room to acknowledge late.
    pub(crate) fn new(
        submission: DmaRing<SubmissionEntry>,
        completion: DmaRing<CompletionEntry>,
        tail_doorbell: Doorbell,
        head_doorbell: Doorbell,
        in_flight: usize,
    ) -> Self {
        let acknowledge_after = completion.len().saturating_sub(1 + in_flight).max(1);
        Self {
            submission,
            completion,
            tail_doorbell,
            head_doorbell,
            tail: 0,
            unrung: false,
            head: 0,
            phase: true,
            unacknowledged: 0,
            acknowledge_after,
        }
    }

    pub(crate) fn submission_iova(&self) -> u64 {
        self.submission.iova()
    }

    pub(crate) fn completion_iova(&self) -> u64 {
        self.completion.iova()
    }

    pub(crate) fn submission_len(&self) -> usize {
        self.submission.len()
    }

    pub(crate) fn completion_len(&self) -> usize {
        self.completion.len()
    }

    pub(crate) fn doorbells(&mut self) -> (&mut Doorbell, &mut Doorbell) {
        (&mut self.tail_doorbell, &mut self.head_doorbell)
    }

    /// Appends an entry. The controller sees it after [`ring`](Self::ring).
    #[inline]
    pub(crate) fn push(&mut self, entry: SubmissionEntry) {
        self.submission.write(self.tail, entry);
        self.tail += 1;
        if self.tail == self.submission.len() {
            self.tail = 0;
        }
        self.unrung = true;
    }

    /// Rings the tail doorbell for all entries appended since it last was.
    #[inline]
    pub(crate) fn ring(&mut self) -> Progress {
        if !self.unrung {
            return Progress::Idle;
        }
        self.unrung = false;
        self.tail_doorbell.ring(self.tail as u16);
        Progress::Busy
    }

    /// As [`ring`](Self::ring), by the register whatever a shadow doorbell says.
    pub(crate) fn ring_register(&mut self) {
        self.unrung = false;
        self.tail_doorbell.ring_register(self.tail as u16);
    }

    /// Whether a completion waits to be taken.
    #[inline]
    pub(crate) fn pending(&self) -> bool {
        self.phase_at_head() == self.phase
    }

    #[inline]
    fn phase_at_head(&self) -> bool {
        let word = self.completion.word(self.head, CompletionEntry::DWORD3_OFFSET);
        CompletionDword3::from_bits(word).phase()
    }

    /// Takes the next completion, if there is one.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<CompletionEntry> {
        if !self.pending() {
            return None;
        }
        observe_device();
        let entry = self.completion.read(self.head);
        self.head += 1;
        if self.head == self.completion.len() {
            self.head = 0;
            self.phase = !self.phase;
        }
        self.unacknowledged += 1;
        Some(entry)
    }

    /// Rings the head doorbell once enough completions were taken: the controller has room for
    /// all commands on their way until then.
    #[inline]
    pub(crate) fn acknowledge(&mut self) {
        if self.unacknowledged >= self.acknowledge_after {
            self.acknowledge_now();
        }
    }

    /// Rings the head doorbell if any completion was taken: before waiting for an interrupt.
    pub(crate) fn acknowledge_now(&mut self) {
        if self.unacknowledged > 0 {
            self.unacknowledged = 0;
            self.head_doorbell.ring(self.head as u16);
        }
    }

    /// As [`acknowledge_now`](Self::acknowledge_now), by the register: the admin queue's way.
    pub(crate) fn acknowledge_register(&mut self) {
        if self.unacknowledged > 0 {
            self.unacknowledged = 0;
            self.head_doorbell.ring_register(self.head as u16);
        }
    }

    /// Back to the state after creation. The controller must have stopped using the rings.
    pub(crate) fn restart(&mut self) {
        self.submission.clear();
        self.completion.clear();
        (self.tail, self.head, self.phase) = (0, 0, true);
        (self.unrung, self.unacknowledged) = (false, 0);
    }
}
