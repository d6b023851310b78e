//! The transport `vfio`: what it refuses and why, registers, interrupts, DMA, reset, removal.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use uniddrv::{
    Address, Arena, Device, InterruptKind, Transport, TransportError, TransportKind, Window, vfio,
};
use uniddrv_spec::edu;
use uniddrv_spec::nvme::registers::{Acq, Aqa, Asq, Cc, Csts};
use uniddrv_tests::programs;

use super::iommu::{copy, kernel_log};
use super::{DATA, EDU, Guest, guest, pattern, pci};

/// The NVMe controller that keeps nothing.
const NULL: &str = "0000:00:11.0";
/// Two NICs in one IOMMU group.
const PAIR: [&str; 2] = ["0000:01:00.0", "0000:02:00.0"];

const SECOND: Duration = Duration::from_secs(1);
/// A user who may do nothing.
const NOBODY: u32 = 65_534;
/// Set for the program that runs as that user.
const UNPRIVILEGED: &str = "UNIDDRV_VM_UNPRIVILEGED";

fn sysfs(address: &str, file: &str) -> PathBuf {
    PathBuf::from("/sys/bus/pci/devices").join(address).join(file)
}

/// A device that is bound to vfio-pci, and its transport.
fn open(address: &str) -> (Arc<dyn Transport>, Device) {
    let transport = vfio::open(pci(address)).unwrap();
    let device = Device::new(transport.clone(), Address::Pci(pci(address)));
    (transport, device)
}

/// Runs `check` while the device is bound to vfio-pci.
fn with(address: &str, check: impl FnOnce(&Guest)) {
    let Some(guest) = guest() else { return };
    guest.bind(address);
    check(&guest);
    guest.give_back(address);
}

