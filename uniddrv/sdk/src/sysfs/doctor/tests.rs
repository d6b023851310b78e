use super::super::testing::Tree;
use super::*;

fn check(tree: &Tree, name: &str) -> Check {
    tree.sysfs().doctor().into_iter().find(|check| check.name == name).unwrap()
}

fn mend(tree: &Tree, name: &str) -> String {
    let check = check(tree, name);
    assert_ne!(check.state, State::Ok, "{check:?}");
    check.mend.unwrap()
}

/// A machine whose IOMMU is off, with the CPU's lines and the kernel's.
fn without_iommu(cpu: &str, parameters: &str) -> Tree {
    let tree = Tree::new();
    tree.remove("sys/kernel/iommu_groups");
    tree.write("proc/cpuinfo", cpu);
    tree.write("proc/cmdline", parameters);
    tree
}

#[test]
fn an_iommu_with_groups_is_on() {
    assert_eq!(check(&Tree::new(), "IOMMU"), Check::ok("IOMMU", "on, 2 groups"));
}

#[test]
fn an_intel_machine_lacks_its_parameter_in_the_boot_loader_it_has() {
    let tree = without_iommu("vendor_id : GenuineIntel\n", "quiet");
    assert!(mend(&tree, "IOMMU").contains("`intel_iommu=on iommu=pt`"));
    tree.write("etc/default/grub", "GRUB_CMDLINE_LINUX=\"quiet\"\n");
    tree.write("usr/sbin/update-grub", "");
    assert_eq!(
        mend(&tree, "IOMMU"),
        "sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on iommu=pt /' /etc/default/grub \
         && sudo update-grub && sudo reboot"
    );
    tree.write("usr/sbin/grubby", "");
    assert!(mend(&tree, "IOMMU").starts_with("sudo grubby --update-kernel=ALL"));
}

#[test]
fn with_the_parameter_firmware_or_hypervisor_is_what_lacks() {
    let intel = "vendor_id : GenuineIntel\nflags : fpu vme\n";
    assert!(mend(&without_iommu(intel, "intel_iommu=on"), "IOMMU").contains("VT-d"));
    let virtual_intel = "vendor_id : GenuineIntel\nflags : fpu hypervisor\n";
    let tree = without_iommu(virtual_intel, "intel_iommu=on");
    assert!(mend(&tree, "IOMMU").contains("-device intel-iommu"));
    let amd = "vendor_id : AuthenticAMD\nflags : fpu\n";
    assert!(mend(&without_iommu(amd, ""), "IOMMU").contains("AMD-Vi"));
    assert!(
        mend(&without_iommu(amd, "amd_iommu=off"), "IOMMU").starts_with("remove amd_iommu=off")
    );
    assert!(mend(&without_iommu("", ""), "IOMMU").contains("SMMU"));
}

#[test]
fn vfio_pci_is_loaded_or_loadable_or_missing() {
    let tree = Tree::new();
    assert_eq!(check(&tree, "vfio-pci"), Check::ok("vfio-pci", "loaded"));
    tree.remove("sys/bus/pci/drivers/vfio-pci");
    assert!(mend(&tree, "vfio-pci").contains("kernel with its modules"));
    tree.write("proc/sys/kernel/osrelease", "6.1.0\n");
    tree.write("lib/modules/6.1.0/modules.dep", "kernel/drivers/net/e1000e.ko:\n");
    tree.write("usr/bin/apt-get", "");
    assert_eq!(mend(&tree, "vfio-pci"), "sudo apt-get install -y linux-modules-extra-6.1.0");
    tree.write("lib/modules/6.1.0/modules.dep", "kernel/drivers/vfio/pci/vfio-pci.ko: a.ko\n");
    assert_eq!(check(&tree, "vfio-pci").state, State::Ok);
}

#[test]
fn the_device_node_must_be_there() {
    let tree = Tree::new();
    assert!(mend(&tree, "/dev/vfio/vfio").contains("modprobe"));
    tree.write("dev/vfio/vfio", "");
    assert_eq!(check(&tree, "/dev/vfio/vfio"), Check::ok("/dev/vfio/vfio", "accessible"));
}

