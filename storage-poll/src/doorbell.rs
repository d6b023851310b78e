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
