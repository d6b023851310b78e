//! Registers, enabling, resets, shutdown, queues.

use std::time::Duration;

use uniddrv::{Interrupt, InterruptKind, Transport};
use uniddrv_spec::nvme::admin::queue::{CompletionQueueDword11, SubmissionQueueDword11};
use uniddrv_spec::nvme::admin::{
    CreateIoCompletionQueue, CreateIoSubmissionQueue, DeleteIoCompletionQueue,
    DeleteIoSubmissionQueue,
};
use uniddrv_spec::nvme::io::flush;
use uniddrv_spec::nvme::registers::{Cap, Cc, Csts, Nssr, Vs, submission_doorbell};
use uniddrv_spec::nvme::status::Status;

use super::client::*;

#[test]
fn a_controller_comes_up_and_goes_down() {
    let mut client = Client::off(&[]);
    assert_eq!(client.read32(Vs::OFFSET), 0x0002_0000);
    assert!(!client.csts().rdy());
    client.enable();
    assert!(client.csts().rdy() && !client.csts().cfs());
    client.create_queues(1);
    assert_eq!(client.io(flush(1)), Status::SUCCESS);
    client.write32(Cc::OFFSET, Client::cc().with_shn(Cc::SHN_NORMAL).bits());
    assert_eq!(client.csts().shst(), Csts::SHST_COMPLETE);
    client.submit(1, flush(1));
    assert_eq!(client.reap(1), None, "a command was processed after the shutdown");
    client.disable();
    assert_eq!(client.csts().bits(), 0);
    client.enable();
    assert!(client.csts().rdy() && client.csts().shst() == Csts::SHST_NORMAL);
    client.create_queues(1);
    assert_eq!(client.io(flush(1)), Status::SUCCESS);
}

#[test]
fn an_impossible_configuration_is_fatal_until_a_reset() {
    for (offset, value) in [
        (0x24, 0x000f_0000),
        (0x24, 0x0000_000f),
        (0x14, Client::cc().with_mps(5).bits()),
        (0x14, Client::cc().with_css(1).bits()),
        (0x14, Client::cc().with_ams(1).bits()),
        (0x14, Client::cc().with_mps(1).bits()),
    ] {
        let mut client = Client::off(&[]);
        client.set_admin_queues();
        client.write32(0x30, 0x9000);
        client.write32(offset, value);
        if offset != 0x14 {
            client.write32(Cc::OFFSET, Client::cc().bits());
        }
        assert!(client.csts().cfs() && !client.csts().rdy(), "{offset:#x} {value:#x}");
        client.disable();
        client.enable();
        assert!(client.csts().rdy() && !client.csts().cfs());
    }
}

#[test]
fn a_reset_takes_queues_and_commands() {
    let mut client = Client::new(&[]);
    client.queue(1, flush(1));
    client.disable();
    client.ring(1);
    client.enable();
    assert_eq!(client.admin_status(create_sq(1)), Status::COMPLETION_QUEUE_INVALID);
    client.create_queues(1);
    assert_eq!(client.reap(1), None);
    assert_eq!(client.io(flush(1)), Status::SUCCESS);
}

#[test]
fn resets_of_subsystem_and_function() {
    let client = Client::new(&[]);
    client.write32(Nssr::OFFSET, Nssr::RESET.bits());
    assert!(client.csts().nssro() && !client.csts().rdy());
    assert_eq!(client.read32(0x24), 0);
    client.write32(Csts::OFFSET, client.csts().bits());
    assert!(!client.csts().nssro());

    let mut client = Client::new(&[]);
    client.inline.reset().unwrap();
    assert_eq!((client.csts().bits(), client.read32(Cc::OFFSET)), (0, 0));
    client.enable();
    client.submit(0, flush(1));
    assert_eq!(client.reap(0), None, "DMA without bus mastering");
    client.inline.write_config(4, &[6, 0]).unwrap();
    client.ring(0);
    assert!(client.reap(0).is_some());
}

