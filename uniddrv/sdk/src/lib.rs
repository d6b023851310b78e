//! The SDK of uniddrv: everything that the author of a user-space driver uses.
//!
//! | module | what it holds |
//! |---|---|
//! | [`address`] | how a person names a device |
//! | [`device`] | a device: configuration space, BARs, interrupts, DMA memory |
//! | [`window`] | register access, mapped or trapped |
//! | [`arena`], [`dma`], [`ring`] | memory that a device may reach |
//! | [`iova`] | where it lies for the device |
//! | [`barrier`] | the order of memory accesses between the CPU and a device |
//! | [`driver`], [`block`] | the traits of drivers and of the block service |
//! | [`net`] | packets, and the traits of network ports and their queues |
//! | [`client`] | programs that use a device by its name, through the core |
//! | [`control`], [`shared`] | messages and memory between processes |
//! | [`serve`] | drivers as processes of their own |
//! | [`peer`] | who is at the other end of a socket |
//! | [`transport`] | what a transport provides; [`vfio`] and [`vfio_user`] do |
//! | [`process`] | spawning processes into namespaces, and watching them |
//! | [`sysfs`] | PCI functions as Linux sees them; taking them and giving them back |
//!
//! Unsafe code lives in `mapping`, `window`, `dma`, `ring`, `net::packet`, `shared`, `sigbus`,
//! `clock`, `peer`, `process`, `serve::crash` and `vfio::ioctl` and nowhere else.

pub mod address;
pub mod arena;
pub mod barrier;
pub mod block;
pub mod client;
#[expect(unsafe_code)]
pub mod clock;
pub mod control;
pub mod device;
#[expect(unsafe_code)]
pub mod dma;
pub mod driver;
pub mod interrupt;
pub mod iova;
#[expect(unsafe_code)]
pub mod mapping;
pub mod net;
#[expect(unsafe_code)]
pub mod peer;
#[expect(unsafe_code)]
pub mod process;
#[expect(unsafe_code)]
pub mod ring;
pub mod serve;
#[expect(unsafe_code)]
pub mod shared;
#[expect(unsafe_code)]
pub mod sigbus;
pub mod sysfs;
pub mod transport;
pub mod vfio;
pub mod vfio_user;
#[expect(unsafe_code)]
pub mod window;

pub use address::{Address, PciAddress};
pub use arena::Arena;
pub use device::{Device, OpenError};
pub use dma::{DmaBuf, DmaError};
pub use driver::{AttachError, Driver, Match, Progress};
pub use interrupt::{Interrupt, InterruptKind};
pub use ring::{DmaRing, DmaWords};
pub use transport::{Transport, TransportError, TransportKind};
pub use window::{Register32, Window};
