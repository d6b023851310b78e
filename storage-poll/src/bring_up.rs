//! From whatever state a controller is in to a running one. NVMe Base 2.0 §3.5.1.

use std::time::{Duration, Instant};

use uniddrv_spec::nvme::admin::features::NumberOfQueues;
use uniddrv_spec::nvme::admin::{FeatureId, SetFeatures};
use uniddrv_spec::nvme::registers::{Acq, Aqa, Asq, Cap, Cc, Crto, Csts};

use crate::admin::Admin;
use crate::error::ControllerError;
use crate::shared::{Limits, Shared};

/// The longest that CAP.TO can say; CRTO could say nine hours.
const LONGEST: Duration = Duration::from_millis(255 * 500);

/// Stops the controller, ends what it was doing, and starts it with the admin queue.
pub(crate) fn start(shared: &Shared, admin: &mut Admin) -> Result<(), ControllerError> {
    match stop(shared).and_then(|()| enable(shared, admin)) {
        Ok(()) => Ok(()),
        Err(error @ ControllerError::Gone { .. }) => Err(error),
        Err(error) => {
            // What its own registers cannot do, the bus may.
            tracing::warn!(%error, "function reset");
            if shared.device.reset().is_err() {
                return Err(error);
            }
            stop(shared)?;
            enable(shared, admin)
        }
    }
}

/// The part of a start that needs what the controller has said of itself: I/O queues, shadow
/// doorbells, events.
pub(crate) fn configure(shared: &Shared, admin: &mut Admin) -> Result<(), ControllerError> {
    let limit = shared.options.admin_timeout;
    let asked = shared.options.queues.max(1);
    let queues = NumberOfQueues::default().with_nsq(asked - 1).with_ncq(asked - 1);
    let entry = SetFeatures::new(FeatureId::NUMBER_OF_QUEUES, queues.bits()).to_entry();
    let answer = admin.try_execute(shared, "Set Features: Number of Queues", entry, None, limit)?;
    let granted = NumberOfQueues::from_bits(answer.dw0);
    let granted = granted.nsq().min(granted.ncq()).min(asked - 1) + 1;
    let reachable = (1..=granted).take_while(|&id| shared.has_doorbells(id));
    admin.grant(reachable.count());
    if shared.limits.shadow_doorbells {
        admin.use_shadow_doorbells(shared)?;
    }
    let wanted = shared.limits.async_events;
    let entry = SetFeatures::new(FeatureId::ASYNC_EVENT_CONFIGURATION, wanted.bits()).to_entry();
    let name = "Set Features: Asynchronous Event Configuration";
    tolerate_status(admin.try_execute(shared, name, entry, None, limit))?;
    admin.request_events(shared.limits.event_requests);
    Ok(())
}

