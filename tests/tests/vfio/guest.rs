//! The checks that run in the virtual machine, as root, on devices at known addresses.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use uniddrv::{
    Address, Arena, Device, InterruptKind, PciAddress, Transport, TransportError, TransportKind,
    Window, vfio,
};
use uniddrv_spec::edu;

const NVME: &str = "0000:00:11.0";
const EDU: &str = "0000:00:12.0";
const DATA_NVME: &str = "0000:00:10.0";

const SECOND: Duration = Duration::from_secs(1);
const NOBODY: u32 = 65_534;

type Check = (&'static str, fn());

const CHECKS: &[Check] = &[
    ("refusals say why", refusals),
    ("a group with a foreign member is refused", foreign_member),
    ("a device is opened once at a time", opened_once),
    ("registers, mapped and trapped", registers),
    ("impossible requests are errors", impossible),
    ("MSI", msi),
    ("INTx", intx),
    ("DMA reaches arenas, and nothing else", dma),
    ("addresses that cannot be mapped are refused", addresses),
    ("an unprivileged user", unprivileged),
    ("MSI-X tables stay trapped, a function is reset", msix_and_reset),
    ("Linux asks for a device back", asked_back),
    ("open and close again and again", again_and_again),
];

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|(name, _)| *name)
}

pub(super) fn check_all() {
    for (name, check) in CHECKS {
        check();
        println!("checked: {name}");
    }
}

fn pci(address: &str) -> PciAddress {
    address.parse().unwrap()
}

fn sysfs(address: &str, file: &str) -> PathBuf {
    PathBuf::from("/sys/bus/pci/devices").join(address).join(file)
}

fn bind(address: &str) {
    let driver = sysfs(address, "driver");
    if driver.exists() {
        fs::write(driver.join("unbind"), address).unwrap();
    }
    fs::write(sysfs(address, "driver_override"), "vfio-pci").unwrap();
    fs::write("/sys/bus/pci/drivers_probe", address).unwrap();
    assert!(fs::read_link(driver).unwrap().ends_with("vfio-pci"));
}

