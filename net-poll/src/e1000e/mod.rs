//! Intel 82574L. Section numbers are those of its datasheet, revision 3.4.

mod bring_up;
mod queue;
mod receive;
mod transmit;

use std::sync::Arc;

use uniddrv::dma::DmaSpace;
use uniddrv::net::{Link, PacketPool, Port, PortError, PortInfo, Reception};
use uniddrv::{AttachError, Device, Match, Window};
use uniddrv_spec::e1000e::{
    DEVICE, DeviceControl, DeviceStatus, MOST_DESCRIPTORS, MOST_FRAME, ReceiveControl, VENDOR,
};

pub use queue::Queue;

/// How long the buffers are that the device is told of, in bytes.
const BUFFER: usize = 2_048;
/// Queues that are used.
const QUEUES: usize = 1;

/// A port of an 82574L. The device is stopped when this and its queues are dropped.
pub struct E1000e {
    shared: Arc<Shared>,
    info: PortInfo,
    running: [bool; QUEUES],
}

/// What the port and its queues have in common.
pub(crate) struct Shared {
    pub(crate) device: Device,
    pub(crate) registers: Window,
}

impl E1000e {
    /// The devices that this drives.
    pub const MATCHES: &'static [Match] = &[Match::device(VENDOR, DEVICE)];

    /// Takes a device and brings it up. It neither sends nor receives before a queue is started.
    ///
    /// # Errors
    /// When it is another device, or does not come up.
    pub fn attach(device: Device) -> Result<Self, AttachError> {
        let (shared, mac) = bring_up::start(device)?;
        let info = PortInfo {
            model: "Intel 82574L",
            mac,
            queues: QUEUES,
            most_descriptors: MOST_DESCRIPTORS.min(1 << 12),
            most_frame: MOST_FRAME,
            verifies_checksums: true,
            inserts_checksums: true,
        };
        Ok(Self { shared: Arc::new(shared), info, running: [false; QUEUES] })
    }
}

impl Shared {
    /// Changes a register.
    pub(crate) fn change(&self, offset: usize, change: impl FnOnce(u32) -> u32) {
        self.registers.write32(offset, change(self.registers.read32(offset)));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Memory is about to go that the device was told of.
        bring_up::stop(self);
    }
}

impl Port for E1000e {
    type Queue = Queue;

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn link(&mut self) -> Link {
        let bits = self.shared.registers.read32(DeviceStatus::OFFSET);
        let status = DeviceStatus::from_bits(bits);
        if bits == u32::MAX || !status.link_up() {
            return Link::default();
        }
        let megabits = status.speed().megabits();
        Link { up: true, megabits, full_duplex: status.full_duplex() }
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        self.shared.device.dma()
    }

    fn start_queue(
        &mut self,
        number: usize,
        descriptors: usize,
        pool: PacketPool,
    ) -> Result<Queue, PortError> {
        let no = |why: String| Err(PortError::Queue(why));
        let Some(running) = self.running.get_mut(number) else {
            return no(format!("there is no queue {number}: the port has {QUEUES}"));
        };
        if *running {
            return no(format!("queue {number} was started before"));
        }
        let most = self.info.most_descriptors;
        if !(8..=most).contains(&descriptors) || !descriptors.is_multiple_of(8) {
            return no(format!("{descriptors} descriptors: 8 to {most} are possible, in eights"));
        }
        if pool.room() < BUFFER {
            return no(format!("packets of {} bytes: {BUFFER} are needed", pool.room()));
        }
        if !pool.is_of(self.shared.device.dma()) {
            return no("the packets are in memory of another device".into());
        }
        let queue = Queue::start(&self.shared, number, descriptors, pool)?;
        *running = true;
        Ok(queue)
    }

    fn set_reception(&mut self, reception: Reception) {
        self.shared.change(ReceiveControl::OFFSET, |bits| {
            ReceiveControl::from_bits(bits)
                .with_all_unicast(reception.promiscuous)
                .with_all_multicast(reception.promiscuous || reception.all_multicast)
                .bits()
        });
    }
}

/// Has the device's link come up.
fn set_link_up(registers: &Window) {
    let control = DeviceControl::from_bits(registers.read32(DeviceControl::OFFSET))
        .with_set_link_up(true)
        .with_detect_speed(true)
        .with_force_speed(false)
        .with_force_duplex(false)
        .with_receive_flow_control(false)
        .with_transmit_flow_control(false)
        .with_vlan(false);
    registers.write32(DeviceControl::OFFSET, control.bits());
}
