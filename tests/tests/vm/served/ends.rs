//! Ends that are not the driver's: of the core, and of the device.

use std::fs;
use std::thread;
use std::time::Duration;

use super::super::{block_device, guest};
use super::load::Load;
use super::{Core, DATA, as_linux_reads, connect, eventually, status, uniddrv};

const UNITS: usize = 128;
/// The command register in configuration space, and Bus Master Enable in it.
/// PCI Local Bus 3.0 §6.2.2.
const COMMAND: usize = 4;
const BUS_MASTER: u8 = 4;

/// Whether the device may access memory, as its configuration space says.
fn may_access_memory() -> bool {
    let config = fs::read(format!("/sys/bus/pci/devices/{DATA}/config")).unwrap();
    config[COMMAND] & BUS_MASTER != 0
}

/// Processes of the driver's program, those that wait included.
fn drivers() -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let program = |entry: fs::DirEntry| fs::read_link(entry.path().join("exe")).ok();
    processes
        .filter_map(program)
        .filter(|exe| exe.to_string_lossy().contains("uniddrv-nvme"))
        .count()
}

#[test]
fn when_the_core_is_killed_the_device_stops_and_linux_has_it_back() {
    let Some(guest) = guest() else { return };
    uniddrv(&["bind", DATA]);
    let mut core = Core::start(&[DATA], "");
    let connection = connect();
    let mut load = Load::new(&connection, "nvme:0/ns1", UNITS, 2);
    eventually("successor that waits", || status(&connection, "nvme:0").warm.then_some(()));
    assert_eq!((drivers(), may_access_memory()), (2, true));

    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            core.kill();
        });
        while load.gone == 0 {
            load.step();
        }
    });
    load.drain();
    assert!(load.gone > 0 && load.ended > UNITS as u64);
    drop((load, connection));
    eventually("end of all drivers", || (drivers() == 0).then_some(()));
    eventually("end of the device's accesses", || (!may_access_memory()).then_some(()));

    // Linux has it back, and it works.
    uniddrv(&["unbind", DATA]);
    assert_eq!(guest.driver(DATA).as_deref(), Some("nvme"));
    let bytes = super::super::pattern(77, 1 << 20);
    let file = fs::File::options().write(true).open(block_device(DATA, 1)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert!(as_linux_reads(1, bytes.len()) == bytes);

    // And another core starts where the first one was.
    uniddrv(&["bind", DATA]);
    let core = Core::start(&[DATA], "");
    let connection = connect();
    let mut load = Load::new(&connection, "nvme:0/ns1", UNITS, 3);
    load.verify();
    let expected = load.expected();
    drop((load, connection));
    // What the new one does not use is as Linux left it.
    assert!(core.end().success());
    assert!(!may_access_memory());
    assert_eq!(drivers(), 0);
    uniddrv(&["unbind", DATA]);
    let found = as_linux_reads(1, bytes.len());
    assert!(
        found[..expected.len()] == expected && found[expected.len()..] == bytes[expected.len()..]
    );
}

#[test]
fn a_device_that_is_removed_ends_its_requests_and_nothing_else() {
    let Some(guest) = guest() else { return };
    uniddrv(&["bind", DATA]);
    let core = Core::start(&[DATA], "");
    let connection = connect();
    let mut load = Load::new(&connection, "nvme:0/ns1", UNITS, 4);
    thread::scope(|scope| {
        let removal = scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            // Returns once nobody has the device any more.
            fs::write(format!("/sys/bus/pci/devices/{DATA}/remove"), "1").unwrap();
        });
        while load.gone == 0 {
            load.step();
        }
        load.drain();
        removal.join().unwrap();
    });
    drop(load);
    assert!(!fs::exists(format!("/sys/bus/pci/devices/{DATA}")).unwrap());
    eventually("end of the name", || connection.names("").unwrap().is_empty().then_some(()));
    assert_eq!(drivers(), 0);

    // It comes back, to Linux first, and the same core serves it again.
    fs::write("/sys/bus/pci/rescan", "1").unwrap();
    eventually("controller", || guest.linux.function(super::super::pci(DATA)).ok());
    block_device(DATA, 1);
    uniddrv(&["bind", DATA]);
    Load::new(&connection, "nvme:0/ns1", UNITS, 5).verify();
    uniddrv(&["unbind", DATA]);
    assert_eq!(guest.driver(DATA).as_deref(), Some("nvme"));
    assert!(core.end().success());
}
