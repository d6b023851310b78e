//! CPUs for drivers that the configuration gives none.

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::config::Config;
use crate::cpus::{Cpu, Cpus};

/// The CPUs that drivers without one of their own are put on in turn, from the highest down: all
/// that the core may use but the first one, which is left to everything else.
#[derive(Debug)]
pub(crate) struct Placement {
    cpus: Vec<Cpu>,
    next: usize,
}

impl Placement {
    /// For the CPUs that the calling thread may use now.
    pub(crate) fn new(config: &Config) -> Self {
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let allowed = (0..Cpu::LIMIT).filter(|&cpu| set.is_set(cpu as usize));
        let given = config.driver_cpus();
        let cpus = allowed.filter_map(Cpu::new).filter(|&cpu| !given.contains(cpu));
        Self::among(cpus.collect(), config.core.cpu)
    }

    fn among(free: Vec<Cpu>, core: Option<Cpu>) -> Self {
        let spared = core.or(free.first().copied());
        let mut cpus: Vec<Cpu> = free.into_iter().filter(|&cpu| Some(cpu) != spared).collect();
        cpus.reverse();
        Self { cpus, next: 0 }
    }

    /// All of them.
    pub(crate) fn cpus(&self) -> Cpus {
        let mut all = Cpus::new();
        self.cpus.iter().for_each(|&cpu| all.insert(cpu));
        all
    }

    /// One for a driver; nothing where there are too few for that.
    pub(crate) fn next(&mut self) -> Option<Cpu> {
        let cpu = self.cpus.get(self.next % self.cpus.len().max(1)).copied();
        self.next += 1;
        cpu
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(numbers: &[u32]) -> Vec<Cpu> {
        numbers.iter().filter_map(|&number| Cpu::new(number)).collect()
    }

    #[test]
    fn drivers_take_turns_from_above_and_leave_one() {
        let mut placement = Placement::among(cpus(&[0, 2, 3]), None);
        let taken: Vec<_> = (0..3).filter_map(|_| placement.next()).collect();
        assert_eq!(taken, cpus(&[3, 2, 3]));
        let mut placement = Placement::among(cpus(&[0, 1]), Cpu::new(1));
        assert_eq!(placement.next(), Cpu::new(0));
        assert!(!placement.cpus().contains(cpus(&[1])[0]));
    }

    #[test]
    fn one_cpu_is_for_all() {
        assert_eq!(Placement::among(cpus(&[5]), None).next(), None);
        assert_eq!(Placement::among(Vec::new(), None).next(), None);
    }
}
