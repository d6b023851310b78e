//! Models of what two processes do at once, in all their interleavings and with all that the
//! memory order allows them to see. Each has a control: the same without what makes it right,
//! which has to fail.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::sync::Notify;
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;
use uniddrv_abi::Words;
use uniddrv_abi::queue::{
    self, COMPLETION, Poster, Reaper, SUBMISSION, Side, Submitter, Taker, announce_sleep, awake,
    must_wake,
};
use uniddrv_abi::ring::{Consumer, HostileIndex, Layout, Producer};

/// What is left out in a control.
#[derive(Clone, Copy, PartialEq)]
enum Lacking {
    Nothing,
    Fences,
    Order,
}

struct Memory {
    words: Vec<Option<AtomicU64>>,
    lacking: Lacking,
}

/// Words of a model; a clone is the same memory in another process.
#[derive(Clone)]
struct Shared(Arc<Memory>);

impl Shared {
    /// Memory of which only the words `used` exist: each one has its cost in a model.
    fn new(used: impl Fn(usize) -> bool, count: usize, lacking: Lacking) -> Self {
        let words = (0..count).map(|index| used(index).then(|| AtomicU64::new(0))).collect();
        Self(Arc::new(Memory { words, lacking }))
    }

    /// Memory of a client's queue.
    fn queue(depth: u32, lacking: Lacking) -> Self {
        let head = |index: usize| index.is_multiple_of(8) || index == 49;
        Self::new(|index| index >= 64 || head(index), queue::words_for(depth), lacking)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        self.0.words[index].as_ref().expect("a word that the model has not")
    }

    fn order(&self, order: Ordering) -> Ordering {
        if self.0.lacking == Lacking::Order { Ordering::Relaxed } else { order }
    }
}

impl Words for Shared {
    fn count(&self) -> usize {
        self.0.words.len()
    }
    fn load(&self, index: usize, order: Ordering) -> u64 {
        self.word(index).load(self.order(order))
    }
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.word(index).store(value, self.order(order));
    }
    fn fence(&self) {
        if self.0.lacking != Lacking::Fences {
            fence(Ordering::SeqCst);
        }
    }
}

fn model(run: impl Fn() + Sync + Send + 'static) {
    bounded(None, run);
}

fn bounded(preemptions: Option<usize>, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(run);
}

const TWO: Layout = Layout { tail: 0, head: 1, entries: 2, capacity: 2 };

fn entry(number: u64) -> [u64; 2] {
    [number, !number]
}

/// Three entries through a ring of two, from where the indices wrap.
fn transfer(lacking: Lacking) {
    const AT: u32 = u32::MAX;
    let shared = Shared::new(|_| true, 6, lacking);
    for index in [TWO.tail, TWO.head] {
        shared.store(index, AT.into(), Ordering::Relaxed);
    }
    let mut producer = Producer::<_, 2>::new(shared.clone(), TWO, AT);
    let mut consumer = Consumer::<_, 2>::new(shared, TWO, AT);
    let filling = thread::spawn(move || {
        for number in 0..3 {
            while producer.room(1).unwrap() == 0 {
                thread::yield_now();
            }
            producer.push(entry(number));
            producer.publish();
        }
    });
    for number in 0..3 {
        while consumer.available().unwrap() == 0 {
            thread::yield_now();
        }
        assert_eq!(consumer.pop(), Some(entry(number)), "torn or stale");
        consumer.publish();
    }
    assert_eq!(consumer.look(), Ok(0));
    filling.join().unwrap();
}

#[test]
fn entries_are_neither_torn_nor_stale() {
    model(|| transfer(Lacking::Nothing));
}

#[test]
#[should_panic(expected = "torn or stale")]
fn without_order_they_are() {
    model(|| transfer(Lacking::Order));
}