fn refusal(address: &str) -> String {
    Device::open(&address.parse().unwrap()).err().unwrap().to_string()
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn a_device_that_is_not_bound_is_refused_with_the_way_out() {
    let Some(_guest) = guest() else { return };
    assert_says(&refusal("0000:00:1e.0"), &["no PCI device 0000:00:1e.0", "uniddrv list"]);
    assert_says(&refusal(EDU), &["no driver", "`uniddrv bind 0000:00:12.0`"]);
    let text = refusal(DATA);
    assert_says(&text, &["Linux's driver nvme", "`uniddrv bind 0000:00:10.0`"]);
}

#[test]
fn a_group_with_a_foreign_member_is_refused() {
    let Some(guest) = guest() else { return };
    // Not by `bind`, which would refuse to take only one of the two.
    let [first, second] = PAIR;
    by_hand(first, "vfio-pci");
    let text = refusal(first);
    assert_says(&text, &["IOMMU group", "0000:02:00.0 (e1000e)"]);
    assert!(!text.contains("pcieport"), "bridges are no obstacle: {text}");
    by_hand(second, "vfio-pci");
    drop(open(first));
    for address in PAIR {
        by_hand(address, "");
        assert_eq!(guest.driver(address).as_deref(), Some("e1000e"));
    }
}

/// Binds a device to `driver`, or to Linux's own where that is empty.
fn by_hand(address: &str, driver: &str) {
    fs::write(sysfs(address, "driver/unbind"), address).unwrap();
    fs::write(sysfs(address, "driver_override"), format!("{driver}\n")).unwrap();
    fs::write("/sys/bus/pci/drivers_probe", address).unwrap();
}

#[test]
fn a_device_is_opened_once_at_a_time() {
    with(EDU, |_| {
        let held = open(EDU);
        assert_says(&refusal(EDU), &["/dev/vfio/", "another process"]);
        drop(held);
        open(EDU);
    });
}

#[test]
fn registers_read_alike_mapped_and_trapped() {
    with(EDU, |_| {
        let (transport, device) = open(EDU);
        assert_eq!(device.transport(), TransportKind::Vfio);
        let identity = device.identity().unwrap();
        assert_eq!((identity.vendor, identity.device), (edu::VENDOR, edu::DEVICE));
        assert_eq!((identity.class, identity.revision), (0x00_ff00, 0x10));
        let bar = device.bar(0).unwrap();
        assert_eq!(bar.size(), edu::BAR_SIZE as u64);
        assert_says(&device.bar(1).err().unwrap().to_string(), &["no BAR 1"]);
        let mapped = bar.window(0..0x1000).unwrap();
        let trapped = Window::trapped(transport, 0, 0, 0x1000);
        assert!(mapped.is_mapped() && !trapped.is_mapped());
        for window in [&mapped, &trapped] {
            let identification = window.read32(edu::Identification::OFFSET);
            assert_eq!(identification, edu::Identification::QEMU.bits());
        }
        mapped.write32(edu::Liveness::OFFSET, 0x1111_2222);
        assert_eq!(trapped.read32(edu::Liveness::OFFSET), !0x1111_2222);
        trapped.write32(edu::Liveness::OFFSET, 0x3333_4444);
        assert_eq!(mapped.read32(edu::Liveness::OFFSET), !0x3333_4444);
        mapped.write64(edu::DmaCount::OFFSET, 0x5_0000_0001);
        assert_eq!(mapped.read64(edu::DmaCount::OFFSET), 0x5_0000_0001);
        // A window into the middle of a page starts where it says.
        assert_eq!(bar.window(0x80..0x100).unwrap().read64(0x10), 0x5_0000_0001);
        assert!(device.lost().is_none());
    });
}

#[test]
fn impossible_requests_are_errors() {
    with(EDU, |_| {
        let (transport, device) = open(EDU);
        let mut bytes = [0; 4];
        let size = edu::BAR_SIZE as u64;
        for offset in [size, size - 2, u64::MAX] {
            assert!(transport.read_bar(0, offset, &mut bytes).is_err());
            assert!(transport.write_bar(0, offset, &bytes).is_err());
        }
        assert!(transport.read_bar(1, 0, &mut bytes).is_err());
        assert!(transport.read_bar(6, 0, &mut bytes).is_err());
        assert!(transport.read_config(4096, &mut bytes).is_err());
        for range in [0..0, size..size + 4096, 0..size + 4096, u64::MAX - 1..u64::MAX] {
            assert!(transport.map_bar(0, range).is_err());
        }
        assert!(transport.map_bar(2, 0..4096).is_err());
        assert!(device.bar(0).unwrap().window(0..size + 8).is_err());
        let text = device.interrupts(InterruptKind::Msi, 2).unwrap_err().to_string();
        assert_says(&text, &["2 interrupts", "has 1"]);
        assert!(device.interrupts(InterruptKind::Msix, 1).is_err());
        // The device knows no reset of a function, and the root bus none of its own.
        assert_says(&device.reset().unwrap_err().to_string(), &["no reset"]);
    });
}

fn registers_of(device: &Device) -> Window {
    device.bar(0).unwrap().window(0..0x1000).unwrap()
}

#[test]
fn msi_is_signalled_while_connected() {
    with(EDU, |_| {
        let (_transport, device) = open(EDU);
        let registers = registers_of(&device);
        device.set_bus_master(true).unwrap();
        for _ in 0..3 {
            let interrupt = device.interrupts(InterruptKind::Msi, 1).unwrap().remove(0);
            for _ in 0..3 {
                registers.write32(edu::Interrupts::RAISE, 1);
                assert!(interrupt.wait(SECOND).unwrap());
                registers.write32(edu::Interrupts::ACKNOWLEDGE, 1);
            }
            device.disable_interrupts(InterruptKind::Msi).unwrap();
            registers.write32(edu::Interrupts::RAISE, 1);
            assert!(!interrupt.wait(SECOND / 10).unwrap());
            registers.write32(edu::Interrupts::ACKNOWLEDGE, 1);
        }
        device.disable_interrupts(InterruptKind::Msi).unwrap();
    });
}

#[test]
fn intx_is_armed_by_connecting_it() {
    with(EDU, |_| {
        let (_transport, device) = open(EDU);
        let registers = registers_of(&device);
        for _ in 0..3 {
            let interrupt = device.interrupts(InterruptKind::Intx, 1).unwrap().remove(0);
            registers.write32(edu::Interrupts::RAISE, 1);
            assert!(interrupt.wait(SECOND).unwrap());
            registers.write32(edu::Interrupts::ACKNOWLEDGE, 1);
        }
        device.disable_interrupts(InterruptKind::Intx).unwrap();
    });
}

fn contents(arena: &Arena, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    assert_eq!(rustix::io::pread(arena.fd(), &mut bytes[..], offset as u64).unwrap(), len);
    bytes
}

#[test]
fn dma_follows_the_mappings_of_an_arena() {
    const LEN: usize = 2048;
    with(EDU, |_| {
        let (_transport, device) = open(EDU);
        let registers = registers_of(&device);
        device.dma().limit_address_bits(edu::DMA_MASK.count_ones());
        let data = pattern(3, LEN);
        let mut buffer = device.dma_buffer(LEN).unwrap();
        buffer.as_mut_slice().copy_from_slice(&data);
        device.set_bus_master(true).unwrap();
        copy(&registers, buffer.iova(), edu::BUFFER, LEN, false);

        let arena = Arc::new(Arena::new(1).unwrap());
        let memory = device.dma().map(arena.clone()).unwrap();
        let iova = memory.iova();
        copy(&registers, edu::BUFFER, iova, LEN, true);
        assert_eq!(contents(&arena, 0, LEN), data);

        // Without bus mastering nothing is written, though it is mapped.
        memory.buffer(LEN).unwrap().as_mut_slice().fill(7);
        device.set_bus_master(false).unwrap();
        copy(&registers, edu::BUFFER, iova, LEN, true);
        assert_eq!(contents(&arena, 0, LEN), [7; LEN]);
        device.set_bus_master(true).unwrap();

        // What was taken away is out of reach.
        let faults = || kernel_log().matches("DMAR: [DMA Write").count();
        let before = faults();
        drop(memory);
        copy(&registers, edu::BUFFER, iova, LEN, true);
        assert_eq!(contents(&arena, 0, LEN), [7; LEN]);
        assert!(faults() > before, "the IOMMU reported no fault");

        // The end of an arena is the end of what is reached.
        let memory = device.dma().map(arena.clone()).unwrap();
        copy(&registers, buffer.iova(), edu::BUFFER, LEN, false);
        let last = arena.len() - LEN / 2;
        copy(&registers, edu::BUFFER, memory.iova() + last as u64, LEN, true);
        assert_eq!(contents(&arena, last, LEN / 2), data[..LEN / 2]);
        assert_eq!(buffer.as_slice(), data);
    });
}

#[test]
fn addresses_that_cannot_be_mapped_are_refused() {
    with(EDU, |_| {
        let (transport, device) = open(EDU);
        let limits = transport.dma_limits();
        assert_eq!(limits.granule, 4096);
        let msi = 0xfee0_0000;
        assert!(!limits.ranges.iter().any(|range| range.contains(&msi)), "{limits:x?}");
        assert!(limits.ranges.iter().any(|range| range.contains(&(1 << 32))), "{limits:x?}");
        let arena = Arc::new(Arena::new(1).unwrap());
        for iova in [msi, msi - 4096, 4095, 1 << 60, u64::MAX - 4095] {
            assert!(transport.map_dma(&arena, iova).is_err(), "{iova:#x} was mapped");
        }
        let (iova, len) = (1 << 32, arena.len() as u64);
        transport.map_dma(&arena, iova).unwrap();
        let again = transport.map_dma(&arena, iova + 4096).unwrap_err();
        assert_says(&again.to_string(), &["VFIO_IOMMU_MAP_DMA", "0x100001000", "File exists"]);
        transport.unmap_dma(iova, len).unwrap();
        let error = transport.unmap_dma(iova, len).unwrap_err();
        assert!(matches!(error, TransportError::Malformed { .. }), "{error}");
        assert_eq!(device.dma_buffer(4096).unwrap().iova() % 4096, 0);
    });
}

#[test]
fn a_user_without_rights_is_told_what_is_missing() {
    if std::env::var_os(UNPRIVILEGED).is_some() {
        return without_rights();
    }
    with(EDU, |_| {
        // The user may not reach the folders in which this program lies.
        let program = "/run/uniddrv-vm-unprivileged";
        programs::copy(std::env::current_exe().unwrap(), program);
        let run = || {
            let child = Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
                .args(["--bounding-set=-all", "--", program, "--exact", "--nocapture"])
                .arg("vfio::a_user_without_rights_is_told_what_is_missing")
                .env(UNPRIVILEGED, "1")
                .output()
                .unwrap();
            assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
            String::from_utf8_lossy(&child.stdout).into_owned()
        };
        assert_says(&run(), &["refused", "/dev/vfio/", "permission denied", "chown"]);
        let group = fs::read_link(sysfs(EDU, "iommu_group")).unwrap();
        let file = PathBuf::from("/dev/vfio").join(group.file_name().unwrap());
        chown(&file, Some(NOBODY), None).unwrap();
        assert_says(&run(), &["opened", "4096 KiB", "ulimit -l", "mapped below the limit"]);
        chown(&file, Some(0), None).unwrap();
        fs::remove_file(program).unwrap();
    });
}

fn without_rights() {
    let device = match Device::open(&EDU.parse().unwrap()) {
        Ok(device) => device,
        Err(error) => return println!("refused: {error}"),
    };
    println!("opened: {:?}", device.identity().unwrap());
    let limit = Rlimit { current: Some(4 << 20), maximum: Some(4 << 20) };
    setrlimit(Resource::Memlock, limit).unwrap();
    println!("refused: {}", device.dma_buffer(8 << 20).unwrap_err());
    device.dma_buffer(2 << 20).unwrap();
    println!("mapped below the limit");
}

#[test]
fn msix_tables_stay_trapped_and_a_reset_stops_the_controller() {
    with(NULL, |_| {
        let (transport, device) = open(NULL);
        let info = transport.bar(0).unwrap();
        let bar = device.bar(0).unwrap();
        let registers = bar.window(0..0x1000).unwrap();
        assert!(registers.is_mapped() && bar.window(0x1000..0x1008).unwrap().is_mapped());
        // QEMU's table of 65 vectors starts at 0x2000.
        assert!(!bar.window(0x2000..0x2010).unwrap().is_mapped(), "{info:x?}");
        let trapped = Window::trapped(transport, 0, 0, 0x1000);
        assert_eq!(registers.read64(0), trapped.read64(0));
        assert_ne!(registers.read64(0), u64::MAX);
        let vectors = device.interrupt_count(InterruptKind::Msix);
        assert!(vectors > 8, "{vectors} vectors");
        for count in [1, 8, vectors, 2] {
            let interrupts = device.interrupts(InterruptKind::Msix, count).unwrap();
            assert_eq!(interrupts.len(), count as usize);
        }
        device.disable_interrupts(InterruptKind::Msix).unwrap();
        // The controller runs, and no longer does after the reset.
        let ready = || Csts::from_bits(registers.read32(Csts::OFFSET)).rdy();
        let sizes = Aqa::default().with_asqs(31).with_acqs(31);
        let configuration = Cc::default().with_en(true).with_iosqes(6).with_iocqes(4);
        registers.write32(Aqa::OFFSET, sizes.bits());
        registers.write64(Asq::OFFSET, 0x20_0000);
        registers.write64(Acq::OFFSET, 0x20_1000);
        registers.write32(Cc::OFFSET, configuration.bits());
        assert!(ready());
        device.reset().unwrap();
        assert!(!ready());
    });
}

#[test]
fn linux_asks_for_a_device_back() {
    let Some(_guest) = guest() else { return };
    fs::write(sysfs(EDU, "driver_override"), "vfio-pci").unwrap();
    fs::write("/sys/bus/pci/drivers_probe", EDU).unwrap();
    let (transport, device) = open(EDU);
    let request = device.interrupts(InterruptKind::Request, 1).unwrap().remove(0);
    let remover = std::thread::spawn(|| fs::write(sysfs(EDU, "remove"), "1").unwrap());
    assert!(request.wait(10 * SECOND).unwrap(), "nobody asked");
    assert!(!remover.is_finished());
    drop((transport, device));
    remover.join().unwrap();
    assert_says(&refusal(EDU), &["no PCI device"]);
    fs::write("/sys/bus/pci/rescan", "1").unwrap();
    assert_says(&refusal(EDU), &["no driver"]);
}

#[test]
fn opening_and_closing_leaks_nothing() {
    with(EDU, |_| {
        let files = || fs::read_dir("/proc/self/fd").unwrap().count();
        let maps = || fs::read_to_string("/proc/self/maps").unwrap().matches("[vfio").count();
        let before = files();
        for _ in 0..20 {
            let (_transport, device) = open(EDU);
            let _window = registers_of(&device);
            let _buffer = device.dma_buffer(4096).unwrap();
            assert!(maps() > 0);
        }
        assert_eq!((files(), maps()), (before, 0));
    });
}
