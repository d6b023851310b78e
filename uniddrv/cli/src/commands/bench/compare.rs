//! Measuring Linux's driver first, on the same device.

use std::sync::atomic::{AtomicBool, Ordering};

use uniddrv::sysfs::{BindOptions, Sysfs, VFIO_PCI};
use uniddrv::{Address, PciAddress};

use super::{Bench, Measured};
use crate::Context;
use crate::bench::disk::{Disk, DiskError, Loan};
use crate::bench::native;
use crate::bench::progress::Bar;
use crate::bench::result::Native;
use crate::bench::session::Plan;
use crate::error::Failure;

impl Bench {
    /// Measures Linux's driver, takes the device, measures ours, gives it back.
    pub(super) fn compare(
        &self,
        context: &Context,
        address: PciAddress,
        plan: &Plan,
        stop: &AtomicBool,
    ) -> Result<Measured, Failure> {
        native::check()
            .map_err(|error| Failure::from(error).with_help("install it: apt-get install fio"))?;
        let sysfs = Sysfs::new(&context.root);
        let function = sysfs.function(address)?;
        let disk = Disk::of(&context.root, &function, self.namespace, &self.address);
        let disk = disk.map_err(|error| {
            let ours = matches!(&error, DiskError::Driver { driver, .. } if driver == VFIO_PCI);
            let failure = Failure::from(error);
            let help = format!("give it to Linux first: uniddrv unbind {address}");
            if ours { failure.with_help(help) } else { failure }
        })?;
        // All that could stop us later is found now, while nothing has been done.
        plan.check(&disk.info(), usize::MAX).map_err(Failure::from)?;
        sysfs.plan_bind(&[address], &BindOptions::default())?;
        if self.destroys() && !self.overwrite {
            return Err(self.refusal(&disk.target, disk.content().ok().flatten()));
        }
        let natives = measure_native(&disk, plan, stop)?;
        if stop.load(Ordering::Relaxed) {
            let message = format!("interrupted before {address} was taken; it is as it was");
            return Err(Failure::interrupted(message));
        }
        let loan = Loan::take(&sysfs, address, stop)?;
        let nsid = Some(disk.target.namespace);
        let measured = self.measure(context, &Address::Pci(address), plan, nsid, stop);
        let returned = loan.give_back();
        let Measured { mut measurements, verdict } = measured?;
        for measurement in &mut measurements {
            let same = natives.iter().filter(|(depth, _)| *depth == measurement.qd);
            measurement.native = same.map(|(_, native)| native.clone()).collect();
        }
        Ok(Measured { measurements, verdict: verdict.and(returned.map_err(Failure::from)) })
    }
}

/// Every engine of fio at every queue depth.
fn measure_native(
    disk: &Disk,
    plan: &Plan,
    stop: &AtomicBool,
) -> Result<Vec<(usize, Native)>, Failure> {
    let mut natives = Vec::new();
    let mut bar = Bar::new(plan.time);
    for &depth in &plan.depths {
        for engine in native::ENGINES {
            if stop.load(Ordering::Relaxed) {
                return Ok(natives);
            }
            bar.wait(&format!("Linux {engine}, queue depth {depth}"));
            let size = disk.target.size;
            let measured = native::measure(engine, &disk.path, plan, depth, size, stop);
            // What an interrupted fio says is of no use: all is measured, or nothing.
            if stop.load(Ordering::Relaxed) {
                return Ok(natives);
            }
            natives.push((depth, measured?));
        }
    }
    bar.clear();
    Ok(natives)
}
