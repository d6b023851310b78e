use std::os::fd::AsFd;

use proptest::prelude::*;
use uniddrv::Arena;

use super::*;

const PAGE: u64 = 4096;
const LEN: u64 = uniddrv::arena::HUGE_PAGE as u64;

/// 2 MiB at 0x20_0000, of which a test may look at every byte.
fn memory() -> ClientMemory {
    let arena = Arena::new(1).unwrap();
    let mut memory = ClientMemory::default();
    memory.map(LEN, LEN, arena.fd().as_fd(), 0, true).unwrap();
    memory
}

fn pointers() -> Pointers {
    Pointers { page_size: PAGE as usize, sgl: true }
}

fn put(memory: &ClientMemory, address: u64, descriptors: &[Descriptor]) {
    memory.write(address, descriptors.as_bytes()).unwrap();
}

fn entry(descriptor: Descriptor) -> SubmissionEntry {
    SubmissionEntry::new(2).with_sgl1(descriptor)
}

fn locate(
    memory: &ClientMemory,
    entry: &SubmissionEntry,
    len: usize,
    access: Access,
) -> Result<Vec<Segment>, Status> {
    let mut data = Data::default();
    data.locate(entry, len, access, memory, pointers())?;
    assert_eq!(data.segments.iter().map(|segment| segment.len).sum::<usize>(), len);
    Ok(data.segments)
}

#[test]
fn neighbouring_pages_are_one_segment() {
    let memory = memory();
    let entry = SubmissionEntry::new(2).with_prps(LEN + 0x800, LEN + 0x1000);
    let segments = locate(&memory, &entry, 0x1800, Access::Write).unwrap();
    assert_eq!(segments, [Segment { iova: LEN + 0x800, len: 0x1800, bucket: false }]);
}

#[test]
fn prp_errors_have_their_status() {
    let memory = memory();
    for (prp1, prp2, len, status) in [
        (LEN + 1, 0, 512, Status::PRP_OFFSET_INVALID),
        (LEN, LEN + 8, 0x2000, Status::PRP_OFFSET_INVALID),
        (LEN, LEN + 0x1004, 0x4000, Status::PRP_OFFSET_INVALID),
        (0, 0, 512, Status::DATA_TRANSFER_ERROR),
        (LEN, 0, 0x2000, Status::DATA_TRANSFER_ERROR),
        (LEN, 0, 0x4000, Status::DATA_TRANSFER_ERROR),
        (2 * LEN - 512, 2 * LEN, 4096, Status::DATA_TRANSFER_ERROR),
        (u64::MAX - 3, 0, 512, Status::DATA_TRANSFER_ERROR),
    ] {
        let entry = SubmissionEntry::new(2).with_prps(prp1, prp2);
        assert_eq!(locate(&memory, &entry, len, Access::Read), Err(status), "{prp1:#x} {prp2:#x}");
    }
}

#[test]
fn a_list_that_chains_to_itself_ends() {
    let memory = memory();
    let list = LEN + 0x1000;
    // The last entry of each list page leads to the same page again.
    let entries = [LEN.to_le(); 511];
    memory.write(list, entries.as_bytes()).unwrap();
    memory.write(list + 511 * 8, &list.to_le_bytes()).unwrap();
    let entry = SubmissionEntry::new(2).with_prps(LEN, list);
    locate(&memory, &entry, 2000 << 12, Access::Read).unwrap();
    let entry = SubmissionEntry::new(2).with_prps(LEN, list + 511 * 8);
    locate(&memory, &entry, 2000 << 12, Access::Read).unwrap();
}

#[test]
fn every_kind_of_sgl_is_followed() {
    let memory = memory();
    let (first, second) = (LEN + 0x1000, LEN + 0x2000);
    let block = |index: u64, len| Descriptor::data_block(LEN + 0x10_000 * index, len);
    put(&memory, first, &[block(1, 100), block(2, 0), Descriptor::segment(second, 32)]);
    put(&memory, second, &[block(3, 300), Descriptor::last_segment(LEN + 0x3000, 32)]);
    put(&memory, LEN + 0x3000, &[Descriptor::bit_bucket(50), block(4, 1000)]);
    let entry = entry(Descriptor::segment(first, 48));
    let segments = locate(&memory, &entry, 1000, Access::Write).unwrap();
    let shape: Vec<_> = segments.iter().map(|s| (s.iova, s.len, s.bucket)).collect();
    assert_eq!(
        shape,
        [
            (LEN + 0x1_0000, 100, false),
            (LEN + 0x3_0000, 300, false),
            (0, 50, true),
            (LEN + 0x4_0000, 550, false)
        ]
    );
    // For data from the host a bit bucket has no length.
    let segments = locate(&memory, &entry, 1000, Access::Read).unwrap();
    assert_eq!(segments.last().unwrap().len, 600);
}

