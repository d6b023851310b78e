//! I/O commands, each with its errors.

use std::sync::Arc;

use proptest::prelude::*;
use uniddrv::Transport;
use uniddrv_spec::nvme::BROADCAST;
use uniddrv_spec::nvme::admin::{GetLogPage, LogId};
use uniddrv_spec::nvme::entry::SubmissionEntry;
use uniddrv_spec::nvme::io::{
    BlockCount, Copy, CopyRange, DatasetManagement, DatasetRange, Flags, compare, flush, read,
    verify, write, write_uncorrectable, write_zeroes,
};
use uniddrv_spec::nvme::log::{ErrorInformation, SmartHealth};
use uniddrv_spec::nvme::sgl::Descriptor;
use uniddrv_spec::nvme::status::Status;
use zerocopy::{FromBytes, IntoBytes};

use super::client::*;
use crate::nvme::backing::Backing;

fn blocks(count: u32) -> BlockCount {
    BlockCount::new(count).unwrap()
}

/// A write of `data` at block `lba` of namespace 1, which has 512-byte blocks.
fn store(client: &mut Client, lba: u64, data: &[u8]) -> Status {
    client.put(DATA, data);
    let (first, second) = prps(client, data.len());
    let count = blocks((data.len() / 512) as u32);
    client.io(write(1, lba, count, Flags::NONE).with_prps(first, second))
}

/// A read of `len` bytes.
fn load(client: &mut Client, lba: u64, len: usize) -> Vec<u8> {
    client.put(DATA, &vec![0xee; len]);
    let (first, second) = prps(client, len);
    let count = blocks((len / 512) as u32);
    let status = client.io(read(1, lba, count, Flags::NONE).with_prps(first, second));
    assert_eq!(status, Status::SUCCESS);
    client.get(DATA, len)
}

/// PRPs of `len` bytes at DATA, with a list at LIST.
fn prps(client: &Client, len: usize) -> (u64, u64) {
    if len <= 8192 {
        return (DATA, DATA + 4096);
    }
    let entries: Vec<u64> = (1..len.div_ceil(4096) as u64).map(|page| DATA + 4096 * page).collect();
    client.put(LIST, entries.as_bytes());
    (DATA, LIST)
}

fn round_trip(pairs: &[(&str, &str)]) {
    let mut client = Client::new(pairs);
    for (lba, len) in [(0, 512), (7, 4096), (64, 8192), (100, 12_288), (1000, 131_072)] {
        let data = pattern(lba, len);
        assert_eq!(store(&mut client, lba, &data), Status::SUCCESS);
        assert!(load(&mut client, lba, len) == data, "{len} bytes at {lba}");
    }
    assert!(load(&mut client, 8, 512) == pattern(7, 4096)[512..1024]);
    let data = pattern(9, 512);
    client.put(DATA, &data);
    let fua = write(1, 3, BlockCount::ONE, Flags::NONE.with_fua(true)).with_prps(DATA, 0);
    assert_eq!(client.io(fua), Status::SUCCESS);
    assert_eq!(client.io(flush(1)), Status::SUCCESS);
    assert_eq!(client.io(flush(BROADCAST)), Status::SUCCESS);
    assert!(load(&mut client, 3, 512) == data);
}

#[test]
fn ram_reads_what_was_written() {
    round_trip(&[]);
    round_trip(&[("fault", "drop=0")]);
}

#[test]
fn a_file_reads_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let backing = format!("file:{}", path.display());
    round_trip(&[("backing", &backing)]);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 1 << 20);
    assert!(bytes[64 * 512..64 * 512 + 8192] == pattern(64, 8192));
}

#[test]
fn null_keeps_nothing() {
    let mut client = Client::new(&[("backing", "null"), ("size", "16T")]);
    assert_eq!(store(&mut client, 1 << 33, &pattern(0, 4096)), Status::SUCCESS);
    assert_eq!(load(&mut client, 1 << 33, 4096), [0xee; 4096]);
    let count = BlockCount::ONE;
    let entry = compare(1, 5, count, Flags::NONE).with_prps(DATA, 0);
    assert_eq!(client.io(entry), Status::SUCCESS);
}

