use std::collections::BTreeSet;

use super::testing::{Fault, Simulated, Tree};
use super::*;
use crate::config::Machine;

fn wants(cpus: &str) -> Wants {
    Wants { cpus: cpus.parse().unwrap(), ..Wants::default() }
}

fn take(tree: &Tree, kernel: &Simulated, cpus: &str) -> (Partition, Vec<Shortfall>) {
    Partition::take_by(kernel.boxed(), tree.root(), &tree.record(), &wants(cpus))
}

fn group() -> String {
    format!("sys/fs/cgroup/uniddrv-{}", std::process::id())
}

#[test]
fn cpus_are_isolated_and_given_back() {
    let tree = Tree::new();
    let before = tree.snapshot();
    let kernel = Simulated::new(Fault::Never);
    let (mut partition, shortfalls) = take(&tree, &kernel, "2-3");
    assert_eq!(shortfalls, []);
    assert_eq!(partition.kind(), Kind::Isolated);
    assert_eq!(tree.read(&format!("{}/cpuset.cpus", group())), "2-3");
    assert_eq!(tree.read(&format!("{}/cpuset.cpus.partition", group())), "isolated");
    assert_eq!(tree.read(&format!("{}/cgroup.subtree_control", group())), "cpuset");
    assert_eq!(held(tree.root()), "2-3".parse().unwrap());

    partition.place(4711, Cpu::new(2).unwrap()).unwrap();
    assert_eq!(tree.read(&format!("{}/drivers/cgroup.procs", group())), "4711");
    partition.place(4712, Cpu::new(1).unwrap()).unwrap();
    assert_eq!(tree.read(&format!("{}/drivers/cgroup.procs", group())), "4711", "not its CPU");
    assert_eq!(kernel.pinned(), [(4711, 2), (4712, 1)]);

    assert_eq!(tree.affinity(1), "0-1", "leaves 2 and 3");
    assert_eq!(tree.affinity(24), "0-1", "had nowhere else to go");
    assert_eq!(tree.affinity(25), "0", "was elsewhere");
    assert_eq!(tree.affinity(30), "1");
    assert_eq!(tree.affinity(3), "0-3", "nobody uses it");
    assert_eq!(Cpus::from_mask(&tree.read("proc/irq/default_smp_affinity")), "0-1".parse());

    drop(partition);
    assert_eq!(tree.snapshot(), before);
}

#[test]
fn without_cpus_nothing_is_changed() {
    let tree = Tree::new();
    let before = tree.snapshot();
    let kernel = Simulated::new(Fault::Never);
    let (partition, shortfalls) = take(&tree, &kernel, "");
    assert_eq!((shortfalls.len(), kernel.steps()), (0, 0));
    assert_eq!(partition.kind(), Kind::Affinity);
    drop(partition);
    assert_eq!((tree.snapshot(), kernel.steps()), (before, 0));
}

#[test]
fn cpuset_stays_enabled_for_groups_that_use_it() {
    let tree = Tree::new();
    let control = "sys/fs/cgroup/cgroup.subtree_control";
    let (partition, _) = take(&tree, &Simulated::new(Fault::Never), "3");
    assert_eq!(tree.read(control), "cpu memory cpuset");
    tree.write("sys/fs/cgroup/system.slice/cpuset.cpus", "0\n");
    drop(partition);
    assert_eq!(tree.read(control), "cpu memory cpuset", "it would lose its CPUs");

    // Where somebody else has enabled it, it is not ours to disable.
    tree.write("sys/fs/cgroup/system.slice/cpuset.cpus", "\n");
    drop(take(&tree, &Simulated::new(Fault::Never), "3"));
    assert_eq!(tree.read(control), "cpu memory cpuset");
}

#[test]
fn the_second_best_kind_is_taken_and_said() {
    let tree = Tree::new();
    let before = tree.snapshot();
    let (partition, shortfalls) = take(&tree, &Simulated::with_kinds(&["root"]), "3");
    assert_eq!(partition.kind(), Kind::Root);
    assert_eq!(shortfalls.len(), 1);
    assert!(shortfalls[0].what.contains("scheduler looks after CPUs 3"), "{shortfalls:?}");
    drop(partition);
    assert_eq!(tree.snapshot(), before);
}

