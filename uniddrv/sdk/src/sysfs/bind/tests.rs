use super::super::testing::{BRIDGE, Fault, NIC, NVME, Simulated, Tree};
use super::super::{UnbindOptions, Unbound};
use super::*;

static NEVER: AtomicBool = AtomicBool::new(false);

fn vfio() -> (Option<String>, Option<String>) {
    (Some("vfio-pci".into()), Some("vfio-pci".into()))
}

fn native(driver: &str) -> (Option<String>, Option<String>) {
    (Some(driver.into()), None)
}

fn bind(tree: &Tree, addresses: &[PciAddress]) -> Result<Vec<Bound>, Error> {
    let options = BindOptions::default();
    tree.sysfs().bind_with(&mut Simulated::new(tree, Fault::Never), addresses, &options, &NEVER)
}

fn unbind(tree: &Tree, address: PciAddress) -> Result<Unbound, Error> {
    let mut machine = Simulated::new(tree, Fault::Never);
    tree.sysfs().unbind_with(&mut machine, address, UnbindOptions::default())
}

/// All that can be asked for at once: two devices, a rule, a user.
fn everything() -> BindOptions {
    BindOptions { force: false, persist: Some("/usr/bin/uniddrv".into()), user: Some("ann".into()) }
}

#[test]
fn a_device_goes_to_vfio_pci_and_its_driver_is_written_down() {
    let tree = Tree::new();
    let bound = bind(&tree, &[NVME]).unwrap();
    let expected = Bound { address: NVME, from: Some("nvme".into()), group: 7, already: false };
    assert_eq!(bound, [expected]);
    assert_eq!(tree.state(NVME), vfio());
    assert!(tree.read("run/uniddrv/0000:03:00.0.toml").contains("driver = \"nvme\""));
    assert!(tree.sysfs().function(NVME).unwrap().taken);
}

#[test]
fn binding_twice_changes_nothing_and_keeps_the_record() {
    let tree = Tree::new();
    bind(&tree, &[NVME]).unwrap();
    let bound = bind(&tree, &[NVME, NVME]).unwrap();
    assert_eq!(bound.len(), 1);
    assert!(bound[0].already);
    assert_eq!(bound[0].from.as_deref(), Some("nvme"));
    assert_eq!(unbind(&tree, NVME).unwrap(), Unbound::GivenBack { driver: Some("nvme".into()) });
}

#[test]
fn a_device_in_use_is_refused_unless_forced() {
    let tree = Tree::new();
    tree.write("proc/swaps", "Filename\n/dev/nvme0n1p1 partition 1 0 -2\n");
    let Err(Error::InUse { uses, .. }) = bind(&tree, &[NVME]) else {
        panic!("a device in use was taken");
    };
    assert_eq!(uses, [Use::Swap { node: "nvme0n1p1".into() }]);
    assert_eq!(tree.state(NVME), native("nvme"));
    assert!(tree.is_clean(NVME));
    let options = BindOptions { force: true, ..BindOptions::default() };
    let mut machine = Simulated::new(&tree, Fault::Never);
    tree.sysfs().bind_with(&mut machine, &[NVME], &options, &NEVER).unwrap();
    assert_eq!(tree.state(NVME), vfio());
}

#[test]
fn an_interface_that_is_up_without_routes_is_taken() {
    let tree = Tree::new();
    tree.write("sys/class/net/eth0/flags", "0x1003\n");
    bind(&tree, &[NIC]).unwrap();
    assert_eq!(tree.state(NIC), vfio());
}

#[test]
fn checks_refuse_before_anything_changes() {
    let tree = Tree::new();
    let unknown = "0000:7f:00.0".parse().unwrap();
    assert!(matches!(bind(&tree, &[unknown]), Err(Error::NoSuchDevice { .. })));
    assert!(matches!(bind(&tree, &[BRIDGE]), Err(Error::OtherKind { .. })));
    tree.remove(&format!("sys/bus/pci/devices/{NVME}/iommu_group"));
    assert!(matches!(bind(&tree, &[NVME]), Err(Error::NoIommuGroup { .. })));
    // The second of two does not pass: the first is not touched.
    assert!(bind(&tree, &[NIC, NVME]).is_err());
    assert_eq!(tree.state(NIC), native("e1000e"));
    assert!(!tree.exists("run"));
}