#[test]
fn namespaces_have_their_own_blocks_and_formats() {
    let mut client = Client::new(&[("namespaces", "512:1M,4096:2M")]);
    for (nsid, size) in [(1, 512), (2, 4096)] {
        client.put(DATA, &pattern(nsid.into(), size));
        let entry = write(nsid, 255, BlockCount::ONE, Flags::NONE).with_prps(DATA, 0);
        assert_eq!(client.io(entry), Status::SUCCESS);
    }
    for (nsid, size, last) in [(1u32, 512, 2047), (2, 4096, 511)] {
        let entry = read(nsid, 255, BlockCount::ONE, Flags::NONE).with_prps(DATA, 0);
        assert_eq!(client.io(entry), Status::SUCCESS);
        assert!(client.get(DATA, size) == pattern(nsid.into(), size));
        let entry = read(nsid, last, BlockCount::ONE, Flags::NONE).with_prps(DATA, 0);
        assert_eq!(client.io(entry), Status::SUCCESS);
        let entry = read(nsid, last, blocks(2), Flags::NONE).with_prps(DATA, 0);
        assert_eq!(client.io(entry), Status::LBA_OUT_OF_RANGE);
    }
}

#[test]
fn every_error_of_reads_and_writes_has_its_status() {
    let mut client = Client::new(&[]);
    let one = BlockCount::ONE;
    let at = |lba| read(1, lba, one, Flags::NONE).with_prps(DATA, 0);
    let good = at(0);
    for (entry, status) in [
        (good, Status::SUCCESS),
        (at(2048), Status::LBA_OUT_OF_RANGE),
        (at(u64::MAX), Status::LBA_OUT_OF_RANGE),
        (good.with_nsid(0), Status::INVALID_NAMESPACE_OR_FORMAT),
        (good.with_nsid(2), Status::INVALID_NAMESPACE_OR_FORMAT),
        (good.with_nsid(BROADCAST), Status::INVALID_NAMESPACE_OR_FORMAT),
        (read(1, 0, blocks(257), Flags::NONE).with_prps(DATA, LIST), Status::INVALID_FIELD),
        (good.with_prps(DATA + 1, 0), Status::PRP_OFFSET_INVALID),
        (good.with_prps(0, 0), Status::DATA_TRANSFER_ERROR),
        (good.with_prps(BASE + LEN - 256, BASE + LEN), Status::DATA_TRANSFER_ERROR),
        (good.with_cdw0(good.cdw0().with_fuse(1)), Status::INVALID_FIELD),
        (good.with_cdw0(good.cdw0().with_psdt(3)), Status::INVALID_FIELD),
        (SubmissionEntry::new(0x7f).with_nsid(1), Status::INVALID_COMMAND_OPCODE),
        (good.with_sgl1(Descriptor::data_block(DATA, 512)), Status::SUCCESS),
        (good.with_sgl1(Descriptor::data_block(DATA, 511)), Status::DATA_SGL_LENGTH_INVALID),
        (good.with_sgl1(Descriptor::data_block(0, 512)), Status::DATA_TRANSFER_ERROR),
        (good.with_sgl1(Descriptor::bit_bucket(512)), Status::SUCCESS),
    ] {
        assert_eq!(client.io(entry), status, "{entry:?}");
        // The same command as a write, whose bit buckets have no length.
        let entry =
            entry.with_cdw0(entry.cdw0().with_opc(if entry.opcode() == 2 { 1 } else { 0x7f }));
        let bucket = entry.sgl1() == Descriptor::bit_bucket(512) && entry.cdw0().psdt() == 1;
        let status = if bucket { Status::DATA_SGL_LENGTH_INVALID } else { status };
        assert_eq!(client.io(entry), status, "{entry:?}");
    }
}