#[test]
fn sgl_errors_have_their_status() {
    let memory = memory();
    let list = LEN + 0x1000;
    let block = Descriptor::data_block(LEN, 512);
    let check = |first: Descriptor, descriptors: &[Descriptor], status| {
        put(&memory, list, descriptors);
        let result = locate(&memory, &entry(first), 1024, Access::Read);
        assert_eq!(result, Err(status), "{first:?} {descriptors:?}");
    };
    let segment = Status::INVALID_SGL_SEGMENT_DESCRIPTOR;
    check(block, &[], Status::DATA_SGL_LENGTH_INVALID);
    check(Descriptor::last_segment(list, 16), &[block], Status::DATA_SGL_LENGTH_INVALID);
    check(Descriptor::data_block(0, 1024), &[], Status::DATA_TRANSFER_ERROR);
    check(Descriptor::last_segment(0, 16), &[], Status::DATA_TRANSFER_ERROR);
    check(Descriptor::last_segment(list, 0), &[], segment);
    check(Descriptor::last_segment(list, 17), &[block], segment);
    check(Descriptor::segment(list, 16), &[block], segment);
    check(Descriptor::segment(list, 32), &[Descriptor::segment(list, 16), block], segment);
    check(Descriptor::last_segment(list, 32), &[block, Descriptor::segment(list, 16)], segment);
    check(Descriptor::keyed_data_block(LEN, 1024, 1), &[], Status::SGL_DESCRIPTOR_TYPE_INVALID);
    check(Descriptor::transport_data_block(1024), &[], Status::SGL_DESCRIPTOR_TYPE_INVALID);
    let own = Descriptor::segment(list, 16);
    check(own, &[own], Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS);
    let many = Descriptor::last_segment(LEN, LEN as u32);
    memory.write(LEN, &vec![0; LEN as usize]).unwrap();
    let result = locate(&memory, &entry(many), 1024, Access::Read);
    assert_eq!(result, Err(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS));
}

#[test]
fn sgls_are_refused_where_they_are_not_offered() {
    let mut data = Data::default();
    let pointers = Pointers { sgl: false, ..pointers() };
    let entry = entry(Descriptor::data_block(LEN, 512));
    let result = data.locate(&entry, 512, Access::Read, &memory(), pointers);
    assert_eq!(result, Err(Status::INVALID_FIELD));
    for psdt in [2, 3] {
        let entry = entry.with_cdw0(entry.cdw0().with_psdt(psdt));
        assert_eq!(locate(&memory(), &entry, 512, Access::Read), Err(Status::INVALID_FIELD));
    }
}

#[test]
fn data_goes_both_ways() {
    let memory = memory();
    let mut data = Data::default();
    let entry = SubmissionEntry::new(2).with_prps(LEN + 0xffc, LEN + 0x5000);
    data.locate(&entry, 600, Access::Write, &memory, pointers()).unwrap();
    let bytes: Vec<u8> = (0..600).map(|index| index as u8).collect();
    data.scatter(&memory, &bytes).unwrap();
    let mut back = vec![0; 600];
    data.gather(&memory, &mut back).unwrap();
    assert_eq!(bytes, back);
    let mut tail = [0; 596];
    memory.read(LEN + 0x5000, &mut tail).unwrap();
    assert_eq!(tail, bytes[4..]);
}

proptest! {
    #[test]
    fn any_data_pointer_is_survived(
        words in any::<[u64; 2]>(),
        near in any::<bool>(),
        sgl in any::<bool>(),
        len in 0usize..(1 << 20),
        content in proptest::collection::vec(any::<u64>(), 512),
    ) {
        let memory = memory();
        // Lists full of addresses that are nearly right.
        let content: Vec<u64> = content.iter().map(|word| {
            if near { LEN + (word & 0xff_ff8) } else { *word }
        }).collect();
        memory.write(LEN, content.as_bytes()).unwrap();
        let word = |word: u64| if near { LEN + (word & 0xfff8) } else { word };
        let prps = SubmissionEntry::new(2).with_prps(word(words[0]), word(words[1]));
        let entry = if sgl {
            SubmissionEntry::new(2).with_sgl1(Descriptor::segment(word(words[0]), words[1] as u32))
        } else {
            prps
        };
        let _ = locate(&memory, &entry, len, Access::Write);
    }
}