#[test]
fn a_group_is_taken_whole_or_not_at_all() {
    let tree = Tree::new();
    let second = "0000:03:00.1".parse().unwrap();
    tree.device(second, "0x1b36", "0x0010", "0x010802", Some("nvme"), Some(7));
    let Err(Error::GroupShared { others, group: 7, .. }) = bind(&tree, &[NVME]) else {
        panic!("a part of a group was taken");
    };
    assert_eq!(others, [(second, "nvme".to_owned())]);
    // With the other one without a driver, with a harmless one, or both named.
    tree.remove(&format!("sys/bus/pci/devices/{second}/driver"));
    assert!(tree.sysfs().plan_bind(&[NVME], &BindOptions::default()).is_ok());
    let driver = format!("sys/bus/pci/devices/{second}/driver");
    tree.link(&driver, "../../../bus/pci/drivers/pcieport");
    assert!(tree.sysfs().plan_bind(&[NVME], &BindOptions::default()).is_ok());
    tree.link(&driver, "../../../bus/pci/drivers/nvme");
    bind(&tree, &[NVME, second]).unwrap();
    assert_eq!(tree.state(second), vfio());
}

#[test]
fn the_rules_of_a_group_run_one_after_the_other() {
    let tree = Tree::new();
    let second = "0000:03:00.1".parse().unwrap();
    tree.device(second, "0x1b36", "0x0010", "0x010802", Some("nvme"), Some(7));
    tree.write(&format!("etc/udev/rules.d/60-uniddrv-{second}.rules"), "");
    bind(&tree, &[NVME]).unwrap();
    bind(&tree, &[second]).unwrap();
    assert_eq!((tree.state(NVME), tree.state(second)), (vfio(), vfio()));
}

#[test]
fn vfio_pci_is_loaded_where_it_can_be() {
    let tree = Tree::new();
    tree.remove("sys/bus/pci/drivers/vfio-pci");
    assert!(matches!(bind(&tree, &[NVME]), Err(Error::NoVfioPci { .. })));
    assert_eq!(tree.state(NVME), native("nvme"));
    let mut machine = Simulated::new(&tree, Fault::Never);
    machine.loadable.push(VFIO_PCI);
    tree.sysfs().bind_with(&mut machine, &[NVME], &BindOptions::default(), &NEVER).unwrap();
    assert_eq!(tree.state(NVME), vfio());
}

#[test]
fn a_device_that_vfio_pci_refuses_goes_back() {
    let tree = Tree::new();
    let mut machine = Simulated::new(&tree, Fault::Never);
    machine.refusing.push(VFIO_PCI);
    let result = tree.sysfs().bind_with(&mut machine, &[NVME], &BindOptions::default(), &NEVER);
    let Err(Error::Refused { driver, source, .. }) = result else {
        panic!("bound to a driver that refuses");
    };
    assert_eq!((driver.as_str(), source.raw_os_error()), (VFIO_PCI, Some(libc::EINVAL)));
    assert_eq!(tree.state(NVME), native("nvme"));
    assert!(tree.is_clean(NVME));
}

#[test]
fn a_device_without_a_driver_is_left_without_one() {
    let tree = Tree::new();
    tree.remove(&format!("sys/bus/pci/devices/{NVME}/driver"));
    bind(&tree, &[NVME]).unwrap();
    assert_eq!(unbind(&tree, NVME).unwrap(), Unbound::GivenBack { driver: None });
    assert_eq!(tree.state(NVME), (None, None));
}

#[test]
fn somebody_elses_override_comes_back() {
    let tree = Tree::new();
    let path = format!("sys/bus/pci/devices/{NVME}/driver_override");
    tree.write(&path, "nvme\n");
    bind(&tree, &[NVME]).unwrap();
    unbind(&tree, NVME).unwrap();
    assert_eq!(tree.read(&path), "nvme\n");
}

#[test]
fn persistence_and_owner_come_with_the_bind_and_go_with_unbind() {
    let tree = Tree::new();
    let mut machine = Simulated::new(&tree, Fault::Never);
    tree.sysfs().bind_with(&mut machine, &[NVME, NIC], &everything(), &NEVER).unwrap();
    assert_eq!(machine.owners, [("7".to_owned(), 1000), ("8".to_owned(), 1000)]);
    assert!(tree.exists("etc/udev/rules.d/60-uniddrv-0000:03:00.0.rules"));
    assert!(tree.sysfs().function(NIC).unwrap().persistent);
    unbind(&tree, NVME).unwrap();
    assert!(tree.exists("etc/modules-load.d/uniddrv-vfio.conf"));
    unbind(&tree, NIC).unwrap();
    assert!(tree.is_clean(NVME) && tree.is_clean(NIC));
}

#[test]
fn a_user_that_does_not_exist_is_an_error() {
    let tree = Tree::new();
    let options = BindOptions { user: Some("nobody-here".into()), ..BindOptions::default() };
    let mut machine = Simulated::new(&tree, Fault::Never);
    let result = tree.sysfs().bind_with(&mut machine, &[NVME], &options, &NEVER);
    assert!(matches!(result, Err(Error::NoSuchUser { .. })));
    assert_eq!(machine.steps, 0);
}

