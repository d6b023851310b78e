//! An NVMe driver that has the controller access whatever address a client names, for tests of
//! the IOMMU. A request's block number is a page of the device's address space:
//!
//! | request | what the controller is told |
//! |---|---|
//! | read | Identify Controller into that page; into the request's buffer for block 0 |
//! | write | to take its timestamp from that page, and to put it into the request's buffer |
//! | discard | Identify Controller into the buffer that a read of block 0 came with last |
//!
//! The request ends as the last command did that failed.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use uniddrv::barrier::{observe_device, publish_to_device};
use uniddrv::serve::{AdoptError, BlockDriver, DriverLedger, Table, Undisturbed, Work};
use uniddrv::{AttachError, Device, DmaRing, Match, Progress, Register32, Window};
use uniddrv_abi::block::{Opcode, Outcome};
use uniddrv_abi::message::{Settings, Target};
use uniddrv_spec::nvme::admin::{FeatureId, GetFeatures, Identify, SetFeatures};
use uniddrv_spec::nvme::entry::{CompletionEntry, SubmissionEntry};
use uniddrv_spec::nvme::registers::{Acq, Aqa, Asq, Cap, Cc, Csts, DOORBELLS};
use uniddrv_spec::nvme::registers::{completion_doorbell, submission_doorbell};
use uniddrv_spec::nvme::status::Status;

const PAGE: u64 = 4096;
const ENTRIES: usize = 64;

struct Stray {
    device: Device,
    registers: Window,
    submission: DmaRing<SubmissionEntry>,
    completion: DmaRing<CompletionEntry>,
    tail_doorbell: Register32,
    head_doorbell: Register32,
    /// Commands ever sent, and ended.
    sent: usize,
    ended: usize,
    /// The request that is being worked on, what is still to be done for it, how that went.
    slot: Option<u16>,
    commands: VecDeque<SubmissionEntry>,
    outcome: Outcome,
    work: Vec<Work>,
    earlier: u64,
}

impl Stray {
    fn send(&mut self, command: SubmissionEntry) {
        self.submission.write(self.sent % ENTRIES, command.with_cid(self.sent as u16));
        self.sent += 1;
        publish_to_device();
        self.tail_doorbell.write((self.sent % ENTRIES) as u32);
    }

    /// How the command that is on its way ended, once it has.
    fn ended(&mut self) -> Option<Status> {
        let place = self.ended % ENTRIES;
        let phase = (self.ended / ENTRIES).is_multiple_of(2);
        if self.completion.read(place).phase() != phase {
            return None;
        }
        observe_device();
        let status = self.completion.read(place).status();
        self.ended += 1;
        self.head_doorbell.write((self.ended % ENTRIES) as u32);
        Some(status)
    }

    fn plan(&mut self, work: &Work) {
        let timestamp = FeatureId::TIMESTAMP;
        let identify = |address| Identify::controller().to_entry().with_prps(address, 0);
        self.slot = Some(work.slot);
        self.outcome = Outcome::Success;
        match work.opcode {
            Opcode::Read if work.lba == 0 => {
                self.earlier = work.iova;
                self.commands.push_back(identify(work.iova));
            }
            Opcode::Read => self.commands.push_back(identify(work.lba * PAGE)),
            Opcode::Write => {
                let set = SetFeatures::new(timestamp, 0).to_entry();
                let get = GetFeatures::new(timestamp).to_entry();
                // A write of block 0 is of the client's own.
                let from = if work.lba == 0 { work.iova } else { work.lba * PAGE };
                self.commands.push_back(set.with_prps(from, 0));
                self.commands.push_back(get.with_prps(work.iova, 0));
            }
            Opcode::Discard => self.commands.push_back(identify(self.earlier)),
            Opcode::Flush | Opcode::WriteZeroes => self.outcome = Outcome::Invalid,
        }
    }
}

impl BlockDriver for Stray {
    type Steps = Undisturbed;

    const MATCHES: &'static [Match] = &[Match::class(0x01_0802)];