#[test]
fn dma_outside_of_what_is_mapped_changes_nothing_and_is_counted() {
    let mut client = Client::new(&[]);
    let data = pattern(1, 8192);
    assert_eq!(store(&mut client, 0, &data), Status::SUCCESS);
    let before = client.inline.with(|_, host| host.memory.faults());
    // The first page is there, the second is not.
    let entry = read(1, 0, blocks(16), Flags::NONE).with_prps(DATA + (1 << 20), BASE + LEN);
    assert_eq!(client.io(entry), Status::DATA_TRANSFER_ERROR);
    assert!(client.get(DATA + (1 << 20), 4096).iter().all(|&byte| byte == 0));
    let entry = write(1, 0, blocks(16), Flags::NONE).with_prps(DATA + (1 << 20), BASE + LEN);
    assert_eq!(client.io(entry), Status::DATA_TRANSFER_ERROR);
    assert_eq!(client.inline.with(|_, host| host.memory.faults()), before + 2);
    assert!(load(&mut client, 0, 8192) == data);
}

#[test]
fn compare_tells_a_difference() {
    let mut client = Client::new(&[]);
    let mut data = pattern(1, 16_384);
    assert_eq!(store(&mut client, 4, &data), Status::SUCCESS);
    let (first, second) = prps(&client, data.len());
    let entry = compare(1, 4, blocks(32), Flags::NONE).with_prps(first, second);
    assert_eq!(client.io(entry), Status::SUCCESS);
    data[16_383] ^= 1;
    client.put(DATA, &data);
    assert_eq!(client.io(entry), Status::COMPARE_FAILURE);
    assert_eq!(client.io(entry.with_prps(0, 0)), Status::DATA_TRANSFER_ERROR);
    assert_eq!(client.io(entry.with_cdw10(2047)), Status::LBA_OUT_OF_RANGE);
}

#[test]
fn write_zeroes_clears_with_and_without_deallocation() {
    let mut client = Client::new(&[]);
    for deallocate in [false, true] {
        assert_eq!(store(&mut client, 0, &pattern(1, 131_072)), Status::SUCCESS);
        let flags = Flags::NONE.with_deac(deallocate);
        assert_eq!(client.io(write_zeroes(1, 1, blocks(254), flags)), Status::SUCCESS);
        let data = load(&mut client, 0, 131_072);
        let kept = pattern(1, 131_072);
        assert!(data[..512] == kept[..512] && data[255 * 512..] == kept[255 * 512..]);
        assert!(data[512..255 * 512].iter().all(|&byte| byte == 0));
    }
    let entry = write_zeroes(1, 2047, blocks(2), Flags::NONE);
    assert_eq!(client.io(entry), Status::LBA_OUT_OF_RANGE);
}

#[test]
fn uncorrectable_blocks_fail_until_they_are_written() {
    let mut client = Client::new(&[]);
    assert_eq!(client.io(write_uncorrectable(1, 10, blocks(4))), Status::SUCCESS);
    let bad = Status::UNRECOVERED_READ_ERROR;
    for entry in [
        read(1, 8, blocks(4), Flags::NONE).with_prps(DATA, 0),
        compare(1, 13, BlockCount::ONE, Flags::NONE).with_prps(DATA, 0),
        verify(1, 0, blocks(2048), Flags::NONE),
    ] {
        assert_eq!(client.io(entry), bad, "{entry:?}");
    }
    assert_eq!(client.io(verify(1, 0, blocks(10), Flags::NONE)), Status::SUCCESS);
    assert_eq!(store(&mut client, 8, &pattern(0, 4096)), Status::SUCCESS);
    assert_eq!(client.io(verify(1, 0, blocks(2048), Flags::NONE)), Status::SUCCESS);
    let entry = write_uncorrectable(1, 2047, blocks(2));
    assert_eq!(client.io(entry), Status::LBA_OUT_OF_RANGE);
    assert_eq!(client.io(verify(1, 2048, BlockCount::ONE, Flags::NONE)), Status::LBA_OUT_OF_RANGE);
}