/// Two entries by one `publish`, and both positions back by one.
#[test]
fn a_batch_is_seen_whole_or_not_at_all() {
    model(|| {
        let shared = Shared::new(|_| true, 6, Lacking::Nothing);
        let mut producer = Producer::<_, 2>::new(shared.clone(), TWO, 0);
        let mut consumer = Consumer::<_, 2>::new(shared, TWO, 0);
        let filling = thread::spawn(move || {
            assert_eq!(producer.room(2), Ok(2));
            producer.push(entry(0));
            producer.push(entry(1));
            producer.publish();
            while producer.room(2).unwrap() == 0 {
                thread::yield_now();
            }
            assert_eq!(producer.room(2), Ok(2), "half a batch was given back");
            producer.push(entry(2));
            producer.publish();
        });
        while consumer.available().unwrap() == 0 {
            thread::yield_now();
        }
        assert_eq!(consumer.available(), Ok(2), "half a batch was seen");
        assert_eq!((consumer.pop(), consumer.pop()), (Some(entry(0)), Some(entry(1))));
        consumer.publish();
        while consumer.available().unwrap() == 0 {
            thread::yield_now();
        }
        assert_eq!(consumer.pop(), Some(entry(2)));
        filling.join().unwrap();
    });
}

/// The consumer goes on in another process, which knows the index that the ledger has; the one
/// before it died between taking and giving back.
#[test]
fn a_successor_gives_back_what_its_predecessor_took() {
    model(|| {
        let shared = Shared::new(|_| true, 6, Lacking::Nothing);
        let mut producer = Producer::<_, 2>::new(shared.clone(), TWO, 0);
        assert_eq!(producer.room(2), Ok(2));
        producer.push(entry(0));
        producer.push(entry(1));
        producer.publish();
        let filling = thread::spawn(move || {
            while producer.room(1).unwrap() == 0 {
                thread::yield_now();
            }
            producer.push(entry(2));
            producer.publish();
        });
        let mut predecessor = Consumer::<_, 2>::new(shared.clone(), TWO, 0);
        predecessor.look().unwrap();
        assert_eq!((predecessor.pop(), predecessor.pop()), (Some(entry(0)), Some(entry(1))));
        let mut successor = Consumer::<_, 2>::new(shared, TWO, predecessor.position());
        drop(predecessor);
        successor.publish();
        while successor.available().unwrap() == 0 {
            thread::yield_now();
        }
        assert_eq!(successor.pop(), Some(entry(2)));
        filling.join().unwrap();
    });
}

/// Sleeps as `side` until `look` finds something.
fn sleep_until<T>(
    shared: &Shared,
    side: Side,
    socket: &Notify,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    loop {
        if let Some(found) = look() {
            return found;
        }
        announce_sleep(shared, side);
        if let Some(found) = look() {
            awake(shared, side);
            return found;
        }
        socket.wait();
        awake(shared, side);
    }
}

fn wake(shared: &Shared, side: Side, socket: &Notify) {
    if must_wake(shared, side) {
        socket.notify();
    }
}

/// One side publishes an entry and asks; the other sleeps until there is one. A wake-up that was
/// lost is a deadlock to loom.
fn sleep_once(side: Side, lacking: Lacking) {
    let shared = Shared::queue(1, lacking);
    let socket = Arc::new(Notify::new());
    let (theirs, door) = (shared.clone(), Arc::clone(&socket));
    let publishing = thread::spawn(move || {
        match side {
            Side::Driver => {
                let mut ring = Submitter::new(theirs.clone(), queue::submission(1), 0);
                ring.push([7; SUBMISSION]);
                ring.publish();
            }
            Side::Client => {
                let mut ring = Poster::new(theirs.clone(), queue::completion(1), 0);
                ring.push([7; COMPLETION]);
                ring.publish();
            }
        }
        wake(&theirs, side, &door);
    });
    match side {
        Side::Driver => {
            let mut ring = Taker::new(shared.clone(), queue::submission(1), 0);
            let found = sleep_until(&shared, side, &socket, || {
                ring.available().unwrap();
                ring.pop()
            });
            assert_eq!(found, [7; SUBMISSION]);
        }
        Side::Client => {
            let mut ring = Reaper::new(shared.clone(), queue::completion(1), 0);
            let found = sleep_until(&shared, side, &socket, || {
                ring.available().unwrap();
                ring.pop()
            });
            assert_eq!(found, [7; COMPLETION]);
        }
    }
    publishing.join().unwrap();
}

