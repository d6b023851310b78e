//! A cable between two models of this process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Wire;

/// Frames that are on their way at most in one direction; more are lost.
const MOST: usize = 4_096;

/// One end of a cable.
#[derive(Debug)]
pub struct Cable {
    towards: Arc<Mutex<VecDeque<Vec<u8>>>>,
    from: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

impl Cable {
    /// Both ends of one.
    pub fn new() -> (Self, Self) {
        let (one, other) = (Arc::default(), Arc::default());
        let end = Self { towards: Arc::clone(&one), from: Arc::clone(&other) };
        (end, Self { towards: other, from: one })
    }
}

fn lock(frames: &Mutex<VecDeque<Vec<u8>>>) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
    frames.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire for Cable {
    fn is_up(&self) -> bool {
        // Each queue is held by both ends.
        Arc::strong_count(&self.towards) == 2
    }

    fn send(&mut self, frame: &[u8]) {
        let mut frames = lock(&self.towards);
        if frames.len() < MOST {
            frames.push_back(frame.to_vec());
        }
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        let next = lock(&self.from).pop_front();
        next.is_some_and(|mut next| {
            frame.append(&mut next);
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_end_sends_the_other_receives() {
        let (mut one, mut other) = Cable::new();
        let mut frame = Vec::new();
        one.send(b"from one");
        other.send(b"from the other");
        assert!(one.receive(&mut frame) && frame == b"from the other");
        frame.clear();
        assert!(other.receive(&mut frame) && frame == b"from one");
        assert!(!one.receive(&mut frame) && one.is_up());
        drop(other);
        assert!(!one.is_up());
    }
}