    fn attach(device: Device, _: &DriverLedger, _: &Settings) -> Result<Self, AttachError> {
        let bar = device.bar(0)?;
        let registers = bar.window(0..DOORBELLS as u64)?;
        let doorbells = bar.window(DOORBELLS as u64..DOORBELLS as u64 + PAGE)?;
        let cap = Cap::from_bits(registers.read64(Cap::OFFSET));
        let claim =
            |claim: String| AttachError::Device { address: device.address().clone(), claim };
        let doorbell = |offset: usize| {
            doorbells.register32(offset - DOORBELLS).map_err(|error| claim(error.to_string()))
        };
        let tail_doorbell = doorbell(submission_doorbell(0, cap.dstrd()))?;
        let head_doorbell = doorbell(completion_doorbell(0, cap.dstrd()))?;
        enable(&registers, false).map_err(claim)?;
        let memory = || device.dma_buffer(PAGE as usize);
        let submission =
            DmaRing::new(memory()?, ENTRIES).map_err(|error| claim(error.to_string()))?;
        let completion =
            DmaRing::new(memory()?, ENTRIES).map_err(|error| claim(error.to_string()))?;
        device.set_bus_master(true)?;
        let size = ENTRIES as u16 - 1;
        registers.write32(Aqa::OFFSET, Aqa::default().with_asqs(size).with_acqs(size).bits());
        registers.write64(Asq::OFFSET, submission.iova());
        registers.write64(Acq::OFFSET, completion.iova());
        enable(&registers, true).map_err(claim)?;
        Ok(Self {
            registers,
            submission,
            completion,
            tail_doorbell,
            head_doorbell,
            sent: 0,
            ended: 0,
            slot: None,
            commands: VecDeque::new(),
            outcome: Outcome::Success,
            work: Vec::new(),
            earlier: 0,
            device,
        })
    }

    fn adopt(
        device: Device,
        _: &DriverLedger,
        _: &Settings,
        _: &mut Table<Undisturbed>,
    ) -> Result<Self, (AdoptError, Device)> {
        Err((AdoptError::Device("nothing is known of it".into()), device))
    }

    fn recover(
        device: Device,
        ledger: &DriverLedger,
        settings: &Settings,
        table: &mut Table<Undisturbed>,
    ) -> Result<Self, AttachError> {
        for (slot, ..) in table.submissions() {
            table.submit_again(slot);
        }
        Self::attach(device, ledger, settings)
    }

    fn targets(&self) -> Vec<Target> {
        vec![Target {
            path: "ns1".into(),
            id: 1,
            block_size: PAGE as u32,
            blocks: 1 << 36,
            max_transfer: PAGE as u32,
            volatile_write_cache: false,
        }]
    }

    fn identity(&self) -> (&'static str, Vec<u8>) {
        ("stray", Vec::new())
    }

    fn poll(&mut self, table: &mut Table<Undisturbed>) -> Progress {
        if self.sent != self.ended {
            let Some(status) = self.ended() else { return Progress::Idle };
            if !status.is_success() {
                self.outcome = Outcome::Device(status.bits());
            }
        }
        if let Some(command) = self.commands.pop_front() {
            self.send(command);
            return Progress::Busy;
        }
        if let Some(slot) = self.slot.take() {
            table.finish(slot, self.outcome);
            table.publish();
            table.release();
            return Progress::Busy;
        }
        table.take(1, &mut self.work);
        let Some(work) = self.work.pop() else { return Progress::Idle };
        table.submitted(work.slot, self.sent as u64);
        self.plan(&work);
        Progress::Busy
    }

    fn gone(&self) -> Option<String> {
        self.device.lost()
    }

    fn shut_down(self) {
        let _ = enable(&self.registers, false);
    }
}

/// Sets CC.EN, and waits until the controller has followed.
fn enable(registers: &Window, on: bool) -> Result<(), String> {
    let cc = Cc::default().with_iosqes(6).with_iocqes(4).with_en(on);
    registers.write32(Cc::OFFSET, cc.bits());
    let begin = Instant::now();
    while Csts::from_bits(registers.read32(Csts::OFFSET)).rdy() != on {
        if begin.elapsed() > Duration::from_secs(30) {
            return Err(format!("CSTS.RDY does not become {on}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

uniddrv::driver_program!(Stray);
