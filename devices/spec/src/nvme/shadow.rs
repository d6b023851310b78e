//! Shadow doorbells: doorbells in memory, after Doorbell Buffer Config. NVMe Base 2.0
//! §5.8, Annex B.
//!
//! Both buffers are laid out as the doorbell registers. The driver writes a doorbell's
//! value to the Shadow Doorbell buffer, then reads its EventIdx, and writes the register
//! only where [`needs_doorbell`] says that the controller waits for it. The controller
//! sets the EventIdx to the value up to which it has read. Each side needs a full
//! barrier between its write and its read.

use super::registers::{DOORBELLS, completion_doorbell, submission_doorbell};

/// Offset in either buffer of the tail of submission queue `queue`, in bytes.
#[inline]
pub const fn submission_offset(queue: u16, dstrd: u8) -> usize {
    submission_doorbell(queue, dstrd) - DOORBELLS
}

/// Offset in either buffer of the head of completion queue `queue`, in bytes.
#[inline]
pub const fn completion_offset(queue: u16, dstrd: u8) -> usize {
    completion_doorbell(queue, dstrd) - DOORBELLS
}

/// Whether the doorbell register has to be written too, when its value goes from `old` to
/// `new` and its EventIdx is `event_index`: whether that is one of the values that were
/// left behind, `old` itself included. All three are positions in one queue and wrap
/// where it does.
#[inline]
pub const fn needs_doorbell(event_index: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event_index).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets() {
        assert_eq!((submission_offset(0, 0), completion_offset(0, 0)), (0, 4));
        assert_eq!((submission_offset(3, 0), completion_offset(3, 0)), (24, 28));
        assert_eq!((submission_offset(3, 2), completion_offset(3, 2)), (96, 112));
    }

    #[test]
    fn every_step_in_a_queue() {
        let size = 9u16;
        for old in 0..size {
            for steps in 0..size {
                let new = (old + steps) % size;
                for event in 0..size {
                    let left_behind = (0..steps).any(|step| (old + step) % size == event);
                    assert_eq!(
                        needs_doorbell(event, old, new),
                        left_behind,
                        "event {event}, {old} to {new}"
                    );
                }
            }
        }
    }
}
