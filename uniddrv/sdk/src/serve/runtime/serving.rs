//! The loop of a driver that serves: it polls the driver, and looks at the control socket only
//! when it is told to.

use std::mem;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use uniddrv_abi::Words;
use uniddrv_abi::block::Outcome;
use uniddrv_abi::ledger::Phase;
use uniddrv_abi::message::{FromDriver, Settings, ToDriver};

use super::{Attached, Core, End};
use crate::clock;
use crate::driver::Progress;
use crate::serve::{BlockDriver, DriverLedger, Table};

/// Passes between two questions whether the device is there.
const GONE_EVERY: u32 = 1024;
/// How often the control socket is looked at unasked while there is nothing to do.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long it polls on at least before it sleeps. The core is told of each waking, and may be told
/// of so many: a client could wake it without end.
const LEAST_SPIN: Duration = Duration::from_micros(100);
/// How long what is on its way may take once it is to end, beyond the device's own timeout.
const GRACE: Duration = Duration::from_secs(1);

/// A driver that serves.
pub(super) struct Serving<'a, D: BlockDriver> {
    core: &'a mut Core,
    ledger: DriverLedger,
    table: Table<D::Steps>,
    driver: D,
    settings: Settings,
    /// The calls for attention that were answered.
    seen: u64,
    /// Clients that the core waits to be rid of.
    detaching: Vec<u32>,
}

/// What a message asks of the loop.
enum Order {
    /// Leave everything as it is, and end.
    Quiesce,
    /// Shut the device down, and end.
    Stop,
}

impl<'a, D: BlockDriver> Serving<'a, D> {
    pub(super) fn new(
        core: &'a mut Core,
        ledger: DriverLedger,
        table: Table<D::Steps>,
        driver: D,
        settings: Settings,
    ) -> Self {
        Self { core, ledger, table, driver, settings, seen: 0, detaching: Vec::new() }
    }

    /// Serves until there is an end to it.
    pub(super) fn run(mut self) -> End {
        let ended = self.serve();
        match ended {
            Ok(Order::Stop) => self.stop(),
            Ok(Order::Quiesce) => {
                self.ledger.set_phase(Phase::Quiesced);
                self.core.tell_last(FromDriver::Quiesced);
                self.leave(End::Ordered)
            }
            Err(end) => self.leave(end),
        }
    }

    /// Ends without running what would stop the device: it is the successor's, who needs its
    /// queues as they are.
    fn leave(self, end: End) -> End {
        mem::forget(self.driver);
        mem::forget(self.table);
        end
    }

    fn serve(&mut self) -> Result<Order, End> {
        let spin = Duration::from_micros(self.settings.spin_us).max(LEAST_SPIN);
        let spin = clock::to_ticks(spin);
        let look = clock::to_ticks(LOOK_EVERY);
        let mut passes: u32 = 0;
        let mut busy = clock::ticks();
        let mut looked = busy;
        // What came before this process had its turn to listen.
        if let Some(order) = self.listen()? {
            return Ok(order);
        }
        loop {
            let now = clock::ticks();
            self.table.set_now(now);
            let progress = self.driver.poll(&mut self.table);
            self.ledger.beat();
            if self.ledger.attention() != self.seen
                && let Some(order) = self.listen()?
            {
                return Ok(order);
            }
            if self.table.has_news() || self.core.has_more() {
                self.tell_news();
            }
            passes = passes.wrapping_add(1);
            if passes.is_multiple_of(GONE_EVERY) {
                self.still_there()?;
            }
            if progress == Progress::Busy {
                busy = now;
                continue;
            }
            if now.saturating_sub(looked) > look {
                looked = now;
                if let Some(order) = self.listen()? {
                    return Ok(order);
                }
            }
            if self.settings.sleep
                && now.saturating_sub(busy) >= spin
                && self.table.in_flight() == 0
                && !self.table.has_work()
            {
                self.still_there()?;
                self.sleep();
                if let Some(order) = self.listen()? {
                    return Ok(order);
                }
                busy = clock::ticks();
            }
        }
    }

    /// Ends where the device is gone. What is on its way stays in the ledger: the device may come
    /// back, and a successor issue it again.
    #[cold]
    fn still_there(&mut self) -> Result<(), End> {
        match self.driver.gone() {
            None => Ok(()),
            Some(text) => {
                self.core.tell_last(FromDriver::Failed { gone: true, text });
                Err(End::Failed)
            }
        }
    }

