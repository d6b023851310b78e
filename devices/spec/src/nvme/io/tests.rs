use super::*;
use proptest::prelude::*;

#[test]
fn fields_stand_alone() {
    check_fields!(
        Flags,
        Dword12,
        Dword15,
        DatasetDword10,
        DatasetAttributes,
        ContextAttributes,
        CopyDword12
    );
    let flags = |flags: Flags| Dword12::default().with_flags(flags.bits()).bits();
    assert_eq!(flags(Flags::NONE.with_lr(true)), 1 << 31);
    assert_eq!(flags(Flags::NONE.with_fua(true)), 1 << 30);
    assert_eq!(flags(Flags::NONE.with_pract(true)), 1 << 29);
    assert_eq!(flags(Flags::NONE.with_prchk(0xff)), 7 << 26);
    assert_eq!(flags(Flags::NONE.with_deac(true)), 1 << 25);
    assert_eq!(flags(Flags::NONE.with_stc(true)), 1 << 24);
    assert_eq!(flags(Flags::NONE.with_dtype(0xff)), 0xf << 20);
    assert_eq!(DatasetAttributes::default().with_ad(true).bits(), 4);
    assert_eq!(CopyDword12::default().with_desfmt(0xff).bits(), 0xf00);
    assert_eq!(CopyDword12::default().with_fua(true).bits(), 1 << 30);
    assert_eq!(CopyDword12::default().with_prinfow(0xff).bits(), 0xf << 26);
    assert_eq!(ContextAttributes::default().with_access_size(0xff).bits(), 0xff00_0000);
}

#[test]
fn block_counts() {
    assert_eq!(BlockCount::new(0), None);
    assert_eq!(BlockCount::new(1), Some(BlockCount::ONE));
    assert_eq!(BlockCount::new(65536), Some(BlockCount::MAX));
    assert_eq!(BlockCount::new(65537), None);
    assert_eq!(BlockCount::new(u32::MAX), None);
    assert_eq!(BlockCount::MAX.get(), 65536);
    assert_eq!(BlockCount::ONE.nlb(), 0);
}

#[test]
fn read_golden_bytes() {
    let blocks = BlockCount::new(8).unwrap();
    let entry = read(1, 0x0102_0304_0506, blocks, Flags::NONE.with_fua(true))
        .with_cid(0x2211)
        .with_prps(0x1000, 0x2000);
    let mut bytes = [0u8; 64];
    bytes[0] = 2;
    bytes[2..4].copy_from_slice(&[0x11, 0x22]);
    bytes[4] = 1;
    bytes[25] = 0x10;
    bytes[33] = 0x20;
    bytes[40..48].copy_from_slice(&[6, 5, 4, 3, 2, 1, 0, 0]);
    bytes[48..52].copy_from_slice(&[7, 0, 0, 0x40]);
    assert_eq!(entry.as_bytes(), bytes);
    let read = SubmissionEntry::read_from_bytes(&bytes).unwrap();
    assert_eq!(
        Command::parse(&read),
        Command::Read(Access::new(1, 0x0102_0304_0506, blocks, Flags::NONE.with_fua(true)))
    );
}

#[test]
fn each_builder_parses_back() {
    let blocks = BlockCount::new(3).unwrap();
    let flags = Flags::NONE.with_lr(true).with_deac(true);
    let access = Access::new(9, 77, blocks, flags);
    let cases = [
        (flush(9), 0x00, Command::Flush { nsid: 9 }),
        (write(9, 77, blocks, flags), 0x01, Command::Write(access)),
        (read(9, 77, blocks, flags), 0x02, Command::Read(access)),
        (
            write_uncorrectable(9, 77, blocks),
            0x04,
            Command::WriteUncorrectable(Access { flags: Flags::NONE, ..access }),
        ),
        (compare(9, 77, blocks, flags), 0x05, Command::Compare(access)),
        (write_zeroes(9, 77, blocks, flags), 0x08, Command::WriteZeroes(access)),
        (verify(9, 77, blocks, flags), 0x0c, Command::Verify(access)),
    ];
    for (entry, opcode, command) in cases {
        assert_eq!(entry.opcode(), opcode);
        assert_eq!(Command::parse(&entry), command);
    }
    let dataset = DatasetManagement::deallocate(9, 256).unwrap();
    assert_eq!((dataset.to_entry().opcode(), dataset.to_entry().cdw10()), (0x09, 255));
    assert_eq!(dataset.to_entry().cdw11(), 4);
    assert_eq!(Command::parse(&dataset.to_entry()), Command::DatasetManagement(dataset));
    let copy = Copy::new(9, u64::MAX, 2).unwrap();
    assert_eq!((copy.to_entry().opcode(), copy.to_entry().cdw12()), (0x19, 1));
    assert_eq!(Command::parse(&copy.to_entry()), Command::Copy(copy));
    assert_eq!(Copy::new(9, 0, 0), None);
    assert_eq!(DatasetManagement::deallocate(9, 257), None);
    assert_eq!(Command::parse(&SubmissionEntry::new(0x7f)), Command::Unknown(Opcode(0x7f)));
}

#[test]
fn ranges_golden_bytes() {
    let range = DatasetRange::new(0x0807_0605_0403_0201, 0x1413_1211);
    assert_eq!(range.as_bytes(), [0, 0, 0, 0, 0x11, 0x12, 0x13, 0x14, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(DatasetRange::read_from_bytes(range.as_bytes()).unwrap(), range);
    let range = CopyRange::new(0x0807_0605_0403_0201, BlockCount::new(0x0403).unwrap());
    let mut bytes = [0u8; 32];
    bytes[8..16].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    bytes[16..18].copy_from_slice(&[2, 4]);
    assert_eq!(range.as_bytes(), bytes);
    bytes[24..32].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let read = CopyRange::read_from_bytes(&bytes).unwrap();
    assert_eq!(read.blocks().get(), 0x0403);
    assert_eq!(
        (read.eilbrt.get(), read.elbat.get(), read.elbatm.get()),
        (0x0403_0201, 0x0605, 0x0807)
    );
}

proptest! {
    #[test]
    fn any_entry_parses(bytes in any::<[u8; 64]>()) {
        let entry = SubmissionEntry::read_from_bytes(&bytes).unwrap();
        let opcode = Opcode(entry.opcode());
        match Command::parse(&entry) {
            Command::Unknown(unknown) => prop_assert_eq!(unknown, opcode),
            Command::Flush { nsid } => prop_assert_eq!(nsid, entry.nsid()),
            Command::Write(access) | Command::Read(access) | Command::WriteUncorrectable(access)
            | Command::Compare(access) | Command::WriteZeroes(access) | Command::Verify(access) => {
                prop_assert_eq!(Access::parse(&access.to_entry(opcode)), access);
                prop_assert_eq!(access.to_entry(opcode).cdw12(), entry.cdw12());
            }
            Command::DatasetManagement(dataset) => {
                prop_assert_eq!(DatasetManagement::parse(&dataset.to_entry()), dataset);
            }
            Command::Copy(copy) => prop_assert_eq!(Copy::parse(&copy.to_entry()), copy),
        }
    }
}
