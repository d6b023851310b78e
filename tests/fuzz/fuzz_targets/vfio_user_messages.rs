//! What reads the messages of either end, without a socket between: far more of them a second.
#![no_main]

use libfuzzer_sys::fuzz_target;
use uniddrv::vfio_user::capabilities::Capabilities;
use uniddrv::vfio_user::protocol::{
    CapabilityHeader, MINOR, RegionInfo, SparseArea, SparseMmap, region_flags,
};
use uniddrv::vfio_user::region::{self, RegionReply};
use uniddrv_fuzz::Input;
use uniddrv_models::vfio_user::request::{self, MAX_DATA, Request};
use zerocopy::IntoBytes;

const PAGE: u64 = 4096;

/// A description of a region with some areas, each field nearly right.
fn description(input: &mut Input<'_>) -> Vec<u8> {
    let pages = |input: &mut Input<'_>| u64::from(input.byte() % 32) * PAGE;
    let info = RegionInfo {
        argsz: 32,
        flags: u32::from(input.byte() % 16) | region_flags::MMAP,
        index: 0,
        cap_offset: 32,
        size: pages(input),
        offset: pages(input),
    };
    let mut payload = info.as_bytes().to_vec();
    let nr_areas = u32::from(input.byte() % 5);
    payload.extend(CapabilityHeader { id: 1, version: 1, next: 0 }.as_bytes());
    payload.extend(SparseMmap { nr_areas, reserved: 0 }.as_bytes());
    for _ in 0..nr_areas {
        let area = SparseArea { offset: pages(input), size: pages(input) };
        payload.extend(area.as_bytes());
    }
    payload
}

fn read_region(payload: &[u8], fds: usize) {
    let Ok(RegionReply::Complete(region)) = region::parse(0, payload, fds) else { return };
    for (index, area) in region.mappable.iter().enumerate() {
        assert!(area.start < area.end && area.end <= region.size);
        assert!(area.start % PAGE == 0 && area.end % PAGE == 0);
        assert!(region.file_offset.checked_add(area.end).is_some());
        assert!(fds == 1 || fds == region.mappable.len());
        for other in &region.mappable[..index] {
            assert!(other.end <= area.start || area.end <= other.start);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let [which, fds] = [input.byte(), input.byte()];
    let fds = usize::from(fds % 20);
    match which % 4 {
        0 => read_region(input.rest(), fds),
        1 => {
            let right = description(&mut input);
            read_region(&input.spoil(&right), fds % 6);
        }
        2 => {
            if let Ok((minor, capabilities)) = Capabilities::parse_version(input.rest()) {
                assert!(minor <= MINOR && capabilities.max_msg_fds > 0);
                assert!(capabilities.pgsizes > 0 && capabilities.max_data_xfer_size > 0);
            }
        }
        _ => {
            let command = u16::from(input.byte());
            match request::parse(command, input.rest(), fds) {
                Ok(Request::DmaMap(map)) => assert!(fds == 1 && map.flags != 0),
                Ok(Request::ConnectIrqs { start, count, .. }) => {
                    assert!(start.checked_add(count).is_some() && count > 0);
                    assert!(fds == 0 || fds == count as usize);
                }
                Ok(Request::Read(access)) => {
                    assert!((1..=MAX_DATA).contains(&(access.count as usize)));
                }
                Ok(Request::Write(access, data)) => {
                    assert!((1..=MAX_DATA).contains(&data.len()));
                    assert_eq!(data.len(), access.count as usize);
                }
                _ => {}
            }
        }
    }
});
