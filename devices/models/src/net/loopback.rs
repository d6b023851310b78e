//! A plug that sends back what comes.

use std::collections::VecDeque;

use super::Wire;

/// Frames that are on their way at most; more are lost.
const MOST: usize = 4_096;

/// Every frame that is sent comes back.
#[derive(Debug, Default)]
pub struct Loopback {
    frames: VecDeque<Vec<u8>>,
    /// Buffers of frames that were received.
    spare: Vec<Vec<u8>>,
    lost: u64,
}

impl Loopback {
    /// Frames that were lost because too many were on their way.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Wire for Loopback {
    fn is_up(&self) -> bool {
        true
    }

    fn send(&mut self, frame: &[u8]) {
        if self.frames.len() == MOST {
            self.lost += 1;
            return;
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.extend_from_slice(frame);
        self.frames.push_back(copy);
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        let Some(mut next) = self.frames.pop_front() else { return false };
        frame.append(&mut next);
        self.spare.push(next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order_and_too_many_are_lost() {
        let mut wire = Loopback::default();
        for number in 0..MOST + 3 {
            wire.send(&number.to_le_bytes());
        }
        let mut frame = Vec::new();
        for number in 0..MOST {
            frame.clear();
            assert!(wire.receive(&mut frame));
            assert_eq!(frame, number.to_le_bytes());
        }
        assert!(!wire.receive(&mut frame));
        assert_eq!(wire.lost(), 3);
    }
}
