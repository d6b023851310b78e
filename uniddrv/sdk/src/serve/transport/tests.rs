use std::os::fd::AsFd;
use std::thread::JoinHandle;

use super::*;
use crate::control::pair;
use crate::shared;
use crate::{Address, Device};

const WINDOW: BarWindow = BarWindow { bar: 0, start: 0x1000, len: 0x3000, offset: 0x2000 };

/// A device behind a worker that gives `answers` and is gone then. What it was asked comes back.
fn held(answers: Vec<FromDevice>) -> (Arc<Held>, OwnedFd, JoinHandle<Vec<ToDevice>>) {
    let file = shared::create("bar", 0x8000).unwrap();
    let (worker, device) = pair().unwrap();
    let thread = std::thread::spawn(move || {
        let mut worker = Control::new(worker);
        let mut asked = Vec::new();
        for answer in answers {
            asked.push(worker.receive_within(PATIENCE).unwrap().0);
            worker.send(&answer, &[]).unwrap();
        }
        asked
    });
    let held = Held::new(device, &[(WINDOW, file.as_fd())], 0x10_0000..0x30_0000).unwrap();
    (Arc::new(held), file, thread)
}

#[test]
fn the_worker_is_asked_for_what_is_not_mapped() {
    let (held, _file, asked) = held(vec![
        FromDevice::Data(vec![1, 2, 3, 4]),
        FromDevice::Done,
        FromDevice::Data(vec![9; 8]),
        FromDevice::Done,
        FromDevice::Done,
        FromDevice::Lost(None),
        FromDevice::Lost(Some("unplugged".into())),
    ]);
    let mut data = [0; 4];
    held.read_config(4, &mut data).unwrap();
    assert_eq!(data, [1, 2, 3, 4]);
    held.write_config(4, &[6, 4]).unwrap();
    let mut data = [0; 8];
    held.read_bar(0, 8, &mut data).unwrap();
    assert_eq!(data, [9; 8]);
    held.write_bar(0, 0x14, &[1, 0, 0, 0]).unwrap();
    held.reset().unwrap();
    assert_eq!((held.lost(), held.lost()), (None, Some("unplugged".into())));
    // What it gives no answer to any more.
    assert!(held.lost().unwrap().contains("does not answer"));
    let expected = [
        ToDevice::ReadConfig { offset: 4, len: 4 },
        ToDevice::WriteConfig { offset: 4, data: vec![6, 4] },
        ToDevice::ReadBar { bar: 0, offset: 8, len: 8 },
        ToDevice::WriteBar { bar: 0, offset: 0x14, data: vec![1, 0, 0, 0] },
        ToDevice::Reset,
        ToDevice::Lost,
        ToDevice::Lost,
    ];
    assert_eq!(asked.join().unwrap(), expected);
}

#[test]
fn windows_are_mapped_and_nothing_else() {
    let (held, file, _) = held(vec![FromDevice::Bar { size: 0x4000 }, FromDevice::Bar { size: 0 }]);
    let info = held.bar(0).unwrap();
    assert_eq!((info.size, info.mappable.len()), (0x4000, 1));
    assert_eq!(info.mappable[0], 0x1000..0x4000);
    assert_eq!(held.bar(1).unwrap(), BarInfo::default());
    // Known, and beyond all.
    assert_eq!(held.bar(0).unwrap().size, 0x4000);
    assert_eq!(held.bar(6).unwrap(), BarInfo::default());
    for outside in [0..0x2000, 0x3000..0x5000, 0x2000..0x2000, 0x1000..u64::MAX] {
        assert!(held.map_bar(0, outside).is_err());
    }
    let backwards = std::ops::Range { start: 0x3000, end: 0x2000 };
    assert!(held.map_bar(0, backwards).is_err());
    assert!(held.map_bar(1, 0x1000..0x2000).is_err());

    let space = crate::dma::DmaSpace::new(held.clone());
    let device = Device::held(held, space, "model:test".parse::<Address>().unwrap());
    let bar = device.bar(0).unwrap();
    let window = bar.window(0x2008..0x2010).unwrap();
    assert!(window.is_mapped());
    assert!(
        !bar.window(0..8).unwrap().is_mapped() && !bar.window(0xff8..0x1008).unwrap().is_mapped()
    );
    window.write64(0, 77);
    // 0x2008 in the BAR is 0x3008 in the file.
    let other = Mapping::populated(file.as_fd(), 0x3000, 0x1000).unwrap();
    let other = crate::Window::mapped(Arc::new(other), 0, 0x1000).unwrap();
    assert_eq!(other.read64(8), 77);
}

