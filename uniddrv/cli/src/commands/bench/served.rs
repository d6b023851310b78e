//! Measuring a device that the core drives, by its name.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use uniddrv::Address;
use uniddrv::client::{BlockClient, ClientQueue, Core, OpenOptions, Rights};
use uniddrv_spec::nvme::identify::{IdentifyController, SIZE};
use zerocopy::FromBytes;

use super::measure::{CALIBRATION_BUFFERS, CALIBRATION_BYTES, PEEK};
use super::{Bench, Measured, check_report, no_comparison};
use crate::Context;
use crate::bench::result::Target;
use crate::bench::session::Plan;
use crate::bench::{cpu, loss};
use crate::error::Failure;
use crate::served::{self, Crowd, Service};
use crate::signals::stop_flag;

/// The most queues of a client.
const MAX_QUEUES: usize = 16;
/// How long a driver may take to be replaced, with all that its device may have to be waited for.
const RECOVERY: Duration = Duration::from_mins(5);

impl Bench {
    /// Measures through the driver of a name.
    pub(super) fn run_served(&self, context: &Context) -> Result<(), Failure> {
        let usage = |message: String| Err(Failure::usage(anyhow::Error::msg(message)));
        if self.compare.is_some() {
            return Err(no_comparison(&self.address));
        }
        if self.shadow_doorbells {
            let name = &self.address;
            return usage(format!("--shadow-doorbells: {name} has a driver, which decides that"));
        }
        if self.cores > MAX_QUEUES {
            let cores = self.cores;
            return usage(format!("--cores {cores}: a client has {MAX_QUEUES} queues at most"));
        }
        check_report(self.report.as_deref())?;
        let core = served::connect_for(&self.address)?;
        let service = served::service(&core, &self.address, self.namespace)?;
        let crowd = Crowd::of(&core, service.address.as_ref())?;
        let near = match service.address {
            Some(Address::Pci(address)) => cpu::near(&context.root, &address.to_string()),
            _ => Vec::new(),
        };
        let (plan, crowded) = self.plan(context, &near, &crowd.left, crowd.others)?;
        let patience = Duration::from_secs(self.timeout) + RECOVERY;
        let plan = Plan { patience, ..plan };
        let stop = stop_flag()?;
        let measured = self.measure_service(&core, &service, &plan, crowded, &stop)?;
        self.tell(context, measured)
    }

    fn measure_service(
        &self,
        core: &Core,
        service: &Service,
        plan: &Plan,
        crowded: bool,
        stop: &AtomicBool,
    ) -> Result<Measured, Failure> {
        plan.check(&service.info(), usize::MAX).map_err(Failure::from)?;
        let target = describe(core, service);
        if self.destroys() && !self.overwrite {
            return Err(self.refusal(&target, content(core, service)));
        }
        let depth = plan.depths.iter().copied().max().unwrap_or(1);
        let calibration = CALIBRATION_BUFFERS * CALIBRATION_BYTES;
        let options = OpenOptions {
            rights: if self.destroys() { Rights::Write } else { Rights::Read },
            queues: plan.cores as u8,
            depth: served::ring(depth)?,
            arena: served::arena(plan.cores * depth, plan.bs) + calibration as u64,
            yield_when_idle: crowded,
            ..OpenOptions::default()
        };
        let client = core.open(&service.name, &options)?;
        let queues: Vec<ClientQueue> = std::iter::from_fn(|| client.take_queue()).collect();
        let measured =
            self.measure_queues(plan, &target, queues, |len| client.buffer(len), stop)?;
        Ok(Measured { verdict: why_it_ended(&client, measured.verdict), ..measured })
    }
}

/// Adds what the core said to a failure.
fn why_it_ended(client: &BlockClient, verdict: Result<(), Failure>) -> Result<(), Failure> {
    match (verdict, client.closed()) {
        (Err(failure), Some(reason)) => Err(failure.with_help(reason)),
        (verdict, _) => verdict,
    }
}

/// What the first blocks say that they hold; nothing where they cannot be read.
pub(crate) fn content(core: &Core, service: &Service) -> Option<&'static str> {
    let options =
        OpenOptions { rights: Rights::Read, depth: 1, arena: 2 << 20, ..OpenOptions::default() };
    let client = core.open(&service.name, &options).ok()?;
    let info = service.info();
    let len = u64::from(PEEK.min(info.max_transfer)).min(info.bytes());
    let buffer = client.buffer(len as usize).ok()?;
    loss::content(&mut client.take_queue()?, buffer)
}

/// What is measured, as far as the core tells.
pub(crate) fn describe(core: &Core, service: &Service) -> Target {
    let identity = core.identify(&service.name).ok().filter(|(kind, _)| kind == "nvme");
    let controller = identity.and_then(|(_, bytes)| {
        let (page, _) = bytes.split_at_checked(SIZE)?;
        IdentifyController::read_from_bytes(page).ok()
    });
    let said = |text: fn(&IdentifyController) -> String| {
        controller.as_ref().map_or_else(|| "unknown".into(), text)
    };
    Target {
        address: service.name.clone(),
        transport: served::transport(service.address.as_ref()).into(),
        served: true,
        model: said(|controller| controller.model().to_string()),
        serial: said(|controller| controller.serial().to_string()),
        namespace: service.target.id,
        block_size: service.target.block_size,
        size: service.info().bytes(),
    }
}
