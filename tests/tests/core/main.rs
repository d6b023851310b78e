//! The core end to end, with real processes: the fake driver, clients, and itself being killed.

mod deaths;
mod host;
mod itself;
mod life;
mod limits;
mod orders;

use uniddrv::block::{BlockQueue, Completion, Operation, Request};
use uniddrv::client::{BlockClient, ClientQueue};

use host::until;

/// The first block of a write that the fake driver takes for a command, plus its number.
const COMMAND: u64 = 0xc0de_0000;

/// A client with a queue.
struct User {
    client: BlockClient,
    queue: ClientQueue,
    next: u64,
    ended: usize,
    good: usize,
}

impl User {
    fn new(client: BlockClient) -> Self {
        let queue = client.take_queue().unwrap();
        Self { client, queue, next: 0, ended: 0, good: 0 }
    }

    /// Submits a write to `lba`.
    fn submit(&mut self, lba: u64) {
        let buffer = Some(self.client.buffer(4096).unwrap());
        let operation = Operation::Write { lba, fua: false };
        self.next += 1;
        let request = Request { operation, buffer, tag: self.next };
        self.queue.submit(request).map_err(|(error, _)| error).unwrap();
        // It goes out with the next look.
        self.poll();
    }

    fn poll(&mut self) {
        let good = &mut self.good;
        let count = |completion: Completion| *good += usize::from(completion.result.is_ok());
        self.ended += self.queue.poll(count);
    }

    /// Waits until `count` requests have ended: how many with success.
    fn reap(&mut self, count: usize) -> usize {
        until(|| {
            self.poll();
            (self.ended >= count).then_some(())
        });
        assert_eq!(std::mem::take(&mut self.ended), count);
        std::mem::take(&mut self.good)
    }

    /// One request, from its submission to its end.
    fn once(&mut self) {
        self.submit(8);
        assert_eq!(self.reap(1), 1);
    }

    /// Has the driver do something.
    fn command(&mut self, number: u64) {
        self.submit(COMMAND + number);
    }
}
