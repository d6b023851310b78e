//! A client that does what no client should: whatever it says, the model goes on, and a sane
//! client after it finds a working controller.

use std::os::fd::{AsFd, OwnedFd};

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use uniddrv::Transport;
use uniddrv_spec::nvme::entry::SubmissionEntry;
use uniddrv_spec::nvme::io::flush;
use uniddrv_spec::nvme::registers::{completion_doorbell, submission_doorbell};
use uniddrv_spec::nvme::status::Status;
use zerocopy::FromBytes;

use super::client::*;

/// Something that a client may do.
#[derive(Clone, Debug)]
enum Step {
    Register(u16, u32),
    RegisterOfEight(u16, u64),
    Byte(u16, u8),
    Doorbell(u8, u32),
    Command(bool, [u8; 64]),
    NearCommand(bool, u8, [u32; 8]),
    Memory(u32, Vec<u8>),
    Config(u16, u32),
    Table(u16, u32),
    Poll,
    Remap,
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (any::<u16>(), any::<u32>()).prop_map(|(o, v)| Step::Register(o & 0x3fc, v)),
        1 => (any::<u16>(), any::<u64>()).prop_map(|(o, v)| Step::RegisterOfEight(o, v)),
        1 => (any::<u16>(), any::<u8>()).prop_map(|(o, v)| Step::Byte(o, v)),
        4 => (any::<u8>(), 0u32..20).prop_map(|(q, v)| Step::Doorbell(q, v)),
        1 => (any::<u8>(), any::<u32>()).prop_map(|(q, v)| Step::Doorbell(q, v)),
        2 => (any::<bool>(), any::<[u8; 32]>()).prop_map(|(admin, half)| {
            let mut bytes = [0; 64];
            bytes[..32].copy_from_slice(&half);
            bytes[32..].copy_from_slice(&half);
            Step::Command(admin, bytes)
        }),
        8 => (any::<bool>(), any::<u8>(), any::<[u32; 8]>())
            .prop_map(|(admin, opcode, words)| Step::NearCommand(admin, opcode, words)),
        2 => (any::<u32>(), proptest::collection::vec(any::<u8>(), 0..256))
            .prop_map(|(place, data)| Step::Memory(place, data)),
        1 => (any::<u16>(), any::<u32>()).prop_map(|(o, v)| Step::Config(o, v)),
        1 => (any::<u16>(), any::<u32>()).prop_map(|(o, v)| Step::Table(o, v)),
        2 => Just(Step::Poll),
        1 => Just(Step::Remap),
        1 => Just(Step::Reset),
    ]
}

fn perform(client: &mut Client, step: Step) {
    let write = |bar, offset: u64, data: &[u8]| {
        let _ = client.inline.write_bar(bar, offset, data);
    };
    match step {
        Step::Register(offset, value) => write(0, offset.into(), &value.to_le_bytes()),
        Step::RegisterOfEight(offset, value) => write(0, offset.into(), &value.to_le_bytes()),
        Step::Byte(offset, value) => write(0, offset.into(), &[value]),
        Step::Doorbell(index, value) => {
            // Nearly always one that there is.
            let index = if index < 200 { index % 4 } else { index };
            write(0, 0x1000 + 4 * u64::from(index), &value.to_le_bytes());
        }
        Step::Command(admin, bytes) => {
            let entry = SubmissionEntry::read_from_bytes(&bytes).unwrap();
            client.submit(u16::from(!admin), entry);
            client.reap(u16::from(!admin));
        }
        Step::NearCommand(admin, opcode, words) => {
            // Commands that are nearly right, which go further.
            let opcode = if admin { opcode % 0x20 } else { opcode % 0x1a };
            let near = |word: u32| match word % 4 {
                0 => DATA + u64::from(word & 0xf_fff8),
                1 => LIST + u64::from(word & 0xf_f000),
                2 => BASE + LEN - 4096,
                _ => u64::from(word) << 12,
            };
            let small = |word: u32| if word.is_multiple_of(3) { word } else { word & 0xff };
            let mut entry = SubmissionEntry::new(opcode)
                .with_nsid(words[0] % 4)
                .with_prps(near(words[1]), near(words[2]))
                .with_cdw10(small(words[3]))
                .with_cdw11(small(words[4]))
                .with_cdw12(small(words[5]))
                .with_cdw13(if words[6] % 2 == 0 { 0 } else { words[6] });
            if words[7].is_multiple_of(3) {
                entry = entry.with_cdw0(entry.cdw0().with_psdt((words[7] >> 8) as u8 & 3));
            }
            client.submit(u16::from(!admin), entry);
            client.reap(u16::from(!admin));
        }
        Step::Memory(place, data) => {
            client.put(BASE + u64::from(place) % (LEN - 256), &data);
        }
        Step::Config(offset, value) => {
            let _ = client.inline.write_config(offset.into(), &value.to_le_bytes());
        }
        Step::Table(offset, value) => write(4, offset.into(), &value.to_le_bytes()),
        Step::Poll => {
            client.inline.poll();
        }
        Step::Remap => client.remap(),
        Step::Reset => client.inline.reset().unwrap(),
    }
}

