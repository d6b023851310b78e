//! A client that the fuzzer plays, against the edu and the NVMe model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use uniddrv::vfio_user::capabilities::Capabilities;
use uniddrv::vfio_user::protocol::{
    Command, DeviceInfo, DmaMap, DmaUnmap, Header, IrqInfo, IrqSet, RegionAccess, RegionInfo,
};
use uniddrv_fuzz::{Input, wire::Peer};
use uniddrv_models::nvme::Params;
use uniddrv_models::vfio_user::Session;
use uniddrv_models::{Edu, Host, Model, NvmeModel};
use zerocopy::IntoBytes;

/// The most messages of one client.
const MESSAGES: usize = 64;

/// A payload that the command could have, and how many files come along.
fn right(command: u16, input: &mut Input<'_>) -> (Vec<u8>, usize) {
    let page = u64::from(input.byte() % 24) << 12;
    let address = page;
    let size = u64::from(input.byte() % 18) << 12;
    let access = RegionAccess {
        offset: u64::from(input.byte()) * 4,
        region: u32::from(input.byte() % 9),
        count: 1 << (input.byte() % 4),
    };
    match Command::from_raw(command) {
        Some(Command::Version) => (Capabilities::default().version_payload(1), 0),
        Some(Command::DmaMap) => {
            (DmaMap { argsz: 32, flags: 3, offset: 0, address, size }.as_bytes().to_vec(), 1)
        }
        Some(Command::DmaUnmap) => {
            (DmaUnmap { argsz: 24, flags: 0, address, size }.as_bytes().to_vec(), 0)
        }
        Some(Command::DeviceGetInfo) => {
            (DeviceInfo { argsz: 16, ..Default::default() }.as_bytes().to_vec(), 0)
        }
        Some(Command::DeviceGetRegionInfo) => {
            let info = RegionInfo { argsz: 64, index: access.region, ..Default::default() };
            (info.as_bytes().to_vec(), 0)
        }
        Some(Command::DeviceGetIrqInfo) => {
            let info = IrqInfo { argsz: 16, index: access.region, ..Default::default() };
            (info.as_bytes().to_vec(), 0)
        }
        Some(Command::DeviceSetIrqs) => {
            let set =
                IrqSet { argsz: 20, flags: 0x24, index: access.region % 3, start: 0, count: 1 };
            (set.as_bytes().to_vec(), 1)
        }
        Some(Command::RegionRead) => (access.as_bytes().to_vec(), 0),
        Some(Command::RegionWrite) => {
            let mut data = input.take(access.count as usize).to_vec();
            data.resize(access.count as usize, 0);
            ([access.as_bytes(), &data].concat(), 0)
        }
        _ => (Vec::new(), 0),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let choices = input.byte();
    if choices & 2 == 0 {
        play(&mut Edu::new(None), choices, input);
    } else {
        let params = Params::from_pairs([("size", "64k"), ("queues", "3")]);
        let params = params.expect("right parameters");
        play(&mut NvmeModel::new(params).expect("a model"), choices, input);
    }
});

fn play(model: &mut impl Model, choices: u8, mut input: Input<'_>) {
    let (peer, stream) = Peer::pair();
    let mut session = Session::new(stream);
    let mut host = Host::new();
    if choices & 1 == 0 {
        // Any bytes, in pieces with files between them.
        for _ in 0..MESSAGES {
            let [len, fds] = [input.byte(), input.byte()];
            peer.send(input.take(len.into()), usize::from(fds % 4));
        }
        peer.finish();
        while session.serve(model, &mut host).is_ok() {
            peer.drain();
        }
    } else {
        for index in 0..MESSAGES as u16 {
            if index > 0 && input.is_empty() {
                break;
            }
            let command = if index == 0 { 1 } else { u16::from(input.byte() % 16) };
            let (mut payload, mut fds) = right(command, &mut input);
            let mut header = Header { id: index, command, ..Header::default() };
            let spoiled = if index == 0 { 0 } else { input.byte() };
            if spoiled & 1 != 0 {
                payload = input.spoil(&payload);
            }
            if spoiled & 2 != 0 {
                fds = usize::from(spoiled >> 3);
            }
            if spoiled & 4 != 0 {
                header.flags = input.u32();
            }
            header.size = (Header::SIZE + payload.len()) as u32;
            peer.send(&[header.as_bytes(), &payload].concat(), fds);
            if session.serve(model, &mut host).is_err() {
                break;
            }
            peer.drain();
            model.poll(&mut host);
        }
    }
    model.reset(&mut host);
    host.clear();
    assert_eq!(host.memory.regions(), 0);
}