#[test]
fn registers_are_read_in_any_width_and_written_in_dwords() {
    let client = Client::off(&[]);
    let mut wide = [0; 8];
    client.inline.read_bar(0, 0, &mut wide).unwrap();
    for offset in 0..8 {
        let mut byte = [0];
        client.inline.read_bar(0, offset, &mut byte).unwrap();
        assert_eq!(byte[0], wide[offset as usize]);
    }
    assert_eq!(Cap::from_bits(u64::from_le_bytes(wide)).max_queue_entries(), 4096);
    client.inline.write_bar(0, 0x14, &[1]).unwrap();
    client.inline.write_bar(0, 0x26, &[1; 4]).unwrap();
    assert_eq!((client.read32(0x14), client.read32(0x24)), (0, 0));
    assert!(client.inline.read_bar(0, 1 << 20, &mut wide).is_err());
    assert!(client.inline.write_bar(1, 0, &wide).is_err());
}

#[test]
fn the_msix_table_is_kept_and_masked_at_first() {
    let client = Client::off(&[("queues", "2")]);
    assert_eq!(client.inline.interrupts(InterruptKind::Msix), 3);
    let read = |offset| {
        let mut bytes = [0; 4];
        client.inline.read_bar(4, offset, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    };
    assert_eq!((read(12), read(44), read(60)), (1, 1, 0));
    client.inline.write_bar(4, 16, &[7; 8]).unwrap();
    assert_eq!(read(16), 0x0707_0707);
    client.inline.write_bar(4, 4096, &[7; 8]).unwrap();
    assert_eq!(read(4096), 0, "pending bits were written");
}

#[test]
fn every_error_of_queue_creation_has_its_status() {
    let mut client = Client::new(&[("queues", "4"), ("entries", "16")]);
    let pc = CompletionQueueDword11::default().with_pc(true);
    let cq = CreateIoCompletionQueue { qid: 2, qsize: 15, attributes: pc, address: cq_address(2) };
    for (command, status) in [
        (CreateIoCompletionQueue { qid: 0, ..cq }, Status::INVALID_QUEUE_IDENTIFIER),
        (CreateIoCompletionQueue { qid: 1, ..cq }, Status::INVALID_QUEUE_IDENTIFIER),
        (CreateIoCompletionQueue { qid: 5, ..cq }, Status::INVALID_QUEUE_IDENTIFIER),
        (CreateIoCompletionQueue { qsize: 0, ..cq }, Status::INVALID_QUEUE_SIZE),
        (CreateIoCompletionQueue { qsize: 16, ..cq }, Status::INVALID_QUEUE_SIZE),
        (CreateIoCompletionQueue { attributes: pc.with_pc(false), ..cq }, Status::INVALID_FIELD),
        (CreateIoCompletionQueue { address: 8, ..cq }, Status::PRP_OFFSET_INVALID),
        (
            CreateIoCompletionQueue { attributes: pc.with_ien(true).with_iv(5), ..cq },
            Status::INVALID_INTERRUPT_VECTOR,
        ),
        (cq, Status::SUCCESS),
    ] {
        assert_eq!(client.admin_status(command.to_entry()), status, "{command:?}");
    }
    let pc = SubmissionQueueDword11::default().with_pc(true).with_cqid(2);
    let sq = CreateIoSubmissionQueue { qid: 2, qsize: 15, attributes: pc, address: sq_address(2) };
    for (command, status) in [
        (CreateIoSubmissionQueue { qid: 0, ..sq }, Status::INVALID_QUEUE_IDENTIFIER),
        (CreateIoSubmissionQueue { qid: 1, ..sq }, Status::INVALID_QUEUE_IDENTIFIER),
        (CreateIoSubmissionQueue { qid: 5, ..sq }, Status::INVALID_QUEUE_IDENTIFIER),
        (CreateIoSubmissionQueue { qsize: 0, ..sq }, Status::INVALID_QUEUE_SIZE),
        (CreateIoSubmissionQueue { qsize: 16, ..sq }, Status::INVALID_QUEUE_SIZE),
        (CreateIoSubmissionQueue { attributes: pc.with_pc(false), ..sq }, Status::INVALID_FIELD),
        (CreateIoSubmissionQueue { address: 8, ..sq }, Status::PRP_OFFSET_INVALID),
        (
            CreateIoSubmissionQueue { attributes: pc.with_cqid(3), ..sq },
            Status::COMPLETION_QUEUE_INVALID,
        ),
        (
            CreateIoSubmissionQueue { attributes: pc.with_cqid(0), ..sq },
            Status::COMPLETION_QUEUE_INVALID,
        ),
        (
            CreateIoSubmissionQueue { attributes: pc.with_cqid(5), ..sq },
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (sq, Status::SUCCESS),
    ] {
        assert_eq!(client.admin_status(command.to_entry()), status, "{command:?}");
    }
}

#[test]
fn queues_are_deleted_in_order() {
    let mut client = Client::new(&[]);
    let delete_cq = |qid| DeleteIoCompletionQueue { qid }.to_entry();
    let delete_sq = |qid| DeleteIoSubmissionQueue { qid }.to_entry();
    for (entry, status) in [
        (delete_cq(0), Status::INVALID_QUEUE_IDENTIFIER),
        (delete_cq(2), Status::INVALID_QUEUE_IDENTIFIER),
        (delete_cq(u16::MAX), Status::INVALID_QUEUE_IDENTIFIER),
        (delete_sq(0), Status::INVALID_QUEUE_IDENTIFIER),
        (delete_sq(2), Status::INVALID_QUEUE_IDENTIFIER),
        (delete_cq(1), Status::INVALID_QUEUE_DELETION),
        (delete_sq(1), Status::SUCCESS),
        (delete_sq(1), Status::INVALID_QUEUE_IDENTIFIER),
        (delete_cq(1), Status::SUCCESS),
    ] {
        assert_eq!(client.admin_status(entry), status);
    }
    client.queues.pop();
    client.create_queues(1);
    assert_eq!(client.io(flush(1)), Status::SUCCESS);
}

#[test]
fn rings_wrap_and_several_queues_share_a_completion_queue() {
    let mut client = Client::new(&[]);
    for _ in 0..3 * ENTRIES {
        assert_eq!(client.io(flush(1)), Status::SUCCESS);
    }
    let attributes = SubmissionQueueDword11::default().with_pc(true).with_cqid(1);
    let sq = CreateIoSubmissionQueue { qid: 2, qsize: 3, attributes, address: sq_address(2) };
    assert_eq!(client.admin_status(sq.to_entry()), Status::SUCCESS);
    client.queues.push(client.queues[0]);
    client.queues[2].tail = 0;
    let cid = client.submit(2, flush(1));
    let completion = client.reap(1).unwrap();
    assert_eq!((completion.cid(), completion.sqid(), completion.sqhd()), (cid, 2, 1));
}

#[test]
fn a_full_completion_queue_holds_commands_back() {
    let mut client = Client::new(&[]);
    for _ in 0..ENTRIES - 1 {
        client.queue(1, flush(1));
    }
    client.ring(1);
    let mut more = Vec::new();
    for _ in 0..5 {
        more.push(client.submit(1, flush(1)));
    }
    let mut done = 0;
    while client.reap(1).is_some() {
        done += 1;
    }
    assert_eq!(done, ENTRIES - 1 + 5);
}

#[test]
fn interrupts_are_signalled_once_a_batch() {
    let mut client = Client::new(&[]);
    let interrupts: Vec<_> = (0..2).map(|_| Interrupt::new().unwrap()).collect();
    let fds: Vec<_> = interrupts.iter().map(std::os::fd::AsFd::as_fd).collect();
    client.inline.set_interrupts(InterruptKind::Msix, &fds).unwrap();
    for _ in 0..4 {
        client.queue(1, flush(1));
    }
    client.ring(1);
    assert!(interrupts[1].wait(Duration::from_secs(1)).unwrap());
    assert!(!interrupts[0].clear().unwrap());
    assert_eq!(client.inline.with(|_, host| host.interrupts.signalled()), 1);
    while client.reap(1).is_some() {}

    client.inline.set_interrupts(InterruptKind::Msix, &[]).unwrap();
    client.inline.set_interrupts(InterruptKind::Intx, &fds[..1]).unwrap();
    client.write32(0x0c, u32::MAX);
    client.submit(1, flush(1));
    assert!(!interrupts[0].clear().unwrap(), "signalled while masked");
    client.write32(0x10, u32::MAX);
    assert!(interrupts[0].clear().unwrap(), "not signalled when unmasked");
}

#[test]
fn a_queue_whose_memory_goes_is_fatal_and_nothing_is_touched() {
    let mut client = Client::new(&[]);
    client.queue(1, flush(1));
    client.unmap();
    client.write32(submission_doorbell(1, 0), 1);
    assert!(client.csts().cfs());
}
