//! QEMU's educational device `edu`. QEMU documentation, `docs/specs/edu`.
//!
//! BAR 0 is 1 MiB of registers. Below offset 0x80 only accesses of 4 bytes are
//! allowed, from there on of 4 or 8. The device copies between memory and a buffer of
//! its own, which has addresses too: [`BUFFER`] and on.

/// PCI vendor ID.
pub const VENDOR: u16 = 0x1234;
/// PCI device ID.
pub const DEVICE: u16 = 0x11e8;
/// Size of BAR 0 in bytes.
pub const BAR_SIZE: usize = 1 << 20;
/// Address of the device's own buffer, as [`DmaSource`] and [`DmaDestination`] take it.
pub const BUFFER: u64 = 0x40000;
/// Size of that buffer in bytes.
pub const BUFFER_SIZE: usize = 4096;
/// Addresses that the device can reach, unless QEMU was told another mask.
pub const DMA_MASK: u64 = (1 << 28) - 1;

bits! {
    /// Identification, read only.
    pub struct Identification(u32) @ 0x00;
    /// The low 16 bits, always [`EDU`](Self::EDU).
    edu / with_edu = [15:0] u16;
    /// Minor version.
    minor / with_minor = [23:16] u8;
    /// Major version.
    major / with_major = [31:24] u8;
}

impl Identification {
    /// What [`edu`](Self::edu) reads as on this device.
    pub const EDU: u16 = 0x00ed;
    /// What QEMU's device says: version 1.0.
    pub const QEMU: Self = Self::from_bits(0x0100_00ed);

    /// Whether this is an `edu` device of some version.
    pub const fn is_edu(self) -> bool {
        self.edu() == Self::EDU
    }
}

bits! {
    /// Card liveness check: reads as the inverse of what was written last.
    pub struct Liveness(u32) @ 0x04;
    /// The value.
    value / with_value = [31:0] u32;
}

impl Liveness {
    /// What reads back after `self` was written.
    #[must_use]
    pub const fn answer(self) -> Self {
        Self::from_bits(!self.bits())
    }
}

bits! {
    /// Factorial computation: takes a number; its factorial, modulo 2^32, stands here
    /// once [`Status::computing`] is clear.
    pub struct Factorial(u32) @ 0x08;
    /// The number, or its factorial.
    value / with_value = [31:0] u32;
}

impl Factorial {
    /// The factorial of `self`, modulo 2^32, as the device computes it.
    #[must_use]
    pub const fn compute(self) -> Self {
        let mut product: u32 = 1;
        let mut factor = self.bits();
        // From 34 on the product has 32 factors of 2, so it is 0.
        if factor > 34 {
            return Self::from_bits(0);
        }
        while factor > 1 {
            product = product.wrapping_mul(factor);
            factor -= 1;
        }
        Self::from_bits(product)
    }
}

bits! {
    /// Status.
    pub struct Status(u32) @ 0x20;
    /// A factorial is being computed; read only.
    computing / with_computing = [0:0] bool;
    /// Raise [`Interrupts::factorial`] when a factorial is done.
    interrupt / with_interrupt = [7:7] bool;
}

bits! {
    /// Interrupt causes: which are raised, at [`STATUS`](Self::STATUS), read only; which
    /// to raise, at [`RAISE`](Self::RAISE); which to clear, at
    /// [`ACKNOWLEDGE`](Self::ACKNOWLEDGE). Each is write only but the first.
    pub struct Interrupts(u32);
    /// A factorial is done.
    factorial / with_factorial = [0:0] bool;
    /// A DMA transfer is done.
    dma / with_dma = [8:8] bool;
}

impl Interrupts {
    /// Offset of the causes that are raised.
    pub const STATUS: usize = 0x24;
    /// Offset of the register that raises those written to it.
    pub const RAISE: usize = 0x60;
    /// Offset of the register that clears those written to it.
    pub const ACKNOWLEDGE: usize = 0x64;
}

bits! {
    /// DMA source address, in memory or in the device's buffer.
    pub struct DmaSource(u64) @ 0x80;
    /// The address.
    address / with_address = [63:0] u64;
}

bits! {
    /// DMA destination address, in memory or in the device's buffer.
    pub struct DmaDestination(u64) @ 0x88;
    /// The address.
    address / with_address = [63:0] u64;
}

bits! {
    /// DMA transfer count.
    pub struct DmaCount(u64) @ 0x90;
    /// How many bytes.
    bytes / with_bytes = [63:0] u64;
}

bits! {
    /// DMA command: written to start; [`run`](Self::run) is set until the transfer is done.
    pub struct DmaCommand(u64) @ 0x98;
    /// Start; running.
    run / with_run = [0:0] bool;
    /// From the device's buffer to memory, not from memory to the buffer.
    to_memory / with_to_memory = [1:1] bool;
    /// Raise [`Interrupts::dma`] when done.
    interrupt / with_interrupt = [2:2] bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_alone() {
        check_fields!(
            Identification,
            Liveness,
            Factorial,
            Status,
            Interrupts,
            DmaSource,
            DmaDestination,
            DmaCount,
            DmaCommand
        );
        assert_eq!(Status::default().with_interrupt(true).bits(), 0x80);
        assert_eq!(Interrupts::default().with_dma(true).bits(), 0x100);
        assert_eq!(DmaCommand::default().with_to_memory(true).bits(), 2);
        assert_eq!(DmaCommand::default().with_interrupt(true).bits(), 4);
    }

    #[test]
    fn qemus_identification() {
        assert!(Identification::QEMU.is_edu());
        assert_eq!((Identification::QEMU.major(), Identification::QEMU.minor()), (1, 0));
        assert!(!Identification::from_bits(u32::MAX).is_edu());
    }

    #[test]
    fn what_the_device_computes() {
        assert_eq!(Liveness::from_bits(0x1234_5678).answer().bits(), 0xedcb_a987);
        for (number, factorial) in [
            (0, 1),
            (1, 1),
            (5, 120),
            (12, 479_001_600),
            (13, 1_932_053_504),
            (34, 0),
            (u32::MAX, 0),
        ] {
            assert_eq!(Factorial::from_bits(number).compute().bits(), factorial, "{number}!");
        }
        assert_ne!(Factorial::from_bits(33).compute().bits(), 0);
    }
}
