//! What a controller says of a namespace, and what is asked of it.

use proptest::prelude::*;
use uniddrv_spec::nvme::identify::{Dps, Flbas, LbaFormat, Oncs};
use zerocopy::FromBytes;

use super::*;
use crate::testing::Memory;

const MAX: usize = 128 << 10;

fn controller() -> IdentifyController {
    let mut said = IdentifyController::default();
    let all = Oncs::default()
        .with_compare(true)
        .with_write_uncorrectable(true)
        .with_dataset_management(true)
        .with_write_zeroes(true)
        .with_verify(true)
        .with_copy(true);
    said.oncs = all.bits().into();
    said
}

fn said(blocks: u64, lbads: u8, ms: u16) -> IdentifyNamespace {
    let mut said = IdentifyNamespace::default();
    said.nsze = blocks.into();
    said.lbaf[0] = LbaFormat::new(lbads, ms);
    (said.mssrl, said.mcl, said.msrc) = (100.into(), 150.into(), 2);
    said
}

fn namespace(blocks: u64, lbads: u8) -> Namespace {
    Namespace::check(5, &said(blocks, lbads, 0), &controller(), MAX).unwrap()
}

#[test]
fn what_cannot_be_is_refused() {
    let check = |said: &IdentifyNamespace| Namespace::check(5, said, &controller(), MAX);
    for lbads in [0, 1, 8, 18, 31, 32, 63, 64, 255] {
        let error = check(&said(1, lbads, 0)).unwrap_err();
        assert_eq!(error, NamespaceError::BlockSize { nsid: 5, lbads, max: MAX });
    }
    for lbads in 9..=17 {
        assert_eq!(check(&said(1, lbads, 0)).unwrap().block_size(), 1 << lbads);
    }
    let mut absent = said(1, 9, 0);
    absent.flbas = Flbas::default().with_format(3);
    assert_eq!(check(&absent).unwrap_err(), NamespaceError::Format { nsid: 5, format: 3 });
    let error = check(&said(1 << 55, 9, 0)).unwrap_err();
    assert_eq!(error, NamespaceError::Size { nsid: 5, blocks: 1 << 55, block_size: 512 });
    assert!(check(&said((1 << 55) - 1, 9, 0)).is_ok());
}

#[test]
fn metadata_has_its_place() {
    let check = |said: &IdentifyNamespace| Namespace::check(1, said, &controller(), MAX).unwrap();
    let mut said = said(100, 9, 8);
    assert_eq!(check(&said).metadata(), Metadata::Separate(8));
    let read = check(&said).read(0, 4).unwrap();
    assert_eq!((read.len, read.metadata, read.writes), (2048, 32, false));
    said.flbas = said.flbas.with_extended(true);
    assert_eq!(check(&said).metadata(), Metadata::Interleaved(8));
    let read = check(&said).read(0, 4).unwrap();
    assert_eq!((read.len, read.metadata), (4 * 520, 0));
    assert_eq!(check(&said).max_blocks(), MAX as u32 / 520);
    said.dps = Dps::default().with_pit(1);
    assert_eq!(check(&said).metadata(), Metadata::Stripped { reference_tags: true });
    let write = check(&said).write(7, 4, false).unwrap();
    assert_eq!((write.len, write.metadata), (2048, 0));
    let access = io::Access::parse(&write.entry);
    assert!(access.flags.pract());
    assert_eq!(access.reference_tag, 7);
    said.dps = Dps::default().with_pit(3);
    assert_eq!(check(&said).metadata(), Metadata::Stripped { reference_tags: false });
    assert!(!io::Access::parse(&check(&said).verify(7, 4).unwrap().entry).flags.pract());
}

