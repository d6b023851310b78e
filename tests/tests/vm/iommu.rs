//! DMA through the IOMMU: what is mapped is reached, what is not is not.

use uniddrv::{Device, Window};
use uniddrv_spec::edu;

use super::{EDU, eventually, guest, pattern};

#[test]
fn dma_outside_the_arena_is_blocked() {
    let Some(guest) = guest() else { return };
    let device = guest.take(EDU);
    device.dma().limit_address_bits(edu::DMA_MASK.count_ones());
    device.set_bus_master(true).unwrap();
    let registers = device.bar(0).unwrap().window(0..edu::BAR_SIZE as u64).unwrap();
    let mut memory = device.dma_buffer(edu::BUFFER_SIZE).unwrap();

    // Into the device, and out of it to another place of the arena.
    let data = pattern(1, edu::BUFFER_SIZE / 2);
    memory.as_mut_slice()[..data.len()].copy_from_slice(&data);
    copy(&registers, memory.iova(), edu::BUFFER, data.len(), false);
    let second_half = memory.iova() + data.len() as u64;
    copy(&registers, edu::BUFFER, second_half, data.len(), true);
    assert_eq!(memory.as_slice()[data.len()..], data);

    // An address that nothing is mapped at: the device gets none of our bytes
    // and the guest, whose physical memory lies there, keeps all of its own.
    let outside = (0..=edu::DMA_MASK)
        .step_by(4 << 20)
        .find(|&address| memory.iova().abs_diff(address) >= 64 << 20)
        .unwrap();
    copy(&registers, outside, edu::BUFFER, data.len(), false);
    copy(&registers, edu::BUFFER, outside, data.len(), true);
    assert_eq!(memory.as_slice()[..data.len()], data);
    assert_eq!(memory.as_slice()[data.len()..], data);

    // The device works on, and what it holds now did not come from the arena.
    copy(&registers, edu::BUFFER, second_half, data.len(), true);
    assert_ne!(memory.as_slice()[data.len()..], data);
    let faults = kernel_log();
    assert!(
        faults.lines().any(|line| line.contains("DMAR") && line.contains("12.0")),
        "the IOMMU reported no fault:\n{faults}"
    );

    drop((memory, registers));
    drop::<Device>(device);
    guest.give_back(EDU);
}

/// Has the device copy `len` bytes and waits until it says that it is done.
pub(super) fn copy(registers: &Window, from: u64, to: u64, len: usize, to_memory: bool) {
    registers.write64(edu::DmaSource::OFFSET, from);
    registers.write64(edu::DmaDestination::OFFSET, to);
    registers.write64(edu::DmaCount::OFFSET, len as u64);
    let command = edu::DmaCommand::default().with_run(true).with_to_memory(to_memory);
    registers.write64(edu::DmaCommand::OFFSET, command.bits());
    eventually("end of the transfer", || {
        let command = edu::DmaCommand::from_bits(registers.read64(edu::DmaCommand::OFFSET));
        (!command.run()).then_some(())
    });
}

pub(super) fn kernel_log() -> String {
    let output = std::process::Command::new("dmesg").output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
