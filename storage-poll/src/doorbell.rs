//! Telling the controller that a ring has moved on.

use uniddrv::barrier::{publish_then_ask, publish_to_device};
use uniddrv::{DmaWords, Register32};
use uniddrv_spec::nvme::shadow::needs_doorbell;

/// One doorbell: the register, and its shadow in memory where the controller offers shadow
/// doorbells. NVMe PCIe Transport 1.0 §3.1.2, Base 2.0 §B.5.
pub(crate) struct Doorbell {
    register: Register32,
    shadow: Option<Shadow>,
}

/// An entry of the shadow doorbell buffer and of the event index buffer beside it.
pub(crate) struct Shadow {
    pub(crate) doorbells: std::sync::Arc<ShadowBuffers>,
    pub(crate) index: usize,
    /// The value that was written last.
    pub(crate) last: u16,
}

/// The two pages that Doorbell Buffer Config hands to the controller.
pub(crate) struct ShadowBuffers {
    /// What the host would have written into the doorbells.
    pub(crate) values: DmaWords,
    /// How far the controller wants to be left alone.
    pub(crate) events: DmaWords,
}

impl Doorbell {
    pub(crate) fn new(register: Register32) -> Self {
        Self { register, shadow: None }
    }

    /// From now on, or no longer, through shadow doorbells.
    pub(crate) fn set_shadow(&mut self, shadow: Option<Shadow>) {
        self.shadow = shadow;
    }

    /// Publishes all queue entries written before, and the new value of the ring's index.
    #[inline]
    pub(crate) fn ring(&mut self, value: u16) {
        publish_to_device();
        if let Some(shadow) = &mut self.shadow {
            shadow.doorbells.values.store(shadow.index, u32::from(value));
            publish_then_ask();
            let event = shadow.doorbells.events.load(shadow.index) as u16;
            let asked = needs_doorbell(event, shadow.last, value);
            shadow.last = value;
            if !asked {
                return;
            }
        }
        self.register.write(u32::from(value));
    }

    /// Like [`ring`](Self::ring), and writes the register whatever the shadow says: the admin
    /// queue's rule, and that of a queue whose controller may have missed a value.
    pub(crate) fn ring_register(&mut self, value: u16) {
        publish_to_device();
        if let Some(shadow) = &mut self.shadow {
            shadow.doorbells.values.store(shadow.index, u32::from(value));
            shadow.last = value;
        }
        self.register.write(u32::from(value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::Memory;

    #[test]
    fn without_a_shadow_every_value_goes_to_the_register() {
        let memory = Memory::new();
        let mut doorbell = Doorbell::new(memory.register(16));
        doorbell.ring(1);
        doorbell.ring(2);
        doorbell.ring_register(3);
        assert_eq!(memory.written(), [(16, 1), (16, 2), (16, 3)]);
    }

    #[test]
    fn with_a_shadow_the_register_is_written_when_the_controller_asks() {
        let memory = Memory::new();
        let words = || DmaWords::new(memory.device.dma_buffer(4096).unwrap());
        let buffers = Arc::new(ShadowBuffers { values: words(), events: words() });
        let mut doorbell = Doorbell::new(memory.register(16));
        doorbell.set_shadow(Some(Shadow { doorbells: buffers.clone(), index: 6, last: 0 }));
        // It waits for the first entry, then for none before the fifth.
        doorbell.ring(1);
        assert_eq!(memory.written(), [(16, 1)]);
        buffers.events.store(6, 5);
        for value in 2..=5 {
            doorbell.ring(value);
            assert_eq!(buffers.values.load(6), u32::from(value));
        }
        assert_eq!(memory.written(), []);
        doorbell.ring(7);
        assert_eq!(memory.written(), [(16, 7)]);
        // Around the end of the ring.
        buffers.events.store(6, 0);
        doorbell.ring(8);
        assert_eq!(memory.written(), []);
        doorbell.ring(2);
        assert_eq!(memory.written(), [(16, 2)]);
        doorbell.ring_register(3);
        assert_eq!(memory.written(), [(16, 3)]);
        assert_eq!(buffers.values.load(6), 3);
        // Neighbours are left alone.
        assert_eq!((buffers.values.load(5), buffers.values.load(7)), (0, 0));
        doorbell.set_shadow(None);
        doorbell.ring(4);
        assert_eq!((memory.written(), buffers.values.load(6)), (vec![(16, 4)], 3));
    }
}
