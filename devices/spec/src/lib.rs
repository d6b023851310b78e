//! Registers, commands and structures of the standards, used by drivers and by
//! software models alike, so that each goes both ways: set and get, build and
//! parse.
//!
//! * [`nvme`]: NVM Express Base 2.0 and NVM Command Set 1.0
//! * [`e1000e`]: Intel 82574L
//! * [`edu`]: QEMU's educational device
//! * [`pci`]: configuration space of PCI and PCI Express
//!
//! A register, a command dword or a byte of flags is a newtype over its raw
//! integer: `from_bits` and `bits` convert, each field has a getter and a `with_`
//! setter that keeps the low bits that fit in the field. Structures in memory are
//! `repr(C)`, little-endian whatever the machine, of the size the standard gives,
//! and convert from and to bytes with `zerocopy`. No value read from a device or
//! a peer makes anything here panic: what is not known stays a number.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

#[macro_use]
mod bits;
pub mod e1000e;
pub mod edu;
pub mod nvme;
pub mod pci;
