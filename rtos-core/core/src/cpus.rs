//! Sets of CPUs, as Linux writes them: `0-3,8`.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

/// The number of a CPU, below [`Cpu::LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(u32);

impl Cpu {
    /// One more than the highest number: what an affinity mask holds.
    pub const LIMIT: u32 = CpuSet::MAX_CPU as u32;

    /// The CPU `number`; `None` where it is too high for an affinity mask.
    pub const fn new(number: u32) -> Option<Self> {
        if number < Self::LIMIT { Some(Self(number)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Pins a process to it, or the calling thread.
    ///
    /// # Errors
    /// EINVAL where it may not run there, ESRCH where it has ended, EPERM where it is another's.
    pub fn pin(self, process: Option<u32>) -> io::Result<()> {
        let process = match process {
            Some(process) => {
                // 0 would be the calling thread.
                let process = i32::try_from(process).ok().and_then(Pid::from_raw);
                Some(process.ok_or(io::Error::from(Errno::SRCH))?)
            }
            None => None,
        };
        let mut set = CpuSet::new();
        set.set(self.0 as usize);
        Ok(sched_setaffinity(process, &set)?)
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus(BTreeSet<Cpu>);

/// A text that is no list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no list of CPUs such as 0-3,8")]
pub struct ParseCpusError(String);

impl Cpus {
    /// No CPU at all.
    pub const fn new() -> Self {
        Self(BTreeSet::new())
    }

    /// Whether `cpu` is among them.
    pub fn contains(&self, cpu: Cpu) -> bool {
        self.0.contains(&cpu)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds one.
    pub fn insert(&mut self, cpu: Cpu) {
        self.0.insert(cpu);
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Cpu> + '_ {
        self.0.iter().copied()
    }

    /// Those in this set or in `other`.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// Those in this set and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// Those in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Whether every one of these is in `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }
}

impl FromIterator<Cpu> for Cpus {
    fn from_iter<I: IntoIterator<Item = Cpu>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for Cpus {
    type Err = ParseCpusError;

    /// Reads Linux's notation; space around it and an empty list are fine.
    fn from_str(text: &str) -> Result<Self, ParseCpusError> {
        let text = text.trim();
        let number = |text: &str| text.parse().ok().and_then(Cpu::new);
        let mut cpus = Self::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => {
                    cpus.0.extend((first.0..=last.0).map(Cpu));
                }
                _ => return Err(ParseCpusError(text.to_owned())),
            }
        }
        Ok(cpus)
    }
}

impl Cpus {
    /// Reads a mask as in `/proc/irq/default_smp_affinity`: groups of eight hexadecimal digits,
    /// the highest first.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_mask(text: &str) -> Result<Self, ParseCpusError> {
        let text = text.trim();
        let malformed = || ParseCpusError(text.to_owned());
        let mut cpus = Self::new();
        for (index, group) in text.rsplit(',').enumerate() {
            let is_group = (1..=8).contains(&group.len())
                && group.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_group {
                return Err(malformed());
            }
            let bits = u32::from_str_radix(group, 16).map_err(|_| malformed())?;
            for bit in (0..32).filter(|bit| bits >> bit & 1 == 1) {
                let number = u32::try_from(index).ok().and_then(|index| index.checked_mul(32));
                let cpu = number.and_then(|number| Cpu::new(number + bit));
                cpus.insert(cpu.ok_or_else(malformed)?);
            }
        }
        Ok(cpus)
    }

    /// The mask of these CPUs.
    pub fn to_mask(&self) -> String {
        let highest = self.0.last().map_or(0, |cpu| cpu.0 / 32);
        let group = |index: u32| {
            let inside = self.0.iter().filter(|cpu| cpu.0 / 32 == index);
            inside.fold(0_u32, |bits, cpu| bits | 1 << (cpu.0 % 32))
        };
        let groups: Vec<_> =
            (0..=highest).rev().map(|index| format!("{:08x}", group(index))).collect();
        groups.join(",")
    }
}

impl fmt::Display for Cpus {
    /// The notation of Linux: ranges where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers = self.0.iter().map(|cpu| cpu.0).peekable();
        let mut separator = "";
        while let Some(first) = numbers.next() {
            let mut last = first;
            while let Some(next) = numbers.next_if(|&next| next == last + 1) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_linux_does() {
        for (text, written, count) in [
            ("0", "0", 1),
            ("0-3,8\n", "0-3,8", 5),
            ("8,1,0", "0-1,8", 3),
            ("", "", 0),
            ("\n", "", 0),
            ("0-1023", "0-1023", 1024),
        ] {
            let cpus: Cpus = text.parse().unwrap();
            assert_eq!((cpus.to_string().as_str(), cpus.len()), (written, count), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        for text in ["x", "3-1", "1-", "-1", "1,,2", ",", "1024", "0-99999999999", "1 2"] {
            assert!(text.parse::<Cpus>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn masks_are_read_and_written() {
        for (mask, list, written) in [
            ("3\n", "0-1", "00000003"),
            ("ff", "0-7", "000000ff"),
            ("1,00000000,80000001", "0,31,64", "00000001,00000000,80000001"),
            ("0", "", "00000000"),
        ] {
            let cpus = Cpus::from_mask(mask).unwrap();
            assert_eq!((cpus.to_string().as_str(), cpus.to_mask().as_str()), (list, written));
        }
        let beyond = format!("1{}", ",00000000".repeat(32));
        for mask in ["", "x", "+1", "123456789", "1,,2", &beyond] {
            assert!(Cpus::from_mask(mask).is_err(), "{mask:?} was accepted");
        }
    }

    #[test]
    fn a_thread_is_pinned_where_it_may_run() {
        let now = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            line.unwrap().parse::<Cpus>().unwrap()
        };
        let last = now().iter().last().unwrap();
        let pinned = std::thread::spawn(move || last.pin(None).map(|()| now())).join().unwrap();
        assert_eq!(pinned.unwrap().iter().collect::<Vec<_>>(), [last]);
        let nobody = |process| last.pin(Some(process)).unwrap_err().raw_os_error();
        assert_eq!(nobody(0), Some(Errno::SRCH.raw_os_error()), "0 would mean this thread");
        assert_eq!(nobody(u32::MAX), Some(Errno::SRCH.raw_os_error()));
        let absent = Cpu::new(Cpu::LIMIT - 1).unwrap();
        assert_eq!(absent.pin(None).unwrap_err().raw_os_error(), Some(Errno::INVAL.raw_os_error()));
    }

    #[test]
    fn sets_are_combined() {
        let set = |text: &str| text.parse::<Cpus>().unwrap();
        assert_eq!(set("0-3").without(&set("1,5")), set("0,2-3"));
        assert_eq!(set("0-1").union(&set("1,5")), set("0-1,5"));
        assert_eq!(set("0-3").common(&set("3-5")), set("3"));
        assert!(set("1-2").is_within(&set("0-3")) && !set("3-4").is_within(&set("0-3")));
    }
}
