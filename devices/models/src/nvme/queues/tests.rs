use std::os::fd::AsFd;

use uniddrv::Arena;

use super::*;

const BASE: u64 = 1 << 21;

fn memory() -> (Arena, ClientMemory) {
    let arena = Arena::new(1).unwrap();
    let mut memory = ClientMemory::default();
    memory.map(BASE, arena.len() as u64, arena.fd().as_fd(), 0, true).unwrap();
    (arena, memory)
}

fn completion(cid: u16) -> Completion {
    Taken::new(1, cid).complete(Status::SUCCESS, 7)
}

#[test]
fn entries_wrap_and_the_phase_turns() {
    let (_arena, memory) = memory();
    let mut queue = CompletionQueue::new(BASE, 3, None);
    let mut phases = Vec::new();
    for cid in 0..7 {
        assert!(queue.cursor.room() > 0);
        let (place, entry) = queue.cursor.push(completion(cid), 5, false);
        let view = queue.ring.view(&memory).unwrap();
        view.post(place, &entry).unwrap();
        let mut bytes = [0; 16];
        memory.read(BASE + 16 * u64::from(place), &mut bytes).unwrap();
        assert_eq!(bytes, entry.as_bytes());
        assert_eq!((entry.cid(), entry.sqid(), entry.sqhd(), entry.dw0()), (cid, 1, 5, 7));
        phases.push(entry.phase());
        queue.cursor.set_head(queue.cursor.tail).unwrap();
    }
    assert_eq!(phases, [true, true, true, false, false, false, true]);
}

#[test]
fn a_full_queue_has_no_room() {
    let mut queue = CompletionQueue::new(BASE, 4, None);
    for cid in 0..3 {
        assert_eq!(queue.cursor.room(), 3 - u32::from(cid));
        let _ = queue.cursor.push(completion(cid), 0, false);
    }
    assert_eq!(queue.cursor.room(), 0);
    queue.cursor.set_head(2).unwrap();
    assert_eq!(queue.cursor.room(), 2);
    assert!(!queue.cursor.is_empty());
}

#[test]
fn impossible_heads_are_refused_and_reported_once() {
    let mut queue = CompletionQueue::new(BASE, 4, None);
    let _ = queue.cursor.push(completion(0), 0, false);
    for head in [4, 2, 3, u32::MAX] {
        assert_eq!(queue.cursor.set_head(head), Err(InvalidDoorbell), "{head}");
        assert_eq!(queue.cursor.set_head(head), Ok(()));
        assert_eq!(queue.cursor.head(), 0);
    }
    assert_eq!(queue.cursor.set_head(1), Ok(()));
    assert_eq!(queue.cursor.set_head(0), Err(InvalidDoorbell));
}

#[test]
fn impossible_tails_are_refused_and_reported_once() {
    let mut queue = SubmissionQueue::new(BASE, 4, 1);
    assert_eq!(queue.check_tail(3), Ok(3));
    assert_eq!(queue.check_tail(4), Err(InvalidDoorbell));
    assert_eq!(queue.check_tail(4), Ok(0));
    assert_eq!(queue.check_tail(u32::MAX), Err(InvalidDoorbell));
    assert_eq!((queue.next(2), queue.next(3)), (3, 0));
}

#[test]
fn a_ring_may_cross_regions_and_come_back() {
    let arena = Arena::new(1).unwrap();
    let half = arena.len() as u64 / 2;
    let mut memory = ClientMemory::default();
    memory.map(BASE, half, arena.fd().as_fd(), half, true).unwrap();
    memory.map(BASE + half, half, arena.fd().as_fd(), 0, true).unwrap();
    let start = BASE + half - 64;
    memory.write(start + 32, &[5; 64]).unwrap();
    let mut ring = Ring::new(start, 128, Access::Read);
    let mut entry = SubmissionEntry::default();
    ring.view(&memory).unwrap().fetch(1, &mut entry).unwrap();
    assert_eq!(&entry.as_bytes()[..32], [5; 32]);
    let mut queue = CompletionQueue::new(start, 8, None);
    let (_, entry) = queue.cursor.push(completion(3), 0, false);
    queue.ring.view(&memory).unwrap().post(5, &entry).unwrap();
    let mut bytes = [0; 16];
    memory.read(start + 80, &mut bytes).unwrap();
    assert_eq!(bytes, entry.as_bytes());

    let mut ring = Ring::new(BASE, 64, Access::Read);
    assert!(ring.view(&memory).is_ok());
    memory.unmap(BASE, half).unwrap();
    assert!(ring.view(&memory).is_err());
    memory.map(BASE, half, arena.fd().as_fd(), half, true).unwrap();
    assert!(ring.view(&memory).is_ok());
}

#[test]
#[should_panic(expected = "taken and not completed")]
fn a_command_that_is_dropped_is_a_defect() {
    drop(Taken::new(1, 2));
}