#[test]
fn the_device_node_may_come_with_the_module() {
    let tree = Tree::new();
    tree.remove("sys/bus/pci/drivers/vfio-pci");
    assert_eq!(check(&tree, "/dev/vfio/vfio").state, State::Missing);
    tree.write("proc/sys/kernel/osrelease", "6.1.0\n");
    tree.write("lib/modules/6.1.0/modules.dep", "kernel/drivers/vfio/pci/vfio-pci.ko:\n");
    assert_eq!(check(&tree, "/dev/vfio/vfio").state, State::Ok);
}

#[test]
fn locked_memory_is_limited_by_rlimit_unless_capable() {
    let tree = Tree::new();
    let limits = |soft: &str| {
        let text = format!("Limit Soft Hard Units\nMax locked memory {soft} {soft} bytes\n");
        tree.write("proc/self/limits", &text);
        check(&tree, "locked memory")
    };
    assert_eq!(check(&tree, "locked memory").state, State::Advice);
    assert_eq!(limits("8388608").state, State::Missing);
    assert_eq!(limits("8388608").found, "limited to 8192 KiB; DMA memory is locked");
    assert_eq!(limits("1073741824").found, "up to 1024 MiB");
    assert_eq!(limits("unlimited").found, "no limit");
    limits("8388608");
    tree.write("proc/self/status", "CapEff:\t0000000000004000\n");
    assert_eq!(check(&tree, "locked memory").state, State::Ok);
}

#[test]
fn huge_pages_are_counted_free() {
    let tree = Tree::new();
    assert!(mend(&tree, "huge pages").contains("CONFIG_HUGETLBFS"));
    let folder = "sys/kernel/mm/hugepages/hugepages-2048kB";
    tree.write(&format!("{folder}/nr_hugepages"), "16\n");
    tree.write(&format!("{folder}/free_hugepages"), "0\n");
    assert_eq!(mend(&tree, "huge pages"), "sudo sysctl -w vm.nr_hugepages=272");
    tree.write(&format!("{folder}/free_hugepages"), "16\n");
    assert_eq!(check(&tree, "huge pages").state, State::Ok);
}

#[test]
fn the_last_core_is_the_one_to_isolate() {
    let tree = Tree::new();
    let folder = "sys/devices/system/cpu";
    tree.write(&format!("{folder}/online"), "0-3,6-7\n");
    tree.write(&format!("{folder}/isolated"), "\n");
    assert!(mend(&tree, "isolated cores").contains("isolcpus=managed_irq,domain,7 nohz_full=7"));
    tree.write(&format!("{folder}/online"), "0\n");
    assert!(mend(&tree, "isolated cores").contains("two cores"));
    tree.write(&format!("{folder}/isolated"), "2-3\n");
    assert_eq!(check(&tree, "isolated cores"), Check::ok("isolated cores", "2-3"));
}

#[test]
fn every_cpu_must_run_at_its_full_clock() {
    let tree = Tree::new();
    assert_eq!(check(&tree, "CPU frequency").state, State::Ok);
    let cpu = |number: u32| format!("sys/devices/system/cpu/cpu{number}/cpufreq/scaling_governor");
    tree.write(&cpu(0), "performance\n");
    assert_eq!(check(&tree, "CPU frequency").state, State::Ok);
    tree.write(&cpu(1), "powersave\n");
    assert!(check(&tree, "CPU frequency").found.starts_with("governor performance, powersave"));
}

#[test]
fn fio_is_found_or_installed_by_the_package_manager_there_is() {
    let tree = Tree::new();
    assert_eq!(mend(&tree, "fio"), "install the package fio");
    tree.write("usr/bin/dnf", "");
    assert_eq!(mend(&tree, "fio"), "sudo dnf install -y fio");
    tree.write("usr/bin/fio", "");
    assert_eq!(check(&tree, "fio").state, State::Ok);
}