    /// Does what the core says.
    #[cold]
    fn listen(&mut self) -> Result<Option<Order>, End> {
        // First the count, then the socket: a message that comes in between is seen next time.
        self.seen = self.ledger.attention();
        while let Some((message, fds)) = self.core.hear()? {
            match message {
                ToDriver::Attach(client) => {
                    let attached = Attached::map(client, fds).and_then(|attached| {
                        let number = attached.client.client;
                        match self.table.attach(&attached.client, attached.queues) {
                            Ok(()) => Ok(number),
                            Err(error) => Err((number, error.to_string())),
                        }
                    });
                    self.core.tell(match attached {
                        Ok(client) => FromDriver::Attached { client },
                        Err((client, text)) => FromDriver::Hostile { client, text },
                    });
                }
                ToDriver::Detach { client } => {
                    if self.table.detach(client) {
                        self.detaching.push(client);
                    } else {
                        self.core.tell(FromDriver::Detached { client });
                    }
                }
                ToDriver::Wake => {}
                ToDriver::Quiesce => return Ok(Some(Order::Quiesce)),
                ToDriver::Stop => return Ok(Some(Order::Stop)),
                ToDriver::Prepare { .. } | ToDriver::Begin(_) => {
                    return Err(self
                        .core
                        .fail(format!("it serves already, and hears {message:?}")));
                }
            }
        }
        Ok(None)
    }

    /// Tells the core what happened to clients.
    #[cold]
    fn tell_news(&mut self) {
        self.core.flush();
        while let Some((client, text)) = self.table.hostile() {
            self.core.tell(FromDriver::Hostile { client, text });
        }
        while let Some((client, text)) = self.table.poisoned() {
            self.core.tell(FromDriver::Poisoned { client, text });
        }
        while let Some(client) = self.table.left() {
            // One that was found hostile leaves before it is told to.
            if let Some(index) = self.detaching.iter().position(|&waiting| waiting == client) {
                self.detaching.swap_remove(index);
                self.core.tell(FromDriver::Detached { client });
            }
        }
    }

    /// Sleeps until a client or the core wakes it.
    #[cold]
    fn sleep(&mut self) {
        self.ledger.set_asleep(true);
        self.table.announce_sleep(true);
        self.ledger.words().fence();
        // Whoever changed something before this was seen wakes nobody.
        if !self.table.has_work() && self.ledger.attention() == self.seen {
            let mut fds = Vec::with_capacity(1 + self.table.queue_count());
            let mut events = PollFlags::IN;
            if !self.core.waiting.is_empty() {
                events |= PollFlags::OUT;
            }
            fds.push(PollFd::new(&self.core.control, events));
            let (numbers, sockets): (Vec<_>, Vec<_>) = self.table.wake_sockets().unzip();
            fds.extend(sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)));
            // Fails only where it is interrupted, or memory is short: then it goes on polling.
            let _ = poll(&mut fds, None);
            let woken = fds.iter().skip(1).zip(&numbers);
            let woken: Vec<u8> =
                woken.filter(|(fd, _)| !fd.revents().is_empty()).map(|(_, &n)| n).collect();
            for number in woken {
                self.table.drain_wakes(number);
            }
        }
        self.ledger.set_asleep(false);
        self.table.announce_sleep(false);
        self.ledger.beat();
        self.core.tell(FromDriver::Awake);
    }

    /// Waits for what is on its way, and shuts the device down.
    fn stop(mut self) -> End {
        self.table.take_no_more();
        let limit = Duration::from_millis(self.settings.timeout_ms).saturating_add(GRACE);
        let (start, limit) = (clock::ticks(), clock::to_ticks(limit));
        let mut now = start;
        let mut passes: u32 = 0;
        while self.table.in_flight() > 0 && now.saturating_sub(start) < limit {
            now = clock::ticks();
            self.table.set_now(now);
            self.driver.poll(&mut self.table);
            self.ledger.beat();
            passes = passes.wrapping_add(1);
            if passes.is_multiple_of(GONE_EVERY) && self.driver.gone().is_some() {
                break;
            }
        }
        self.ledger.set_phase(Phase::BringingUp);
        self.driver.shut_down();
        // Now the device has none of it any more.
        self.table.fail_all(Outcome::Gone);
        End::Ordered
    }
}