/// What the controller may refuse without harm.
pub(crate) fn tolerate_status<T>(
    result: Result<T, ControllerError>,
) -> Result<Option<T>, ControllerError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error @ ControllerError::Status { .. }) => {
            tracing::warn!(%error, "going without");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Clears CC.EN and waits until the controller has stopped: no DMA happens from then on.
pub(crate) fn stop(shared: &Shared) -> Result<(), ControllerError> {
    let cc = Cc::from_bits(shared.registers.read32(Cc::OFFSET));
    let csts = shared.csts();
    if cc.en() && !csts.rdy() && !csts.cfs() {
        // Whoever was here before died while enabling it; disabling it half way has no defined
        // result. One that never gets ready is disabled all the same.
        drop(wait(shared, "setting CSTS.RDY", true, Csts::rdy));
    }
    shared.registers.write32(Cc::OFFSET, cc.with_en(false).with_shn(Cc::SHN_NONE).bits());
    wait(shared, "clearing CSTS.RDY", false, |csts| !csts.rdy())
}

/// Brings up a controller that is disabled.
fn enable(shared: &Shared, admin: &mut Admin) -> Result<(), ControllerError> {
    admin.restart();
    // Not before: queues that whoever was here before had left might have written to where our
    // memory is now.
    shared.device.set_bus_master(true)?;
    let (registers, limits) = (&shared.registers, &shared.limits);
    let rings = admin.pair.rings();
    let aqa = Aqa::default()
        .with_asqs(rings.submission_len() as u16 - 1)
        .with_acqs(rings.completion_len() as u16 - 1);
    registers.write32(Aqa::OFFSET, aqa.bits());
    registers.write64(Asq::OFFSET, rings.submission_iova());
    registers.write64(Acq::OFFSET, rings.completion_iova());
    let cc = Cc::default()
        .with_css(limits.css)
        .with_mps((limits.page / 4096).trailing_zeros() as u8)
        .with_iosqes(6)
        .with_iocqes(4)
        .with_en(true);
    registers.write32(Cc::OFFSET, cc.bits());
    wait(shared, "setting CSTS.RDY", true, |csts| csts.rdy() && !csts.cfs())?;
    Ok(())
}

/// How long the controller may take to change CSTS.RDY: CAP.TO, or where it has them the
/// longer limits of CRTO. NVMe Base 2.0 §3.1.3.1 and §3.1.3.21.
fn limit(shared: &Shared, limits: &Limits) -> Duration {
    let mut units = u32::from(limits.cap.to());
    if limits.cap.crwms() {
        let crto = Crto::from_bits(shared.registers.read32(Crto::OFFSET));
        units = units.max(crto.crwmt().into());
    }
    (Duration::from_millis(500) * units.max(1)).min(LONGEST)
}

fn wait(
    shared: &Shared,
    command: &'static str,
    fatal_ends: bool,
    done: impl Fn(Csts) -> bool,
) -> Result<(), ControllerError> {
    let limit = limit(shared, &shared.limits);
    let start = Instant::now();
    let mut pause = Duration::from_micros(10);
    loop {
        let csts = shared.csts();
        if csts.is_gone() {
            let reason = shared.removal();
            return Err(ControllerError::Gone { address: shared.address(), reason });
        }
        if done(csts) {
            return Ok(());
        }
        if fatal_ends && csts.cfs() {
            let claim = format!("{command}: it reports a fatal status (CSTS.CFS)");
            return Err(ControllerError::Malformed { address: shared.address(), claim });
        }
        if start.elapsed() >= limit {
            return Err(ControllerError::Timeout { address: shared.address(), command, limit });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Tells the controller to shut down and waits until it has, for a normal removal.
/// NVMe Base 2.0 §3.6.1.
pub(crate) fn shut_down(shared: &Shared, limit: Duration) -> Result<(), ControllerError> {
    let cc = Cc::from_bits(shared.registers.read32(Cc::OFFSET));
    if !cc.en() || !shared.csts().rdy() {
        return Ok(());
    }
    shared.registers.write32(Cc::OFFSET, cc.with_shn(Cc::SHN_NORMAL).bits());
    let start = Instant::now();
    loop {
        let csts = shared.csts();
        if csts.is_gone() || csts.shst() == Csts::SHST_COMPLETE {
            return Ok(());
        }
        if start.elapsed() >= limit {
            let address = shared.address();
            return Err(ControllerError::Timeout { address, command: "shutdown", limit });
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Checks CAP and picks the page size and command sets. The first is `CAP`'s own word.
pub(crate) fn choose(cap: Cap) -> Result<(usize, u8), String> {
    if cap.bits() == u64::MAX {
        return Err("its registers read as all ones: it is not there".into());
    }
    if cap.mqes() == 0 {
        return Err("CAP.MQES is 0: queues of one entry cannot work".into());
    }
    let css = if cap.css_nvm() {
        Cc::CSS_NVM
    } else if cap.css_iocs() {
        Cc::CSS_ALL
    } else {
        return Err("CAP.CSS offers no I/O command set".into());
    };
    let page = cap.min_page_size();
    if page != uniddrv::dma::PAGE {
        return Err(format!("CAP.MPSMIN asks for pages of {page} bytes; 4096 are possible"));
    }
    Ok((page, css))
}
