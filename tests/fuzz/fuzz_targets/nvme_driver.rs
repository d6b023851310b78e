//! The NVMe driver against a controller that goes by the fuzzer's script: whatever that does,
//! each command that was accepted ends exactly once and gives its buffer back.
#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use storage_poll::{Controller, Options};
use uniddrv::{Device, Driver};
use uniddrv_fuzz::Input;
use uniddrv_fuzz::nvme::Hostile;

const COMMANDS: usize = 24;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let [choices, depth, count] = [input.byte(), input.byte(), input.byte()];
    let operations = input.take(usize::from(count) % (COMMANDS + 1)).to_vec();
    let transport = Arc::new(Hostile::new(input.take(600)));
    let device = Device::new(transport, "model:hostile".parse().expect("an address"));
    let options = Options {
        queues: 2,
        timeout: Duration::from_millis(1),
        admin_timeout: Duration::from_millis(2),
        max_transfer: 64 << 10,
        sgl: choices & 1 != 0,
        shadow_doorbells: choices & 2 != 0,
        ..Options::default()
    };
    let Ok(mut controller) = Controller::attach_with(device, options) else { return };
    let Some(namespace) = controller.namespaces().first().cloned() else { return };
    let device = controller.device().dma().clone();
    let Ok(mut queue) = controller.io_queue(usize::from(depth % 40) + 1) else { return };
    let mut pending = [None; COMMANDS];
    let end = Instant::now() + Duration::from_secs(10);
    for (tag, &operation) in operations.iter().enumerate() {
        let (lba, blocks) = (u64::from(operation) * 4, u32::from(operation % 32) + 1);
        let command = match operation % 5 {
            0 => namespace.read(lba, blocks),
            1 => namespace.write(lba, blocks, false),
            2 => Ok(namespace.flush()),
            3 => namespace.write_zeroes(lba, blocks, true),
            _ => namespace.compare(lba, blocks),
        };
        let Ok(command) = command else { continue };
        let moves_data = !matches!(operation % 5, 2 | 3);
        let buffer = if moves_data {
            let Ok(buffer) = device.buffer(32 * 512) else { continue };
            Some(buffer)
        } else {
            None
        };
        if queue.submit(&command, buffer, tag as u64).is_ok() {
            pending[tag] = Some(moves_data);
        }
        if operation > 0xc0 {
            collect(&mut queue, &mut pending);
        }
    }
    let _ = controller.smart_log();
    let _ = controller.error_log(3);
    let _ = controller.changed_namespaces();
    let _ = controller.poll();
    let _ = controller.take_events();
    let _ = controller.rescan();
    while pending.iter().any(Option::is_some) {
        assert!(Instant::now() < end, "commands that never end: {pending:?}");
        collect(&mut queue, &mut pending);
        std::hint::spin_loop();
    }
    assert_eq!(queue.in_flight(), 0);
    assert!(queue.poll().is_none());
});

/// Takes what has ended, and checks that it was on its way.
fn collect(queue: &mut storage_poll::IoQueue, pending: &mut [Option<bool>]) {
    while let Some(ended) = queue.poll() {
        let slot = pending.get_mut(ended.tag as usize).expect("a tag that was submitted");
        let moves_data = slot.take().expect("a command that ended before");
        assert_eq!(ended.buffer.is_some(), moves_data);
    }
}
