use super::super::testing::{NIC, NVME, Tree};
use super::*;

fn uses(tree: &Tree, address: PciAddress) -> Vec<String> {
    let function = tree.sysfs().function(address).unwrap();
    function.uses.iter().map(ToString::to_string).collect()
}

#[test]
fn an_idle_device_has_no_uses() {
    let tree = Tree::new();
    assert_eq!(uses(&tree, NVME), Vec::<String>::new());
    assert_eq!(uses(&tree, NIC), Vec::<String>::new());
}

#[test]
fn mounts_are_found_by_number_and_by_source() {
    let tree = Tree::new();
    tree.write(
        "proc/self/mountinfo",
        "22 27 0:21 / /proc rw - proc proc rw\n\
         30 1 259:1 / /mnt/a\\040b rw,noatime shared:1 - ext4 /dev/root rw\n\
         31 1 0:40 / /data rw - btrfs /dev/nvme0n1 rw\n\
         short line\n",
    );
    assert_eq!(
        uses(&tree, NVME),
        ["nvme0n1 is mounted at /data", "nvme0n1p1 is mounted at /mnt/a b"]
    );
}

#[test]
fn swap_raid_and_volumes_are_found() {
    let tree = Tree::new();
    tree.write("proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1p1 partition 1 0 -2\n");
    tree.write("sys/class/block/nvme0n1/holders/md0/none", "");
    tree.write("sys/class/block/md0/md/level", "raid1\n");
    tree.write("sys/class/block/nvme0n1p1/holders/dm-0/none", "");
    tree.write("sys/class/block/dm-0/dm/name", "vg-root\n");
    tree.write("sys/class/block/dm-0/dm/uuid", "LVM-abc\n");
    assert_eq!(
        uses(&tree, NVME),
        [
            "nvme0n1 is part of md0 (RAID)",
            "nvme0n1p1 is swap space",
            "nvme0n1p1 is part of dm-0 (LVM, vg-root)"
        ]
    );
}

#[test]
fn a_member_of_a_btrfs_that_shows_another_source_is_in_use() {
    let tree = Tree::new();
    tree.write("sys/fs/btrfs/uuid-1/devices/nvme0n1p1/none", "");
    assert_eq!(uses(&tree, NVME), ["nvme0n1p1 is part of uuid-1 (btrfs)"]);
}

#[test]
fn an_open_node_names_its_process() {
    let tree = Tree::new();
    tree.process(123, "dd", "/dev/nvme0n1");
    tree.process(124, "(udev-worker)", "/dev/nvme0n1");
    assert_eq!(uses(&tree, NVME), ["nvme0n1 is open in dd (process 123)"]);
}

#[test]
fn an_interface_that_is_only_up_hinders_nothing() {
    let tree = Tree::new();
    tree.write("sys/class/net/eth0/flags", "0x1003\n");
    let function = tree.sysfs().function(NIC).unwrap();
    assert_eq!(function.uses, [Use::Up { interface: "eth0".into() }]);
    assert!(!function.uses[0].hinders());
}

#[test]
fn routes_bridges_and_virtual_functions_hinder() {
    let tree = Tree::new();
    tree.write(
        "proc/net/route",
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
         eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
         eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n",
    );
    tree.link("sys/class/net/eth0/master", "../br0");
    tree.link("sys/class/net/eth0/upper_br0", "../br0");
    tree.write(&format!("sys/bus/pci/devices/{NIC}/sriov_numvfs"), "4\n");
    assert_eq!(
        uses(&tree, NIC),
        [
            "eth0 carries the default route",
            "eth0 carries the route to 192.0.2.0/24",
            "eth0 is part of br0",
            "it has 4 virtual functions"
        ]
    );
    let function = tree.sysfs().function(NIC).unwrap();
    assert!(function.uses.iter().all(Use::hinders));
}

#[test]
fn escapes_of_the_kernels_tables() {
    assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    assert_eq!(unescape("/a\\04"), "/a\\04");
    assert_eq!(unescape("\\999é\\"), "\\999é\\");
}

proptest::proptest! {
    #[test]
    fn any_field_is_unescaped_without_a_panic(field in "[\\\\0-7é]*") {
        proptest::prop_assert!(unescape(&field).len() <= field.len());
    }
}