#[test]
fn no_submission_is_slept_through() {
    model(|| sleep_once(Side::Driver, Lacking::Nothing));
}

#[test]
fn no_completion_is_slept_through() {
    model(|| sleep_once(Side::Client, Lacking::Nothing));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_fences_a_submission_is() {
    model(|| sleep_once(Side::Driver, Lacking::Fences));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_fences_a_completion_is() {
    model(|| sleep_once(Side::Client, Lacking::Fences));
}

/// Requests and answers with both sides asleep whenever they can be.
#[test]
fn requests_and_answers_pass_between_sleepers() {
    bounded(Some(3), || {
        let shared = Shared::queue(1, Lacking::Nothing);
        let sockets = Arc::new([Notify::new(), Notify::new()]);
        let (theirs, doors) = (shared.clone(), Arc::clone(&sockets));
        let driver = thread::spawn(move || {
            let mut taker = Taker::new(theirs.clone(), queue::submission(1), 0);
            let mut poster = Poster::new(theirs.clone(), queue::completion(1), 0);
            for _ in 0..2 {
                let request = sleep_until(&theirs, Side::Driver, &doors[0], || {
                    taker.available().unwrap();
                    taker.pop()
                });
                taker.publish();
                assert_eq!(poster.room(1), Ok(1));
                poster.push([request[3]; COMPLETION]);
                poster.publish();
                wake(&theirs, Side::Client, &doors[1]);
            }
        });
        let mut submitter = Submitter::new(shared.clone(), queue::submission(1), 0);
        let mut reaper = Reaper::new(shared.clone(), queue::completion(1), 0);
        for tag in 1..=2 {
            assert_eq!(submitter.room(1), Ok(1));
            submitter.push([tag; SUBMISSION]);
            submitter.publish();
            wake(&shared, Side::Driver, &sockets[0]);
            let completion = sleep_until(&shared, Side::Client, &sockets[1], || {
                reaper.available().unwrap();
                reaper.pop()
            });
            assert_eq!(completion, [tag; COMPLETION]);
            reaper.publish();
        }
        driver.join().unwrap();
    });
}

#[test]
fn the_end_is_not_slept_through() {
    model(|| {
        let shared = Shared::queue(1, Lacking::Nothing);
        let socket = Arc::new(Notify::new());
        let (theirs, door) = (shared.clone(), Arc::clone(&socket));
        let core = thread::spawn(move || {
            queue::close(&theirs, 5);
            wake(&theirs, Side::Client, &door);
        });
        let reason = sleep_until(&shared, Side::Client, &socket, || {
            Some(queue::closed(&shared)).filter(|reason| *reason != 0)
        });
        assert_eq!(reason, 5);
        core.join().unwrap();
    });
}

/// Both wait asleep for the other's part of a new epoch.
#[test]
fn a_new_epoch_is_not_slept_through() {
    model(|| {
        let shared = Shared::queue(1, Lacking::Nothing);
        let sockets = Arc::new([Notify::new(), Notify::new()]);
        let (theirs, doors) = (shared.clone(), Arc::clone(&sockets));
        let driver = thread::spawn(move || {
            queue::renew(&theirs);
            wake(&theirs, Side::Client, &doors[1]);
            sleep_until(&theirs, Side::Driver, &doors[0], || queue::renewed(&theirs).then_some(()));
        });
        let epoch = sleep_until(&shared, Side::Client, &sockets[1], || {
            Some(queue::epoch(&shared)).filter(|epoch| *epoch != 0)
        });
        queue::follow(&shared, epoch);
        wake(&shared, Side::Driver, &sockets[0]);
        driver.join().unwrap();
    });
}

/// A client that keeps what it has not seen completed, and follows its driver.
struct Client {
    shared: Shared,
    epoch: u32,
    submitter: Submitter<Shared>,
    reaper: Reaper<Shared>,
    open: Vec<u64>,
}

impl Client {
    const DEPTH: u32 = 2;

    fn new(shared: &Shared) -> Self {
        Self {
            shared: shared.clone(),
            epoch: 0,
            submitter: Submitter::new(shared.clone(), queue::submission(Self::DEPTH), 0),
            reaper: Reaper::new(shared.clone(), queue::completion(Self::DEPTH), 0),
            open: Vec::new(),
        }
    }

    fn submit(&mut self, tag: u64) -> Result<(), HostileIndex> {
        self.open.push(tag);
        assert!(self.submitter.room(1)? > 0);
        self.submitter.push([tag; SUBMISSION]);
        self.submitter.publish();
        Ok(())
    }

    fn reap(&mut self) -> Result<(), HostileIndex> {
        self.reaper.available()?;
        while let Some([tag, check]) = self.reaper.pop() {
            assert_eq!(tag, check, "torn or stale");
            let place = self.open.iter().position(|open| *open == tag);
            self.open.remove(place.expect("a completion that nobody waits for"));
        }
        self.reaper.publish();
        Ok(())
    }

    fn follow(&mut self) {
        let epoch = queue::epoch(&self.shared);
        if epoch == self.epoch {
            return;
        }
        queue::follow(&self.shared, epoch);
        let open = std::mem::take(&mut self.open);
        *self = Self { epoch, ..Self::new(&self.shared) };
        for tag in open {
            self.submit(tag).expect("a new ring");
        }
    }
}

/// A driver's pass over a queue from the given positions on. Returns the tags that it answered.
fn serve(
    shared: &Shared,
    positions: &mut (u32, u32),
    expected: usize,
) -> Result<Vec<u64>, HostileIndex> {
    let depth = Client::DEPTH;
    let mut taker = Taker::new(shared.clone(), queue::submission(depth), positions.0);
    let mut poster = Poster::new(shared.clone(), queue::completion(depth), positions.1);
    let mut answered = Vec::new();
    while answered.len() < expected {
        if taker.available()? == 0 {
            thread::yield_now();
        }
        while let Some([tag, second, third, fourth]) = taker.pop() {
            assert_eq!([second, third, fourth], [tag; 3], "torn or stale");
            assert!(poster.room(1)? > 0, "a client within its depth has room");
            poster.push([tag; COMPLETION]);
            answered.push(tag);
        }
        taker.publish();
        poster.publish();
    }
    *positions = (taker.position(), poster.position());
    Ok(answered)
}

/// A successor with a new ledger comes while the client goes on submitting. `posted` of the
/// client's first two requests were answered by its predecessor.
fn renewal(posted: usize, renewals: u32) {
    let shared = Shared::queue(Client::DEPTH, Lacking::Nothing);
    let mut client = Client::new(&shared);
    client.submit(1).unwrap();
    let mut before = (0, 0);
    serve(&shared, &mut before, posted).unwrap();
    let theirs = shared.clone();
    let driver = thread::spawn(move || {
        for _ in 0..renewals {
            // All but the last one die at once.
            queue::renew(&theirs);
        }
        while !queue::renewed(&theirs) {
            thread::yield_now();
        }
        // The second request is there in any case; the first if its answer was not seen.
        let answered = serve(&theirs, &mut (0, 0), 1).expect("the client is honest");
        if answered.contains(&2) {
            return answered;
        }
        let rest = serve(&theirs, &mut (1, 1), 1).expect("the client is honest");
        [answered, rest].concat()
    });
    client.submit(2).expect("the driver is honest");
    while !client.open.is_empty() {
        client.reap().expect("the driver is honest");
        client.follow();
        if !client.open.is_empty() {
            thread::yield_now();
        }
    }
    let answered = driver.join().unwrap();
    assert!(answered == [1, 2] || (posted == 1 && answered == [2]), "{answered:?}");
}

#[test]
fn nothing_is_lost_in_a_renewal() {
    bounded(Some(3), || renewal(0, 1));
}

#[test]
fn nothing_is_answered_twice_in_a_renewal() {
    model(|| renewal(1, 1));
}

#[test]
fn a_renewal_can_be_repeated() {
    bounded(Some(3), || renewal(1, 2));
}
