//! Measuring through our own driver.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use storage_poll::{Controller, Namespace, Options};
use uniddrv::block::BlockQueue;
use uniddrv::dma::DmaError;
use uniddrv::{Address, DmaBuf, TransportKind};

use super::{Bench, Measured};
use crate::Context;
use crate::bench::calibrate::{self, Calibration};
use crate::bench::loss::{self, Refusal};
use crate::bench::progress::Bar;
use crate::bench::result::{Measurement, Target, counted};
use crate::bench::session::{self, Plan};
use crate::bench::{cpu, verdict::verdict};
use crate::controller::{attach, namespace};
use crate::error::Failure;
use crate::output::warn;

/// What the first blocks are read with.
pub(super) const PEEK: u32 = 32 << 10;
/// The buffers that the calibration moves.
pub(super) const CALIBRATION_BUFFERS: usize = 32;
pub(super) const CALIBRATION_BYTES: usize = 4096;

impl Bench {
    /// Measures through our own driver. What was measured, and how it ended.
    pub(super) fn measure(
        &self,
        context: &Context,
        address: &Address,
        plan: &Plan,
        nsid: Option<u32>,
        stop: &AtomicBool,
    ) -> Result<Measured, Failure> {
        let options = Options {
            queues: self.cores as u16,
            timeout: Duration::from_secs(self.timeout),
            shadow_doorbells: self.shadow_doorbells,
            ..Options::default()
        };
        let (timeout, admin_timeout) = (options.timeout, options.admin_timeout);
        let controller = attach(&context.root, address, options)?;
        let namespace = namespace(&controller, nsid)?;
        // The driver gives a request up by its own deadlines: time out, abort, reset. Only
        // when that fails too is it for the benchmark to end.
        let reset = Duration::from_millis(controller.capabilities().timeout_ms().into());
        let patience = timeout + admin_timeout * 2 + reset * 2 + Duration::from_secs(5);
        let plan = Plan { patience, ..plan.clone() };
        plan.check(&namespace.info(), controller.max_depth()).map_err(Failure::from)?;
        let granted = controller.granted_queues();
        if plan.cores > granted {
            let message = format!(
                "--cores {}: the controller granted {}",
                plan.cores,
                counted(granted, "I/O queue")
            );
            return Err(Failure::new(message));
        }
        let target = describe(&controller, &namespace);
        self.check_loss(&controller, &namespace, &target, address)?;

        let depth = plan.depths.iter().copied().max().unwrap_or(1);
        let queues = (0..plan.cores)
            .map(|_| controller.block_queue(namespace.nsid(), depth))
            .collect::<Result<Vec<_>, _>>()?;
        self.measure_queues(&plan, &target, queues, |len| controller.device().dma_buffer(len), stop)
    }

    /// Measures on queues of whatever driver, with buffers from `buffer`.
    pub(super) fn measure_queues<Q: BlockQueue + Send>(
        &self,
        plan: &Plan,
        target: &Target,
        queues: Vec<Q>,
        buffer: impl Fn(usize) -> Result<DmaBuf, DmaError>,
        stop: &AtomicBool,
    ) -> Result<Measured, Failure> {
        let mut bar = Bar::new(plan.time);
        let session =
            session::run(plan, queues, &buffer, stop, &mut |progress| bar.show(plan.rw, progress))?;
        bar.clear();
        for cpu in &session.not_pinned {
            warn(&format!("a thread could not be put on CPU {cpu}; it ran anywhere"));
        }
        let unfilled = session.fill.as_ref().map_or(0, |fill| fill.errors);
        if unfilled > 0 {
            warn(&format!(
                "{} failed while filling; what they were to write is not checked",
                counted(unfilled as usize, "request")
            ));
        }
        let mut measurements: Vec<Measurement> = session
            .runs
            .iter()
            .map(|run| {
                let workload = (plan.rw, plan.bs, run.depth);
                Measurement::new(target, workload, (plan.cores, &plan.cpus), &run.outcome)
            })
            .collect();
        if self.calibrate && !stop.load(Ordering::Relaxed) {
            let alone = !target.served && target.transport == TransportKind::Inline.to_string();
            let calibration = calibrate(&buffer, alone, plan)?;
            for measurement in &mut measurements {
                measurement.calibration = Some(calibration);
            }
        }
        let verdict = verdict(&session, &target.address, plan.keep_going);
        Ok(Measured { measurements, verdict })
    }

    fn check_loss(
        &self,
        controller: &Controller,
        namespace: &Namespace,
        target: &Target,
        address: &Address,
    ) -> Result<(), Failure> {
        if !self.destroys() || self.overwrite || loss::is_expendable(address) {
            return Ok(());
        }
        // A look at the first blocks; without one the refusal is as good.
        let len = (PEEK.min(namespace.info().max_transfer) as usize)
            .min(namespace.info().bytes() as usize);
        let content = controller
            .block_queue(namespace.nsid(), 1)
            .ok()
            .zip(controller.device().dma_buffer(len).ok())
            .and_then(|(mut queue, buffer)| loss::content(&mut queue, buffer));
        Err(self.refusal(target, content))
    }

    /// Whether what the device holds is overwritten.
    pub(super) fn destroys(&self) -> bool {
        self.rw.writes() || self.verify
    }

    pub(super) fn refusal(&self, target: &Target, content: Option<&str>) -> Failure {
        let verify = if self.rw.writes() { "" } else { " --verify" };
        let what = format!("--rw {}{verify}", self.rw);
        Failure::from(Refusal::new(what, target, content))
            .with_help("if nothing on it is needed, add --overwrite")
    }
}

fn describe(controller: &Controller, namespace: &Namespace) -> Target {
    Target {
        address: controller.device().address().to_string(),
        transport: controller.device().transport().to_string(),
        served: false,
        model: controller.identity().model().to_string(),
        serial: controller.identity().serial().to_string(),
        namespace: namespace.nsid(),
        block_size: namespace.block_size(),
        size: namespace.info().bytes(),
    }
}

/// What the loop and the machine cost, measured where the benchmark ran. `alone` where no other
/// thread or process takes part.
fn calibrate(
    buffer: impl Fn(usize) -> Result<DmaBuf, DmaError>,
    alone: bool,
    plan: &Plan,
) -> Result<Calibration, Failure> {
    let buffers = (0..CALIBRATION_BUFFERS)
        .map(|_| buffer(CALIBRATION_BYTES))
        .collect::<Result<Vec<_>, _>>()
        .context("no memory to calibrate with")?;
    let ours = plan.cpus.first().copied();
    let loop_ns = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Where it cannot be pinned it runs anywhere, as the benchmark did.
            let _ = ours.map(cpu::pin);
            calibrate::loop_cost(buffers, calibrate::IOS)
        });
        thread.join().unwrap_or(f64::NAN)
    });
    let other = cpu::allowed().into_iter().find(|cpu| !plan.cpus.contains(cpu));
    let pair = ours.zip(other.or_else(|| plan.cpus.iter().copied().find(|&c| Some(c) != ours)));
    let round_trip = pair.and_then(|cpus| calibrate::round_trip(cpus, calibrate::ROUNDS));
    if !alone && round_trip.is_none() {
        warn("a cache line's way between two CPUs could not be measured");
    }
    Ok(Calibration { loop_ns, round_trip })
}
