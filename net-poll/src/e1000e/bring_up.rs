//! From whatever state a device is in to one that is ready for queues. §4.6.

use std::thread;
use std::time::{Duration, Instant};

use uniddrv::net::MacAddress;
use uniddrv::{AttachError, Device, Window};
use uniddrv_spec::e1000e::{
    AddressHigh, BAR_SIZE, Causes, ChecksumControl, Counter, DeviceControl, DeviceStatus,
    ReceiveControl, TransmitControl, TransmitGap, offset,
};

use super::{BUFFER, E1000e, Shared, set_link_up};

/// How long a reset may take. §4.6.1 asks for 1 us; the NVM is read afterwards.
const RESET: Duration = Duration::from_millis(100);
/// How long requests on the bus may take to end. §5.2.3.
const QUIET: Duration = Duration::from_millis(100);
/// Registers say nothing yet for so long after a reset. §4.6.1.
const AFTER_RESET: Duration = Duration::from_millis(5);

/// Resets the device and sets up all but its queues. Its MAC address.
pub(super) fn start(device: Device) -> Result<(Shared, MacAddress), AttachError> {
    device.expect_one_of(E1000e::MATCHES)?;
    let registers = device.bar(0)?.window(0..BAR_SIZE as u64)?;
    let shared = Shared { device, registers };
    reset(&shared)?;
    shared.device.disable_intx()?;
    let registers = &shared.registers;
    let mac = address(registers);
    if !mac.is_station() {
        return Err(claim(&shared, format!("its address is {mac}, which is no station's")));
    }
    for word in 0..offset::MTA_WORDS {
        registers.write32(offset::MTA + 4 * word, 0);
    }
    for counter in Counter::ALL {
        registers.read32(counter.offset());
        if counter.is_wide() {
            registers.read32(counter.offset() + 4);
        }
    }
    let receive = ReceiveControl::default()
        .with_long_packets(true)
        .with_broadcast(true)
        .with_strip_crc(true)
        .with_buffer_size(BUFFER)
        .unwrap_or_default();
    registers.write32(ReceiveControl::OFFSET, receive.bits());
    let checksums = ChecksumControl::default().with_ip(true).with_tcp_udp(true);
    registers.write32(ChecksumControl::OFFSET, checksums.bits());
    registers.write32(TransmitGap::OFFSET, TransmitGap::COPPER.bits());
    let transmit = TransmitControl::default()
        .with_pad_short(true)
        .with_collision_threshold(15)
        .with_collision_distance(63);
    registers.write32(TransmitControl::OFFSET, transmit.bits());
    set_link_up(registers);
    shared.device.set_bus_master(true)?;
    Ok((shared, mac))
}

/// Ends all that the device does on the bus.
pub(super) fn stop(shared: &Shared) {
    shared.registers.write32(Causes::CLEAR, u32::MAX);
    shared.registers.write32(ReceiveControl::OFFSET, 0);
    shared.registers.write32(TransmitControl::OFFSET, 0);
    if let Err(error) = reset(shared) {
        tracing::warn!(%error, "the device may go on with DMA until it is let go");
    }
    if let Err(error) = shared.device.set_bus_master(false) {
        tracing::debug!(%error, "bus mastering stays on");
    }
}

fn reset(shared: &Shared) -> Result<(), AttachError> {
    let registers = &shared.registers;
    registers.write32(Causes::CLEAR, u32::MAX);
    shared.change(DeviceControl::OFFSET, |bits| {
        DeviceControl::from_bits(bits).with_master_disable(true).bits()
    });
    let quiet = wait(QUIET, || {
        !DeviceStatus::from_bits(registers.read32(DeviceStatus::OFFSET)).master_enabled()
    });
    if !quiet {
        // The reset ends them, if less well.
        tracing::debug!("requests on the bus have not ended before the reset");
    }
    let control = DeviceControl::from_bits(registers.read32(DeviceControl::OFFSET));
    registers.write32(DeviceControl::OFFSET, control.with_reset(true).bits());
    thread::sleep(AFTER_RESET);
    let done =
        wait(RESET, || !DeviceControl::from_bits(registers.read32(DeviceControl::OFFSET)).reset());
    if !done {
        if let Some(reason) = shared.device.lost() {
            return Err(claim(shared, reason));
        }
        let address = shared.device.address().clone();
        return Err(AttachError::Timeout { address, what: "a reset", limit: RESET });
    }
    registers.write32(Causes::CLEAR, u32::MAX);
    registers.read32(Causes::CAUSES);
    Ok(())
}

fn wait(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_micros(50));
    }
    true
}

fn address(registers: &Window) -> MacAddress {
    let high = AddressHigh::from_bits(registers.read32(AddressHigh::OFFSET));
    let low = registers.read32(offset::RAL);
    MacAddress::from_words([low as u16, (low >> 16) as u16, high.address()])
}

fn claim(shared: &Shared, claim: String) -> AttachError {
    AttachError::Device { address: shared.device.address().clone(), claim }
}