fn open(address: &str) -> (Arc<dyn Transport>, Device) {
    let transport = vfio::open(pci(address)).unwrap();
    let device = Device::new(transport.clone(), Address::Pci(pci(address)));
    (transport, device)
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

fn refusals() {
    assert_says(&refusal("0000:00:1e.0"), &["0000:00:1e.0", "no PCI device", "uniddrv list"]);
    assert_says(&refusal(EDU), &["no driver", "`uniddrv bind 0000:00:12.0`"]);
    let text = refusal(DATA_NVME);
    assert_says(&text, &["Linux's driver nvme", "`uniddrv bind 0000:00:10.0`"]);
}

fn foreign_member() {
    let (first, second) = ("0000:01:00.0", "0000:02:00.0");
    bind(first);
    let text = refusal(first);
    assert_says(&text, &["IOMMU group", "0000:02:00.0 (e1000e)"]);
    assert!(!text.contains("pcieport"), "bridges are no obstacle: {text}");
    bind(second);
    open(first);
}

fn opened_once() {
    bind(EDU);
    let held = open(EDU);
    assert_says(&refusal(EDU), &["/dev/vfio/", "another process"]);
    drop(held);
    open(EDU);
}

fn registers() {
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
        assert_eq!(window.read32(edu::Identification::OFFSET), edu::Identification::QEMU.bits());
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
}

fn impossible() {
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
}

fn registers_of(device: &Device) -> Window {
    device.bar(0).unwrap().window(0..0x1000).unwrap()
}

fn msi() {
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
}

fn intx() {
    let (_transport, device) = open(EDU);
    let registers = registers_of(&device);
    // Linux masks the pin when it fires; connecting it again arms it again.
    for _ in 0..3 {
        let interrupt = device.interrupts(InterruptKind::Intx, 1).unwrap().remove(0);
        registers.write32(edu::Interrupts::RAISE, 1);
        assert!(interrupt.wait(SECOND).unwrap());
        registers.write32(edu::Interrupts::ACKNOWLEDGE, 1);
    }
    device.disable_interrupts(InterruptKind::Intx).unwrap();
}

/// One transfer between the device's memory and an I/O virtual address.
fn transfer(registers: &Window, iova: u64, len: u64, to_memory: bool) {
    let (source, destination) = if to_memory { (edu::BUFFER, iova) } else { (iova, edu::BUFFER) };
    registers.write64(edu::DmaSource::OFFSET, source);
    registers.write64(edu::DmaDestination::OFFSET, destination);
    registers.write64(edu::DmaCount::OFFSET, len);
    let command = edu::DmaCommand::default().with_run(true).with_to_memory(to_memory);
    registers.write64(edu::DmaCommand::OFFSET, command.bits());
    let deadline = Instant::now() + 5 * SECOND;
    while edu::DmaCommand::from_bits(registers.read64(edu::DmaCommand::OFFSET)).run() {
        assert!(Instant::now() < deadline, "a transfer never ends");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn contents(arena: &Arena, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    assert_eq!(rustix::io::pread(arena.fd(), &mut bytes[..], 0).unwrap(), len);
    bytes
}

fn faults() -> usize {
    let log = Command::new("dmesg").output().unwrap().stdout;
    String::from_utf8_lossy(&log).matches("DMAR: [DMA ").count()
}

fn dma() {
    const LEN: usize = 2048;
    let (_transport, device) = open(EDU);
    let registers = registers_of(&device);
    device.dma().limit_address_bits(28);
    let pattern: Vec<u8> = (0..LEN).map(|index| (index * 7 + index / 256) as u8).collect();
    let mut buffer = device.dma_buffer(LEN).unwrap();
    buffer.as_mut_slice().copy_from_slice(&pattern);
    device.set_bus_master(true).unwrap();
    transfer(&registers, buffer.iova(), LEN as u64, false);

    let arena = Arc::new(Arena::new(1).unwrap());
    let memory = device.dma().map(arena.clone()).unwrap();
    let iova = memory.iova();
    transfer(&registers, iova, LEN as u64, true);
    assert_eq!(contents(&arena, LEN), pattern);

    // Without bus mastering nothing is written, though it is mapped.
    memory.buffer(LEN).unwrap().as_mut_slice().fill(7);
    device.set_bus_master(false).unwrap();
    transfer(&registers, iova, LEN as u64, true);
    assert_eq!(contents(&arena, LEN), [7; LEN]);
    device.set_bus_master(true).unwrap();

    // What was taken away is out of reach, and so is what never was given.
    let before = faults();
    drop(memory);
    transfer(&registers, iova, LEN as u64, true);
    assert_eq!(contents(&arena, LEN), [7; LEN]);
    transfer(&registers, 0x800_0000, LEN as u64, true);
    transfer(&registers, 0x800_0000, LEN as u64, false);
    assert!(faults() > before, "the IOMMU reported no fault");

    // The end of an arena is the end of what is reached.
    let memory = device.dma().map(arena.clone()).unwrap();
    transfer(&registers, buffer.iova(), LEN as u64, false);
    let last = memory.iova() + arena.len() as u64 - 1024;
    transfer(&registers, last, LEN as u64, true);
    let mut end = [0; 1024];
    rustix::io::pread(arena.fd(), &mut end, arena.len() as u64 - 1024).unwrap();
    assert_eq!(end[..], pattern[..1024]);
    assert_eq!(buffer.as_slice(), pattern);
}

fn addresses() {
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
}

/// Runs `check_unprivileged` as a user who may do nothing; root gives it the group half way.
fn unprivileged() {
    let program = "/run/vfio-unprivileged";
    fs::copy(std::env::current_exe().unwrap(), program).unwrap();
    let run = || {
        let child = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
            .args(["--bounding-set=-all", "--"])
            .arg(program)
            .args(["--exact", "vfio_drives_qemus_devices", "--nocapture"])
            .env(super::PLACE, "unprivileged")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        String::from_utf8_lossy(&child.stdout).into_owned()
    };
    let text = run();
    assert_says(&text, &["refused", "/dev/vfio/", "permission denied", "chown"]);
    let group = fs::read_link(sysfs(EDU, "iommu_group")).unwrap();
    let file = PathBuf::from("/dev/vfio").join(group.file_name().unwrap());
    chown(&file, Some(NOBODY), None).unwrap();
    let text = run();
    assert_says(&text, &["opened", "4096 KiB", "ulimit -l", "mapped below the limit"]);
    chown(&file, Some(0), None).unwrap();
    fs::remove_file(program).unwrap();
}

pub(super) fn check_unprivileged() {
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

fn msix_and_reset() {
    bind(NVME);
    let (transport, device) = open(NVME);
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
        assert_eq!(device.interrupts(InterruptKind::Msix, count).unwrap().len(), count as usize);
    }
    device.disable_interrupts(InterruptKind::Msix).unwrap();
    // AQA, ASQ, ACQ, CC: the controller runs, and no longer does after the reset.
    let csts = || registers.read32(0x1c);
    registers.write32(0x24, 0x001f_001f);
    registers.write64(0x28, 0x20_0000);
    registers.write64(0x30, 0x20_1000);
    registers.write32(0x14, 0x0046_0001);
    assert_eq!(csts(), 1);
    device.reset().unwrap();
    assert_eq!(csts(), 0);
}

fn asked_back() {
    let (transport, device) = open(EDU);
    let request = device.interrupts(InterruptKind::Request, 1).unwrap().remove(0);
    let remover = std::thread::spawn(|| fs::write(sysfs(EDU, "remove"), "1").unwrap());
    assert!(request.wait(10 * SECOND).unwrap(), "nobody asked");
    assert!(!remover.is_finished());
    drop((transport, device));
    remover.join().unwrap();
    assert_says(&refusal(EDU), &["no PCI device"]);
    fs::write("/sys/bus/pci/rescan", "1").unwrap();
    bind(EDU);
}

fn again_and_again() {
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
}