#[test]
fn deallocated_ranges_read_as_zeroes() {
    let mut client = Client::new(&[]);
    assert_eq!(store(&mut client, 0, &pattern(1, 131_072)), Status::SUCCESS);
    let ranges = [DatasetRange::new(2, 3), DatasetRange::new(100, 0), DatasetRange::new(255, 1)];
    client.put(DATA, ranges.as_bytes());
    let command = DatasetManagement::deallocate(1, 3).unwrap().to_entry().with_prps(DATA, 0);
    assert_eq!(client.io(command), Status::SUCCESS);
    let (data, kept) = (load(&mut client, 0, 131_072), pattern(1, 131_072));
    for lba in 0..256 {
        let block = lba * 512..(lba + 1) * 512;
        let gone = matches!(lba, 2..5 | 255);
        let zero = data[block.clone()].iter().all(|&byte| byte == 0);
        assert_eq!(zero, gone, "{lba}");
        assert!(gone || data[block.clone()] == kept[block]);
    }
    // One bad range, and none is deallocated.
    let ranges = [DatasetRange::new(10, 3), DatasetRange::new(2047, 2)];
    client.put(DATA, ranges.as_bytes());
    let command = DatasetManagement::deallocate(1, 2).unwrap().to_entry().with_prps(DATA, 0);
    assert_eq!(client.io(command), Status::LBA_OUT_OF_RANGE);
    assert!(load(&mut client, 10, 512) == kept[10 * 512..11 * 512]);
    assert_eq!(client.io(command.with_prps(0, 0)), Status::DATA_TRANSFER_ERROR);
}

#[test]
fn copy_gathers_ranges_even_where_they_overlap() {
    let mut client = Client::new(&[]);
    let data = pattern(5, 8 * 512);
    assert_eq!(store(&mut client, 0, &data), Status::SUCCESS);
    let copy = |client: &mut Client, to, ranges: &[CopyRange]| {
        client.put(DATA, ranges.as_bytes());
        let command = Copy::new(1, to, ranges.len()).unwrap();
        client.io(command.to_entry().with_prps(DATA, DATA + 4096))
    };
    let ranges = [CopyRange::new(4, blocks(4)), CopyRange::new(0, blocks(2))];
    assert_eq!(copy(&mut client, 2, &ranges), Status::SUCCESS);
    let expected = [&data[..1024], &data[2048..], &data[..1024]].concat();
    assert!(load(&mut client, 0, 4096) == expected);
    for (to, ranges, status) in [
        (0, vec![CopyRange::new(2047, blocks(2))], Status::LBA_OUT_OF_RANGE),
        (2047, vec![CopyRange::new(0, blocks(2))], Status::LBA_OUT_OF_RANGE),
        (0, vec![CopyRange::new(0, blocks(1025))], Status::COMMAND_SIZE_LIMIT_EXCEEDED),
        (0, vec![CopyRange::new(0, blocks(1)); 129], Status::COMMAND_SIZE_LIMIT_EXCEEDED),
    ] {
        assert_eq!(copy(&mut client, to, &ranges), status);
    }
    let command = Copy::new(1, 0, 1).unwrap();
    let format = Copy { dword12: command.dword12.with_desfmt(1), ..command };
    assert_eq!(client.io(format.to_entry().with_prps(DATA, 0)), Status::INVALID_FIELD);
    assert_eq!(client.io(write_uncorrectable(1, 100, BlockCount::ONE)), Status::SUCCESS);
    let bad = [CopyRange::new(100, BlockCount::ONE)];
    assert_eq!(copy(&mut client, 0, &bad), Status::UNRECOVERED_READ_ERROR);
}

#[test]
fn a_full_disk_is_a_write_fault_to_the_client() {
    let mut client = Client::new(&[]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    client.inline.with(|model, _| {
        model.controller.namespaces[0].backing = Backing::file(Arc::new(full), 0);
    });
    assert_eq!(store(&mut client, 5, &pattern(0, 512)), Status::WRITE_FAULT);
    let entry = write_zeroes(1, 0, BlockCount::ONE, Flags::NONE);
    assert_eq!(client.io(entry), Status::WRITE_FAULT);
    assert!(!client.csts().cfs());
}

#[test]
fn a_file_that_somebody_shortens_fails_reads() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let backing = format!("file:{}", path.display());
    let mut client = Client::new(&[("backing", &backing)]);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    let entry = read(1, 5, BlockCount::ONE, Flags::NONE).with_prps(DATA, 0);
    assert_eq!(client.io(entry), Status::UNRECOVERED_READ_ERROR);
    assert_eq!(store(&mut client, 5, &pattern(0, 512)), Status::SUCCESS);
    assert_eq!(client.io(entry), Status::SUCCESS);
}

