//! From Linux's driver to vfio-pci and back.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};

use super::{DATA, block_device, guest, pattern};

#[test]
fn a_drive_goes_to_vfio_and_back_twenty_times() {
    let Some(guest) = guest() else { return };
    for round in 0..20 {
        guest.bind(DATA);
        assert_eq!(guest.driver(DATA).as_deref(), Some("vfio-pci"));
        assert!(!fs::exists(format!("/sys/bus/pci/devices/{DATA}/nvme")).unwrap());

        guest.give_back(DATA);
        assert_eq!(guest.driver(DATA).as_deref(), Some("nvme"));
        let forced =
            fs::read_to_string(format!("/sys/bus/pci/devices/{DATA}/driver_override")).unwrap();
        assert_eq!(forced.trim(), "(null)");

        // Linux's driver works: what it writes reads back, and is still there
        // in the next round.
        for nsid in [1, 2] {
            let device = block_device(DATA, nsid);
            if round > 0 {
                assert_eq!(read(&device), pattern(round - 1 + u64::from(nsid), 65536));
            }
            write(&device, &pattern(round + u64::from(nsid), 65536));
            assert_eq!(read(&device), pattern(round + u64::from(nsid), 65536));
        }
    }
}

fn write(device: &str, bytes: &[u8]) {
    let mut file = File::options().write(true).open(device).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

/// The start of a drive.
fn read(device: &str) -> Vec<u8> {
    let mut file = File::open(device).unwrap();
    let mut bytes = vec![0; 65536];
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    bytes
}
