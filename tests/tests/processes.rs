//! The NVMe driver and the NVMe model in processes of their own, over vfio-user.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use storage_poll::{Controller, Options};
use tempfile::TempDir;
use uniddrv::block::{BlockQueue, Operation, Request};
use uniddrv::{Address, Device};

/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A process that serves a model; killed at the end.
struct Served {
    folder: TempDir,
    process: Child,
}

impl Served {
    fn new(parameters: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let process = peer().arg("serve").arg(&socket).arg(parameters).spawn().unwrap();
        Self { folder, process }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Opens the device, as soon as it is served and nobody else has it.
    fn open(&self) -> Device {
        let address = Address::VfioUser(self.socket());
        let end = Instant::now() + PATIENCE;
        loop {
            match Device::open(&address) {
                Ok(device) => return device,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn controller(&self) -> Controller {
        Controller::attach_with(self.open(), Options::default()).unwrap()
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn peer() -> Command {
    Command::new(env!("CARGO_BIN_EXE_peer"))
}

/// Carries out one request.
fn once(controller: &Controller, operation: Operation, data: Option<&[u8]>, len: usize) -> Vec<u8> {
    let nsid = controller.namespaces()[0].nsid();
    let mut queue = controller.block_queue(nsid, 2).unwrap();
    let mut buffer = controller.device().dma_buffer(len).unwrap();
    if let Some(data) = data {
        buffer.as_mut_slice().copy_from_slice(data);
    }
    queue.submit(Request { operation, buffer: Some(buffer), tag: 0 }).map_err(|_| ()).unwrap();
    let mut result = None;
    let end = Instant::now() + PATIENCE;
    while result.is_none() {
        assert!(Instant::now() < end);
        queue.poll(|done| {
            done.result.unwrap();
            result = done.buffer.map(|buffer| buffer.as_slice().to_vec());
        });
    }
    result.unwrap()
}

#[test]
fn data_written_to_another_process_come_back() {
    let served = Served::new("size=8M,backing=ram");
    let controller = served.controller();
    let pattern: Vec<_> = (0..48 << 10).map(|index: u32| (index * 7 / 8) as u8).collect();
    once(&controller, Operation::Write { lba: 5, fua: false }, Some(&pattern), pattern.len());
    let read = once(&controller, Operation::Read { lba: 5 }, None, pattern.len());
    assert!(read == pattern);
    // The next client finds what this one left.
    drop(controller);
    let controller = served.controller();
    let read = once(&controller, Operation::Read { lba: 6 }, None, 512);
    assert!(read == pattern[512..1024]);
}

#[test]
fn doorbells_are_no_messages() {
    let served = Served::new("size=1M");
    let device = served.open();
    let bar = device.bar(0).unwrap();
    let part = bar.mappable().first().unwrap().clone();
    assert_eq!(part.start, 0x1000);
    assert!(bar.window(part).unwrap().is_mapped());
    assert!(!bar.window(0..0x1000).unwrap().is_mapped());
}

#[test]
fn a_server_that_is_killed_ends_every_request_with_an_error() {
    let mut served = Served::new("size=8M,fault=drop=1");
    let controller = served.controller();
    let mut queue = controller.block_queue(1, 16).unwrap();
    for tag in 0..8 {
        let buffer = Some(controller.device().dma_buffer(4096).unwrap());
        let request = Request { operation: Operation::Read { lba: tag }, buffer, tag };
        queue.submit(request).map_err(|_| ()).unwrap();
    }
    queue.poll(|_| panic!("the model drops all"));
    served.kill();
    let mut ended = Vec::new();
    let end = Instant::now() + PATIENCE;
    while ended.len() < 8 {
        assert!(Instant::now() < end, "{ended:?}");
        queue.poll(|done| {
            assert!(done.result.is_err() && done.buffer.is_some());
            ended.push(done.tag);
        });
    }
    ended.sort_unstable();
    assert_eq!(ended, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(controller.device().lost().is_some());
    assert!(controller.smart_log().is_err());
    drop(queue);
    drop(controller);
    // The socket of the dead server does not stand in the way of the next one.
    let socket = served.socket();
    served.process = peer().arg("serve").arg(&socket).arg("size=1M").spawn().unwrap();
    assert_eq!(served.controller().namespaces()[0].blocks(), 2048);
}

#[test]
fn a_driver_that_is_killed_leaves_the_device_to_the_next_one() {
    let served = Served::new("size=8M,backing=ram");
    for _ in 0..3 {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut driver = peer()
                .arg("drive")
                .arg(served.socket())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(driver.stdout.take().unwrap()).read_line(&mut line).unwrap();
            driver.kill().unwrap();
            driver.wait().unwrap();
            // One that comes too early is turned away, and has nothing to say.
            if line == "driving\n" {
                break;
            }
            assert!(Instant::now() < end, "it never drove");
        }
        let controller = served.controller();
        once(&controller, Operation::Read { lba: 0 }, None, 512);
    }
}

#[test]
fn a_second_driver_is_turned_away_and_the_first_goes_on() {
    let served = Served::new("size=8M,backing=ram");
    let controller = served.controller();
    for _ in 0..3 {
        let error = Device::open(&Address::VfioUser(served.socket())).err().unwrap();
        assert!(error.to_string().contains("another client"), "{error}");
        once(&controller, Operation::Read { lba: 0 }, None, 512);
    }
}
