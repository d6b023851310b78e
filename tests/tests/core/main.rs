//! The core end to end, with real processes: the fake driver, clients, and itself being killed.

mod host;
mod life;

use uniddrv::block::{BlockQueue, Operation, Request};
use uniddrv::client::{BlockClient, ClientQueue};

use host::until;

/// The first block of a write that the fake driver takes for a command, plus its number.
const COMMAND: u64 = 0xc0de_0000;

/// A client with a queue.
struct User {
    client: BlockClient,
    queue: ClientQueue,
    next: u64,
}

impl User {
    fn new(client: BlockClient) -> Self {
        let queue = client.take_queue().unwrap();
        Self { client, queue, next: 0 }
    }

    /// Submits a write to `lba`.
    fn submit(&mut self, lba: u64) {
        let buffer = Some(self.client.buffer(4096).unwrap());
        let operation = Operation::Write { lba, fua: false };
        self.next += 1;
        let request = Request { operation, buffer, tag: self.next };
        self.queue.submit(request).map_err(|(error, _)| error).unwrap();
    }

    /// Waits until `count` requests have ended: how many with success.
    fn reap(&mut self, count: usize) -> usize {
        let (mut ended, mut good) = (0, 0);
        until(|| {
            ended += self.queue.poll(|completion| good += usize::from(completion.result.is_ok()));
            (ended >= count).then_some(())
        });
        assert_eq!(ended, count);
        good
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
