//! Real devices as the core holds them: with a worker each.

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use uniddrv::control::{Control, pair};
use uniddrv::sysfs::Sysfs;
use uniddrv::{Arena, TransportKind};
use uniddrv_abi::message::{FromDevice, ToDevice};
use uniddrv_core::device::{Assignments, DeviceId, DriverId, Event, Settings, Token, Worker};
use uniddrv_spec::nvme::registers::{Cc, DOORBELLS, Vs};

use super::{DATA, EDU, Guest, eventually, guest};

/// Two NICs in one IOMMU group.
const PAIR: [&str; 2] = ["0000:01:00.0", "0000:02:00.0"];
const PATIENCE: Duration = Duration::from_secs(30);
const COMMAND: u32 = 4;
const MEMORY: u16 = 2;
const BUS_MASTER: u16 = 4;

struct Held {
    worker: Worker,
    events: Receiver<(DeviceId, Event)>,
}

impl Held {
    fn new(guest: &Guest, address: &str) -> Self {
        guest.bind(address);
        let (sender, events) = channel();
        let settings = Settings::new(1, "/tmp".into());
        let address = address.parse().unwrap();
        let worker = Worker::spawn(DeviceId(0), address, &settings, || {}, sender).unwrap();
        worker.open();
        Self { worker, events }
    }

    fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).unwrap().1
    }

    fn close(&self) {
        self.worker.close();
        while !matches!(self.next(), Event::Closed) {}
    }
}

fn ask(driver: &mut Control, question: &ToDevice) -> FromDevice {
    driver.ask(question, PATIENCE).unwrap().0
}

fn command(driver: &mut Control) -> u16 {
    match ask(driver, &ToDevice::ReadConfig { offset: COMMAND, len: 2 }) {
        FromDevice::Data(data) => u16::from_le_bytes(data.try_into().unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_controller_is_driven_through_its_worker_and_fenced() {
    let Some(guest) = guest() else { return };
    let held = Held::new(&guest, DATA);
    let event = held.next();
    let Event::Opened(opened) = event else { panic!("{event:?}") };
    assert_eq!((opened.identity.class, opened.transport), (0x01_0802, TransportKind::Vfio));
    // QEMU's MSI-X table is at 0x2000: the doorbells before it are alone in their page.
    let [(window, _)] = &opened.windows[..] else { panic!("{opened:?}") };
    assert_eq!((window.bar, window.start, window.len), (0, DOORBELLS as u64, 4096));

    let (ours, theirs) = pair().unwrap();
    let mut driver = Control::new(ours);
    held.worker.serve(DriverId(1), theirs);
    held.worker.activate(DriverId(1));
    let before = command(&mut driver);
    assert_eq!(before & (MEMORY | BUS_MASTER), MEMORY);
    let version = ToDevice::ReadBar { bar: 0, offset: Vs::OFFSET as u64, len: 4 };
    let FromDevice::Data(version) = ask(&mut driver, &version) else { panic!() };
    assert_eq!(Vs::from_bits(u32::from_le_bytes(version.try_into().unwrap())).major(), 1);
    let table = ToDevice::ReadBar { bar: 0, offset: 0x2000, len: 4 };
    assert!(matches!(ask(&mut driver, &table), FromDevice::Refused { gone: false, .. }));
    assert!(matches!(held.next(), Event::Refused { .. }));
    let data = (before | BUS_MASTER).to_le_bytes().to_vec();
    let on = ToDevice::WriteConfig { offset: COMMAND, data };
    assert_eq!(ask(&mut driver, &on), FromDevice::Done);
    assert_eq!(command(&mut driver) & BUS_MASTER, BUS_MASTER);
    let data = 0x0046_0000u32.to_le_bytes().to_vec();
    let write = ToDevice::WriteBar { bar: 0, offset: Cc::OFFSET as u64, data };
    assert_eq!(ask(&mut driver, &write), FromDevice::Done);

    held.worker.fence();
    let event = held.next();
    assert!(matches!(event, Event::Fenced(Ok(()))), "{event:?}");
    assert!(matches!(ask(&mut driver, &on), FromDevice::Refused { gone: false, .. }));
    assert!(matches!(held.next(), Event::Refused { .. }));
    held.worker.reset();
    let event = held.next();
    assert!(matches!(event, Event::WasReset(Ok(()))), "{event:?}");
    held.worker.activate(DriverId(1));
    assert_eq!(command(&mut driver) & BUS_MASTER, 0);

    let arenas: Vec<_> = (0..3).map(|_| Arc::new(Arena::new(1).unwrap())).collect();
    let mut iovas = vec![opened.arena_iova];
    for (token, arena) in (0..).zip(&arenas) {
        held.worker.map(arena.clone(), Token(token));
        let event = held.next();
        let Event::Mapped { iova, .. } = event else { panic!("{event:?}") };
        assert!(!iovas.contains(&iova));
        iovas.push(iova);
    }
    held.worker.unmap(Token(1));
    assert!(matches!(held.next(), Event::Unmapped { token: Token(1), kept: None }));
    held.close();
    assert!(arenas.iter().all(|arena| Arc::strong_count(arena) == 1));
    // Nothing holds the device any more.
    drop(opened);
    guest.give_back(DATA);
    assert_eq!(guest.driver(DATA).as_deref(), Some("nvme"));
}

#[test]
fn a_device_that_linux_removes_is_let_go_at_once() {
    let Some(guest) = guest() else { return };
    let held = Held::new(&guest, EDU);
    assert!(matches!(held.next(), Event::Opened(_)));
    // The write returns once nobody has the device any more.
    let remove = format!("/sys/bus/pci/devices/{EDU}/remove");
    let removal = thread::spawn(move || fs::write(remove, "1").unwrap());
    let event = held.next();
    assert!(
        matches!(&event, Event::Lost { reason } if reason.contains("Linux wants")),
        "{event:?}"
    );
    let begin = Instant::now();
    held.close();
    removal.join().unwrap();
    assert!(begin.elapsed() < PATIENCE);
    assert!(!fs::exists(format!("/sys/bus/pci/devices/{EDU}")).unwrap());
    fs::write("/sys/bus/pci/rescan", "1").unwrap();
    eventually("edu device", || guest.linux.function(super::pci(EDU)).ok());
    guest.give_back(EDU);
}

#[test]
fn a_group_of_two_is_not_split() {
    let Some(_guest) = guest() else { return };
    let [first, second] = PAIR;
    let mut assignments = Assignments::new(Sysfs::new("/"));
    let address = |text: &str| text.parse().unwrap();
    let text = assignments.assign(&address(first), "net:0").unwrap_err().to_string();
    assert!(text.contains(second) && text.contains("e1000e"), "{text}");
}
