//! What a user may choose.

use std::time::Duration;

/// How a controller is to be driven. `Options::default()` suits most.
#[derive(Clone, Debug)]
pub struct Options {
    /// I/O queue pairs to ask the controller for; it may grant fewer.
    pub queues: u16,
    /// How long a command may take before it is aborted.
    pub timeout: Duration,
    /// How long an aborted command may take to end before the controller is reset, and how
    /// long an admin command may take that is no format.
    pub admin_timeout: Duration,
    /// The most bytes that one command moves; less where the controller takes less.
    pub max_transfer: usize,
    /// Whether SGLs are used where the controller takes them.
    pub sgl: bool,
    /// Whether shadow doorbells are used where the controller offers them. Only emulated
    /// controllers do, to save the host exits from its virtual machine; one doorbell for a batch
    /// saves more of them, and the controller looks at shadows for each command. On QEMU's,
    /// without them a queue of 32 is three times as fast (docs/benchmarks.md).
    pub shadow_doorbells: bool,
    /// Whether queues have an interrupt that [`IoQueue::wait`](crate::IoQueue::wait) sleeps on.
    pub interrupts: bool,
    /// How long a wait spins before it sleeps.
    pub spin: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 64,
            timeout: Duration::from_secs(30),
            admin_timeout: Duration::from_secs(5),
            max_transfer: 4 << 20,
            sgl: true,
            shadow_doorbells: false,
            interrupts: false,
            spin: Duration::from_micros(50),
        }
    }
}
