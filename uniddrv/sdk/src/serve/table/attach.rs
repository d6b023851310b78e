//! Clients that come and go.

use std::os::fd::OwnedFd;

use uniddrv_abi::ledger::LedgerError;
use uniddrv_abi::message::{self, Target};
use uniddrv_abi::queue;
use uniddrv_abi::words::Words;

use super::{Steps, Table};
use crate::serve::client::{Client, Queue};
use crate::shared::SharedWords;

impl<S: Steps> Table<S> {
    /// Sets what can be opened. Clients that are there already go by what it says from now on.
    pub fn set_targets(&mut self, targets: Vec<Target>) {
        for client in self.clients.iter_mut().flatten() {
            let target = targets.iter().find(|target| target.id == client.target.id);
            client.set_target(target);
        }
        self.targets = targets;
        // What was taken over before the device was up was not measured.
        for slot in 0..super::MOST as u16 {
            self.measure(slot);
        }
    }

    /// Adds a client with its queues: for each its memory and its wake-up socket.
    ///
    /// # Errors
    /// When the core's message does not hold together.
    pub fn attach(
        &mut self,
        client: &message::Client,
        queues: Vec<(SharedWords, OwnedFd)>,
    ) -> Result<(), LedgerError> {
        let error = |text: String| LedgerError(format!("client {}: {text}", client.client));
        let depth = client.depth;
        if !depth.is_power_of_two() || depth > queue::MAX_DEPTH {
            return Err(error(format!("rings of {depth} entries")));
        }
        if client.arena_iova.checked_add(client.arena_len).is_none() {
            let (iova, len) = (client.arena_iova, client.arena_len);
            return Err(error(format!("an arena of {len:#x} bytes at {iova:#x}")));
        }
        if queues.len() != client.queues.len() || queues.is_empty() {
            return Err(error(format!("{} queues, not {}", queues.len(), client.queues.len())));
        }
        if self.clients.iter().flatten().any(|known| known.number == client.client) {
            return Err(error("it is attached already".into()));
        }
        for (index, (number, (words, _))) in client.queues.iter().zip(&queues).enumerate() {
            let place = self.queues.get(usize::from(*number));
            let taken =
                place.is_none_or(Option::is_some) || client.queues[..index].contains(number);
            if taken || words.count() < queue::words_for(depth) {
                return Err(error(format!("queue {number} is taken, unknown or too short")));
            }
        }
        // Before the device is up, what it is like is not known; `set_targets` fills it in.
        let target = self.targets.iter().find(|target| target.id == client.target);
        let index = self.clients.iter().position(Option::is_none).unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        self.clients[index] = Some(Client::new(client, target));
        self.present.push(index);
        for (number, (words, wake)) in client.queues.iter().zip(queues) {
            if client.new {
                self.ledger.clear_queue(*number);
                let (suspect, _) = self.ledger.suspect();
                if suspect.is_some_and(|suspect| suspect.queue == *number) {
                    self.forget_suspect();
                }
            }
            let indices = self.ledger.indices(*number);
            let queue = Queue::new(index, words, depth, wake, indices);
            self.queues[usize::from(*number)] = Some(queue);
            self.active.push(*number);
        }
        self.share_out();
        Ok(())
    }

    /// Takes nothing more from client `number`, which can be forgotten once [`left`](Self::left)
    /// names it. Whether there is such a client.
    pub fn detach(&mut self, number: u32) -> bool {
        let client = self.clients.iter_mut().flatten().find(|client| client.number == number);
        let Some(client) = client else { return false };
        client.leaving = true;
        self.news = true;
        true
    }

    /// Forgets a client that leaves and has nothing on its way, and says which.
    pub fn left(&mut self) -> Option<u32> {
        if !self.finished.is_empty() {
            // What is finished may be one of theirs, not published yet.
            return None;
        }
        let at = self.present.iter().position(|&index| {
            let client = self.clients[index].as_ref();
            client.is_some_and(|client| client.leaving && client.in_flight == 0)
        })?;
        let index = self.present.remove(at);
        let client = self.clients[index].take()?;
        for number in client.queues {
            self.queues[usize::from(number)] = None;
            self.active.retain(|&active| active != number);
        }
        self.news = self.clients.iter().flatten().any(|client| client.leaving);
        self.share_out();
        Some(client.number)
    }

    /// Whether [`hostile`](Self::hostile), [`poisoned`](Self::poisoned) or [`left`](Self::left) may
    /// have something to say.
    #[inline]
    pub fn has_news(&self) -> bool {
        self.news
    }

    /// A client that wrote what cannot be, and what; each once. Nothing more is taken from it.
    pub fn hostile(&mut self) -> Option<(u32, String)> {
        self.clients
            .iter_mut()
            .flatten()
            .find_map(|client| Some((client.number, client.hostile.take()?)))
    }

    /// The client whose request was failed because three drivers in a row died on it, and the
    /// request; once.
    pub fn poisoned(&mut self) -> Option<(u32, String)> {
        self.poisoned.take()
    }
}
