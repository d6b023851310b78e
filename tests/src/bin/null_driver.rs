//! The simplest driver that can be served: its device takes everything and keeps nothing, and
//! completes at the next poll.
//!
//! It ends at the step that its ledger names, for tests of what is told of it. How it ends is in
//! the upper half of the word: 0 panic, 1 abort, 2 a stack that overflows, 3 memory that goes
//! away, 4 it exits.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use uniddrv::mapping::Mapping;
use uniddrv::serve::{AdoptError, BlockDriver, DriverLedger, Step, Steps, Table, Work};
use uniddrv::{AttachError, Device, Match, Progress, Window};
use uniddrv_abi::block::Outcome;
use uniddrv_abi::message::{Settings, Target};

struct Null {
    device: Device,
    work: Vec<Work>,
}

enum Deadly {}

impl Steps for Deadly {
    #[inline]
    fn at(ledger: &DriverLedger, step: Step) {
        let (armed, count) = ledger.armed();
        if armed & 0xffff_ffff != step as u64 || count == 0 {
            return;
        }
        ledger.arm(armed, count - 1);
        if count == 1 {
            end(armed >> 32, step);
        }
    }
}

#[cold]
fn end(how: u64, step: Step) {
    match how {
        0 => panic!("armed at {step:?}"),
        1 => std::process::abort(),
        2 => drop(overflow(&[how; 512])),
        3 => touch_what_is_gone(),
        _ => std::process::exit(3),
    }
}

#[expect(unconditional_recursion, reason = "it is to overflow the stack")]
fn overflow(words: &[u64; 512]) -> u64 {
    let more = words.map(|word| std::hint::black_box(word + 1));
    overflow(&more) + more[0]
}

fn touch_what_is_gone() {
    let file = memfd_create("gone", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 4096).unwrap();
    let mapping = Mapping::populated(file.as_fd(), 0, 4096).unwrap();
    let window = Window::mapped(Arc::new(mapping), 0, 4096).unwrap();
    ftruncate(&file, 0).unwrap();
    window.read32(0);
}

impl Null {
    fn new(device: Device, table: Option<&mut Table<Deadly>>) -> Self {
        if let Some(table) = table {
            for (slot, ..) in table.submissions() {
                table.submit_again(slot);
            }
        }
        Self { device, work: Vec::new() }
    }
}

impl BlockDriver for Null {
    type Steps = Deadly;
    const MATCHES: &'static [Match] = &[];

    fn attach(device: Device, _: &DriverLedger, _: &Settings) -> Result<Self, AttachError> {
        tracing::info!(address = %device.address(), "nothing was brought up");
        Ok(Self::new(device, None))
    }

    fn adopt(
        device: Device,
        _: &DriverLedger,
        _: &Settings,
        table: &mut Table<Deadly>,
    ) -> Result<Self, (AdoptError, Device)> {
        Ok(Self::new(device, Some(table)))
    }

    fn recover(
        device: Device,
        _: &DriverLedger,
        _: &Settings,
        table: &mut Table<Deadly>,
    ) -> Result<Self, AttachError> {
        Ok(Self::new(device, Some(table)))
    }

    fn targets(&self) -> Vec<Target> {
        vec![Target {
            path: "ns1".into(),
            id: 1,
            block_size: 512,
            blocks: 1 << 40,
            max_transfer: 1 << 20,
            volatile_write_cache: false,
        }]
    }

    fn identity(&self) -> (&'static str, Vec<u8>) {
        ("null", Vec::new())
    }

    fn poll(&mut self, table: &mut Table<Deadly>) -> Progress {
        for work in self.work.drain(..) {
            if let Some(slot) = table.lookup(work.cid) {
                table.begin(slot);
                table.finish(slot, Outcome::Success);
            }
        }
        table.end();
        table.publish();
        table.release();
        table.take(64, &mut self.work);
        for work in &self.work {
            table.begin(work.slot);
            table.submitted(work.slot, 0);
        }
        table.end();
        if self.work.is_empty() { Progress::Idle } else { Progress::Busy }
    }

    fn gone(&self) -> Option<String> {
        None
    }

    fn shut_down(self) {
        drop(self.device);
    }
}

uniddrv::driver_program!(Null);
