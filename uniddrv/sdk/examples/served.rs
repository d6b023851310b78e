//! A driver that a core runs: its device takes everything, keeps nothing, and is never busy.
#![forbid(unsafe_code)]

use uniddrv::serve::{AdoptError, BlockDriver, DriverLedger, Table, Undisturbed, Work};
use uniddrv::{AttachError, Device, Match, Progress};
use uniddrv_abi::block::Outcome;
use uniddrv_abi::message::{Settings, Target};

struct Sink {
    _device: Device,
    work: Vec<Work>,
}

impl BlockDriver for Sink {
    type Steps = Undisturbed;
    const MATCHES: &'static [Match] = &[];

    fn attach(
        device: Device,
        _ledger: &DriverLedger,
        _settings: &Settings,
    ) -> Result<Self, AttachError> {
        Ok(Self { _device: device, work: Vec::new() })
    }

    fn adopt(
        device: Device,
        _ledger: &DriverLedger,
        _settings: &Settings,
        _table: &mut Table,
    ) -> Result<Self, (AdoptError, Device)> {
        Err((AdoptError::Device("it is always reset".into()), device))
    }

    fn recover(
        device: Device,
        ledger: &DriverLedger,
        settings: &Settings,
        table: &mut Table,
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
            block_size: 512,
            blocks: 1 << 21,
            max_transfer: 1 << 20,
            volatile_write_cache: false,
        }]
    }

    fn identity(&self) -> (&'static str, Vec<u8>) {
        ("sink", Vec::new())
    }

    fn poll(&mut self, table: &mut Table) -> Progress {
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

    fn shut_down(self) {}
}

uniddrv::driver_program!(Sink);