#[test]
fn a_plan_says_what_bind_does_and_does_nothing() {
    let tree = Tree::new();
    let steps = tree.sysfs().plan_bind(&[NVME], &BindOptions::default()).unwrap();
    assert_eq!(
        steps,
        [
            "echo vfio-pci > /sys/bus/pci/devices/0000:03:00.0/driver_override",
            "echo 0000:03:00.0 > /sys/bus/pci/devices/0000:03:00.0/driver/unbind",
            "echo 0000:03:00.0 > /sys/bus/pci/drivers/vfio-pci/bind",
        ]
    );
    assert_eq!(tree.state(NVME), native("nvme"));
    assert!(!tree.exists("run"));
}

#[test]
fn whatever_step_fails_everything_is_as_it_was() {
    let faults: [fn(usize) -> Fault; 2] = [|step| Fault::At(vec![step]), Fault::After];
    for fault in faults {
        let mut step = 0;
        loop {
            let tree = Tree::new();
            let mut machine = Simulated::new(&tree, fault(step));
            let result = tree.sysfs().bind_with(&mut machine, &[NVME, NIC], &everything(), &NEVER);
            if !machine.hit.get() {
                result.unwrap();
                break;
            }
            assert!(result.is_err(), "step {step} failed and bind did not");
            assert!(!matches!(result, Err(Error::NotRolledBack { .. })), "step {step}");
            assert_eq!(tree.state(NVME), native("nvme"), "step {step}");
            assert_eq!(tree.state(NIC), native("e1000e"), "step {step}");
            assert!(tree.is_clean(NVME) && tree.is_clean(NIC), "step {step}");
            step += 1;
        }
        // Record, override, unbind, bind for each; rule, modules, owner too.
        assert_eq!(step, 14);
    }
}

#[test]
fn when_the_way_back_fails_too_no_device_is_without_a_driver_and_unbind_mends() {
    for first in 0..7 {
        for second in first + 1..first + 9 {
            let tree = Tree::new();
            let mut machine = Simulated::new(&tree, Fault::At(vec![first, second]));
            let result = tree.sysfs().bind_with(&mut machine, &[NVME], &everything(), &NEVER);
            let place = format!("steps {first} and {second}: {result:?}");
            assert!(result.is_err(), "{place}");
            if !matches!(result, Err(Error::NotRolledBack { .. })) {
                assert_eq!(tree.state(NVME), native("nvme"), "{place}");
                assert!(tree.is_clean(NVME), "{place}");
            }
            assert!(tree.state(NVME).0.is_some(), "{place}");
            // What was given back is an error to give back again.
            let _ = unbind(&tree, NVME);
            assert_eq!(tree.state(NVME), native("nvme"), "{place}");
            assert!(tree.is_clean(NVME), "{place}");
        }
    }
}

#[test]
fn a_bind_that_was_killed_is_mended_by_unbind_and_by_bind() {
    for step in 0..14 {
        for again in [false, true] {
            let tree = Tree::new();
            let mut machine = Simulated::new(&tree, Fault::Killed(step));
            let result = tree.sysfs().bind_with(&mut machine, &[NVME, NIC], &everything(), &NEVER);
            assert!(result.is_err());
            if again {
                bind(&tree, &[NVME, NIC]).unwrap();
                assert_eq!(tree.state(NVME), vfio(), "killed at {step}");
                assert_eq!(tree.state(NIC), vfio(), "killed at {step}");
            }
            for (address, driver) in [(NVME, "nvme"), (NIC, "e1000e")] {
                // Killed before the first change to this one, it is not ours.
                let result = unbind(&tree, address);
                assert!(
                    matches!(result, Ok(_) | Err(Error::NotBound { .. })),
                    "killed at {step}: {result:?}"
                );
                assert_eq!(tree.state(address), native(driver), "killed at {step}");
            }
            assert!(tree.is_clean(NVME) && tree.is_clean(NIC), "killed at {step}");
        }
    }
}

#[test]
fn an_interrupt_at_any_step_rolls_back_or_completes() {
    let mut interrupted = 0;
    for step in 0..14 {
        let tree = Tree::new();
        let stop = AtomicBool::new(false);
        let mut machine = Simulated::new(&tree, Fault::Never);
        machine.signal = Some((step, &stop));
        match tree.sysfs().bind_with(&mut machine, &[NVME, NIC], &everything(), &stop) {
            Ok(_) => {
                assert_eq!(tree.state(NVME), vfio());
                assert_eq!(tree.state(NIC), vfio());
            }
            Err(Error::Interrupted { .. }) => {
                interrupted += 1;
                assert_eq!(tree.state(NVME), native("nvme"), "step {step}");
                assert_eq!(tree.state(NIC), native("e1000e"), "step {step}");
                assert!(tree.is_clean(NVME) && tree.is_clean(NIC), "step {step}");
            }
            Err(error) => panic!("step {step}: {error}"),
        }
    }
    // After the last step nothing is left to interrupt.
    assert_eq!(interrupted, 13);
}