#[test]
fn commands_stay_inside() {
    let namespace = namespace(1000, 9);
    let outside = |lba, blocks| SubmitError::OutOfRange { lba, blocks, available: 1000 };
    for (lba, blocks) in [(1000, 1), (999, 2), (u64::MAX, 1), (u64::MAX - 1, 256), (745, 256)] {
        let expected = outside(lba, blocks.into());
        assert_eq!(namespace.read(lba, blocks).unwrap_err(), expected);
        assert_eq!(namespace.write(lba, blocks, true).unwrap_err(), expected);
        assert_eq!(namespace.compare(lba, blocks).unwrap_err(), expected);
        assert_eq!(namespace.verify(lba, blocks).unwrap_err(), expected);
        assert_eq!(namespace.write_zeroes(lba, blocks, true).unwrap_err(), expected);
        assert_eq!(namespace.write_uncorrectable(lba, blocks).unwrap_err(), expected);
    }
    assert!(namespace.read(999, 1).is_ok() && namespace.read(744, 256).is_ok());
}

#[test]
fn lengths_have_limits() {
    let small = namespace(1 << 30, 9);
    let most = small.max_blocks();
    assert_eq!(most as usize, MAX / 512);
    assert_eq!(small.read(0, 0).unwrap_err(), SubmitError::Unaligned(0));
    let too_large = SubmitError::TooLarge { len: MAX + 512, max: MAX as u32 };
    assert_eq!(small.write(0, most + 1, false).unwrap_err(), too_large);
    assert_eq!(small.compare(0, most + 1).unwrap_err(), too_large);
    assert!(small.read(0, most).is_ok());
    // Without data there is only the width of the field.
    assert_eq!(small.verify(0, 0).unwrap_err(), SubmitError::Unaligned(0));
    assert!(small.write_zeroes(0, 65_536, false).is_ok());
    let too_large = SubmitError::TooLarge { len: 65_537 * 512, max: 65_536 * 512 };
    assert_eq!(small.write_zeroes(0, 65_537, false).unwrap_err(), too_large);
    assert!(matches!(small.verify(0, u32::MAX).unwrap_err(), SubmitError::TooLarge { .. }));
    // A largest transfer beyond what a command can say.
    let huge = Namespace::check(1, &said(1 << 30, 9, 0), &controller(), usize::MAX).unwrap();
    assert_eq!(huge.max_blocks(), 65_536);
    assert_eq!(huge.info().max_transfer, 65_536 * 512);
}

#[test]
fn what_is_not_offered_is_unsupported() {
    let none = IdentifyController::default();
    let namespace = Namespace::check(1, &said(100, 9, 0), &none, MAX).unwrap();
    let mut buffer = Memory::new().device.dma_buffer(4096).unwrap();
    let unsupported = Some(SubmitError::Unsupported);
    assert_eq!(namespace.compare(0, 1).err(), unsupported);
    assert_eq!(namespace.verify(0, 1).err(), unsupported);
    assert_eq!(namespace.write_zeroes(0, 1, false).err(), unsupported);
    assert_eq!(namespace.write_uncorrectable(0, 1).err(), unsupported);
    assert_eq!(namespace.deallocate(&[(0, 1)], &mut buffer).err(), unsupported);
    assert_eq!(namespace.copy(&[(0, 1)], 1, &mut buffer).err(), unsupported);
    assert!(namespace.read(0, 1).is_ok() && namespace.write(0, 1, false).is_ok());
    assert!(!namespace.info().volatile_write_cache);
}

#[test]
fn ranges_are_written_into_the_buffer() {
    let memory = Memory::new();
    let mut buffer = memory.device.dma_buffer(4096).unwrap();
    let namespace = namespace(1000, 12);
    let command = namespace.deallocate(&[(7, 3), (900, 100)], &mut buffer).unwrap();
    assert_eq!(command.len, 32);
    let range = |index: usize| DatasetRange::read_from_prefix(&buffer.as_slice()[16 * index..]);
    assert_eq!(range(0).unwrap().0, DatasetRange::new(7, 3));
    assert_eq!(range(1).unwrap().0, DatasetRange::new(900, 100));
    let command = namespace.copy(&[(1, 2), (5, 100)], 300, &mut buffer).unwrap();
    assert_eq!(command.len, 64);
    let copy = Copy::parse(&command.entry);
    assert_eq!((copy.nsid, copy.sdlba, copy.ranges()), (5, 300, 2));
    let (second, _) = CopyRange::read_from_prefix(&buffer.as_slice()[32..]).unwrap();
    assert_eq!((second.slba.get(), second.blocks().get()), (5, 100));
}

