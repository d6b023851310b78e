use std::sync::atomic::AtomicBool;

use super::super::BindOptions;
use super::super::testing::{Fault, NIC, NVME, Simulated, Tree};
use super::*;

fn bound(options: &BindOptions) -> Tree {
    let tree = Tree::new();
    let stop = AtomicBool::new(false);
    let mut machine = Simulated::new(&tree, Fault::Never);
    tree.sysfs().bind_with(&mut machine, &[NVME], options, &stop).unwrap();
    tree
}

fn persistent() -> BindOptions {
    BindOptions { persist: Some("/usr/bin/uniddrv".into()), ..BindOptions::default() }
}

fn unbind(tree: &Tree, address: PciAddress) -> Result<Unbound, Error> {
    let mut machine = Simulated::new(tree, Fault::Never);
    tree.sysfs().unbind_with(&mut machine, address, UnbindOptions::default())
}

fn given_back() -> Unbound {
    Unbound::GivenBack { driver: Some("nvme".into()) }
}

#[test]
fn what_is_not_bound_is_an_error() {
    let tree = Tree::new();
    let Err(Error::NotBound { driver, .. }) = unbind(&tree, NIC) else {
        panic!("unbound what was not bound");
    };
    assert_eq!(driver.as_deref(), Some("e1000e"));
    let gone = "0000:7f:00.0".parse().unwrap();
    assert!(matches!(unbind(&tree, gone), Err(Error::NoSuchDevice { .. })));
}

#[test]
fn without_a_record_linux_chooses_the_driver() {
    let tree = bound(&persistent());
    // As after a reboot: the rule is there, the record is not.
    tree.remove("run");
    assert_eq!(unbind(&tree, NVME).unwrap(), given_back());
    assert_eq!(tree.state(NVME), (Some("nvme".into()), None));
    assert!(tree.is_clean(NVME));
}

#[test]
fn a_damaged_record_is_as_good_as_none() {
    let tree = bound(&BindOptions::default());
    tree.write(&format!("run/uniddrv/{NVME}.toml"), "driver = \"../../evil\"\n");
    assert_eq!(unbind(&tree, NVME).unwrap(), given_back());
    assert!(tree.is_clean(NVME));
}

#[test]
fn a_record_out_of_date_is_cleared_away() {
    let tree = bound(&BindOptions::default());
    // Somebody gave it back by hand and forgot the override.
    tree.link(&format!("sys/bus/pci/devices/{NVME}/driver"), "../../../bus/pci/drivers/nvme");
    assert_eq!(unbind(&tree, NVME).unwrap(), given_back());
    assert_eq!(tree.state(NVME), (Some("nvme".into()), None));
    assert!(tree.is_clean(NVME));
}

#[test]
fn a_device_that_was_pulled_out_is_forgotten() {
    let tree = bound(&persistent());
    tree.remove(&format!("sys/bus/pci/devices/{NVME}"));
    assert_eq!(unbind(&tree, NVME).unwrap(), Unbound::Forgotten);
    assert!(tree.is_clean(NVME));
}

#[test]
fn a_device_that_a_process_works_with_stays() {
    let tree = bound(&BindOptions::default());
    tree.process(77, "spdk", "/dev/vfio/7");
    let error = unbind(&tree, NVME).unwrap_err();
    assert_eq!(
        error.to_string(),
        "0000:03:00.0 is in use through /dev/vfio/7 by spdk (process 77)"
    );
    assert_eq!(tree.state(NVME).0.as_deref(), Some(VFIO_PCI));
    let mut machine = Simulated::new(&tree, Fault::Never);
    let forced = UnbindOptions { force: true };
    let result = tree.sysfs().unbind_with(&mut machine, NVME, forced);
    assert_eq!(result.unwrap(), given_back());
}

#[test]
fn a_driver_that_was_unloaded_is_loaded_again() {
    let tree = bound(&BindOptions::default());
    tree.remove("sys/bus/pci/drivers/nvme");
    let mut machine = Simulated::new(&tree, Fault::Never);
    machine.loadable.push("nvme");
    let result = tree.sysfs().unbind_with(&mut machine, NVME, UnbindOptions::default());
    assert_eq!(result.unwrap(), given_back());
    assert_eq!(tree.state(NVME), (Some("nvme".into()), None));
}

#[test]
fn a_device_that_its_driver_refuses_stays_with_vfio_pci() {
    let tree = bound(&BindOptions::default());
    let mut machine = Simulated::new(&tree, Fault::Never);
    machine.refusing.push("nvme");
    let result = tree.sysfs().unbind_with(&mut machine, NVME, UnbindOptions::default());
    assert!(matches!(result, Err(Error::Refused { .. })));
    assert_eq!(tree.state(NVME).0.as_deref(), Some(VFIO_PCI));
    // Once the driver takes it, the record still says where it belongs.
    assert_eq!(unbind(&tree, NVME).unwrap(), given_back());
    assert!(tree.is_clean(NVME));
}

#[test]
fn whatever_step_fails_a_driver_has_the_device_and_the_next_unbind_mends() {
    let kinds: [fn(usize) -> Fault; 2] = [|step| Fault::At(vec![step]), Fault::After];
    for fault in kinds {
        for keep_record in [true, false] {
            let mut step = 0;
            loop {
                let tree = bound(&persistent());
                if !keep_record {
                    tree.remove("run");
                }
                let mut machine = Simulated::new(&tree, fault(step));
                let result = tree.sysfs().unbind_with(&mut machine, NVME, UnbindOptions::default());
                if !machine.hit.get() {
                    result.unwrap();
                    break;
                }
                let driver = tree.state(NVME).0;
                assert!(driver.is_some(), "step {step}: {result:?}");
                let again = unbind(&tree, NVME);
                if result.is_ok() || driver.as_deref() == Some("nvme") {
                    assert!(
                        matches!(again, Ok(_) | Err(Error::NotBound { .. })),
                        "step {step}: {again:?}"
                    );
                } else {
                    assert_eq!(again.unwrap(), given_back(), "step {step}");
                }
                assert_eq!(tree.state(NVME), (Some("nvme".into()), None), "step {step}");
                assert!(tree.is_clean(NVME), "step {step}");
                step += 1;
            }
            // Override, unbind, bind, record, modules, rule.
            assert_eq!(step, 6);
        }
    }
}

#[test]
fn an_unbind_that_was_killed_is_completed_by_the_next() {
    for step in 0..6 {
        let tree = bound(&persistent());
        let mut machine = Simulated::new(&tree, Fault::Killed(step));
        assert!(tree.sysfs().unbind_with(&mut machine, NVME, UnbindOptions::default()).is_err());
        assert_eq!(unbind(&tree, NVME).unwrap(), given_back(), "killed at {step}");
        assert_eq!(tree.state(NVME), (Some("nvme".into()), None));
        assert!(tree.is_clean(NVME));
    }
}

#[test]
fn twenty_rounds_leave_nothing_behind() {
    let tree = Tree::new();
    let stop = AtomicBool::new(false);
    for _ in 0..20 {
        let mut machine = Simulated::new(&tree, Fault::Never);
        tree.sysfs().bind_with(&mut machine, &[NVME], &BindOptions::default(), &stop).unwrap();
        assert_eq!(unbind(&tree, NVME).unwrap(), given_back());
        assert_eq!(tree.state(NVME), (Some("nvme".into()), None));
        assert!(tree.is_clean(NVME));
    }
}
