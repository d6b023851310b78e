//! A server that the fuzzer plays: all its replies are there before the client asks.
#![no_main]

use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use uniddrv::vfio_user::protocol::{
    CapabilityHeader, DeviceInfo, Header, IrqInfo, RegionAccess, RegionInfo, SparseArea,
    SparseMmap, header_flags,
};
use uniddrv::vfio_user::{Client, Timeouts};
use uniddrv::{Arena, Interrupt, InterruptKind, Transport, Window};
use uniddrv_fuzz::{Input, wire::Peer};
use zerocopy::IntoBytes;

/// Messages until a client is connected, where nothing is asked for twice.
const CONNECT: u16 = 14;

/// The right payload of reply `index`, and how many files come along.
fn right(index: u16) -> (Vec<u8>, usize) {
    let argsz = 32;
    let payload = match index {
        0 => b"\0\0\x01\0{\"capabilities\":{\"max_msg_fds\":2}}\0".to_vec(),
        1 => DeviceInfo { argsz: 16, flags: 3, num_regions: 9, num_irqs: 5 }.as_bytes().to_vec(),
        2 => {
            let info = RegionInfo {
                argsz: 80,
                flags: 15,
                index: 0,
                cap_offset: 32,
                size: 0x8000,
                offset: 0,
            };
            let mut payload = info.as_bytes().to_vec();
            payload.extend(CapabilityHeader { id: 1, version: 1, next: 0 }.as_bytes());
            payload.extend(SparseMmap { nr_areas: 2, reserved: 0 }.as_bytes());
            payload.extend(SparseArea { offset: 0x1000, size: 0x1000 }.as_bytes());
            payload.extend(SparseArea { offset: 0x4000, size: 0x2000 }.as_bytes());
            return (payload, 1);
        }
        3..=7 => RegionInfo { argsz, index: u32::from(index - 2), ..Default::default() }
            .as_bytes()
            .to_vec(),
        8 => RegionInfo { argsz, flags: 3, index: 7, size: 4096, ..Default::default() }
            .as_bytes()
            .to_vec(),
        9..=13 => {
            let kind = u32::from(index - 9);
            IrqInfo { argsz: 16, flags: 1, index: kind, count: 3 * u32::from(kind == 2) }
                .as_bytes()
                .to_vec()
        }
        14 => {
            let access = RegionAccess { offset: 0, region: 7, count: 4 };
            [access.as_bytes(), &[1, 2, 3, 4]].concat()
        }
        15 => RegionAccess { offset: 8, region: 0, count: 8 }.as_bytes().to_vec(),
        _ => Vec::new(),
    };
    (payload, 0)
}

fn play(peer: &Peer, bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.byte() & 1 == 0 {
        // Any bytes, in pieces with files between them.
        while !input.is_empty() {
            let [len, fds] = [input.byte(), input.byte()];
            peer.send(input.take(len.into()), usize::from(fds % 4));
        }
    } else {
        // Replies in the right order, more or less right.
        for id in 0..CONNECT + 8 {
            let spoiled = input.byte();
            let (payload, fds) = right(id);
            let mut header = Header { id, flags: header_flags::REPLY, ..Header::default() };
            if spoiled == 0 {
                header.size = (Header::SIZE + payload.len()) as u32;
                peer.send(&[header.as_bytes(), &payload].concat(), fds);
                continue;
            }
            let payload = input.spoil(&payload);
            header.size = (Header::SIZE + payload.len()) as u32;
            let header = match spoiled & 3 {
                0 => input.spoil(header.as_bytes()),
                1 => header.error_reply(input.u32()).as_bytes().to_vec(),
                _ => header.as_bytes().to_vec(),
            };
            let fds = if spoiled & 4 == 0 { fds } else { usize::from(spoiled >> 4) };
            peer.send(&[header.as_slice(), &payload].concat(), fds);
        }
    }
    peer.finish();
}

fn arena() -> &'static Arc<Arena> {
    static ARENA: OnceLock<Arc<Arena>> = OnceLock::new();
    ARENA.get_or_init(|| Arc::new(Arena::new(1).expect("memory for an arena")))
}

fuzz_target!(|bytes: &[u8]| {
    let (peer, stream) = Peer::pair();
    play(&peer, bytes);
    let patience = Duration::from_secs(2);
    let Ok(client) = Client::over(stream, Timeouts { exchange: patience, slow: patience }) else {
        return;
    };
    let client = Arc::new(client);
    let _ = client.read_config(0, &mut [0; 4]);
    let _ = client.write_bar(0, 8, &[0; 8]);
    let _ = client.map_dma(arena(), 0x20_0000);
    let _ = client.unmap_dma(0x20_0000, 0x20_0000);
    let interrupts: Vec<_> = (0..3).map(|_| Interrupt::new().expect("eventfd")).collect();
    let fds: Vec<_> = interrupts.iter().map(AsFd::as_fd).collect();
    let _ = client.set_interrupts(InterruptKind::Msix, &fds);
    let _ = client.reset();
    assert!(client.dma_limits().granule.is_power_of_two());
    for bar in 0..6 {
        let info = client.bar(bar).expect("a BAR that is asked for");
        for area in info.mappable {
            assert!(area.start < area.end && area.end <= info.size);
            // What can be mapped can be touched, even where the file is too short for it.
            let last = area.end - 0x1000..area.end;
            if let Ok(mapping) = client.map_bar(bar, last) {
                let window = Window::mapped(mapping, 0, 0x1000).expect("a page");
                window.write32(0xffc, 1);
                window.read32(0);
            }
        }
    }
});