#[test]
fn ranges_have_limits() {
    let memory = Memory::new();
    let mut buffer = memory.device.dma_buffer(4096).unwrap();
    let mut short = memory.device.dma_buffer(31).unwrap();
    let namespace = namespace(1000, 9);
    let range = Some(SubmitError::OutOfRange { lba: 1000, blocks: 1, available: 1000 });
    assert_eq!(namespace.deallocate(&[], &mut buffer).err(), Some(SubmitError::Unaligned(0)));
    let many = vec![(0, 1); 257];
    assert_eq!(namespace.deallocate(&many, &mut buffer).err(), Some(SubmitError::Unaligned(257)));
    assert!(namespace.deallocate(&many[1..], &mut buffer).is_ok());
    assert_eq!(namespace.deallocate(&[(0, 1), (1000, 1)], &mut buffer).err(), range);
    let two = [(0, 1), (1, 1)];
    assert_eq!(namespace.deallocate(&two, &mut short).err(), Some(SubmitError::Buffer));
    assert!(namespace.deallocate(&two[1..], &mut short).is_ok());

    let mut copy = |ranges: &[(u64, u32)], to| namespace.copy(ranges, to, &mut buffer).err();
    assert_eq!(copy(&[], 0), Some(SubmitError::Unaligned(0)));
    // 3 ranges of 100 blocks, 150 in all.
    assert_eq!(copy(&[(0, 1); 4], 500), Some(SubmitError::Unaligned(4)));
    assert_eq!(copy(&[(0, 1); 3], 500), None);
    assert!(matches!(copy(&[(0, 101)], 500), Some(SubmitError::TooLarge { .. })));
    assert!(matches!(copy(&[(0, 0)], 500), Some(SubmitError::TooLarge { .. })));
    assert!(matches!(copy(&[(0, 100), (200, 51)], 500), Some(SubmitError::TooLarge { .. })));
    assert_eq!(copy(&[(0, 100), (200, 50)], 850), None);
    assert!(matches!(copy(&[(0, 100), (200, 50)], 851), Some(SubmitError::OutOfRange { .. })));
    assert_eq!(copy(&[(1000, 1)], 0), range);
    assert_eq!(namespace.copy(&[(0, 1)], 9, &mut short).err(), Some(SubmitError::Buffer));
}

proptest! {
    /// Whatever a controller says, a namespace that is accepted gives commands that stay
    /// inside it and inside the largest transfer.
    #[test]
    fn any_description_is_harmless(
        bytes in prop::collection::vec(any::<u8>(), 256),
        nsze in prop_oneof![0u64..5000, any::<u64>()],
        lbads in 8u8..20,
        lba in prop_oneof![0u64..5000, any::<u64>()],
        blocks in prop_oneof![0u32..300, any::<u32>()],
    ) {
        let mut page = vec![0; 4096];
        page[..256].copy_from_slice(&bytes);
        let mut said = IdentifyNamespace::read_from_bytes(&page).unwrap();
        said.nsze = nsze.into();
        for format in &mut said.lbaf {
            format.lbads = lbads;
        }
        if let Ok(namespace) = Namespace::check(1, &said, &controller(), MAX)
            && let Ok(command) = namespace.read(lba, blocks)
        {
            prop_assert!(command.len > 0 && command.len <= MAX);
            prop_assert!(command.len >= blocks as usize * namespace.block_size() as usize);
            prop_assert!(lba + u64::from(blocks) <= namespace.blocks());
            let access = io::Access::parse(&command.entry);
            prop_assert_eq!((access.slba, access.blocks.get()), (lba, blocks));
        }
    }
}