#[test]
fn smart_and_error_logs_count() {
    let mut client = Client::new(&[]);
    assert_eq!(store(&mut client, 0, &pattern(0, 131_072)), Status::SUCCESS);
    for _ in 0..10 {
        load(&mut client, 0, 131_072);
    }
    assert_eq!(client.io(write_uncorrectable(1, 10, BlockCount::ONE)), Status::SUCCESS);
    let entry = read(1, 10, BlockCount::ONE, Flags::NONE).with_prps(DATA, 0);
    let cid = client.submit(1, entry);
    let completion = client.reap(1).unwrap();
    assert!(completion.status().more() && !completion.status().dnr());
    let log = |client: &mut Client, id, len| {
        let entry = GetLogPage::new(id, len).unwrap().to_entry().with_prps(DATA, 0);
        assert_eq!(client.admin_status(entry), Status::SUCCESS);
        client.get(DATA, len)
    };
    let smart = SmartHealth::read_from_bytes(&log(&mut client, LogId::SMART_HEALTH, 512)).unwrap();
    assert_eq!((smart.host_reads.get(), smart.host_writes.get()), (10, 1));
    assert_eq!((smart.data_units_read.get(), smart.data_units_written.get()), (3, 1));
    assert_eq!((smart.media_errors.get(), smart.error_entries.get()), (1, 1));
    let errors = log(&mut client, LogId::ERROR_INFORMATION, 128);
    let error = ErrorInformation::read_from_bytes(&errors[..64]).unwrap();
    assert_eq!((error.cid.get(), error.sqid.get(), error.lba.get()), (cid, 1, 10));
    assert_eq!(error.status().code(), Status::UNRECOVERED_READ_ERROR);
    assert!(errors[64..].iter().all(|&byte| byte == 0));
}

#[test]
fn larger_pages_of_memory_are_followed() {
    let mut client = Client::off(&[]);
    client.set_admin_queues();
    client.queues = Client::new(&[]).queues[..1].to_vec();
    client.queues[0].tail = 0;
    client.queues[0].head = 0;
    client.write32(0x14, Client::cc().with_mps(3).bits());
    assert!(client.csts().rdy());
    client.create_queues(1);
    client.put(DATA, &pattern(3, 65_536));
    let entry = write(1, 0, blocks(128), Flags::NONE).with_prps(DATA, DATA + 32_768);
    assert_eq!(client.io(entry), Status::SUCCESS);
    let misaligned = entry.with_prps(DATA, DATA + 4096);
    assert_eq!(client.io(misaligned), Status::PRP_OFFSET_INVALID);
    let entry = read(1, 0, blocks(128), Flags::NONE).with_prps(DATA, DATA + 65_536);
    assert_eq!(client.io(entry), Status::SUCCESS);
    assert!(client.get(DATA + 65_536, 32_768) == pattern(3, 65_536)[32_768..]);
    assert_eq!(client.inline.lost(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_is_written_is_read(
        writes in proptest::collection::vec((0u64..2048, 1usize..40, any::<u64>(), any::<bool>()), 1..20)
    ) {
        let mut client = Client::new(&[]);
        let mut disk = vec![0u8; 1 << 20];
        for (lba, count, seed, sgl) in writes {
            let count = count.min(2048 - lba as usize);
            let data = pattern(seed >> 1, count * 512);
            if sgl {
                client.put(DATA, &data);
                let half = (data.len() / 2) as u32;
                let rest = data.len() as u32 - half;
                let list = [
                    Descriptor::data_block(DATA, half),
                    Descriptor::data_block(DATA + u64::from(half), rest),
                ];
                client.put(LIST, list.as_bytes());
                let entry = write(1, lba, blocks(count as u32), Flags::NONE)
                    .with_sgl1(Descriptor::last_segment(LIST, 32));
                prop_assert_eq!(client.io(entry), Status::SUCCESS);
            } else {
                prop_assert_eq!(store(&mut client, lba, &data), Status::SUCCESS);
            }
            disk[lba as usize * 512..][..data.len()].copy_from_slice(&data);
        }
        for lba in (0..2048).step_by(256) {
            prop_assert!(load(&mut client, lba, 131_072) == disk[lba as usize * 512..][..131_072]);
        }
    }
}
