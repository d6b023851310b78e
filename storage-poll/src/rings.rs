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

    /// The places that come next: of the submission ring, and of the completion ring with its phase.
    pub(crate) fn position(&self) -> (usize, usize, bool) {
        (self.tail, self.head, self.phase)
    }

    /// Goes on where somebody else has stopped. How far he acknowledged is not known; the next
    /// completion is at once.
    pub(crate) fn resume(&mut self, tail: usize, head: usize, phase: bool) {
        (self.tail, self.head, self.phase) = (tail, head, phase);
        (self.unrung, self.unacknowledged) = (false, 0);
    }

    /// The next completion is acknowledged at once.
    pub(crate) fn acknowledge_soon(&mut self) {
        self.unacknowledged = self.acknowledge_after;
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

    /// What a controller does, on plain memory.
    #[cfg(test)]
    pub(crate) fn write_completion(&self, place: usize, entry: CompletionEntry) {
        self.completion.write(place, entry);
    }

    /// Back to the state after creation. The controller must have stopped using the rings.
    pub(crate) fn restart(&mut self) {
        self.submission.clear();
        self.completion.clear();
        (self.tail, self.head, self.phase) = (0, 0, true);
        (self.unrung, self.unacknowledged) = (false, 0);
    }
}

#[cfg(test)]
mod tests {
    use uniddrv_spec::nvme::entry::CompletionDword2;

    use super::*;
    use crate::testing::Memory;

    const TAIL: u64 = 8;
    const HEAD: u64 = 12;

    /// The controller's side of the rings: takes commands in order and completes them.
    struct Controller {
        head: usize,
        tail: usize,
        phase: bool,
    }

    impl Controller {
        fn new() -> Self {
            Self { head: 0, tail: 0, phase: true }
        }

        fn post(&mut self, rings: &Rings, cid: u16) {
            let entry = CompletionEntry::new(
                u64::from(cid),
                CompletionDword2::default(),
                CompletionDword3::default().with_cid(cid).with_phase(self.phase),
            );
            rings.completion.write(self.tail, entry);
            self.tail = (self.tail + 1) % rings.completion.len();
            self.phase ^= self.tail == 0;
        }

        /// Completes all commands up to where the doorbell says.
        fn run(&mut self, rings: &Rings, doorbell: u32) {
            while self.head != doorbell as usize {
                self.post(rings, rings.submission.read(self.head).cid());
                self.head = (self.head + 1) % rings.submission.len();
            }
        }
    }

    fn rings(memory: &Memory, submission: usize, completion: usize, in_flight: usize) -> Rings {
        Rings::new(
            memory.ring(submission),
            memory.ring(completion),
            Doorbell::new(memory.register(TAIL as usize)),
            Doorbell::new(memory.register(HEAD as usize)),
            in_flight,
        )
    }

    fn command(cid: u16) -> SubmissionEntry {
        SubmissionEntry::new(2).with_cid(cid)
    }

    #[test]
    fn entries_come_in_order_over_many_wraps_of_rings_of_any_length() {
        for (submission, completion) in [(2, 2), (2, 3), (3, 3), (4, 7), (5, 9), (128, 255)] {
            let memory = Memory::new();
            let depth = submission - 1;
            let mut rings = rings(&memory, submission, completion, depth);
            let mut controller = Controller::new();
            let (mut sent, mut taken) = (0u32, 0u32);
            let mut acknowledged = 0;
            for round in 0..5 * completion {
                let batch = round % depth + 1;
                for _ in 0..batch {
                    rings.push(command(sent as u16));
                    sent += 1;
                }
                assert!(!rings.pending() && rings.pop().is_none(), "nothing was completed yet");
                assert_eq!(rings.ring(), Progress::Busy);
                let tail = sent % submission as u32;
                assert_eq!(memory.written(), [(TAIL, tail)], "a doorbell a batch");
                assert_eq!(rings.ring(), Progress::Idle);
                controller.run(&rings, tail);
                while let Some(entry) = rings.pop() {
                    assert_eq!(entry.cid(), taken as u16);
                    taken += 1;
                    acknowledged += 1;
                }
                assert_eq!(taken, sent);
                rings.acknowledge();
                let room = completion - 1 - depth;
                let head = taken % completion as u32;
                if acknowledged >= room.max(1) {
                    assert_eq!(memory.written(), [(HEAD, head)]);
                    acknowledged = 0;
                } else {
                    assert_eq!(memory.written(), []);
                }
            }
        }
    }

    #[test]
    fn old_entries_are_not_taken_again() {
        let memory = Memory::new();
        let mut rings = rings(&memory, 4, 4, 3);
        let mut controller = Controller::new();
        // Two laps: what stands in the ring has either phase, and each entry comes once.
        for cid in 0..8 {
            assert!(rings.pop().is_none(), "{cid}");
            controller.post(&rings, cid);
            assert!(rings.pending());
            assert_eq!(rings.pop().unwrap().cid(), cid);
            assert!(!rings.pending());
        }
        // An entry of the old phase in the place of the next one is none.
        controller.phase ^= true;
        controller.post(&rings, 8);
        assert!(rings.pop().is_none());
    }

    #[test]
    fn a_full_ring_is_taken_whole() {
        let memory = Memory::new();
        let depth = 7;
        let mut rings = rings(&memory, depth + 1, depth + 1, depth);
        let mut controller = Controller::new();
        for lap in 0..20u16 {
            for cid in 0..depth as u16 {
                rings.push(command(lap << 8 | cid));
            }
            rings.ring();
            let tail = memory.written()[0].1;
            controller.run(&rings, tail);
            let cids: Vec<_> =
                std::iter::from_fn(|| rings.pop()).map(|entry| entry.cid()).collect();
            assert_eq!(cids, (0..depth as u16).map(|cid| lap << 8 | cid).collect::<Vec<_>>());
            rings.acknowledge();
            assert_eq!(memory.written().len(), 1, "no room is left: acknowledged at once");
        }
    }

    #[test]
    fn waiting_and_the_admin_queue_acknowledge_at_once() {
        let memory = Memory::new();
        let mut rings = rings(&memory, 9, 17, 8);
        let mut controller = Controller::new();
        controller.post(&rings, 1);
        assert!(rings.pop().is_some());
        rings.acknowledge();
        assert_eq!(memory.written(), []);
        rings.acknowledge_now();
        assert_eq!(memory.written(), [(HEAD, 1)]);
        rings.acknowledge_register();
        rings.acknowledge_now();
        assert_eq!(memory.written(), [], "the same value is not written twice");
    }

    #[test]
    fn a_restart_forgets_everything() {
        let memory = Memory::new();
        let mut rings = rings(&memory, 3, 3, 2);
        let mut controller = Controller::new();
        for cid in 0..4 {
            controller.post(&rings, cid);
            rings.pop().unwrap();
            rings.push(command(cid));
        }
        controller.post(&rings, 4);
        rings.restart();
        assert!(rings.pop().is_none());
        assert_eq!(rings.ring(), Progress::Idle);
        rings.acknowledge_now();
        assert_eq!(memory.written(), []);
        Controller::new().post(&rings, 9);
        assert_eq!(rings.pop().unwrap().cid(), 9);
    }
}
