//! What makes drivers in user space fast: huge pages, cores of their own, a
//! steady clock; and fio to compare with.

use super::{Check, Sysfs};
use crate::sysfs::tree;

impl Sysfs {
    pub(super) fn check_huge_pages(&self) -> Check {
        let name = "huge pages";
        let folder = self.path("sys/kernel/mm/hugepages/hugepages-2048kB");
        let number = |file: &str| tree::decimal(&folder.join(file));
        match (number("nr_hugepages"), number("free_hugepages")) {
            (Some(all), Some(free)) if free > 0 => {
                Check::ok(name, format!("{free} of {all} of 2 MiB are free"))
            }
            (Some(all), _) => Check::advice(
                name,
                format!("none of {all} of 2 MiB is free; small pages work, more slowly"),
                format!("sudo sysctl -w vm.nr_hugepages={}", all + 256),
            ),
            _ => Check::advice(
                name,
                "this kernel has none of 2 MiB; small pages work, more slowly",
                "use a kernel with CONFIG_HUGETLBFS",
            ),
        }
    }

    pub(super) fn check_isolated_cores(&self) -> Check {
        let name = "isolated cores";
        let folder = self.path("sys/devices/system/cpu");
        let isolated = tree::text(&folder.join("isolated")).unwrap_or_default();
        if !isolated.is_empty() {
            return Check::ok(name, isolated);
        }
        let online = tree::text(&folder.join("online")).unwrap_or_default();
        let last = online.rsplit(['-', ',']).next().and_then(|last| last.parse::<u32>().ok());
        match last {
            Some(last @ 1..) => Check::advice(
                name,
                "none: other programs disturb polling drivers",
                self.add_kernel_parameters(&format!(
                    "isolcpus=managed_irq,domain,{last} nohz_full={last} rcu_nocbs={last}"
                )),
            ),
            _ => Check::advice(
                name,
                "none, and there is one core only",
                "use a machine with two cores or more",
            ),
        }
    }

    pub(super) fn check_governor(&self) -> Check {
        let name = "CPU frequency";
        let folder = self.path("sys/devices/system/cpu");
        let mut governors: Vec<String> = tree::entries(&folder)
            .iter()
            .filter_map(|cpu| tree::text(&folder.join(cpu).join("cpufreq/scaling_governor")))
            .collect();
        governors.sort_unstable();
        governors.dedup();
        match governors.as_slice() {
            [] => Check::ok(name, "Linux does not change it on this machine"),
            [only] if only == "performance" => Check::ok(name, "governor performance"),
            others => Check::advice(
                name,
                format!("governor {}: the clock changes while one measures", others.join(", ")),
                "echo performance | sudo tee \
                 /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
            ),
        }
    }

    pub(super) fn check_fio(&self) -> Check {
        let name = "fio";
        if self.has_program("fio") {
            Check::ok(name, "installed")
        } else {
            let found = "not installed; `uniddrv bench --compare native` needs it";
            Check::advice(name, found, self.install("fio"))
        }
    }
}