fn survives(pairs: &[(&str, &str)], steps: Vec<Step>) {
    let mut client = Client::new(pairs);
    for step in steps {
        perform(&mut client, step);
    }
    // A sane client follows.
    client.inline.reset().unwrap();
    client.inline.write_config(4, &[6, 0]).unwrap();
    client.enable();
    assert!(client.csts().rdy());
    client.create_queues(1);
    for _ in 0..2 * ENTRIES {
        assert_eq!(client.io(flush(1)), Status::SUCCESS);
    }
}

impl Client {
    fn remap(&self) {
        self.unmap();
        self.inline.poll();
        self.map();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_client_is_survived(steps in proptest::collection::vec(step(), 0..120)) {
        survives(&[], steps);
    }

    #[test]
    fn any_client_is_survived_with_shadow_doorbells(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        survives(&[("shadow-doorbells", "on"), ("queues", "2"), ("namespaces", "3")], steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_client_is_survived_with_faults(steps in proptest::collection::vec(step(), 0..120)) {
        let plan = "seed=1,drop=0.1,delay=0.1:1us,duplicate=0.2,reorder=0.2,wrong-phase=0.05";
        survives_faults(plan, steps);
    }
}

fn survives_faults(plan: &str, steps: Vec<Step>) {
    let mut client = Client::new(&[("fault", plan)]);
    for step in steps {
        perform(&mut client, step);
    }
    client.inline.reset().unwrap();
    client.inline.write_config(4, &[6, 0]).unwrap();
    client.enable();
    assert!(client.csts().rdy());
}

#[test]
fn a_queue_of_the_most_entries_beyond_memory_does_no_harm() {
    let mut client = Client::off(&[("entries", "65536")]);
    client.enable();
    client.create_queues(1);
    // The admin queues are moved to where nothing is mapped.
    client.disable();
    client.set_admin_queues();
    client.write32(0x24, 0x0fff_0fff);
    client.write32(0x28, 0);
    client.write32(0x2c, 0xffff_ffff);
    client.write32(0x14, Client::cc().bits());
    assert!(client.csts().rdy());
    client.write32(0x1000, 5);
    assert!(client.csts().cfs());
}

#[test]
fn a_client_that_truncates_its_memory_does_no_harm() {
    let mut client = Client::new(&[]);
    client.unmap();
    let map = |fd: &OwnedFd| {
        client.inline.with(|_, host| host.memory.map(BASE, LEN, fd.as_fd(), 0, true)).unwrap();
    };
    let memory = memfd_create("client", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memory, LEN).unwrap();
    map(&memory);
    client.inline.reset().unwrap();
    client.inline.write_config(4, &[6, 0]).unwrap();
    client.enable();
    client.create_queues(1);
    assert_eq!(client.io(flush(1)), Status::SUCCESS);
    ftruncate(&memory, 0).unwrap();
    for tail in 0..ENTRIES {
        client.write32(submission_doorbell(1, 0), tail);
        client.write32(completion_doorbell(1, 0), tail);
    }
    client.unmap();
    client.map();
    client.disable();
    client.enable();
    client.create_queues(1);
    assert_eq!(client.io(flush(1)), Status::SUCCESS);
}