#[test]
fn what_the_kernel_says_is_passed_on() {
    let tree = Tree::new();
    let before = tree.snapshot();
    let (mut partition, shortfalls) = take(&tree, &Simulated::new(Fault::Never), "0-3");
    assert_eq!(partition.kind(), Kind::Affinity);
    assert_eq!(shortfalls.len(), 1, "{shortfalls:?}");
    assert_eq!(shortfalls[0].why, "isolated invalid (Parent has no CPU left)");
    assert!(shortfalls[0].mend.starts_with("leave Linux a CPU"), "{shortfalls:?}");
    assert!(!tree.root().join(group()).exists(), "no half-made group is left");
    partition.place(4711, Cpu::new(2).unwrap()).unwrap();
    assert_eq!(tree.affinity(1), "0-3", "there is nowhere else");
    drop(partition);
    assert_eq!(tree.snapshot(), before);
}

#[test]
fn without_control_groups_affinity_is_left() {
    let tree = Tree::new();
    tree.write("sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    let (partition, shortfalls) = take(&tree, &Simulated::new(Fault::Never), "3");
    assert_eq!(partition.kind(), Kind::Affinity);
    assert_eq!(shortfalls[0].why, "control groups of version 2 are there without `cpuset`");
    assert_eq!(tree.affinity(1), "0-2", "interrupts go all the same");
    drop(partition);
    assert_eq!(tree.affinity(1), "0-3");
    tree.remove("sys/fs/cgroup/cgroup.controllers");
    let (_partition, shortfalls) = take(&tree, &Simulated::new(Fault::Never), "3");
    assert_eq!(shortfalls[0].why, "control groups of version 2 are not mounted");
}

#[test]
fn an_unprivileged_core_says_what_it_lacks() {
    let tree = Tree::new();
    tree.write("proc/self/status", "CapEff:\t0000000000000000\n");
    let refused =
        ["cgroup.subtree_control", "smp_affinity_list", "default_smp_affinity", "cpu_dma_latency"];
    let before = tree.snapshot();
    let (mut partition, shortfalls) = take(&tree, &Simulated::refusing(&refused), "3");
    assert_eq!(shortfalls.len(), 2, "{shortfalls:?}");
    assert!(shortfalls[0].what.contains("other programs may run on CPUs 3"));
    assert_eq!(shortfalls[1].what, "interrupts 1 may come to CPUs 3");
    let latency = partition.set_polling(true).unwrap_err();
    assert!(latency.what.contains("sleep deeply"), "{latency}");
    for shortfall in shortfalls.iter().chain([&latency]) {
        assert_eq!(shortfall.mend, "run the core as root", "{shortfall}");
    }
    drop(partition);
    assert_eq!(tree.snapshot(), before);
}

#[test]
fn interrupts_that_linux_keeps_are_named() {
    let tree = Tree::new();
    tree.interrupt(40, "0-3");
    tree.write("proc/irq/40/effective_affinity_list", "0\n");
    let kernel = Simulated::refusing(&[
        "30/smp_affinity_list",
        "24/smp_affinity_list",
        "40/smp_affinity_list",
    ]);
    let (partition, shortfalls) = take(&tree, &kernel, "2");
    assert_eq!(shortfalls.len(), 1, "{shortfalls:?}");
    assert_eq!(shortfalls[0].what, "interrupts 24, 30 may come to CPUs 2", "40 does not");
    assert!(shortfalls[0].mend.contains("isolcpus=managed_irq,2"), "{shortfalls:?}");
    drop(partition);
    assert_eq!(tree.affinity(1), "0-3");
}

#[test]
fn what_others_set_in_the_meantime_is_kept() {
    let tree = Tree::new();
    let (partition, _) = take(&tree, &Simulated::new(Fault::Never), "2");
    tree.write("proc/irq/1/smp_affinity_list", "3\n");
    tree.write("proc/irq/30/smp_affinity_list", "1-2\n");
    fs::remove_dir_all(tree.root().join("proc/irq/24")).unwrap();
    drop(partition);
    assert_eq!(tree.affinity(1), "2-3", "gets the CPU back that was taken away");
    assert_eq!(tree.affinity(30), "1-2", "was put back already");
    assert!(!tree.record().exists(), "an interrupt that is gone holds nothing up");
}

#[test]
fn every_step_may_be_refused() {
    let healthy = Simulated::new(Fault::Never);
    drop(take(&Tree::new(), &healthy, "2-3"));
    let mut kinds = BTreeSet::new();
    for step in 0..healthy.steps() {
        let tree = Tree::new();
        let before = tree.snapshot();
        let (partition, shortfalls) = take(&tree, &Simulated::new(Fault::At(step)), "2-3");
        kinds.insert(format!("{:?} {}", partition.kind(), shortfalls.len()));
        drop(partition);
        if tree.snapshot() == before {
            continue;
        }
        // A step of putting back was refused: the next core does it.
        assert!(tree.record().exists(), "step {step}");
        let (partition, shortfalls) = take(&tree, &Simulated::new(Fault::Never), "");
        assert_eq!(shortfalls, [], "step {step}");
        drop(partition);
        assert_eq!(tree.snapshot(), before, "step {step}");
    }
    let seen: Vec<_> = kinds.iter().map(String::as_str).collect();
    assert_eq!(seen, ["Affinity 1", "Isolated 0", "Isolated 1", "Root 1"]);
}

#[test]
fn a_core_that_is_killed_at_any_step_leaves_nothing_for_long() {
    let healthy = Simulated::new(Fault::Never);
    drop(take(&Tree::new(), &healthy, "2-3"));
    for step in 0..=healthy.steps() {
        let tree = Tree::new();
        let before = tree.snapshot();
        let (mut partition, _) = take(&tree, &Simulated::new(Fault::Killed(step)), "2-3");
        let _ = partition.place(4711, Cpu::new(2).unwrap());
        // Nothing of what it does now has an effect.
        drop(partition);
        let (partition, shortfalls) = take(&tree, &Simulated::new(Fault::Never), "1");
        assert_eq!(shortfalls, [], "step {step}");
        assert_eq!(partition.kind(), Kind::Isolated, "step {step}");
        assert_eq!(held(tree.root()), "1".parse().unwrap(), "step {step}");
        drop(partition);
        assert_eq!(tree.snapshot(), before, "step {step}");
    }
}

#[test]
fn a_core_that_is_killed_while_it_cleans_up_leaves_it_to_the_next() {
    let wreck = || {
        let tree = Tree::new();
        let before = tree.snapshot();
        let kernel = Simulated::new(Fault::Never);
        let (mut partition, _) = take(&tree, &kernel, "2-3");
        partition.place(4711, Cpu::new(2).unwrap()).unwrap();
        std::mem::forget(partition);
        (tree, before)
    };
    let (tree, before) = wreck();
    let healthy = Simulated::new(Fault::Never);
    drop(take(&tree, &healthy, ""));
    assert_eq!(tree.snapshot(), before);
    for step in 0..healthy.steps() {
        let (tree, before) = wreck();
        let (partition, shortfalls) = take(&tree, &Simulated::new(Fault::Killed(step)), "");
        assert_eq!(shortfalls.len(), 1);
        drop(partition);
        drop(take(&tree, &Simulated::new(Fault::Never), ""));
        assert_eq!(tree.snapshot(), before, "step {step}");
    }
}

#[test]
fn a_record_of_another_boot_or_of_nothing_is_removed() {
    let tree = Tree::new();
    let before = tree.snapshot();
    let (partition, _) = take(&tree, &Simulated::new(Fault::Never), "2");
    let record = fs::read_to_string(tree.record()).unwrap();
    drop(partition);
    for text in [record.replace("11-22", "33-44"), "garbage".into(), String::new()] {
        fs::write(tree.record(), text).unwrap();
        tree.write("proc/irq/1/smp_affinity_list", "0-1\n");
        let (_partition, shortfalls) = take(&tree, &Simulated::new(Fault::Never), "");
        assert_eq!(shortfalls, []);
        assert_eq!(tree.affinity(1), "0-1", "this boot's is left alone");
        tree.write("proc/irq/1/smp_affinity_list", "0-3\n");
        assert_eq!(tree.snapshot(), before);
    }
}

#[test]
fn nothing_is_changed_that_could_not_be_put_back() {
    let tree = Tree::new();
    let before = tree.snapshot();
    let (partition, shortfalls) = take(&tree, &Simulated::refusing(&["core.sock.partition"]), "2");
    assert_eq!(partition.kind(), Kind::Affinity);
    assert_eq!(shortfalls.len(), 1, "{shortfalls:?}");
    assert!(shortfalls[0].mend.contains("a folder that it can write to"), "{shortfalls:?}");
    assert_eq!(tree.snapshot(), before);
    drop(partition);
    assert_eq!(tree.snapshot(), before);
}

#[test]
fn latency_is_asked_for_while_a_driver_polls() {
    let tree = Tree::new();
    let (mut partition, _) = take(&tree, &Simulated::new(Fault::Never), "2");
    assert!(partition.latency.is_none());
    partition.set_polling(true).unwrap();
    assert_eq!(fs::read(tree.root().join("dev/cpu_dma_latency")).unwrap(), [0; 4]);
    partition.set_polling(true).unwrap();
    assert!(partition.latency.is_some());
    partition.set_polling(false).unwrap();
    assert!(partition.latency.is_none());
    tree.remove("dev/cpu_dma_latency");
    let shortfall = partition.set_polling(true).unwrap_err();
    assert!(shortfall.mend.contains("CONFIG_CPU_IDLE"), "{shortfall}");
}

#[test]
fn memory_and_limits_are_checked() {
    let tree = Tree::new();
    let check = |wants: Wants| limits::check(tree.root(), &wants);
    let huge = |pages: u64| Wants { huge: pages * (2 << 20), ..Wants::default() };
    assert_eq!(check(huge(32)), []);
    let [missing] = check(huge(33)).try_into().unwrap();
    assert_eq!(missing.why, "33 huge pages of 2 MiB are needed and 32 of 40 are free");
    assert_eq!(missing.mend, "run: sysctl -w vm.nr_hugepages=41");

    let locked = |bytes| Wants { locked: bytes, ..Wants::default() };
    assert_eq!(check(locked(1 << 40)), [], "CAP_IPC_LOCK");
    tree.write("proc/self/status", "CapEff:\t0000000000000000\n");
    assert_eq!(check(locked(8 << 20)), []);
    let [missing] = check(locked(9 << 20)).try_into().unwrap();
    assert_eq!(missing.why, "9M must be locked, clients' memory not counted, and the limit is 8M");
    tree.write("proc/self/limits", "Max locked memory  unlimited unlimited bytes\n");
    assert_eq!(check(locked(9 << 20)), []);

    let real_time = || Wants { real_time: true, ..Wants::default() };
    let [missing] = check(real_time()).try_into().unwrap();
    assert!(missing.why.contains("950000 us"), "{missing}");
    tree.write("proc/sys/kernel/sched_rt_runtime_us", "-1\n");
    assert_eq!(check(real_time()), []);

    tree.write("proc/77/comm", "irqbalance\n");
    let [missing] = check(wants("2")).try_into().unwrap();
    assert!(missing.mend.contains("IRQBALANCE_BANNED_CPULIST=2"), "{missing}");
    assert_eq!(check(wants("")), []);

    tree.remove("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    assert!(check(huge(1))[0].mend.contains("CONFIG_HUGETLBFS"));
}

#[test]
fn what_is_wanted_comes_from_the_configuration() {
    let tree = Tree::new();
    tree.write("proc/self/status", "Cpus_allowed_list:\t0-3\n");
    let machine = Machine::read(tree.root(), &Cpus::new(), |_| Ok(()));
    let config = |core: &str| {
        let text = format!(
            "[core]\n{core}\n[[device]]\naddress = \"3:0.0\"\ncpu = 2\nmemory = \"8M\"\nrealtime = 1\n\
             [[device]]\naddress = \"model:nvme\"\ncpu = 3\nmemory = \"4M\"\n"
        );
        Config::parse(&text, Path::new("x"), &machine).unwrap()
    };
    let expected =
        Wants { cpus: "2-3".parse().unwrap(), huge: 12 << 20, locked: 8 << 20, real_time: true };
    assert_eq!(Wants::of(&config("")), expected);
    assert_eq!(Wants::of(&config("huge_pages = false")).huge, 0);
    let shared = Wants::of(&config("cpu = 3"));
    assert_eq!(shared.cpus.to_string(), "2", "the core could not run on it");
}