#[test]
fn answers_that_do_not_fit_are_errors() {
    let (held, ..) = held(vec![
        FromDevice::Data(vec![1]),
        FromDevice::Data(vec![0; 5]),
        FromDevice::Data(vec![7; 100_000]),
        FromDevice::Done,
        FromDevice::Data(Vec::new()),
        FromDevice::Done,
        FromDevice::Bar { size: 0x2000 },
        FromDevice::Refused { gone: false, text: "not that register".into() },
        FromDevice::Refused { gone: true, text: "it fell off".into() },
        FromDevice::Bar { size: 0 },
    ]);
    for _ in 0..4 {
        let error = held.read_config(0, &mut [0; 4]).unwrap_err();
        assert!(matches!(error, TransportError::Malformed { .. }));
        assert!(error.to_string().len() < 300, "{error}");
    }
    let malformed = |result| matches!(result, Err(TransportError::Malformed { .. }));
    assert!(malformed(held.reset()));
    assert!(malformed(held.bar(0).map(drop)));
    assert!(malformed(held.bar(0).map(drop)), "smaller than what is mapped of it");
    let refused = held.write_bar(0, 0, &[0; 4]).unwrap_err();
    assert!(matches!(refused, TransportError::Unsupported(_)));
    assert!(refused.to_string().contains("not that register"), "{refused}");
    let gone = held.write_bar(0, 0, &[0; 4]).unwrap_err();
    assert!(matches!(gone, TransportError::Gone { .. }));
    assert!(held.lost().is_some());
}

#[test]
fn after_garbage_or_a_hang_up_nothing_is_asked() {
    let file = shared::create("bar", 0x8000).unwrap();
    for garbage in [true, false] {
        let (worker, device) = pair().unwrap();
        if garbage {
            rustix::net::send(&worker, &[0xff; 9], rustix::net::SendFlags::empty()).unwrap();
        }
        let held = Held::new(device, &[(WINDOW, file.as_fd())], 0..0x20_0000).unwrap();
        if !garbage {
            drop(worker);
            assert!(matches!(held.reset(), Err(TransportError::Gone { .. })));
            assert!(matches!(held.reset(), Err(TransportError::Gone { .. })));
            continue;
        }
        assert!(matches!(held.reset(), Err(TransportError::Gone { .. })));
        let mut worker = Control::new(worker);
        assert_eq!(worker.receive::<ToDevice>().unwrap().unwrap().0, ToDevice::Reset);
        assert!(held.lost().is_some() && held.read_config(0, &mut [0; 4]).is_err());
        assert!(worker.receive::<ToDevice>().unwrap().is_none(), "it was asked again");
    }
}

#[test]
fn what_only_the_core_does_is_refused() {
    let (held, ..) = held(Vec::new());
    assert_eq!(held.kind(), TransportKind::Held);
    assert_eq!(held.dma_limits().ranges, [0x10_0000..=0x2f_ffff]);
    assert!(held.map_dma(&Arc::new(Arena::new(1).unwrap()), 0).is_err());
    assert!(held.unmap_dma(0, 1).is_err());
    assert_eq!(held.interrupts(InterruptKind::Msix), 0);
    held.set_interrupts(InterruptKind::Msix, &[]).unwrap();
    let file = shared::create("event", 1).unwrap();
    assert!(held.set_interrupts(InterruptKind::Msix, &[file.as_fd()]).is_err());
    for len in [0, 3, 8, 16] {
        assert!(held.read_config(0, &mut vec![0; len]).is_err());
        assert!(held.write_config(0, &vec![0; len]).is_err());
    }
    for len in [0, 3, 16] {
        assert!(held.read_bar(0, 0, &mut vec![0; len]).is_err());
        assert!(held.write_bar(0, 0, &vec![0; len]).is_err());
    }
}

/// A window whose file becomes shorter reads as a device that is gone.
#[test]
fn a_window_that_goes_away_reads_as_ones() {
    let file = rustix::fs::memfd_create("bar", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 0x8000).unwrap();
    let (_worker, device) = pair().unwrap();
    let held = Held::new(device, &[(WINDOW, file.as_fd())], 0..0x20_0000).unwrap();
    let part = held.map_bar(0, 0x2000..0x3000).unwrap();
    let window = crate::Window::mapped(part, 0, 0x1000).unwrap();
    window.write32(4, 5);
    rustix::fs::ftruncate(&file, 0).unwrap();
    assert_eq!(window.read32(4), u32::MAX);
}
